//! The times that a sampler visits.

use crate::process::{NoiseProcess, rounded};
use candle_core::{Result, bail};

/// The times at which a sampler evaluates the network, the noisiest first. The spacings are named as in diffusers
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
    /// `n` times on the process's own grid ([`NoiseProcess::steps`]). For the discrete process they are equally spaced
    /// and start at T−1, the terminal SNR.
    Trailing(usize),
    /// `n` time steps of a discrete process, ⌊T/n⌋ apart, down to 0. The first is below T−1, where some signal is left,
    /// so with few steps the images come out too bright or too dark.
    Leading(usize),
    /// `n` time steps of a discrete process, equally spaced from T−1 to 0 inclusive; a single one is T−1.
    Linspace(usize),
    /// A list of times, which must decrease.
    Given(Vec<f64>),
}

impl Steps {
    /// Builds [`Steps::Given`] from whole or real numbers: `Steps::given([999, 400, 399])`.
    pub fn given<T: Into<f64>>(times: impl IntoIterator<Item = T>) -> Self {
        Self::Given(times.into_iter().map(Into::into).collect())
    }

    /// The times in decreasing order. The last step goes from the last time to the clean image.
    ///
    /// # Errors
    /// There are no steps, or more than the schedule has; the spacing requires a discrete process; or the given times
    /// do not decrease, are outside the process's range, or have no noise: the message names the number.
    pub fn visited(&self, process: impl Into<NoiseProcess>) -> Result<Vec<f64>> {
        let process = process.into();
        let timesteps = |name: &str| match &process {
            NoiseProcess::Vp(schedule) => Ok(schedule.timesteps()),
            other => bail!(
                "sampler: {name} needs time steps, which the {} process does not have; use Steps::Trailing(n) or \
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
                    bail!("sampler: the list of times is empty; give at least one")
                }
                for (t, level) in times.iter().zip(process.levels(times)?) {
                    if level.noise == 0.0 {
                        bail!(
                            "sampler: there is no noise at time {t}; leave it out, since the last step ends at the \
                             clean image"
                        )
                    }
                }
                if let Some(pair) = times.windows(2).find(|pair| pair[0] <= pair[1]) {
                    bail!("sampler: time {} follows {}, but times must decrease", pair[1], pair[0])
                }
                times.clone()
            }
        })
    }
}
