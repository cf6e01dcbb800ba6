//! The loss on held-out images.

use super::steps::Steps;
use super::{Objective, TrainingBatch};
use crate::data::Dataset;
use crate::rng::Rng;
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The largest number of images that are used.
const MOST: usize = 256;
/// The random stream of their times and noise.
const STREAM: u64 = u64::MAX - 1;

/// A line of `validation.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    /// The number of training steps before the measurement.
    pub(super) steps: usize,
    /// The mean loss with the EMA weights.
    pub(super) loss: f64,
}

/// The mean loss of the first images of `held_out` with the EMA weights, always with the same times and noise; `None`
/// if the objective has none.
pub(super) fn measure<O: Objective>(steps: &mut Steps<O>, held_out: &Dataset) -> Result<Option<f64>> {
    let (images, size) = (held_out.len().min(MOST), steps.config.batch);
    let mut rng: Rng = steps.rng.fork(STREAM);
    let Steps { objective, optimiser, .. } = steps;
    optimiser.averaged(|| {
        let (device, mut sum) = (objective.device(), 0.0);
        for start in (0..images).step_by(size) {
            let indices: Vec<usize> = (start..images.min(start + size)).collect();
            let images = held_out.images(indices.iter().copied(), &device)?;
            let within = 0..indices.len();
            let batch = TrainingBatch { images, data: held_out, indices: &indices, within };
            let Some(loss) = objective.validation_loss(&batch, &mut rng)? else {
                return Ok(None);
            };
            sum += loss * indices.len() as f64;
        }
        Ok(Some(sum / images as f64))
    })
}
