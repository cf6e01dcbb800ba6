//! Networks that look at a noisy image and its time step and answer with an image of the same size.
//!
//! A U-Net goes down to coarser resolutions, where a convolution sees more of the image, and up again; on the way up it
//! takes in what was there on the way down ([Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597)). What its answer
//! means, noise or image or velocity, is [`Prediction`](crate::prediction::Prediction)'s business.
//!
//! A [`Network`] is an [`Architecture`] with weights. Each kind of network is a plain struct of the numbers that it is built
//! from:
//!
//! | network | for |
//! |---|---|
//! | [`SimpleUNet`] | MNIST on a laptop |
//! | [`ContextUnet`] | sprites of 16×16 that are told what to show |
//! | [`ConditionalUNet`] | a digit on demand, at 32×32, with a machine that can carry it |
//! | [`UNet`] | the U-Net as it was first drawn, for CIFAR-10 at 32×32 |
//! | [`AttentionUNet`] | pictures of 64×64 in colour |
//! | [`UNet2DModel`] | what was trained with Hugging Face's diffusers, or is to be used there |

mod attention;
mod blocks;
mod classic;
mod condition;
mod conditional;
mod context;
mod network;
mod simple;
mod summary;
#[cfg(test)]
mod tests;
mod unet2d;

pub use attention::AttentionUNet;
pub use blocks::{
    ConditionEmbedding, EmbedFC, ResBlock, Residual, ResidualConvBlock, ResnetBlock, SelfAttention,
    TimeEmbedding, UnetDown, UnetUp, sinusoidal,
};
pub use classic::UNet;
pub use condition::Condition;
pub use conditional::ConditionalUNet;
pub use context::ContextUnet;
pub use network::{Architecture, Network, Takes};
pub use simple::SimpleUNet;
pub use summary::Summary;
pub use unet2d::{
    ActFn, DownBlockType, MidBlockType, SampleSize, TimeScaleShift, UNet2DModel, UpBlockType,
};

use blocks::waves;

/// The largest number of channels that a network can be asked for: beyond, a slip of the pen would fill the memory.
const WIDEST: usize = 1024;

/// The most classes, or numbers of context.
const MOST_CLASSES: usize = 100_000;

/// An error unless both sides of an image can be halved as often as the network does.
fn divisible(op: &str, height: usize, width: usize, by: usize) -> candle_core::Result<()> {
    if !height.is_multiple_of(by) || !width.is_multiple_of(by) {
        candle_core::bail!(
            "{op}: an image of {height}×{width}; height and width are halved {} times, so they must be divisible by {by}",
            by.ilog2()
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
