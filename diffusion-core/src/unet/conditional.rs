//! The large network for class-conditional digits.

use super::{
    Condition, ConditionEmbedding, Conditioning, Config, Denoiser, ResnetBlock, SelfAttention, TimeEmbedding,
    conditioning_fields, fits,
};
use crate::nn::{Builder, Conv2d, ConvTranspose2d, GroupNorm};
use crate::ops::{Activation, Geometry, concat_channels};
use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// A U-Net for class-conditional digits at 32×32: four levels of two [`ResnetBlock`]s each, weight-standardised
/// convolutions, and [`SelfAttention`].
///
/// Each level down has two blocks, attention in the first and third level, and a 2×2 convolution with stride 2 (which
/// equals space-to-depth and a 1×1 convolution). The bottleneck is a block, attention, a block. Each level up has a
/// transposed convolution, the skip connection, two blocks and attention. The time embedding is sinusoidal → linear →
/// GELU → linear, with 2 · `base` = 128 elements; the condition embedding is added to it.
///
/// The default has 49 million parameters (49,351,809). Height and width must be divisible by 16.
///
/// ```
/// use diffusion_core::{candle::Device, rng::Rng, unet::{Condition, ConditionalUNet, Network}};
/// let (mut rng, small) = (Rng::new(42), ConditionalUNet { base: 8, ..Default::default() });
/// let net = Network::new(small, &mut rng, &Device::Cpu)?;
/// let xt = rng.randn((2, 1, 32, 32), &Device::Cpu)?;
/// assert_eq!(net.predict(&xt, &[0.0, 999.0], &Condition::labels([7, 3]))?.dims(), &[2, 1, 32, 32]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConditionalUNet {
    /// The number of image channels: 1 for greyscale, 3 for RGB; at most 1024.
    pub channels: usize,
    /// The channels at full resolution; the lower levels have twice, four and eight times as many. Even, 4 … 1024.
    pub base: usize,
    /// The groups of every group norm; they divide `base`.
    pub groups: usize,
    /// The heads of every attention block; they divide `base`.
    pub heads: usize,
    /// The number of classes for conditioning; 0 for none.
    pub classes: usize,
    /// The length of the context vector; 0 for none.
    pub context: usize,
}

impl Default for ConditionalUNet {
    /// Greyscale images, ten classes, 64 channels, 8 groups, 4 heads.
    fn default() -> Self {
        Self { channels: 1, base: 64, groups: 8, heads: 4, classes: 10, context: 0 }
    }
}

impl Config for ConditionalUNet {
    conditioning_fields!(channels, classes, context);

    fn usual_side(&self) -> usize {
        32
    }

    fn divisor(&self) -> usize {
        16
    }

    fn check(&self, op: &str) -> Result<()> {
        fits(op, self.base, self.groups, Some(self.heads))
    }

    fn build(&self, build: Builder) -> Result<Box<dyn Denoiser>> {
        Ok(Box::new(Layers::new(build, self)?))
    }
}

/// A level on the way down.
#[derive(Debug)]
struct Down {
    blocks: [ResnetBlock; 2],
    attention: Option<SelfAttention>,
    downsample: Conv2d,
}

/// A level on the way up.
#[derive(Debug)]
struct Up {
    upsample: ConvTranspose2d,
    blocks: [ResnetBlock; 2],
    attention: SelfAttention,
}

#[derive(Debug)]
struct Layers {
    time_embedding: TimeEmbedding,
    condition: ConditionEmbedding,
    conv_in: Conv2d,
    down: Vec<Down>,
    mid: ([ResnetBlock; 2], SelfAttention),
    up: Vec<Up>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Layers {
    fn new(mut build: Builder, net: &ConditionalUNet) -> Result<Self> {
        let ConditionalUNet { channels, base, groups, heads, .. } = *net;
        let (time, same) = (2 * base, Geometry::same(3));
        let blocks = |build: &mut Builder, [inputs, middle, outputs]: [usize; 3]| {
            let mut block = |name, inputs, outputs| {
                let build = build.at(name);
                ResnetBlock::new(build, inputs, outputs, time, groups, Conv2d::standardized)
            };
            Result::Ok([block("block1", inputs, middle)?, block("block2", middle, outputs)?])
        };
        let attention = |build: &mut Builder, width| SelfAttention::new(build.at("attention"), width, groups, heads);
        let (halve, twice) = (Geometry::default().stride(2), Geometry::same(3).stride(2));
        // Before the first level, then for the four levels.
        let widths = [1, 1, 2, 4, 8].map(|times| times * base);
        let b = &mut build;
        Ok(Self {
            time_embedding: TimeEmbedding {
                activation: Activation::Gelu,
                ..TimeEmbedding::new(b.at("time_embedding"), time, time)?
            },
            condition: ConditionEmbedding::new(b, net.conditioning(), time)?,
            conv_in: Conv2d::new(b.at("conv_in"), channels, base, 3, same)?,
            down: {
                let mut b = b.at("down");
                let level = |(i, pair): (usize, &[usize])| {
                    let (mut b, [before, width]) = (b.at(i), [pair[0], pair[1]]);
                    Ok(Down {
                        blocks: blocks(&mut b, [before, width, width])?,
                        attention: i.is_multiple_of(2).then(|| attention(&mut b, width)).transpose()?,
                        downsample: Conv2d::new(b.at("downsample"), width, width, 2, halve)?,
                    })
                };
                widths.windows(2).enumerate().map(level).collect::<Result<_>>()?
            },
            mid: {
                let (mut b, width) = (b.at("mid"), widths[4]);
                (blocks(&mut b, [width; 3])?, attention(&mut b, width)?)
            },
            up: {
                let mut b = b.at("up");
                let level = |i: usize| {
                    let (mut b, below, width) = (b.at(i), widths[(5 - i).min(4)], widths[4 - i]);
                    Ok(Up {
                        upsample: ConvTranspose2d::new(b.at("upsample"), below, width, 4, twice)?,
                        blocks: blocks(&mut b, [2 * width, width, width])?,
                        attention: attention(&mut b, width)?,
                    })
                };
                (0..4).map(level).collect::<Result<_>>()?
            },
            norm_out: GroupNorm::new(b.at("norm_out"), groups, base, Activation::Silu)?,
            conv_out: Conv2d::zeros(b.at("conv_out"), base, channels, 3, same)?,
        })
    }
}

impl Denoiser for Layers {
    fn forward(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        let e = self.time_embedding.forward(t)?;
        let e = self.condition.add(&e, condition)?;
        let both = |[first, second]: &[ResnetBlock; 2], x: &Tensor| second.forward(&first.forward(x, &e)?, &e);
        let mut x = self.conv_in.forward(xt)?;
        let mut seen = Vec::new();
        for level in &self.down {
            x = both(&level.blocks, &x)?;
            if let Some(attention) = &level.attention {
                x = attention.forward(&x)?;
            }
            seen.push(x.clone());
            x = level.downsample.forward(&x)?;
        }
        let ([first, second], attention) = &self.mid;
        x = attention.forward(&first.forward(&x, &e)?)?;
        x = second.forward(&x, &e)?;
        for (level, seen) in self.up.iter().zip(seen.into_iter().rev()) {
            x = level.upsample.forward(&x)?;
            x = concat_channels(&x, &seen)?;
            drop(seen);
            x = both(&level.blocks, &x)?;
            x = level.attention.forward(&x)?;
        }
        self.conv_out.forward(&self.norm_out.forward(&x)?)
    }
}
