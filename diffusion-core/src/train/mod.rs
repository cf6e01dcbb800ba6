//! Training: the training loop and its parts.
//!
//! [`Training`] is the complete loop, an iterator over steps that keeps its files in a folder. Its parts can be used
//! alone: the optimiser [`AdamW`], gradient clipping with [`clip_grad_norm`], and the moving average [`Ema`]. They work
//! on the parameters of a network by name, `BTreeMap<String, Var>`, and on candle's
//! [`GradStore`](candle_core::backprop::GradStore). Their state can be saved as named tensors, and a resumed training
//! run is identical to the bit to an uninterrupted one. On the CPU each part is one pass over memory, with the same
//! result for any number of threads; on other devices it is composed of candle's operations.
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

mod checkpoint;
mod config;
mod consistency;
mod diffusion;
mod folder;
mod gan;
mod live;
mod lock;
mod loss;
mod noise;
mod objective;
#[cfg(feature = "cuda")]
mod on_device;
mod optimiser;
mod report;
mod sampling;
mod step;
mod steps;
mod training;
mod upgrade;
mod vae;
mod validation;
mod vector_vae;

pub use crate::nn::optim::{AdamW, AdamWConfig, Clip, Decay, Ema, EmaConfig, Muon, Warmup, clip_grad_norm};
pub(crate) use checkpoint::METADATA as CHECKPOINT;
pub use config::{ConditionOn, Optimiser, TrainingConfig};
pub use consistency::{Consistency, ConsistencyConfig};
pub use diffusion::{Diffusion, columns_of};
pub use folder::{Existing, Resumed, check_source};
pub use gan::{Gan, GanConfig};
pub use loss::{Loss, Weighting};
pub use noise::Noise;
pub use objective::{ModelObjective, Objective, StepInfo, TrainingBatch};
pub use report::Report;
pub use step::{State, Step};
pub use training::Training;
pub(crate) use upgrade::upgrade;
pub use vae::{VaeLoss, VaeLossConfig};
pub use vector_vae::{VectorVae, VectorVaeConfig};
