//! Networks that look at a noisy image and its time step and answer with an image of the same size.
//!
//! A U-Net goes down to coarser resolutions, where a convolution sees more of the image, and up again; on the way up it
//! takes in what was there on the way down ([Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597)). What its answer
//! means, noise or image or velocity, is [`Param`](crate::diffusion::Param)'s business.
//!
//! | network | for |
//! |---|---|
//! | [`SimpleUNet`] | MNIST on a laptop |

mod blocks;
mod simple;

pub use blocks::{ResBlock, TimeEmbedding, sinusoidal};
pub use simple::{SimpleUNet, SimpleUNetConfig};
