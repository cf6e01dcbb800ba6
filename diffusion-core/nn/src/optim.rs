//! Optimisation of parameters: [`AdamW`], [`Muon`], gradient clipping with [`clip_grad_norm`], the moving average [`Ema`] and the
//! learning-rate schedule [`Decay`].
//!
//! They work on the parameters of a network by name, `BTreeMap<String, Var>`, and on candle's
//! [`GradStore`](candle_core::backprop::GradStore). Their state can be saved as named tensors. On the CPU each is one pass
//! over memory, with the same result for any number of threads; on other devices it is composed of candle's operations.

mod adam;
mod clip;
mod ema;
mod muon;
mod rate;
mod state;

pub use adam::{AdamW, AdamWConfig};
pub use clip::{Clip, clip_grad_norm};
pub use ema::{Ema, EmaConfig, Warmup};
pub use muon::Muon;
pub use rate::Decay;
