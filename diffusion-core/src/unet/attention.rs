//! The network for 64×64 colour images.

use super::{
    Condition, ConditionEmbedding, Conditioning, Config, Denoiser, ResnetBlock, SelfAttention, TimeEmbedding,
    conditioning_fields, fits,
};
use crate::nn::{Builder, Conv2d, GroupNorm};
use crate::ops::{Activation, Geometry, concat_channels};
use candle_core::{Result, Tensor, bail};
use candle_nn::ops::{pixel_shuffle, pixel_unshuffle};
use serde::{Deserialize, Serialize};

/// A U-Net with four levels of one [`ResnetBlock`] each, and [`SelfAttention`] in the bottleneck. A 64×64 image is
/// processed at 64 → 32 → 16 → 8 → 4 and back.
///
/// Each level down has two units of convolution → group norm → SiLU, then a convolution with stride 2. The bottleneck
/// is a block, attention, a block. Each level up has nearest-neighbour upsampling and a convolution, the skip
/// connection, and a block. The levels have 1, 2, 2 and 4 times `base` channels.
///
/// With `patch` = 2 or 4, every square of so many pixels becomes one position with more channels (pixel unshuffle,
/// [Shi et al. 2016](https://arxiv.org/abs/1609.05158)), which replaces the first one or two levels: with `patch` = 4 a
/// 64×64 image is processed at 16 → 8 → 4 and back, at a fraction of the cost.
///
/// The default has 8.4 million parameters (8,432,579). Height and width must be divisible by 16.
///
/// ```
/// use diffusion_core::{candle::Device, rng::Rng, unet::{AttentionUNet, Condition, Network}};
/// let (mut rng, small) = (Rng::new(42), AttentionUNet { base: 8, ..Default::default() });
/// let net = Network::new(small, &mut rng, &Device::Cpu)?;
/// let xt = rng.randn((2, 3, 64, 64), &Device::Cpu)?;
/// assert_eq!(net.predict(&xt, &[0.0, 999.0], &Condition::none())?.dims(), &[2, 3, 64, 64]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttentionUNet {
    /// The number of image channels: 1 for greyscale, 3 for RGB; at most 1024.
    pub channels: usize,
    /// The channels at full resolution; the lower levels have twice, twice and four times as many. Even, 4 … 1024.
    pub base: usize,
    /// The groups of every group norm; they divide `base`.
    pub groups: usize,
    /// The heads of the attention; they divide `base`.
    pub heads: usize,
    /// The number of classes for conditioning; 0 for none.
    pub classes: usize,
    /// The length of the context vector; 0 for none.
    pub context: usize,
    /// The side of the squares of pixels that become one position: 1, 2 or 4.
    pub patch: usize,
}

impl Default for AttentionUNet {
    /// Colour images, 64 channels, 8 groups, 4 heads, no condition, single pixels.
    fn default() -> Self {
        Self { channels: 3, base: 64, groups: 8, heads: 4, classes: 0, context: 0, patch: 1 }
    }
}

impl Config for AttentionUNet {
    conditioning_fields!(channels, classes, context);

    fn usual_side(&self) -> usize {
        64
    }

    fn divisor(&self) -> usize {
        16
    }

    fn check(&self, op: &str) -> Result<()> {
        if ![1, 2, 4].contains(&self.patch) {
            bail!("{op}: patch = {} must be 1, 2 or 4", self.patch)
        }
        fits(op, self.base, self.groups, Some(self.heads))
    }

    fn build(&self, build: Builder) -> Result<Box<dyn Denoiser>> {
        Ok(Box::new(Layers::new(build, self)?))
    }
}

/// One resolution: a block, and the convolution after it (down) or before it (up).
#[derive(Debug)]
struct Level {
    block: ResnetBlock,
    resample: Conv2d,
}

#[derive(Debug)]
struct Layers {
    time_embedding: TimeEmbedding,
    condition: ConditionEmbedding,
    patch: usize,
    conv_in: Conv2d,
    down: Vec<Level>,
    mid: (ResnetBlock, SelfAttention, ResnetBlock),
    up: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Layers {
    fn new(mut build: Builder, net: &AttentionUNet) -> Result<Self> {
        let AttentionUNet { channels, base, groups, heads, patch, .. } = *net;
        let (time, same) = (4 * base, Geometry::same(3));
        let block = |b: &mut Builder, name: &str, inputs, outputs| {
            ResnetBlock::new(b.at(name), inputs, outputs, time, groups, Conv2d::new)
        };
        let conv = |b: &mut Builder, name: &str, width, geometry| Conv2d::new(b.at(name), width, width, 3, geometry);
        // The widths of the levels, and before them that of the first.
        let widths = &[1, 2, 2, 4].map(|times| times * base)[patch.ilog2() as usize..];
        let widths = [&widths[..1], widths].concat();
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let values = channels * patch * patch;
        let b = &mut build;
        Ok(Self {
            time_embedding: TimeEmbedding::new(b.at("time_embedding"), base, time)?,
            condition: ConditionEmbedding::new(b, net.conditioning(), time)?,
            patch,
            conv_in: Conv2d::new(b.at("conv_in"), values, first, 3, same)?,
            down: {
                let mut b = b.at("down");
                let level = |(i, pair): (usize, &[usize])| {
                    let (mut b, [before, width]) = (b.at(i), [pair[0], pair[1]]);
                    Ok(Level {
                        block: block(&mut b, "block", before, width)?,
                        resample: conv(&mut b, "downsample", width, same.stride(2))?,
                    })
                };
                widths.windows(2).enumerate().map(level).collect::<Result<_>>()?
            },
            mid: {
                let (mut b, width) = (b.at("mid"), last);
                (
                    block(&mut b, "block1", width, width)?,
                    SelfAttention::new(b.at("attention"), width, groups, heads)?,
                    block(&mut b, "block2", width, width)?,
                )
            },
            up: {
                let mut b = b.at("up");
                let level = |(i, pair): (usize, &[usize])| {
                    let (mut b, [after, width]) = (b.at(i), [pair[0], pair[1]]);
                    Ok(Level {
                        resample: conv(&mut b, "upsample", width, same)?,
                        block: block(&mut b, "block", 2 * width, after)?,
                    })
                };
                widths.windows(2).rev().enumerate().map(level).collect::<Result<_>>()?
            },
            norm_out: GroupNorm::new(b.at("norm_out"), groups, first, Activation::Silu)?,
            conv_out: Conv2d::zeros(b.at("conv_out"), first, values, 3, same)?,
        })
    }
}

impl Denoiser for Layers {
    fn forward(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        let e = self.time_embedding.forward(t)?;
        let e = self.condition.add(&e, condition)?;
        let mut x = match self.patch {
            1 => self.conv_in.forward(xt)?,
            patch => self.conv_in.forward(&pixel_unshuffle(xt, patch)?)?,
        };
        let mut seen = Vec::new();
        for level in &self.down {
            let y = level.block.forward(&x, &e)?;
            x = level.resample.forward(&y)?;
            seen.push(y);
        }
        let (first, attention, second) = &self.mid;
        x = attention.forward(&first.forward(&x, &e)?)?;
        x = second.forward(&x, &e)?;
        for (level, seen) in self.up.iter().zip(seen.into_iter().rev()) {
            x = level.resample.forward_upsampled(&x)?;
            x = concat_channels(&x, &seen)?;
            drop(seen);
            x = level.block.forward(&x, &e)?;
        }
        x = self.conv_out.forward(&self.norm_out.forward(&x)?)?;
        if self.patch == 1 { Ok(x) } else { pixel_shuffle(&x, self.patch) }
    }
}
