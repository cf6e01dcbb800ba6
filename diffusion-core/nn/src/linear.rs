//! The linear layer.

use super::{Builder, Init, Probe};
use candle_core::{Result, Tensor};
use diffusion_ops::ops::{conv1x1, linear};

/// An affine map with weights and a bias: [`linear`].
#[derive(Clone, Debug)]
pub struct Linear {
    /// (O, I), initially uniform in ±1/√I.
    pub weight: Tensor,
    /// (O,), initially with the distribution of the weights.
    pub bias: Tensor,
    probe: Probe,
}

impl Linear {
    /// Creates a layer from `inputs` to `outputs` features; parameters `weight` and `bias`.
    ///
    /// # Errors
    /// A size is 0, or the names are taken.
    pub fn new(mut build: Builder, inputs: usize, outputs: usize) -> Result<Self> {
        let init = Init::FanIn(inputs);
        Ok(Self {
            probe: build.probe(),
            weight: build.param("weight", (outputs, inputs), init)?,
            bias: build.param("bias", outputs, init)?,
        })
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// `x` (…, I); the result is (…, O).
    ///
    /// # Errors
    /// See [`linear`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.seen(linear(x, &self.weight, Some(&self.bias))?)
    }

    /// Applies the layer to the channels of every pixel: [`conv1x1`].
    ///
    /// # Shapes
    /// `x` (B, I, H, W); the result is (B, O, H, W).
    ///
    /// # Errors
    /// See [`conv1x1`].
    pub fn forward_pixels(&self, x: &Tensor) -> Result<Tensor> {
        self.seen(conv1x1(x, &self.weight, Some(&self.bias))?)
    }

    fn seen(&self, y: Tensor) -> Result<Tensor> {
        let kind = || "linear".to_owned();
        self.probe.saw(kind, &[&self.weight, &self.bias], &y, self.weight.dim(1)?);
        Ok(y)
    }
}
