//! The state shown on the live page of a training run.

use super::step::{State, Step, recent_mean};
use crate::show::{LiveState, Phase, thin};

/// The number of points of the page's curves.
const CURVE: usize = 400;

/// The state after `done` of `total` steps. `history` holds the known steps; `samples` is the path of the newest grid.
pub(super) fn live_state(
    state: State,
    history: &[Step],
    (done, total, per_epoch, images): (usize, usize, usize, usize),
    samples: Option<&str>,
) -> LiveState {
    let last = history.last();
    let points = |of: fn(&Step) -> Option<f64>| {
        let points: Vec<_> = history.iter().filter_map(|s| Some((s.index + 1, of(s)?))).collect();
        thin(&points, CURVE)
    };
    let speed = recent_mean(history, |step| step.images_per_second);
    let left = total.saturating_sub(done) as f64 * images as f64;
    let epoch = samples.and_then(|path| {
        let digits = path.trim_matches(|c: char| !c.is_ascii_digit());
        digits.parse::<usize>().ok()
    });
    LiveState {
        state: match state {
            State::Running => Phase::Running,
            State::Done => Phase::Done,
            State::Stopped => Phase::Stopped,
            State::Failed => Phase::Failed,
        },
        step: done,
        steps: total,
        epoch: done.saturating_sub(1) / per_epoch + 1,
        epochs: total.div_ceil(per_epoch),
        loss: recent_mean(history, |step| step.loss),
        images_per_second: speed,
        seconds_left: speed.map(|speed| left / speed),
        seconds: last.map_or(0.0, |step| step.seconds),
        grad_norm: last.map(|step| step.grad_norm),
        curve: points(|step| Some(step.loss)),
        validation: points(|step| step.validation_loss),
        rate: points(|step| Some(step.lr)),
        samples: samples.map(str::to_owned),
        samples_title: epoch.map_or_else(String::new, |n| format!("Samples after epoch {n}")),
        ..Default::default()
    }
}
