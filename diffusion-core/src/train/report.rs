//! How a training is going: progress lines, the report at its end, the loss curve.

use super::step::{State, Step};
use crate::progress::Progress;
use crate::show::Plot;
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

/// How a training ended: from [`Training::run`](super::Training::run).
#[derive(Clone, Debug)]
pub struct Report {
    /// Whether it got to its end.
    pub state: State,
    /// How many steps are done in all.
    pub steps: usize,
    /// How many there are to be.
    pub total: usize,
    /// The mean loss of the last 50 steps, or of all if there were fewer: [`Training::loss`](super::Training::loss).
    pub loss: f64,
    /// The last loss on held-out images, if there are any: [`Training::validate_on`](super::Training::validate_on).
    pub validation: Option<f64>,
    /// Seconds of training, earlier sessions included.
    pub seconds: f64,
    /// The folder it keeps.
    pub folder: Option<PathBuf>,
}

/// The lines that say how far a training is.
#[derive(Debug)]
pub(super) struct Lines {
    progress: Progress,
}

impl Lines {
    /// Of `total` steps (0: not known), after `done` of them.
    pub(super) fn new(label: &str, total: usize, done: usize) -> Self {
        let progress = Progress::new(total as u64, label).starting_at(done as u64);
        Self { progress }
    }

    /// After a step; `loss` is the mean of the last ones, `validation` the loss on held-out images.
    pub(super) fn step(&mut self, step: &Step, (loss, validation): (f64, Option<f64>), deadline: Option<Instant>) {
        let validation = validation.map_or_else(String::new, |loss| format!(", validation {loss:.4}"));
        let left = deadline.map_or_else(String::new, |at| {
            let left = at.saturating_duration_since(Instant::now());
            format!(", {:.0} s left", left.as_secs_f64())
        });
        self.progress.message(format!(
            "epoch {}, mean loss {loss:.4}{validation}, lr {:.1e}, {:.0} images/s{left}",
            step.epoch + 1,
            step.lr,
            step.images_per_second
        ));
        self.progress.step();
    }

    /// While a grid of samples is drawn, of which this share is done.
    pub(super) fn sampling(&mut self, share: f64) {
        self.progress.message(format!("drawing samples, {:.0} %", 100.0 * share));
        self.progress.inc(0);
    }

    pub(super) fn finish(mut self) {
        self.progress.finish();
    }
}

/// The mean loss of each whole epoch.
pub(super) fn epoch_losses(history: &[Step], per_epoch: usize) -> Vec<f64> {
    let epochs = history.chunk_by(|a, b| a.epoch == b.epoch);
    epochs.filter(|epoch| epoch.len() == per_epoch).map(mean).collect()
}

/// The loss over the steps: each, and the mean of each fiftieth part of them.
pub(super) fn loss_curve(history: &[Step]) -> Plot {
    let size = history.len().div_ceil(50).max(1);
    let (mut at, mut means) = (Vec::new(), Vec::new());
    for part in history.chunks(size) {
        at.push(part[part.len() / 2].index);
        means.push(mean(part));
    }
    let (steps, losses): (Vec<_>, Vec<_>) = history.iter().map(|s| (s.index, s.loss)).unzip();
    let plot = Plot::new("Loss").x("step").log_y();
    plot.scatter("each step", steps, losses).line("mean", at, means)
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
        write!(f, "{state}: {steps} of {total} steps in {seconds:.0} s, mean loss of the last 50 {loss:.4}")?;
        if let Some(loss) = self.validation {
            write!(f, ", validation loss {loss:.4}")?;
        }
        if let Some(folder) = &self.folder {
            write!(f, ", in {}", folder.display())?;
        }
        Ok(())
    }
}
