//! The convolution layer.

use super::{Builder, Init};
use crate::ops::{Geometry, conv2d, upsample_nearest2x_conv2d};
use candle_core::{Result, Tensor};

/// A convolution with weights and bias of its own: [`conv2d`].
#[derive(Clone, Debug)]
pub struct Conv2d {
    /// (O, I, K, K), at first uniform in ±1/√(I·K²).
    pub weight: Tensor,
    /// (O,), at first uniform as the weights.
    pub bias: Tensor,
    /// Stride and padding.
    pub geometry: Geometry,
}

impl Conv2d {
    /// From `inputs` to `outputs` channels through a window of `kernel`×`kernel` pixels; parameters `weight` and `bias`.
    ///
    /// # Errors
    /// One of the three numbers is 0, or the names are taken.
    pub fn new(
        mut build: Builder,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        geometry: Geometry,
    ) -> Result<Self> {
        let init = Init::FanIn(inputs.saturating_mul(kernel).saturating_mul(kernel));
        Ok(Self {
            weight: build.param("weight", (outputs, inputs, kernel, kernel), init)?,
            bias: build.param("bias", outputs, init)?,
            geometry,
        })
    }

    /// # Shapes
    /// `x` (B, I, H, W); the result is (B, O, H', W') as [`conv2d`] says.
    ///
    /// # Errors
    /// As [`conv2d`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with_bias(x, &self.bias)
    }

    /// With another bias, such as one for each image.
    ///
    /// # Shapes
    /// `x` (B, I, H, W); `bias` (O,) or (B, O); the result is (B, O, H', W') as [`conv2d`] says.
    ///
    /// # Errors
    /// As [`conv2d`].
    pub fn forward_with_bias(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        conv2d(x, &self.weight, Some(bias), self.geometry)
    }

    /// Of the image with each pixel four times, twice as high and wide: [`upsample_nearest2x_conv2d`].
    ///
    /// # Shapes
    /// `x` (B, I, H, W); the result is (B, O, 2H, 2W) if the geometry is that of the same size.
    ///
    /// # Errors
    /// As [`conv2d`].
    pub fn forward_upsampled(&self, x: &Tensor) -> Result<Tensor> {
        upsample_nearest2x_conv2d(x, &self.weight, Some(&self.bias), self.geometry)
    }
}
