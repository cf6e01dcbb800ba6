//! Gaussian mixtures: data whose noisy density, score and best prediction are known in closed form.

use crate::level::Level;
use crate::prediction::Prediction;
use crate::process::NoiseProcess;
use crate::rng::Rng;
use candle_core::{D, DType, Device, Result, Tensor, bail};
use std::f64::consts::{PI, TAU};

/// A data distribution of K equally probable Gaussians N(μ_k, `std`²·I). With `std` = 0 it is a finite set of points.
///
/// Noisy data x = a x_0 + s ε at a [`Level`] (signal a, noise s) is again a mixture, of N(a μ_k, (a² `std`² + s²) I), so
/// its density, its score and the posterior mean of x_0 are sums over K terms. Samplers, likelihoods and trained
/// networks can be compared with these exact values. Built in `notebooks/11_score.ipynb`.
///
/// ```
/// use diffusion_core::{candle::{Device, Tensor}, level::Level, mixture::Mixture};
/// let points = Tensor::new(&[[-1f64, 0.0], [1.0, 0.0]], &Device::Cpu)?;
/// let mixture = Mixture::new(&points, 0.0)?;
/// let level = Level { signal: 1.0, noise: 0.5 };
/// // Half way between the two points, the best prediction of the clean point is their mean.
/// let x = Tensor::new(&[[0f64, 0.3]], &Device::Cpu)?;
/// assert_eq!(mixture.x0_hat(&x, level)?.to_vec2::<f64>()?, [[0.0, 0.0]]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Mixture {
    /// The means μ_k, (K, D), in f64.
    means: Tensor,
    std: f64,
}

impl Mixture {
    /// Creates a mixture with the means `means` and the standard deviation `std` of each component.
    ///
    /// # Shapes
    /// `means` (K, D).
    ///
    /// # Errors
    /// `means` does not have two dimensions, is empty or not finite, or `std` is negative or not finite.
    pub fn new(means: &Tensor, std: f64) -> Result<Self> {
        let means = means.to_dtype(DType::F64)?.to_device(&Device::Cpu)?;
        let (k, d) = means.dims2()?;
        if k == 0 || d == 0 {
            bail!("mixture: means of shape [{k}, {d}] hold no point; give at least one")
        }
        if !means.sum_all()?.to_scalar::<f64>()?.is_finite() {
            bail!("mixture: a coordinate of the means is not a finite number")
        }
        if !(std >= 0.0 && std.is_finite()) {
            bail!("mixture: std = {std} must be a finite number, at least 0")
        }
        Ok(Self { means, std })
    }

    /// Two interleaving half circles of `k` points each, with coordinates of about unit variance.
    ///
    /// # Errors
    /// See [`Mixture::new`].
    pub fn moons(k: usize, std: f64) -> Result<Self> {
        let angle = |i: usize| PI * i as f64 / k.saturating_sub(1).max(1) as f64;
        let upper = (0..k).map(|i| [angle(i).cos() - 0.5, angle(i).sin() - 0.25]);
        let lower = (0..k).map(|i| [0.5 - angle(i).cos(), 0.25 - angle(i).sin()]);
        Self::of_points(upper.chain(lower).map(|[x, y]| [1.2 * x, 1.8 * y]), std)
    }

    /// `k` points along a spiral of one and a half turns.
    ///
    /// # Errors
    /// See [`Mixture::new`].
    pub fn spiral(k: usize, std: f64) -> Result<Self> {
        // The square root spaces the points evenly along the curve.
        let turn = |i: usize| ((i as f64 + 0.5) / k as f64).sqrt();
        let point = |u: f64| [2.0 * u * (1.5 * TAU * u).cos(), 2.0 * u * (1.5 * TAU * u).sin()];
        Self::of_points((0..k).map(|i| point(turn(i))), std)
    }

    /// `k` points on a circle of radius √2.
    ///
    /// # Errors
    /// See [`Mixture::new`].
    pub fn ring(k: usize, std: f64) -> Result<Self> {
        let angle = |i: usize| TAU * i as f64 / k as f64;
        let radius = 2f64.sqrt();
        Self::of_points((0..k).map(|i| [radius * angle(i).cos(), radius * angle(i).sin()]), std)
    }

    /// Creates a mixture from points in the plane.
    ///
    /// # Errors
    /// See [`Mixture::new`].
    pub fn of_points(points: impl IntoIterator<Item = [f64; 2]>, std: f64) -> Result<Self> {
        let coordinates: Vec<f64> = points.into_iter().flatten().collect();
        Self::new(&Tensor::from_vec(coordinates.clone(), (coordinates.len() / 2, 2), &Device::Cpu)?, std)
    }

    /// The means μ_k, (K, D), in f64.
    pub fn means(&self) -> &Tensor {
        &self.means
    }

    /// The standard deviation of each component.
    pub fn std(&self) -> f64 {
        self.std
    }

    /// Draws `n` points.
    ///
    /// # Shapes
    /// The result is (n, D), in f64.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn sample(&self, n: usize, rng: &mut Rng) -> Result<Tensor> {
        let k = self.means.dim(0)?;
        let chosen: Vec<u32> = (0..n).map(|_| rng.below(k) as u32).collect();
        let means = self.means.index_select(&Tensor::from_vec(chosen, n, &Device::Cpu)?, 0)?;
        &means + (rng.randn_like(&means)? * self.std)?
    }

    /// ln p(x), the log-density of noisy data at `level`.
    ///
    /// # Shapes
    /// `x` (N, …) with D numbers for each point; the result is (N).
    ///
    /// # Errors
    /// `x` does not have D numbers for each point, or `level` has no noise and `std` is 0.
    pub fn log_density(&self, x: &Tensor, level: Level) -> Result<Tensor> {
        let (logits, variance) = self.logits(&self.flat(x)?, level)?;
        let (k, d) = self.means.dims2()?;
        let constant = (k as f64).ln() + d as f64 / 2.0 * (TAU * variance).ln();
        logits.log_sum_exp(D::Minus1)?.affine(1.0, -constant)?.to_dtype(x.dtype())
    }

    /// ∇ ln p(x), the score of noisy data at `level`: Σ_k r_k (a μ_k − x)/(a² `std`² + s²), where r_k is the
    /// probability that x comes from component k.
    ///
    /// # Shapes
    /// `x` (N, …) with D numbers for each point; the result has the shape of `x`.
    ///
    /// # Errors
    /// See [`Mixture::log_density`].
    pub fn score(&self, x: &Tensor, level: Level) -> Result<Tensor> {
        let (expected, flat, variance) = self.expected_mean(x, level)?;
        (((expected * level.signal)? - flat)? / variance)?.reshape(x.shape())?.to_dtype(x.dtype())
    }

    /// E\[x_0 | x\], the mean of the posterior: the prediction with the smallest expected squared error.
    ///
    /// # Shapes
    /// `x` (N, …) with D numbers for each point; the result has the shape of `x`.
    ///
    /// # Errors
    /// See [`Mixture::log_density`].
    pub fn x0_hat(&self, x: &Tensor, level: Level) -> Result<Tensor> {
        let (expected, flat, variance) = self.expected_mean(x, level)?;
        // Within a component x_0 is Gaussian given x.
        let gain = level.signal * self.std * self.std / variance;
        let within = ((flat - (&expected * level.signal)?)? * gain)?;
        (expected + within)?.reshape(x.shape())?.to_dtype(x.dtype())
    }

    /// [`Mixture::x0_hat`] as a network of type [`Prediction::X0`] whose input is scaled by c_in, for samplers and
    /// likelihoods. All times of a batch must be equal.
    ///
    /// # Shapes
    /// See [`Mixture::x0_hat`].
    ///
    /// # Errors
    /// The times are outside the range of the process or differ, or see [`Mixture::log_density`].
    pub fn predict(&self, process: &NoiseProcess, input: &Tensor, t: &[f64]) -> Result<Tensor> {
        let Some(&first) = t.first().filter(|first| t.iter().all(|t| t == *first)) else {
            bail!("mixture: the times {t:?} of a batch must be equal")
        };
        let level = process.level(first)?;
        self.x0_hat(&(input / Prediction::X0.scalings(level).c_in)?, level)
    }

    /// Σ_k r_k μ_k, x as (N, D) in f64, and the variance of the components.
    fn expected_mean(&self, x: &Tensor, level: Level) -> Result<(Tensor, Tensor, f64)> {
        let flat = self.flat(x)?;
        let (logits, variance) = self.logits(&flat, level)?;
        let shares = candle_nn::ops::softmax(&logits, D::Minus1)?;
        Ok((shares.matmul(&self.means)?, flat, variance))
    }

    /// −|x − a μ_k|²/(2 variance), (N, K), and the variance of the components.
    fn logits(&self, x: &Tensor, level: Level) -> Result<(Tensor, f64)> {
        let variance = (level.signal * self.std).powi(2) + level.noise * level.noise;
        if variance == 0.0 {
            bail!("mixture: points without noise have no density; use a level with noise, or std above 0")
        }
        let means = (&self.means * level.signal)?;
        let offsets = x.unsqueeze(1)?.broadcast_sub(&means.unsqueeze(0)?)?;
        Ok(((offsets.sqr()?.sum(D::Minus1)? * (-0.5 / variance))?, variance))
    }

    fn flat(&self, x: &Tensor) -> Result<Tensor> {
        let flat = x.flatten_from(1)?.to_dtype(DType::F64)?;
        let (d, got) = (self.means.dim(1)?, flat.dim(1)?);
        if d != got {
            bail!("mixture: x has shape {:?}, {got} numbers for each point, but the means have {d}", x.dims())
        }
        Ok(flat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{Sampler, Threshold};
    use candle_core::Var;

    const LEVEL: Level = Level { signal: 0.8, noise: 0.5 };

    fn largest(x: &Tensor) -> Result<f64> {
        x.abs()?.max_all()?.to_scalar()
    }

    /// The score is the gradient of the log-density, and with it Tweedie's formula gives the posterior mean.
    #[test]
    fn score_and_posterior_mean_follow_from_the_density() -> Result<()> {
        for mixture in [Mixture::moons(20, 0.1)?, Mixture::spiral(30, 0.0)?, Mixture::ring(8, 0.3)?] {
            let x = Var::from_tensor(&Rng::new(1).randn((50, 2), &Device::Cpu)?.to_dtype(DType::F64)?)?;
            let score = mixture.score(&x, LEVEL)?.detach();
            let gradients = mixture.log_density(&x, LEVEL)?.sum_all()?.backward()?;
            assert!(largest(&(gradients.get(&x).expect("a gradient") - &score)?)? < 1e-11);
            let tweedie = ((x.as_tensor() + (score * LEVEL.noise.powi(2))?)? / LEVEL.signal)?;
            assert!(largest(&(tweedie - mixture.x0_hat(&x, LEVEL)?)?)? < 1e-11);
        }
        Ok(())
    }

    #[test]
    fn the_density_integrates_to_1() -> Result<()> {
        let (mixture, n, side) = (Mixture::moons(10, 0.2)?, 300, 10.0);
        let at = |i: usize| side * ((i as f64 + 0.5) / n as f64 - 0.5);
        let grid: Vec<f64> = (0..n * n).flat_map(|i| [at(i / n), at(i % n)]).collect();
        let grid = Tensor::from_vec(grid, (n * n, 2, 1, 1), &Device::Cpu)?;
        let density = mixture.log_density(&grid, LEVEL)?.exp()?.sum_all()?.to_scalar::<f64>()?;
        assert!((density * (side / n as f64).powi(2) - 1.0).abs() < 1e-6, "{density}");
        Ok(())
    }

    /// Samples of the mixture and of a sampler have the mixture's moments.
    #[test]
    fn drawn_and_generated_points_have_the_same_moments() -> Result<()> {
        let (mixture, process) = (Mixture::moons(50, 0.1)?, NoiseProcess::flow());
        let mut rng = Rng::new(2);
        let drawn = mixture.sample(20_000, &mut rng)?;
        let sampler = Sampler { threshold: Threshold::None, ..Sampler::heun(40) };
        let noise = rng.randn((20_000, 2), &Device::Cpu)?;
        let predict = |x: &Tensor, t: &[f64]| mixture.predict(&process, x, t);
        let made = sampler.sample(predict, &process, Prediction::X0, &noise, &mut rng)?.to_dtype(DType::F64)?;
        for power in [1, 2] {
            let moment = |x: &Tensor| x.powf(f64::from(power))?.mean(0);
            let apart = largest(&(moment(&drawn)? - moment(&made)?)?)?;
            assert!(apart < 0.03, "moment {power}: {apart}");
        }
        Ok(())
    }

    #[test]
    fn errors_name_the_bad_value() -> Result<()> {
        let points = Tensor::new(&[[0f64, 1.0]], &Device::Cpu)?;
        let mixture = Mixture::new(&points, 0.0)?;
        for (failed, wants) in [
            (Mixture::new(&points, -1.0).err(), "std = -1"),
            (Mixture::new(&(&points / 0.0)?, 0.0).err(), "not a finite number"),
            (Mixture::of_points([], 0.1).err(), "hold no point"),
            (mixture.score(&points, Level::CLEAN).err(), "points without noise have no density"),
            (mixture.score(&points.repeat((1, 2))?, LEVEL).err(), "4 numbers for each point, but the means have 2"),
            (mixture.predict(&NoiseProcess::flow(), &points, &[]).err(), "must be equal"),
        ] {
            let message = failed.expect("an error").to_string();
            assert!(message.contains(wants), "{message}");
        }
        Ok(())
    }
}
