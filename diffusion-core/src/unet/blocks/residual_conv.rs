//! The blocks of [`ContextUnet`](crate::unet::ContextUnet): convolution → batch norm → GELU, and embeddings of time and
//! context.

use crate::nn::{BatchNorm2d, Builder, Conv2d, ConvTranspose2d, Linear};
use crate::ops::{Activation, Geometry, add, concat_channels, gelu, max_pool2d, scale};
use candle_core::{Result, Tensor};

/// What the sum of a residual block is divided by, about √2, so that its variance stays.
const SPREAD: f64 = 1.414;

/// Whether a block adds its input to its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// It does not: conv2(conv1(x)).
    None,
    /// (x + conv2(conv1(x))) / 1.414, or if the numbers of channels differ conv2(conv1(x)) / 1.414.
    ///
    /// The original adds in the latter case a 1×1 convolution of x whose weights are drawn again at every forward pass, neither
    /// trained nor saved. Their mean is 0, and that is what is added here, so that the output depends on the weights alone.
    Scaled,
}

/// Convolution 3×3 → batch norm → GELU, twice.
#[derive(Clone, Debug)]
pub struct ResidualConvBlock {
    /// From input to output channels.
    pub conv1: (Conv2d, BatchNorm2d),
    /// From output to output channels.
    pub conv2: (Conv2d, BatchNorm2d),
    /// Whether the input is added.
    pub residual: Residual,
}

impl ResidualConvBlock {
    /// From `inputs` to `outputs` channels; parts `conv1.0` (the convolution), `conv1.1` (the norm), `conv2.0`, `conv2.1`.
    ///
    /// # Errors
    /// One of the two numbers is 0.
    pub fn new(mut build: Builder, inputs: usize, outputs: usize, residual: Residual) -> Result<Self> {
        let mut half = |name: &str, inputs| -> Result<(Conv2d, BatchNorm2d)> {
            let mut build = build.at(name);
            let conv = Conv2d::new(build.at(0), inputs, outputs, 3, Geometry::same(3))?;
            let norm = BatchNorm2d::new(build.at(1), outputs, Activation::Gelu)?;
            Ok((conv, norm))
        };
        Ok(Self { conv1: half("conv1", inputs)?, conv2: half("conv2", outputs)?, residual })
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// `x` (B, inputs, H, W); the result is (B, outputs, H, W).
    ///
    /// # Errors
    /// Other shapes.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // Assigned and not nested: what is no longer needed is freed at once.
        let mut y = x.clone();
        for (conv, norm) in [&self.conv1, &self.conv2] {
            y = conv.forward(&y)?;
            y = norm.forward(&y)?;
        }
        match self.residual {
            Residual::None => Ok(y),
            Residual::Scaled if x.dims() == y.dims() => add(x, &y, 1.0 / SPREAD),
            Residual::Scaled => scale(&y, 1.0 / SPREAD),
        }
    }
}

/// Two [`ResidualConvBlock`]s, then 2×2 max pooling.
#[derive(Clone, Debug)]
pub struct UnetDown {
    /// The blocks.
    pub model: [ResidualConvBlock; 2],
}

impl UnetDown {
    /// From `inputs` to `outputs` channels; parts `model.0` and `model.1`.
    ///
    /// # Errors
    /// One of the two numbers is 0.
    pub fn new(mut build: Builder, inputs: usize, outputs: usize) -> Result<Self> {
        let mut model = build.at("model");
        Ok(Self {
            model: [
                ResidualConvBlock::new(model.at(0), inputs, outputs, Residual::None)?,
                ResidualConvBlock::new(model.at(1), outputs, outputs, Residual::None)?,
            ],
        })
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// `x` (B, inputs, H, W); the result is (B, outputs, H/2, W/2).
    ///
    /// # Errors
    /// Other shapes.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.model[1].forward(&self.model[0].forward(x)?)?;
        max_pool2d(&x, 2)
    }
}

/// A transposed convolution to twice the height and width, then two [`ResidualConvBlock`]s.
#[derive(Clone, Debug)]
pub struct UnetUp {
    /// 2×2, stride 2.
    pub up: ConvTranspose2d,
    /// The blocks.
    pub blocks: [ResidualConvBlock; 2],
}

impl UnetUp {
    /// From `inputs` channels, those of the skip connection included, to `outputs`; parts `model.0`, `model.1` and `model.2`.
    ///
    /// # Errors
    /// One of the two numbers is 0.
    pub fn new(mut build: Builder, inputs: usize, outputs: usize) -> Result<Self> {
        let (mut model, twice) = (build.at("model"), Geometry::default().stride(2));
        Ok(Self {
            up: ConvTranspose2d::new(model.at(0), inputs, outputs, 2, twice)?,
            blocks: [
                ResidualConvBlock::new(model.at(1), outputs, outputs, Residual::None)?,
                ResidualConvBlock::new(model.at(2), outputs, outputs, Residual::None)?,
            ],
        })
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// `x` and `skip` (B, …, H, W), together of `inputs` channels; the result is (B, outputs, 2H, 2W).
    ///
    /// # Errors
    /// Other shapes.
    pub fn forward(&self, x: &Tensor, skip: &Tensor) -> Result<Tensor> {
        let mut x = self.up.forward(&concat_channels(x, skip)?)?;
        x = self.blocks[0].forward(&x)?;
        self.blocks[1].forward(&x)
    }
}

/// Linear → GELU → linear: from a number, or a few, to one for each channel.
#[derive(Clone, Debug)]
pub struct EmbedFC {
    /// From the inputs to the hidden width, and from that to the same.
    pub model: [Linear; 2],
}

impl EmbedFC {
    /// From `inputs` numbers to `outputs`; parts `model.0` and `model.2`.
    ///
    /// # Errors
    /// One of the two numbers is 0.
    pub fn new(mut build: Builder, inputs: usize, outputs: usize) -> Result<Self> {
        let mut model = build.at("model");
        Ok(Self { model: [Linear::new(model.at(0), inputs, outputs)?, Linear::new(model.at(2), outputs, outputs)?] })
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// `x` (B, inputs); the result is (B, outputs).
    ///
    /// # Errors
    /// Other shapes.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [first, second] = &self.model;
        second.forward(&gelu(&first.forward(x)?)?)
    }
}
