//! Sums of tensors, and scaling and shifting of planes.

use super::cpu::sum::{ScaleShift, Scaled, Sum};
use super::cpu::takes;
use super::graph;
use candle_core::{Result, Tensor, bail};

/// (a + b) · `scale`, the sum of a residual connection; a `scale` below 1 can preserve the variance.
///
/// # Shapes
/// `a` and `b` with equal shapes; the result has the same shape.
///
/// # Errors
/// The shapes differ.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::add};
/// let (a, b) = (Tensor::new(&[1f32, 2.0], &Device::Cpu)?, Tensor::new(&[3f32, 4.0], &Device::Cpu)?);
/// assert_eq!(add(&a, &b, 0.5)?.to_vec1::<f32>()?, [2.0, 3.0]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn add(a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    if a.dims() != b.dims() {
        bail!("add: a has shape {:?} and b {:?}; they must be equal", a.dims(), b.dims())
    }
    if takes(&[a, b]) {
        return graph::apply("add", Sum { scale: scale as f32 }, [a, b]);
    }
    let sum = (a + b)?;
    if scale == 1.0 { Ok(sum) } else { sum * scale }
}

/// x · `by`.
///
/// # Shapes
/// Any; the result has the shape of `x`.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::scale};
/// assert_eq!(scale(&Tensor::new(&[1f32, 2.0], &Device::Cpu)?, 0.5)?.to_vec1::<f32>()?, [0.5, 1.0]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn scale(x: &Tensor, by: f64) -> Result<Tensor> {
    match takes(&[x]) {
        true => graph::apply("scale", Scaled(by as f32), [x]),
        false => x * by,
    }
}

/// x · `scale` + `shift` with one value of each per channel and image: feature-wise linear modulation (FiLM)
/// ([Perez et al. 2018](https://arxiv.org/abs/1709.07871)).
///
/// # Shapes
/// `x` (B, C, …); `scale` and `shift` (B, C); the result has the shape of `x`.
///
/// # Errors
/// The shapes do not match.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::scale_shift};
/// let x = Tensor::new(&[[[1f32, 2.0], [3.0, 4.0]]], &Device::Cpu)?;
/// let (scale, shift) = (Tensor::new(&[[1f32, 10.0]], &Device::Cpu)?, Tensor::new(&[[0f32, 0.5]], &Device::Cpu)?);
/// assert_eq!(scale_shift(&x, &scale, &shift)?.to_vec3::<f32>()?, [[[1.0, 2.0], [30.5, 40.5]]]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn scale_shift(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let &[batch, channels, ..] = x.dims() else {
        bail!("scale_shift: x has shape {:?}; it must have at least two dimensions, (B, C, …)", x.dims())
    };
    for (name, given) in [("scale", scale), ("shift", shift)] {
        if given.dims() != [batch, channels] {
            bail!(
                "scale_shift: x has shape {:?} and {name} {:?}; {name} must have shape [{batch}, {channels}]",
                x.dims(),
                given.dims()
            )
        }
    }
    if x.elem_count() > 0 && takes(&[x, scale, shift]) {
        return graph::apply("scale_shift", ScaleShift, [x, scale, shift]);
    }
    let mut per_row = vec![1; x.rank()];
    (per_row[0], per_row[1]) = (batch, channels);
    x.broadcast_mul(&scale.reshape(per_row.as_slice())?)?.broadcast_add(&shift.reshape(per_row)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::compare::compare;
    use crate::ops::gradients::{check, random};

    #[test]
    fn gradients_agree_with_central_differences() -> Result<()> {
        for shape in [vec![1, 1], vec![3, 2, 5], vec![2, 3, 2, 3]] {
            let (a, b) = (random(1, shape.as_slice())?, random(2, shape.as_slice())?);
            let rows = [a.clone(), random(3, (shape[0], shape[1]))?, random(4, (shape[0], shape[1]))?];
            for scale in [1.0, 0.3] {
                let sum = |x: &[Tensor]| add(&x[0], &x[1], scale);
                check("add", &[a.clone(), b.clone()], sum)?;
                compare("add", &[a.clone(), b.clone()], 1e-6, sum)?;
            }
            let half = |x: &[Tensor]| scale(&x[0], 0.5);
            check("scale", &rows[..1], half)?;
            compare("scale", &rows[..1], 1e-6, half)?;
            let line = |x: &[Tensor]| scale_shift(&x[0], &x[1], &x[2]);
            check("scale_shift", &rows, line)?;
            compare("scale_shift", &rows, 1e-5, line)?;
        }
        let turned = |x: &[Tensor]| {
            let turned = x[0].transpose(1, 2)?.narrow(1, 1, 3)?;
            add(&add(&turned, &turned, 2.0)?, &turned, 1.0)
        };
        let inputs = [random(3, (3, 40, 500))?];
        compare("transposed, narrowed and twice", &inputs, 1e-6, turned)
    }

    #[test]
    fn errors_name_wrong_shapes() -> Result<()> {
        let (x, rows, row) = (random(1, (2, 3, 4))?, random(2, (2, 3))?, random(3, 3)?);
        for (message, wants) in [
            (add(&x, &rows, 1.0).unwrap_err(), "add: a has shape [2, 3, 4] and b [2, 3]"),
            (scale_shift(&x, &row, &rows).unwrap_err(), "and scale [3]; scale must have shape [2, 3]"),
            (scale_shift(&x, &rows, &x).unwrap_err(), "and shift [2, 3, 4]"),
            (scale_shift(&row, &row, &row).unwrap_err(), "scale_shift: x has shape [3]"),
        ] {
            assert!(message.to_string().contains(wants), "{message} lacks {wants:?}");
        }
        Ok(())
    }
}
