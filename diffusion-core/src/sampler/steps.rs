//! Which time steps are visited.

use crate::schedule::Schedule;
use candle_core::{Result, bail};

/// Which of the T time steps a sampler visits, the noisiest first. The names of the spacings are diffusers'
/// ([Lin et al. 2023](https://arxiv.org/abs/2305.08891), table 2).
///
/// ```
/// use diffusion_core::{sampler::Steps, schedule::Schedule};
/// let schedule = Schedule::linear(1000)?;
/// assert_eq!(Steps::Trailing(4).visited(&schedule)?, [999, 749, 499, 249]);
/// assert_eq!(Steps::Leading(4).visited(&schedule)?, [750, 500, 250, 0]);
/// assert_eq!(Steps::Linspace(4).visited(&schedule)?, [999, 666, 333, 0]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Steps {
    /// All T.
    All,
    /// So many, equally spaced, from T−1 on: begins where x_t is noise, and ends with a step of full length.
    Trailing(usize),
    /// So many, equally spaced by ⌊T/n⌋, down to 0. It begins below T−1, where x_t is not yet all noise: with few steps
    /// images come out too bright or too dark.
    Leading(usize),
    /// So many, equally spaced from T−1 to 0, both visited; one alone is T−1.
    Linspace(usize),
    /// These, falling.
    Given(Vec<usize>),
}

impl Steps {
    /// The time steps, each in 0 … T−1, falling.
    ///
    /// # Errors
    /// None, more than T, or those given do not fall or are not in 0 … T−1: the message names the number.
    pub fn visited(&self, schedule: &Schedule) -> Result<Vec<usize>> {
        let steps = schedule.steps();
        let checked = |n: usize| {
            if !(1..=steps).contains(&n) {
                bail!("sampler: steps = {n} must be in 1 … {steps}, the time steps of the schedule")
            }
            Ok(n)
        };
        Ok(match self {
            Self::All => (0..steps).rev().collect(),
            Self::Trailing(n) => {
                let n = checked(*n)?;
                (0..n).map(|i| rounded((n - i) * steps, n) - 1).collect()
            }
            Self::Leading(n) => {
                let n = checked(*n)?;
                (0..n).rev().map(|i| i * (steps / n)).collect()
            }
            Self::Linspace(1) => vec![steps - 1],
            Self::Linspace(n) => {
                let n = checked(*n)?;
                let at = |i| rounded(i * (steps - 1), n - 1);
                (0..n).rev().map(at).collect()
            }
            Self::Given(times) => {
                let Some(first) = times.first() else {
                    bail!("sampler: no time steps were given; at least one is needed")
                };
                if *first >= steps {
                    bail!(
                        "sampler: time step {first} was given; the schedule has 0 … {}",
                        steps - 1
                    )
                }
                if let Some(pair) = times.windows(2).find(|pair| pair[0] <= pair[1]) {
                    bail!(
                        "sampler: time step {} was given after {}; they must fall",
                        pair[1],
                        pair[0]
                    )
                }
                times.clone()
            }
        })
    }
}

/// a/b to the nearest whole number, and of two the even one, as NumPy rounds.
fn rounded(a: usize, b: usize) -> usize {
    let (whole, twice) = (a / b, 2 * (a % b));
    whole + usize::from(twice > b || (twice == b && whole % 2 == 1))
}
