//! How good samples are, in numbers.
//!
//! | measure | compares | says | built on |
//! |---|---|---|---|
//! | [`frechet_distance`] | two sets of features | how far apart two Gaussians fitted to them are | mean and covariance |
//! | [`kernel_distance`] | two sets of features | the same without a Gaussian, and unbiased | a cubic kernel |
//! | [`precision_recall`] | two sets of features | which share looks real; which share of the real can be made | k nearest neighbours |
//! | [`inception_score`] | class probabilities | sure of each image, and of all classes | entropy |
//! | [`class_accuracy`] | class probabilities and what was asked for | whether a condition is obeyed | the likeliest class |
//! | [`nearest`] | samples and training images | whether a sample is a copy | Euclidean distance |
//! | [`psnr`], [`ssim`] | two images, pixel by pixel | how alike they are | the squared error; means and variances in a window |
//!
//! Features and probabilities are a [`Classifier`]'s mostly, or those of [`InceptionV3`]; any (N, D) tensor will do. A distance between sets depends on how many
//! images there are, and one that is not 0 may say no more than that there were few. So the measures of sets answer with an
//! [`Estimate`]: the value, the numbers of images, what real images reach against other real images, and a 95 % interval.
//!
//! [`Evaluation`] is all of them together, as `diffusion evaluate` prints it. Built by hand in `notebooks/10_evaluation.ipynb`.
//!
//! ```
//! use diffusion_core::{candle::Device, metrics::frechet_distance, rng::Rng};
//! let mut rng = Rng::new(1);
//! let real = rng.randn((1000, 4), &Device::Cpu)?;
//! let samples = (rng.randn((1000, 4), &Device::Cpu)? + 0.5)?;
//! let it = frechet_distance(&real, &samples, &mut rng)?;
//! // The means are 0.5 apart in each of 4 numbers: the distance is 4 · 0.25.
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
pub use classifier::{About, Classifier, Fit};
pub use estimate::{Estimate, Reference};
pub use evaluation::{Copies, Evaluation};
pub use extractor::{Answers, FeatureExtractor};
pub use frechet::{Gaussian, frechet_distance};
pub use inception::inception_score;
pub use inception_v3::InceptionV3;
pub use kernel::kernel_distance;
pub use nearest::{Neighbour, nearest};
pub use precision::{PrecisionRecall, precision_recall};
pub use psnr::psnr;
pub use ssim::ssim;

/// How often real images are split at random to find what distance they have among themselves: one split is a matter of luck.
const SPLITS: usize = 8;
