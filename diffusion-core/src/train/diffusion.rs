//! The training objective of diffusion models: predict the noise, the clean image or a mixture of both from the noisy
//! image.

use super::{ConditionOn, Loss, ModelObjective, Noise, Objective, StepInfo, TrainingBatch, TrainingConfig, Weighting};
use crate::data::Dataset;
use crate::latent::Vae;
use crate::level::{Level, perturb, scaled};
use crate::model::{Model, ModelInfo};
use crate::nn::Parameters;
use crate::ops::avg_pool2d;
use crate::process::{NoiseProcess, TimeSampling};
use crate::rng::Rng;
use crate::sampler::Sampler;
use crate::text::Vocabulary;
use crate::unet::{Architecture, Condition, Network};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::Path;

/// The name of the words in a checkpoint.
const VOCABULARY: &str = "vocabulary";

/// Denoising score matching in its usual form: sample a time t and noise ε for each image, perturb the image to the
/// level at t, and compare the network's output with the target of its [`Prediction`](crate::prediction::Prediction)
/// ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), algorithm 1). [`Training::new`](super::Training::new) creates
/// one.
#[derive(Debug)]
pub struct Diffusion {
    model: Model,
    loss: Loss,
    weighting: Weighting,
    times: TimeSampling,
    stages: usize,
    noise_candidates: usize,
    dropout: f64,
    sampler: Sampler,
    /// The times of all images of the step, and which conditions are dropped.
    drawn: (Vec<f64>, Vec<bool>),
}

impl Diffusion {
    /// Creates a network with random weights from the seed of `config`, to be trained on the images of `data`.
    ///
    /// # Errors
    /// A value of `config` or of the architecture is out of range, or the network does not fit the images, the number of
    /// classes or the captions of `data`.
    pub fn new(
        config: &TrainingConfig,
        architecture: impl Into<Architecture>,
        data: &Dataset,
        device: &Device,
    ) -> Result<Self> {
        config.check()?;
        let architecture = architecture.into();
        check_fit(config, &architecture, data)?;
        let context = if architecture.context() > 0 { data.attribute_names().to_vec() } else { Vec::new() };
        let info = ModelInfo {
            process: config.process.clone(),
            prediction: config.prediction,
            shape: data.shape(),
            classes: data.class_names().to_vec(),
            context,
            data: data.name().to_owned(),
            images_seen: 0,
            images: data.is_8_bit(),
            consistency: false,
            vocabulary: vocabulary(&architecture, data)?,
        };
        let network = Network::new(architecture, &mut Rng::new(config.seed), device)?;
        let steps = match &config.process {
            NoiseProcess::Vp(schedule) => config.sample_steps.min(schedule.timesteps()),
            _ => config.sample_steps,
        };
        Self::with_model(config, Model::new(network, info), data, Sampler::ddim(steps))
    }

    /// The same for latents: `autoencoder` has [encoded](crate::latent::encoded) the images of the data, and decodes the
    /// samples.
    ///
    /// # Errors
    /// See [`Model::with_autoencoder`].
    pub fn with_autoencoder(self, autoencoder: Vae) -> Result<Self> {
        Ok(Self { model: self.model.with_autoencoder(autoencoder)?, ..self })
    }

    /// The objective for a given model, whose samples are drawn with `sampler`.
    pub(super) fn with_model(
        config: &TrainingConfig,
        mut model: Model,
        data: &Dataset,
        sampler: Sampler,
    ) -> Result<Self> {
        config.check()?;
        check_fit(config, model.network.architecture(), data)?;
        if model.network.architecture().context() > 0 {
            let (names, there) = (model.info.context.join(", "), data.attribute_names().join(", "));
            ensure!(
                names == there,
                "the model's context has the attributes ({names}), but {} has ({there}); use the data it was trained on",
                data.name()
            );
        }
        model.network.set_precision(config.precision);
        let [_, height, width] = data.shape();
        let batch = config.batch.min(data.len());
        model.network.ensure_room(batch, (height, width), true).map_err(|problem| crate::whole(problem.into()))?;
        Ok(Self {
            model,
            loss: config.loss,
            weighting: config.weighting,
            times: config.times,
            stages: config.stages,
            noise_candidates: config.noise_candidates,
            dropout: config.condition_dropout,
            sampler,
            drawn: Default::default(),
        })
    }

    /// Draws times for `n` images, and which of their conditions are dropped.
    fn draw(&self, n: usize, times: TimeSampling, rng: &mut Rng) -> Result<(Vec<f64>, Vec<bool>)> {
        let times = self.model.info.process.draw(n, times, rng)?;
        let dropped = times.iter().map(|_| rng.uniform() < self.dropout).collect();
        Ok((times, dropped))
    }

    /// The loss for given times, dropped conditions and noise.
    fn loss_of(
        &self,
        batch: &TrainingBatch,
        (t, dropped): (&[f64], &[bool]),
        eps: &Tensor,
        network: impl FnOnce(&Tensor, &[f64], &Condition) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor> {
        let info = &self.model.info;
        let (x0, levels) = (batch.images(), info.process.levels(t)?);
        let xt = perturb(x0, &levels, eps)?;
        let target = info.prediction.target(x0, eps, &levels)?;
        let c_in = levels.iter().map(|level| info.prediction.scalings(*level).c_in);
        let input = scaled(&xt, c_in.collect())?.unwrap_or(xt);
        let condition = self.condition(batch)?.dropped(dropped)?;
        let times: Vec<f64> = t.iter().map(|t| info.process.network_time(*t)).collect();
        let output = network(&input, &times, &condition)?;
        let each = self.loss.per_image(&output, &target)?;
        let weight = |level: &Level| self.weighting.at(*level, info.prediction) as f32;
        let weights: Vec<f32> = levels.iter().map(weight).collect();
        Ok((each * Tensor::from_vec(weights, t.len(), x0.device())?)?.mean_all()?)
    }

    /// The complete condition of these images.
    pub(super) fn condition(&self, batch: &TrainingBatch) -> Result<Condition> {
        let conditioning = self.model.network.architecture().conditioning();
        let mut condition = Condition::none();
        if conditioning.classes > 0 {
            let labels = batch.labels().into_iter().map(|label| Some(label as usize));
            condition.labels = Some(labels.collect());
        }
        if conditioning.context > 0 {
            let context = batch.data.context(batch.indices.iter().copied(), &self.device())?;
            condition.context = Some(context);
        }
        if conditioning.low_res > 0 {
            condition.low_res = Some(avg_pool2d(batch.images(), conditioning.low_res)?);
        }
        if let Some(vocabulary) = &self.model.info.vocabulary {
            let captions = captions(batch.data)?;
            condition.tokens = Some(vocabulary.known(batch.indices.iter().map(|i| &captions[*i])));
        }
        Ok(condition)
    }
}

impl ModelObjective for Diffusion {
    fn model(&self) -> &Model {
        &self.model
    }

    fn into_model(self) -> Model {
        self.model
    }
}

/// Checks that the network fits the images and classes of the data and the times of the process.
fn check_fit(config: &TrainingConfig, architecture: &Architecture, data: &Dataset) -> Result<()> {
    let [channels, height, width] = data.shape();
    let conditioning = architecture.conditioning();
    ensure!(
        channels == conditioning.channels,
        "the network is for images with {} channels, but {} has {channels}: set channels = {channels}",
        conditioning.channels,
        data.name()
    );
    let (classes, context) = (data.class_names().len(), data.context_names().len());
    let values = if data.attribute_names().is_empty() { "classes" } else { "attributes" };
    for (field, known, there, what) in
        [("classes", conditioning.classes, classes, "classes"), ("context", conditioning.context, context, values)]
    {
        ensure!(
            known == 0 || known == there,
            "the network has {field} = {known}, but {} has {there} {what}: set {field} = {there}, or 0 for none",
            data.name()
        );
    }
    if conditioning.tokens > 0 {
        captions(data)?;
    }
    architecture.check_size(height, width)?;
    if let Some(known) = architecture.timesteps() {
        let timesteps = config.process.max_network_time();
        ensure!(
            known == timesteps,
            "the network divides its times by timesteps = {known}, but the times of the noise process go up to \
             {timesteps}: set timesteps = {timesteps} in the network"
        );
    }
    Ok(())
}

/// The captions, which a network that reads text needs.
fn captions(data: &Dataset) -> Result<&[String]> {
    data.captions().with_context(|| {
        format!("the network reads text, but {} has no captions: give it some with Dataset::with_captions", data.name())
    })
}

/// The words of the captions, if the network reads text.
fn vocabulary(architecture: &Architecture, data: &Dataset) -> Result<Option<Vocabulary>> {
    let conditioning = architecture.conditioning();
    if conditioning.tokens == 0 {
        return Ok(None);
    }
    let it = Vocabulary::of(captions(data)?).with_context(|| data.name().to_owned())?;
    let (words, known) = (it.words().len(), conditioning.vocabulary);
    ensure!(
        words == known,
        "the network has vocabulary = {known}, but the captions of {} have {words} different words: set vocabulary = \
         {words}",
        data.name()
    );
    Ok(Some(it.with_length(conditioning.tokens)))
}

impl Objective for Diffusion {
    fn parameters(&self) -> &Parameters {
        self.model.network.parameters()
    }

    fn begin_step(&mut self, step: StepInfo, rng: &mut Rng) -> Result<()> {
        self.drawn = self.draw(step.images, self.times, rng)?;
        if let NoiseProcess::Vp(schedule) = &self.model.info.process {
            let done = step.index as f64 / step.total.max(1) as f64;
            let stride = stride(self.stages, done, schedule.timesteps());
            for t in &mut self.drawn.0 {
                *t = on_grid(*t as usize, stride, schedule.timesteps()) as f64;
            }
        }
        Ok(())
    }

    fn loss(&mut self, batch: &TrainingBatch, noise: &mut Noise) -> Result<Tensor> {
        let network = &self.model.network;
        let (t, dropped) = (&self.drawn.0[batch.within()], &self.drawn.1[batch.within()]);
        let eps = nearest_noise(batch.images(), self.noise_candidates, |like| noise.randn_like(like))?;
        self.loss_of(batch, (t, dropped), &eps, |x, times, condition| network.forward(x, times, condition))
    }

    fn validation_loss(&mut self, batch: &TrainingBatch, rng: &mut Rng) -> Result<Option<f64>> {
        if self.model.info.vocabulary.is_some() && batch.data.captions().is_none() {
            return Ok(None);
        }
        // Stratified times have the same distribution and vary less.
        let times = match self.times {
            TimeSampling::Uniform => TimeSampling::Stratified,
            times => times,
        };
        let (t, dropped) = self.draw(batch.len(), times, rng)?;
        let eps = nearest_noise(batch.images(), self.noise_candidates, |like| rng.randn_like(like))?;
        let network = &self.model.network;
        let loss = self.loss_of(batch, (&t, &dropped), &eps, |x, t, condition| network.predict(x, t, condition))?;
        Ok(Some(f64::from(loss.to_scalar::<f32>()?)))
    }

    /// Samples of all classes in turn, or with the attributes or captions of the first images of the data, or
    /// super-resolved versions of them.
    fn samples(
        &self,
        n: usize,
        data: &Dataset,
        rng: &mut Rng,
        watch: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Option<Tensor>> {
        let mut condition = self.model.conditions(n)?;
        let low_res = self.model.network.architecture().conditioning().low_res;
        let first = (0..n).map(|i| i % data.len());
        if !self.model.info.context.is_empty() {
            condition.context = Some(data.context(first.clone(), &self.device())?);
        }
        if low_res > 0 {
            let images = data.images(first, &self.device())?;
            condition.low_res = Some(avg_pool2d(&images, low_res)?);
        }
        if let Some(vocabulary) = &self.model.info.vocabulary {
            condition.tokens = Some(vocabulary.known(captions(data)?.iter().cycle().take(n)));
        }
        let noise = self.model.noise(n, rng)?;
        let mut states = self.model.states(&noise, &condition, &self.sampler, rng)?;
        let steps = states.len() as f64;
        for state in &mut states {
            watch((state?.index + 1) as f64 / steps)?;
        }
        Ok(Some(self.model.decode(&states.finish()?)?))
    }

    /// The number of columns for which each column has one class.
    fn sample_columns(&self) -> usize {
        let conditioning = self.model.network.architecture().conditioning();
        let classes = if self.model.info.context.is_empty() { conditioning.context } else { 0 };
        columns_of(conditioning.classes.max(classes)).unwrap_or(8)
    }

    /// The words, whose order the embeddings depend on.
    fn state(&self) -> Result<HashMap<String, Tensor>> {
        let Some(vocabulary) = &self.model.info.vocabulary else { return Ok(HashMap::new()) };
        let words = vocabulary.words().join("\n").into_bytes();
        Ok([(VOCABULARY.to_owned(), Tensor::new(words, &Device::Cpu)?)].into())
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let bytes = |state: &HashMap<String, Tensor>| state.get(VOCABULARY).map(Tensor::to_vec1::<u8>).transpose();
        let same = bytes(state)? == bytes(&self.state()?)?;
        ensure!(same, "the captions of the data no longer have the words that the network has learned");
        Ok(())
    }

    fn describe(&self) -> Result<toml::Table> {
        let architecture = self.model.network.architecture();
        let condition = toml::Value::try_from(ConditionOn::of(architecture))?;
        let network = toml::Value::try_from(architecture)?;
        let entries = [("condition", condition), ("network", network)];
        let mut table: toml::Table = entries.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
        if let Some(file) = self.model.autoencoder.as_ref().and_then(Vae::file) {
            table.insert("autoencoder".to_owned(), toml::Value::try_from(file)?);
        }
        Ok(table)
    }

    fn metadata(&self) -> Result<HashMap<String, String>> {
        self.model.network.metadata()
    }

    fn save(&self, path: &Path, images_seen: u64) -> Result<()> {
        let info = ModelInfo { images_seen, ..self.model.info.clone() };
        self.model.write(path, DType::F32, &info)
    }
}

/// Draws `candidates` noise tensors for each image, and returns the nearest.
fn nearest_noise(
    x0: &Tensor,
    candidates: usize,
    mut draw: impl FnMut(&Tensor) -> candle_core::Result<Tensor>,
) -> Result<Tensor> {
    let mut nearest = draw(x0)?;
    let distance = |eps: &Tensor| (eps - x0)?.sqr()?.flatten_from(1)?.sum(1);
    for _ in 1..candidates {
        let eps = draw(x0)?;
        let nearer = distance(&eps)?.lt(&distance(&nearest)?)?;
        let nearer = nearer.reshape((x0.dim(0)?, 1, 1, 1))?.broadcast_as(x0.shape())?;
        nearest = nearer.where_cond(&eps, &nearest)?;
    }
    Ok(nearest)
}

/// The number of columns, about ten, with which a grid of images whose classes alternate has one class per column.
/// `None` for a single class or if there are too many classes for a row.
///
/// ```
/// use diffusion_core::train::columns_of;
/// assert_eq!([2, 3, 10, 16, 100].map(columns_of), [Some(10), Some(9), Some(10), Some(16), None]);
/// ```
pub fn columns_of(classes: usize) -> Option<usize> {
    (2..=16).contains(&classes).then(|| classes * (10 / classes).max(1))
}

/// The stride of progressive training: training starts with every 2^(stages−1)-th time step, halves the stride from
/// stage to stage, and uses all time steps in the second half.
///
/// With few time steps at first, coarse denoising is learned before fine denoising.
fn stride(stages: usize, done: f64, timesteps: usize) -> usize {
    let stage = if stages > 1 { done / 0.5 } else { 1.0 } * stages as f64;
    let left = (stages as f64 - 1.0 - stage.floor()).max(0.0) as u32;
    1usize.checked_shl(left).unwrap_or(usize::MAX).clamp(1, timesteps / 2)
}

/// Moves `t` to the grid of every `stride`-th time step, which always contains the last, noisiest one.
fn on_grid(t: usize, stride: usize, timesteps: usize) -> usize {
    let from_end = (timesteps - 1 - t) / stride * stride;
    timesteps - 1 - from_end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_noise_is_chosen_for_each_image() -> Result<()> {
        let mut rng = Rng::new(1);
        let x0 = rng.randn((5, 1, 2, 2), &Device::Cpu)?;
        let mut drawn = Vec::new();
        let chosen = nearest_noise(&x0, 4, |like| {
            drawn.push(rng.randn_like(like)?);
            Ok(drawn[drawn.len() - 1].clone())
        })?;
        let distance = |eps: &Tensor| (eps - &x0)?.sqr()?.flatten_from(1)?.sum(1)?.to_vec1::<f32>();
        let all = drawn.iter().map(distance).collect::<candle_core::Result<Vec<_>>>()?;
        let least: Vec<f32> =
            (0..5).map(|i| all.iter().map(|distances| distances[i]).fold(f32::INFINITY, f32::min)).collect();
        assert_eq!(all.len(), 4);
        assert_eq!(distance(&chosen)?, least);
        Ok(())
    }

    #[test]
    fn progressive_training_doubles_the_time_steps_until_all_are_there() {
        let strides = [0.0, 0.1, 0.126, 0.26, 0.4, 0.5, 0.9].map(|done| stride(4, done, 1000));
        assert_eq!(strides, [8, 8, 4, 2, 1, 1, 1]);
        assert_eq!(stride(1, 0.0, 1000), 1);
        assert_eq!(stride(100, 0.0, 10), 5, "two steps are left at least");
        let grid: Vec<usize> = (0..10).map(|t| on_grid(t, 4, 10)).collect();
        assert_eq!(grid, [1, 1, 5, 5, 5, 5, 9, 9, 9, 9]);
    }
}
