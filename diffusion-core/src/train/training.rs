//! The training loop, as an iterator over its steps.

mod keep;
mod resume;

use super::checkpoint::{Progress, write};
use super::folder::{Resumed, RunFolder};
use super::report::{self, Report};
use super::sampling::Sampling;
use super::step::{State, Step, recent_mean};
use super::steps::{NotFinite, Steps, Taken};
use super::validation::HeldOut;
use super::{Diffusion, ModelObjective, Objective, TrainingConfig};
use crate::data::{Dataset, Source};
use crate::device::used_memory;
use crate::model::Model;
use crate::show::Plot;
use crate::unet::{Architecture, Network};
use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Trains an [`Objective`] on a data set: an iterator over [`Step`]s. By default the objective is [`Diffusion`].
///
/// Each step draws its images, augmentations, times, noise and dropped conditions from its own random stream, which is
/// determined by the seed and the index of the step. A resumed run is therefore identical to the bit to an
/// uninterrupted one.
///
/// In a folder ([`Training::in_folder`]) it writes `config.toml`, `log.jsonl` with a line for each step, `samples`,
/// `checkpoints`, and at the end `model.safetensors` with the EMA weights, which
/// [`Model::load`](crate::model::Model::load) reads.
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
    steps: Steps<O>,
    progress: Progress,
    total: usize,
    history: Vec<Step>,
    state: State,
    folder: Option<RunFolder>,
    /// The configuration of the run, as in its folder.
    run: toml::Table,
    source: Option<Source>,
    held_out: Option<HeldOut>,
    /// The last loss on held-out images.
    validation: Option<f64>,
    resumed: Option<Resumed>,
    stop: Arc<AtomicBool>,
    deadline: Option<Instant>,
    /// The number of steps after which this session stops.
    stop_after: Option<usize>,
    sampling: Sampling,
    /// The progress lines, during [`Training::run`].
    lines: Option<report::Lines>,
    /// When the live page was last updated.
    live_written: Option<Instant>,
    /// Steps that were taken but not yet yielded, since a CUDA device takes several before it reports.
    ahead: VecDeque<Step>,
    /// The error that ended the run, yielded after those steps.
    failed: Option<anyhow::Error>,
}

impl Training {
    /// Creates a training run for a new diffusion model.
    ///
    /// # Errors
    /// A value of `config` or of the architecture is out of range; the images do not fit the network, or are fewer than
    /// a batch; or the network's number of classes differs from that of the data.
    pub fn new(
        config: TrainingConfig,
        architecture: impl Into<Architecture>,
        data: &Dataset,
        device: &Device,
    ) -> Result<Self> {
        let objective = Diffusion::new(&config, architecture, data, device)?;
        Self::with_objective(config, objective, data)
    }
}

impl<O: ModelObjective> Training<O> {
    /// The network with its raw weights, without EMA.
    pub fn network(&self) -> &Network {
        &self.steps.objective.model().network
    }

    /// A copy of the model with the EMA weights, which give better images than the raw weights.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn averaged_model(&mut self) -> Result<Model> {
        let Steps { objective, optimiser, .. } = &mut self.steps;
        let mut model = optimiser.averaged(|| objective.model().copy())?;
        model.info.images_seen = self.images_seen();
        Ok(model)
    }

    /// Converts the training run into its model with the EMA weights.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn into_model(self) -> Result<Model> {
        let images_seen = self.images_seen();
        let mut model = self.into_objective()?.into_model();
        model.info.images_seen = images_seen;
        Ok(model)
    }

    /// Samples `n` images with the EMA weights, with all classes in turn and always from the same noise.
    ///
    /// # Shapes
    /// (n, C, H, W), nominally in \[−1, 1\].
    ///
    /// # Errors
    /// `n` = 0, or there is not enough memory.
    pub fn samples(&mut self, n: usize) -> Result<Tensor> {
        self.draw_samples(n, false)?.context("no samples")
    }
}

impl<O: Objective> Training<O> {
    /// Creates a training run for an objective. It uses the fields of `config` that concern the loop: seed, epochs,
    /// batches, learning rate, clipping, EMA, checkpoints, samples.
    ///
    /// # Errors
    /// A value of `config` is out of range, there are fewer images than a step takes, or there are no parameters.
    pub fn with_objective(config: TrainingConfig, objective: O, data: &Dataset) -> Result<Self> {
        let steps = Steps::new(config, objective, data)?;
        let total = steps.config.total_steps(data.len());
        Ok(Self {
            steps,
            progress: Progress { steps_done: 0, seconds: 0.0, data: data.fingerprint()?, facts: Some(data.facts()) },
            total,
            history: Vec::new(),
            state: State::Running,
            folder: None,
            run: toml::Table::new(),
            source: None,
            held_out: None,
            validation: None,
            resumed: None,
            stop: Arc::default(),
            deadline: None,
            stop_after: None,
            sampling: Sampling::default(),
            lines: None,
            live_written: None,
            ahead: VecDeque::new(),
            failed: None,
        })
    }

    /// Records the source of the data for `config.toml`; call it before [`Training::in_folder`].
    pub fn source(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }

    /// Measures the loss on up to 256 held-out images every [`TrainingConfig::validate_every`] steps and at the end:
    /// [`Step::validation_loss`]. It changes nothing else: the weights are the same to the bit as without it.
    ///
    /// It is the loss of the raw weights, as the training loss is, so that a gap between the two curves is overfitting.
    /// EMA weights lag behind by up to 1/(1 − d) steps at decay d; the loss of their predictions would be above that of
    /// the training images at first, and below it later. Images, times and noise are the same in every measurement and
    /// do not depend on the seed, so that the curve is smooth, and curves of runs with the same data can be compared.
    ///
    /// # Errors
    /// The images do not have the shape of the training images.
    pub fn validate_on(mut self, held_out: Dataset) -> Result<Self> {
        let (shape, wanted) = (held_out.shape(), self.data().shape());
        anyhow::ensure!(
            shape == wanted,
            "the held-out images have shape {shape:?}, but the training images {wanted:?}"
        );
        self.held_out = Some(HeldOut::new(held_out, self.config()));
        Ok(self)
    }

    /// The number of steps between two measurements of the validation loss; 0 if it is not measured.
    pub fn validate_every(&self) -> usize {
        self.held_out.as_ref().map_or(0, |held_out| held_out.every)
    }

    /// The last loss on the images of [`Training::validate_on`].
    pub fn validation_loss(&self) -> Option<f64> {
        self.validation
    }

    /// Where the run resumed, and which checkpoints could not be used; `None` for a new run.
    pub fn resumed(&self) -> Option<&Resumed> {
        self.resumed.as_ref()
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &TrainingConfig {
        &self.steps.config
    }

    /// The objective.
    pub fn objective(&self) -> &O {
        &self.steps.objective
    }

    /// Converts the training run into its objective with the EMA weights.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn into_objective(mut self) -> Result<O> {
        if let Some(ema) = &mut self.steps.optimiser.ema {
            ema.apply()?;
        }
        Ok(self.steps.objective)
    }

    /// The folder of the run, if it has one.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(RunFolder::path)
    }

    /// The newest grid of samples that this session has saved.
    pub fn last_samples(&self) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        Some(folder.path().join(folder.last_samples()?))
    }

    /// The training data.
    pub fn data(&self) -> &Dataset {
        &self.steps.data
    }

    /// All steps so far, including those of earlier sessions.
    pub fn history(&self) -> &[Step] {
        &self.history
    }

    /// The total number of optimiser steps.
    pub fn total_steps(&self) -> usize {
        self.total
    }

    /// The number of optimiser steps in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.steps.config.steps_per_epoch(self.steps.data.len())
    }

    /// The state of the run: whether it is running, and if not, why.
    pub fn state(&self) -> State {
        self.state
    }

    /// A flag that stops training before the next step, with a checkpoint, when it is set to true, for example from
    /// another thread.
    pub fn stopper(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Limits the training to the time `limit` from now. After each step the number of steps that fit is estimated
    /// again, and the learning-rate decay follows it, so the result depends on the machine. There are never more steps
    /// than those of all epochs.
    pub fn end_within(&mut self, limit: Duration) {
        // A time beyond the range of the clock is no limit.
        self.deadline = Instant::now().checked_add(limit);
    }

    /// Stops with a checkpoint after `steps` steps in all, including those of earlier sessions. Unlike
    /// [`TrainingConfig::train_steps`] it applies to this session only: it affects neither the learning-rate decay nor
    /// later sessions.
    pub fn stop_after(&mut self, steps: usize) {
        self.stop_after = Some(steps);
    }

    /// The end of training, if it was set by [`Training::end_within`].
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Takes all steps, printing the progress, and reports the result.
    ///
    /// # Errors
    /// A step failed, or a file could not be written.
    pub fn run(&mut self) -> Result<Report> {
        self.run_with(|_, _| {})
    }

    /// Does what [`Training::run`] does, and calls `each` after every step, for example to write a log of one's own.
    ///
    /// A CUDA device takes several steps before it reports the first of them. `each` then sees the training as it is
    /// after the last one.
    ///
    /// # Errors
    /// See [`Training::run`].
    pub fn run_with(&mut self, mut each: impl FnMut(&Self, &Step)) -> Result<Report> {
        if let Some(resumed) = &self.resumed {
            let _ = write!(std::io::stdout(), "{resumed}");
        }
        // With a time limit the number of steps is not known.
        let total = self.deadline.map_or(self.until(), |_| 0);
        // The progress bar includes the time of the samples; the report counts the steps only.
        let label = match self.folder.is_some() && self.steps.config.sample_every > 0 {
            true => "training and sampling",
            false => "training",
        };
        self.lines = Some(report::Lines::new(label, total, self.progress.steps_done));
        while let Some(step) = self.next() {
            let (losses, deadline) = ((self.loss(), self.validation), self.deadline);
            let step = step.inspect_err(|_| self.lines = None)?;
            if let Some(lines) = &mut self.lines {
                lines.step(&step, losses, used_memory(&self.steps.objective.device()), deadline);
            }
            each(self, &step);
        }
        if let Some(lines) = self.lines.take() {
            lines.finish();
        }
        if let Some(note) = self.sampling.note(self.steps.config.sample_share) {
            let _ = writeln!(std::io::stdout(), "{note}");
        }
        Ok(self.report())
    }

    /// Reports the current state.
    pub fn report(&self) -> Report {
        let folder = self.folder().map(Into::into);
        let Progress { steps_done, seconds, .. } = self.progress;
        Report {
            state: self.state,
            steps: steps_done,
            total: self.total,
            loss: self.loss(),
            validation: self.validation,
            seconds,
            folder,
        }
    }

    /// The mean loss over the last 50 steps (all, if there are fewer); NaN before the first.
    pub fn loss(&self) -> f64 {
        recent_mean(&self.history, |step| step.loss).unwrap_or(f64::NAN)
    }

    /// The mean loss of each complete epoch.
    pub fn epoch_losses(&self) -> Vec<f64> {
        report::epoch_losses(&self.history, self.steps_per_epoch())
    }

    /// The loss curve: each step's loss, the means over 50 equal parts, and the validation loss where it was measured.
    pub fn loss_curve(&self) -> Plot {
        report::loss_curve(&self.history)
    }

    /// Saves a checkpoint now and returns its path. In a folder, checkpoints are saved automatically as configured.
    ///
    /// # Errors
    /// The run has no folder, or the file cannot be written.
    pub fn checkpoint(&mut self) -> Result<PathBuf> {
        let file = write(&self.steps.objective, &self.steps.optimiser, &self.progress, &self.run)?;
        let (done, keep) = (self.progress.steps_done, self.steps.config.keep);
        let folder = self.folder.as_mut();
        folder
            .context("this training run has no folder; give it one with in_folder(path)")?
            .save_checkpoint(done, &file, keep)
    }

    pub(super) fn images_seen(&self) -> u64 {
        self.progress.steps_done as u64 * self.steps.config.images_per_step() as u64
    }

    /// Takes the next step or steps. The error that prevents a further one is returned after the steps have been
    /// recorded.
    fn advance(&mut self) -> Result<Vec<Step>> {
        let (taken, failed) = self.steps.take(self.progress.steps_done, self.total, self.next_due());
        let mut steps: Vec<Step> = taken.iter().map(|taken| self.enter(taken)).collect();
        let Some(error) = failed else {
            self.estimate();
            self.keep(&mut steps)?;
            return Ok(steps);
        };
        if let Some(folder) = &mut self.folder {
            steps.iter().try_for_each(|step| folder.log(step))?;
        }
        self.ahead.extend(steps);
        let left = match self.folder.as_ref().and_then(RunFolder::last_saved) {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "there is no checkpoint yet".to_owned(),
        };
        Err(match error.downcast_ref::<NotFinite>() {
            Some(problem) => anyhow::anyhow!("{problem}; {left}."),
            None => error,
        })
    }

    /// Records a step that was taken.
    fn enter(&mut self, taken: &Taken) -> Step {
        let index = self.progress.steps_done;
        self.progress.seconds += taken.seconds;
        self.progress.steps_done += 1;
        let step = Step {
            index,
            epoch: index / self.steps_per_epoch(),
            loss: taken.loss,
            lr: taken.lr,
            grad_norm: taken.grad_norm,
            images_per_second: self.steps.config.images_per_step() as f64 / taken.seconds.max(1e-9),
            seconds: self.progress.seconds,
            validation_loss: None,
        };
        self.history.push(step);
        step
    }

    fn stop_requested(&self) -> bool {
        let by_file = || self.folder.as_ref().is_some_and(RunFolder::stop_requested);
        self.progress.steps_done >= self.until() || self.stop.load(Ordering::Relaxed) || by_file()
    }

    /// The number of steps after which this session ends.
    fn until(&self) -> usize {
        self.stop_after.map_or(self.total, |steps| steps.min(self.total))
    }
}

impl<O: Objective> Iterator for Training<O> {
    type Item = Result<Step>;

    /// Takes one step; `None` when all are done, after a stop request, and after an error.
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
        let steps = self.advance().map_err(crate::whole);
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
