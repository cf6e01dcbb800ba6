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
    /// The mean loss of the last epoch's steps, or of all if there was less than one.
    pub loss: f64,
    /// Seconds of training, earlier sessions included.
    pub seconds: f64,
    /// The folder it keeps.
    pub folder: Option<PathBuf>,
}

impl Report {
    pub(super) fn new(
        state: State,
        history: &[Step],
        (total, per_epoch): (usize, usize),
        folder: Option<PathBuf>,
    ) -> Self {
        let last = &history[history.len().saturating_sub(per_epoch.max(1))..];
        Self {
            state,
            steps: history.len(),
            total,
            loss: mean(last),
            seconds: history.last().map_or(0.0, |step| step.seconds),
            folder,
        }
    }
}

/// The lines that say how far a training is.
pub(super) struct Lines {
    progress: Progress,
    smooth: Option<f64>,
}

impl Lines {
    /// Of `total` steps (0: not known), after `done` of them.
    pub(super) fn new(label: &str, total: usize, done: usize) -> Self {
        let progress = Progress::new(total as u64, label).starting_at(done as u64);
        let smooth = None;
        Self { progress, smooth }
    }

    pub(super) fn step(&mut self, step: &Step, deadline: Option<Instant>) {
        let loss = self.smooth.map_or(step.loss, |s| 0.98 * s + 0.02 * step.loss);
        self.smooth = Some(loss);
        let left = deadline.map_or_else(String::new, |at| {
            let left = at.saturating_duration_since(Instant::now());
            format!(", {:.0} s left", left.as_secs_f64())
        });
        self.progress.message(format!(
            "epoch {}, loss {loss:.4}, lr {:.1e}, {:.0} images/s{left}",
            step.epoch + 1,
            step.lr,
            step.images_per_second
        ));
        self.progress.step();
    }

    pub(super) fn finish(mut self) {
        self.progress.finish();
    }
}

/// The mean loss of each whole epoch.
pub(super) fn epoch_losses(history: &[Step], per_epoch: usize) -> Vec<f64> {
    history.chunks_exact(per_epoch.max(1)).map(mean).collect()
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
        write!(f, "{state}: {steps} of {total} steps in {seconds:.0} s, loss {loss:.4}")?;
        if let Some(folder) = &self.folder {
            write!(f, ", in {}", folder.display())?;
        }
        Ok(())
    }
}
