//! What happens after a step: log, checkpoints, validation loss, samples, live page, end.

use super::super::folder::RunFolder;
use super::super::live::live_state;
use super::super::sampling::Interrupted;
use super::super::step::recent_mean;
use super::super::steps::Steps;
use super::{Objective, State, Step, Training, TrainingConfig};
use crate::device::used_memory;
use crate::show::LiveState;
use anyhow::{Context, Error, Result};
use candle_core::Tensor;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The random stream of samples; those of steps count from 1.
const SAMPLES: u64 = u64::MAX;

/// How often the live page's file is updated.
const LIVE_EVERY: Duration = Duration::from_millis(500);

impl<O: Objective> Training<O> {
    /// Samples images with the EMA weights; with `give_way`, `None` if a stop is requested meanwhile.
    pub(super) fn draw_samples(&mut self, n: usize, give_way: bool) -> Result<Option<Tensor>> {
        let Self { steps, stop, folder, lines, .. } = self;
        let Steps { objective, optimiser, data, rng, .. } = steps;
        let mut watch = |share: f64| {
            if let Some(lines) = lines {
                lines.sampling(share);
            }
            let requested = || stop.load(Ordering::Relaxed) || folder.as_ref().is_some_and(RunFolder::stop_requested);
            if give_way && requested() { Err(Error::new(Interrupted)) } else { Ok(()) }
        };
        let samples = optimiser.averaged(|| objective.samples(n, data, &mut rng.fork(SAMPLES), &mut watch));
        match samples {
            Err(problem) if problem.is::<Interrupted>() => Ok(None),
            samples => samples,
        }
    }

    /// Draws and saves the grid of samples after `epochs` epochs, if there is time for it.
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

    /// Estimates the time of a grid of samples from the last one, or else from a third of a step per network
    /// evaluation.
    fn grid_seconds(&self) -> f64 {
        let TrainingConfig { samples, sample_steps, .. } = self.steps.config;
        let image = recent_mean(&self.history, |step| 1.0 / step.images_per_second).unwrap_or(0.0);
        self.sampling.last.unwrap_or(samples as f64 * sample_steps as f64 * image / 3.0)
    }

    /// Estimates how many steps fit before the deadline, if there is one.
    pub(super) fn estimate(&mut self) {
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
            let (measurement, every) = self.held_out.as_ref().map_or((0.0, 0), |it| (it.seconds, it.every));
            let each = each + if every > 0 { measurement / every as f64 } else { 0.0 };
            // A little time is reserved for the last checkpoint and the model.
            let left = 0.99 * left.as_secs_f64() - grid.unwrap_or(0.0) - measurement;
            let steps = (left.max(0.0) / each) as usize;
            let all = self.steps.config.total_steps(self.steps.data.len());
            self.total = self.progress.steps_done.saturating_add(steps).min(all);
        }
    }

    /// The number of steps after which something is due next: a checkpoint, a measurement, the end of the epoch or of
    /// the session.
    pub(super) fn next_due(&self) -> usize {
        let done = self.progress.steps_done;
        let every = [self.steps_per_epoch(), self.steps.config.checkpoint_every, self.validate_every()];
        let next = every.into_iter().filter(|every| *every > 0).map(|every| done - done % every + every);
        next.fold(self.until(), usize::min)
    }

    /// Does what is due after steps: validation loss, log, checkpoint, end, samples.
    pub(super) fn keep(&mut self, steps: &mut [Step]) -> Result<()> {
        let (done, per_epoch) = (self.progress.steps_done, self.steps_per_epoch());
        let (end, epoch_ends) = (done >= self.total, done.is_multiple_of(per_epoch));
        if let Some(held_out) = self.held_out.as_mut().filter(|held_out| held_out.due(done, end))
            && let Some(loss) = held_out
                .measure(&mut self.steps.objective, self.steps.config.batch)
                .context("the loss on held-out images")?
        {
            self.validation = Some(loss);
            for last in self.history.last_mut().into_iter().chain(steps.last_mut()) {
                last.validation_loss = self.validation;
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

    /// Writes the last checkpoint and the model.
    pub(super) fn finish(&mut self, state: State) -> Result<()> {
        self.state = state;
        let Some(path) = self.folder().map(|folder| folder.join("model.safetensors")) else {
            return Ok(());
        };
        self.checkpoint()?;
        let seen = self.images_seen();
        let Steps { objective, optimiser, .. } = &mut self.steps;
        optimiser.averaged(|| objective.save(&path, seen))
    }

    /// Updates the state for the live page, if there is one: twice a second, and at the end.
    pub(super) fn write_live(&mut self, problem: Option<&str>) {
        let due = self.live_written.is_none_or(|at| at.elapsed() >= LIVE_EVERY);
        if due || self.state != State::Running {
            let images = self.steps.config.images_per_step();
            let counts = (self.progress.steps_done, self.total, self.steps_per_epoch(), images);
            if let Some(folder) = &self.folder {
                folder.write_live(|| LiveState {
                    message: problem.unwrap_or_default().to_owned(),
                    memory: used_memory(&self.steps.objective.device()),
                    lr: self.history.last().map_or(self.steps.config.lr, |step| step.lr),
                    ..live_state(self.state, &self.history, counts, folder.last_samples())
                });
            }
            self.live_written = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;
    use crate::unet::SimpleUNet;
    use candle_core::Device;

    /// Whatever a device does at once ends where something is due.
    #[test]
    fn steps_that_are_taken_at_once_end_where_something_is_due() -> Result<()> {
        let config =
            TrainingConfig { batch: 8, epochs: 2, checkpoint_every: 6, validate_every: Some(4), ..Default::default() };
        let (data, net) = (Dataset::sprites(63, 1)?, SimpleUNet { channels: 3, base: 8, ..Default::default() });
        let mut training = Training::new(config, net, &data, &Device::Cpu)?;
        let all = |training: &mut Training| -> Vec<usize> {
            training.progress.steps_done = 0;
            let next = std::iter::from_fn(|| {
                let (done, due) = (training.progress.steps_done, training.next_due());
                training.progress.steps_done = due;
                (done < due).then_some(due)
            });
            next.collect()
        };
        assert_eq!(all(&mut training), [6, 7, 12, 14]);
        training = training.validate_on(Dataset::sprites(8, 2)?)?;
        assert_eq!(all(&mut training), [4, 6, 7, 8, 12, 14]);
        training.stop_after(5);
        assert_eq!(all(&mut training), [4, 5]);
        Ok(())
    }
}
