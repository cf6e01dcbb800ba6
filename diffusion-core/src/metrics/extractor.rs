//! What a network says of images that are measured.

use crate::data::Dataset;
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

/// So many images of a data set are in memory together.
const AT_ONCE: usize = 1000;

/// A network in whose features images are compared: a [`Classifier`](super::Classifier) of the data set, or
/// [`InceptionV3`](super::InceptionV3).
pub trait FeatureExtractor {
    /// Features and probabilities of images, some at a time.
    ///
    /// # Shapes
    /// `x` (N, C, H, W), in \[−1, 1\].
    ///
    /// # Errors
    /// Images of a shape that it does not know, or with numbers that are not finite.
    fn look(&self, x: &Tensor) -> Result<Answers>;

    /// Whether its classes are those of the data, so that an accuracy means something.
    fn knows_classes(&self) -> bool;

    /// [`FeatureExtractor::look`] at the first `n` images of a data set, or all if it has fewer.
    ///
    /// # Errors
    /// As [`FeatureExtractor::look`].
    fn look_at(&self, data: &Dataset, n: usize) -> Result<Answers> {
        let (mut features, mut probabilities) = (Vec::new(), Vec::new());
        let n = n.min(data.len());
        for start in (0..n).step_by(AT_ONCE) {
            let images = data.images(start..n.min(start + AT_ONCE), &Device::Cpu)?;
            let seen = self.look(&images)?;
            features.push(seen.features);
            probabilities.push(seen.probabilities);
        }
        Answers::new(features, probabilities)
    }
}

/// What a [`FeatureExtractor`] says of N images.
#[derive(Clone, Debug)]
pub struct Answers {
    /// (N, D), f32 on the CPU: what its last layer sees.
    pub features: Tensor,
    /// (N, K), f32 on the CPU: the probability of each class; each row sums to 1.
    pub probabilities: Tensor,
}

impl Answers {
    /// Of parts, one after the other.
    pub(super) fn new(features: Vec<Tensor>, probabilities: Vec<Tensor>) -> Result<Self> {
        let features = Tensor::cat(&features, 0)?;
        ensure!(
            features.sum_all()?.to_scalar::<f32>()?.is_finite(),
            "there are numbers in the images that are not finite; look at them before they are measured"
        );
        Ok(Self { features, probabilities: Tensor::cat(&probabilities, 0)? })
    }
}
