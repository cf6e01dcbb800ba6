//! The noise of a training step.

use crate::rng::Rng;
use candle_core::{Device, Result, Tensor};

/// Generates the normal numbers of one training step. They are the same on every device up to the last digit of a
/// logarithm; a CUDA device generates them itself.
#[derive(Debug)]
pub struct Noise(Source);

#[derive(Debug)]
enum Source {
    Host(Box<Rng>),
    #[cfg(feature = "cuda")]
    Device(diffusion_ops::on_device::Noise),
}

impl Noise {
    /// Generates the numbers that `rng` would return next.
    ///
    /// # Errors
    /// The device has no memory for its generator.
    pub fn new(rng: Rng, device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            return diffusion_ops::on_device::Noise::new(&rng, device).map(|noise| Self(Source::Device(noise)));
        }
        let _ = device;
        Ok(Self(Source::Host(Box::new(rng))))
    }

    /// Standard normal f32 numbers with the shape and device of `like`.
    ///
    /// # Errors
    /// The device has not enough memory.
    pub fn randn_like(&mut self, like: &Tensor) -> Result<Tensor> {
        match &mut self.0 {
            Source::Host(rng) => rng.randn_like(like),
            #[cfg(feature = "cuda")]
            Source::Device(noise) => noise.randn(like.shape()),
        }
    }
}
