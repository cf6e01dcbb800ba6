//! Interpolation between two noise tensors.

use candle_core::{DType, Device, Result, Tensor, bail};

/// Spherical linear interpolation (slerp) along the great circle from `a` (`fraction` = 0) to `b` (`fraction` = 1)
/// ([Shoemake 1985](https://doi.org/10.1145/325334.325242)).
///
/// slerp(a, b; f) = sin((1−f) θ)/sin θ a + sin(f θ)/sin θ b, where θ is the angle between a and b, for each image.
/// Linear interpolation would leave the noise with too small a norm, at f = ½ by a factor of √2.
///
/// # Shapes
/// `a` and `b` (B, C, H, W), or any rank with B first; the result has the shape of `a`.
///
/// # Errors
/// The shapes differ, or `fraction` is not finite.
///
/// ```
/// use diffusion_core::{candle::Device, rng::Rng, sampler::slerp};
/// let mut rng = Rng::new(0);
/// let (a, b) = (rng.randn((1, 1, 50, 50), &Device::Cpu)?, rng.randn((1, 1, 50, 50), &Device::Cpu)?);
/// let variance = slerp(&a, &b, 0.5)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
/// assert!((variance - 1.0).abs() < 0.1);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn slerp(a: &Tensor, b: &Tensor, fraction: f64) -> Result<Tensor> {
    if a.dims() != b.dims() || a.rank() == 0 {
        bail!("slerp: a has shape {:?} and b {:?}; they must be equal, with the images first", a.dims(), b.dims())
    }
    if !fraction.is_finite() {
        bail!("slerp: fraction = {fraction} must be finite: 0 gives a and 1 gives b")
    }
    // On the CPU, since not every device has f64.
    let rows = |x: &Tensor| {
        let x = x.reshape((x.dim(0)?, ()))?.to_device(&Device::Cpu)?;
        x.to_dtype(DType::F64)?.to_vec2::<f64>()
    };
    let (rows_a, rows_b) = (rows(a)?, rows(b)?);
    let weights = |(a, b): (&Vec<f64>, &Vec<f64>)| {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        let angle = cosine.clamp(-1.0, 1.0).acos();
        // Parallel vectors: the limit is the straight line.
        if angle.is_nan() || angle.sin() < 1e-6 {
            return (1.0 - fraction, fraction);
        }
        let share = |f: f64| (f * angle).sin() / angle.sin();
        (share(1.0 - fraction), share(fraction))
    };
    let (of_a, of_b): (Vec<f64>, Vec<f64>) = rows_a.iter().zip(&rows_b).map(weights).unzip();
    let mut shape = vec![1; a.rank()];
    shape[0] = a.dim(0)?;
    let scaled = |x: &Tensor, by: Vec<f64>| {
        let by = Tensor::from_vec(by, shape.as_slice(), x.device())?.to_dtype(x.dtype())?;
        x.broadcast_mul(&by)
    };
    scaled(a, of_a)? + scaled(b, of_b)?
}
