//! From noise to images: the reverse process, step by step.
//!
//! A step goes from x_t to x_s, s < t, and there is one formula for all of them
//! ([Song et al. 2021](https://arxiv.org/abs/2010.02502), equation 12):
//!
//! x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s−σ²) ε̂ + σ z, with σ = η √((1−ᾱ_s)/(1−ᾱ_t)) √(1−ᾱ_t/ᾱ_s) and z ~ N(0, I).
//!
//! x̂_0 is what the network takes for the clean image and ε̂ the noise that is then left, x_t = √ᾱ_t x̂_0 + √(1−ᾱ_t) ε̂. The
//! last step goes to ᾱ = 1, the clean image. What a [`Solver`] chooses is σ and how x̂_0 is estimated:
//!
//! | solver | x̂_0 | σ | asks the network | order |
//! |---|---|---|---|---|
//! | [DDIM](Solver::Ddim) | the answer at t | η | once a step | 1 |
//! | [DDPM](Solver::Ddpm) | the answer at t | η = 1, or the original's β | once a step | |
//! | [Heun](Solver::Heun) | the mean of the answers at t and, after a trial step, at s | 0 | twice a step | 2 |
//! | [DPM-Solver++(2M)](Solver::DpmSolver) | the line through the last answer and this one, prolonged | 0 | once a step | 2 |
//!
//! Nothing here knows of networks, classes or guidance: a sampler asks a function.
//!
//! Built by hand in `notebooks/04_sampling.ipynb` and `notebooks/06_ddim.ipynb`.

mod interpolate;
mod noise;
mod states;
mod steps;

pub use interpolate::slerp;
pub use noise::Noise;
pub use states::{State, States, key_frames};
pub use steps::Steps;

use crate::diffusion::Param;
use crate::schedule::Schedule;
use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

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
    /// Which time steps are visited.
    pub steps: Steps,
    /// How x̂_0 is kept where images are.
    pub threshold: Threshold,
}

/// What a step does; the table in the [module](self) compares them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Solver {
    /// The formula with this η in \[0, 1\] ([Song et al. 2021](https://arxiv.org/abs/2010.02502)): 0 draws no noise, so that
    /// the image is a function of x_T; 1 is [`Solver::Ddpm`] with [`Variance::Posterior`].
    Ddim {
        /// η.
        eta: f64,
    },
    /// Ancestral sampling ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), algorithm 2).
    Ddpm {
        /// σ².
        variance: Variance,
    },
    /// Heun's method for the probability flow: a trial step, the answer there, and the step again with the mean of both.
    ///
    /// It is applied to d(x/√(1−ᾱ)) = x̂_0 d√(ᾱ/(1−ᾱ)), in which no error grows, also where ᾱ is nearly 0; EDM's
    /// ([Karras et al. 2022](https://arxiv.org/abs/2206.00364), algorithm 1) is the same for d(x/√ᾱ) = ε̂ d√((1−ᾱ)/ᾱ).
    /// The last step, to the clean image, is one of DDIM: there is no network to ask.
    Heun,
    /// DPM-Solver++(2M) ([Lu et al. 2022](https://arxiv.org/abs/2211.01095), algorithm 2): x̂_0 is prolonged along a line
    /// in λ = log √(ᾱ/(1−ᾱ)). The first and the last step are of DDIM.
    DpmSolver,
}

/// σ² of ancestral sampling, in the step from t to s; the last step draws no noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variance {
    /// β̃ = (1−ᾱ_s)/(1−ᾱ_t) (1−ᾱ_t/ᾱ_s), the posterior's: best where the data is a single image.
    #[default]
    Posterior,
    /// β = 1−ᾱ_t/ᾱ_s, the forward process's: best where the data is noise.
    Beta,
}

/// What is done to x̂_0 before it is used; ε̂ is computed anew from the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Threshold {
    /// Nothing.
    None,
    /// It is clipped to \[−1, 1\].
    #[default]
    Clip,
    /// It is clipped to \[−s, s\] and divided by s, the given quantile of each image's |x̂_0|, at least 1
    /// ([Saharia et al. 2022](https://arxiv.org/abs/2205.11487), section 2.3): for strong guidance.
    Dynamic {
        /// In (0, 1\]; 0.995 in the paper.
        quantile: f64,
    },
}

impl Default for Sampler {
    /// DDIM in 50 steps, with clipping.
    fn default() -> Self {
        Self::ddim(50)
    }
}

impl Sampler {
    /// DDIM with η = 0 in `n` steps, trailing, with clipping.
    pub fn ddim(n: usize) -> Self {
        Self::new(Solver::Ddim { eta: 0.0 }, Steps::Trailing(n))
    }

    /// Ancestral sampling through all time steps, with the posterior's variance and clipping.
    pub fn ddpm() -> Self {
        let variance = Variance::default();
        Self::new(Solver::Ddpm { variance }, Steps::All)
    }

    /// Heun's method in `n` steps, so 2n−1 answers of the network.
    pub fn heun(n: usize) -> Self {
        Self::new(Solver::Heun, Steps::Trailing(n))
    }

    /// DPM-Solver++(2M) in `n` steps.
    pub fn dpm_solver(n: usize) -> Self {
        Self::new(Solver::DpmSolver, Steps::Trailing(n))
    }

    fn new(solver: Solver, steps: Steps) -> Self {
        let threshold = Threshold::Clip;
        Self {
            solver,
            steps,
            threshold,
        }
    }

    /// The images that the reverse process makes of the noise `xt`.
    ///
    /// `predict` answers to a batch at a time step of each image, in the sense of `param`; z is drawn from `noise`, a
    /// [`Rng`](crate::rng::Rng) mostly. Nothing is kept of one step in the next but the images, and of DPM-Solver++ the last
    /// x̂_0.
    ///
    /// # Shapes
    /// `xt` (B, C, H, W), standard normal; the result is as `xt`, nominally in \[−1, 1\].
    ///
    /// # Errors
    /// As [`Sampler::states`], or `predict` fails.
    ///
    /// ```
    /// use diffusion_core::{candle::Device, diffusion::Param, rng::Rng, sampler::Sampler, schedule::Schedule};
    /// // Where all images are 0, the best answer is ε̂ = x_t/√(1−ᾱ_t), and sampling finds the image.
    /// let (schedule, mut rng) = (Schedule::linear(1000)?, Rng::new(0));
    /// let xt = rng.randn((2, 1, 4, 4), &Device::Cpu)?;
    /// let best = |xt: &_, t: &[usize]| -> diffusion_core::candle::Result<_> {
    ///     xt / (1.0 - schedule.alpha_bar(t[0])).sqrt()
    /// };
    /// let x0 = Sampler::default().sample(best, &schedule, Param::Eps, &xt, &mut rng)?;
    /// assert!(x0.abs()?.max_all()?.to_scalar::<f32>()? < 1e-4);
    /// # Ok::<(), diffusion_core::candle::Error>(())
    /// ```
    pub fn sample(
        &self,
        predict: impl FnMut(&Tensor, &[usize]) -> Result<Tensor>,
        schedule: &Schedule,
        param: Param,
        xt: &Tensor,
        noise: &mut impl Noise,
    ) -> Result<Tensor> {
        self.states(predict, schedule, param, xt, noise)?.finish()
    }

    /// The same, state by state: to record, to draw, to count, or to change on the way.
    ///
    /// # Shapes
    /// As [`Sampler::sample`].
    ///
    /// # Errors
    /// There are no such steps in the schedule, or η or a quantile is out of its range: the message names it and its value.
    ///
    /// ```
    /// # use diffusion_core::{candle::Device, diffusion::Param, rng::Rng, sampler::Sampler, schedule::Schedule};
    /// # let (schedule, mut rng) = (Schedule::linear(1000)?, Rng::new(0));
    /// # let xt = rng.randn((2, 1, 4, 4), &Device::Cpu)?;
    /// let zeros = |xt: &diffusion_core::candle::Tensor, _: &[usize]| xt.zeros_like();
    /// let mut visited = Vec::new();
    /// for state in Sampler::ddim(4).states(zeros, &schedule, Param::X0, &xt, &mut rng)? {
    ///     let state = state?;
    ///     assert_eq!(state.x0_hat.dims(), xt.dims());
    ///     visited.push(state.t);
    /// }
    /// assert_eq!(visited, [999, 749, 499, 249]);
    /// # Ok::<(), diffusion_core::candle::Error>(())
    /// ```
    pub fn states<'a, P, N>(
        &self,
        predict: P,
        schedule: &Schedule,
        param: Param,
        xt: &Tensor,
        noise: &'a mut N,
    ) -> Result<States<'a, P, N>>
    where
        P: FnMut(&Tensor, &[usize]) -> Result<Tensor>,
        N: Noise,
    {
        self.check()?;
        let path = self.steps.visited(schedule)?;
        Ok(States::new(
            self, predict, schedule, param, noise, path, None, xt,
        ))
    }

    /// The way back: the noise from which [`Sampler::sample`] with the same steps makes the images `x0`, nearly. The fewer
    /// steps, the less nearly.
    ///
    /// The clean image is taken for an x_t at t = 0, the first that a network knows. Where pixels agree to the last bit, as in
    /// drawn images, the network finds no noise to prolong, and what comes out has too little variance there; a grain of
    /// noise in `x0` of the size of √(1−ᾱ_0) or some times that mends it.
    ///
    /// # Shapes
    /// `x0` (B, C, H, W), in \[−1, 1\]; the result is as `x0`, at the level of the first of the steps.
    ///
    /// # Errors
    /// As [`Sampler::sample`], or the solver draws noise: then no noise is *the* one.
    pub fn encode(
        &self,
        predict: impl FnMut(&Tensor, &[usize]) -> Result<Tensor>,
        schedule: &Schedule,
        param: Param,
        x0: &Tensor,
    ) -> Result<Tensor> {
        self.check()?;
        if !matches!(
            self.solver,
            Solver::Ddim { eta: 0.0 } | Solver::Heun | Solver::DpmSolver
        ) {
            bail!(
                "sampler: {:?} draws noise, so there is no way back; use DDIM with eta = 0, Heun or DPM-Solver++",
                self.solver
            )
        }
        let mut path = self.steps.visited(schedule)?;
        path.reverse();
        let end = path.pop();
        if path.first() != Some(&0) {
            path.insert(0, 0);
        }
        let none = &mut |_: &Tensor| bail!("no noise is drawn here");
        States::new(self, predict, schedule, param, none, path, end, x0).finish()
    }

    fn check(&self) -> Result<()> {
        if let Solver::Ddim { eta } = self.solver
            && !(0.0..=1.0).contains(&eta)
        {
            bail!("sampler: eta = {eta} must be in [0, 1]")
        }
        if let Threshold::Dynamic { quantile } = self.threshold
            && !(quantile > 0.0 && quantile <= 1.0)
        {
            bail!("sampler: quantile = {quantile} must be in (0, 1]")
        }
        Ok(())
    }
}

impl Threshold {
    /// x̂_0 where images are; `None` if it is left alone.
    fn apply(self, x0: &Tensor) -> Result<Option<Tensor>> {
        match self {
            Self::None => Ok(None),
            Self::Clip => x0.clamp(-1f64, 1f64).map(Some),
            Self::Dynamic { quantile } => {
                let (sorted, _) = x0.abs()?.flatten_from(1)?.sort_last_dim(true)?;
                let last = sorted.dim(1)? - 1;
                // As torch.quantile: linear between the two nearest.
                let at = quantile * last as f64;
                let (below, above) = (at.floor() as usize, at.ceil() as usize);
                let (low, high) = (sorted.narrow(1, below, 1)?, sorted.narrow(1, above, 1)?);
                let between = (&low + ((high - &low)? * at.fract())?)?;
                let mut shape = vec![1; x0.rank()];
                shape[0] = x0.dim(0)?;
                let s = between.clamp(1f64, f64::INFINITY)?.reshape(shape)?;
                let clipped = x0.broadcast_minimum(&s)?.broadcast_maximum(&s.neg()?)?;
                clipped.broadcast_div(&s).map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests;
