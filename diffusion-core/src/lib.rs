//! Diffusion models on [candle]: noise processes, networks, training, sampling, guidance and metrics, and their
//! notebooks.
//!
//! A diffusion model generates images by reversing a gradual corruption with noise. The *forward process* turns an
//! image step by step into Gaussian noise and has nothing to learn. A network is trained to predict the noise in a
//! noisy image. The *reverse process* starts from pure noise and uses the network to remove it step by step. The
//! notebooks build each part from scratch and then import it from here.
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
//! # Glossary
//!
//! | symbol | name in code | meaning | also called |
//! |---|---|---|---|
//! | x_0 | `x0` | a clean image, (C, H, W), values in \[−1, 1\] | sample, data |
//! | ε | `eps` | Gaussian noise, N(0, I) | |
//! | x_t | `xt` | a noisy image, signal·x_0 + noise·ε | noisy sample, latent variable |
//! | t | `t` | time: 0 … T−1 in DDPM, a real number in continuous processes | time step, diffusion time |
//! | T | `timesteps` | number of time steps of the forward process | `num_train_timesteps` |
//! | | `steps` | number of steps of a sampler | `num_inference_steps` |
//! | β_t | [`beta(t)`](schedule::Schedule::beta) | variance of the noise added in step t | variance schedule, noise schedule |
//! | α_t | `alphas()[t]` | 1 − β_t | |
//! | ᾱ_t | [`alpha_bar(t)`](schedule::Schedule::alpha_bar) | α_0 α_1 … α_t, the fraction of the image's variance left in x_t | `alphas_cumprod` |
//! | signal, noise | [`Level`](level::Level) | the factors of x_0 and ε in x_t; √ᾱ_t and √(1−ᾱ_t) in DDPM | α_t and σ_t (Kingma et al.) |
//! | SNR | [`Level::snr`](level::Level::snr) | signal-to-noise ratio, signal²/noise² | |
//! | λ | [`Level::lambda`](level::Level::lambda) | ln(signal/noise) = ½ ln SNR | half log-SNR |
//! | σ | [`Level::sigma`](level::Level::sigma) | noise/signal | noise level (EDM) |
//! | F | [`Prediction`](prediction::Prediction) | what the network predicts: ε, x_0, v, … | prediction type, parameterisation |
//! | v | [`Prediction::V`](prediction::Prediction::V) | signal·ε − noise·x_0 | v-prediction, `v_prediction` |
//! | u | [`Prediction::Velocity`](prediction::Prediction::Velocity) | ε − x_0 | velocity, vector field (flow matching) |
//! | x̂_0, ε̂ | [`x0_hat`](sampler::State::x0_hat), `eps_hat` | the predicted clean image and the noise that goes with it | denoised image, `pred_original_sample` |
//! | ∇ ln p(x_t) | | score, −ε̂/noise; with it Tweedie's formula gives x̂_0 | score function |
//! | η | [`eta`](sampler::Solver::Ddim) | noise of DDIM: 0 is deterministic, 1 is DDPM | stochasticity |
//! | w | [`scale`](guidance::Guidance::scale) | guidance scale; 1 is the conditional prediction | CFG scale, `guidance_scale` |
//! | EMA | [`Ema`](train::Ema) | exponential moving average of the weights; without it they are the raw weights | averaged weights |
//! | x_T | `xt` | the noise that sampling starts from | latent, latent code; not a VAE's latent |
//!
//! # Map
//!
//! | module | contents | notebook |
//! |---|---|---|
//! | [`schedule`] | β, ᾱ, SNR: linear, cosine, sigmoid, or your own | `01_forward` |
//! | [`diffusion`] | q(x_t given x_0) and the posterior in the notation of DDPM | `01_forward` |
//! | [`level`] | noise levels: the factors of signal and noise | |
//! | [`process`] | noise processes: variance preserving (DDPM), flow matching, EDM | `12_flow_matching` |
//! | [`prediction`] | what a network predicts: ε, x_0, v, velocity, EDM | `02_unet` |
//! | [`ops`] | differentiable operations: convolution, normalisation, attention, … | `02_unet` |
//! | [`nn`] | layers and their parameters by name: initialise, save, load; a bridge to candle-nn | `02_unet` |
//! | [`unet`] | U-Nets, and [`Denoiser`](unet::Denoiser) for your own network | `02_unet` |
//! | [`train`] | the training loop as an iterator of steps, for any [`Objective`](train::Objective); losses, AdamW, EMA, consistency distillation | `03_training`, `13_few_steps` |
//! | [`sampler`] | from noise to images: DDPM, DDIM, Heun, DPM-Solver++ | `04_sampling`, `06_ddim` |
//! | [`mixture`] | Gaussian mixtures: data whose score and best prediction are known exactly | `11_score` |
//! | [`likelihood`] | log-densities and bits per dimension by the probability-flow ODE | `11_score` |
//! | [`text`] | the words that a model knows, and sentences as their numbers | |
//! | [`guidance`] | conditional predictions and classifier-free guidance | `05_conditioning` |
//! | [`edit`] | inpainting, masks, image to image, super-resolution | `08_inpainting`, `09_super_resolution` |
//! | [`metrics`] | Fréchet and kernel distance, precision and recall, nearest training images, PSNR, SSIM | `10_evaluation` |
//! | [`latent`] | autoencoders, whose latents a diffusion model can learn in place of images | |
//! | [`model`] | a trained network with its noise process and prediction type, in one file | `03_training` |
//! | [`config`] | a training run as a TOML file | |
//! | [`data`] | built-in sprites, MNIST, Fashion-MNIST, CIFAR-10, your own arrays and folders of images | `01_forward` |
//! | [`rng`] | seeded random numbers, the same on every platform | all |
//! | [`device`] | CUDA, Metal or CPU; the notebooks' set-up cell | all |
//! | [`show`] | grids, plots and GIFs that display themselves in a notebook; the live page of a training run | all |
//! | [`progress`] | progress on a terminal and in a notebook | all |
//!
//! The last five, [`metrics`], [`ops`] and [`nn`] are re-exported from separate packages, which know nothing of diffusion.
//!
//! # Why a `dylib`
//!
//! The notebook kernel compiles every cell into its own shared library. candle numbers its tensors with a static
//! counter and looks up gradients by that number. If candle were linked statically, each cell would have its own
//! counter, two tensors could share a number, and gradients would silently be wrong. diffusion-core is a `dylib`, so it
//! is loaded once and all cells share its counter. A notebook therefore has diffusion-core as its only dependency; it
//! uses candle through [`candle`] and [`candle_nn`], and `anyhow` through [`anyhow`].

pub use anyhow;
pub use candle_core as candle;
pub use candle_nn;
#[doc(inline)]
pub use diffusion_data as data;
#[doc(inline)]
pub use diffusion_metrics as metrics;
#[doc(inline)]
pub use diffusion_nn as nn;
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
pub mod latent;
pub mod level;
pub mod likelihood;
pub mod mixture;
pub mod model;
pub mod prediction;
pub mod process;
pub mod sampler;
pub mod schedule;
pub mod text;
pub mod train;
pub mod unet;

/// The Rust code of the README is compiled with the examples of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
