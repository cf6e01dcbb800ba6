//! Upsampling to twice the height and width.

use super::cpu::{planes::Planes, takes};
#[cfg(feature = "cuda")]
use super::cuda;
use super::{four, graph};
use candle_core::{Result, Tensor};

/// Nearest-neighbour upsampling: y\[…, i, j\] = x\[…, ⌊i/2⌋, ⌊j/2⌋\].
///
/// # Shapes
/// `x` (B, C, H, W); the result is (B, C, 2H, 2W).
///
/// # Errors
/// The shapes do not match.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::upsample_nearest2x};
/// let y = upsample_nearest2x(&Tensor::new(&[[[[1f32, 2.0]]]], &Device::Cpu)?)?;
/// assert_eq!(y.squeeze(0)?.squeeze(0)?.to_vec2::<f32>()?, [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = four("upsample_nearest2x", "x", x)?;
    #[cfg(feature = "cuda")]
    if cuda::device::takes(x, &[]) {
        return cuda::device::upsample_nearest2x(x);
    }
    if takes(&[x]) {
        return graph::apply("upsample_nearest2x", Planes::Nearest2x, [x]);
    }
    // The gradient of candle's `upsample_nearest2d` overwrites that from other uses of x.
    x.reshape((b, c, h, 1, w, 1))?.broadcast_as((b, c, h, 2, w, 2))?.reshape((b, c, 2 * h, 2 * w))
}

/// Bilinear upsampling: along each axis y\[2i\] = ¾ x\[i\] + ¼ x\[i−1\] and y\[2i+1\] = ¾ x\[i\] + ¼ x\[i+1\], where
/// pixels beyond the edge equal those at the edge.
///
/// It equals `F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)` in PyTorch.
///
/// # Shapes
/// `x` (B, C, H, W); the result is (B, C, 2H, 2W).
///
/// # Errors
/// The shapes do not match.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::upsample_bilinear2x};
/// let y = upsample_bilinear2x(&Tensor::new(&[[[[0f32, 4.0]]]], &Device::Cpu)?)?;
/// assert_eq!(y.squeeze(0)?.squeeze(0)?.to_vec2::<f32>()?, [[0.0, 1.0, 3.0, 4.0], [0.0, 1.0, 3.0, 4.0]]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn upsample_bilinear2x(x: &Tensor) -> Result<Tensor> {
    four("upsample_bilinear2x", "x", x)?;
    if takes(&[x]) {
        return graph::apply("upsample_bilinear2x", Planes::Bilinear2x, [x]);
    }
    linear2x(&linear2x(x, 2)?, 3)
}

fn linear2x(x: &Tensor, dim: usize) -> Result<Tensor> {
    let n = x.dim(dim)?;
    let at = |start: usize, len: usize| x.narrow(dim, start, len);
    let (before, after) = match n {
        1 => (x.clone(), x.clone()),
        _ => (Tensor::cat(&[at(0, 1)?, at(0, n - 1)?], dim)?, Tensor::cat(&[at(1, n - 1)?, at(n - 1, 1)?], dim)?),
    };
    let near = (x * 0.75)?;
    let even = (&near + (before * 0.25)?)?;
    let odd = (&near + (after * 0.25)?)?;
    let mut shape = x.dims().to_vec();
    shape[dim] = 2 * n;
    Tensor::stack(&[even, odd], dim + 1)?.reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::arch::each;
    use crate::ops::cpu::compare::compare;
    use crate::ops::gradients::{check, random};

    #[test]
    fn gradients_agree_with_central_differences() -> Result<()> {
        for upsample in [upsample_nearest2x, upsample_bilinear2x] {
            for shape in [[1, 1, 1, 1], [3, 1, 2, 3], [1, 2, 1, 5], [2, 3, 4, 3]] {
                check(&format!("{shape:?}"), &[random(1, shape.as_slice())?], |x| upsample(&x[0]))?;
            }
            let x = [random(2, (2, 4, 2, 3))?];
            check("transposed and narrowed", &x, |x| upsample(&x[0].transpose(1, 3)?.narrow(3, 1, 2)?))?;
            check("twice, and beside itself", &x, |x| {
                let y = upsample(&x[0])?;
                (upsample(&x[0])? * y.sqr()?)? + upsample(&(&x[0] * 2.0)?)?
            })?;
        }
        Ok(())
    }

    #[test]
    fn kernels_agree_with_the_compositions() -> Result<()> {
        for upsample in [upsample_nearest2x, upsample_bilinear2x] {
            for shape in [[1, 1, 1, 1], [3, 1, 2, 3], [1, 2, 1, 5], [2, 3, 19, 17], [3, 40, 28, 28]] {
                let x = [random(1, shape.as_slice())?];
                compare(&format!("{shape:?}"), &x, 1e-6, |x| upsample(&x[0]))?;
            }
            let x = [random(2, (2, 4, 5, 3))?];
            compare("transposed, narrowed and twice", &x, 1e-6, |x| {
                let x = x[0].transpose(1, 3)?.narrow(3, 1, 2)?;
                upsample(&x)? + upsample(&x.transpose(2, 3)?.contiguous()?)?.transpose(2, 3)?
            })?;
        }
        Ok(())
    }

    /// Linear ramps are preserved, except at the edge.
    #[test]
    fn bilinear_keeps_a_ramp() -> Result<()> {
        each(|| {
            let ramp: Vec<f64> = (0..5).map(|i| i as f64).collect();
            let x = Tensor::from_vec(ramp, (1, 1, 1, 5), &candle_core::Device::Cpu)?;
            let y = upsample_bilinear2x(&x.broadcast_as((1, 1, 3, 5))?)?;
            assert_eq!(y.dims(), &[1, 1, 6, 10]);
            for row in y.reshape((6, 10))?.to_vec2::<f64>()? {
                let want: Vec<f64> = (0..10).map(|j| ((f64::from(j) - 0.5) / 2.0).clamp(0.0, 4.0)).collect();
                assert_eq!(row, want);
            }
            Ok(())
        })
    }

    #[test]
    fn errors_name_wrong_shapes() -> Result<()> {
        let x = random(1, (3, 4, 4))?;
        for (op, message) in [
            ("upsample_nearest2x", upsample_nearest2x(&x).unwrap_err()),
            ("upsample_bilinear2x", upsample_bilinear2x(&x).unwrap_err()),
        ] {
            let message = message.to_string();
            let wants = format!("{op}: x has shape [3, 4, 4]");
            assert!(message.contains(&wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
