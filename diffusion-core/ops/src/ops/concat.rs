//! Concatenation along the channels.

use super::cpu::concat::Concat;
use super::cpu::takes;
use super::graph;
use candle_core::{Result, Tensor, bail};

/// Concatenates the channels of `a` and `b`, as for the skip connections of a U-Net.
///
/// # Shapes
/// `a` (B, C, …) and `b` (B, D, …), at least two dimensions, equal except for the second; the result is (B, C + D, …).
///
/// # Errors
/// The shapes do not match, or the types differ.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::concat_channels};
/// let (a, b) = (Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu)?, Tensor::new(&[[5f32], [6.0]], &Device::Cpu)?);
/// assert_eq!(concat_channels(&a, &b)?.to_vec2::<f32>()?, [[1.0, 2.0, 5.0], [3.0, 4.0, 6.0]]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn concat_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let same = |i: usize| a.dims()[i] == b.dims()[i];
    if a.rank() < 2 || a.rank() != b.rank() || !(0..a.rank()).all(|i| i == 1 || same(i)) {
        bail!(
            "concat_channels: a has shape {:?} and b {:?}; all dimensions except the second must be equal",
            a.dims(),
            b.dims()
        )
    }
    if takes(&[a, b]) && a.elem_count() > 0 && b.elem_count() > 0 {
        return graph::apply("concat_channels", Concat, [a, b]);
    }
    Tensor::cat(&[a, b], 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::compare::compare;
    use crate::ops::gradients::{check, random};

    #[test]
    fn gradients_agree_with_central_differences() -> Result<()> {
        for (a, b) in [(vec![1, 1], vec![1, 2]), (vec![3, 2, 5], vec![3, 1, 5]), (vec![2, 1, 2, 3], vec![2, 3, 2, 3])] {
            let inputs = [random(1, a.as_slice())?, random(2, b.as_slice())?];
            let f = |x: &[Tensor]| concat_channels(&x[0], &x[1]);
            check(&format!("{a:?} and {b:?}"), &inputs, f)?;
            compare(&format!("{a:?} and {b:?}"), &inputs, 1e-6, f)?;
        }
        let inputs = [random(3, (3, 4, 5))?];
        let turned = |x: &[Tensor]| {
            let turned = x[0].transpose(1, 2)?.narrow(1, 1, 3)?;
            concat_channels(&concat_channels(&turned, &turned)?, &x[0].transpose(1, 2)?)
        };
        check("transposed, narrowed and twice", &inputs, turned)?;
        compare("transposed, narrowed and twice", &inputs, 1e-6, turned)
    }

    #[test]
    fn errors_name_wrong_shapes() -> Result<()> {
        let (x, row) = (random(1, (2, 3, 4, 4))?, random(2, 3)?);
        for (a, b) in [
            (&x, random(2, (2, 3, 4, 5))?),
            (&x, random(2, (1, 3, 4, 4))?),
            (&x, random(2, (2, 3, 4))?),
            (&row, random(2, 3)?),
        ] {
            let message = concat_channels(a, &b).unwrap_err().to_string();
            let wants = format!("concat_channels: a has shape {:?} and b {:?}", a.dims(), b.dims());
            assert!(message.contains(&wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
