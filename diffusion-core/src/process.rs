//! The noise process: which noise levels there are, and what their times are called.
//!
//! | process | time t | [`Level`] (signal, noise) | x at the noisiest time |
//! |---|---|---|---|
//! | [`Vp`](NoiseProcess::Vp), discrete and variance preserving | 0 … T−1 | √ᾱ_t, √(1−ᾱ_t) | N(0, 1) |
//! | [`Flow`](NoiseProcess::Flow) matching | 0 … 1 | 1 − t, t | N(0, 1) |
//! | [`Edm`](NoiseProcess::Edm), variance exploding | σ_min … σ_max | 1, σ | N(0, σ_max²) |
//!
//! Training draws times, samplers visit a falling list of them, and both only use the levels. A time is a real number;
//! integers are how the discrete process writes it.

mod time_sampling;

pub use time_sampling::TimeSampling;

use crate::choice::name_or_table;
use crate::level::Level;
use crate::schedule::Schedule;
use candle_core::{Result, bail};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;

/// The most steps that [`NoiseProcess::steps`] lists for a continuous process.
const MAX_STEPS: usize = 1_000_000;

/// A noise process; the [module](self) compares them.
///
/// In files it is a name, with the defaults of its fields, or a table: `"flow"`, `{flow = {shift = 3.0}}`,
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
    /// The discrete, variance-preserving process of DDPM ([Ho et al. 2020](https://arxiv.org/abs/2006.11239)). Between two
    /// time steps ln ᾱ is interpolated linearly.
    Vp(Schedule),
    /// Straight lines from data to noise, x_t = (1−t) x_0 + t ε ([Lipman et al. 2023](https://arxiv.org/abs/2210.02747),
    /// [Liu et al. 2023](https://arxiv.org/abs/2209.03003)).
    Flow {
        /// Moves times towards the noise, t = shift·u/(1+(shift−1)u) for u uniform: 1 leaves them, 3 suits large images
        /// ([Esser et al. 2024](https://arxiv.org/abs/2403.03206), equation 23). Positive.
        #[serde(default = "defaults::shift")]
        shift: f64,
    },
    /// The process of EDM, x_σ = x_0 + σ ε, whose time is σ itself ([Karras et al. 2022](https://arxiv.org/abs/2206.00364)).
    Edm {
        /// The cleanest σ, positive; 0.002 in the paper.
        #[serde(default = "defaults::sigma_min")]
        sigma_min: f64,
        /// The noisiest σ, above `sigma_min`; 80 in the paper.
        #[serde(default = "defaults::sigma_max")]
        sigma_max: f64,
        /// How much denser the steps are at small σ, at least 1; 7 in the paper (equation 5).
        #[serde(default = "defaults::rho")]
        rho: f64,
    },
}

/// What a file that names a process alone means.
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

/// A name or a table; a field outside its range is an error.
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

    /// EDM with the paper's numbers: σ from 0.002 to 80, ρ = 7.
    pub fn edm() -> Self {
        Self::Edm { sigma_min: defaults::sigma_min(), sigma_max: defaults::sigma_max(), rho: defaults::rho() }
    }

    /// `vp`, `flow` or `edm`, as in files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vp(_) => "vp",
            Self::Flow { .. } => "flow",
            Self::Edm { .. } => "edm",
        }
    }

    /// The discrete schedule.
    ///
    /// # Errors
    /// The process is continuous: it has no time steps.
    pub fn schedule(&self) -> Result<&Schedule> {
        match self {
            Self::Vp(schedule) => Ok(schedule),
            _ => bail!(
                "the {} process is continuous and has no schedule of time steps; use its levels and steps",
                self.name()
            ),
        }
    }

    /// An error that names the first field outside its range, and its value.
    ///
    /// # Errors
    /// There is one.
    pub fn check(&self) -> Result<()> {
        let positive = |field: &str, value: f64| {
            if !(value > 0.0 && value.is_finite()) {
                bail!("{} process: {field} = {value} must be a positive number", self.name())
            }
            Ok(())
        };
        match *self {
            // Made by its constructors alone, which check.
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

    /// The cleanest time with noise, where a network's prediction is well defined whatever its type.
    pub(crate) fn cleanest_noisy_time(&self) -> f64 {
        match self {
            Self::Flow { .. } => 1e-3,
            _ => self.range().0,
        }
    }

    /// The level at time `t`.
    ///
    /// # Errors
    /// `t` is outside the process's range.
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

    /// The level at each of several times.
    ///
    /// # Errors
    /// One is outside the process's range.
    pub fn levels(&self, t: &[f64]) -> Result<Vec<Level>> {
        t.iter().map(|t| self.level(*t)).collect()
    }

    /// The level at the noisiest time, where sampling begins.
    pub fn noisiest(&self) -> Level {
        match *self {
            Self::Vp(ref schedule) => schedule.level(schedule.timesteps() - 1),
            Self::Flow { .. } => Level { signal: 0.0, noise: 1.0 },
            Self::Edm { sigma_max, .. } => Level { signal: 1.0, noise: sigma_max },
        }
    }

    /// The standard deviation of x at the noisiest time, N(0, `prior_std`²), from which sampling starts.
    pub fn prior_std(&self) -> f64 {
        match *self {
            Self::Vp(_) | Self::Flow { .. } => 1.0,
            Self::Edm { sigma_max, .. } => sigma_max,
        }
    }

    /// The process's own list of `n` times, from the noisiest on and falling, each the start of a step; the last step goes
    /// to the clean image.
    ///
    /// The discrete process spaces them equally ("trailing", [Lin et al. 2023](https://arxiv.org/abs/2305.08891), table 2);
    /// flow takes u = 1, (n−1)/n, … 1/n before the shift; EDM goes from σ_max to σ_min in equal steps of σ^(1/ρ)
    /// ([Karras et al. 2022](https://arxiv.org/abs/2206.00364), equation 5).
    ///
    /// # Errors
    /// `n` = 0, or more than there are time steps.
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

    /// The time at the share `u` of the way from the cleanest (0) to the noisiest (1), by which times are spaced.
    fn quantile(&self, u: f64) -> f64 {
        let (cleanest, noisiest) = self.range();
        match *self {
            // The ends exactly, whatever a power rounds to.
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

    /// What the network's time embedding receives for time `t`, about 0 … 1000 on every process: t itself on the discrete
    /// one, 1000 t on flow, and 250 ln σ on EDM (1000 times its c_noise, [Karras et al.
    /// 2022](https://arxiv.org/abs/2206.00364), table 1).
    pub fn network_time(&self, t: f64) -> f64 {
        match self {
            Self::Vp(_) => t,
            Self::Flow { .. } => 1000.0 * t,
            Self::Edm { .. } => 250.0 * libm::log(t),
        }
    }

    /// What a network that wants its time in 0 … 1 divides [`NoiseProcess::network_time`] by: T on the discrete process,
    /// else 1000.
    pub fn max_network_time(&self) -> usize {
        match self {
            Self::Vp(schedule) => schedule.timesteps(),
            _ => 1000,
        }
    }
}

/// The process with its numbers, on one line.
impl fmt::Display for NoiseProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vp(schedule) => schedule.fmt(f),
            Self::Flow { shift } => write!(f, "flow matching, shift {shift}"),
            Self::Edm { sigma_min, sigma_max, rho } => write!(f, "EDM, σ {sigma_min} … {sigma_max}, ρ = {rho}"),
        }
    }
}

/// a/b to the nearest whole number, and of two the even one, as NumPy rounds.
pub(crate) fn rounded(a: usize, b: usize) -> usize {
    let (whole, twice) = (a / b, 2 * (a % b));
    whole + usize::from(twice > b || (twice == b && whole % 2 == 1))
}

#[cfg(test)]
mod tests;
