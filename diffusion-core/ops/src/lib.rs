//! The numerical foundation of diffusion-core: differentiable operations, the optimiser's arithmetic, random numbers
//! and devices.
//!
//! This package depends on candle, but not on diffusion models. diffusion-core re-exports [`ops`], [`rng`] and
//! [`device`] under the same names; notebooks and programs use them from there.
//!
//! | module | contents |
//! |---|---|
//! | [`ops`] | convolution, normalisation, attention, …, with kernels for CPU and CUDA |
//! | [`optimiser`] | the arithmetic of AdamW, weight averaging and gradient norms, in place |
//! | [`rng`] | seeded random numbers, the same on every platform |
//! | [`device`] | CUDA, Metal or CPU; precision; the set-up cell |
//! | [`error`] | error messages for a notebook or a terminal |

pub use candle_core as candle;

pub mod device;
pub mod error;
pub mod ops;
pub mod optimiser;
pub mod rng;

/// Data that a training run keeps in the memory of a CUDA device, so that the device need not wait for the CPU.
#[cfg(feature = "cuda")]
pub mod on_device {
    pub use crate::ops::cuda::device::{Fused, Noise, Resident, Row};
    pub use crate::ops::cuda::plan::parameters::Update as FusedUpdate;
}
