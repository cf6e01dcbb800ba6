//! Feature extractors: networks in whose feature space images are compared.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use diffusion_data::Dataset;

/// The number of images of a data set in memory at once.
const AT_ONCE: usize = 1000;

/// A feature extractor: a [`Classifier`](super::Classifier) of the data set, or [`InceptionV3`](super::InceptionV3).
pub trait FeatureExtractor {
    /// The features and class probabilities of images, computed in batches.
    ///
    /// # Shapes
    /// `x` (N, C, H, W), in \[−1, 1\].
    ///
    /// # Errors
    /// The images have an unsupported shape or contain values that are not finite.
    fn extract(&self, x: &Tensor) -> Result<Extracted>;

    /// Whether its classes are those of the data, so that an accuracy can be computed.
    fn has_classes(&self) -> bool;

    /// [`FeatureExtractor::extract`] for the first `n` images of a data set, or all if it has fewer.
    ///
    /// # Errors
    /// See [`FeatureExtractor::extract`].
    fn extract_from(&self, data: &Dataset, n: usize) -> Result<Extracted> {
        let (mut features, mut probabilities) = (Vec::new(), Vec::new());
        let n = n.min(data.len());
        for start in (0..n).step_by(AT_ONCE) {
            let images = data.images(start..n.min(start + AT_ONCE), &Device::Cpu)?;
            let seen = self.extract(&images)?;
            features.push(seen.features);
            probabilities.push(seen.probabilities);
        }
        Extracted::new(features, probabilities)
    }
}

/// The features and class probabilities of N images.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// (N, D), f32 on the CPU: the inputs of the last layer.
    pub features: Tensor,
    /// (N, K), f32 on the CPU: the class probabilities; each row sums to 1.
    pub probabilities: Tensor,
}

impl Extracted {
    /// Concatenates the results of batches.
    pub(super) fn new(features: Vec<Tensor>, probabilities: Vec<Tensor>) -> Result<Self> {
        let features = Tensor::cat(&features, 0)?;
        ensure!(
            features.sum_all()?.to_scalar::<f32>()?.is_finite(),
            "the images contain NaN or infinity; check the samples"
        );
        Ok(Self { features, probabilities: Tensor::cat(&probabilities, 0)? })
    }
}
