//! Noise processes: the noise levels that a model is trained on, and the times that number them.
//!
//! | process | time t | [`Level`] (signal, noise) | x at the noisiest time |
//! |---|---|---|---|
//! | [`Vp`](NoiseProcess::Vp), discrete and variance preserving | 0 … T−1 | √ᾱ_t, √(1−ᾱ_t) | N(0, 1) |
//! | [`Flow`](NoiseProcess::Flow) matching | 0 … 1 | 1 − t, t | N(0, 1) |
//! | [`Edm`](NoiseProcess::Edm), variance exploding | σ_min … σ_max | 1, σ | N(0, σ_max²) |
//!
//! Training draws times at random; a sampler visits a decreasing list of them. Both use only the level at each time. A
//! time is a real number; in the discrete process it is a whole number.

mod time_sampling;

pub use time_sampling::TimeSampling;

use crate::choice::name_or_table;
use crate::level::Level;
use crate::schedule::Schedule;
use candle_core::{Result, bail};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;

/// The largest number of steps that [`NoiseProcess::steps`] accepts for a continuous process.
const MAX_STEPS: usize = 1_000_000;

/// A noise process; the table in the [module](self) compares the three.
///
/// In a file it is a name, with default values for its fields, or a table: `"flow"`, `{flow = {shift = 3.0}}`,
/// `{vp = {timesteps = 500, betas = "cosine"}}`, `{edm = {sigma-min = 0.002, sigma-max = 80, rho = 7}}`.
///
/// ```
/// use diffusion_core::{level::Level, process::NoiseProcess, schedule::Schedule};
/// let ddpm = NoiseProcess::from(Schedule::linear(1000)?);
/// assert_eq!(ddpm, NoiseProcess::default());
/// assert_eq!(ddpm.steps(4)?, [999.0, 749.0, 499.0, 249.0]);
/// assert_eq!(NoiseProcess::flow().level(0.25)?, Level { signal: 0.75, noise: 0.25 });
/// assert_eq!(NoiseProcess::edm().prior_std(), 80.0);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum NoiseProcess {
    /// The discrete, variance-preserving process of DDPM ([Ho et al. 2020](https://arxiv.org/abs/2006.11239)). Between
    /// two time steps, ln ᾱ is interpolated linearly.
    Vp(Schedule),
    /// Flow matching along straight lines, x_t = (1−t) x_0 + t ε
    /// ([Lipman et al. 2023](https://arxiv.org/abs/2210.02747),
    /// [Liu et al. 2023](https://arxiv.org/abs/2209.03003)).
    Flow {
        /// Shifts times towards the noise, t = shift·u/(1+(shift−1)u) for uniform u: 1 changes nothing, 3 suits large
        /// images
        /// ([Esser et al. 2024](https://arxiv.org/abs/2403.03206), equation 23). Positive.
        #[serde(default = "defaults::shift")]
        shift: f64,
    },
    /// The process of EDM, x_σ = x_0 + σ ε, whose time is σ itself
    /// ([Karras et al. 2022](https://arxiv.org/abs/2206.00364)).
    Edm {
        /// The smallest σ, positive; 0.002 in the paper.
        #[serde(default = "defaults::sigma_min")]
        sigma_min: f64,
        /// The largest σ, above `sigma_min`; 80 in the paper.
        #[serde(default = "defaults::sigma_max")]
        sigma_max: f64,
        /// How much more densely the steps are spaced at small σ, at least 1; 7 in the paper (equation 5).
        #[serde(default = "defaults::rho")]
        rho: f64,
    },
}

/// The values of fields that a file leaves out.
mod defaults {
    pub(super) fn shift() -> f64 {
        1.0
    }
    pub(super) fn sigma_min() -> f64 {
        0.002
    }
    pub(super) fn sigma_max() -> f64 {
        80.0
    }
    pub(super) fn rho() -> f64 {
        7.0
    }
}

impl Serialize for NoiseProcess {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// Reads a name or a table; a field out of range is an error.
impl<'de> Deserialize<'de> for NoiseProcess {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Tagged(#[serde(with = "NoiseProcess")] NoiseProcess);
        let Tagged(process) = name_or_table(deserializer)?;
        process.check().map_err(D::Error::custom)?;
        Ok(process)
    }
}

impl Default for NoiseProcess {
    /// The linear schedule of DDPM with 1000 time steps.
    fn default() -> Self {
        Self::Vp(Schedule::default())
    }
}

impl From<Schedule> for NoiseProcess {
    fn from(schedule: Schedule) -> Self {
        Self::Vp(schedule)
    }
}

impl From<&Schedule> for NoiseProcess {
    fn from(schedule: &Schedule) -> Self {
        Self::Vp(schedule.clone())
    }
}

impl From<&Self> for NoiseProcess {
    fn from(process: &Self) -> Self {
        process.clone()
    }
}

impl NoiseProcess {
    /// Flow matching without a shift.
    pub fn flow() -> Self {
        Self::Flow { shift: defaults::shift() }
    }

    /// EDM with the paper's values: σ from 0.002 to 80, ρ = 7.
    pub fn edm() -> Self {
        Self::Edm { sigma_min: defaults::sigma_min(), sigma_max: defaults::sigma_max(), rho: defaults::rho() }
    }

    /// The name used in files: `vp`, `flow` or `edm`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vp(_) => "vp",
            Self::Flow { .. } => "flow",
            Self::Edm { .. } => "edm",
        }
    }

    /// The schedule of the discrete process.
    ///
    /// # Errors
    /// The process is continuous, so it has no time steps.
    pub fn schedule(&self) -> Result<&Schedule> {
        match self {
            Self::Vp(schedule) => Ok(schedule),
            _ => bail!(
                "the {} process is continuous and has no schedule of time steps; use NoiseProcess::level and \
                 NoiseProcess::steps",
                self.name()
            ),
        }
    }

    /// Checks that every field is in its range.
    ///
    /// # Errors
    /// A field is out of range: the message names it and its value.
    pub fn check(&self) -> Result<()> {
        let positive = |field: &str, value: f64| {
            if !(value > 0.0 && value.is_finite()) {
                bail!("{} process: {field} = {value} must be a positive number", self.name())
            }
            Ok(())
        };
        match *self {
            // A schedule is checked when it is constructed.
            Self::Vp(_) => {}
            Self::Flow { shift } => positive("shift", shift)?,
            Self::Edm { sigma_min, sigma_max, rho } => {
                positive("sigma-min", sigma_min)?;
                positive("sigma-max", sigma_max)?;
                if sigma_max <= sigma_min {
                    bail!("edm process: sigma-max = {sigma_max} must be above sigma-min = {sigma_min}")
                }
                if !(rho >= 1.0 && rho.is_finite()) {
                    bail!("edm process: rho = {rho} must be at least 1 (7 in the paper)")
                }
            }
        }
        Ok(())
    }

    /// The cleanest and the noisiest time.
    pub fn range(&self) -> (f64, f64) {
        match *self {
            Self::Vp(ref schedule) => (0.0, schedule.timesteps() as f64 - 1.0),
            Self::Flow { .. } => (0.0, 1.0),
            Self::Edm { sigma_min, sigma_max, .. } => (sigma_min, sigma_max),
        }
    }

    /// The cleanest time with noise in it, at which every prediction type is well defined.
    pub(crate) fn cleanest_noisy_time(&self) -> f64 {
        match self {
            Self::Flow { .. } => 1e-3,
            _ => self.range().0,
        }
    }

    /// The level at time `t`.
    ///
    /// # Errors
    /// `t` is outside the range of the process.
    pub fn level(&self, t: f64) -> Result<Level> {
        let (cleanest, noisiest) = self.range();
        if !(cleanest..=noisiest).contains(&t) {
            bail!("{} process: t = {t} is outside its range {cleanest} … {noisiest}", self.name())
        }
        Ok(match self {
            Self::Vp(schedule) => {
                let (at, between) = (t.floor() as usize, t.fract());
                if between == 0.0 {
                    return Ok(schedule.level(at));
                }
                let log = |t| libm::log(schedule.alpha_bar(t));
                Level::from_alpha_bar(libm::exp(log(at) + between * (log(at + 1) - log(at))))
            }
            Self::Flow { .. } => Level { signal: 1.0 - t, noise: t },
            Self::Edm { .. } => Level { signal: 1.0, noise: t },
        })
    }

    /// The levels at several times.
    ///
    /// # Errors
    /// A time is outside the range of the process.
    pub fn levels(&self, t: &[f64]) -> Result<Vec<Level>> {
        t.iter().map(|t| self.level(*t)).collect()
    }

    /// The time with ln(noise/signal) = `z`, or the nearest if there is none; a time step of the discrete process.
    pub(crate) fn time_at(&self, z: f64) -> f64 {
        match *self {
            Self::Vp(ref schedule) => {
                let ratio = |t: usize| -schedule.level(t).lambda();
                let all = schedule.alpha_bars();
                // ᾱ decreases with t, so ln(noise/signal) increases.
                let alpha_bar = 1.0 / (1.0 + libm::exp(2.0 * z));
                let above = all.partition_point(|a| *a > alpha_bar).min(all.len() - 1);
                let below = above.saturating_sub(1);
                let nearest = if (ratio(above) - z).abs() < (z - ratio(below)).abs() { above } else { below };
                nearest as f64
            }
            Self::Flow { .. } => 1.0 / (1.0 + libm::exp(-z)),
            Self::Edm { sigma_min, sigma_max, .. } => libm::exp(z).clamp(sigma_min, sigma_max),
        }
    }

    /// The level at the noisiest time, where sampling starts.
    pub fn noisiest(&self) -> Level {
        match *self {
            Self::Vp(ref schedule) => schedule.level(schedule.timesteps() - 1),
            Self::Flow { .. } => Level { signal: 0.0, noise: 1.0 },
            Self::Edm { sigma_max, .. } => Level { signal: 1.0, noise: sigma_max },
        }
    }

    /// The standard deviation of x at the noisiest time; sampling starts from N(0, `prior_std`²).
    pub fn prior_std(&self) -> f64 {
        match *self {
            Self::Vp(_) | Self::Flow { .. } => 1.0,
            Self::Edm { sigma_max, .. } => sigma_max,
        }
    }

    /// The start times of `n` steps, from the noisiest time downwards; the last step ends at the clean image.
    ///
    /// The discrete process spaces them equally ("trailing", [Lin et al. 2023](https://arxiv.org/abs/2305.08891), table
    /// 2). Flow matching takes u = 1, (n−1)/n, … 1/n before the shift. EDM goes from σ_max to σ_min in equal steps of
    /// σ^(1/ρ) ([Karras et al. 2022](https://arxiv.org/abs/2206.00364), equation 5).
    ///
    /// # Errors
    /// `n` is 0, or larger than the number of time steps.
    pub fn steps(&self, n: usize) -> Result<Vec<f64>> {
        self.check()?;
        let (most, of) = match self {
            Self::Vp(schedule) => (schedule.timesteps(), ", the time steps of the schedule"),
            _ => (MAX_STEPS, ""),
        };
        if !(1..=most).contains(&n) {
            bail!("sampler: steps = {n} must be in 1 … {most}{of}")
        }
        Ok(match self {
            Self::Vp(_) => (0..n).map(|i| (rounded((n - i) * most, n) - 1) as f64).collect(),
            Self::Flow { .. } => (0..n).map(|i| self.quantile((n - i) as f64 / n as f64)).collect(),
            Self::Edm { .. } => {
                let last = (n - 1).max(1) as f64;
                (0..n).map(|i| self.quantile(1.0 - i as f64 / last)).collect()
            }
        })
    }

    /// The time at the fraction `u` of the range, from the cleanest time (0) to the noisiest (1).
    fn quantile(&self, u: f64) -> f64 {
        let (cleanest, noisiest) = self.range();
        match *self {
            // The exact ends, whatever the rounding of the power.
            _ if u <= 0.0 => cleanest,
            _ if u >= 1.0 => noisiest,
            Self::Vp(_) => u * noisiest,
            Self::Flow { shift } => shift * u / (1.0 + (shift - 1.0) * u),
            Self::Edm { rho, .. } => {
                let root = |sigma: f64| libm::pow(sigma, 1.0 / rho);
                let sigma = libm::pow(root(cleanest) + u * (root(noisiest) - root(cleanest)), rho);
                sigma.clamp(cleanest, noisiest)
            }
        }
    }

    /// The input of the network's time embedding for time `t`, roughly 0 … 1000 for every process: t for the discrete
    /// one, 1000 t for flow, and 250 ln σ for EDM (1000 times the paper's c_noise,
    /// [Karras et al. 2022](https://arxiv.org/abs/2206.00364), table 1).
    pub fn network_time(&self, t: f64) -> f64 {
        match self {
            Self::Vp(_) => t,
            Self::Flow { .. } => 1000.0 * t,
            Self::Edm { .. } => 250.0 * libm::log(t),
        }
    }

    /// The divisor that scales [`NoiseProcess::network_time`] to 0 … 1: T for the discrete process, otherwise 1000.
    pub fn max_network_time(&self) -> usize {
        match self {
            Self::Vp(schedule) => schedule.timesteps(),
            _ => 1000,
        }
    }
}

/// Prints the process and its parameters on one line.
impl fmt::Display for NoiseProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vp(schedule) => schedule.fmt(f),
            Self::Flow { shift } => write!(f, "flow matching, shift {shift}"),
            Self::Edm { sigma_min, sigma_max, rho } => write!(f, "EDM, σ {sigma_min} … {sigma_max}, ρ = {rho}"),
        }
    }
}

/// a/b rounded to the nearest whole number, with halves rounded to even as in NumPy.
pub(crate) fn rounded(a: usize, b: usize) -> usize {
    let (whole, twice) = (a / b, 2 * (a % b));
    whole + usize::from(twice > b || (twice == b && whole % 2 == 1))
}

#[cfg(test)]
mod tests;
