//! The convolution layer.

use super::{Builder, Init, Probe};
use candle_core::{Result, Tensor};
use diffusion_ops::ops::{Geometry, conv2d, upsample_nearest2x_conv2d, weight_standardize};

/// The ε added to the variance of standardised weights.
const EPS: f64 = 1e-5;

/// A convolution with weights and a bias: [`conv2d`].
#[derive(Clone, Debug)]
pub struct Conv2d {
    /// (O, I, K, K), initially uniform in ±1/√(I·K²).
    pub weight: Tensor,
    /// (O,), initially with the distribution of the weights.
    pub bias: Tensor,
    /// Stride and padding.
    pub geometry: Geometry,
    standardized: bool,
    probe: Probe,
}

impl Conv2d {
    /// Creates a convolution from `inputs` to `outputs` channels with a `kernel`×`kernel` window; parameters `weight`
    /// and `bias`.
    ///
    /// # Errors
    /// A size is 0, or the names are taken.
    pub fn new(build: Builder, inputs: usize, outputs: usize, kernel: usize, geometry: Geometry) -> Result<Self> {
        let init = Init::FanIn(inputs.saturating_mul(kernel).saturating_mul(kernel));
        Self::with_init(build, inputs, outputs, kernel, geometry, init)
    }

    /// Creates a convolution with zero weights and biases; a network that ends in it predicts 0 before training.
    ///
    /// # Errors
    /// See [`Conv2d::new`].
    pub fn zeros(build: Builder, inputs: usize, outputs: usize, kernel: usize, geometry: Geometry) -> Result<Self> {
        Self::with_init(build, inputs, outputs, kernel, geometry, Init::Zeros)
    }

    /// Creates a convolution whose weights are standardised to mean 0 and variance 1 for each output channel
    /// ([`weight_standardize`] with ε = 1e-5). A norm must follow, since the scale is lost.
    ///
    /// # Errors
    /// See [`Conv2d::new`].
    pub fn standardized(
        build: Builder,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        geometry: Geometry,
    ) -> Result<Self> {
        let plain = Self::new(build, inputs, outputs, kernel, geometry)?;
        Ok(Self { standardized: true, ..plain })
    }

    fn with_init(
        mut build: Builder,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        geometry: Geometry,
        init: Init,
    ) -> Result<Self> {
        Ok(Self {
            probe: build.probe(),
            weight: build.param("weight", (outputs, inputs, kernel, kernel), init)?,
            bias: build.param("bias", outputs, init)?,
            geometry,
            standardized: false,
        })
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// `x` (B, I, H, W); the result is (B, O, H', W'), see [`conv2d`].
    ///
    /// # Errors
    /// See [`conv2d`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with_bias(x, &self.bias)
    }

    /// Applies the layer with a different bias, for example one for each image.
    ///
    /// # Shapes
    /// `x` (B, I, H, W); `bias` (O,) or (B, O); the result is (B, O, H', W'), see [`conv2d`].
    ///
    /// # Errors
    /// See [`conv2d`].
    pub fn forward_with_bias(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        self.seen(conv2d(x, &self.used()?, Some(bias), self.geometry)?)
    }

    /// Applies the layer after 2× nearest-neighbour upsampling: [`upsample_nearest2x_conv2d`].
    ///
    /// # Shapes
    /// `x` (B, I, H, W); the result is (B, O, 2H, 2W) if the geometry preserves the size.
    ///
    /// # Errors
    /// See [`conv2d`].
    pub fn forward_upsampled(&self, x: &Tensor) -> Result<Tensor> {
        let bias = Some(&self.bias);
        self.seen(upsample_nearest2x_conv2d(x, &self.used()?, bias, self.geometry)?)
    }

    /// The weights after standardisation, if any.
    fn used(&self) -> Result<Tensor> {
        match self.standardized {
            true => weight_standardize(&self.weight, EPS),
            false => Ok(self.weight.clone()),
        }
    }

    fn seen(&self, y: Tensor) -> Result<Tensor> {
        let (_, inputs, kernel, _) = self.weight.dims4()?;
        let kind = || format!("conv {kernel}×{kernel}");
        let products = inputs * kernel * kernel;
        self.probe.saw(kind, &[&self.weight, &self.bias], &y, products);
        Ok(y)
    }
}
