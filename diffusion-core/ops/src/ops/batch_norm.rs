//! Batch normalisation.

use super::cpu::norm::{Norm, Over};
use super::cpu::{read, takes};
use super::graph;
use super::half::{half, wide};
use super::norm::standardize;
use super::{Activation, one_per_channel};
use candle_core::{Result, Tensor, bail};

/// The mean and variance of each channel.
#[derive(Clone, Debug)]
pub struct Moments {
    /// The mean μ, (C,).
    pub mean: Tensor,
    /// The variance σ² = Σ (x − μ)² / N, (C,).
    pub variance: Tensor,
}

/// Batch normalisation ([Ioffe & Szegedy 2015](https://arxiv.org/abs/1502.03167), algorithm 1) followed by
/// `activation`; also returns the mean and variance, as constants.
///
/// Over the N elements of each channel in all images, x̂ = (x − μ) / √(σ² + `eps`) with σ² = Σ (x − μ)² / N, and y =
/// `activation`(weight · x̂ + bias).
///
/// # Shapes
/// `x` (B, C, …); `weight` and `bias` (C,); the result has the shape of `x`.
///
/// # Errors
/// The shapes do not match, or `x` is empty.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{DType, Device, Tensor}, ops::{Activation, batch_norm}, rng::Rng};
/// let x = Rng::new(0).randn((2, 8, 5, 5), &Device::Cpu)?;
/// let (ones, zeros) = (Tensor::ones(8, DType::F32, &Device::Cpu)?, Tensor::zeros(8, DType::F32, &Device::Cpu)?);
/// let (y, found) = batch_norm(&x, &ones, &zeros, 1e-5, Activation::None)?;
/// assert!(y.mean((0, 2, 3))?.abs()?.max(0)?.to_scalar::<f32>()? < 1e-6);
/// assert_eq!(found.mean.dims(), &[8]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn batch_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Activation,
) -> Result<(Tensor, Moments)> {
    let channels = check("batch_norm", x, &[("weight", weight), ("bias", bias)])?;
    if let Some(half) = half(x) {
        let (y, found) = batch_norm(&wide(x)?, weight, bias, eps, activation)?;
        return Ok((y.to_dtype(half)?, found));
    }
    if takes(&[x, weight, bias]) {
        let (kernel, found) = Norm::new(Over::Batch, eps, activation);
        let y = graph::apply("batch_norm", kernel, [x, weight, bias])?;
        let found = found.get().map_or(&[][..], Vec::as_slice);
        let tensor = |of: fn(&[f64; 2]) -> f64| {
            let values: Vec<f32> = found.iter().map(|m| of(m) as f32).collect();
            Tensor::from_vec(values, channels, x.device())
        };
        let moments = Moments { mean: tensor(|m| m[0])?, variance: tensor(|m| m[1])? };
        return Ok((y, moments));
    }
    let rows = x.transpose(0, 1)?.flatten_from(1)?;
    let mean = rows.detach().mean(1)?;
    let centred = rows.detach().broadcast_sub(&mean.unsqueeze(1)?)?;
    let variance = centred.sqr()?.mean(1)?;
    let mut turned = x.dims().to_vec();
    turned.swap(0, 1);
    let normal = standardize(&rows, eps)?.reshape(turned)?.transpose(0, 1)?;
    let y = affine(&normal, weight, bias, activation)?;
    Ok((y, Moments { mean, variance }))
}

/// [`batch_norm`] with a given mean and variance, for example running statistics; the result for an image then does not
/// depend on the batch.
///
/// # Shapes
/// See [`batch_norm`].
///
/// # Errors
/// See [`batch_norm`].
pub fn batch_norm_with(
    x: &Tensor,
    moments: &Moments,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let Moments { mean, variance } = moments;
    let of_channels = [("weight", weight), ("bias", bias), ("mean", mean), ("variance", variance)];
    check("batch_norm_with", x, &of_channels)?;
    if let Some(half) = half(x) {
        let y = batch_norm_with(&wide(x)?, moments, weight, bias, eps, activation)?;
        return y.to_dtype(half);
    }
    if takes(&[x, weight, bias, mean, variance]) {
        let moments = read([mean, variance], |[mean, variance]| {
            mean.iter().zip(variance).map(|(m, v)| [f64::from(*m), f64::from(*v)]).collect()
        })?;
        let kernel = Norm::with(moments, Over::Batch, eps, activation);
        return graph::apply("batch_norm_with", kernel, [x, weight, bias]);
    }
    let rstd = (variance.detach() + eps)?.sqrt()?.recip()?;
    let normal =
        x.broadcast_sub(&per_channel(&mean.detach(), x.rank())?)?.broadcast_mul(&per_channel(&rstd, x.rank())?)?;
    affine(&normal, weight, bias, activation)
}

fn affine(normal: &Tensor, weight: &Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
    let y = normal
        .broadcast_mul(&per_channel(weight, normal.rank())?)?
        .broadcast_add(&per_channel(bias, normal.rank())?)?;
    activation.apply(&y)
}

/// Reshapes (C,) to (1, C, 1, …).
fn per_channel(x: &Tensor, rank: usize) -> Result<Tensor> {
    let mut shape = vec![1; rank];
    shape[1] = x.elem_count();
    x.reshape(shape)
}

/// Checks the shapes and returns the number of channels.
fn check(op: &str, x: &Tensor, of_channels: &[(&str, &Tensor)]) -> Result<usize> {
    let &[_, channels, ..] = x.dims() else {
        bail!("{op}: x has shape {:?}; it must have at least two dimensions, (B, C, …)", x.dims())
    };
    if x.elem_count() == 0 {
        bail!("{op}: x has shape {:?}; no dimension may be 0", x.dims())
    }
    for vector in of_channels {
        one_per_channel(op, *vector, channels, ("x", x))?;
    }
    Ok(channels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::arch::each;
    use crate::ops::cpu::compare::compare;
    use crate::ops::gradients::{check, random};

    const ACTIVATIONS: [Activation; 4] = [Activation::None, Activation::Silu, Activation::Gelu, Activation::Relu];

    /// x, weight, bias, mean, variance.
    fn inputs(shape: &[usize]) -> Result<[Tensor; 5]> {
        let c = shape[1];
        Ok([
            ((random(1, shape)? * 2.0)? + 3.0)?,
            random(2, c)?,
            random(3, c)?,
            (random(4, c)? + 3.0)?,
            (random(5, c)?.sqr()? + 0.5)?,
        ])
    }

    fn with(x: &[Tensor], given: &[Tensor], activation: Activation) -> Result<Tensor> {
        let to = |t: &Tensor| t.to_dtype(x[0].dtype());
        let moments = Moments { mean: to(&given[3])?, variance: to(&given[4])? };
        batch_norm_with(&x[0], &moments, &x[1], &x[2], 1e-5, activation)
    }

    #[test]
    fn gradients_agree_with_central_differences() -> Result<()> {
        for shape in [vec![1, 1, 3, 5], vec![3, 4, 1, 2], vec![5, 3], vec![2, 2, 7]] {
            let given = inputs(&shape)?;
            for activation in ACTIVATIONS {
                let what = format!("{shape:?}, {activation:?}");
                check(&what, &given[..3], |x| Ok(batch_norm(&x[0], &x[1], &x[2], 1e-5, activation)?.0))?;
                check(&what, &given[..3], |x| with(x, &given, activation))?;
            }
        }
        Ok(())
    }

    /// One channel per thread and many, rows shorter than a vector and longer than a piece of work.
    #[test]
    fn kernel_agrees_with_the_composition() -> Result<()> {
        for shape in [
            vec![1, 1, 3, 5],
            vec![9, 4],
            vec![3, 4, 3, 2],
            vec![2, 65, 8, 8],
            vec![7, 5, 16, 16],
            vec![3, 40, 1, 1],
            vec![2, 2, 70, 71],
        ] {
            let given = inputs(&shape)?;
            for activation in ACTIVATIONS {
                let what = format!("{shape:?}, {activation:?}");
                compare(&what, &given[..3], 1e-5, |x| Ok(batch_norm(&x[0], &x[1], &x[2], 1e-5, activation)?.0))?;
                compare(&what, &given[..3], 1e-5, |x| with(x, &given, activation))?;
            }
        }
        let given = [random(4, (3, 6, 5, 4))?, random(5, (2, 2))?];
        compare("transposed, narrowed and twice", &given, 4e-6, |x| {
            let (weight, bias) = (x[1].t()?.flatten_all()?, x[1].flatten_all()?);
            let x = x[0].transpose(1, 3)?.narrow(2, 1, 3)?;
            let (y, _) = batch_norm(&x, &weight, &bias, 1e-5, Activation::Silu)?;
            y + batch_norm(&x, &bias, &weight, 1e-3, Activation::None)?.0
        })
    }

    /// Also around a mean of 1000, where the squares would lose all digits.
    #[test]
    fn moments_are_computed_per_channel() -> Result<()> {
        each(|| {
            let x = ((random(1, (4, 3, 5, 6))? * 1e-2)? + 1000.0)?.to_dtype(candle_core::DType::F32)?;
            let exact = x.to_dtype(candle_core::DType::F64)?;
            let one = Tensor::ones(3, x.dtype(), x.device())?;
            let (_, ours) = batch_norm(&x, &one, &one, 1e-5, Activation::None)?;
            let rows = exact.transpose(0, 1)?.flatten_from(1)?;
            let mean = rows.mean_keepdim(1)?;
            let variance = rows.broadcast_sub(&mean)?.sqr()?.mean(1)?.to_vec1::<f64>()?;
            let mean = mean.flatten_all()?.to_vec1::<f64>()?;
            for c in 0..3 {
                let (m, v) = (ours.mean.get(c)?.to_scalar::<f32>()?, ours.variance.get(c)?.to_scalar::<f32>()?);
                assert!((f64::from(m) - mean[c]).abs() < 1e-4, "{m} {}", mean[c]);
                assert!((f64::from(v) / variance[c] - 1.0).abs() < 1e-5, "{v} {}", variance[c]);
            }
            Ok(())
        })
    }

    #[test]
    fn errors_name_wrong_shapes() -> Result<()> {
        let (x, short, row) = (random(1, (2, 3, 4, 4))?, random(2, 2)?, random(3, 3)?);
        let none = Activation::None;
        let moments = Moments { mean: row.clone(), variance: short.clone() };
        for (message, wants) in [
            (
                batch_norm(&x, &short, &row, 1e-5, none).unwrap_err(),
                "batch_norm: weight has shape [2] and x [2, 3, 4, 4]",
            ),
            (batch_norm(&row, &row, &row, 1e-5, none).unwrap_err(), "batch_norm: x has shape [3]"),
            (batch_norm(&x.narrow(0, 0, 0)?, &row, &row, 1e-5, none).unwrap_err(), "x has shape [0, 3, 4, 4]"),
            (
                batch_norm_with(&x, &moments, &row, &row, 1e-5, none).unwrap_err(),
                "batch_norm_with: variance has shape [2]",
            ),
        ] {
            let message = message.to_string();
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
