//! How wrong an answer is, and how much that counts at each level of noise.

use crate::prediction::Prediction;
use crate::schedule::Schedule;
use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// The distance between the network's answer and what it should have said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Loss {
    /// d², the mean squared error: the bound of [Ho et al. 2020](https://arxiv.org/abs/2006.11239), equation 14.
    #[default]
    Mse,
    /// |d|: large errors count less.
    L1,
    /// d²/2 where |d| ≤ δ, and δ(|d| − δ/2) beyond ([Huber 1964](https://doi.org/10.1214/aoms/1177703732)): squares near 0, absolute
    /// values far from it.
    Huber {
        /// δ > 0, where the one becomes the other.
        #[serde(default = "one")]
        delta: f64,
    },
}

/// How much each level of noise counts in the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Weighting {
    /// Every answer the same, as the network gives it.
    #[default]
    Uniform,
    /// min(SNR, γ) in terms of x_0: so that the easy levels of little noise do not outweigh all others
    /// ([Hang et al. 2023](https://arxiv.org/abs/2303.09556), section 3.4).
    ///
    /// The weight of an answer in ε is min(SNR, γ)/SNR, in v min(SNR, γ)/(SNR + 1).
    MinSnr {
        /// γ > 0; the authors use 5.
        #[serde(default = "five")]
        gamma: f64,
    },
}

fn one() -> f64 {
    1.0
}

fn five() -> f64 {
    5.0
}

impl Loss {
    /// The loss of each image: the mean over its numbers.
    ///
    /// # Shapes
    /// `prediction` and `target` (B, …); the result is (B,).
    ///
    /// # Errors
    /// The two shapes differ.
    pub fn per_image(self, prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
        if prediction.dims() != target.dims() {
            bail!(
                "loss: the prediction has shape {:?} and the target {:?}; they must be equal",
                prediction.dims(),
                target.dims()
            )
        }
        let d = (prediction - target)?;
        let each = match self {
            Self::Mse => d.sqr()?,
            Self::L1 => absolute(&d)?,
            Self::Huber { delta } => {
                // m = min(|d|, δ) as a constant gives the value m(|d| − m/2) and its gradient, m·sign(d).
                let size = absolute(&d)?;
                let m = size.detach().minimum(delta)?;
                (&m * (size - (&m * 0.5)?)?)?
            }
        };
        each.flatten_from(1)?.mean(1)
    }

    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Huber { delta } if !(delta > 0.0 && delta.is_finite()) => {
                bail!("training: huber's delta = {delta} must be positive")
            }
            _ => Ok(()),
        }
    }
}

impl Weighting {
    /// The weight of an answer of kind `param` at step `t`.
    pub fn at(self, schedule: &Schedule, param: Prediction, t: usize) -> f64 {
        match self {
            Self::Uniform => 1.0,
            Self::MinSnr { gamma } => {
                let snr = schedule.snr(t);
                match param {
                    Prediction::Eps => gamma.min(snr) / snr,
                    Prediction::X0 => gamma.min(snr),
                    Prediction::V => gamma.min(snr) / (snr + 1.0),
                    // Of any type: the weight min(SNR, γ) on the error of x̂_0, which is c_out times that of the output.
                    _ => gamma.min(snr) * param.scalings(schedule.level(t)).c_out.powi(2),
                }
            }
        }
    }

    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::MinSnr { gamma } if !(gamma > 0.0 && gamma.is_finite()) => {
                bail!("training: min-snr's gamma = {gamma} must be positive")
            }
            _ => Ok(()),
        }
    }
}

/// |x|. The gradient of candle's own is 1 at 0; this one's is 0 there, as PyTorch's.
fn absolute(x: &Tensor) -> Result<Tensor> {
    x * x.detach().sign()?
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn values_and_gradients_are_those_of_the_formulas() -> Result<()> {
        let x = Var::new(&[[0.5f64, -3.0], [1.0, 0.0]], &Device::Cpu)?;
        let target = Tensor::zeros((2, 2), x.dtype(), x.device())?;
        for (loss, values, grads) in [
            (Loss::Mse, [9.25 / 2.0, 0.5], [0.5, -3.0, 1.0, 0.0]),
            (Loss::L1, [3.5 / 2.0, 0.5], [0.5, -0.5, 0.5, 0.0]),
            (
                Loss::Huber { delta: 1.0 },
                [(0.125 + 2.5) / 2.0, 0.25],
                [0.25, -0.5, 0.5, 0.0],
            ),
        ] {
            let each = loss.per_image(&x, &target)?;
            let got = each.to_vec1::<f64>()?;
            assert!(
                got.iter().zip(values).all(|(a, b)| (a - b).abs() < 1e-12),
                "{loss:?} {got:?}"
            );
            let grad = each.sum_all()?.backward()?.get(&x).unwrap().flatten_all()?;
            let got = grad.to_vec1::<f64>()?;
            assert!(
                got.iter().zip(grads).all(|(a, b)| (a - b).abs() < 1e-12),
                "{loss:?} {got:?}"
            );
        }
        assert!(Loss::Mse.per_image(&x, &target.narrow(0, 0, 1)?).is_err());
        Ok(())
    }

    /// The three kinds of answer say the same, so their weighted errors must be the same error of x̂_0.
    #[test]
    fn min_snr_weighs_the_same_error_of_x0_whatever_the_network_answers() -> Result<()> {
        let schedule = Schedule::cosine(1000)?;
        let weighting = Weighting::MinSnr { gamma: 5.0 };
        for t in [0, 100, 500, 900, 998] {
            let (a, snr) = (schedule.alpha_bar(t), schedule.snr(t));
            // An error of x̂_0 of size 1 is one of ε̂ of size √(ᾱ/(1−ᾱ)) and of v̂ of size 1/√(1−ᾱ).
            let x0 = weighting.at(&schedule, Prediction::X0, t);
            let eps = weighting.at(&schedule, Prediction::Eps, t) * snr;
            let v = weighting.at(&schedule, Prediction::V, t) / (1.0 - a);
            assert!((x0 - snr.min(5.0)).abs() < 1e-12);
            assert!((eps / x0 - 1.0).abs() < 1e-9, "t = {t}: {eps} {x0}");
            assert!((v / x0 - 1.0).abs() < 1e-9, "t = {t}: {v} {x0}");
        }
        Ok(())
    }
}
