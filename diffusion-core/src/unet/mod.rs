//! The networks: from a noisy image, its time and a condition to a prediction of the same size.
//!
//! A U-Net goes down to coarser resolutions, where a convolution has a larger receptive field, and up again; skip connections
//! bring the features from the way down to the way up ([Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597)). Whether the
//! output is ε, x₀ or v is [`Prediction`](crate::prediction::Prediction)'s business.
//!
//! A [`Network`] is an [`Architecture`] with weights. Each kind of network is a plain struct of the numbers that it is built
//! from:
//!
//! | network | for |
//! |---|---|
//! | [`SimpleUNet`] | MNIST on a laptop |
//! | [`ContextUnet`] | sprites of 16×16, conditioned on a context |
//! | [`ConditionalUNet`] | digits by class at 32×32; large |
//! | [`UNet`] | the U-Net of the first paper, for CIFAR-10 at 32×32 |
//! | [`AttentionUNet`] | colour images of 64×64 |
//! | [`UNet2DModel`] | models trained with Hugging Face's diffusers, or to be used there |
//! | [`Architecture::custom`] | a network of your own: any [`Denoiser`] |

mod architecture;
mod attention;
mod blocks;
mod classic;
mod condition;
mod conditional;
mod conditioning;
mod context;
mod network;
mod simple;
mod summary;
#[cfg(test)]
mod tests;
mod unet2d;

pub use architecture::{Architecture, Custom, Denoiser};
pub use attention::AttentionUNet;
pub use blocks::{
    ConditionEmbedding, CrossAttention, EmbedFC, ResBlock, Residual, ResidualConvBlock, ResnetBlock, SelfAttention,
    TimeEmbedding, UnetDown, UnetUp, sinusoidal,
};
pub use classic::UNet;
pub use condition::{Condition, ConditionPart, Tokens};
pub use conditional::ConditionalUNet;
pub use conditioning::Conditioning;
pub use context::ContextUnet;
pub use network::Network;
pub use simple::SimpleUNet;
pub use summary::Summary;
pub use unet2d::{ActFn, DownBlockType, MidBlockType, SampleSize, TimeScaleShift, UNet2DModel, UpBlockType};

use architecture::{Config, conditioning_fields};
use blocks::waves;

/// The most channels of a layer: beyond, a typing error would fill the memory.
const WIDEST: usize = 1024;

/// The most classes, numbers of a context, or tokens.
const MOST_CLASSES: usize = 100_000;

/// An error unless both sides of an image can be halved as often as the network does.
fn divisible(op: &str, height: usize, width: usize, by: usize) -> candle_core::Result<()> {
    if !height.is_multiple_of(by) || !width.is_multiple_of(by) {
        candle_core::bail!(
            "{op}: an image of {height}×{width}; height and width are halved {} times, so they must be divisible by {by}. \
             Resized to {near}×{near} (--side {near}, or `side = {near}` in the [data] of a file) they are",
            by.ilog2(),
            near = (height.min(width) / by).max(1) * by
        )
    }
    Ok(())
}

/// An error unless `base` can be the narrowest width of a network, in so many groups, and heads if it has any.
fn fits(op: &str, base: usize, groups: usize, heads: Option<usize>) -> candle_core::Result<()> {
    if base < 4 || !base.is_multiple_of(2) || base > WIDEST {
        candle_core::bail!("{op}: base = {base} must be even and in 4 … {WIDEST}")
    }
    for (field, parts) in [("groups", Some(groups)), ("heads", heads)] {
        if let Some(parts) = parts.filter(|parts| !base.is_multiple_of(*parts)) {
            candle_core::bail!("{op}: {field} = {parts} does not divide base = {base}")
        }
    }
    Ok(())
}
