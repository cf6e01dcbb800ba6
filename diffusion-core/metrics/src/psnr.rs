//! The peak signal-to-noise ratio.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

/// The peak signal-to-noise ratio (PSNR) between images, in decibels:
///
/// 10 log₁₀(range² / mean((x − y)²)),
///
/// with the mean over all channels and pixels. It is infinite for equal images, and 20 … 40 for images that look alike.
/// `range` is the range of the values: 2 for images in \[−1, 1\], 255 for bytes.
///
/// # Shapes
/// `x` and `y` (N, …); the result has one value for each of N images.
///
/// # Errors
/// The shapes differ or are empty, `range` is not positive, or values are not finite.
///
/// ```
/// use diffusion_core::{candle::{DType, Device, Tensor}, metrics::psnr};
/// let x = Tensor::zeros((1, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// let of = psnr(&x, &(&x + 0.2)?, 2.0)?;
/// assert!((of[0] - 20.0).abs() < 1e-5);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn psnr(x: &Tensor, y: &Tensor, range: f64) -> Result<Vec<f64>> {
    let [x, y] = pair("psnr", x, y, range)?;
    let error = (x - y)?.flatten_from(1)?.sqr()?.mean(1)?.to_vec1::<f64>()?;
    Ok(error.into_iter().map(|error| 10.0 * (range * range / error).log10()).collect())
}

/// Converts two sets of images to f64 on the CPU.
pub(super) fn pair(what: &str, x: &Tensor, y: &Tensor, range: f64) -> Result<[Tensor; 2]> {
    ensure!(
        x.dims() == y.dims() && x.rank() > 1 && x.elem_count() > 0,
        "{what}: the images have shapes {:?} and {:?}; they must be equal, (N, …), and not empty",
        x.dims(),
        y.dims()
    );
    ensure!(range > 0.0 && range.is_finite(), "{what}: range = {range} must be positive: 2 for images in [−1, 1]");
    let checked = |x: &Tensor| -> Result<Tensor> {
        let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let finite = x.flatten_all()?.to_vec1::<f64>()?.iter().all(|x| x.is_finite());
        ensure!(finite, "{what}: the images contain NaN or infinity");
        Ok(x)
    };
    Ok([checked(x)?, checked(y)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_images_have_infinite_psnr_and_errors_name_wrong_arguments() -> Result<()> {
        let x = Tensor::zeros((2, 1, 3, 3), DType::F32, &Device::Cpu)?;
        assert_eq!(psnr(&x, &x, 1.0)?, [f64::INFINITY; 2]);
        let fail = |y: &Tensor, range| psnr(&x, y, range).unwrap_err().to_string();
        for (message, wants) in [
            (fail(&x.narrow(0, 0, 1)?, 1.0), "images have shapes [2, 1, 3, 3] and [1, 1, 3, 3]"),
            (fail(&x, 0.0), "range = 0"),
            (fail(&x, f64::NAN), "range = NaN"),
            (fail(&(&x / 0.0)?, 1.0), "NaN or infinity"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
