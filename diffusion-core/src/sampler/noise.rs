//! Where the noise z of a step comes from.

use crate::rng::Rng;
use candle_core::{Result, Tensor};

/// Draws the noise z: a [`Rng`] does, and any function that makes a tensor like the one given, to replay noise say.
pub trait Noise {
    /// Standard normal numbers, as many as in `x`, of its type and on its device.
    ///
    /// # Errors
    /// The device has no room.
    fn like(&mut self, x: &Tensor) -> Result<Tensor>;
}

impl Noise for Rng {
    fn like(&mut self, x: &Tensor) -> Result<Tensor> {
        self.randn_like(x)
    }
}

impl<F: FnMut(&Tensor) -> Result<Tensor>> Noise for F {
    fn like(&mut self, x: &Tensor) -> Result<Tensor> {
        self(x)
    }
}
