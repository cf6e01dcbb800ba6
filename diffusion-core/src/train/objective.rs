//! What a training minimises.

use super::Noise;
use crate::data::Dataset;
use crate::nn::Parameters;
use crate::rng::Rng;
use anyhow::Result;
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// What a training minimises, and what it has to show for it: [`Training`](super::Training) runs any objective in the same
/// loop, with the same checkpoints, live page, log, clipping and averaging of weights.
///
/// [`Diffusion`](super::Diffusion) is the objective of this crate. An autoencoder takes three methods:
///
/// ```
/// use diffusion_core::anyhow::Result;
/// use diffusion_core::candle::{DType, Device, Tensor};
/// use diffusion_core::data::Dataset;
/// use diffusion_core::nn::{Linear, Parameters};
/// use diffusion_core::rng::Rng;
/// use diffusion_core::train::{Noise, Objective, Training, TrainingBatch, TrainingConfig};
///
/// struct Autoencoder { parameters: Parameters, encoder: Linear, decoder: Linear }
///
/// impl Objective for Autoencoder {
///     fn parameters(&self) -> &Parameters {
///         &self.parameters
///     }
///     fn loss(&mut self, batch: &TrainingBatch, _: &mut Noise) -> Result<Tensor> {
///         let x = batch.images().flatten_from(1)?;
///         let decoded = self.decoder.forward(&self.encoder.forward(&x)?)?;
///         Ok((decoded - x)?.sqr()?.mean_all()?)
///     }
/// }
///
/// let mut parameters = Parameters::new(DType::F32, &Device::Cpu);
/// let mut rng = Rng::new(1);
/// let mut build = parameters.builder(&mut rng);
/// let encoder = Linear::new(build.at("encoder"), 3 * 16 * 16, 8)?;
/// let decoder = Linear::new(build.at("decoder"), 8, 3 * 16 * 16)?;
/// let autoencoder = Autoencoder { parameters, encoder, decoder };
/// let config = TrainingConfig { epochs: 20, batch: 16, lr: 1e-3, ..Default::default() };
/// let sprites = Dataset::sprites(64, 1)?;
/// let mut training = Training::with_objective(config, autoencoder, &sprites)?;
/// for step in &mut training {
///     step?;
/// }
/// let losses = training.epoch_losses();
/// assert!(losses[19] < 0.8 * losses[0]);
/// # Ok::<(), diffusion_core::anyhow::Error>(())
/// ```
///
/// # Two optimisers in one step
///
/// A GAN updates its discriminator and its generator in turn. Let [`Objective::parameters`] be the generator's; the objective
/// owns the discriminator, with [`Parameters`] and an [`AdamW`](super::AdamW) of its own. [`Objective::loss`] first draws
/// images, *detaches* them, computes the discriminator's loss and takes its optimiser's step; then it returns the generator's
/// loss, through which the loop updates the generator. [`Objective::state`] puts the discriminator's weights and the moments
/// of its optimiser into each checkpoint, and [`Objective::load_state`] takes them from there. A teacher whose weights follow
/// the student's (consistency models) is updated in [`Objective::begin_step`] and kept in the same way.
pub trait Objective {
    /// The parameters that are learned, with their buffers, by name. The optimiser updates those that receive a gradient,
    /// the running average follows all of them, and a checkpoint holds them.
    fn parameters(&self) -> &Parameters;

    /// The loss of one batch: a tensor of one number, with its graph.
    ///
    /// Everything random comes from `noise` or was drawn in [`Objective::begin_step`], so that a training that is resumed
    /// repeats it.
    ///
    /// # Errors
    /// Whatever keeps the loss from being computed.
    fn loss(&mut self, batch: &TrainingBatch, noise: &mut Noise) -> Result<Tensor>;

    /// Draws what belongs to all images of an optimiser step together, before the first of its batches; `rng` is the random
    /// stream of this step.
    ///
    /// # Errors
    /// Whatever keeps the step from being taken.
    fn begin_step(&mut self, step: StepInfo, rng: &mut Rng) -> Result<()> {
        let _ = (step, rng);
        Ok(())
    }

    /// The loss of images that are not trained on, or `None` for an objective that has none: the parameters stay as they are, and
    /// so does what layers have seen of batches.
    ///
    /// # Errors
    /// Whatever keeps the loss from being computed.
    fn validation_loss(&self, batch: &TrainingBatch, rng: &mut Rng) -> Result<Option<f64>> {
        let _ = (batch, rng);
        Ok(None)
    }

    /// `n` images that show how far the training is, with the parameters as they stand (the loop lends the averages to
    /// them); `None` for an objective that has nothing to show.
    ///
    /// `watch` wants to be told now and then which share of the work is done; its error, that of an interrupt, is to be handed on.
    ///
    /// # Shapes
    /// (n, C, H, W), nominally in \[−1, 1\].
    ///
    /// # Errors
    /// The device has no room for them.
    fn samples(
        &self,
        n: usize,
        data: &Dataset,
        rng: &mut Rng,
        watch: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Option<Tensor>> {
        let _ = (n, data, rng, watch);
        Ok(None)
    }

    /// How many columns a grid of the samples has.
    fn sample_columns(&self) -> usize {
        8
    }

    /// What a checkpoint must hold besides the parameters: a second optimiser's moments, a teacher.
    ///
    /// # Errors
    /// The device has no room for copies.
    fn state(&self) -> Result<HashMap<String, Tensor>> {
        Ok(HashMap::new())
    }

    /// Takes up what [`Objective::state`] put into a checkpoint.
    ///
    /// # Errors
    /// Something is missing, or of another shape: the message names it.
    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// What `config.toml` says of the objective besides the training's numbers: a folder is only resumed with the same.
    ///
    /// # Errors
    /// It cannot be written as TOML.
    fn describe(&self) -> Result<toml::Table> {
        Ok(toml::Table::new())
    }

    /// What checkpoints and model files say besides their tensors.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    fn metadata(&self) -> Result<HashMap<String, String>> {
        Ok(HashMap::new())
    }

    /// Writes the result of the training, with the parameters as they stand (the loop lends the averages to them), after
    /// `images_seen` images. Without a method of its own an objective leaves its parameters by name.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    fn save(&self, path: &Path, images_seen: u64) -> Result<()> {
        let _ = images_seen;
        self.parameters().save(path)
    }

    /// Where its parameters are.
    fn device(&self) -> Device {
        self.parameters().device().clone()
    }
}

/// Which optimiser step begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepInfo {
    /// Which step it is, from 0.
    pub index: usize,
    /// How many steps there are to be in all.
    pub total: usize,
    /// How many images it takes: batch × accumulate.
    pub images: usize,
}

/// One batch of a step: images of the data set, augmented, on the device.
#[derive(Debug)]
pub struct TrainingBatch<'a> {
    pub(super) data: &'a Dataset,
    pub(super) indices: &'a [usize],
    pub(super) within: Range<usize>,
    pub(super) images: Tensor,
}

impl TrainingBatch<'_> {
    /// The images (B, C, H, W); of 8-bit data in \[−1, 1\].
    pub fn images(&self) -> &Tensor {
        &self.images
    }

    /// The number of images, B.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none; a batch of a training has at least one.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Which images of the data set these are.
    pub fn indices(&self) -> &[usize] {
        self.indices
    }

    /// Which images of the step these are: the part of what [`Objective::begin_step`] drew that belongs to this batch.
    pub fn within(&self) -> Range<usize> {
        self.within.clone()
    }

    /// The class numbers, B of them.
    pub fn labels(&self) -> Vec<u32> {
        let labels = self.data.labels();
        self.indices.iter().map(|i| labels[*i]).collect()
    }

    /// The data set that they are from.
    pub fn data(&self) -> &Dataset {
        self.data
    }
}
