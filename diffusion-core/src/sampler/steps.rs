//! Which times a sampler visits.

use crate::process::{NoiseProcess, rounded};
use candle_core::{Result, bail};

/// The times at which a sampler evaluates the network, the noisiest first. The names of the spacings are diffusers'
/// ([Lin et al. 2023](https://arxiv.org/abs/2305.08891), table 2).
///
/// ```
/// use diffusion_core::{process::NoiseProcess, sampler::Steps, schedule::Schedule};
/// let schedule = Schedule::linear(1000)?;
/// assert_eq!(Steps::Trailing(4).visited(&schedule)?, [999.0, 749.0, 499.0, 249.0]);
/// assert_eq!(Steps::Leading(4).visited(&schedule)?, [750.0, 500.0, 250.0, 0.0]);
/// assert_eq!(Steps::Linspace(4).visited(&schedule)?, [999.0, 666.0, 333.0, 0.0]);
/// assert_eq!(Steps::Trailing(4).visited(NoiseProcess::flow())?, [1.0, 0.75, 0.5, 0.25]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Steps {
    /// All T time steps of a discrete process.
    All,
    /// `n` times, the process's own grid ([`NoiseProcess::steps`]): on the discrete process equally spaced from T−1 on, so
    /// that it begins at the terminal SNR.
    Trailing(usize),
    /// `n` time steps of a discrete process, spaced by ⌊T/n⌋, down to 0. It begins below T−1, where some signal is left: with
    /// few steps images come out too bright or too dark.
    Leading(usize),
    /// `n` time steps of a discrete process, equally spaced from T−1 to 0, both included; a single one is T−1.
    Linspace(usize),
    /// These times, which must fall.
    Given(Vec<f64>),
}

impl Steps {
    /// [`Steps::Given`] from whole or real numbers: `Steps::given([999, 400, 399])`.
    pub fn given<T: Into<f64>>(times: impl IntoIterator<Item = T>) -> Self {
        Self::Given(times.into_iter().map(Into::into).collect())
    }

    /// The times, falling. The last step goes from the last one to the clean image.
    ///
    /// # Errors
    /// No step, or more than the schedule has; a spacing that only a discrete process has; given times that do not fall, are
    /// outside the process's range, or have no noise to remove: the message names the number.
    pub fn visited(&self, process: impl Into<NoiseProcess>) -> Result<Vec<f64>> {
        let process = process.into();
        let timesteps = |name: &str| match &process {
            NoiseProcess::Vp(schedule) => Ok(schedule.timesteps()),
            other => bail!(
                "sampler: {name} spaces time steps, and the {} process has none; use Steps::Trailing(n), its own grid, or \
                 Steps::Given(times)",
                other.name()
            ),
        };
        let checked = |n: usize, all: usize| {
            if !(1..=all).contains(&n) {
                bail!("sampler: steps = {n} must be in 1 … {all}, the time steps of the schedule")
            }
            Ok(n)
        };
        let spaced = |n: usize, at: &dyn Fn(usize) -> usize| (0..n).rev().map(|i| at(i) as f64).collect();
        Ok(match self {
            Self::Trailing(n) => process.steps(*n)?,
            Self::All => spaced(timesteps("Steps::All")?, &|i| i),
            Self::Leading(n) => {
                let all = timesteps("Steps::Leading")?;
                let n = checked(*n, all)?;
                spaced(n, &|i| i * (all / n))
            }
            Self::Linspace(n) => {
                let last = timesteps("Steps::Linspace")? - 1;
                match checked(*n, last + 1)? {
                    1 => vec![last as f64],
                    n => spaced(n, &|i| rounded(i * last, n - 1)),
                }
            }
            Self::Given(times) => {
                if times.is_empty() {
                    bail!("sampler: no times were given; at least one is needed")
                }
                for (t, level) in times.iter().zip(process.levels(times)?) {
                    if level.noise == 0.0 {
                        bail!(
                            "sampler: time {t} was given, where there is no noise; leave it out: the last step ends at the clean image"
                        )
                    }
                }
                if let Some(pair) = times.windows(2).find(|pair| pair[0] <= pair[1]) {
                    bail!("sampler: time {} was given after {}; times must fall", pair[1], pair[0])
                }
                times.clone()
            }
        })
    }
}
