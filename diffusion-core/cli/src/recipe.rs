//! The defaults of `diffusion train` where neither a file nor a flag sets a value.

use crate::request::counted;
use clap::ValueEnum;
use diffusion_core::config::{ObjectiveConfig, RunConfig};
use diffusion_core::data::{Augmentation, Dataset};
use diffusion_core::latent::VaeConfig;
use diffusion_core::prediction::Prediction;
use diffusion_core::process::TimeSampling;
use diffusion_core::schedule::{Betas, Schedule};
use diffusion_core::train::{ConditionOn, Decay, Optimiser, TrainingConfig, VaeLossConfig, Weighting};
use diffusion_core::unet::{Architecture, AttentionUNet};

/// The smallest number of optimiser steps.
const FEWEST_STEPS: usize = 3000;
/// The steps of `--objective consistency`, in as many epochs as they take.
const CONSISTENCY_STEPS: usize = 4000;
const CONSISTENCY_EPOCHS: usize = 1000;
/// The largest image side for which SimpleUNet is the default network.
const SMALL: usize = 32;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Recipe {
    /// Chosen for the size, colour and number of the images
    #[default]
    Auto,
    /// The plain DDPM of the notebooks
    Ddpm,
}

impl Recipe {
    /// Sets the network and the training for these images. `shape` is that of an image, or of its latents if there is an
    /// autoencoder. `flips`: whether the images may be mirrored, as photographs may.
    pub fn set(
        self,
        run: &mut RunConfig,
        data: &Dataset,
        [_, height, width]: [usize; 3],
        flips: bool,
    ) -> diffusion_core::candle::Result<()> {
        if self == Self::Ddpm {
            return Ok(());
        }
        let images = data.len();
        let is_large = height.max(width) > SMALL && run.condition != ConditionOn::Text;
        if is_large {
            let large = Architecture::from(AttentionUNet { base: 32, ..Default::default() });
            if large.check_size(height, width).is_ok() {
                run.network = large;
            }
        }
        if !data.attribute_names().is_empty() {
            run.condition = ConditionOn::Context;
        }
        // A caption may say where something is.
        if data.shape()[0] == 3 && flips && run.condition != ConditionOn::Text {
            run.data.augment = vec![Augmentation::HorizontalFlip];
        }
        let training = &mut run.training;
        training.batch = (images / 8).clamp(8, 64).min(images.max(1));
        let per_epoch = (images / training.batch).max(1);
        training.epochs = training.epochs.max(FEWEST_STEPS.div_ceil(per_epoch));
        training.process = Schedule::new(1000, Betas::COSINE)?.into();
        training.prediction = Prediction::V;
        training.weighting = Weighting::MinSnr { gamma: 5.0 };
        training.times = TimeSampling::Stratified;
        (training.lr, training.warmup, training.decay) = (1e-3, 200, Decay::Cosine { floor: 0.0 });
        (training.beta2, training.ema) = (0.99, 0.999);
        if is_large && run.objective == ObjectiveConfig::Diffusion {
            (training.optimiser, training.lr) = (Optimiser::Muon, 2e-3);
        }
        Ok(())
    }
}

/// The defaults of `--objective consistency`.
pub fn set_consistency(training: &mut TrainingConfig) {
    (training.lr, training.warmup, training.decay) = (1e-3, 100, Decay::Cosine { floor: 0.0 });
    (training.beta2, training.ema) = (0.99, 0.998);
    (training.epochs, training.train_steps) = (CONSISTENCY_EPOCHS, CONSISTENCY_STEPS);
}

/// A one-line description of a configuration.
pub fn words(run: &RunConfig) -> String {
    let it = &run.training;
    let flips = if run.data.augment.is_empty() { "" } else { ", random horizontal flips" };
    let optimiser = if it.optimiser == Optimiser::Muon { "Muon, " } else { "" };
    let loop_of = format!(
        "{optimiser}lr {:e}, EMA {}; batches of {}, {}{flips}",
        it.lr,
        it.ema,
        it.batch,
        counted(it.epochs, "epoch")
    );
    if let ObjectiveConfig::Vae(VaeLossConfig { network, kl_weight }) = run.objective {
        let VaeConfig { base, latent, factor, .. } = network;
        return format!(
            "autoencoder, base {base}: latents of {latent} channels at 1/{factor} of the height and width; KL weight {kl_weight:e}; {loop_of}"
        );
    }
    let prediction = match it.prediction {
        Prediction::Eps => "ε",
        Prediction::X0 => "x_0",
        Prediction::V => "v",
        Prediction::Velocity => "velocity",
        Prediction::Edm { .. } => "EDM",
    };
    let weighting = match it.weighting {
        Weighting::Uniform => "uniform".to_owned(),
        Weighting::MinSnr { gamma } => format!("min-SNR (γ = {gamma})"),
    };
    format!("{}, {}; {prediction}-prediction, {weighting} weighting, {loop_of}", run.network.name(), it.process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_for_digits_trains_as_the_speed_run_does() {
        let (n, side) = (1000, 28);
        let digits = Dataset::from_u8("digits", vec![0; n * side * side], [1, side, side], vec![0; n], &["0"]).unwrap();
        let mut run = RunConfig::default();
        Recipe::Auto.set(&mut run, &digits, digits.shape(), false).unwrap();
        let mut speedrun = RunConfig::from_toml(include_str!("../../../weights/speedrun.toml")).unwrap();
        // How long it trains and what it shows meanwhile differ; nothing else does.
        speedrun.training.epochs = run.training.epochs;
        speedrun.training.samples = run.training.samples;
        speedrun.training.sample_every = run.training.sample_every;
        assert_eq!(run.training, speedrun.training);
    }

    #[test]
    fn the_default_for_photographs_is_weights_photos_64() {
        let (n, side) = (10_000, 64);
        let pixels = vec![0; n * 3 * side * side];
        let photos = Dataset::from_u8("photos", pixels, [3, side, side], vec![0; n], &["0"]).unwrap();
        let mut run = RunConfig::default();
        Recipe::Auto.set(&mut run, &photos, photos.shape(), true).unwrap();
        let mut file = RunConfig::from_toml(include_str!("../../../weights/photos-64.toml")).unwrap();
        assert_eq!((&run.network, &run.data.augment), (&file.network, &file.data.augment));
        file.training.samples = run.training.samples;
        assert_eq!(run.training, file.training);
        // Latents are small images, and an autoencoder has another objective.
        let mut run = RunConfig::default();
        Recipe::Auto.set(&mut run, &photos, [4, 16, 16], true).unwrap();
        assert_eq!(run.training.optimiser, Optimiser::AdamW);
    }
}
