//! The layers of the variational autoencoder.

use super::{PATCH, VaeConfig};
use crate::nn::{Builder, Conv2d, GroupNorm};
use crate::ops::{Activation, Geometry, add};
use candle_core::{Result, Tensor, bail};
use candle_nn::ops::{pixel_shuffle, pixel_unshuffle};

/// The range of log σ².
const LOG_VARIANCE: (f64, f64) = (-20.0, 10.0);

/// x + conv2(silu(norm2(conv1(silu(norm1(x)))))), the residual block without a time.
#[derive(Debug)]
struct Block {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
}

impl Block {
    fn new(mut build: Builder, width: usize, groups: usize) -> Result<Self> {
        let (silu, same) = (Activation::Silu, Geometry::same(3));
        Ok(Self {
            norm1: GroupNorm::new(build.at("norm1"), groups, width, silu)?,
            conv1: Conv2d::new(build.at("conv1"), width, width, 3, same)?,
            norm2: GroupNorm::new(build.at("norm2"), groups, width, silu)?,
            conv2: Conv2d::zeros(build.at("conv2"), width, width, 3, same)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut h = self.conv1.forward(&self.norm1.forward(x)?)?;
        h = self.conv2.forward(&self.norm2.forward(&h)?)?;
        add(x, &h, 1.0)
    }
}

/// A half of the autoencoder: from the input, through the resolutions, to the output.
#[derive(Debug)]
struct Half {
    conv_in: Conv2d,
    blocks: Vec<Block>,
    /// From one resolution to the next.
    resample: Vec<Conv2d>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Half {
    fn new(
        mut build: Builder,
        [inputs, outputs]: [usize; 2],
        widths: &[usize],
        groups: usize,
        down: bool,
    ) -> Result<Self> {
        let (same, b) = (Geometry::same(3), &mut build);
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let geometry = if down { same.stride(2) } else { same };
        Ok(Self {
            conv_in: Conv2d::new(b.at("conv_in"), inputs, first, 3, same)?,
            blocks: {
                let mut b = b.at("block");
                let block = |(i, width): (usize, &usize)| Block::new(b.at(i), *width, groups);
                widths.iter().enumerate().map(block).collect::<Result<_>>()?
            },
            resample: {
                let mut b = b.at("resample");
                let conv = |(i, pair): (usize, &[usize])| Conv2d::new(b.at(i), pair[0], pair[1], 3, geometry);
                widths.windows(2).enumerate().map(conv).collect::<Result<_>>()?
            },
            norm_out: GroupNorm::new(b.at("norm_out"), groups, last, Activation::Silu)?,
            conv_out: Conv2d::new(b.at("conv_out"), last, outputs, 3, same)?,
        })
    }

    fn forward(&self, x: &Tensor, resample: fn(&Conv2d, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let mut x = self.conv_in.forward(x)?;
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x)?;
            if let Some(conv) = self.resample.get(i) {
                x = resample(conv, &x)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward(&x)?)
    }
}

#[derive(Debug)]
pub(super) struct Layers {
    encoder: Half,
    decoder: Half,
}

impl Layers {
    pub(super) fn new(mut build: Builder, config: &VaeConfig) -> Result<Self> {
        let VaeConfig { channels, latent, groups, .. } = *config;
        let (values, widths) = (channels * PATCH * PATCH, config.widths());
        let upwards: Vec<usize> = widths.iter().rev().copied().collect();
        Ok(Self {
            encoder: Half::new(build.at("encoder"), [values, 2 * latent], &widths, groups, true)?,
            decoder: Half::new(build.at("decoder"), [latent, values], &upwards, groups, false)?,
        })
    }

    pub(super) fn posterior(&self, x: &Tensor, config: &VaeConfig) -> Result<(Tensor, Tensor)> {
        let (_, c, h, w) = x.dims4()?;
        config.latent_shape([c, h, w])?;
        let y = self.encoder.forward(&pixel_unshuffle(x, PATCH)?, Conv2d::forward)?;
        let part = |i: usize| y.narrow(1, i * config.latent, config.latent);
        Ok((part(0)?, part(1)?.clamp(LOG_VARIANCE.0, LOG_VARIANCE.1)?))
    }

    pub(super) fn images(&self, z: &Tensor, config: &VaeConfig) -> Result<Tensor> {
        let (_, c, ..) = z.dims4()?;
        if c != config.latent {
            bail!("vae: z has shape {:?}; it must have {} channels", z.dims(), config.latent)
        }
        pixel_shuffle(&self.decoder.forward(z, Conv2d::forward_upsampled)?, PATCH)
    }
}
