//! Differentiable operations: what the layers of [`nn`](crate::nn) are made of.
//!
//! Each takes and returns candle tensors, of f32 or f64, and has a gradient with respect to every tensor that goes in:
//! call `backward()` on what comes out in the end. They are compositions of candle operations, the same on every device.
//! Where candle's own gradient is wrong or missing on the CPU, the composition goes around it and the comment there says
//! so; the gradients are checked on the CPU, against central differences and against PyTorch.
//!
//! | operation | what it is for |
//! |---|---|
//! | [`conv2d`], [`conv_transpose2d`] | weights shared over positions |
//! | [`group_norm`], [`weight_standardize`] | keep the numbers near mean 0 and variance 1 |
//! | [`silu`], [`gelu`] | what is not linear |
//! | [`upsample_nearest2x`], [`upsample_bilinear2x`], [`max_pool2d`], [`avg_pool2d`] | between the resolutions of a U-Net |
//! | [`attention`] | every position looks at every other |
//! | [`linear`], [`embedding`] | time steps and labels |

mod activation;
mod attention;
mod conv;
mod embedding;
#[cfg(test)]
pub(crate) mod gradients;
mod linear;
mod norm;
mod pool;
mod upsample;

pub use activation::{Activation, gelu, silu};
pub use attention::attention;
pub use conv::{Geometry, conv_transpose2d, conv2d};
pub use embedding::embedding;
pub use linear::linear;
pub use norm::{group_norm, weight_standardize};
pub use pool::{avg_pool2d, max_pool2d};
pub use upsample::{upsample_bilinear2x, upsample_nearest2x};

use candle_core::{Result, Tensor, bail};

/// The dimensions of a tensor that must have four, none of them 0.
pub(crate) fn four(op: &str, name: &str, x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [a, b, c, d] if ![a, b, c, d].contains(&0) => Ok((a, b, c, d)),
        _ => bail!(
            "{op}: {name} has shape {:?}; it must have four dimensions, none of them 0",
            x.dims()
        ),
    }
}

/// An error unless `vector` is of shape (length,), where `length` is a dimension of `of`.
fn one_per_channel(
    op: &str,
    (name, vector): (&str, &Tensor),
    length: usize,
    (name_of, of): (&str, &Tensor),
) -> Result<()> {
    if vector.dims() != [length] {
        bail!(
            "{op}: {name} has shape {:?} and {name_of} {:?}; {name} must have shape [{length}], one number per channel",
            vector.dims(),
            of.dims()
        )
    }
    Ok(())
}
