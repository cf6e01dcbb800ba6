//! Latents: small tensors that an autoencoder makes of images, on which diffusion costs less.

mod vae;

pub use vae::{Vae, VaeConfig};

use crate::data::{Augmentation, Dataset};
use anyhow::{Context, Result};
use candle_core::{Device, Tensor};

/// The number of images that are encoded or decoded at once.
const AT_ONCE: usize = 128;

/// The number of images whose latents determine the scale.
pub(crate) const FOR_SCALE: usize = 1024;

/// Maps images to latents and back ([Rombach et al. 2022](https://arxiv.org/abs/2112.10752)).
pub trait Autoencoder {
    /// The latents of images, multiplied by [`Autoencoder::scale`].
    ///
    /// # Shapes
    /// `x` (B, C, H, W), in \[−1, 1\]; the result has the shape of [`Autoencoder::latent_shape`] for each image.
    ///
    /// # Errors
    /// The shape does not suit the autoencoder.
    fn encode(&self, x: &Tensor) -> candle_core::Result<Tensor>;

    /// The images of latents, nominally in \[−1, 1\].
    ///
    /// # Shapes
    /// `z` as [`Autoencoder::encode`] returns it; the result is (B, C, H, W).
    ///
    /// # Errors
    /// The shape does not suit the autoencoder.
    fn decode(&self, z: &Tensor) -> candle_core::Result<Tensor>;

    /// The factor by which latents are multiplied, 1 over their standard deviation: a noise process expects data with a
    /// variance near 1.
    fn scale(&self) -> f64;

    /// The shape of the latents of images of shape (C, H, W).
    ///
    /// # Errors
    /// The shape does not suit the autoencoder.
    fn latent_shape(&self, image: [usize; 3]) -> candle_core::Result<[usize; 3]>;
}

/// A data set of the latents of all images, with their labels, captions and attributes.
///
/// If the images are to be flipped in training, those of the flipped images follow them, so an epoch has twice as many:
/// a flipped latent is not the latent of a flipped image.
///
/// # Errors
/// The images do not suit the autoencoder, or cannot be read.
pub fn encoded(data: &Dataset, autoencoder: &impl Autoencoder, device: &Device) -> Result<Dataset> {
    let shape = autoencoder.latent_shape(data.shape())?;
    let flips = data.augmentation().contains(&Augmentation::HorizontalFlip);
    let mut values = Vec::new();
    for flipped in [false, true].into_iter().take(1 + usize::from(flips)) {
        for start in (0..data.len()).step_by(AT_ONCE) {
            let mut x = data.images(start..data.len().min(start + AT_ONCE), device)?;
            if flipped {
                x = x.flip(&[3])?;
            }
            values.extend(autoencoder.encode(&x)?.flatten_all()?.to_vec1::<f32>()?);
        }
    }
    data.with_values(values, shape).context("the latents")
}
