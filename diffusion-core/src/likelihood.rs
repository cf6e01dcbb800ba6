//! Likelihoods of a diffusion model, by solving the probability-flow ODE.
//!
//! Divide a noisy image x = a x_0 + s ε by √(a²+s²), so that it becomes cos θ x_0 + sin θ ε with tan θ = s/a = σ. In
//! these coordinates the probability-flow ODE of every [noise process](crate::process) is
//!
//! dx/dθ = v̂, where v̂ = cos θ ε̂ − sin θ x̂_0,
//!
//! the prediction of [v-prediction](crate::prediction::Prediction::V). Along a solution the log-density changes by
//!
//! d ln p(x)/dθ = −div v̂ = −D cot θ + div x̂_0/sin θ
//!
//! ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), theorem 1), with D numbers in an image. Following x from the
//! cleanest level to the noisiest, where x ~ N(0, I), gives its log-density at the cleanest level
//! ([Song et al. 2021](https://arxiv.org/abs/2011.13456), section 4.3). Built in `notebooks/11_score.ipynb`.

use crate::guidance::Guidance;
use crate::model::Model;
use crate::prediction::Prediction;
use crate::process::NoiseProcess;
use crate::rng::Rng;
use crate::unet::Condition;
use candle_core::{D, DType, Result, Tensor, Var, bail};
use std::f64::consts::{LN_2, TAU};

/// The noise level σ from which x ~ N(0, I) for processes that go on to σ = ∞.
const MAX_SIGMA: f64 = 1000.0;

/// How a log-density is computed: [`Likelihood::log_density`], [`Model::log_density`].
///
/// ```
/// use diffusion_core::likelihood::{Divergence, Likelihood};
/// use diffusion_core::{mixture::Mixture, prediction::Prediction, process::NoiseProcess, rng::Rng};
/// let (mixture, process, mut rng) = (Mixture::ring(8, 0.2)?, NoiseProcess::flow(), Rng::new(1));
/// let likelihood = Likelihood { divergence: Divergence::Exact, ..Default::default() };
/// let x = mixture.sample(10, &mut rng)?;
/// let predict = |x: &_, t: &[f64]| mixture.predict(&process, x, t);
/// let found = likelihood.log_density(predict, &process, Prediction::X0, &x, &mut rng)?;
/// let exact = mixture.log_density(&x, diffusion_core::level::Level::CLEAN)?.to_vec1::<f64>()?;
/// assert!(found.iter().zip(&exact).all(|(a, b)| (a - b).abs() < 0.02));
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// The number of steps between the cleanest and the noisiest level, equal in ln σ; for the discrete process each
    /// level is rounded to the nearest time step, and no time step is visited twice.
    pub steps: usize,
    /// How div x̂_0 is computed.
    pub divergence: Divergence,
}

/// How the divergence of the predicted clean image, the sum of ∂x̂_0ᵢ/∂xᵢ, is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// A backward pass for each of the D numbers: for low-dimensional data.
    Exact,
    /// Hutchinson's estimator, the mean of eᵀ(∂x̂_0/∂x)e over this many random e with entries ±1. It is unbiased and
    /// takes one backward pass for each e
    /// ([Grathwohl et al. 2019](https://arxiv.org/abs/1810.01367), section 3.1). The same e are used for all steps.
    Hutchinson(usize),
}

impl Default for Likelihood {
    /// 100 steps and Hutchinson's estimator with a single e.
    fn default() -> Self {
        Self { steps: 100, divergence: Divergence::Hutchinson(1) }
    }
}

impl Likelihood {
    /// ln p(x) for each image: the density of x = x_t/signal = x_0 + σ ε at the cleanest level of the process.
    ///
    /// `predict` is the network as for [`Sampler::sample`](crate::sampler::Sampler::sample); candle must be able to
    /// differentiate it with respect to its input. The signs e are drawn from `rng`.
    ///
    /// # Shapes
    /// `x` (B, …), on the scale of the data; the result has B entries, in nats.
    ///
    /// # Errors
    /// The prediction type cannot be used with the process, `steps` or the number of e is 0, the result is not finite,
    /// or `predict` fails or has no gradient.
    pub fn log_density(
        &self,
        predict: impl FnMut(&Tensor, &[f64]) -> Result<Tensor>,
        process: impl Into<NoiseProcess>,
        prediction: Prediction,
        x: &Tensor,
        rng: &mut Rng,
    ) -> Result<Vec<f64>> {
        let process = process.into();
        prediction.check(&process)?;
        let times = self.times(&process)?;
        let dims = x.flatten_from(1)?.dim(1)? as f64;
        let signs = self.signs(x, rng)?;
        let mut ode = Ode { predict, process: &process, prediction, hutchinson: self.divergence != Divergence::Exact };
        let first = cos(process.level(times[0])?.sigma());
        let mut x = (x * first)?;
        let (mut log, mut here) = (vec![0.0; x.dim(0)?], ode.at(&x, times[0], &signs)?);
        for pair in times.windows(2) {
            let step = (process.level(pair[1])?.sigma() / process.level(pair[0])?.sigma()).ln();
            let euler = (&x + (&here.slope * step)?)?;
            let corrected = ((ode.at(&euler, pair[1], &[])?.slope + &here.slope)? * (step / 2.0))?;
            x = (x + corrected)?;
            let next = ode.at(&x, pair[1], &signs)?;
            let both = here.divergence.iter().zip(&next.divergence);
            log.iter_mut().zip(both).for_each(|(log, (a, b))| *log += step / 2.0 * (a + b));
            here = next;
        }
        let squares = doubles(&x.sqr()?.flatten_from(1)?.sum(D::Minus1)?)?;
        for (log, square) in log.iter_mut().zip(squares) {
            // N(0, I), and the change from the density of cos θ x to that of x.
            *log += dims * first.ln() - 0.5 * (square + dims * TAU.ln());
        }
        match log.iter().position(|value| !value.is_finite()) {
            Some(i) => bail!("log-density: that of image {i} is {}; are all its values finite?", log[i]),
            None => Ok(log),
        }
    }

    /// The times that are visited, the cleanest first.
    fn times(&self, process: &NoiseProcess) -> Result<Vec<f64>> {
        if self.steps == 0 {
            bail!("log-density: steps = 0 must be at least 1")
        }
        let (first, last) = (process.level(process.cleanest_noisy_time())?.sigma(), process.noisiest().sigma());
        let range = (last.min(MAX_SIGMA) / first).ln();
        let at = |i: usize| process.time_at(first.ln() + range * i as f64 / self.steps as f64);
        let mut times: Vec<f64> = (0..=self.steps).map(at).collect();
        times.dedup();
        Ok(times)
    }

    /// The vectors e for the divergence: random signs or, for the exact one, each unit vector.
    fn signs(&self, x: &Tensor, rng: &mut Rng) -> Result<Vec<Tensor>> {
        let (n, dims) = (x.elem_count(), x.flatten_from(1)?.dim(1)?);
        let build = |values: Vec<f32>| Tensor::from_vec(values, x.shape(), x.device())?.to_dtype(x.dtype());
        match self.divergence {
            Divergence::Exact => {
                (0..dims).map(|at| build((0..n).map(|i| f32::from(i % dims == at)).collect())).collect()
            }
            Divergence::Hutchinson(0) => bail!("log-density: Hutchinson(0) must have at least one random vector"),
            Divergence::Hutchinson(count) => {
                let mut sign = || if rng.uniform() < 0.5 { -1.0 } else { 1.0 };
                (0..count).map(|_| build((0..n).map(|_| sign()).collect())).collect()
            }
        }
    }
}

/// The probability-flow ODE in ℓ = ln σ, dx/dℓ = sin θ cos θ v̂ = cos θ (cos θ x − x̂_0). Its divergence stays of the
/// order of D at both ends.
struct Ode<'a, P> {
    predict: P,
    process: &'a NoiseProcess,
    prediction: Prediction,
    /// Whether the divergence is a mean over the e, not a sum.
    hutchinson: bool,
}

/// The right-hand side of the [`Ode`] at a point.
struct Slope {
    slope: Tensor,
    /// For each image; without vectors e it is meaningless.
    divergence: Vec<f64>,
}

impl<P: FnMut(&Tensor, &[f64]) -> Result<Tensor>> Ode<'_, P> {
    fn at(&mut self, x: &Tensor, t: f64, signs: &[Tensor]) -> Result<Slope> {
        let (level, batch) = (self.process.level(t)?, x.dim(0)?);
        let (cos, dims) = (cos(level.sigma()), x.flatten_from(1)?.dim(1)?);
        let at = Var::from_tensor(&x.detach())?;
        let xt = (at.as_tensor() * level.total_variance().sqrt())?;
        let input = (&xt * self.prediction.scalings(level).c_in)?;
        let output = (self.predict)(&input, &vec![t; batch])?;
        let x0 = self.prediction.x0(&xt, &vec![level; batch], &output)?;
        let mut divergence = vec![dims as f64 * cos * cos; batch];
        for e in signs {
            let gradients = (&x0 * e)?.sum_all()?.backward()?;
            let Some(gradient) = gradients.get(&at) else {
                bail!("log-density: the prediction has no gradient with respect to the image")
            };
            let products = doubles(&(gradient * e)?.flatten_from(1)?.sum(D::Minus1)?)?;
            let factor = if self.hutchinson { cos / signs.len() as f64 } else { cos };
            divergence.iter_mut().zip(products).for_each(|(sum, product)| *sum -= factor * product);
        }
        Ok(Slope { slope: (((x * cos)? - x0.detach())? * cos)?, divergence })
    }
}

/// cos θ = 1/√(1+σ²) for σ = tan θ.
fn cos(sigma: f64) -> f64 {
    1.0 / (1.0 + sigma * sigma).sqrt()
}

fn doubles(x: &Tensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.to_vec1()
}

/// The bits per dimension of 8-bit images from the density of their pixel values in \[−1, 1\]: −ln p(x)/(D ln 2) +
/// log₂ 127.5.
///
/// If uniform noise of one grey level, 2/255, was added to the images ([`dequantize`]), the mean over images is an upper
/// bound on the bits per pixel value that a lossless code based on the model needs
/// ([Theis et al. 2016](https://arxiv.org/abs/1511.01844), section 3.1).
///
/// ```
/// use diffusion_core::likelihood::bits_per_dimension;
/// // A uniform density on [−1, 1] spends log₂ 255 bits on each of its values.
/// assert!((bits_per_dimension(-(2f64.ln()) * 784.0, 784) - 255f64.log2()).abs() < 1e-12);
/// ```
pub fn bits_per_dimension(log_density: f64, dims: usize) -> f64 {
    127.5f64.log2() - log_density / (dims as f64 * LN_2)
}

/// Adds uniform noise of one grey level to 8-bit images in \[−1, 1\], so that their values have a density.
///
/// # Shapes
/// `x0` of any shape; the result has the shape of `x0`.
///
/// # Errors
/// The device is out of memory.
pub fn dequantize(x0: &Tensor, rng: &mut Rng) -> Result<Tensor> {
    let noise: Vec<f32> = (0..x0.elem_count()).map(|_| ((rng.uniform() - 0.5) / 127.5) as f32).collect();
    x0 + Tensor::from_vec(noise, x0.shape(), x0.device())?.to_dtype(x0.dtype())?
}

impl Model {
    /// ln p(x | condition) for each image, with the density at the cleanest noise level: see
    /// [`Likelihood::log_density`].
    ///
    /// # Shapes
    /// `x` (B, C, H, W), in \[−1, 1\]; the result has B entries, in nats.
    ///
    /// # Errors
    /// The condition does not suit the network, or see [`Likelihood::log_density`].
    pub fn log_density(
        &self,
        x: &Tensor,
        condition: &Condition,
        likelihood: &Likelihood,
        rng: &mut Rng,
    ) -> anyhow::Result<Vec<f64>> {
        let (info, guidance) = (&self.info, Guidance::from(condition.clone()));
        let predict = |xt: &Tensor, t: &[f64]| self.predict(xt, t, &guidance);
        Ok(likelihood.log_density(predict, &info.process, info.prediction, x, rng)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Level;
    use crate::mixture::Mixture;
    use crate::model::ModelInfo;
    use crate::schedule::Schedule;
    use crate::unet::{Architecture, Network, SimpleUNet};
    use candle_core::Device;

    /// The closed form at the cleanest level, for the density of x_t/signal.
    fn exact(mixture: &Mixture, process: &NoiseProcess, x: &Tensor) -> Result<Vec<f64>> {
        let level = process.level(process.cleanest_noisy_time())?;
        let level = Level { signal: 1.0, noise: level.sigma() };
        mixture.log_density(x, level)?.to_vec1()
    }

    #[test]
    fn log_densities_of_mixtures_are_exact() -> Result<()> {
        for process in [Schedule::linear(1000)?.into(), NoiseProcess::flow(), NoiseProcess::edm()] {
            for mixture in [Mixture::moons(20, 0.1)?, Mixture::ring(8, 0.2)?] {
                let x = mixture.sample(50, &mut Rng::new(1))?;
                let predict = |x: &Tensor, t: &[f64]| mixture.predict(&process, x, t);
                let likelihood = Likelihood { steps: 300, divergence: Divergence::Exact };
                let found = likelihood.log_density(predict, &process, Prediction::X0, &x, &mut Rng::new(2))?;
                let exact = exact(&mixture, &process, &x)?;
                let worst = found.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(worst < 0.02, "{process}: {worst}");
            }
        }
        Ok(())
    }

    /// The estimator is unbiased: its mean over many e is the exact value.
    #[test]
    fn hutchinsons_estimator_agrees_with_the_exact_divergence() -> Result<()> {
        let (mixture, process) = (Mixture::spiral(40, 0.2)?, NoiseProcess::flow());
        let x = mixture.sample(1, &mut Rng::new(3))?.repeat((2000, 1))?;
        let predict = |x: &Tensor, t: &[f64]| mixture.predict(&process, x, t);
        let find = |divergence, x: &Tensor| {
            let likelihood = Likelihood { steps: 40, divergence };
            likelihood.log_density(predict, &process, Prediction::X0, x, &mut Rng::new(4))
        };
        let exact = find(Divergence::Exact, &x.narrow(0, 0, 1)?)?[0];
        agrees(&find(Divergence::Hutchinson(1), &x)?, exact);
        Ok(())
    }

    /// A U-Net can be differentiated with respect to its input, and the condition matters.
    #[test]
    fn a_network_has_a_log_density() -> anyhow::Result<()> {
        let architecture = Architecture::from(SimpleUNet { base: 8, classes: 3, ..Default::default() });
        let network = Network::new(architecture, &mut Rng::new(1), &Device::Cpu)?;
        // At initialisation its output weights are zero.
        for (_, var) in network.parameters().iter().filter(|(name, _)| name.starts_with("conv_out")) {
            var.set(&(Rng::new(5).randn_like(var)? * 0.01)?)?;
        }
        let info = ModelInfo { prediction: Prediction::V, ..ModelInfo::new([1, 8, 8]) };
        let model = Model::new(network, info);
        let x = dequantize(&Tensor::zeros((1, 1, 8, 8), DType::F32, &Device::Cpu)?, &mut Rng::new(2))?;
        let find = |x: &Tensor, class: usize, divergence| {
            let likelihood = Likelihood { steps: 5, divergence };
            model.log_density(x, &Condition::labels(vec![class; x.dim(0)?]), &likelihood, &mut Rng::new(3))
        };
        let exact = find(&x, 0, Divergence::Exact)?[0];
        assert_ne!(exact, find(&x, 1, Divergence::Exact)?[0]);
        agrees(&find(&x.repeat((200, 1, 1, 1))?, 0, Divergence::Hutchinson(1))?, exact);
        Ok(())
    }

    /// The mean of independent estimates is within four standard errors of the exact value.
    fn agrees(found: &[f64], exact: f64) {
        let n = found.len() as f64;
        let mean = found.iter().sum::<f64>() / n;
        let error = (found.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / n / n).sqrt();
        assert!(error > 0.0 && (mean - exact).abs() < 4.0 * error, "{mean} ± {error}, exact {exact}");
    }

    #[test]
    fn errors_name_the_bad_value() -> Result<()> {
        let process = NoiseProcess::flow();
        let x = Tensor::zeros((1, 2), DType::F64, &Device::Cpu)?;
        let find = |likelihood: Likelihood, prediction, x: &Tensor| {
            let failed = likelihood.log_density(|x, _| Ok(x.clone()), &process, prediction, x, &mut Rng::new(1));
            failed.unwrap_err().to_string()
        };
        let none = Likelihood { steps: 0, ..Default::default() };
        assert!(find(none, Prediction::X0, &x).contains("steps = 0"));
        let none = Likelihood { divergence: Divergence::Hutchinson(0), ..Default::default() };
        assert!(find(none, Prediction::X0, &x).contains("Hutchinson(0)"));
        assert!(find(Likelihood::default(), Prediction::Eps, &x).contains("use velocity"));
        assert!(find(Likelihood::default(), Prediction::X0, &(&x / 0.0)?).contains("image 0 is NaN"));
        let constant =
            Likelihood::default().log_density(|x, _| x.zeros_like(), &process, Prediction::X0, &x, &mut Rng::new(1));
        assert!(constant.unwrap_err().to_string().contains("no gradient"));
        Ok(())
    }
}
