//! The training loop, as an iterator of its steps.

use super::checkpoint::{Progress, read, run_of, write};
use super::folder::{self, Existing, Resumed, RunFolder, Unusable, WHAT_TO_DO};
use super::live::live_state;
use super::report::{self, Report};
use super::sampling::{Interrupted, Sampling};
use super::step::{State, Step, recent_mean};
use super::steps::{NotFinite, Steps, Taken};
use super::{Diffusion, Objective, TrainingConfig, validation};
use crate::data::{Dataset, Source};
use crate::model::Model;
use crate::nn::Checkpoint;
use crate::show::{LiveState, Plot};
use crate::unet::{Architecture, Network};
use anyhow::{Context, Error, Result};
use candle_core::{Device, Tensor};
use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The random stream of samples; those of the steps count from 1.
const SAMPLES: u64 = u64::MAX;

/// How often the live page's file is written.
const LIVE_EVERY: Duration = Duration::from_millis(500);

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

    /// Keeps everything in a folder, and resumes from its newest whole checkpoint if it has one.
    ///
    /// # Errors
    /// The folder holds the run of another configuration or of other data, or checkpoints none of which can be used; another
    /// program is training in it; or it cannot be written. A run that is there stays as it is.
    pub fn in_folder(self, folder: impl AsRef<Path>) -> Result<Self> {
        self.in_folder_with(folder, Existing::Resume)
    }

    /// [`Training::in_folder`], with what is to be done about a run that is there.
    ///
    /// # Errors
    /// As [`Training::in_folder`].
    pub fn in_folder_with(mut self, folder: impl AsRef<Path>, existing: Existing) -> Result<Self> {
        let mut run = self.steps.objective.describe()?;
        let source = self.source.clone().unwrap_or_default();
        run.insert("data".to_owned(), toml::Value::try_from(source)?);
        run.insert("training".to_owned(), toml::Value::try_from(&self.steps.config)?);
        self.run = run.clone();
        let mut folder = RunFolder::open(folder.as_ref(), existing)?;
        folder.check(&run, self.source.is_some())?;
        self.resumed = folder.newest(|file| {
            let changed = self.load(file, &run, existing == Existing::NewData)?;
            Ok((self.progress.steps_done, changed))
        })?;
        folder.begin(&run, &self.steps.objective.device(), self.resumed.as_ref())?;
        self.history = folder.history(self.progress.steps_done)?;
        if let Some(resumed) = &mut self.resumed {
            resumed.unlogged = self.progress.steps_done - self.history.len();
        }
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
            .and_then(|file| Ok(self.load(&file, &toml::Table::new(), false)?))
            .with_context(|| format!("cannot go back to {}", path.display()))
            .map_err(crate::whole)?;
        Ok(self)
    }

    /// After how many steps the folder of a run has checkpoints for [`Training::at_checkpoint`], in order; none where there is
    /// no such folder.
    pub fn checkpoints(folder: impl AsRef<Path>) -> Vec<usize> {
        folder::steps_of_checkpoints(folder.as_ref())
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

    /// Resumes from a checkpoint of the run with this configuration, or of one before configurations were in checkpoints.
    /// Returns what has changed since, of what may. Nothing is changed unless all of it fits.
    fn load(&mut self, file: &Checkpoint, run: &toml::Table, any_data: bool) -> Result<Vec<String>, Unusable> {
        let progress = Progress::of(file).map_err(Unusable::Damaged)?;
        let mut changed = Vec::new();
        if let Some(then) = run_of(file).map_err(Unusable::Damaged)? {
            changed = folder::changes(&then, run, self.source.is_some()).map_err(Unusable::Other)?;
        }
        if let Some(change) = progress.data_changed(&self.progress) {
            let name = self.steps.data.name();
            if !any_data {
                let problem = anyhow::anyhow!(
                    "{name} is not the data that its run was trained on: {change}; go on with this data (--new-data; in Rust \
                     Existing::NewData), {WHAT_TO_DO}"
                );
                return Err(Unusable::Other(problem));
            }
            changed.push(format!("{name}: {change}"));
        }
        read(file, &mut self.steps.objective, &mut self.steps.optimiser).map_err(Unusable::Damaged)?;
        let Progress { steps_done, seconds, .. } = progress;
        self.progress = Progress { steps_done, seconds, ..self.progress.clone() };
        if self.progress.steps_done >= self.total {
            self.state = State::Done;
        }
        Ok(changed)
    }

    /// Samples with the EMA weights; none if they give way to a stop and it is requested meanwhile.
    fn draw_samples(&mut self, n: usize, give_way: bool) -> Result<Option<Tensor>> {
        let Self { steps, stop, folder, lines, .. } = self;
        let Steps { objective, optimiser, data, rng, .. } = steps;
        let mut watch = |share: f64| {
            if let Some(lines) = lines {
                lines.sampling(share);
            }
            let asked = || stop.load(Ordering::Relaxed) || folder.as_ref().is_some_and(RunFolder::stop_requested);
            if give_way && asked() { Err(Error::new(Interrupted)) } else { Ok(()) }
        };
        let samples = optimiser.averaged(|| objective.samples(n, data, &mut rng.fork(SAMPLES), &mut watch));
        match samples {
            Err(problem) if problem.is::<Interrupted>() => Ok(None),
            samples => samples,
        }
    }

    /// The grid of samples after `epochs` epochs, if there is time for it.
    fn show_samples(&mut self, epochs: usize) -> Result<()> {
        let (n, share) = (self.steps.config.samples, self.steps.config.sample_share);
        let seconds = self.grid_seconds();
        if !self.sampling.fits(share, seconds, self.progress.seconds) {
            self.sampling.left_out(seconds);
            return Ok(());
        }
        let began = Instant::now();
        let samples = self.draw_samples(n, true).with_context(|| format!("samples = {n}"))?;
        let columns = self.steps.objective.sample_columns().min(n);
        if let (Some(samples), Some(folder)) = (samples, &mut self.folder) {
            folder.save_samples(epochs, &samples, columns)?;
            self.sampling.drew(began.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// How long a grid of samples takes: as long as the last one, or as an evaluation of the network takes a third of a step.
    fn grid_seconds(&self) -> f64 {
        let TrainingConfig { samples, sample_steps, .. } = self.steps.config;
        let image = recent_mean(&self.history, |step| 1.0 / step.images_per_second).unwrap_or(0.0);
        self.sampling.last.unwrap_or(samples as f64 * sample_steps as f64 * image / 3.0)
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

    /// With a deadline: how many steps fit into the time that is left.
    fn estimate(&mut self) {
        let images = self.steps.config.images_per_step() as f64;
        let each = recent_mean(&self.history, |step| images / step.images_per_second);
        if let (Some(deadline), Some(each)) = (self.deadline, each) {
            let left = deadline.saturating_duration_since(Instant::now());
            let config = &self.steps.config;
            let grid = match config.sample_every > 0 && self.folder.is_some() {
                true => Some(self.grid_seconds()),
                false => None,
            };
            let grid = grid.filter(|grid| self.sampling.fits(config.sample_share, *grid, self.progress.seconds));
            // A little is kept for the last checkpoint and the model.
            let steps = ((0.99 * left.as_secs_f64() - grid.unwrap_or(0.0)).max(0.0) / each) as usize;
            let all = self.steps.config.total_steps(self.steps.data.len());
            self.total = self.progress.steps_done.saturating_add(steps).min(all);
        }
    }

    /// What follows steps: the log, the checkpoint, the end, and the samples.
    fn keep(&mut self, steps: &[Step]) -> Result<()> {
        let (done, per_epoch) = (self.progress.steps_done, self.steps_per_epoch());
        let (end, epoch_ends) = (done >= self.total, done.is_multiple_of(per_epoch));
        if (end || epoch_ends)
            && let Some(held_out) = &self.held_out
            && let Some(loss) = validation::measure(&mut self.steps, held_out)?
        {
            self.validation = Some(loss);
            if let Some(folder) = &self.folder {
                folder.log_validation(validation::Measured { steps: done, loss })?;
            }
        }
        let Some(folder) = &mut self.folder else {
            return Ok(());
        };
        steps.iter().try_for_each(|step| folder.log(step))?;
        let due = match self.steps.config.checkpoint_every {
            0 => epoch_ends,
            every => done.is_multiple_of(every),
        };
        if end {
            self.finish(State::Done)?;
        } else if due {
            self.checkpoint()?;
        }
        let (epochs, wanted) = (done / per_epoch, self.steps.config.sample_every);
        if wanted > 0 && (end || epoch_ends && epochs.is_multiple_of(wanted)) {
            self.show_samples(epochs)?;
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
        let seen = self.images_seen();
        let Steps { objective, optimiser, .. } = &mut self.steps;
        optimiser.averaged(|| objective.save(&path, seen))
    }

    /// Writes the state for the live page, if there is one: twice a second, and at the end.
    fn write_live(&mut self, problem: Option<&str>) {
        let due = self.live_written.is_none_or(|at| at.elapsed() >= LIVE_EVERY);
        if due || self.state != State::Running {
            let images = self.steps.config.images_per_step();
            let counts = (self.progress.steps_done, self.total, self.steps_per_epoch(), images);
            if let Some(folder) = &self.folder {
                folder.write_live(|| LiveState {
                    message: problem.unwrap_or_default().to_owned(),
                    lr: self.history.last().map_or(self.steps.config.lr, |step| step.lr),
                    ..live_state(self.state, &self.history, counts, folder.last_samples())
                });
            }
            self.live_written = Some(Instant::now());
        }
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
