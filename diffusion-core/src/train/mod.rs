//! Training: the loop, and what it is made of.
//!
//! [`Training`] is the whole of it, an iterator of steps with a folder of its own. Below it are the optimiser, the clipping of
//! gradients and the running average of the weights, which can be used alone. All three work on the parameters of a network by name, `BTreeMap<String, Var>`; the gradients are candle's
//! [`GradStore`](candle_core::backprop::GradStore). What they remember can be read and written as named tensors, so that
//! a training that was saved goes on as if it had never stopped, to the bit. On the CPU each is one pass over memory, with
//! the same result for any number of threads; on other devices it is a composition of candle's operations.
//!
//! ```
//! use diffusion_core::{candle::{Device, Var}, rng::Rng};
//! use diffusion_core::train::{AdamW, AdamWConfig, Ema, EmaConfig, clip_grad_norm};
//! use std::collections::BTreeMap;
//!
//! let x = Rng::new(0).randn((64, 3), &Device::Cpu)?;
//! let y = x.sum_keepdim(1)?;
//! let w = Var::zeros((3, 1), x.dtype(), x.device())?;
//! let params = BTreeMap::from([("w".to_string(), w.clone())]);
//! let mut adam = AdamW::new(&params, AdamWConfig { lr: 0.1, ..AdamWConfig::adam() })?;
//! let mut ema = Ema::new(&params, EmaConfig::default())?;
//! for _ in 0..200 {
//!     let grads = (x.matmul(&w)? - &y)?.sqr()?.mean_all()?.backward()?;
//!     let clip = clip_grad_norm(&params, &grads, 1.0)?;
//!     adam.step_scaled(&grads, clip.scale)?;
//!     ema.update()?;
//! }
//! assert!(w.flatten_all()?.to_vec1::<f32>()?.iter().all(|w| (w - 1.0).abs() < 0.01));
//! # Ok::<(), diffusion_core::candle::Error>(())
//! ```

mod adam;
mod checkpoint;
mod clip;
mod config;
mod diffusion;
mod ema;
mod folder;
mod live;
mod lock;
mod loss;
mod noise;
mod objective;
#[cfg(feature = "cuda")]
mod on_device;
mod optimiser;
mod rate;
mod report;
mod sampling;
mod state;
mod step;
mod steps;
mod training;
mod upgrade;
mod validation;

pub use adam::{AdamW, AdamWConfig};
pub(crate) use checkpoint::METADATA as CHECKPOINT;
pub use clip::{Clip, clip_grad_norm};
pub use config::{ConditionOn, TrainingConfig};
pub use diffusion::{Diffusion, columns_of};
pub use ema::{Ema, EmaConfig, Warmup};
pub use folder::{Existing, Resumed};
pub use loss::{Loss, Weighting};
pub use noise::Noise;
pub use objective::{Objective, StepInfo, TrainingBatch};
pub use rate::Decay;
pub use report::Report;
pub use step::{State, Step};
pub use training::Training;
pub(crate) use upgrade::upgrade;
