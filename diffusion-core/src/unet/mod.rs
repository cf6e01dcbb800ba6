//! Networks that look at a noisy image and its time step and answer with an image of the same size.
//!
//! A U-Net goes down to coarser resolutions, where a convolution sees more of the image, and up again; on the way up it
//! takes in what was there on the way down ([Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597)). What its answer
//! means, noise or image or velocity, is [`Param`](crate::diffusion::Param)'s business.
//!
//! A [`Network`] is an [`Architecture`] with weights. Each kind of network is a plain struct of the numbers that it is built
//! from:
//!
//! | network | for |
//! |---|---|
//! | [`SimpleUNet`] | MNIST on a laptop |

mod blocks;
mod condition;
mod network;
mod simple;
mod summary;

pub use blocks::{ConditionEmbedding, ResBlock, TimeEmbedding, sinusoidal};
pub use condition::Condition;
pub use network::{Architecture, Network, Takes};
pub use simple::SimpleUNet;
pub use summary::Summary;

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
