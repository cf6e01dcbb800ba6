//! Where the noise of a step comes from.

use crate::rng::Rng;
use candle_core::{Device, Result, Tensor};

/// The normal numbers of one step: the same on every device, up to the last digit of a logarithm. A CUDA device makes them
/// itself.
pub(super) enum Noise {
    Host(Box<Rng>),
    #[cfg(feature = "cuda")]
    Device(diffusion_ops::on_device::Noise),
}

impl Noise {
    /// Those that `rng` would give next.
    pub(super) fn new(rng: Rng, device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            return diffusion_ops::on_device::Noise::new(&rng, device).map(Self::Device);
        }
        let _ = device;
        Ok(Self::Host(Box::new(rng)))
    }

    /// Numbers in the shape and on the device of `like`, f32.
    pub(super) fn randn_like(&mut self, like: &Tensor) -> Result<Tensor> {
        match self {
            Self::Host(rng) => rng.randn_like(like),
            #[cfg(feature = "cuda")]
            Self::Device(noise) => noise.randn(like.shape()),
        }
    }
}
