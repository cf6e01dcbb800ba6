//! The networks of a GAN and of a VAE with one latent vector for each image, of the size of DCGAN
//! ([Radford et al. 2015](https://arxiv.org/abs/1511.06434)).

use crate::nn::{Builder, Conv2d, GroupNorm, Linear};
use crate::ops::{Activation, Geometry};
use candle_core::{Result, Tensor, bail};
use candle_nn::ops::leaky_relu;

/// The slope of leaky ReLU for negative numbers, of DCGAN.
const SLOPE: f64 = 0.2;

/// The networks between vectors and images.
#[derive(Clone, Copy)]
pub(in crate::train) struct Sizes {
    /// The numbers of a vector.
    pub(in crate::train) vector: usize,
    /// The channels at full resolution; twice as many at lower ones.
    pub(in crate::train) base: usize,
    /// The shape (C, H, W) of an image.
    pub(in crate::train) image: [usize; 3],
}

impl Sizes {
    /// Checks the sizes; an error begins with `name` and calls the vector `vector`.
    pub(in crate::train) fn check(&self, name: &str, vector: &str) -> Result<()> {
        let Self { base, image: [channels, height, width], .. } = *self;
        if !(1..=4096).contains(&self.vector) {
            bail!("{name}: {vector} = {} must be in 1 … 4096", self.vector)
        }
        if !(4..=1024).contains(&base) || !base.is_multiple_of(4) {
            bail!("{name}: base = {base} must be in 4 … 1024 and divisible by 4")
        }
        if !height.is_multiple_of(4) || !width.is_multiple_of(4) {
            bail!(
                "{name}: images of {channels}×{height}×{width} do not suit it; height and width must be divisible by 4"
            )
        }
        Ok(())
    }

    /// The numbers of the features at a quarter of the resolution.
    fn features(&self) -> usize {
        let [_, height, width] = self.image;
        2 * self.base * (height / 4) * (width / 4)
    }
}

/// From a vector to a quarter of the resolution by a linear layer, and twice up: group norm and SiLU before every
/// convolution, tanh at the end.
#[derive(Debug)]
pub(in crate::train) struct Generator {
    image: [usize; 3],
    linear: Linear,
    norms: [GroupNorm; 3],
    convs: [Conv2d; 3],
}

impl Generator {
    pub(in crate::train) fn new(mut build: Builder, sizes: Sizes) -> Result<Self> {
        let (Sizes { vector, base, image }, b) = (sizes, &mut build);
        let norm = |b: &mut Builder, i: usize, width: usize| {
            GroupNorm::new(b.at(format!("norm{i}")), 4, width, Activation::Silu)
        };
        let conv = |b: &mut Builder, i: usize, inputs: usize, outputs: usize| {
            Conv2d::new(b.at(format!("conv{i}")), inputs, outputs, 3, Geometry::same(3))
        };
        Ok(Self {
            image,
            linear: Linear::new(b.at("linear"), vector, sizes.features())?,
            norms: [norm(b, 1, 2 * base)?, norm(b, 2, 2 * base)?, norm(b, 3, base)?],
            convs: [conv(b, 1, 2 * base, 2 * base)?, conv(b, 2, 2 * base, base)?, conv(b, 3, base, image[0])?],
        })
    }

    /// (B, vector) → (B, C, H, W), in [−1, 1].
    pub(in crate::train) fn forward(&self, z: &Tensor) -> Result<Tensor> {
        let [_, height, width] = self.image;
        let mut x = self.linear.forward(z)?.reshape((z.dim(0)?, (), height / 4, width / 4))?;
        x = self.convs[0].forward_upsampled(&self.norms[0].forward(&x)?)?;
        x = self.convs[1].forward_upsampled(&self.norms[1].forward(&x)?)?;
        self.convs[2].forward(&self.norms[2].forward(&x)?)?.tanh()
    }
}

/// Two convolutions with stride 2, one without, and a linear layer, with leaky ReLU between them and no norm: the
/// discriminator, with one output, or an encoder.
#[derive(Debug)]
pub(in crate::train) struct Encoder {
    convs: [Conv2d; 3],
    linear: Linear,
}

impl Encoder {
    pub(in crate::train) fn new(mut build: Builder, sizes: Sizes, outputs: usize) -> Result<Self> {
        let (Sizes { base, image, .. }, same, b) = (sizes, Geometry::same(3), &mut build);
        Ok(Self {
            convs: [
                Conv2d::new(b.at("conv1"), image[0], base, 3, same.stride(2))?,
                Conv2d::new(b.at("conv2"), base, 2 * base, 3, same.stride(2))?,
                Conv2d::new(b.at("conv3"), 2 * base, 2 * base, 3, same)?,
            ],
            linear: Linear::new(b.at("linear"), sizes.features(), outputs)?,
        })
    }

    /// (B, C, H, W) → (B, outputs).
    pub(in crate::train) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for conv in &self.convs {
            x = leaky_relu(&conv.forward(&x)?, SLOPE)?;
        }
        self.linear.forward(&x.flatten_from(1)?)
    }
}
