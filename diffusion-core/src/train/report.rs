//! How a training is going: progress lines, the report at its end, the loss curve.

use super::{Objective, State, Step, Training};
use crate::progress::Progress;
use crate::show::Plot;
use anyhow::Result;
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

/// How a training ended: from [`Training::run`].
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

pub(super) fn run<O: Objective>(training: &mut Training<O>) -> Result<Report> {
    if let Some(resumed) = training.resumed().cloned() {
        for problem in &resumed.passed_over {
            println!("skipped checkpoint: {problem}");
        }
        println!("resuming after {} steps", resumed.steps);
    }
    // How many steps there will be is not known if it ends at a time.
    let total = match training.deadline() {
        Some(_) => 0,
        None => training.total_steps(),
    };
    let done = training.history().len();
    // The progress bar counts the time of the samples, too; the report counts that of the steps alone.
    let label = match (training.folder(), training.config().sample_every) {
        (Some(_), 1..) => "training and sampling",
        _ => "training",
    };
    let mut progress = Progress::new(total as u64, label).starting_at(done as u64);
    let mut smooth: Option<f64> = None;
    while let Some(step) = training.next() {
        let step = step?;
        let loss = smooth.map_or(step.loss, |s| 0.98 * s + 0.02 * step.loss);
        smooth = Some(loss);
        let left = training.deadline().map_or_else(String::new, |at| {
            let left = at.saturating_duration_since(Instant::now());
            format!(", {:.0} s left", left.as_secs_f64())
        });
        progress.message(format!(
            "epoch {}, loss {loss:.4}, lr {:.1e}, {:.0} images/s{left}",
            step.epoch + 1,
            step.lr,
            step.images_per_second
        ));
        progress.step();
    }
    progress.finish();
    Ok(training.report())
}

impl<O: Objective> Training<O> {
    /// How it stands.
    pub fn report(&self) -> Report {
        let history = self.history();
        let last = &history[history.len().saturating_sub(self.steps_per_epoch().max(1))..];
        Report {
            state: self.state(),
            steps: history.len(),
            total: self.total_steps(),
            loss: mean(last),
            seconds: history.last().map_or(0.0, |step| step.seconds),
            folder: self.folder().map(Into::into),
        }
    }

    /// The mean loss of each epoch that was finished.
    pub fn epoch_losses(&self) -> Vec<f64> {
        let epochs = self.history().chunks_exact(self.steps_per_epoch().max(1));
        epochs.map(mean).collect()
    }

    /// The loss over the steps: each, and the mean of each fiftieth part of them.
    pub fn loss_curve(&self) -> Plot {
        let history = self.history();
        let size = history.len().div_ceil(50).max(1);
        let parts = || history.chunks(size);
        let middle = |part: &[Step]| part[part.len() / 2].index;
        Plot::new("Loss")
            .x("step")
            .log_y()
            .scatter(
                "each step",
                history.iter().map(|s| s.index).collect::<Vec<_>>(),
                history.iter().map(|s| s.loss).collect::<Vec<_>>(),
            )
            .line(
                "mean",
                parts().map(middle).collect::<Vec<_>>(),
                parts().map(mean).collect::<Vec<_>>(),
            )
    }
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
        let Self {
            steps,
            total,
            loss,
            seconds,
            ..
        } = self;
        write!(
            f,
            "{state}: {steps} of {total} steps in {seconds:.0} s, loss {loss:.4}"
        )?;
        if let Some(folder) = &self.folder {
            write!(f, ", in {}", folder.display())?;
        }
        Ok(())
    }
}
