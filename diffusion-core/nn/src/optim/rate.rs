//! Learning-rate schedules.

use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How the learning rate changes after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Decay {
    /// It stays constant.
    #[default]
    Constant,
    /// Cosine decay to the fraction `floor` at the last step
    /// ([Loshchilov & Hutter 2017](https://arxiv.org/abs/1608.03983), equation 5, without restarts).
    Cosine {
        /// The final fraction of the learning rate, in [0, 1].
        #[serde(default)]
        floor: f64,
    },
}

impl Decay {
    /// The factor of the learning rate at step `step` of `steps`, counted from 0, after a linear warm-up over `warmup`
    /// steps.
    ///
    /// ```
    /// use diffusion_core::train::Decay;
    /// let cosine = Decay::Cosine { floor: 0.0 };
    /// assert_eq!(cosine.share(0, 110, 10), 0.1);
    /// assert_eq!(cosine.share(10, 110, 10), 1.0);
    /// assert!((cosine.share(60, 110, 10) - 0.5).abs() < 1e-12);
    /// ```
    pub fn share(self, step: usize, steps: usize, warmup: usize) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        match self {
            Self::Constant => 1.0,
            Self::Cosine { floor } => {
                let rest = steps.saturating_sub(warmup).max(1) as f64;
                let done = ((step - warmup) as f64 / rest).min(1.0);
                floor + (1.0 - floor) * 0.5 * (1.0 + libm::cos(PI * done))
            }
        }
    }

    /// Checks that the fraction is in its range.
    ///
    /// # Errors
    /// `floor` is not in [0, 1]: the message names its value.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Cosine { floor } if !(0.0..=1.0).contains(&floor) => {
                bail!("training: the cosine's floor = {floor} must be in [0, 1]")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_then_falls_to_the_floor() {
        let cosine = Decay::Cosine { floor: 0.1 };
        let shares: Vec<f64> = (0..1000).map(|i| cosine.share(i, 1000, 100)).collect();
        assert!(shares[..100].is_sorted() && shares[100..].iter().rev().is_sorted());
        assert_eq!(shares[99], 1.0);
        assert!((shares[999] - 0.1).abs() < 1e-4 && shares[999] >= 0.1);
        assert_eq!(Decay::Constant.share(7, 8, 0), 1.0);
        assert_eq!(cosine.share(5000, 1000, 100), 0.1, "beyond the end it stays");
        assert!(Decay::Cosine { floor: 2.0 }.check().is_err());
    }
}
