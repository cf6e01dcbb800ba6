//! The blocks of [`ContextUnet`](crate::unet::ContextUnet): convolution → batch norm → GELU, and the embeddings.

use crate::nn::{BatchNorm2d, Builder, Conv2d, ConvTranspose2d, Linear};
use crate::ops::{Activation, Geometry, add, concat_channels, gelu, max_pool2d, scale};
use candle_core::{Result, Tensor};

/// The divisor of a residual sum, about √2, which preserves the variance.
const SPREAD: f64 = 1.414;

/// The residual connection of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// None: conv2(conv1(x)).
    None,
    /// (x + conv2(conv1(x))) / 1.414, or conv2(conv1(x)) / 1.414 if the numbers of channels differ.
    ///
    /// If they differ, the original adds a 1×1 convolution of x whose weights are redrawn in every forward pass and
    /// neither trained nor saved. Their mean is 0; here that mean is added, so that the output depends on the weights
    /// only.
    Scaled,
}

/// Two units of 3×3 convolution → batch norm → GELU.
#[derive(Clone, Debug)]
pub struct ResidualConvBlock {
    /// From input to output channels.
    pub conv1: (Conv2d, BatchNorm2d),
    /// From output to output channels.
    pub conv2: (Conv2d, BatchNorm2d),
    /// The residual connection.
    pub residual: Residual,
}

impl ResidualConvBlock {
    /// Creates a block from `inputs` to `outputs` channels; parts `conv1.0` (convolution), `conv1.1` (norm), `conv2.0`,
    /// `conv2.1`.
    ///
    /// # Errors
    /// A size is 0.
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
    /// The shapes do not match.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // Assigning instead of nesting frees tensors as soon as they are no longer needed.
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
    /// Creates a block from `inputs` to `outputs` channels; parts `model.0` and `model.1`.
    ///
    /// # Errors
    /// A size is 0.
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
    /// The shapes do not match.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.model[1].forward(&self.model[0].forward(x)?)?;
        max_pool2d(&x, 2)
    }
}

/// A transposed convolution that doubles height and width, then two [`ResidualConvBlock`]s.
#[derive(Clone, Debug)]
pub struct UnetUp {
    /// 2×2, stride 2.
    pub up: ConvTranspose2d,
    /// The blocks.
    pub blocks: [ResidualConvBlock; 2],
}

impl UnetUp {
    /// Creates a block from `inputs` channels, including the skip connection, to `outputs`; parts `model.0`, `model.1`,
    /// `model.2`.
    ///
    /// # Errors
    /// A size is 0.
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
    /// `x` and `skip` (B, …, H, W), with `inputs` channels together; the result is (B, outputs, 2H, 2W).
    ///
    /// # Errors
    /// The shapes do not match.
    pub fn forward(&self, x: &Tensor, skip: &Tensor) -> Result<Tensor> {
        let mut x = self.up.forward(&concat_channels(x, skip)?)?;
        x = self.blocks[0].forward(&x)?;
        self.blocks[1].forward(&x)
    }
}

/// An embedding of one or a few numbers into one value per channel: linear → GELU → linear.
#[derive(Clone, Debug)]
pub struct EmbedFC {
    /// From the inputs to the hidden width, then to the hidden width again.
    pub model: [Linear; 2],
}

impl EmbedFC {
    /// Creates an embedding from `inputs` to `outputs` numbers; parts `model.0` and `model.2`.
    ///
    /// # Errors
    /// A size is 0.
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
    /// The shapes do not match.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [first, second] = &self.model;
        second.forward(&gelu(&first.forward(x)?)?)
    }
}
