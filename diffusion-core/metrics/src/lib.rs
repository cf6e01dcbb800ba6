//! Metrics of sample quality.
//!
//! | measure | compares | says | built on |
//! |---|---|---|---|
//! | [`frechet_distance`] | two sets of features | distance of Gaussians fitted to them | mean and covariance |
//! | [`kernel_distance`] | two sets of features | their distance, without a Gaussian and unbiased | a cubic kernel |
//! | [`precision_recall`] | two sets of features | fraction that looks real; fraction of real images covered | k nearest neighbours |
//! | [`inception_score`] | class probabilities | confidence for each image, variety of classes | entropy |
//! | [`class_accuracy`] | class probabilities and labels | whether samples show their class | the most probable class |
//! | [`Classifier::attribute_accuracy`] | samples and attributes | whether samples show what a caption mentions | the most probable value of each attribute |
//! | [`nearest`] | samples and training images | whether a sample is a copy | Euclidean distance |
//! | [`psnr`], [`ssim`] | two images, pixel by pixel | their similarity | the squared error; means and variances in a window |
//!
//! Features and probabilities usually come from a [`Classifier`] or from [`InceptionV3`]; any (N, D) tensor works. A
//! distance between sets depends on the number of images, and may differ from 0 only because they are few. The measures
//! of sets therefore return an [`Estimate`]: the value, the numbers of images, the real-vs-real baseline and a 95 %
//! confidence interval.
//!
//! [`Evaluation`] computes all of them, as printed by `diffusion evaluate`. Built from scratch in
//! `notebooks/10_evaluation.ipynb`.
//!
//! ```
//! use diffusion_core::{candle::Device, metrics::frechet_distance, rng::Rng};
//! let mut rng = Rng::new(1);
//! let real = rng.randn((1000, 4), &Device::Cpu)?;
//! let samples = (rng.randn((1000, 4), &Device::Cpu)? + 0.5)?;
//! let it = frechet_distance(&real, &samples, &mut rng)?;
//! // The means differ by 0.5 in each of 4 features: the distance is 4 · 0.25.
//! assert!(it.interval.0 < 1.0 && 1.0 < it.interval.1, "{it}");
//! assert!(it.real.value < 0.05 * it.value, "{it}");
//! # Ok::<(), anyhow::Error>(())
//! ```

mod accuracy;
mod bootstrap;
mod classifier;
mod estimate;
mod evaluation;
mod extractor;
mod features;
mod frechet;
mod inception;
mod inception_v3;
mod kernel;
mod nearest;
mod precision;
mod psnr;
mod ssim;

pub use accuracy::{ClassAccuracy, class_accuracy};
pub use classifier::{About, Attribute, AttributeAccuracy, Classifier, Fit};
pub use estimate::{Estimate, Reference};
pub use evaluation::{Copies, Evaluation};
pub use extractor::{Extracted, FeatureExtractor};
pub use frechet::{Gaussian, frechet_distance};
pub use inception::inception_score;
pub use inception_v3::InceptionV3;
pub use kernel::kernel_distance;
pub use nearest::{Neighbour, nearest};
pub use precision::{PrecisionRecall, precision_recall};
pub use psnr::psnr;
pub use ssim::ssim;

/// The number of random splits of the real images for the baseline; a single split is too noisy.
const SPLITS: usize = 8;
