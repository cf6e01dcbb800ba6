//! One step of a training, and how a training stands.

use serde::{Deserialize, Serialize};

/// Over how many of the last steps speed and loss are averaged.
const RECENT: usize = 50;

/// One step of the optimiser: what [`Training`](super::Training) yields, and a line of the log.
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

/// The mean of `of` over the last 50 steps; `None` if there was none.
pub(super) fn recent_mean(history: &[Step], of: impl Fn(&Step) -> f64) -> Option<f64> {
    let recent = &history[history.len().saturating_sub(RECENT)..];
    let sum: f64 = recent.iter().map(of).sum();
    (!recent.is_empty()).then(|| sum / recent.len() as f64)
}
