//! Prediction types: ε, x_0, v, velocity or EDM, each as a row of scaling factors.
//!
//! For the input x = a x_0 + s ε at a [`Level`] (signal a, noise s), three numbers define a prediction type
//! ([Karras et al. 2022](https://arxiv.org/abs/2206.00364), equation 7). The predicted clean image is
//!
//! x̂_0 = c_skip x + c_out F(c_in x).
//!
//! | prediction | target of F | c_skip | c_out |
//! |---|---|---|---|
//! | [`Eps`](Prediction::Eps) | ε | 1/a | −s/a |
//! | [`X0`](Prediction::X0) | x_0 | 0 | 1 |
//! | [`V`](Prediction::V) | a ε − s x_0 | a/(a²+s²) | −s/(a²+s²) |
//! | [`Velocity`](Prediction::Velocity) | ε − x_0 | 1/(a+s) | −s/(a+s) |
//! | [`Edm`](Prediction::Edm) | (x_0 − c_skip x)/c_out | a σ_d²/(s²+a²σ_d²) | s σ_d/√(s²+a²σ_d²) |
//!
//! c_in brings the network's input close to unit variance: 1/√(s²+a²σ_d²) for EDM; for the others 1/√(a²+s²) if that is
//! below 1, otherwise 1.

use crate::level::{Level, combine};
use crate::process::NoiseProcess;
use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// What a network predicts; the table in the [module](self) compares the types.
///
/// Each type determines the others, since x = a x_0 + s ε. They differ in how the loss weights the noise levels
/// ([Salimans & Ho 2022](https://arxiv.org/abs/2202.00512), section 4) and in where they are well defined.
///
/// ```
/// use diffusion_core::{candle::{Device, Tensor}, level::{Level, perturb}, prediction::Prediction};
/// let (x0, eps) = (Tensor::new(&[0.5f64], &Device::Cpu)?, Tensor::new(&[2f64], &Device::Cpu)?);
/// let levels = [Level { signal: 0.6, noise: 0.8 }];
/// let xt = perturb(&x0, &levels, &eps)?;
/// let v = Prediction::V.target(&x0, &eps, &levels)?;
/// let x0_hat = Prediction::V.x0(&xt, &levels, &v)?;
/// assert!((x0_hat.to_vec1::<f64>()?[0] - 0.5).abs() < 1e-12);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Prediction {
    /// The noise ε ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), equation 14).
    #[default]
    Eps,
    /// The clean image x_0.
    X0,
    /// v = a ε − s x_0 ([Salimans & Ho 2022](https://arxiv.org/abs/2202.00512), appendix D).
    V,
    /// The velocity u = ε − x_0 of flow matching along straight lines
    /// ([Lipman et al. 2023](https://arxiv.org/abs/2210.02747), [Liu et al. 2023](https://arxiv.org/abs/2209.03003)).
    Velocity,
    /// EDM's preconditioned output ([Karras et al. 2022](https://arxiv.org/abs/2206.00364), table 1).
    Edm {
        /// σ_d, the standard deviation of the data; positive.
        #[serde(default = "sigma_data")]
        sigma_data: f64,
    },
}

/// The value in table 1 of Karras et al., for images in \[−1, 1\].
fn sigma_data() -> f64 {
    0.5
}

/// The scaling factors of a [`Prediction`] at one [`Level`]: x̂_0 = c_skip x + c_out F(c_in x).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalings {
    /// The factor of the network's input.
    pub c_in: f64,
    /// The factor of x in x̂_0.
    pub c_skip: f64,
    /// The factor of the network's output in x̂_0.
    pub c_out: f64,
}

impl Prediction {
    /// [`Prediction::Edm`] with the paper's σ_d = 0.5.
    pub const EDM: Self = Self::Edm { sigma_data: 0.5 };

    /// The scaling factors at a level.
    pub fn scalings(self, level: Level) -> Scalings {
        let Level { signal: a, noise: s } = level;
        let total = level.total_variance();
        let (c_skip, c_out) = match self {
            Self::Eps => (1.0 / a, -s / a),
            Self::X0 => (0.0, 1.0),
            Self::V => (a / total, -s / total),
            Self::Velocity => (1.0 / (a + s), -s / (a + s)),
            Self::Edm { sigma_data: d } => {
                let variance = s * s + a * a * d * d;
                let (c_in, c_skip) = (1.0 / variance.sqrt(), a * d * d / variance);
                return Scalings { c_in, c_skip, c_out: s * d * c_in };
            }
        };
        let c_in = if total <= 1.0 { 1.0 } else { 1.0 / total.sqrt() };
        Scalings { c_in, c_skip, c_out }
    }

    /// The training target for F when `x0` is perturbed with `eps`.
    ///
    /// # Shapes
    /// `x0` and `eps` (B, …), any rank with the batch first; `levels` one for each image; the result has the shape of
    /// `x0`.
    ///
    /// # Errors
    /// The shapes differ, or `levels` does not have one entry for each image.
    pub fn target(self, x0: &Tensor, eps: &Tensor, levels: &[Level]) -> Result<Tensor> {
        combine("target", ("x0", x0), ("eps", eps), levels, |&Level { signal: a, noise: s }| match self {
            Self::Eps => (0.0, 1.0),
            Self::X0 => (1.0, 0.0),
            Self::V => (-s, a),
            Self::Velocity => (-1.0, 1.0),
            Self::Edm { sigma_data: d } => {
                let deviation = (s * s + a * a * d * d).sqrt();
                (s / (d * deviation), -a * d / deviation)
            }
        })
    }

    /// The predicted clean image, x̂_0 = c_skip x + c_out F for the network's `output` F.
    ///
    /// For ε-prediction this divides by the signal, so the network's errors are amplified at high noise.
    ///
    /// # Shapes
    /// `xt` and `output` (B, …), any rank with the batch first; `levels` one for each image; the result has the shape
    /// of `xt`.
    ///
    /// # Errors
    /// The shapes differ, or `levels` does not have one entry for each image.
    pub fn x0(self, xt: &Tensor, levels: &[Level], output: &Tensor) -> Result<Tensor> {
        combine("x0", ("xt", xt), ("output", output), levels, |level| {
            let Scalings { c_skip, c_out, .. } = self.scalings(*level);
            (c_skip, c_out)
        })
    }

    /// The predicted noise, ε̂ = (x − a x̂_0)/s for the network's `output`.
    ///
    /// # Shapes
    /// `xt` and `output` (B, …), any rank with the batch first; `levels` one for each image; the result has the shape
    /// of `xt`.
    ///
    /// # Errors
    /// The shapes differ, or `levels` does not have one entry for each image.
    pub fn eps(self, xt: &Tensor, levels: &[Level], output: &Tensor) -> Result<Tensor> {
        combine("eps", ("xt", xt), ("output", output), levels, |level| {
            let Level { signal: a, noise: s } = *level;
            match self {
                Self::Eps => (0.0, 1.0),
                Self::X0 => (1.0 / s, -a / s),
                Self::V => (s / level.total_variance(), a / level.total_variance()),
                Self::Velocity => (1.0 / (a + s), a / (a + s)),
                Self::Edm { sigma_data: d } => {
                    let variance = s * s + a * a * d * d;
                    (s / variance, -a * d / variance.sqrt())
                }
            }
        })
    }

    /// Checks that this prediction type can be used with the process.
    ///
    /// # Errors
    /// `sigma_data` is not positive, or it is ε-prediction and the noisiest level has no signal, so that ε does not
    /// determine x_0.
    ///
    /// ```
    /// use diffusion_core::{prediction::Prediction, process::NoiseProcess};
    /// assert!(Prediction::Velocity.check(&NoiseProcess::flow()).is_ok());
    /// assert!(Prediction::Eps.check(&NoiseProcess::flow()).is_err());
    /// ```
    pub fn check(self, process: &NoiseProcess) -> Result<()> {
        if let Self::Edm { sigma_data } = self
            && !(sigma_data > 0.0 && sigma_data.is_finite())
        {
            bail!(
                "prediction: sigma-data = {sigma_data} is the standard deviation of the data and must be positive \
                 (0.5 in the paper)"
            )
        }
        if self == Self::Eps && process.noisiest().signal == 0.0 {
            bail!(
                "prediction: eps does not determine the image where no signal is left, as at the start of the {} process; \
                 use velocity, v or x0",
                process.name()
            )
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::perturb;
    use crate::rng::Rng;
    use candle_core::{DType, Device};

    const ALL: [Prediction; 5] =
        [Prediction::Eps, Prediction::X0, Prediction::V, Prediction::Velocity, Prediction::EDM];

    fn largest(a: &Tensor, b: &Tensor) -> Result<f64> {
        (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()
    }

    /// On every process, at noisy, middle and nearly clean times.
    #[test]
    fn targets_give_back_the_image_and_the_noise() -> Result<()> {
        let mut rng = Rng::new(2);
        let mut batch = || rng.randn((4, 1, 3, 3), &Device::Cpu)?.to_dtype(DType::F64);
        let (x0, eps) = (batch()?, batch()?);
        for (process, times) in [
            (NoiseProcess::default(), [0.0, 250.5, 700.0, 999.0]),
            (NoiseProcess::flow(), [0.01, 0.3, 0.9, 1.0]),
            (NoiseProcess::edm(), [0.002, 0.5, 7.0, 80.0]),
        ] {
            let levels = process.levels(&times)?;
            let xt = perturb(&x0, &levels, &eps)?;
            for prediction in ALL {
                if prediction.check(&process).is_err() {
                    assert_eq!((prediction, process.name()), (Prediction::Eps, "flow"));
                    continue;
                }
                let f = prediction.target(&x0, &eps, &levels)?;
                let x0_hat = prediction.x0(&xt, &levels, &f)?;
                let eps_hat = prediction.eps(&xt, &levels, &f)?;
                assert!(largest(&x0_hat, &x0)? < 1e-11, "{prediction:?} {process:?}");
                assert!(largest(&eps_hat, &eps)? < 1e-11, "{prediction:?} {process:?}");
                // c_in is EDM's, or scales down to unit variance.
                for level in levels.iter().filter(|_| !matches!(prediction, Prediction::Edm { .. })) {
                    let c_in = prediction.scalings(*level).c_in;
                    assert_eq!(c_in == 1.0, process.name() != "edm", "{level:?}");
                    assert!(c_in * level.total_variance().sqrt() <= 1.0 + 1e-12);
                }
            }
        }
        Ok(())
    }

    /// Karras et al. 2022, table 1, column "Ours"; the target has unit variance.
    #[test]
    fn edm_is_table_1() -> Result<()> {
        for sigma in [0.002, 0.3, 1.0, 80.0f64] {
            for d in [0.5, 1.0f64] {
                let level = Level { signal: 1.0, noise: sigma };
                let prediction = Prediction::Edm { sigma_data: d };
                let Scalings { c_in, c_skip, c_out } = prediction.scalings(level);
                let sum = sigma * sigma + d * d;
                for (got, want) in [(c_skip, d * d / sum), (c_out, sigma * d / sum.sqrt()), (c_in, 1.0 / sum.sqrt())] {
                    assert!((got / want - 1.0).abs() < 1e-12, "{sigma}: {got} {want}");
                }
                let unit = Tensor::new(&[[1f64, 0.0]], &Device::Cpu)?;
                let row = |x0: f64, eps: f64| -> Result<f64> {
                    let target = prediction.target(&(&unit * x0)?, &(&unit * eps)?, &[level])?;
                    Ok(target.to_vec2::<f64>()?[0][0])
                };
                // For x_0 with standard deviation d and ε with 1.
                assert!((row(d, 0.0)?.powi(2) + row(0.0, 1.0)?.powi(2) - 1.0).abs() < 1e-12);
            }
        }
        Ok(())
    }

    #[test]
    fn invalid_combinations_are_errors_and_files_use_short_names() -> Result<()> {
        let message = Prediction::Eps.check(&NoiseProcess::flow()).unwrap_err().to_string();
        assert!(message.contains("flow process; use velocity"), "{message}");
        let message = Prediction::Edm { sigma_data: 0.0 }.check(&NoiseProcess::edm()).unwrap_err();
        assert!(message.to_string().contains("sigma-data = 0"), "{message}");
        let x = Tensor::zeros((2, 3), DType::F64, &Device::Cpu)?;
        let message = Prediction::V.x0(&x, &[Level::CLEAN], &x).unwrap_err().to_string();
        assert!(message.contains("levels has 1 entries, but xt of shape [2, 3]"), "{message}");
        for (prediction, json) in
            ALL.into_iter().zip([r#""eps""#, r#""x0""#, r#""v""#, r#""velocity""#, r#"{"edm":{"sigma-data":0.5}}"#])
        {
            assert_eq!(serde_json::to_string(&prediction).expect("JSON"), json);
            assert_eq!(serde_json::from_str::<Prediction>(json).expect("JSON"), prediction);
        }
        assert_eq!(crate::choice::parse_choice::<Prediction>("edm").expect("a name"), Prediction::EDM);
        Ok(())
    }
}
