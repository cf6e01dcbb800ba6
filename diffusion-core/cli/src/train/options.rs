//! The flags of `diffusion train`.

use crate::edit::Way;
use crate::recipe::Recipe;
use clap::{Args, ValueEnum};
use diffusion_core::device::{Choice, Precision};
use diffusion_core::train::ConditionOn;
use std::path::PathBuf;

#[derive(Args)]
pub struct Options {
    /// The training data: sprites, mnist, fashion-mnist, cifar10, celeba, a folder of images, or an .npy file
    #[arg(long)]
    pub(super) task: Option<String>,
    /// A TOML file with the data, the network and the training; flags override it
    #[arg(long)]
    pub(super) config: Option<PathBuf>,
    /// The network: simple-unet, context-unet, … [default: simple-unet up to 32×32, attention-unet beyond, base 32]
    #[arg(long)]
    pub(super) model: Option<String>,
    /// The defaults of everything that no flag sets: chosen for the data, or the notebooks' plain DDPM
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["config", "resume"])]
    pub(super) recipe: Recipe,
    /// Passes over the images [default: 20, or as many as make 3000 steps; 1000 with --minutes]
    #[arg(long)]
    pub(super) epochs: Option<usize>,
    /// Ends the training after this many optimiser steps; with --resume, pauses it there
    #[arg(long)]
    pub(super) train_steps: Option<usize>,
    /// Ends the training after this many minutes, sampling included; the learning rate decays over this time
    #[arg(long)]
    pub(super) minutes: Option<f64>,
    /// Images in a batch [default: 64, or an eighth of a small data set]
    #[arg(long)]
    pub(super) batch: Option<usize>,
    /// The learning rate [default: 1e-3, or 2e-3 beyond 32×32, falling to 0; ddpm: 2e-4]
    #[arg(long)]
    pub(super) lr: Option<f64>,
    /// The optimiser: adamw, or muon, which needs fewer steps with many parameters [default: adamw up to 32×32, muon beyond]
    #[arg(long)]
    pub(super) optimiser: Option<String>,
    /// The precision: f32; on an NVIDIA GPU also tf32 or bf16
    #[arg(long)]
    pub(super) precision: Option<Precision>,
    /// The noise process: vp (discrete, variance-preserving, as in DDPM), flow or edm
    #[arg(long)]
    pub(super) process: Option<String>,
    /// T, the number of time steps of the vp process [default: 1000]
    #[arg(long)]
    pub(super) timesteps: Option<usize>,
    /// The noise schedule of the vp process: linear, scaled-linear, cosine or sigmoid [default: cosine; ddpm: linear]
    #[arg(long)]
    pub(super) betas: Option<String>,
    /// The prediction type: eps, x0, v, velocity or edm [default: v; ddpm: eps; flow: velocity; edm: edm]
    #[arg(long)]
    pub(super) prediction: Option<String>,
    /// What the network is conditioned on; with text, on the captions of the images [default: classes, or the attributes of celeba
    /// as a context]
    #[arg(long, value_enum)]
    pub(super) condition: Option<Condition>,
    /// The number of training sprites [default: 10000]
    #[arg(long)]
    pub(super) images: Option<usize>,
    /// The height and width in pixels to which images are cropped and resized [default: their own, at most 128; celeba: 64]
    #[arg(long)]
    pub(super) side: Option<usize>,
    /// How pictures of a folder with other proportions become squares [default: crop]
    #[arg(long, value_enum)]
    pub(super) fit: Option<Way>,
    /// Lists image files that cannot be read, and leaves them out
    #[arg(long)]
    pub(super) skip_bad: bool,
    /// The random seed [default: 42]
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Epochs between grids of samples, which then have no time limit; 0 for none [default: 1, limited to a tenth of the time]
    #[arg(long)]
    pub(super) sample_every: Option<usize>,
    /// The number of images in a grid of samples
    #[arg(long)]
    pub(super) samples: Option<usize>,
    /// Optimiser steps between measurements of the loss on held-out images; 0 for none [default: 128 with batches of 64]
    #[arg(long)]
    pub(super) validate_every: Option<usize>,
    /// Also writes the log and the grids of samples into the run's folder as events for TensorBoard. A run that has such events
    /// continues them without this flag
    #[arg(long)]
    pub(super) tensorboard: bool,
    /// The folder of the run [default: runs/TASK]. A run that is already there is resumed
    #[arg(long, conflicts_with = "resume")]
    pub(super) out: Option<PathBuf>,
    /// Resumes the run in this folder. Its data, network, noise process and batch are fixed; --lr, --epochs, --sample-every,
    /// --samples and --validate-every may change
    #[arg(long, conflicts_with_all = ["config", "model", "task", "images", "side", "fit", "seed", "condition", "betas", "timesteps", "process", "prediction", "batch", "precision", "optimiser", "objective", "from", "guidance", "autoencoder", "kl_weight"])]
    pub(super) resume: Option<PathBuf>,
    /// Resumes although the data has changed
    #[arg(long, conflicts_with = "start_over")]
    pub(super) new_data: bool,
    /// Deletes the run in the folder and starts from scratch
    #[arg(long, conflicts_with = "resume")]
    pub(super) start_over: bool,
    #[arg(long, hide = true, value_parser = renamed("--train-steps"))]
    pub(super) max_steps: Option<usize>,
    #[arg(long, hide = true, value_parser = renamed("--timesteps"))]
    pub(super) steps: Option<usize>,
    /// The objective: diffusion trains a network; consistency makes a model for few steps from the one of --from; vae trains an
    /// autoencoder
    #[arg(long, value_enum)]
    pub(super) objective: Option<Objective>,
    /// The trained model that --objective consistency starts from, the teacher
    #[arg(long)]
    pub(super) from: Option<PathBuf>,
    /// The teacher's guidance scale, which the new model has built in [default: 1, no guidance]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) guidance: Option<f64>,
    /// An autoencoder, trained with --objective vae, whose latents the network learns in place of images
    #[arg(long)]
    pub(super) autoencoder: Option<PathBuf>,
    /// The weight of the KL divergence of --objective vae [default: 1e-3]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) kl_weight: Option<f64>,
    /// The device: auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    pub(super) device: Choice,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Objective {
    Diffusion,
    Consistency,
    Vae,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Condition {
    Classes,
    Context,
    Text,
    #[value(alias = "nothing")]
    None,
}

impl Condition {
    pub(super) fn on(self) -> ConditionOn {
        match self {
            Self::Classes => ConditionOn::Classes,
            Self::Context => ConditionOn::Context,
            Self::Text => ConditionOn::Text,
            Self::None => ConditionOn::None,
        }
    }
}

/// The parser of a flag of an earlier version: an error that gives the new name.
fn renamed(today: &'static str) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |_| Err(format!("this flag is now called {today}"))
}
