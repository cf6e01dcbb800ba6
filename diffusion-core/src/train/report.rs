//! Reports of a training run: progress lines, the final report and the loss curve.

use super::step::{State, Step};
use crate::progress::Progress;
use crate::show::Plot;
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

/// The result of a training run, from [`Training::run`](super::Training::run).
#[derive(Clone, Debug)]
pub struct Report {
    /// How the run ended.
    pub state: State,
    /// The number of steps done.
    pub steps: usize,
    /// The total number of steps.
    pub total: usize,
    /// The mean loss over the last 50 steps (all, if there are fewer): [`Training::loss`](super::Training::loss).
    pub loss: f64,
    /// The latest loss on held-out images: [`Training::validation_loss`](super::Training::validation_loss).
    pub validation: Option<f64>,
    /// Training time in seconds, including earlier sessions.
    pub seconds: f64,
    /// The folder of the run.
    pub folder: Option<PathBuf>,
}

/// The progress lines.
#[derive(Debug)]
pub(super) struct Lines {
    progress: Progress,
}

impl Lines {
    /// Progress of `total` steps (0 if unknown), of which `done` are done.
    pub(super) fn new(label: &str, total: usize, done: usize) -> Self {
        let progress = Progress::new(total as u64, label).starting_at(done as u64);
        Self { progress }
    }

    /// Updates the line after a step; `loss` is the recent mean, `validation` the loss on held-out images, `memory` the
    /// bytes in use.
    pub(super) fn step(
        &mut self,
        step: &Step,
        (loss, validation): (f64, Option<f64>),
        memory: Option<u64>,
        deadline: Option<Instant>,
    ) {
        let memory = memory.map_or_else(String::new, |bytes| format!(", {:.1} GB", bytes as f64 / 1e9));
        let validation = validation.map_or_else(String::new, |loss| format!(", validation {loss:.4}"));
        let left = deadline.map_or_else(String::new, |at| {
            let left = at.saturating_duration_since(Instant::now());
            format!(", {:.0} s left", left.as_secs_f64())
        });
        self.progress.message(format!(
            "epoch {}, mean loss {loss:.4}{validation}, lr {:.1e}, {:.0} images/s{memory}{left}",
            step.epoch + 1,
            step.lr,
            step.images_per_second
        ));
        self.progress.step();
    }

    /// Shows that a grid of samples is being drawn, of which the fraction `share` is done.
    pub(super) fn sampling(&mut self, share: f64) {
        self.progress.message(format!("drawing samples, {:.0} %", 100.0 * share));
        self.progress.inc(0);
    }

    pub(super) fn finish(mut self) {
        self.progress.finish();
    }
}

/// The mean loss of each complete epoch.
pub(super) fn epoch_losses(history: &[Step], per_epoch: usize) -> Vec<f64> {
    let epochs = history.chunk_by(|a, b| a.epoch == b.epoch);
    epochs.filter(|epoch| epoch.len() == per_epoch).map(mean).collect()
}

/// The loss curve: each step's loss, the means over 50 equal parts, and the validation loss where it was measured.
pub(super) fn loss_curve(history: &[Step]) -> Plot {
    let size = history.len().div_ceil(50).max(1);
    let (mut at, mut means) = (Vec::new(), Vec::new());
    for part in history.chunks(size) {
        at.push(part[part.len() / 2].index);
        means.push(mean(part));
    }
    let (steps, losses): (Vec<_>, Vec<_>) = history.iter().map(|s| (s.index, s.loss)).unzip();
    let plot = Plot::new("Loss").x("step").log_y();
    let plot = plot.scatter("each step", steps, losses).line("mean", at, means);
    let (at, losses): (Vec<_>, Vec<_>) = history.iter().filter_map(|s| Some((s.index, s.validation_loss?))).unzip();
    if at.is_empty() { plot } else { plot.line("validation", at, losses) }
}

fn mean(steps: &[Step]) -> f64 {
    steps.iter().map(|step| step.loss).sum::<f64>() / steps.len().max(1) as f64
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Done => "done",
            State::Stopped => "stopped",
            State::Running => "not finished",
            State::Failed => "failed",
        };
        let Self { steps, total, loss, seconds, .. } = self;
        write!(f, "{state}: {steps} of {total} steps in {seconds:.0} s, mean loss over the last 50 steps {loss:.4}")?;
        if let Some(loss) = self.validation {
            write!(f, ", validation loss {loss:.4}")?;
        }
        if let Some(folder) = &self.folder {
            write!(f, ", in {}", folder.display())?;
        }
        Ok(())
    }
}
