//! What a training writes for its live page.

use super::training::RECENT;
use super::{Objective, State, Step, Training};
use crate::show::{LiveState, Phase, thin};
use std::time::{Duration, Instant};

/// How often the page's file is written, and the points of its curves.
const EVERY: Duration = Duration::from_millis(500);
const CURVE: usize = 400;

impl<O: Objective> Training<O> {
    /// Writes the state for the live page, if there is one: twice a second, and at the end.
    pub(super) fn write_live(&mut self, problem: Option<&str>) {
        let due = self.live_written.is_none_or(|at| at.elapsed() >= EVERY);
        if due || self.state != State::Running {
            if let Some(folder) = &self.folder {
                folder.write_live(|| {
                    self.live_state(folder.last_samples(), problem.unwrap_or_default())
                });
            }
            self.live_written = Some(Instant::now());
        }
    }

    fn live_state(&self, samples: Option<&str>, message: &str) -> LiveState {
        let (done, history) = (self.progress.steps_done, &self.history);
        let recent = &history[history.len().saturating_sub(RECENT)..];
        let mean = |of: fn(&Step) -> f64| {
            let sum: f64 = recent.iter().map(of).sum();
            (!recent.is_empty()).then(|| sum / recent.len() as f64)
        };
        let points = |of: fn(&Step) -> f64| {
            let points: Vec<_> = history.iter().map(|s| (s.index + 1, of(s))).collect();
            thin(&points, CURVE)
        };
        let speed = mean(|step| step.images_per_second);
        let images = (self.total - done) as f64 * self.config.images_per_step() as f64;
        let per_epoch = self.steps_per_epoch();
        let epoch = samples.and_then(|path| {
            let digits = path.trim_matches(|c: char| !c.is_ascii_digit());
            digits.parse::<usize>().ok()
        });
        LiveState {
            state: match self.state {
                State::Running => Phase::Running,
                State::Done => Phase::Done,
                State::Stopped => Phase::Stopped,
                State::Failed => Phase::Failed,
            },
            message: message.to_owned(),
            step: done,
            steps: self.total,
            epoch: done.saturating_sub(1) / per_epoch + 1,
            epochs: self.total.div_ceil(per_epoch),
            lr: recent.last().map_or(self.config.lr, |step| step.lr),
            loss: mean(|step| step.loss),
            images_per_second: speed,
            seconds_left: speed.map(|speed| images / speed),
            seconds: self.progress.seconds,
            grad_norm: recent.last().map(|step| step.grad_norm),
            curve: points(|step| step.loss),
            rate: points(|step| step.lr),
            samples: samples.map(str::to_owned),
            samples_title: epoch.map_or_else(String::new, |n| format!("Samples after epoch {n}")),
            ..Default::default()
        }
    }
}
