//! The structural similarity of images.

use super::psnr::pair;
use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

/// The window: 11×11 pixels, a Gaussian with σ = 1.5.
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;

/// K₁ and K₂, which avoid divisions by 0.
const K: [f64; 2] = [0.01, 0.03];

/// The structural similarity (SSIM) of images, from means μ, variances σ² and covariance in a sliding window:
///
/// (2μₓμᵧ + C₁)(2σₓᵧ + C₂) / ((μₓ² + μᵧ² + C₁)(σₓ² + σᵧ² + C₂)), C₁ = (0.01 range)², C₂ = (0.03 range)²
///
/// ([Wang et al. 2004](https://doi.org/10.1109/TIP.2003.819861), equation 13), averaged over the channels and all
/// positions of the 11×11 window within the image. It is in −1 … 1, and 1 for equal images. `range` is the range of the
/// values: 2 for images in \[−1, 1\], 255 for bytes.
///
/// # Shapes
/// `x` and `y` (N, C, H, W), H and W at least 11; the result has one value for each of N images.
///
/// # Errors
/// The shapes do not match; the images are smaller than the window, so that padding would dominate the result; `range`
/// is not positive, or values are not finite.
///
/// ```
/// use diffusion_core::{candle::Device, metrics::ssim, rng::Rng};
/// let mut rng = Rng::new(1);
/// let x = rng.randn((1, 3, 16, 16), &Device::Cpu)?.clamp(-1f32, 1f32)?;
/// let other = rng.randn_like(&x)?.clamp(-1f32, 1f32)?;
/// assert!((ssim(&x, &x, 2.0)?[0] - 1.0).abs() < 1e-12);
/// assert!(ssim(&x, &other, 2.0)?[0] < 0.5);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn ssim(x: &Tensor, y: &Tensor, range: f64) -> Result<Vec<f64>> {
    let [_, channels, height, width] = *x.dims() else {
        bail!("ssim: x has shape {:?}; it must be (N, C, H, W)", x.dims())
    };
    let [x, y] = pair("ssim", x, y, range)?;
    ensure!(
        height >= WINDOW && width >= WINDOW,
        "ssim: the images are {height}×{width}, but the window needs at least {WINDOW}×{WINDOW} pixels; resize them \
         or use psnr"
    );
    let (x, y) = (x.flatten_all()?.to_vec1::<f64>()?, y.flatten_all()?.to_vec1::<f64>()?);
    let size = height * width;
    let window = window();
    let of_image = |(x, y): (&[f64], &[f64])| {
        let planes = x.chunks_exact(size).zip(y.chunks_exact(size));
        planes.map(|(x, y)| of_plane(x, y, width, range, &window)).sum::<f64>() / channels as f64
    };
    let images = x.par_chunks_exact(channels * size).zip(y.par_chunks_exact(channels * size));
    Ok(images.map(of_image).collect())
}

/// One side of the window; it sums to 1.
fn window() -> [f64; WINDOW] {
    let middle = (WINDOW / 2) as f64;
    let window: [f64; WINDOW] =
        std::array::from_fn(|i| libm::exp(-(i as f64 - middle).powi(2) / (2.0 * SIGMA * SIGMA)));
    let sum: f64 = window.iter().sum();
    window.map(|x| x / sum)
}

fn of_plane(x: &[f64], y: &[f64], width: usize, range: f64, window: &[f64; WINDOW]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
    let smooth = |x: &[f64]| smooth(x, width, window);
    let (mx, my) = (smooth(x), smooth(y));
    let (xx, yy, xy) = (smooth(&product(x, x)), smooth(&product(y, y)), smooth(&product(x, y)));
    let [c1, c2] = K.map(|k| (k * range).powi(2));
    let at = |i: usize| {
        let (mx, my) = (mx[i], my[i]);
        let (vx, vy, covariance) = (xx[i] - mx * mx, yy[i] - my * my, xy[i] - mx * my);
        (2.0 * mx * my + c1) * (2.0 * covariance + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    };
    (0..mx.len()).map(at).sum::<f64>() / mx.len() as f64
}

/// The weighted mean at every position of the window within the image.
fn smooth(x: &[f64], width: usize, window: &[f64; WINDOW]) -> Vec<f64> {
    let weighted = |at: &dyn Fn(usize) -> f64| (0..WINDOW).map(|i| window[i] * at(i)).sum::<f64>();
    let inner = width + 1 - WINDOW;
    let rows: Vec<f64> =
        x.chunks_exact(width).flat_map(|row| (0..inner).map(move |left| weighted(&|i| row[left + i]))).collect();
    let places = rows.len() - (WINDOW - 1) * inner;
    (0..places).map(|at| weighted(&|i| rows[at + i * inner])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    /// For constant images only the first factor is left: (2ab + C₁)/(a² + b² + C₁).
    #[test]
    fn constant_images_by_hand() -> Result<()> {
        let x = Tensor::full(0.5f64, (1, 2, 11, 13), &Device::Cpu)?;
        let y = Tensor::full(-0.25f64, (1, 2, 11, 13), &Device::Cpu)?;
        let c1 = 0.0004;
        let want = (-0.25 + c1) / (0.25 + 0.0625 + c1);
        assert!((ssim(&x, &y, 2.0)?[0] - want).abs() < 1e-9);
        Ok(())
    }

    #[test]
    fn small_images_and_wrong_shapes_are_errors() -> Result<()> {
        let fail = |shape: &[usize]| -> Result<String> {
            let x = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
            Ok(ssim(&x, &x, 2.0).unwrap_err().to_string())
        };
        assert!(fail(&[1, 1, 16, 10])?.contains("images are 16×10, but the window needs at least 11×11"));
        assert!(fail(&[1, 16, 16])?.contains("x has shape [1, 16, 16]"));
        Ok(())
    }
}
