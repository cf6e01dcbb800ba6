//! One optimiser step, and the state of a training run.

use serde::{Deserialize, Serialize};

/// The number of recent steps over which speed and loss are averaged.
const RECENT: usize = 50;

/// One optimiser step, as yielded by [`Training`](super::Training) and as a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The index of the step, from 0.
    pub index: usize,
    /// The index of its epoch, from 0.
    pub epoch: usize,
    /// The loss of its batch before the update.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// The gradient norm before clipping.
    pub grad_norm: f64,
    /// Images per second in this step.
    pub images_per_second: f64,
    /// Training time in seconds up to this step, including earlier sessions.
    pub seconds: f64,
    /// The loss on held-out images after this step, if it was measured:
    /// [`Training::validate_on`](super::Training::validate_on).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
}

/// The state of a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is running, or can be continued.
    Running,
    /// All steps are done.
    Done,
    /// It was stopped before its end.
    Stopped,
    /// A step or a file failed.
    Failed,
}

/// The mean of `of` over the last 50 steps; `None` if there are no steps.
pub(super) fn recent_mean(history: &[Step], of: impl Fn(&Step) -> f64) -> Option<f64> {
    let recent = &history[history.len().saturating_sub(RECENT)..];
    let sum: f64 = recent.iter().map(of).sum();
    (!recent.is_empty()).then(|| sum / recent.len() as f64)
}
