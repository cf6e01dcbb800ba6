//! How much noise each time step adds: β, α, ᾱ and the signal-to-noise ratio, in f64 on the host.
//!
//! A [`Schedule`] is a vector of T numbers β and what follows from them. Its steps are counted t = 0 … T−1 as in the
//! papers' code; the papers' text counts 1 … T, so `alpha_bar(t)` here is ᾱ_{t+1} there, and the clean image, the
//! papers' t = 0, is what comes *before* step 0 here ([`Schedule::alpha_bar_before`]`(0) = 1`).
//!
//! Built by hand in `notebooks/01_forward.ipynb`.

use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;
use std::fmt;

/// √ᾱ of the last step above which [`Schedule::warning`] speaks: a tenth of the image's amplitude, an SNR of −20 dB.
pub const MAX_FINAL_SIGNAL: f64 = 0.1;

/// The most time steps that [`Schedule::new`] makes, a thousand times what the papers use.
pub const MAX_STEPS: usize = 1_000_000;

/// The named ways to choose the variances β_0 … β_{T−1}.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Betas {
    /// Equally spaced from `start` to `end`
    /// ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), section 4: 1e-4 → 0.02 for T = 1000).
    Linear {
        /// β of the first step, in (0, 1).
        #[serde(default = "defaults::start")]
        start: f64,
        /// β of the last step, in (0, 1), not below `start`.
        #[serde(default = "defaults::end")]
        end: f64,
    },
    /// √β equally spaced: slower at first
    /// ([Rombach et al. 2022](https://arxiv.org/abs/2112.10752), with 0.00085 → 0.012).
    ScaledLinear {
        /// β of the first step, in (0, 1).
        #[serde(default = "defaults::scaled_start")]
        start: f64,
        /// β of the last step, in (0, 1), not below `start`.
        #[serde(default = "defaults::scaled_end")]
        end: f64,
    },
    /// ᾱ falls as cos²(π/2 · (t/T + s)/(1 + s))
    /// ([Nichol & Dhariwal 2021](https://arxiv.org/abs/2102.09672), equation 17: s = 0.008, β at most 0.999).
    Cosine {
        /// s: keeps the first β from being too small; not negative.
        #[serde(default = "defaults::offset")]
        offset: f64,
        /// β is cut off here, in (0, 1), because it would reach 1 at the last step.
        #[serde(default = "defaults::max_beta")]
        max_beta: f64,
    },
    /// β follows a logistic curve over −6 … 6
    /// ([Xu et al. 2022](https://arxiv.org/abs/2203.02923), as in their code and in diffusers).
    Sigmoid {
        /// β far to the left of the curve, in (0, 1).
        #[serde(default = "defaults::start")]
        start: f64,
        /// β far to the right of the curve, in (0, 1), not below `start`.
        #[serde(default = "defaults::end")]
        end: f64,
    },
}

/// What a file that names a schedule alone means.
mod defaults {
    pub(super) fn start() -> f64 {
        1e-4
    }
    pub(super) fn end() -> f64 {
        0.02
    }
    pub(super) fn scaled_start() -> f64 {
        0.00085
    }
    pub(super) fn scaled_end() -> f64 {
        0.012
    }
    pub(super) fn offset() -> f64 {
        0.008
    }
    pub(super) fn max_beta() -> f64 {
        0.999
    }
}

impl Betas {
    /// [`Betas::Linear`] from 1e-4 to 0.02, the original's.
    pub const LINEAR: Self = Self::Linear {
        start: 1e-4,
        end: 0.02,
    };
    /// [`Betas::Cosine`] with the paper's s = 0.008 and cut-off 0.999.
    pub const COSINE: Self = Self::Cosine {
        offset: 0.008,
        max_beta: 0.999,
    };
    /// [`Betas::Sigmoid`] from 1e-4 to 0.02.
    pub const SIGMOID: Self = Self::Sigmoid {
        start: 1e-4,
        end: 0.02,
    };

    /// The name in lower case: `linear`, `scaled linear`, `cosine`, `sigmoid`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::ScaledLinear { .. } => "scaled linear",
            Self::Cosine { .. } => "cosine",
            Self::Sigmoid { .. } => "sigmoid",
        }
    }

    fn check(&self) -> Result<()> {
        let unit = |field: &str, value: f64| {
            if !(value > 0.0 && value < 1.0) {
                bail!(
                    "{} schedule: {field} = {value} is not a variance; it must lie in (0, 1)",
                    self.name()
                )
            }
            Ok(())
        };
        match *self {
            Self::Linear { start, end }
            | Self::ScaledLinear { start, end }
            | Self::Sigmoid { start, end } => {
                unit("start", start)?;
                unit("end", end)?;
                if start > end {
                    bail!(
                        "{} schedule: start = {start} is above end = {end}; noise must not decrease with t",
                        self.name()
                    )
                }
            }
            Self::Cosine { offset, max_beta } => {
                unit("max_beta", max_beta)?;
                if !(offset >= 0.0 && offset.is_finite()) {
                    bail!(
                        "cosine schedule: offset = {offset} must be a number ≥ 0 (the paper's is 0.008)"
                    )
                }
            }
        }
        Ok(())
    }

    fn values(&self, steps: usize) -> Vec<f64> {
        let fraction = |t: usize| t as f64 / (steps - 1) as f64;
        let between = |start: f64, end: f64, x: f64| start + (end - start) * x;
        let at = |t: usize| match *self {
            Self::Linear { start, end } => between(start, end, fraction(t)),
            Self::ScaledLinear { start, end } => {
                between(start.sqrt(), end.sqrt(), fraction(t)).powi(2)
            }
            Self::Sigmoid { start, end } => between(
                start,
                end,
                1.0 / (1.0 + libm::exp(-between(-6.0, 6.0, fraction(t)))),
            ),
            Self::Cosine { offset, max_beta } => {
                let alpha_bar = |t: usize| {
                    libm::cos((t as f64 / steps as f64 + offset) / (1.0 + offset) * FRAC_PI_2)
                        .powi(2)
                };
                (1.0 - alpha_bar(t + 1) / alpha_bar(t)).min(max_beta)
            }
        };
        (0..steps).map(at).collect()
    }
}

/// The T variances of a forward process and what follows from them.
///
/// ```
/// use diffusion_core::schedule::Schedule;
/// let schedule = Schedule::linear(1000)?;
/// assert_eq!(schedule.beta(0), 1e-4);
/// assert!((schedule.beta(999) - 0.02).abs() < 1e-12);
/// assert!(schedule.alpha_bar(999) < 1e-4); // all but noise
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Schedule {
    name: String,
    betas: Vec<f64>,
    alpha_bars: Vec<f64>,
}

impl Schedule {
    /// A schedule of `steps` = T time steps, 2 ≤ T ≤ [`MAX_STEPS`].
    ///
    /// # Errors
    /// T below 2 or above [`MAX_STEPS`], or a field of `betas` outside its range: the message names the field and its value.
    pub fn new(steps: usize, betas: Betas) -> Result<Self> {
        if steps < 2 {
            bail!("steps = {steps}: a schedule needs at least 2 time steps (the papers use 1000)")
        }
        if steps > MAX_STEPS {
            bail!(
                "steps = {steps}: a schedule has at most {MAX_STEPS} time steps (the papers use 1000)"
            )
        }
        betas.check()?;
        Self::from_betas(betas.name(), betas.values(steps))
    }

    /// The original's schedule: β from 1e-4 to 0.02 ([`Betas::LINEAR`]).
    ///
    /// # Errors
    /// `steps` below 2.
    pub fn linear(steps: usize) -> Result<Self> {
        Self::new(steps, Betas::LINEAR)
    }

    /// Nichol & Dhariwal's schedule ([`Betas::COSINE`]).
    ///
    /// # Errors
    /// `steps` below 2.
    pub fn cosine(steps: usize) -> Result<Self> {
        Self::new(steps, Betas::COSINE)
    }

    /// The logistic schedule ([`Betas::SIGMOID`]).
    ///
    /// # Errors
    /// `steps` below 2.
    pub fn sigmoid(steps: usize) -> Result<Self> {
        Self::new(steps, Betas::SIGMOID)
    }

    /// A schedule of your own, from its variances.
    ///
    /// # Errors
    /// Fewer than two, or one outside (0, 1): the message names it.
    pub fn from_betas(name: &str, betas: Vec<f64>) -> Result<Self> {
        if betas.len() < 2 {
            bail!(
                "{name} schedule: {} betas; a schedule needs at least 2",
                betas.len()
            )
        }
        if let Some((t, beta)) = betas
            .iter()
            .enumerate()
            .find(|(_, b)| !(**b > 0.0 && **b < 1.0))
        {
            bail!("{name} schedule: betas[{t}] = {beta} is not a variance; it must lie in (0, 1)")
        }
        let mut product = 1.0;
        let alpha_bars = betas
            .iter()
            .map(|beta| {
                product *= 1.0 - beta;
                product
            })
            .collect();
        Ok(Self {
            name: name.to_owned(),
            betas,
            alpha_bars,
        })
    }

    /// What it was made from: `linear`, `cosine`, … or the name given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// T, the number of time steps.
    pub fn steps(&self) -> usize {
        self.betas.len()
    }

    /// β_t for t = 0 … T−1: the variance of the noise that step t adds.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// α_t = 1 − β_t.
    pub fn alphas(&self) -> Vec<f64> {
        self.betas.iter().map(|beta| 1.0 - beta).collect()
    }

    /// ᾱ_t = α_0 α_1 … α_t: the share of the image's variance that is left in x_t, falling from nearly 1 to nearly 0.
    pub fn alpha_bars(&self) -> &[f64] {
        &self.alpha_bars
    }

    /// SNR(t) = ᾱ_t / (1 − ᾱ_t), a ratio of powers ([Kingma et al. 2021](https://arxiv.org/abs/2107.00630), eq. 2).
    pub fn snrs(&self) -> Vec<f64> {
        (0..self.steps()).map(|t| self.snr(t)).collect()
    }

    /// SNR(t) in decibels, 10 log₁₀ SNR: 0 dB where image and noise are equally strong.
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

    /// ᾱ_{t−1}, and 1, the clean image, for t = 0; NaN if t > T.
    pub fn alpha_bar_before(&self, t: usize) -> f64 {
        if t == 0 { 1.0 } else { self.alpha_bar(t - 1) }
    }

    /// SNR(t) = ᾱ_t / (1 − ᾱ_t); NaN if t ≥ T.
    pub fn snr(&self, t: usize) -> f64 {
        self.alpha_bar(t) / (1.0 - self.alpha_bar(t))
    }

    /// What is wrong with this schedule, if x_T is not yet noise: then sampling, which starts from pure noise, starts
    /// from something that the model has never seen ([Lin et al. 2023](https://arxiv.org/abs/2305.08891)).
    ///
    /// It speaks when √ᾱ of the last step is above [`MAX_FINAL_SIGNAL`].
    pub fn warning(&self) -> Option<String> {
        let last = self.steps() - 1;
        let signal = self.alpha_bar(last).sqrt();
        (signal > MAX_FINAL_SIGNAL).then(|| {
            format!(
                "x_T is not yet noise: {:.0} % of the image's amplitude is left at the last step (√ᾱ = {signal:.3}, SNR {:.1} dB; \
                 it should be below {MAX_FINAL_SIGNAL}, −20 dB). Take more steps, a larger last β, or the cosine schedule.",
                100.0 * signal,
                10.0 * self.snr(last).log10(),
            )
        })
    }

    /// Shows the summary in a notebook, with the warning if there is one.
    pub fn evcxr_display(&self) {
        println!("EVCXR_BEGIN_CONTENT text/plain\n{self}\nEVCXR_END_CONTENT");
    }
}

/// Name, T, the first and last β, ᾱ and SNR of the last step; on a second line the warning, if there is one.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.steps() - 1;
        write!(
            f,
            "{} schedule, T = {}: β {:.3e} … {:.3e}, at the last step √ᾱ = {:.2e}, SNR {:.1} dB",
            self.name,
            self.steps(),
            self.betas[0],
            self.betas[last],
            self.alpha_bar(last).sqrt(),
            10.0 * self.snr(last).log10(),
        )?;
        self.warning()
            .map_or(Ok(()), |warning| write!(f, "\nwarning: {warning}"))
    }
}

/// As [`Display`](fmt::Display): a thousand variances say less than their summary.
impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(steps: usize) -> Vec<Schedule> {
        let scaled = Betas::ScaledLinear {
            start: 8.5e-4,
            end: 0.012,
        };
        [Betas::LINEAR, scaled, Betas::COSINE, Betas::SIGMOID]
            .map(|betas| Schedule::new(steps, betas).unwrap())
            .into()
    }

    #[test]
    fn every_schedule_only_adds_noise() {
        for steps in [2, 3, 10, 500, 1000, 2000] {
            for s in all(steps) {
                assert_eq!(
                    (s.betas().len(), s.alpha_bars().len(), s.steps()),
                    (steps, steps, steps)
                );
                assert!(s.betas().iter().all(|b| *b > 0.0 && *b < 1.0), "{s}");
                assert!(s.betas().windows(2).all(|b| b[0] <= b[1]), "{s}");
                assert!(s.alpha_bars().windows(2).all(|a| a[0] > a[1]), "{s}");
                assert!(s.snrs_db().windows(2).all(|x| x[0] > x[1]), "{s}");
            }
        }
    }

    #[test]
    fn linear_ends_where_it_is_told() {
        let s = Schedule::linear(1000).unwrap();
        assert_eq!((s.beta(0), s.beta(999)), (1e-4, 0.02));
        assert_eq!(s.alphas()[10], 1.0 - s.beta(10));
        assert_eq!(
            (s.alpha_bar_before(0), s.alpha_bar_before(1)),
            (1.0, s.alpha_bar(0))
        );
    }

    #[test]
    fn cosine_is_the_papers_alpha_bar_until_the_cut_off() {
        let s = Schedule::cosine(1000).unwrap();
        let f = |t: f64| ((t / 1000.0 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
        for t in 0..990 {
            assert!(
                (s.alpha_bar(t) - f(t as f64 + 1.0) / f(0.0)).abs() < 1e-12,
                "{t}"
            );
        }
        assert_eq!(s.beta(999), 0.999);
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_it() {
        let fail = |betas, steps| Schedule::new(steps, betas).unwrap_err().to_string();
        let linear = |start, end| Betas::Linear { start, end };
        for (message, wants) in [
            (fail(Betas::LINEAR, 0), "steps = 0"),
            (fail(Betas::LINEAR, 1), "steps = 1"),
            (
                fail(Betas::LINEAR, usize::MAX),
                "at most 1000000 time steps",
            ),
            (fail(linear(0.0, 0.02), 10), "start = 0"),
            (fail(linear(1e-4, 1.0), 10), "end = 1"),
            (fail(linear(f64::NAN, 0.5), 10), "start = NaN"),
            (fail(linear(0.3, 0.2), 10), "start = 0.3 is above end = 0.2"),
            (
                fail(
                    Betas::Cosine {
                        offset: -1.0,
                        max_beta: 0.9,
                    },
                    10,
                ),
                "offset = -1",
            ),
            (
                fail(
                    Betas::Cosine {
                        offset: 0.0,
                        max_beta: 1.0,
                    },
                    10,
                ),
                "max_beta = 1",
            ),
            (
                Schedule::from_betas("my", vec![0.1, 1.5])
                    .unwrap_err()
                    .to_string(),
                "my schedule: betas[1] = 1.5",
            ),
            (
                Schedule::from_betas("my", vec![0.1])
                    .unwrap_err()
                    .to_string(),
                "1 betas",
            ),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
    }

    /// The famous bug: β's range kept while T is made smaller.
    #[test]
    fn too_few_steps_are_warned_about() {
        for steps in [1000, 2000] {
            assert_eq!(Schedule::linear(steps).unwrap().warning(), None);
        }
        let short = Schedule::linear(100).unwrap();
        assert!(
            short.warning().unwrap().contains("60 % of the image"),
            "{short}"
        );
        assert!(
            short.to_string().contains("warning: x_T is not yet noise"),
            "{short}"
        );
        assert_eq!(Schedule::cosine(100).unwrap().warning(), None);
    }
}
