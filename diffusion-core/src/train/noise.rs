//! Where the noise of a step comes from.

use crate::rng::Rng;
use candle_core::{Device, Result, Tensor};

/// The normal numbers of one training step: the same on every device, up to the last digit of a logarithm. A CUDA device
/// generates them itself.
#[derive(Debug)]
pub struct Noise(Source);

#[derive(Debug)]
enum Source {
    Host(Box<Rng>),
    #[cfg(feature = "cuda")]
    Device(diffusion_ops::on_device::Noise),
}

impl Noise {
    /// The numbers that `rng` would give next.
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

    /// Standard normal numbers in the shape and on the device of `like`, f32.
    ///
    /// # Errors
    /// The device has no memory for them.
    pub fn randn_like(&mut self, like: &Tensor) -> Result<Tensor> {
        match &mut self.0 {
            Source::Host(rng) => rng.randn_like(like),
            #[cfg(feature = "cuda")]
            Source::Device(noise) => noise.randn(like.shape()),
        }
    }
}
