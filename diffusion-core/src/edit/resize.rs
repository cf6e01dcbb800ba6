//! Changing the resolution of images.

use crate::ops::avg_pool2d;
use candle_core::{DType, Device, Result, Tensor, bail};
use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma};

/// The interpolation of [`enlarge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Nearest neighbour.
    Nearest,
    /// Linear interpolation between the nearest two pixels, in each direction.
    Bilinear,
    /// The Catmull–Rom cubic through the nearest four pixels, in each direction.
    Bicubic,
}

/// Downsamples images: each pixel is the mean of a `factor`×`factor` square.
///
/// # Shapes
/// `x` (B, C, H, W); the result is (B, C, H/`factor`, W/`factor`).
///
/// # Errors
/// `factor` does not divide height and width.
pub fn reduce(x: &Tensor, factor: usize) -> Result<Tensor> {
    match x.dims() {
        [_, _, h, w] if factor > 0 && h.is_multiple_of(factor) && w.is_multiple_of(factor) => avg_pool2d(x, factor),
        other => {
            bail!("reduce: the images have shape {other:?}; it must be (B, C, H, W) with H and W divisible by {factor}")
        }
    }
}

/// Upsamples images by interpolation, the baseline for super-resolution networks.
///
/// # Shapes
/// `x` (B, C, H, W), in \[−1, 1\]; the result is (B, C, `factor`·H, `factor`·W), in \[−1, 1\], f32 on the same device.
///
/// # Errors
/// The shape is wrong, or `factor` is 0 or so large that a side exceeds 16384.
///
/// ```
/// use diffusion_core::{candle::{Device, Tensor}, edit::{Filter, enlarge}};
/// let x = Tensor::new(&[[[[-1f32, 1.0]]]], &Device::Cpu)?;
/// let row = |filter| enlarge(&x, 2, filter)?.get(0)?.get(0)?.get(0)?.to_vec1::<f32>();
/// assert_eq!(row(Filter::Nearest)?, [-1.0, -1.0, 1.0, 1.0]);
/// assert_eq!(row(Filter::Bilinear)?, [-1.0, -0.5, 0.5, 1.0]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn enlarge(x: &Tensor, factor: usize, filter: Filter) -> Result<Tensor> {
    let [b, c, h, w] = *x.dims() else { bail!("enlarge: the images have shape {:?}, not (B, C, H, W)", x.dims()) };
    let most = super::mask::MAX_SIDE;
    let (rows, columns) = (h.saturating_mul(factor), w.saturating_mul(factor));
    if !(1..=most).contains(&rows) || !(1..=most).contains(&columns) {
        bail!("enlarge: factor = {factor} for {h}×{w} images; the result must be 1 … {most} pixels high and wide")
    }
    let kind = match filter {
        Filter::Nearest => FilterType::Nearest,
        Filter::Bilinear => FilterType::Triangle,
        Filter::Bicubic => FilterType::CatmullRom,
    };
    // The image crate expects values in 0 … 1, and clips to them.
    let unit = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let values = unit.affine(0.5, 0.5)?.flatten_all()?.to_vec1::<f32>()?;
    let mut enlarged = Vec::with_capacity(b * c * rows * columns);
    for plane in values.chunks_exact(h * w) {
        let plane = ImageBuffer::<Luma<f32>, _>::from_raw(w as u32, h as u32, plane.to_vec());
        let Some(plane) = plane else { bail!("enlarge: {h}×{w} is too large") };
        enlarged.extend_from_slice(resize(&plane, columns as u32, rows as u32, kind).as_raw());
    }
    Tensor::from_vec(enlarged, (b, c, rows, columns), x.device())?.affine(2.0, -1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Reducing an enlarged image restores the original for filters with symmetric weights.
    #[test]
    fn reducing_undoes_enlarging() -> Result<()> {
        let x = Rng::new(1).randn((2, 3, 4, 6), &Device::Cpu)?.clamp(-0.9, 0.9)?;
        let back = reduce(&enlarge(&x, 4, Filter::Nearest)?, 4)?;
        assert_eq!(back.dims(), x.dims());
        let off = (back - &x)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(off < 1e-6, "{off}");
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            let flat = Tensor::ones((1, 1, 3, 3), DType::F32, &Device::Cpu)?.affine(-0.25, 0.0)?;
            let large = enlarge(&flat, 2, filter)?;
            assert_eq!(large.dims(), [1, 1, 6, 6]);
            let off = (large + 0.25)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(off < 1e-6, "{filter:?}: {off}");
        }
        Ok(())
    }

    /// Both filters keep a ramp in the interior; only the cubic overshoots at a step, and is clipped to the range.
    #[test]
    fn filters_interpolate_as_named() -> Result<()> {
        let row = |x: &[f32], filter| -> Result<Vec<f32>> {
            let x = Tensor::from_vec(x.to_vec(), (1, 1, 1, x.len()), &Device::Cpu)?;
            enlarge(&x, 2, filter)?.narrow(2, 0, 1)?.flatten_all()?.to_vec1()
        };
        let ramp = [-0.5f32, -0.3, -0.1, 0.1, 0.3, 0.5];
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            let large = row(&ramp, filter)?;
            for pair in large[4..8].windows(2) {
                assert!((pair[1] - pair[0] - 0.1).abs() < 1e-5, "{filter:?}: {large:?}");
            }
        }
        let step = row(&[-0.5, -0.5, -0.5, 0.5, 0.5, 0.5], Filter::Bicubic)?;
        assert!(step.iter().any(|x| *x > 0.51), "{step:?}");
        let step = row(&[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], Filter::Bicubic)?;
        assert!(step.iter().all(|x| x.abs() <= 1.0), "{step:?}");
        Ok(())
    }

    #[test]
    fn errors_name_the_bad_value() -> Result<()> {
        let x = Tensor::zeros((1, 1, 4, 6), DType::F32, &Device::Cpu)?;
        let reduced = reduce(&x, 4).unwrap_err().to_string();
        assert!(reduced.contains("[1, 1, 4, 6]"), "{reduced}");
        assert!(reduce(&x, 0).is_err() && enlarge(&x, 0, Filter::Nearest).is_err());
        assert!(enlarge(&x, usize::MAX, Filter::Nearest).is_err());
        assert!(enlarge(&x.squeeze(0)?, 2, Filter::Nearest).is_err());
        Ok(())
    }
}
