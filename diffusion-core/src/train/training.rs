//! The training loop, as an iterator of its steps.

mod keep;
mod resume;

use super::checkpoint::{Progress, write};
use super::folder::{Resumed, RunFolder};
use super::report::{self, Report};
use super::sampling::Sampling;
use super::step::{State, Step, recent_mean};
use super::steps::{NotFinite, Steps, Taken};
use super::{Diffusion, Objective, TrainingConfig};
use crate::data::{Dataset, Source};
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
    steps: Steps<O>,
    progress: Progress,
    total: usize,
    history: Vec<Step>,
    state: State,
    folder: Option<RunFolder>,
    /// The configuration of the run, as in its folder.
    run: toml::Table,
    source: Option<Source>,
    /// Images to measure the loss on, and what was measured last.
    held_out: Option<Dataset>,
    validation: Option<f64>,
    resumed: Option<Resumed>,
    stop: Arc<AtomicBool>,
    deadline: Option<Instant>,
    /// After how many steps this session stops.
    stop_after: Option<usize>,
    sampling: Sampling,
    /// The lines that say how far it is, while [`Training::run`] runs.
    lines: Option<report::Lines>,
    /// When the live page was last written.
    live_written: Option<Instant>,
    /// Steps that are taken but not yielded: a CUDA device takes several before it reports.
    ahead: VecDeque<Step>,
    /// What ended it, to be yielded after them.
    failed: Option<anyhow::Error>,
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
        &self.steps.objective.model().network
    }

    /// A copy of the model with the EMA weights, which make better images than the raw weights.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn averaged_model(&mut self) -> Result<Model> {
        let Steps { objective, optimiser, .. } = &mut self.steps;
        let mut model = optimiser.averaged(|| objective.model.copy())?;
        model.info.images_seen = self.images_seen();
        Ok(model)
    }

    /// The model with the EMA weights, at the end of its training.
    ///
    /// # Errors
    /// There is no memory.
    pub fn into_model(mut self) -> Result<Model> {
        self.steps.objective.model.info.images_seen = self.images_seen();
        if let Some(ema) = &mut self.steps.optimiser.ema {
            ema.apply()?;
        }
        Ok(self.steps.objective.model)
    }

    /// Images made with the EMA weights: `n` of them, of all classes in turn, always from the same noise.
    ///
    /// # Shapes
    /// (n, C, H, W), nominally in \[−1, 1\].
    ///
    /// # Errors
    /// `n` = 0, or there is no memory.
    pub fn samples(&mut self, n: usize) -> Result<Tensor> {
        self.draw_samples(n, false)?.context("no samples")
    }
}

impl<O: Objective> Training<O> {
    /// The training of an objective, which has not begun. Of `config` it takes what belongs to the loop: seed, epochs,
    /// batches, learning rate, clipping, averaging, checkpoints, samples.
    ///
    /// # Errors
    /// A value of `config` is out of its range, there are fewer images than a step takes, or nothing to train.
    pub fn with_objective(config: TrainingConfig, objective: O, data: &Dataset) -> Result<Self> {
        let steps = Steps::new(config, objective, data)?;
        let total = steps.config.total_steps(data.len());
        Ok(Self {
            steps,
            progress: Progress { steps_done: 0, seconds: 0.0, data: data.fingerprint(), facts: Some(data.facts()) },
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

    /// Where the data came from, to be written into `config.toml`; before [`Training::in_folder`].
    pub fn source(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }

    /// Measures the loss on up to 256 images of `held_out` at the end of each epoch, with the averaged weights, always at the same
    /// times and with the same noise; in a folder it is kept in `validation.jsonl`.
    ///
    /// # Errors
    /// The images are not of the shape of those that are trained on.
    pub fn validate_on(mut self, held_out: Dataset) -> Result<Self> {
        let (shape, wanted) = (held_out.shape(), self.data().shape());
        anyhow::ensure!(
            shape == wanted,
            "the held-out images are of shape {shape:?}, those of the training {wanted:?}"
        );
        self.held_out = Some(held_out);
        Ok(self)
    }

    /// The loss on the images of [`Training::validate_on`] at the end of the last epoch of this session.
    pub fn validation_loss(&self) -> Option<f64> {
        self.validation
    }

    /// From where it resumed, and which checkpoints could not be used; `None` if it begins.
    pub fn resumed(&self) -> Option<&Resumed> {
        self.resumed.as_ref()
    }

    /// The numbers it was made with.
    pub fn config(&self) -> &TrainingConfig {
        &self.steps.config
    }

    /// What it minimises.
    pub fn objective(&self) -> &O {
        &self.steps.objective
    }

    /// The folder it keeps.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(RunFolder::path)
    }

    /// The data it is trained on.
    pub fn data(&self) -> &Dataset {
        &self.steps.data
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
        self.steps.config.steps_per_epoch(self.steps.data.len())
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

    /// Stops, with a checkpoint, once `steps` steps are done in all, those of earlier sessions included. Unlike
    /// [`TrainingConfig::train_steps`] this is of this session alone: neither the learning rate's decay nor a later session
    /// knows of it.
    pub fn stop_after(&mut self, steps: usize) {
        self.stop_after = Some(steps);
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
        if let Some(resumed) = &self.resumed {
            let _ = write!(std::io::stdout(), "{resumed}");
        }
        // How many steps there will be is not known if it ends at a time.
        let total = self.deadline.map_or(self.until(), |_| 0);
        // The progress bar counts the time of the samples, too; the report counts that of the steps alone.
        let label = match self.folder.is_some() && self.steps.config.sample_every > 0 {
            true => "training and sampling",
            false => "training",
        };
        self.lines = Some(report::Lines::new(label, total, self.progress.steps_done));
        while let Some(step) = self.next() {
            let (losses, deadline) = ((self.loss(), self.validation), self.deadline);
            match (step, &mut self.lines) {
                (Ok(step), Some(lines)) => lines.step(&step, losses, deadline),
                (step, lines) => {
                    *lines = None;
                    step?;
                }
            }
        }
        if let Some(lines) = self.lines.take() {
            lines.finish();
        }
        if let Some(note) = self.sampling.note(self.steps.config.sample_share) {
            let _ = writeln!(std::io::stdout(), "{note}");
        }
        Ok(self.report())
    }

    /// How it stands.
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

    /// The mean loss of the last 50 steps, or of all if there were fewer; not a number before the first.
    pub fn loss(&self) -> f64 {
        recent_mean(&self.history, |step| step.loss).unwrap_or(f64::NAN)
    }

    /// The mean loss of each epoch that was finished.
    pub fn epoch_losses(&self) -> Vec<f64> {
        report::epoch_losses(&self.history, self.steps_per_epoch())
    }

    /// The loss over the steps: each, and the mean of each fiftieth part of them.
    pub fn loss_curve(&self) -> Plot {
        report::loss_curve(&self.history)
    }

    /// Saves a checkpoint now; in a folder this happens by itself, as the configuration says. Returns its path.
    ///
    /// # Errors
    /// The training keeps no folder, or the file cannot be written.
    pub fn checkpoint(&mut self) -> Result<PathBuf> {
        let file = write(&self.steps.objective, &self.steps.optimiser, &self.progress, &self.run)?;
        let (done, keep) = (self.progress.steps_done, self.steps.config.keep);
        let folder = self.folder.as_mut();
        folder
            .context("this training keeps no folder: begin it with in_folder(path)")?
            .save_checkpoint(done, &file, keep)
    }

    pub(super) fn images_seen(&self) -> u64 {
        self.progress.steps_done as u64 * self.steps.config.images_per_step() as u64
    }

    /// The next step or steps; what kept a further one from being taken is the error, after the steps have been entered.
    fn advance(&mut self) -> Result<Vec<Step>> {
        let (taken, failed) = self.steps.take(self.progress.steps_done, self.total, self.until());
        let steps: Vec<Step> = taken.iter().map(|taken| self.enter(taken)).collect();
        let Some(error) = failed else {
            self.estimate();
            self.keep(&steps)?;
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

    /// Enters a step that was taken.
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
        };
        self.history.push(step);
        step
    }

    fn stop_requested(&self) -> bool {
        let by_file = || self.folder.as_ref().is_some_and(RunFolder::stop_requested);
        self.progress.steps_done >= self.until() || self.stop.load(Ordering::Relaxed) || by_file()
    }

    /// After how many steps this session ends.
    fn until(&self) -> usize {
        self.stop_after.map_or(self.total, |steps| steps.min(self.total))
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
