//! The transposed convolution layer.

use super::{Builder, Init, Probe};
use candle_core::{Result, Tensor};
use diffusion_ops::ops::{Geometry, conv_transpose2d};

/// A transposed convolution with weights and a bias: [`conv_transpose2d`].
#[derive(Clone, Debug)]
pub struct ConvTranspose2d {
    /// (I, O, K, K), initially uniform in ±1/√(O·K²), as in PyTorch.
    pub weight: Tensor,
    /// (O,), initially with the distribution of the weights.
    pub bias: Tensor,
    /// Stride and padding.
    pub geometry: Geometry,
    probe: Probe,
}

impl ConvTranspose2d {
    /// Creates a layer from `inputs` to `outputs` channels with a `kernel`×`kernel` window; parameters `weight` and
    /// `bias`.
    ///
    /// # Errors
    /// A size is 0, or the names are taken.
    pub fn new(mut build: Builder, inputs: usize, outputs: usize, kernel: usize, geometry: Geometry) -> Result<Self> {
        let init = Init::FanIn(outputs.saturating_mul(kernel).saturating_mul(kernel));
        Ok(Self {
            probe: build.probe(),
            weight: build.param("weight", (inputs, outputs, kernel, kernel), init)?,
            bias: build.param("bias", outputs, init)?,
            geometry,
        })
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// `x` (B, I, H, W); the result is (B, O, H', W'), see [`conv_transpose2d`].
    ///
    /// # Errors
    /// See [`conv_transpose2d`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Self { weight, bias, geometry, probe } = self;
        let y = conv_transpose2d(x, weight, Some(bias), *geometry)?;
        let (inputs, _, kernel, _) = weight.dims4()?;
        let kind = || format!("transposed {kernel}×{kernel}");
        let pixels = |x: &Tensor| Ok::<_, candle_core::Error>(x.dim(2)? * x.dim(3)?);
        let products = inputs * kernel * kernel * pixels(x)? / pixels(&y)?;
        probe.saw(kind, &[weight, bias], &y, products);
        Ok(y)
    }
}
