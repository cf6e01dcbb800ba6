//! Diffusion models on [candle], from noise to pictures: the crate that the notebooks of this project import.
//!
//! A diffusion model learns to undo noise. The *forward process* turns an image step by step into Gaussian noise and needs
//! no learning; a network is trained to see the noise in what comes out; run backwards from pure noise, it makes new
//! images. This crate holds the parts, the notebooks build them by hand first. So far it has the forward process,
//! the networks, their training, the samplers, the data and the pictures.
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
//! # Vocabulary
//!
//! | symbol | name in code | what it is |
//! |---|---|---|
//! | x_0 | `x0` | a clean image, (C, H, W), values in \[−1, 1\] |
//! | t, T | `t`, `timesteps` | a time step, 0 … T−1; how many there are |
//! | β_t | `beta(t)` | the variance of the noise that step t adds |
//! | α_t | `alphas()[t]` | 1 − β_t |
//! | ᾱ_t | `alpha_bar(t)` | α_0 α_1 … α_t, the share of the image's variance left after step t |
//! | ε | `eps` | Gaussian noise of mean 0 and variance 1 |
//! | x_t | `xt` | the image after step t: √ᾱ_t x_0 + √(1−ᾱ_t) ε |
//! | v | `Prediction::V` | √ᾱ_t ε − √(1−ᾱ_t) x_0 |
//!
//! # Map
//!
//! | module | what is in it | notebook |
//! |---|---|---|
//! | [`schedule`] | β, ᾱ, SNR: linear, cosine, sigmoid | `01_forward` |
//! | [`diffusion`] | q(x_t given x_0), the posterior | `01_forward` |
//! | [`level`] | a noise level as signal and noise; perturbing images | `01_forward` |
//! | [`prediction`] | what a network predicts: ε, x_0, v, velocity, EDM's output | `02_unet` |
//! | [`process`] | noise processes: discrete, flow matching, EDM; how times are drawn and spaced | `04_sampling` |
//! | [`ops`] | convolution, normalisation, attention, …, differentiable | `02_unet` |
//! | [`nn`] | layers, and their parameters by name: to initialise, save and load | `02_unet` |
//! | [`unet`] | the networks: [`SimpleUNet`](unet::SimpleUNet), [`ContextUnet`](unet::ContextUnet) and others | `02_unet` |
//! | [`train`] | the loop as an iterator of steps, with checkpoints; losses, Adam, clipping, averaged weights | `03_training` |
//! | [`sampler`] | from noise to images: DDPM, DDIM, Heun, DPM-Solver++ | `04_sampling`, `06_ddim` |
//! | [`guidance`] | classifier-free guidance | `05_conditioning` |
//! | [`edit`] | inpainting, masks, image-to-image, super-resolution | `08_inpainting`, `09_super_resolution` |
//! | [`metrics`] | how good samples are: Fréchet and kernel distance, precision and recall, copies, PSNR, SSIM | `10_evaluation` |
//! | [`model`] | a network with what it was trained for, in one file | `03_training` |
//! | [`config`] | a training run as a TOML file | |
//! | [`data`] | built-in sprites, MNIST, Fashion-MNIST, CIFAR-10, your own arrays and folders; latents, captions, augmentation | `01_forward` |
//! | [`rng`] | seeded random numbers, the same everywhere | all |
//! | [`device`] | CUDA, Metal or CPU; the set-up cell | all |
//! | [`show`] | pictures, plots and GIFs that show themselves in a notebook; a page that follows a training | all |
//! | [`progress`] | how far it is, on a terminal and in a notebook | all |
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
