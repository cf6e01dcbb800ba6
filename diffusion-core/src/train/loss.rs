//! The loss of a prediction, and its weight at each level of noise.

use crate::level::Level;
use crate::prediction::Prediction;
use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// The distance between the network's output and its target.
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
    /// Every output the same.
    #[default]
    Uniform,
    /// min(SNR, γ) in terms of x_0: so that the easy levels with little noise do not outweigh all others
    /// ([Hang et al. 2023](https://arxiv.org/abs/2303.09556), section 3.4).
    ///
    /// The weight of an ε-prediction is min(SNR, γ)/SNR, of a v-prediction min(SNR, γ)/(SNR + 1).
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
    /// The weight of the squared error of a network's output at a level of noise.
    ///
    /// An error of the output is `c_out` times as large in x̂_0, so a weight w on the error of x̂_0 is w·c_out² here.
    pub fn at(self, level: Level, prediction: Prediction) -> f64 {
        match self {
            Self::Uniform => 1.0,
            Self::MinSnr { gamma } => gamma.min(level.snr()) * prediction.scalings(level).c_out.powi(2),
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
            (Loss::Huber { delta: 1.0 }, [(0.125 + 2.5) / 2.0, 0.25], [0.25, -0.5, 0.5, 0.0]),
        ] {
            let each = loss.per_image(&x, &target)?;
            let got = each.to_vec1::<f64>()?;
            assert!(got.iter().zip(values).all(|(a, b)| (a - b).abs() < 1e-12), "{loss:?} {got:?}");
            let grad = each.sum_all()?.backward()?.get(&x).unwrap().flatten_all()?;
            let got = grad.to_vec1::<f64>()?;
            assert!(got.iter().zip(grads).all(|(a, b)| (a - b).abs() < 1e-12), "{loss:?} {got:?}");
        }
        assert!(Loss::Mse.per_image(&x, &target.narrow(0, 0, 1)?).is_err());
        Ok(())
    }

    /// The weighted error of x̂_0 must be the same for every prediction type.
    #[test]
    fn min_snr_weighs_the_same_error_of_x0_for_every_prediction() {
        let weighting = Weighting::MinSnr { gamma: 5.0 };
        for alpha_bar in [0.9999, 0.9, 0.5, 0.1, 1e-4f64] {
            let level = Level { signal: alpha_bar.sqrt(), noise: (1.0 - alpha_bar).sqrt() };
            let snr = alpha_bar / (1.0 - alpha_bar);
            let [eps, x0, v] =
                [Prediction::Eps, Prediction::X0, Prediction::V].map(|prediction| weighting.at(level, prediction));
            assert!((x0 / snr.min(5.0) - 1.0).abs() < 1e-12);
            assert!((eps / (snr.min(5.0) / snr) - 1.0).abs() < 1e-9, "{alpha_bar}");
            assert!((v / (snr.min(5.0) / (snr + 1.0)) - 1.0).abs() < 1e-9, "{alpha_bar}");
        }
    }
}
