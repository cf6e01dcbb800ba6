//! Samplers: the reverse process, step by step from noise to images.
//!
//! A step goes from x_t to x_s, which has less noise. One formula covers every [noise process](crate::process). With
//! the [levels](crate::level) (a_t, s_t) and (a_s, s_s) of the two times, signal and noise
//! ([Song et al. 2021](https://arxiv.org/abs/2010.02502), equation 12, for variance-preserving levels):
//!
//! x_s = a_s x̂_0 + √(s_s² − σ²) ε̂ + σ z, with σ = η (s_s/s_t) √σ²(t|s) and z ~ N(0, I).
//!
//! x̂_0 is the predicted clean image, and ε̂ is the predicted noise, x_t = a_t x̂_0 + s_t ε̂. σ²(t|s) is the variance
//! of q(x_t | x_s) ([`Level::transition_variance`](crate::level::Level::transition_variance)). The last step ends at
//! the clean image. A [`Solver`] determines σ and how x̂_0 is estimated:
//!
//! | solver | x̂_0 | σ | network evaluations per step | order |
//! |---|---|---|---|---|
//! | [DDIM](Solver::Ddim) (Euler for η = 0) | the prediction at t | η | 1 | 1 |
//! | [DDPM](Solver::Ddpm) | the prediction at t | η = 1, or the variance β | 1 | |
//! | [Heun](Solver::Heun) | the mean of the predictions at t and, after an Euler step, at s | 0 | 2 | 2 |
//! | [DPM-Solver++(2M)](Solver::DpmSolver) | extrapolated from the last two predictions | 0 | 1 | 2 |
//! | [consistency](Solver::Consistency) | the prediction at t | s_s, so that ε̂ drops out | 1 | |
//!
//! A sampler only evaluates a function: it does not depend on networks, classes or guidance.
//!
//! Built from scratch in `notebooks/04_sampling.ipynb` and `notebooks/06_ddim.ipynb`.

mod interpolate;
mod noise;
mod states;
mod steps;
mod threshold;

pub use interpolate::slerp;
pub(crate) use noise::Source;
pub use noise::{ImageNoise, Noise};
pub use states::{State, States, key_frames};
pub use steps::Steps;
pub use threshold::Threshold;

use crate::prediction::Prediction;
use crate::process::NoiseProcess;
use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use states::Path;

/// A sampler: its solver, the times that it visits, and the thresholding of x̂_0.
///
/// ```
/// use diffusion_core::sampler::{Sampler, Steps, Threshold};
/// let sampler = Sampler { steps: Steps::Leading(50), threshold: Threshold::None, ..Sampler::ddim(50) };
/// assert_eq!(Sampler::default(), Sampler::ddim(50));
/// # let _ = sampler;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sampler {
    /// How a step is computed.
    pub solver: Solver,
    /// The times that are visited.
    pub steps: Steps,
    /// How x̂_0 is kept in the range of image values.
    pub threshold: Threshold,
}

/// How a step is computed; the table in the [module](self) compares the solvers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Solver {
    /// DDIM: the formula with η in \[0, 1\] ([Song et al. 2021](https://arxiv.org/abs/2010.02502)). η = 0 draws no
    /// noise: it is Euler's method for the probability-flow ODE, and the image is a function of x_T. η = 1 is
    /// [`Solver::Ddpm`] with [`Variance::Posterior`].
    Ddim {
        /// η, the fraction of the posterior's standard deviation that is added as noise.
        eta: f64,
    },
    /// Ancestral sampling ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), algorithm 2).
    Ddpm {
        /// The variance of the noise that a step adds.
        variance: Variance,
    },
    /// Heun's method for the probability-flow ODE: an Euler step, a second prediction at its end, and the step repeated
    /// with the mean of both predictions.
    ///
    /// It solves d(x/s) = x̂_0 d(a/s), in which errors are not amplified even where there is almost no signal; EDM's
    /// algorithm 1 ([Karras et al. 2022](https://arxiv.org/abs/2206.00364)) solves d(x/a) = ε̂ d(s/a). The last step,
    /// to the clean image, is an Euler step, because there is no noise to predict at its end.
    Heun,
    /// DPM-Solver++(2M) ([Lu et al. 2022](https://arxiv.org/abs/2211.01095), algorithm 2): x̂_0 is extrapolated
    /// linearly in λ = ln(a/s). The first and the last step are DDIM steps.
    DpmSolver,
    /// Multistep sampling of a consistency model ([Song et al. 2023](https://arxiv.org/abs/2303.01469), algorithm 1): x̂_0
    /// is a complete sample, to which each step adds fresh noise, x_s = a_s x̂_0 + s_s z. With other models the images
    /// are blurred, since their x̂_0 is an average.
    Consistency,
}

/// The variance σ² of ancestral sampling in the step from t to s; the last step draws no noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variance {
    /// β̃ = (s_s/s_t)² σ²(t|s), the variance of the posterior; exact if the data is a single image.
    #[default]
    Posterior,
    /// β = σ²(t|s) (a_s²+s_s²)/(a_t²+s_t²), the variance of the forward process (1−ᾱ_t/ᾱ_s for the discrete one); exact
    /// if the data is standard normal.
    Beta,
}

impl Default for Sampler {
    /// DDIM in 50 steps.
    fn default() -> Self {
        Self::ddim(50)
    }
}

impl Sampler {
    /// DDIM with η = 0 and `n` steps on the process's own grid.
    pub fn ddim(n: usize) -> Self {
        Self::new(Solver::Ddim { eta: 0.0 }, Steps::Trailing(n))
    }

    /// Ancestral sampling through all time steps, with the posterior variance. Set [`Sampler::steps`] to take fewer
    /// steps or for a continuous process.
    pub fn ddpm() -> Self {
        let variance = Variance::default();
        Self::new(Solver::Ddpm { variance }, Steps::All)
    }

    /// Heun's method with `n` steps, which evaluates the network 2n−1 times.
    pub fn heun(n: usize) -> Self {
        Self::new(Solver::Heun, Steps::Trailing(n))
    }

    /// DPM-Solver++(2M) with `n` steps.
    pub fn dpm_solver(n: usize) -> Self {
        Self::new(Solver::DpmSolver, Steps::Trailing(n))
    }

    /// `n` steps of a consistency model ([`Consistency`](crate::train::Consistency)); 1 maps noise to images directly.
    pub fn consistency(n: usize) -> Self {
        Self::new(Solver::Consistency, Steps::Trailing(n))
    }

    fn new(solver: Solver, steps: Steps) -> Self {
        Self { solver, steps, threshold: Threshold::default() }
    }

    /// Samples images, starting from the noise `xt`.
    ///
    /// `predict` evaluates the network: it receives a batch, scaled by c_in, and the process's time for each image, and
    /// returns the output F of type `prediction`. The noise z is drawn from `noise`, usually a
    /// [`Rng`](crate::rng::Rng). The only state carried between steps is the images and, for DPM-Solver++, the previous
    /// x̂_0.
    ///
    /// # Shapes
    /// `xt` (B, C, H, W), at the level of the first step: N(0, σ²) with σ = [`NoiseProcess::prior_std`] for a full
    /// trajectory. The result has the shape of `xt`, with values nominally in \[−1, 1\].
    ///
    /// # Errors
    /// See [`Sampler::states`]; or `predict` fails.
    ///
    /// ```
    /// use diffusion_core::{candle::Device, prediction::Prediction, rng::Rng, sampler::Sampler, schedule::Schedule};
    /// // If all images are 0, the optimal prediction is ε̂ = x_t/√(1−ᾱ_t), and sampling returns 0.
    /// let (schedule, mut rng) = (Schedule::linear(1000)?, Rng::new(0));
    /// let xt = rng.randn((2, 1, 4, 4), &Device::Cpu)?;
    /// let best = |xt: &_, t: &[f64]| -> diffusion_core::candle::Result<_> {
    ///     xt / schedule.level(t[0] as usize).noise
    /// };
    /// let x0 = Sampler::default().sample(best, &schedule, Prediction::Eps, &xt, &mut rng)?;
    /// assert!(x0.abs()?.max_all()?.to_scalar::<f32>()? < 1e-4);
    /// # Ok::<(), diffusion_core::candle::Error>(())
    /// ```
    pub fn sample(
        &self,
        predict: impl FnMut(&Tensor, &[f64]) -> Result<Tensor>,
        process: impl Into<NoiseProcess>,
        prediction: Prediction,
        xt: &Tensor,
        noise: &mut impl Noise,
    ) -> Result<Tensor> {
        self.states(predict, process, prediction, xt, noise)?.finish()
    }

    /// The steps of [`Sampler::sample`] as an iterator: to record, plot or modify the trajectory.
    ///
    /// # Shapes
    /// See [`Sampler::sample`].
    ///
    /// # Errors
    /// The process does not have these steps, the prediction type cannot be used with it, or a number is out of range:
    /// the message names it and its value.
    ///
    /// ```
    /// # use diffusion_core::{candle::{Device, Result, Tensor}, prediction::Prediction, process::NoiseProcess, rng::Rng, sampler::Sampler};
    /// # let mut rng = Rng::new(0);
    /// # let xt = rng.randn((2, 1, 4, 4), &Device::Cpu)?;
    /// let zeros = |xt: &Tensor, _: &[f64]| xt.zeros_like();
    /// let mut visited = Vec::new();
    /// for state in Sampler::ddim(4).states(zeros, NoiseProcess::flow(), Prediction::Velocity, &xt, &mut rng)? {
    ///     let state = state?;
    ///     assert_eq!(state.x0_hat.dims(), xt.dims());
    ///     visited.push(state.t);
    /// }
    /// assert_eq!(visited, [1.0, 0.75, 0.5, 0.25]);
    /// # Result::Ok(())
    /// ```
    pub fn states<'a, P, N>(
        &self,
        predict: P,
        process: impl Into<NoiseProcess>,
        prediction: Prediction,
        xt: &Tensor,
        noise: &'a mut N,
    ) -> Result<States<'a, P, N>>
    where
        P: FnMut(&Tensor, &[f64]) -> Result<Tensor>,
        N: Noise,
    {
        self.states_from(predict, process.into(), prediction, xt, Source::Lent(noise))
    }

    /// [`Sampler::states`] with borrowed or owned noise.
    pub(crate) fn states_from<'a, P, N>(
        &self,
        predict: P,
        process: NoiseProcess,
        prediction: Prediction,
        xt: &Tensor,
        noise: Source<'a, N>,
    ) -> Result<States<'a, P, N>>
    where
        P: FnMut(&Tensor, &[f64]) -> Result<Tensor>,
        N: Noise,
    {
        let times = self.checked(&process, prediction)?;
        let levels = process.levels(&times)?;
        Ok(States::new(self, predict, prediction, noise, Path { times, levels, end: None }, xt))
    }

    /// Encodes images (DDIM inversion): finds noise from which [`Sampler::sample`] with the same steps approximately
    /// recovers `x0`. The error decreases with the number of steps.
    ///
    /// The clean image is used as x_t at the cleanest time that the network was trained on. In areas of exactly equal
    /// pixels, as in drawn images, the network predicts no noise that could be amplified, so the result has too little
    /// variance. To avoid this, add noise of one to a few times that level to `x0`.
    ///
    /// # Shapes
    /// `x0` (B, C, H, W), values in \[−1, 1\]; the result has the shape of `x0` and the level of the first step.
    ///
    /// # Errors
    /// See [`Sampler::sample`]; or the solver is stochastic, so that many noise tensors lead to the same image.
    pub fn encode(
        &self,
        predict: impl FnMut(&Tensor, &[f64]) -> Result<Tensor>,
        process: impl Into<NoiseProcess>,
        prediction: Prediction,
        x0: &Tensor,
    ) -> Result<Tensor> {
        if !matches!(self.solver, Solver::Ddim { eta: 0.0 } | Solver::Heun | Solver::DpmSolver) {
            bail!(
                "sampler: {:?} is stochastic and cannot encode; use DDIM with eta = 0, Heun or DPM-Solver++",
                self.solver
            )
        }
        let process = process.into();
        let mut times = self.checked(&process, prediction)?;
        times.reverse();
        let end = match times.pop() {
            Some(t) => Some((t, process.level(t)?)),
            None => None,
        };
        let cleanest = process.cleanest_noisy_time();
        if times.first().is_none_or(|t| *t > cleanest) {
            times.insert(0, cleanest);
        }
        let levels = process.levels(&times)?;
        let none = &mut |_: &Tensor| bail!("encoding must not draw noise");
        States::new(self, predict, prediction, Source::Lent(none), Path { times, levels, end }, x0).finish()
    }

    /// Checks all settings and returns the times to visit.
    fn checked(&self, process: &NoiseProcess, prediction: Prediction) -> Result<Vec<f64>> {
        process.check()?;
        prediction.check(process)?;
        self.threshold.check()?;
        if let Solver::Ddim { eta } = self.solver
            && !(0.0..=1.0).contains(&eta)
        {
            bail!("sampler: eta = {eta} must be in [0, 1]")
        }
        self.steps.visited(process)
    }
}

#[cfg(test)]
mod tests;
