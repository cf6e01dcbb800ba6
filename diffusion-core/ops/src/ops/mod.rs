//! Differentiable operations: what the layers of a network are made of.
//!
//! Each takes and returns candle tensors, of f32 or f64, and has a gradient with respect to every tensor that goes in:
//! call `backward()` on what comes out in the end. Images may be of bf16 or f16, with parameters of f32: then products are
//! of numbers rounded to 16 bits, and sums, means and variances of f32.
//!
//! For f32 on the CPU each has kernels of its own, one for the values and one for the gradients, on all threads and with the
//! vector instructions that the machine is found to have (AVX-512, AVX2, NEON, or none). Their results are the same, to the
//! bit, on every run with the same instructions, on any number of threads; `RAYON_NUM_THREADS` says how many, and
//! `DIFFUSION_INSTRUCTIONS` (`avx2` or `none`) holds a machine to fewer instructions than it has. On CUDA, for f32 and
//! bf16, convolutions are cuDNN's, and most others have kernels too, which the tests compile for the CPU. Other types, and
//! Metal, take a composition of candle operations, which is also what the kernels are tested against. Where candle's
//! own gradient is wrong or missing, the composition goes around it and the comment there says so. All gradients are checked
//! on the CPU, against central differences and against PyTorch; the command `diffusion check` holds those of another device
//! against the CPU's.
//!
//! A 3×3 convolution of stride 1 is done by Winograd's algorithm, with tiles of 4×4 outputs or, for images of 2×2, of 2×2. Its
//! root-mean-square error, relative to the result, is then some 10⁻⁶ (0.4 … 1.4 · 10⁻⁶ in the unit tests, which print it; with
//! the small tiles 0.9 … 2.7 · 10⁻⁷, as of f32 itself). On Linux, memory that is free again is kept for the next operation,
//! unless `MALLOC_TRIM_THRESHOLD_` is set in the environment.
//!
//! | operation | what it is for |
//! |---|---|
//! | [`conv2d`], [`conv1x1`], [`conv_transpose2d`], [`upsample_nearest2x_conv2d`] | weights shared over positions |
//! | [`group_norm`], [`batch_norm`], [`weight_standardize`] | keep the numbers near mean 0 and variance 1 |
//! | [`silu`], [`gelu`], [`relu`] | what is not linear |
//! | [`upsample_nearest2x`], [`upsample_bilinear2x`], [`max_pool2d`], [`avg_pool2d`] | between the resolutions of a U-Net |
//! | [`add`], [`scale`], [`scale_shift`] | residual connections; time and context as numbers for each channel |
//! | [`concat_channels`] | what was seen on the way down, taken up again on the way up |
//! | [`attention`], [`self_attention2d`], [`masked_attention`] | every position attends to every other, or to some |
//! | [`linear`], [`embedding`] | time steps and labels |

mod activation;
mod attention;
mod batch_norm;
mod concat;
mod conv;
mod cpu;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod cuda;
mod embedding;
pub mod gradients;
mod graph;
mod half;
mod linear;
mod norm;
mod pool;
mod sum;
mod upsample;

pub use activation::{Activation, gelu, relu, silu};
pub use attention::{attention, masked_attention, self_attention2d};
pub use batch_norm::{Moments, batch_norm, batch_norm_with};
pub use concat::concat_channels;
pub use conv::{Geometry, conv_transpose2d, conv1x1, conv2d, upsample_nearest2x_conv2d};
pub use embedding::embedding;
pub use graph::backward;
#[doc(hidden)]
pub use graph::{Took, profile};
pub use linear::linear;
pub use norm::{group_norm, weight_standardize};
pub use pool::{avg_pool2d, max_pool2d};
pub use sum::{add, scale, scale_shift};
pub use upsample::{upsample_bilinear2x, upsample_nearest2x};

use candle_core::{Result, Tensor, bail};

/// The dimensions of a tensor that must have four, none of them 0.
#[doc(hidden)]
pub fn four(op: &str, name: &str, x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [a, b, c, d] if ![a, b, c, d].contains(&0) => Ok((a, b, c, d)),
        _ => bail!("{op}: {name} has shape {:?}; it must have four dimensions, none of them 0", x.dims()),
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
