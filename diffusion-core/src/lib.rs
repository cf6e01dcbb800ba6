//! Diffusion models on [candle], from noise to images: the crate that the notebooks of this project import.
//!
//! A diffusion model learns to undo noise. The *forward process* turns an image step by step into Gaussian noise and needs
//! no training; a network is trained to predict the noise from the noisy image; run backwards from pure noise, it generates new
//! images. The notebooks build the parts by hand first, then import them from here.
//!
//! ```
//! use diffusion_core::{candle::Device, data::Dataset, diffusion::q_sample, rng::Rng, schedule::Schedule, show::Grid};
//!
//! let (schedule, mut rng) = (Schedule::linear(1000)?, Rng::new(42));
//! let x0 = Dataset::sprites(8, 42)?.images(0..8, &Device::Cpu)?;
//! let eps = rng.randn_like(&x0)?;
//! let xt = q_sample(&schedule, &x0, &[300; 8], &eps)?;
//! assert_eq!(xt.dims(), &[8, 3, 16, 16]);
//! let picture = Grid::new(&xt)?.caption("x_t at t = 300").to_png()?;
//! # assert!(picture.len() > 1000);
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! # Symbols
//!
//! | symbol | name in code | meaning |
//! |---|---|---|
//! | x_0 | `x0` | a clean image, (C, H, W), values in \[−1, 1\] |
//! | ε | `eps` | Gaussian noise of mean 0 and variance 1 |
//! | x_t | `xt` | a noisy image: signal·x_0 + noise·ε |
//! | t, T | `t`, `timesteps` | the time: 0 … T−1 in the discrete process, a real number in others |
//! | signal, noise | [`level::Level`] | the two factors of x_t; in the discrete process √ᾱ_t and √(1−ᾱ_t) |
//! | β_t | `beta(t)` | the variance of the noise that time step t adds |
//! | α_t | `alphas()[t]` | 1 − β_t |
//! | ᾱ_t | `alpha_bar(t)` | α_0 α_1 … α_t, the share of the image's variance left after time step t |
//! | v | [`Prediction::V`](prediction::Prediction) | √ᾱ_t ε − √(1−ᾱ_t) x_0 |
//!
//! # Map
//!
//! | module | contents | notebook |
//! |---|---|---|
//! | [`schedule`] | β, ᾱ, SNR: linear, cosine, sigmoid, or your own | `01_forward` |
//! | [`diffusion`] | q(x_t given x_0) and the posterior in the notation of DDPM | `01_forward` |
//! | [`level`] | a noise level as two numbers | |
//! | [`process`] | noise processes: variance preserving (DDPM), flow matching, EDM | |
//! | [`prediction`] | what a network predicts: ε, x_0, v, velocity, EDM | `02_unet` |
//! | [`ops`] | differentiable operations: convolution, normalisation, attention, … | `02_unet` |
//! | [`nn`] | layers and their parameters by name: initialise, save, load; a bridge to candle-nn | `02_unet` |
//! | [`unet`] | the networks, and [`Denoiser`](unet::Denoiser) for one of your own | `02_unet` |
//! | [`train`] | the loop as an iterator of steps, for any [`Objective`](train::Objective); losses, AdamW, EMA | `03_training` |
//! | [`sampler`] | from noise to images: DDPM, DDIM, Heun, DPM-Solver++ | `04_sampling`, `06_ddim` |
//! | [`guidance`] | conditional predictions and classifier-free guidance | `05_conditioning` |
//! | [`edit`] | inpainting, masks, image to image, super-resolution | `08_inpainting`, `09_super_resolution` |
//! | [`metrics`] | Fréchet and kernel distance, precision and recall, nearest training images, PSNR, SSIM | `10_evaluation` |
//! | [`model`] | a network with what it was trained for, in one file | `03_training` |
//! | [`config`] | a training run as a TOML file | |
//! | [`data`] | built-in sprites, MNIST, Fashion-MNIST, CIFAR-10, arrays and folders of your own | `01_forward` |
//! | [`rng`] | seeded random numbers, the same everywhere | all |
//! | [`device`] | CUDA, Metal or CPU; the set-up cell | all |
//! | [`show`] | grids, plots and GIFs that display themselves in a notebook; the live page of a training | all |
//! | [`progress`] | progress on a terminal and in a notebook | all |
//!
//! The last five, and [`ops`], are packages of their own below this one; they know nothing of diffusion.
//!
//! # Why a `dylib`
//!
//! The notebook kernel compiles every cell into a shared library of its own. Candle numbers its tensors from a static
//! counter and finds gradients by that number; linked statically, each cell would have its own counter, two tensors the
//! same number, and gradients would be silently wrong. As a `dylib` this crate is loaded once and all cells share it. So a
//! notebook has this crate as its only dependency, and uses candle through [`candle`] and [`candle_nn`], and `anyhow` through
//! [`anyhow`].

pub use anyhow;
pub use candle_core as candle;
pub use candle_nn;
#[doc(inline)]
pub use diffusion_data as data;
pub use diffusion_ops::error::message;
#[doc(inline)]
pub use diffusion_ops::{device, ops, rng};
#[doc(inline)]
pub use diffusion_show as show;
#[doc(inline)]
pub use diffusion_show::progress;

pub(crate) use diffusion_ops::error::whole;

mod choice;
pub mod config;
pub mod diffusion;
pub mod edit;
pub mod guidance;
pub mod level;
pub mod metrics;
pub mod model;
pub mod nn;
pub mod prediction;
pub mod process;
pub mod sampler;
pub mod schedule;
pub mod train;
pub mod unet;
