//! From noise to images: the reverse process, step by step.
//!
//! A step goes from x_t to x_s with less noise, and one formula covers every [noise process](crate::process). With the
//! [levels](crate::level) (a_t, s_t) and (a_s, s_s) of the two times, signal and noise
//! ([Song et al. 2021](https://arxiv.org/abs/2010.02502), equation 12, for variance-preserving levels):
//!
//! x_s = a_s x̂_0 + √(s_s² − σ²) ε̂ + σ z, with σ = η (s_s/s_t) √σ²(t|s) and z ~ N(0, I).
//!
//! x̂_0 is the predicted clean image and ε̂ the noise that goes with it, x_t = a_t x̂_0 + s_t ε̂; σ²(t|s) is the variance
//! of q(x_t | x_s) ([`Level::transition_variance`](crate::level::Level::transition_variance)). The last step goes to the clean
//! image. A [`Solver`] chooses σ and how x̂_0 is estimated:
//!
//! | solver | x̂_0 | σ | evaluations of the network | order |
//! |---|---|---|---|---|
//! | [DDIM](Solver::Ddim) (Euler for η = 0) | the prediction at t | η | one a step | 1 |
//! | [DDPM](Solver::Ddpm) | the prediction at t | η = 1, or the variance β | one a step | |
//! | [Heun](Solver::Heun) | the mean of the predictions at t and, after an Euler step, at s | 0 | two a step | 2 |
//! | [DPM-Solver++(2M)](Solver::DpmSolver) | extrapolated from the last two predictions | 0 | one a step | 2 |
//!
//! Nothing here knows of networks, classes or guidance: a sampler evaluates a function.
//!
//! Built by hand in `notebooks/04_sampling.ipynb` and `notebooks/06_ddim.ipynb`.

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

/// How to go from noise to images.
///
/// ```
/// use diffusion_core::sampler::{Sampler, Steps, Threshold};
/// let sampler = Sampler { steps: Steps::Leading(50), threshold: Threshold::None, ..Sampler::ddim(50) };
/// assert_eq!(Sampler::default(), Sampler::ddim(50));
/// # let _ = sampler;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sampler {
    /// What a step does.
    pub solver: Solver,
    /// Which times are visited.
    pub steps: Steps,
    /// How x̂_0 is kept in the range of images.
    pub threshold: Threshold,
}

/// What a step does; the table in the [module](self) compares them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Solver {
    /// The formula with this η in \[0, 1\] ([Song et al. 2021](https://arxiv.org/abs/2010.02502)). With 0 it draws no noise: it
    /// is Euler's method for the probability-flow ODE, and the image a function of x_T. With 1 it is [`Solver::Ddpm`] with
    /// [`Variance::Posterior`].
    Ddim {
        /// η.
        eta: f64,
    },
    /// Ancestral sampling ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), algorithm 2).
    Ddpm {
        /// σ².
        variance: Variance,
    },
    /// Heun's method for the probability-flow ODE: an Euler step, the prediction there, and the step again with the mean of
    /// both predictions.
    ///
    /// It is applied to d(x/s) = x̂_0 d(a/s), in which no error grows, also where there is nearly no signal; EDM's
    /// ([Karras et al. 2022](https://arxiv.org/abs/2206.00364), algorithm 1) is the same for d(x/a) = ε̂ d(s/a).
    /// The last step, to the clean image, is Euler's: without noise there is nothing to predict.
    Heun,
    /// DPM-Solver++(2M) ([Lu et al. 2022](https://arxiv.org/abs/2211.01095), algorithm 2): x̂_0 is extrapolated linearly
    /// in λ = ln(a/s). The first and the last step are DDIM's.
    DpmSolver,
}

/// σ² of ancestral sampling, in the step from t to s; the last step draws no noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variance {
    /// β̃ = (s_s/s_t)² σ²(t|s), the posterior's: exact where the data is a single image.
    #[default]
    Posterior,
    /// β = σ²(t|s) (a_s²+s_s²)/(a_t²+s_t²), the forward process's 1−ᾱ_t/ᾱ_s on the discrete one: exact where the data is
    /// standard normal.
    Beta,
}

impl Default for Sampler {
    /// DDIM in 50 steps.
    fn default() -> Self {
        Self::ddim(50)
    }
}

impl Sampler {
    /// DDIM with η = 0 in `n` steps of the process's own grid.
    pub fn ddim(n: usize) -> Self {
        Self::new(Solver::Ddim { eta: 0.0 }, Steps::Trailing(n))
    }

    /// Ancestral sampling through all time steps, with the posterior's variance. Set [`Sampler::steps`] for fewer, and on
    /// processes without time steps.
    pub fn ddpm() -> Self {
        let variance = Variance::default();
        Self::new(Solver::Ddpm { variance }, Steps::All)
    }

    /// Heun's method in `n` steps, so 2n−1 evaluations of the network.
    pub fn heun(n: usize) -> Self {
        Self::new(Solver::Heun, Steps::Trailing(n))
    }

    /// DPM-Solver++(2M) in `n` steps.
    pub fn dpm_solver(n: usize) -> Self {
        Self::new(Solver::DpmSolver, Steps::Trailing(n))
    }

    fn new(solver: Solver, steps: Steps) -> Self {
        Self { solver, steps, threshold: Threshold::default() }
    }

    /// Samples images from the noise `xt`.
    ///
    /// `predict` evaluates the network: it receives a batch, scaled by c_in, with the process's time of each image, and
    /// returns F in the sense of `prediction`. z is drawn from `noise`, usually a [`Rng`](crate::rng::Rng). One step hands the
    /// next only the images and, for DPM-Solver++, the last x̂_0.
    ///
    /// # Shapes
    /// `xt` (B, C, H, W), at the level of the first step: N(0, σ²) with σ = [`NoiseProcess::prior_std`] for a whole
    /// trajectory. The result is as `xt`, nominally in \[−1, 1\].
    ///
    /// # Errors
    /// As [`Sampler::states`], or `predict` fails.
    ///
    /// ```
    /// use diffusion_core::{candle::Device, prediction::Prediction, rng::Rng, sampler::Sampler, schedule::Schedule};
    /// // If all images are 0, the best prediction is ε̂ = x_t/√(1−ᾱ_t), and sampling finds the image.
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

    /// The states of [`Sampler::sample`], one for each step: to record, plot, count, or change along the way.
    ///
    /// # Shapes
    /// As [`Sampler::sample`].
    ///
    /// # Errors
    /// The process has no such steps, the prediction type cannot work on it, or a number is outside its range: the message
    /// names it and its value.
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

    /// [`Sampler::states`], with noise that is lent or kept.
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

    /// Encodes images: finds the noise from which [`Sampler::sample`] with the same steps makes `x0`, approximately. The error
    /// shrinks with more steps.
    ///
    /// The clean image is used as x_t at the cleanest time that a network knows. Where neighbouring pixels are exactly equal,
    /// as in drawn images, the network finds no noise there to amplify, and the result has too little variance; adding noise of
    /// one to a few times that level's to `x0` avoids it.
    ///
    /// # Shapes
    /// `x0` (B, C, H, W), in \[−1, 1\]; the result is as `x0`, at the level of the first step.
    ///
    /// # Errors
    /// As [`Sampler::sample`], or the solver is stochastic: then many noises lead to an image.
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
        let none = &mut |_: &Tensor| bail!("no noise is drawn here");
        States::new(self, predict, prediction, Source::Lent(none), Path { times, levels, end }, x0).finish()
    }

    /// The times visited, if all numbers are in their ranges.
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
