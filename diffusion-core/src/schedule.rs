//! The discrete, variance-preserving schedules: β, α, ᾱ and the signal-to-noise ratio of each time step.
//!
//! A [`Schedule`] holds T variances β and the quantities derived from them, in f64. Time steps are numbered t = 0 …
//! T−1, as in the papers' code. The papers' text numbers them 1 … T, so `alpha_bar(t)` here is their ᾱ_{t+1}; their t =
//! 0, the clean image, comes *before* step 0 here ([`Schedule::alpha_bar_before`]`(0) = 1`).
//!
//! Built from scratch in `notebooks/01_forward.ipynb`.

mod betas;

pub use betas::Betas;

use crate::level::Level;
use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The largest √ᾱ at the last step for which [`Schedule::warning`] is silent: a tenth of the image's amplitude, SNR −20
/// dB.
pub const MAX_FINAL_SIGNAL: f64 = 0.1;

/// The largest number of time steps, a thousand times the papers' 1000.
pub const MAX_TIMESTEPS: usize = 1_000_000;

/// The T variances of a forward process and the quantities derived from them.
///
/// In a file it is a table with `timesteps` (default 1000) and [`betas`](Betas) (default linear).
///
/// ```
/// use diffusion_core::schedule::Schedule;
/// let schedule = Schedule::linear(1000)?;
/// assert_eq!(schedule.beta(0), 1e-4);
/// assert!((schedule.beta(999) - 0.02).abs() < 1e-12);
/// assert!(schedule.alpha_bar(999) < 1e-4); // almost no signal is left
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct Schedule {
    kind: Betas,
    betas: Vec<f64>,
    alpha_bars: Vec<f64>,
}

/// A [`Schedule`] as a file writes it.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    timesteps: Option<usize>,
    betas: Betas,
}

impl From<Schedule> for Table {
    fn from(schedule: Schedule) -> Self {
        Self { timesteps: Some(schedule.timesteps()), betas: schedule.kind }
    }
}

impl TryFrom<Table> for Schedule {
    type Error = candle_core::Error;

    fn try_from(Table { timesteps, betas }: Table) -> Result<Self> {
        let listed = match &betas {
            Betas::Custom { values, .. } => values.len(),
            _ => 1000,
        };
        Self::new(timesteps.unwrap_or(listed), betas)
    }
}

impl Default for Schedule {
    /// [`Betas::LINEAR`] with T = 1000.
    fn default() -> Self {
        Self::from_values(Betas::LINEAR, Betas::LINEAR.values(1000))
    }
}

impl Schedule {
    /// Builds a schedule with T = `timesteps`, 2 ≤ T ≤ [`MAX_TIMESTEPS`].
    ///
    /// # Errors
    /// T is out of range or differs from the number of [`Betas::Custom`] values, or a field of `betas` is out of range:
    /// the message names the field and its value.
    pub fn new(timesteps: usize, betas: Betas) -> Result<Self> {
        betas.check()?;
        if let Betas::Custom { name, values } = &betas
            && values.len() != timesteps
        {
            bail!("{name} schedule: timesteps = {timesteps}, but betas lists {} variances", values.len())
        }
        if timesteps < 2 {
            bail!("timesteps = {timesteps}: a schedule needs at least 2 time steps (the papers use 1000)")
        }
        if timesteps > MAX_TIMESTEPS {
            bail!("timesteps = {timesteps}: a schedule has at most {MAX_TIMESTEPS} time steps (the papers use 1000)")
        }
        let values = betas.values(timesteps);
        Ok(Self::from_values(betas, values))
    }

    fn from_values(kind: Betas, betas: Vec<f64>) -> Self {
        let mut product = 1.0;
        let alpha_bar = |beta: &f64| {
            product *= 1.0 - beta;
            product
        };
        let alpha_bars = betas.iter().map(alpha_bar).collect();
        Self { kind, betas, alpha_bars }
    }

    /// The linear schedule of DDPM: β from 1e-4 to 0.02 ([`Betas::LINEAR`]).
    ///
    /// # Errors
    /// See [`Schedule::new`].
    pub fn linear(timesteps: usize) -> Result<Self> {
        Self::new(timesteps, Betas::LINEAR)
    }

    /// The cosine schedule of Nichol & Dhariwal ([`Betas::COSINE`]).
    ///
    /// # Errors
    /// See [`Schedule::new`].
    pub fn cosine(timesteps: usize) -> Result<Self> {
        Self::new(timesteps, Betas::COSINE)
    }

    /// The sigmoid schedule ([`Betas::SIGMOID`]).
    ///
    /// # Errors
    /// See [`Schedule::new`].
    pub fn sigmoid(timesteps: usize) -> Result<Self> {
        Self::new(timesteps, Betas::SIGMOID)
    }

    /// Builds a schedule from a list of variances.
    ///
    /// # Errors
    /// There are fewer than two variances, or one is outside (0, 1): the message names it.
    pub fn from_betas(name: &str, betas: Vec<f64>) -> Result<Self> {
        Self::new(betas.len(), Betas::Custom { name: name.to_owned(), values: betas })
    }

    /// The formula for β that the schedule was built from.
    pub fn kind(&self) -> &Betas {
        &self.kind
    }

    /// The name of the schedule: `linear`, `cosine`, … or the name given to [`Schedule::from_betas`].
    pub fn name(&self) -> &str {
        self.kind.name()
    }

    /// T, the number of time steps.
    pub fn timesteps(&self) -> usize {
        self.betas.len()
    }

    /// β_t for t = 0 … T−1, the variance of the noise added in step t.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// α_t = 1 − β_t.
    pub fn alphas(&self) -> Vec<f64> {
        self.betas.iter().map(|beta| 1.0 - beta).collect()
    }

    /// ᾱ_t = α_0 α_1 … α_t, the fraction of the image's variance left in x_t; it falls from nearly 1 to nearly 0.
    pub fn alpha_bars(&self) -> &[f64] {
        &self.alpha_bars
    }

    /// SNR(t) = ᾱ_t / (1 − ᾱ_t), the ratio of the variances ([Kingma et al. 2021](https://arxiv.org/abs/2107.00630),
    /// eq. 2).
    pub fn snrs(&self) -> Vec<f64> {
        (0..self.timesteps()).map(|t| self.snr(t)).collect()
    }

    /// SNR(t) in decibels, 10 log₁₀ SNR; 0 dB means equal variances of image and noise.
    pub fn snrs_db(&self) -> Vec<f64> {
        self.snrs().iter().map(|snr| 10.0 * snr.log10()).collect()
    }

    /// β_t; NaN if t ≥ T.
    pub fn beta(&self, t: usize) -> f64 {
        self.betas.get(t).copied().unwrap_or(f64::NAN)
    }

    /// ᾱ_t; NaN if t ≥ T.
    pub fn alpha_bar(&self, t: usize) -> f64 {
        self.alpha_bars.get(t).copied().unwrap_or(f64::NAN)
    }

    /// ᾱ_{t−1}, or 1 (the clean image) for t = 0; NaN if t > T.
    pub fn alpha_bar_before(&self, t: usize) -> f64 {
        if t == 0 { 1.0 } else { self.alpha_bar(t - 1) }
    }

    /// The level of x_t: signal √ᾱ_t, noise √(1−ᾱ_t); NaN if t ≥ T.
    pub fn level(&self, t: usize) -> Level {
        Level::from_alpha_bar(self.alpha_bar(t))
    }

    /// The levels at several time steps, one for each image of a batch.
    ///
    /// # Errors
    /// A time step is outside 0 … T−1: the message names it.
    pub fn levels(&self, t: &[usize]) -> Result<Vec<Level>> {
        let last = self.timesteps() - 1;
        if let Some((i, t)) = t.iter().enumerate().find(|(_, t)| **t > last) {
            bail!("t[{i}] = {t} is out of range; the schedule has the steps 0 … {last}")
        }
        Ok(t.iter().map(|t| self.level(*t)).collect())
    }

    /// SNR(t) = ᾱ_t / (1 − ᾱ_t); NaN if t ≥ T.
    pub fn snr(&self, t: usize) -> f64 {
        self.alpha_bar(t) / (1.0 - self.alpha_bar(t))
    }

    /// A warning if the terminal SNR is too high, √ᾱ_{T−1} > [`MAX_FINAL_SIGNAL`]. Sampling starts from pure noise,
    /// which the network has then never seen in training ([Lin et al. 2023](https://arxiv.org/abs/2305.08891)).
    pub fn warning(&self) -> Option<String> {
        let last = self.timesteps() - 1;
        let signal = self.alpha_bar(last).sqrt();
        (signal > MAX_FINAL_SIGNAL).then(|| {
            format!(
                "x_T is not yet noise: {:.0} % of the image's amplitude is left at the last step (√ᾱ = {signal:.3}, SNR {:.1} dB; \
                 it should be below {MAX_FINAL_SIGNAL}, −20 dB). Use more time steps, a larger last β, or the cosine schedule.",
                100.0 * signal,
                10.0 * self.snr(last).log10(),
            )
        })
    }

    /// Displays the summary in a notebook, with the warning if there is one.
    pub fn evcxr_display(&self) {
        println!("EVCXR_BEGIN_CONTENT text/plain\n{self}\nEVCXR_END_CONTENT");
    }
}

/// Prints the name, T, the first and last β, √ᾱ and SNR of the last step, and the warning, if any, on a second line.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.timesteps() - 1;
        write!(
            f,
            "{} schedule, T = {}: β {:.3e} … {:.3e}, at the last step √ᾱ = {:.2e}, SNR {:.1} dB",
            self.name(),
            self.timesteps(),
            self.betas[0],
            self.betas[last],
            self.alpha_bar(last).sqrt(),
            10.0 * self.snr(last).log10(),
        )?;
        self.warning().map_or(Ok(()), |warning| write!(f, "\nwarning: {warning}"))
    }
}

/// Prints the summary of [`Display`](fmt::Display) instead of a thousand variances.
impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::FRAC_PI_2;

    fn all(steps: usize) -> Vec<Schedule> {
        let scaled = Betas::ScaledLinear { start: 8.5e-4, end: 0.012 };
        [Betas::LINEAR, scaled, Betas::COSINE, Betas::SIGMOID].map(|betas| Schedule::new(steps, betas).unwrap()).into()
    }

    #[test]
    fn every_schedule_only_adds_noise() {
        for steps in [2, 3, 10, 500, 1000, 2000] {
            for s in all(steps) {
                assert_eq!((s.betas().len(), s.alpha_bars().len(), s.timesteps()), (steps, steps, steps));
                assert!(s.betas().iter().all(|b| *b > 0.0 && *b < 1.0), "{s}");
                assert!(s.betas().windows(2).all(|b| b[0] <= b[1]), "{s}");
                assert!(s.alpha_bars().windows(2).all(|a| a[0] > a[1]), "{s}");
                assert!(s.snrs_db().windows(2).all(|x| x[0] > x[1]), "{s}");
            }
        }
    }

    #[test]
    fn linear_has_the_end_points_of_ddpm() {
        let s = Schedule::linear(1000).unwrap();
        assert_eq!((s.beta(0), s.beta(999)), (1e-4, 0.02));
        assert_eq!(s.alphas()[10], 1.0 - s.beta(10));
        assert_eq!((s.alpha_bar_before(0), s.alpha_bar_before(1)), (1.0, s.alpha_bar(0)));
    }

    #[test]
    fn cosine_is_the_papers_alpha_bar_until_the_cut_off() {
        let s = Schedule::cosine(1000).unwrap();
        let f = |t: f64| ((t / 1000.0 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
        for t in 0..990 {
            assert!((s.alpha_bar(t) - f(t as f64 + 1.0) / f(0.0)).abs() < 1e-12, "{t}");
        }
        assert_eq!(s.beta(999), 0.999);
    }

    #[test]
    fn errors_name_the_bad_value() {
        let fail = |betas, steps| Schedule::new(steps, betas).unwrap_err().to_string();
        let linear = |start, end| Betas::Linear { start, end };
        for (message, wants) in [
            (fail(Betas::LINEAR, 0), "timesteps = 0"),
            (fail(Betas::LINEAR, 1), "timesteps = 1"),
            (fail(Betas::LINEAR, usize::MAX), "at most 1000000 time steps"),
            (fail(linear(0.0, 0.02), 10), "start = 0"),
            (fail(linear(1e-4, 1.0), 10), "end = 1"),
            (fail(linear(f64::NAN, 0.5), 10), "start = NaN"),
            (fail(linear(0.3, 0.2), 10), "start = 0.3 is above end = 0.2"),
            (fail(Betas::Cosine { offset: -1.0, max_beta: 0.9 }, 10), "offset = -1"),
            (fail(Betas::Cosine { offset: 0.0, max_beta: 1.0 }, 10), "max_beta = 1"),
            (Schedule::from_betas("my", vec![0.1, 1.5]).unwrap_err().to_string(), "my schedule: betas[1] = 1.5"),
            (Schedule::from_betas("my", vec![0.1]).unwrap_err().to_string(), "1 betas"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
    }

    /// The well-known bug: fewer time steps T with an unchanged range of β.
    #[test]
    fn too_few_steps_are_warned_about() {
        for steps in [1000, 2000] {
            assert_eq!(Schedule::linear(steps).unwrap().warning(), None);
        }
        let short = Schedule::linear(100).unwrap();
        assert!(short.warning().unwrap().contains("60 % of the image"), "{short}");
        assert!(short.to_string().contains("warning: x_T is not yet noise"), "{short}");
        assert_eq!(Schedule::cosine(100).unwrap().warning(), None);
    }
}
