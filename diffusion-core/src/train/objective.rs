//! Training objectives.

use super::Noise;
use crate::data::Dataset;
use crate::model::Model;
use crate::nn::Parameters;
use crate::rng::Rng;
use anyhow::Result;
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// A training objective: the loss and the samples of a model. [`Training`](super::Training) runs any objective in the
/// same loop, with checkpoints, log, live page, gradient clipping and EMA.
///
/// [`Diffusion`](super::Diffusion) is the built-in objective. An autoencoder needs three methods:
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
/// A GAN updates its discriminator and its generator in turn: [`Gan`](super::Gan). [`Objective::parameters`] returns the
/// generator's parameters; the objective owns the discriminator, with its own [`Parameters`] and
/// [`AdamW`](super::AdamW), and [`Objective::loss`] takes a step of that optimiser before it returns the generator's loss.
/// [`Objective::state`] adds the discriminator's weights and its optimiser's moments to each checkpoint, and
/// [`Objective::load_state`] restores them. A teacher whose weights follow the student's (consistency models) is updated
/// in [`Objective::begin_step`] and saved in the same way.
pub trait Objective {
    /// The trainable parameters and the buffers, by name. The optimiser updates those that have a gradient, the EMA
    /// covers all of them, and checkpoints contain them.
    fn parameters(&self) -> &Parameters;

    /// The loss of one batch: a scalar tensor with its graph.
    ///
    /// All randomness comes from `noise` or was drawn in [`Objective::begin_step`], so that a resumed run repeats it.
    ///
    /// # Errors
    /// The loss cannot be computed.
    fn loss(&mut self, batch: &TrainingBatch, noise: &mut Noise) -> Result<Tensor>;

    /// Prepares an optimiser step before its first batch and draws what its batches share; `rng` is the random stream
    /// of the step.
    ///
    /// # Errors
    /// The step cannot be prepared.
    fn begin_step(&mut self, step: StepInfo, rng: &mut Rng) -> Result<()> {
        let _ = (step, rng);
        Ok(())
    }

    /// The loss on a batch of held-out images, or `None` if the objective has none. It has the expected value of
    /// [`Objective::loss`] for images of the same distribution, so that the two can be compared.
    ///
    /// All randomness comes from `rng`, which always has the same seed. What the next steps use, such as parameters and
    /// buffers, is left unchanged: evaluate networks with [`predict`](crate::unet::Network::predict).
    ///
    /// # Errors
    /// The loss cannot be computed.
    fn validation_loss(&mut self, batch: &TrainingBatch, rng: &mut Rng) -> Result<Option<f64>> {
        let _ = (batch, rng);
        Ok(None)
    }

    /// Generates `n` images that show the progress of training, or returns `None` if there is nothing to show. The loop
    /// swaps the EMA weights into the parameters before the call.
    ///
    /// Call `watch` now and then with the fraction of the work done, and pass its error (an interrupt) on.
    ///
    /// # Shapes
    /// (n, C, H, W), nominally in \[−1, 1\].
    ///
    /// # Errors
    /// The device is out of memory.
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

    /// The number of columns in a grid of samples.
    fn sample_columns(&self) -> usize {
        8
    }

    /// State that a checkpoint must contain besides the parameters: a second optimiser's moments, a teacher.
    ///
    /// # Errors
    /// The device is out of memory.
    fn state(&self) -> Result<HashMap<String, Tensor>> {
        Ok(HashMap::new())
    }

    /// Restores the result of [`Objective::state`] from a checkpoint.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape: the message names it.
    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// The objective's part of `config.toml`; a folder is only resumed with the same values.
    ///
    /// # Errors
    /// It cannot be written as TOML.
    fn describe(&self) -> Result<toml::Table> {
        Ok(toml::Table::new())
    }

    /// The metadata of checkpoints and model files.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    fn metadata(&self) -> Result<HashMap<String, String>> {
        Ok(HashMap::new())
    }

    /// Writes the trained model after `images_seen` images; by default the parameters by name. The loop swaps the EMA
    /// weights into the parameters before the call.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    fn save(&self, path: &Path, images_seen: u64) -> Result<()> {
        let _ = images_seen;
        self.parameters().save(path)
    }

    /// The device of the parameters.
    fn device(&self) -> Device {
        self.parameters().device().clone()
    }
}

/// An [`Objective`] that trains a diffusion model.
pub trait ModelObjective: Objective {
    /// The model with its raw weights, without EMA.
    fn model(&self) -> &Model;

    /// Converts the objective into its model.
    fn into_model(self) -> Model;
}

/// The optimiser step that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepInfo {
    /// The index of the step, from 0.
    pub index: usize,
    /// The total number of steps.
    pub total: usize,
    /// Images in this step: batch × accumulate.
    pub images: usize,
}

/// One batch of a step: augmented images of the data set, on the device.
#[derive(Debug)]
pub struct TrainingBatch<'a> {
    pub(super) data: &'a Dataset,
    pub(super) indices: &'a [usize],
    pub(super) within: Range<usize>,
    pub(super) images: Tensor,
}

impl TrainingBatch<'_> {
    /// The images (B, C, H, W), in \[−1, 1\] for 8-bit data.
    pub fn images(&self) -> &Tensor {
        &self.images
    }

    /// The number of images, B.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether the batch is empty; during training it never is.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The indices of the images in the data set.
    pub fn indices(&self) -> &[usize] {
        self.indices
    }

    /// The positions of the images in the step, to find what [`Objective::begin_step`] drew for them.
    pub fn within(&self) -> Range<usize> {
        self.within.clone()
    }

    /// The class labels, one for each image.
    pub fn labels(&self) -> Vec<u32> {
        let labels = self.data.labels();
        self.indices.iter().map(|i| labels[*i]).collect()
    }

    /// The data set of the images.
    pub fn data(&self) -> &Dataset {
        self.data
    }
}
