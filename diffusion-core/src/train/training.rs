//! The training loop, as an iterator of its steps.

use super::checkpoint::{Progress, read, write};
use super::folder::{self, Resumed, RunFolder};
#[cfg(feature = "cuda")]
use super::on_device::OnDevice;
use super::optimizer::Optimizer;
use super::{Diffusion, Noise, Objective, Report, StepInfo, TrainingBatch, TrainingConfig};
use crate::data::{Dataset, Source};
use crate::device::{out_of_memory, too_little};
use crate::model::Model;
use crate::nn::Checkpoint;
use crate::rng::Rng;
use crate::unet::{Architecture, Network};
use anyhow::{Context, Result, bail, ensure};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Random streams: step i has stream i + 1, the orders of the epochs have those from here on, and samples the last.
const ORDERS: u64 = 1 << 63;
const SAMPLES: u64 = u64::MAX;

/// Over how many of the last steps speed and loss are averaged.
pub(super) const RECENT: usize = 50;

/// After how many steps at the latest a CUDA device reports how they went.
#[cfg(feature = "cuda")]
const AHEAD: usize = 10;

/// One step of the optimiser: what [`Training`] yields, and a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Which step this was, from 0.
    pub index: usize,
    /// The epoch it belongs to, from 0.
    pub epoch: usize,
    /// The loss of its batch, before the step.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// The norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// Images per second in this step.
    pub images_per_second: f64,
    /// Seconds of training up to here, earlier sessions included.
    pub seconds: f64,
}

/// Why a training is not going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is, or can be.
    Running,
    /// All steps are done.
    Done,
    /// It was stopped.
    Stopped,
    /// A step or a file failed.
    Failed,
}

/// The training of an [`Objective`] on a data set: an iterator of [`Step`]s. `Training` alone is that of a diffusion model.
///
/// Each step draws its images, augmentations, times, noise and dropped conditions from a random stream of its own, which
/// follows from the seed and the number of the step. So a resumed training continues to the bit as if it had never stopped.
///
/// In a folder ([`Training::in_folder`]) it keeps `config.toml`, `log.jsonl` with a line for each step, `samples`,
/// `checkpoints`, and in the end `model.safetensors`: the EMA weights, which [`Model::load`](crate::model::Model::load)
/// reads.
///
/// ```
/// use diffusion_core::{candle::Device, data::Dataset, train::{Training, TrainingConfig}, unet::SimpleUNet};
/// let sprites = Dataset::sprites(64, 1)?;
/// let net = SimpleUNet { channels: 3, base: 8, ..Default::default() };
/// let config = TrainingConfig { epochs: 2, batch: 16, sample_every: 0, ..Default::default() };
/// let mut training = Training::new(config, net, &sprites, &Device::Cpu)?;
/// for step in &mut training {
///     assert!(step?.loss.is_finite());
/// }
/// assert_eq!(training.history().len(), 2 * 4);
/// let model = training.into_model()?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Training<O: Objective = Diffusion> {
    pub(super) config: TrainingConfig,
    pub(super) objective: O,
    pub(super) optimizer: Optimizer,
    pub(super) data: Dataset,
    rng: Rng,
    /// The order of an epoch's images.
    order: Option<(usize, Vec<usize>)>,
    pub(super) progress: Progress,
    pub(super) total: usize,
    pub(super) history: Vec<Step>,
    pub(super) state: State,
    pub(super) folder: Option<RunFolder>,
    source: Option<Source>,
    resumed: Option<Resumed>,
    stop: Arc<AtomicBool>,
    deadline: Option<Instant>,
    /// When the live page was last written.
    pub(super) live_written: Option<Instant>,
    /// Steps that are taken but not yielded: a CUDA device takes several before it reports.
    ahead: VecDeque<Step>,
    /// What ended it, to be yielded after them.
    failed: Option<anyhow::Error>,
    #[cfg(feature = "cuda")]
    on_device: Option<OnDevice>,
}

impl Training {
    /// The training of a new diffusion model, which has not begun.
    ///
    /// # Errors
    /// A value of `config` or of the architecture is out of its range; the images are not what the network takes, or fewer
    /// than a batch; or the network takes another number of classes than the data has.
    pub fn new(
        config: TrainingConfig,
        architecture: impl Into<Architecture>,
        data: &Dataset,
        device: &Device,
    ) -> Result<Self> {
        let objective = Diffusion::new(&config, architecture, data, device)?;
        Self::with_objective(config, objective, data)
    }

    /// The network with its raw weights, those of the last step.
    pub fn network(&self) -> &Network {
        &self.objective.model().network
    }

    /// A copy of the model with the EMA weights, which make better images than the raw weights.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn averaged_model(&mut self) -> Result<Model> {
        let seen = self.images_seen();
        let model = &self.objective.model;
        self.optimizer
            .averaged(|| Ok(model.copy()?))
            .map(|mut model| {
                model.info.images_seen = seen;
                model
            })
    }

    /// The model with the EMA weights, at the end of its training.
    ///
    /// # Errors
    /// There is no memory.
    pub fn into_model(mut self) -> Result<Model> {
        self.objective.model.info.images_seen = self.images_seen();
        if let Some(ema) = &mut self.optimizer.ema {
            ema.apply()?;
        }
        Ok(self.objective.model)
    }

    /// Images made with the EMA weights: `n` of them, of all classes in turn, always from the same noise.
    ///
    /// # Shapes
    /// (n, C, H, W), nominally in \[−1, 1\].
    ///
    /// # Errors
    /// `n` = 0, or there is no memory.
    pub fn samples(&mut self, n: usize) -> Result<Tensor> {
        self.draw_samples(n)?.context("no samples")
    }
}

impl<O: Objective> Training<O> {
    /// The training of an objective, which has not begun. Of `config` it takes what belongs to the loop: seed, epochs,
    /// batches, learning rate, clipping, averaging, checkpoints, samples.
    ///
    /// # Errors
    /// A value of `config` is out of its range, there are fewer images than a step takes, or nothing to train.
    pub fn with_objective(config: TrainingConfig, objective: O, data: &Dataset) -> Result<Self> {
        config.check()?;
        let images = config.images_per_step();
        ensure!(
            images <= data.len(),
            "a step takes batch × accumulate = {images} images, and {} has {}: use fewer",
            data.name(),
            data.len()
        );
        let optimizer = Optimizer::new(&config, objective.parameters())?;
        Ok(Self {
            #[cfg(feature = "cuda")]
            on_device: optimizer.on_device(data, &objective.device())?,
            progress: Progress {
                steps_done: 0,
                seconds: 0.0,
                data: data.fingerprint(),
            },
            rng: Rng::new(config.seed),
            total: config.total_steps(data.len()),
            data: data.clone(),
            objective,
            optimizer,
            order: None,
            history: Vec::new(),
            state: State::Running,
            folder: None,
            source: None,
            resumed: None,
            stop: Arc::default(),
            deadline: None,
            live_written: None,
            ahead: VecDeque::new(),
            failed: None,
            config,
        })
    }

    /// Where the data came from, to be written into `config.toml`; before [`Training::in_folder`].
    pub fn source(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }

    /// Keeps everything in a folder, and resumes from its newest whole checkpoint if it has one.
    ///
    /// # Errors
    /// The folder holds the run of another configuration or other data, or cannot be written.
    pub fn in_folder(mut self, folder: impl AsRef<Path>) -> Result<Self> {
        let mut run = self.objective.describe()?;
        let source = self.source.clone().unwrap_or_default();
        run.insert("data".to_owned(), toml::Value::try_from(source)?);
        run.insert("training".to_owned(), toml::Value::try_from(&self.config)?);
        let device = self.objective.device();
        let mut folder = RunFolder::open(folder.as_ref(), &run, self.source.is_some(), &device)?;
        self.resumed = folder.newest(|file| self.load(file))?;
        self.history = folder.history(self.progress.steps_done)?;
        self.folder = Some(folder);
        Ok(self)
    }

    /// This training as it was after `steps` steps, from a checkpoint in the folder of its run; the folder stays as it is.
    ///
    /// # Errors
    /// There is no such checkpoint, or it is of another training.
    pub fn at_checkpoint(mut self, folder: impl AsRef<Path>, steps: usize) -> Result<Self> {
        let path = folder::checkpoint(folder.as_ref(), steps);
        Checkpoint::load(&path)
            .and_then(|file| self.load(&file))
            .with_context(|| format!("cannot go back to {}", path.display()))
            .map_err(crate::whole)?;
        Ok(self)
    }

    /// From where it resumed, and which checkpoints could not be used; `None` if it begins.
    pub fn resumed(&self) -> Option<&Resumed> {
        self.resumed.as_ref()
    }

    /// The numbers it was made with.
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// What it minimises.
    pub fn objective(&self) -> &O {
        &self.objective
    }

    /// The folder it keeps.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(RunFolder::path)
    }

    /// The data it is trained on.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// All steps so far, those of earlier sessions included.
    pub fn history(&self) -> &[Step] {
        &self.history
    }

    /// How many optimiser steps there are to be in all.
    pub fn total_steps(&self) -> usize {
        self.total
    }

    /// How many steps make an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.config.steps_per_epoch(self.data.len())
    }

    /// Whether it is going on, and why not.
    pub fn state(&self) -> State {
        self.state
    }

    /// Set this to true, from another thread say, to stop before the next step, with a checkpoint.
    pub fn stopper(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Ends the training so that all of it takes `limit` from now on, as far as that can be predicted: the number of steps,
    /// and the learning rate's decay with it, is estimated again after each step. So the steps depend on the machine; there
    /// are at most those of all epochs.
    pub fn end_within(&mut self, limit: Duration) {
        // A time beyond what a clock can show is no limit.
        self.deadline = Instant::now().checked_add(limit);
    }

    /// When it ends, if that was decided: [`Training::end_within`].
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Goes through all steps and prints the progress; returns how it ended.
    ///
    /// # Errors
    /// A step failed, or a file could not be written.
    pub fn run(&mut self) -> Result<Report> {
        super::report::run(self)
    }

    /// Saves a checkpoint now; in a folder this happens by itself, as the configuration says. Returns its path.
    ///
    /// # Errors
    /// The training keeps no folder, or the file cannot be written.
    pub fn checkpoint(&mut self) -> Result<PathBuf> {
        let file = write(&self.objective, &self.optimizer, &self.progress)?;
        let (done, keep) = (self.progress.steps_done, self.config.keep);
        let folder = self.folder.as_mut();
        folder
            .context("this training keeps no folder: begin it with in_folder(path)")?
            .save_checkpoint(done, &file, keep)
    }

    pub(super) fn images_seen(&self) -> u64 {
        self.progress.steps_done as u64 * self.config.images_per_step() as u64
    }

    /// Resumes from a checkpoint. Nothing is changed unless all of it fits.
    fn load(&mut self, file: &Checkpoint) -> Result<usize> {
        let progress = Progress::of(file, &self.progress.data, self.data.name())?;
        read(file, &mut self.objective, &mut self.optimizer)?;
        self.progress = progress;
        if self.progress.steps_done >= self.total {
            self.state = State::Done;
        }
        Ok(self.progress.steps_done)
    }

    /// Samples with the EMA weights.
    fn draw_samples(&mut self, n: usize) -> Result<Option<Tensor>> {
        let (objective, data) = (&self.objective, &self.data);
        let mut rng = self.rng.fork(SAMPLES);
        self.optimizer
            .averaged(|| objective.samples(n, data, &mut rng))
    }

    /// The images of step `index`.
    fn images(&mut self, index: usize) -> Vec<usize> {
        let per_epoch = self.steps_per_epoch();
        let (epoch, step) = (index / per_epoch, index % per_epoch);
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let mut rng = self.rng.fork(ORDERS + epoch as u64);
            self.order = Some((epoch, rng.permutation(self.data.len())));
        }
        let order = self.order.as_ref().map_or(&[][..], |(_, order)| order);
        let size = self.config.images_per_step();
        order[step * size..(step + 1) * size].to_vec()
    }

    /// The losses of the batches of step `index`, and the sum of their gradients.
    fn gradients(&mut self, index: usize) -> Result<(Vec<Tensor>, GradStore)> {
        // Drawn for all images of the step together, so that small batches make the same step as one large one.
        let mut rng = self.rng.fork(index as u64 + 1);
        let images = self.images(index);
        let step = StepInfo {
            index,
            total: self.total,
            images: images.len(),
        };
        self.objective.begin_step(step, &mut rng)?;
        let device = self.objective.device();
        let flips = self.data.draw_augmentation(images.len(), &mut rng);
        let mut noise = Noise::new(rng, &device)?;
        let (size, mut losses, mut all) = (self.config.batch, Vec::new(), GradStore::default());
        for from in (0..images.len()).step_by(size) {
            let within = from..from + size;
            let indices = &images[within.clone()];
            let batch = TrainingBatch {
                images: self.batch(indices, &flips, within.clone(), &device)?,
                data: &self.data,
                indices,
                within,
            };
            let loss = self.objective.loss(&batch, &mut noise)?;
            let grads = loss.backward()?;
            losses.push(loss.detach());
            if images.len() == size {
                all = grads;
                break;
            }
            self.optimizer.add(&mut all, &grads)?;
        }
        Ok((losses, all))
    }

    fn not_finite(&self, what: &str, index: usize, value: f64) -> String {
        let left = match self.folder.as_ref().and_then(RunFolder::last_saved) {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "there is no checkpoint yet".to_owned(),
        };
        format!(
            "training: the {what} of step {index} is {value}. Most often the learning rate is too high (lr = {:e}: try a tenth, or \
             warmup = 500), or gradients are not clipped (clip = {}); else a pixel or a condition is not a number. The step was \
             not taken; {left}.",
            self.config.lr, self.config.clip
        )
    }

    /// What can be done about it, if the device's memory is full.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(name) = out_of_memory(error.as_ref()) else {
            return error;
        };
        let (batch, accumulate) = (self.config.batch, self.config.accumulate);
        let wanted = format!("training with batch = {batch}");
        // The product must stay, and with it every step.
        let advice = match (2..=batch).find(|by| batch.is_multiple_of(*by)) {
            Some(by) => format!(
                "batch = {} with accumulate = {} makes the same steps with less memory",
                batch / by,
                accumulate * by
            ),
            None => "a smaller network or smaller images might fit".to_owned(),
        };
        anyhow::anyhow!("training: {}", too_little(name, &wanted, &advice))
    }

    fn step(&mut self) -> Result<Step> {
        let (index, began) = (self.progress.steps_done, Instant::now());
        let (losses, grads) = self.gradients(index)?;
        let mut loss = 0.0;
        for batch in &losses {
            loss += f64::from(batch.to_scalar::<f32>()?);
        }
        loss /= losses.len() as f64;
        if !loss.is_finite() {
            bail!(self.not_finite("loss", index, loss))
        }
        let (lr, share) = (self.rate(index), 1.0 / losses.len() as f64);
        let norm = self.optimizer.step(&grads, lr, self.config.clip, share)?;
        if !norm.is_finite() {
            bail!(self.not_finite("gradient's norm", index, norm))
        }
        let seconds = began.elapsed().as_secs_f64();
        Ok(self.taken(index, (loss, norm, lr), seconds))
    }

    /// The learning rate of step `index`.
    fn rate(&self, index: usize) -> f64 {
        let config = &self.config;
        config.lr * config.decay.share(index, self.total, config.warmup)
    }

    /// Enters a step that was taken, with its loss, norm and learning rate, in `seconds`.
    fn taken(
        &mut self,
        index: usize,
        (loss, grad_norm, lr): (f64, f64, f64),
        seconds: f64,
    ) -> Step {
        self.progress.seconds += seconds;
        self.progress.steps_done = index + 1;
        let step = Step {
            index,
            epoch: index / self.steps_per_epoch(),
            loss,
            lr,
            grad_norm,
            images_per_second: self.config.images_per_step() as f64 / seconds.max(1e-9),
            seconds: self.progress.seconds,
        };
        self.history.push(step);
        step
    }

    /// How many steps fit into the time that is left.
    fn estimate(&mut self) {
        let Some(deadline) = self.deadline else {
            return;
        };
        let recent = &self.history[self.history.len().saturating_sub(RECENT)..];
        if recent.is_empty() {
            return;
        }
        let images = self.config.images_per_step() as f64;
        let seconds = recent.iter().map(|step| images / step.images_per_second);
        let each = seconds.sum::<f64>() / recent.len() as f64;
        let left = deadline.saturating_duration_since(Instant::now());
        // A little is kept for the last checkpoint and the model.
        let steps = (0.99 * left.as_secs_f64() / each) as usize;
        let all = self.config.total_steps(self.data.len());
        self.total = self.progress.steps_done.saturating_add(steps).min(all);
    }

    /// The next step; on a CUDA device the next few, so that it need not wait for the host after each.
    fn steps(&mut self) -> Result<Vec<Step>> {
        #[cfg(feature = "cuda")]
        if let Some(mut on_device) = self.on_device.take() {
            let steps = self.steps_ahead(&mut on_device);
            if steps.is_err() {
                on_device.reset(&self.objective.device())?;
            }
            self.on_device = Some(on_device);
            return steps;
        }
        Ok(vec![self.step()?])
    }

    /// What follows steps: the log, the checkpoint, the samples, and the end.
    fn keep(&mut self, steps: &[Step]) -> Result<()> {
        let (done, per_epoch) = (self.progress.steps_done, self.steps_per_epoch());
        let (end, epoch_ends) = (done >= self.total, done.is_multiple_of(per_epoch));
        if self.folder.is_none() {
            return Ok(());
        }
        let (epochs, wanted) = (done / per_epoch, self.config.sample_every);
        if wanted > 0 && (end || epoch_ends && epochs.is_multiple_of(wanted)) {
            let n = self.config.samples;
            let samples = self
                .draw_samples(n)
                .with_context(|| format!("samples = {n}"))?;
            let columns = self.objective.sample_columns();
            if let (Some(samples), Some(folder)) = (samples, &mut self.folder) {
                folder.save_samples(epochs, &samples, columns)?;
            }
        }
        let due = match self.config.checkpoint_every {
            0 => epoch_ends,
            every => done.is_multiple_of(every),
        };
        if let Some(folder) = &mut self.folder {
            steps.iter().try_for_each(|step| folder.log(step))?;
        }
        if end {
            self.finish(State::Done)?;
        } else if due {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// The last checkpoint, and the model.
    fn finish(&mut self, state: State) -> Result<()> {
        self.state = state;
        let Some(path) = self.folder().map(|folder| folder.join("model.safetensors")) else {
            return Ok(());
        };
        self.checkpoint()?;
        let (seen, objective) = (self.images_seen(), &self.objective);
        self.optimizer.averaged(|| objective.save(&path, seen))
    }

    fn stop_requested(&self) -> bool {
        let by_file = || self.folder.as_ref().is_some_and(RunFolder::stop_requested);
        self.stop.load(Ordering::Relaxed) || by_file()
    }
}

/// What needs no objective in particular, but a device.
impl<O: Objective> Training<O> {
    /// The images with these indices, augmented: from the device's own memory, if they are there.
    fn batch(
        &self,
        indices: &[usize],
        flips: &[bool],
        within: std::ops::Range<usize>,
        device: &Device,
    ) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(resident) = self.on_device.as_ref().and_then(|it| it.images.as_ref()) {
            return Ok(resident.images(indices)?);
        }
        let _ = (flips, within);
        self.data.images(indices.iter().copied(), device)
    }

    /// Steps up to where something else is due, at most [`AHEAD`]; then the device reports how they went.
    #[cfg(feature = "cuda")]
    fn steps_ahead(&mut self, on_device: &mut OnDevice) -> Result<Vec<Step>> {
        let (first, began) = (self.progress.steps_done, Instant::now());
        let every = match self.config.checkpoint_every {
            0 => usize::MAX,
            every => every - first % every,
        };
        let per_epoch = self.steps_per_epoch();
        let count = AHEAD
            .min(per_epoch - first % per_epoch)
            .min(every)
            .min(self.total - first);
        let share = 1.0 / self.config.accumulate as f64;
        for index in first..first + count {
            let (losses, grads) = self.gradients(index)?;
            let loss = match losses.as_slice() {
                [loss] => loss.clone(),
                _ => Tensor::stack(&losses, 0)?.mean(0)?,
            };
            let (lr, clip) = (self.rate(index), self.config.clip);
            let Optimizer { adam, ema, .. } = &mut self.optimizer;
            adam.set_lr(lr)?;
            on_device.step(adam, ema.as_mut(), &grads, loss, clip, (share, index + 1))?;
        }
        let outcomes = on_device.outcomes()?;
        let seconds = began.elapsed().as_secs_f64() / count as f64;
        let mut steps = Vec::with_capacity(count);
        for (i, it) in outcomes.iter().enumerate() {
            let (index, norm) = (first + i, it.norm * share);
            if !it.taken {
                // Those after it have not been taken either.
                self.optimizer.uncount(outcomes.len() - i);
                if let Some(folder) = &mut self.folder {
                    steps.iter().try_for_each(|step| folder.log(step))?;
                }
                self.ahead.extend(steps);
                if !it.loss.is_finite() {
                    bail!(self.not_finite("loss", index, it.loss))
                }
                bail!(self.not_finite("gradient's norm", index, norm))
            }
            let lr = self.rate(index);
            steps.push(self.taken(index, (it.loss, norm, lr), seconds));
        }
        Ok(steps)
    }
}

impl<O: Objective> Iterator for Training<O> {
    type Item = Result<Step>;

    /// One step; `None` when all are done, when a stop was requested, and after an error.
    fn next(&mut self) -> Option<Result<Step>> {
        if let Some(step) = self.ahead.pop_front() {
            return Some(Ok(step));
        }
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        if self.state != State::Running {
            return None;
        }
        if self.stop_requested() {
            let failed = self.finish(State::Stopped).err();
            self.write_live(None);
            return failed.map(Err);
        }
        let steps = self.steps().map_err(|e| self.explained(e));
        let steps = steps.and_then(|steps| {
            self.estimate();
            self.keep(&steps)?;
            Ok(steps)
        });
        let steps = steps.map_err(crate::whole);
        if steps.is_err() {
            self.state = State::Failed;
        } else if self.progress.steps_done >= self.total {
            self.state = State::Done;
        }
        self.write_live(steps.as_ref().err().map(ToString::to_string).as_deref());
        match steps {
            Ok(steps) => self.ahead.extend(steps),
            Err(error) => self.failed = Some(error),
        }
        self.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Precision;
    use crate::unet::SimpleUNet;

    fn net(base: usize) -> SimpleUNet {
        SimpleUNet {
            channels: 3,
            base,
            groups: 2,
            ..Default::default()
        }
    }

    #[test]
    fn a_full_memory_names_the_batch_and_one_that_makes_the_same_steps() -> Result<()> {
        let sprites = Dataset::sprites(64, 1)?;
        let message = |batch, accumulate| -> Result<String> {
            let config = TrainingConfig {
                batch,
                accumulate,
                ..Default::default()
            };
            let training = Training::new(config, net(8), &sprites, &Device::Cpu)?;
            let full = r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#;
            let error = candle_core::Error::Msg(full.to_owned()).context("conv2d");
            Ok(training.explained(error.into()).to_string())
        };
        assert_eq!(
            message(32, 1)?,
            "training: the device has no memory left for training with batch = 32 (CUDA_ERROR_OUT_OF_MEMORY); batch = 16 with \
             accumulate = 2 makes the same steps with less memory"
        );
        assert!(message(15, 2)?.contains("batch = 5 with accumulate = 6"));
        assert!(message(1, 1)?.contains("smaller network"));
        Ok(())
    }

    /// In bf16 with weights of f32 the losses are those of f32, within 2 % over 500 steps, without scaling them.
    #[test]
    fn losses_in_bf16_follow_those_in_f32() -> Result<()> {
        let sprites = Dataset::sprites(256, 1)?.resize(8, crate::data::Resize::Bilinear)?;
        let losses = |precision| -> Result<Vec<f64>> {
            let config = TrainingConfig {
                epochs: 100,
                train_steps: 500,
                batch: 8,
                lr: 1e-3,
                precision,
                ..Default::default()
            };
            let training = Training::new(config, net(4), &sprites, &Device::Cpu)?;
            training.map(|step| Ok(step?.loss)).collect()
        };
        let (f32s, bf16s) = (losses(Precision::F32)?, losses(Precision::Bf16)?);
        assert_eq!((f32s.len(), bf16s.len()), (500, 500));
        for (i, (a, b)) in f32s.chunks(50).zip(bf16s.chunks(50)).enumerate() {
            let (a, b): (f64, f64) = (a.iter().sum(), b.iter().sum());
            assert!((b / a - 1.0).abs() < 0.02, "from step {}: {a}, {b}", 50 * i);
        }
        assert_ne!(f32s, bf16s);
        assert!(f32s[450..].iter().sum::<f64>() < 0.5 * f32s[..50].iter().sum::<f64>());
        Ok(())
    }
}
