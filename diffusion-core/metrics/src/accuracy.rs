//! Class accuracy: whether conditional samples show their class.

use anyhow::{Result, bail, ensure};
use candle_core::{D, DType, Device, Tensor};
use serde::Serialize;
use std::fmt;

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The accuracy of a classifier on conditional samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassAccuracy {
    /// The fraction of correctly classified samples, 0 … 1.
    pub accuracy: f64,
    /// Its 95 % confidence interval after Wilson, which also holds for few images and near 0 and 1
    /// ([Wilson 1927](https://doi.org/10.1080/01621459.1927.10502953)).
    pub interval: (f64, f64),
    /// The number of samples.
    pub samples: usize,
}

/// Compares the most probable class of each image with its label. In a tie the first class counts.
///
/// The classifier makes errors, too: on real test images it reaches [`test_accuracy`](super::About::test_accuracy).
/// Samples can exceed that if they are more typical than the test images.
///
/// # Shapes
/// `probabilities` (N, K), or any scores that are largest for the predicted class; `labels` N class labels below K.
///
/// # Errors
/// The shapes do not match, there is no image, a label is not below K, or a value is not finite.
///
/// ```
/// use diffusion_core::{candle::{Device, Tensor}, metrics::class_accuracy};
/// let p = Tensor::new(&[[0.9f32, 0.1], [0.3, 0.7], [0.6, 0.4], [0.2, 0.8]], &Device::Cpu)?;
/// let it = class_accuracy(&p, &[0, 1, 1, 1])?;
/// assert_eq!(it.accuracy, 0.75);
/// assert_eq!(it.to_string(), "accuracy 75.0 % of 4 samples; 95 % interval 30.1 … 95.4 %");
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn class_accuracy(probabilities: &Tensor, labels: &[u32]) -> Result<ClassAccuracy> {
    let [n, classes] = *probabilities.dims() else {
        bail!("class accuracy: probabilities have shape {:?}, but must be (N, K)", probabilities.dims())
    };
    ensure!(
        n == labels.len() && n > 0,
        "class accuracy: there are {n} rows of probabilities and {} labels; the numbers must be equal and at least 1",
        labels.len()
    );
    if let Some((i, label)) = labels.iter().enumerate().find(|(_, l)| **l as usize >= classes) {
        bail!("class accuracy: labels[{i}] = {label}, but there are {classes} classes")
    }
    let p = probabilities.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let rows = p.to_vec2::<f64>()?;
    ensure!(rows.iter().flatten().all(|p| p.is_finite()), "class accuracy: the probabilities contain NaN or infinity");
    let said = p.argmax(D::Minus1)?.to_vec1::<u32>()?;
    Ok(ClassAccuracy::of(said.iter().zip(labels).filter(|(a, b)| a == b).count(), n))
}

impl ClassAccuracy {
    /// The accuracy if `right` of `samples` are correct.
    pub(super) fn of(right: usize, samples: usize) -> Self {
        let (n, accuracy) = (samples as f64, right as f64 / samples as f64);
        let centre = (accuracy + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (accuracy * (1.0 - accuracy) / n + (Z / (2.0 * n)).powi(2)).sqrt();
        Self { accuracy, interval: ((centre - half).max(0.0), (centre + half).min(1.0)), samples }
    }
}

/// Prints `accuracy 75.0 % of 4 samples; 95 % interval 30.1 … 95.4 %`.
impl fmt::Display for ClassAccuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.interval;
        write!(
            f,
            "accuracy {:.1} % of {} samples; 95 % interval {:.1} … {:.1} %",
            100.0 * self.accuracy,
            self.samples,
            100.0 * low,
            100.0 * high
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_wilson() -> Result<()> {
        // Wilson's interval for 81 of 263 from the literature (Newcombe 1998, table I): 0.2553 … 0.3662.
        let rows: Vec<f32> = (0..263).flat_map(|i| if i < 81 { [0.0, 1.0] } else { [1.0, 0.0] }).collect();
        let p = Tensor::from_vec(rows, (263, 2), &Device::Cpu)?;
        let it = class_accuracy(&p, &[1; 263])?;
        assert!((it.interval.0 - 0.2553).abs() < 5e-5 && (it.interval.1 - 0.3662).abs() < 5e-5, "{it:?}");
        let all = class_accuracy(&p.narrow(0, 0, 10)?, &[1; 10])?;
        assert!(all.accuracy == 1.0 && all.interval.1 > 1.0 - 1e-12 && all.interval.0 < 0.75, "{all:?}");
        Ok(())
    }

    #[test]
    fn errors_name_wrong_arguments() -> Result<()> {
        let p = Tensor::new(&[[0.5f32, 0.5], [f32::NAN, 0.5]], &Device::Cpu)?;
        let fail = |p: &Tensor, labels: &[u32]| class_accuracy(p, labels).unwrap_err().to_string();
        for (message, wants) in [
            (fail(&p, &[0]), "2 rows of probabilities and 1 labels"),
            (fail(&p.flatten_all()?, &[0]), "have shape [4]"),
            (fail(&p, &[0, 2]), "labels[1] = 2, but there are 2 classes"),
            (fail(&p, &[0, 1]), "NaN or infinity"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
