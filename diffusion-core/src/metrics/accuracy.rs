//! Whether conditional samples show what was asked for.

use anyhow::{Result, bail, ensure};
use candle_core::{D, DType, Device, Tensor};
use serde::Serialize;
use std::fmt;

/// z of a normal distribution that leaves 2.5 % on each side.
const Z: f64 = 1.959_963_984_540_054;

/// How many images a classifier takes for what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassAccuracy {
    /// The share of them, 0 … 1.
    pub accuracy: f64,
    /// Where it lies with 95 % confidence: Wilson's interval, which holds for few images and near 0 and 1 also
    /// ([Wilson 1927](https://doi.org/10.1080/01621459.1927.10502953)).
    pub interval: (f64, f64),
    /// How many images there were.
    pub samples: usize,
}

/// Compares the most probable class of each image with the one that was asked for. Of equally probable ones the first counts.
///
/// The classifier errs too: on real test images it reaches [`test_accuracy`](super::About::test_accuracy), and samples
/// can have more where they are more typical than the test images.
///
/// # Shapes
/// `probabilities` (N, K), or any numbers that are largest for the class; `labels` N class numbers below K.
///
/// # Errors
/// Other shapes, no image, a label that is not below K, or numbers that are not finite.
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
        bail!("class accuracy: probabilities have shape {:?}; (N, K) is needed", probabilities.dims())
    };
    ensure!(
        n == labels.len() && n > 0,
        "class accuracy: {n} rows of probabilities and {} labels; at least one and as many of both are needed",
        labels.len()
    );
    if let Some((i, label)) = labels.iter().enumerate().find(|(_, l)| **l as usize >= classes) {
        bail!("class accuracy: labels[{i}] = {label}, but there are {classes} classes")
    }
    let p = probabilities.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let rows = p.to_vec2::<f64>()?;
    ensure!(
        rows.iter().flatten().all(|p| p.is_finite()),
        "class accuracy: there are probabilities that are not finite"
    );
    let said = p.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let right = said.iter().zip(labels).filter(|(a, b)| a == b).count();
    let (n, accuracy) = (n as f64, right as f64 / n as f64);
    let centre = (accuracy + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (accuracy * (1.0 - accuracy) / n + (Z / (2.0 * n)).powi(2)).sqrt();
    Ok(ClassAccuracy {
        accuracy,
        interval: ((centre - half).max(0.0), (centre + half).min(1.0)),
        samples: labels.len(),
    })
}

/// `accuracy 75.0 % of 4 samples; 95 % interval 30.1 … 95.4 %`
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
    fn the_interval_holds_what_it_should() -> Result<()> {
        // Wilson's for 81 of 263, from the literature (Newcombe 1998, table I): 0.2553 … 0.3662.
        let rows: Vec<f32> = (0..263).flat_map(|i| if i < 81 { [0.0, 1.0] } else { [1.0, 0.0] }).collect();
        let p = Tensor::from_vec(rows, (263, 2), &Device::Cpu)?;
        let it = class_accuracy(&p, &[1; 263])?;
        assert!((it.interval.0 - 0.2553).abs() < 5e-5 && (it.interval.1 - 0.3662).abs() < 5e-5, "{it:?}");
        let all = class_accuracy(&p.narrow(0, 0, 10)?, &[1; 10])?;
        assert!(all.accuracy == 1.0 && all.interval.1 > 1.0 - 1e-12 && all.interval.0 < 0.75, "{all:?}");
        Ok(())
    }

    #[test]
    fn wrong_arguments_are_named() -> Result<()> {
        let p = Tensor::new(&[[0.5f32, 0.5], [f32::NAN, 0.5]], &Device::Cpu)?;
        let fail = |p: &Tensor, labels: &[u32]| class_accuracy(p, labels).unwrap_err().to_string();
        for (message, wants) in [
            (fail(&p, &[0]), "2 rows of probabilities and 1 labels"),
            (fail(&p.flatten_all()?, &[0]), "have shape [4]"),
            (fail(&p, &[0, 2]), "labels[1] = 2, but there are 2 classes"),
            (fail(&p, &[0, 1]), "not finite"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
