//! Denoising networks, which map a noisy image, its time and a condition to a prediction of the same size.
//!
//! A U-Net reduces the image to lower resolutions, where a convolution has a larger receptive field, and increases the
//! resolution again. Skip connections pass the features of each resolution from the way down to the way up
//! ([Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597)). Whether the output is ε, x₀ or v depends on the
//! training; see [`Prediction`](crate::prediction::Prediction).
//!
//! A [`Network`] is an [`Architecture`] with weights. Each kind of network is a plain struct of hyper-parameters:
//!
//! | network | for |
//! |---|---|
//! | [`SimpleUNet`] | MNIST on a laptop; also conditioned on text |
//! | [`ContextUnet`] | 16×16 sprites, conditioned on a context |
//! | [`ConditionalUNet`] | class-conditional digits at 32×32; large |
//! | [`UNet`] | the original U-Net, for CIFAR-10 at 32×32 |
//! | [`AttentionUNet`] | 64×64 colour images |
//! | [`UNet2DModel`] | models from or for Hugging Face diffusers |
//! | [`PointMlp`] | points in the plane |
//! | [`Architecture::custom`] | your own network: any [`Denoiser`] |

mod architecture;
mod attention;
mod blocks;
mod classic;
mod condition;
mod conditional;
mod conditioning;
mod context;
mod network;
mod point_mlp;
mod simple;
mod summary;
#[cfg(test)]
mod tests;
mod unet2d;

pub use architecture::{Architecture, Custom, Denoiser};
pub use attention::AttentionUNet;
pub use blocks::{
    ConditionEmbedding, CrossAttention, EmbedFC, EncodedText, ResBlock, Residual, ResidualConvBlock, ResnetBlock,
    SelfAttention, TextBlock, TextEncoder, TimeEmbedding, UnetDown, UnetUp, sinusoidal,
};
pub use classic::UNet;
pub use condition::{Condition, ConditionPart, Tokens};
pub use conditional::ConditionalUNet;
pub use conditioning::Conditioning;
pub use context::ContextUnet;
pub use network::Network;
pub use point_mlp::PointMlp;
pub use simple::SimpleUNet;
pub use summary::Summary;
pub use unet2d::{ActFn, DownBlockType, MidBlockType, SampleSize, TimeScaleShift, UNet2DModel, UpBlockType};

use architecture::{Config, conditioning_fields};
use blocks::waves;

/// The largest number of channels of a layer; a typing error beyond it would fill the memory.
const WIDEST: usize = 1024;

/// The largest number of classes, context elements or tokens.
const MOST_CLASSES: usize = 100_000;

/// Checks that an image can be halved as often as the network needs.
fn divisible(op: &str, height: usize, width: usize, by: usize) -> candle_core::Result<()> {
    if !height.is_multiple_of(by) || !width.is_multiple_of(by) {
        candle_core::bail!(
            "{op}: the image is {height}×{width}, but its sides are halved {} times, so they must be divisible by \
             {by}. Resize it to {near}×{near} (--side {near}, or `side = {near}` under [data] in a file)",
            by.ilog2(),
            near = (height.min(width) / by).max(1) * by
        )
    }
    Ok(())
}

/// Checks the width `base` of a network's first level, and that groups and heads divide it.
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
