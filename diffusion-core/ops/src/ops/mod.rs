//! Differentiable operations, from which the layers of a network are built.
//!
//! Each operation takes and returns candle tensors of f32 or f64 and is differentiable with respect to every input;
//! call `backward()` on the final result. Images may be bf16 or f16 with f32 parameters: then the operands of products
//! are rounded to 16 bits, and sums, means and variances are f32.
//!
//! For f32 on the CPU each operation has its own kernels for values and gradients, which use all threads and the best
//! vector instructions of the machine (AVX-512, AVX2, NEON, or none). Their results are identical to the bit on every
//! run with the same instructions, for any number of threads. `RAYON_NUM_THREADS` sets that number;
//! `DIFFUSION_INSTRUCTIONS` (`avx2` or `none`) restricts the instructions. On CUDA, for f32 and bf16, cuDNN computes
//! convolutions, and most other operations have kernels, too, which the tests compile for the CPU. Other types, and
//! Metal, use a composition of candle operations, which the kernels are tested against. Where candle's own gradient is
//! wrong or missing, the composition avoids it and a comment says so. All gradients are checked on the CPU against
//! central differences and PyTorch; `diffusion check` compares those of another device with the CPU.
//!
//! 3×3 convolutions with stride 1 use Winograd's algorithm, with tiles of 4×4 outputs or, for images of 2×2, of 2×2.
//! Its relative root-mean-square error is about 10⁻⁶ (0.4 … 1.4 · 10⁻⁶ in the unit tests, which print it; with the
//! small tiles 0.9 … 2.7 · 10⁻⁷, as f32 itself). On Linux, freed memory is kept for the next operation unless
//! `MALLOC_TRIM_THRESHOLD_` is set in the environment.
//!
//! | operation | purpose |
//! |---|---|
//! | [`conv2d`], [`conv1x1`], [`conv_transpose2d`], [`upsample_nearest2x_conv2d`] | weights shared over positions |
//! | [`group_norm`], [`batch_norm`], [`weight_standardize`] | keep activations near mean 0 and variance 1 |
//! | [`silu`], [`gelu`], [`relu`] | non-linearities |
//! | [`upsample_nearest2x`], [`upsample_bilinear2x`], [`max_pool2d`], [`avg_pool2d`] | changes of resolution in a U-Net |
//! | [`add`], [`scale`], [`scale_shift`] | residual connections; time and context per channel |
//! | [`concat_channels`] | skip connections |
//! | [`attention`], [`self_attention2d`], [`masked_attention`] | every position attends to every other, or to some |
//! | [`linear`], [`embedding`] | time and label embeddings |

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

/// Checks that a tensor has four dimensions, none of them 0, and returns them.
#[doc(hidden)]
pub fn four(op: &str, name: &str, x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [a, b, c, d] if ![a, b, c, d].contains(&0) => Ok((a, b, c, d)),
        _ => bail!("{op}: {name} has shape {:?}; it must have four dimensions, none of them 0", x.dims()),
    }
}

/// Checks that `vector` has shape (length,), where `length` is a dimension of `of`.
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
