//! Where the noise z of a step comes from.

use crate::rng::Rng;
use candle_core::{Result, Tensor};

/// Draws the noise z: a [`Rng`], or a function that returns a tensor like its argument, to replay noise for example.
pub trait Noise {
    /// Standard normal numbers, as many as in `x`, of its type and on its device.
    ///
    /// # Errors
    /// The device is out of memory.
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
