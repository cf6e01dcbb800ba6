//! Which time steps a batch is trained on.

use crate::rng::Rng;
use candle_core::Result;
use serde::{Deserialize, Serialize};

/// How the t of the images of a batch are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum TimeSteps {
    /// Independent of each other.
    #[default]
    Uniform,
    /// One in each of B equal parts of the range, in random order: the loss varies less from batch to batch
    /// ([Kingma et al. 2021](https://arxiv.org/abs/2107.00630), appendix I.1).
    Stratified,
}

impl TimeSteps {
    /// `n` of the numbers 0 … `steps`−1, each as likely as any other.
    ///
    /// # Errors
    /// `steps` = 0.
    pub fn draw(self, n: usize, steps: usize, rng: &mut Rng) -> Result<Vec<usize>> {
        match self {
            Self::Uniform => rng.timesteps(n, steps),
            Self::Stratified => {
                rng.timesteps(0, steps)?;
                let offset = rng.uniform();
                let at = |i: usize| ((i as f64 + offset) / n as f64 * steps as f64) as usize;
                let order = rng.permutation(n);
                Ok(order.into_iter().map(|i| at(i).min(steps - 1)).collect())
            }
        }
    }
}

/// How many time steps, equally spaced, a progressive training has got to: a share `part` of the training begins with
/// T/2^(stages−1) of them and doubles them from stage to stage; after it there are all.
///
/// Few steps first is how the conditional MNIST network of the original was to be trained; with it, coarse denoising is
/// learned before fine.
pub(super) fn stride(stages: usize, part: f64, done: f64, steps: usize) -> usize {
    let stage = if part > 0.0 {
        done / part * stages as f64
    } else {
        stages as f64
    };
    let left = (stages as f64 - 1.0 - stage.floor()).max(0.0) as u32;
    1usize
        .checked_shl(left)
        .unwrap_or(usize::MAX)
        .clamp(1, steps / 2)
}

/// `t` moved to the grid of every `stride`-th step, which always has the last, noisiest one.
pub(super) fn on_grid(t: usize, stride: usize, steps: usize) -> usize {
    let from_end = (steps - 1 - t) / stride * stride;
    steps - 1 - from_end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stratified_draws_have_one_in_each_part_and_are_uniform() -> Result<()> {
        let mut rng = Rng::new(1);
        let mut counts = [0; 10];
        for _ in 0..2000 {
            let mut t = TimeSteps::Stratified.draw(5, 10, &mut rng)?;
            t.iter().for_each(|t| counts[*t] += 1);
            t.sort_unstable();
            assert!(t.iter().enumerate().all(|(i, t)| t / 2 == i), "{t:?}");
        }
        assert!(counts.iter().all(|n| (900..1100).contains(n)), "{counts:?}");
        assert!(TimeSteps::Stratified.draw(5, 0, &mut rng).is_err());
        let drawn = TimeSteps::Uniform.draw(3, 1, &mut rng)?;
        assert_eq!(drawn, [0, 0, 0]);
        Ok(())
    }

    #[test]
    fn progressive_training_doubles_the_steps_until_all_are_there() {
        let strides = [0.0, 0.1, 0.126, 0.26, 0.4, 0.5, 0.9].map(|done| stride(4, 0.5, done, 1000));
        assert_eq!(strides, [8, 8, 4, 2, 1, 1, 1]);
        assert_eq!(stride(1, 0.0, 0.0, 1000), 1);
        assert_eq!(stride(100, 0.5, 0.0, 10), 5, "two steps are left at least");
        let grid: Vec<usize> = (0..10).map(|t| on_grid(t, 4, 10)).collect();
        assert_eq!(grid, [1, 1, 5, 5, 5, 5, 9, 9, 9, 9]);
    }
}
