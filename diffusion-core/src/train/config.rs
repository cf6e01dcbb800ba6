//! The hyper-parameters of a training.

use super::{AdamWConfig, Decay, EmaConfig, Loss, Warmup, Weighting};
use crate::choice::name_or_table;
use crate::device::Precision;
use crate::prediction::Prediction;
use crate::process::{NoiseProcess, TimeSampling};
use crate::unet::Architecture;
use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

/// How a network is trained: [`Training`](super::Training). The default is the original's
/// ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), section 4 and appendix B), for a laptop.
///
/// ```
/// use diffusion_core::{schedule::Schedule, train::TrainingConfig};
/// let process = Schedule::cosine(1000)?.into();
/// let config = TrainingConfig { epochs: 5, lr: 1e-3, process, ..Default::default() };
/// assert_eq!(config.batch, 64);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// The seed of the initial weights, the order of the images, augmentations, times and noise.
    pub seed: u64,
    /// How often every image is seen.
    pub epochs: usize,
    /// Ends the training after so many optimiser steps, if that is sooner; 0 for no such end.
    pub train_steps: usize,
    /// Images in a batch. The images of an epoch that do not fill one are left out, different ones in every epoch.
    pub batch: usize,
    /// Batches whose gradients make one step of the optimiser: the effect of a larger batch without its memory.
    pub accumulate: usize,
    /// What the network computes with.
    #[serde(skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// The noise process: which levels of noise there are.
    pub process: NoiseProcess,
    /// What the network predicts.
    #[serde(deserialize_with = "name_or_table")]
    pub prediction: Prediction,
    /// The distance of its output from the target.
    #[serde(deserialize_with = "name_or_table")]
    pub loss: Loss,
    /// How much each level of noise counts.
    #[serde(deserialize_with = "name_or_table")]
    pub weighting: Weighting,
    /// How the times of a batch are drawn.
    #[serde(deserialize_with = "name_or_table")]
    pub times: TimeSampling,
    /// In how many stages the number of different time steps grows to T, doubling from one to the next, over the first half
    /// of the training; 1 for all from the beginning. Only of discrete processes.
    pub stages: usize,
    /// The learning rate, after the warm-up.
    pub lr: f64,
    /// Optimiser steps over which the learning rate rises from 0.
    pub warmup: usize,
    /// How it decays after that.
    #[serde(deserialize_with = "name_or_table")]
    pub decay: Decay,
    /// β₂ of Adam, the decay of the mean squared gradient; a smaller one follows changes faster.
    pub beta2: f64,
    /// λ of AdamW; 0 is Adam.
    pub weight_decay: f64,
    /// The norm to which longer gradients are clipped; infinite for none.
    pub clip: f64,
    /// The decay of the exponential moving average (EMA) of the weights that samples are made with, after a warm-up; 0 for
    /// none.
    pub ema: f64,
    /// The share of images whose condition is dropped, so that the network also learns to predict without one: what
    /// classifier-free guidance needs.
    pub condition_dropout: f64,
    /// Optimiser steps from one checkpoint to the next; 0 for one at the end of each epoch.
    pub checkpoint_every: usize,
    /// How many checkpoints are kept, the newest.
    pub keep: usize,
    /// Epochs from one grid of samples to the next; 0 for none.
    pub sample_every: usize,
    /// Images in a grid of samples.
    pub samples: usize,
    /// Steps of DDIM for each of them.
    pub sample_steps: usize,
    /// The share of the time that grids of samples may take; those that would take more are left out. 1 leaves none out.
    pub sample_share: f64,
}

/// What a network is conditioned on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionOn {
    /// The class label.
    #[default]
    Classes,
    /// The class as a one-hot vector, which can be mixed with others when sampling.
    Context,
    /// Nothing: an unconditional network.
    #[serde(alias = "nothing")]
    None,
}

impl ConditionOn {
    /// What a network of this architecture is conditioned on.
    pub fn of(architecture: &Architecture) -> Self {
        let conditioning = architecture.conditioning();
        match (conditioning.classes, conditioning.context) {
            (0, 0) => Self::None,
            (0, _) => Self::Context,
            _ => Self::Classes,
        }
    }
}

/// The most sampler steps on a process that has no last time step.
const MOST_STEPS: usize = 1_000_000;

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            seed: 42,
            epochs: 20,
            train_steps: 0,
            batch: 64,
            accumulate: 1,
            precision: Precision::F32,
            process: NoiseProcess::default(),
            prediction: Prediction::Eps,
            loss: Loss::Mse,
            weighting: Weighting::Uniform,
            times: TimeSampling::Uniform,
            stages: 1,
            lr: 2e-4,
            warmup: 0,
            decay: Decay::Constant,
            beta2: 0.999,
            weight_decay: 0.0,
            clip: 1.0,
            ema: 0.9999,
            condition_dropout: 0.1,
            checkpoint_every: 0,
            keep: 2,
            sample_every: 1,
            samples: 32,
            sample_steps: 50,
            sample_share: 0.1,
        }
    }
}

impl TrainingConfig {
    /// An error that names the first field outside its range, and the value.
    ///
    /// # Errors
    /// There is one.
    pub fn check(&self) -> Result<()> {
        for (field, value) in [
            ("epochs", self.epochs),
            ("batch", self.batch),
            ("accumulate", self.accumulate),
            ("stages", self.stages),
            ("keep", self.keep),
            ("samples", self.samples),
        ] {
            if value == 0 {
                bail!("training: {field} = 0 must be at least 1")
            }
        }
        for (field, value) in [("ema", self.ema), ("condition_dropout", self.condition_dropout)] {
            if !(0.0..1.0).contains(&value) {
                bail!("training: {field} = {value} must be in [0, 1)")
            }
        }
        if !(0.0..=1.0).contains(&self.sample_share) {
            bail!("training: sample_share = {} must be in 0 … 1", self.sample_share)
        }
        if self.clip.is_nan() || self.clip <= 0.0 {
            bail!("training: clip = {} must be positive; inf does not clip", self.clip)
        }
        let most = match &self.process {
            NoiseProcess::Vp(schedule) => schedule.timesteps(),
            _ => MOST_STEPS,
        };
        if self.sample_every > 0 && !(1..=most).contains(&self.sample_steps) {
            bail!("training: sample_steps = {} must be in 1 … {most}", self.sample_steps)
        }
        self.loss.check()?;
        self.weighting.check()?;
        self.decay.check()?;
        self.adam().check()?;
        self.process.check()?;
        self.times.check()?;
        self.prediction.check(&self.process)
    }

    pub(super) fn adam(&self) -> AdamWConfig {
        AdamWConfig { lr: self.lr, beta2: self.beta2, weight_decay: self.weight_decay, ..AdamWConfig::default() }
    }

    pub(super) fn ema(&self) -> EmaConfig {
        EmaConfig { decay: self.ema, warmup: Warmup::Ramp }
    }

    /// How many optimiser steps the whole training has, for `images` images.
    pub(super) fn total_steps(&self, images: usize) -> usize {
        let all = self.epochs.saturating_mul(self.steps_per_epoch(images));
        match self.train_steps {
            0 => all,
            most => all.min(most),
        }
    }

    pub(super) fn steps_per_epoch(&self, images: usize) -> usize {
        images / self.images_per_step()
    }

    /// batch × accumulate.
    pub(super) fn images_per_step(&self) -> usize {
        self.batch.saturating_mul(self.accumulate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_range_is_named() {
        let config = TrainingConfig::default;
        for (config, wants) in [
            (TrainingConfig { batch: 0, ..config() }, "batch = 0"),
            (TrainingConfig { epochs: 0, ..config() }, "epochs = 0"),
            (TrainingConfig { condition_dropout: 1.0, ..config() }, "condition_dropout = 1"),
            (TrainingConfig { ema: -0.1, ..config() }, "ema = -0.1"),
            (TrainingConfig { clip: 0.0, ..config() }, "clip = 0"),
            (TrainingConfig { lr: f64::NAN, ..config() }, "lr = NaN"),
            (TrainingConfig { sample_steps: 1001, ..config() }, "sample_steps = 1001 must be in 1 … 1000"),
            (TrainingConfig { loss: Loss::Huber { delta: 0.0 }, ..config() }, "delta = 0"),
            (TrainingConfig { weighting: Weighting::MinSnr { gamma: -1.0 }, ..config() }, "gamma = -1"),
        ] {
            let message = config.check().unwrap_err().to_string();
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        config().check().unwrap();
        TrainingConfig { clip: f64::INFINITY, ..config() }.check().unwrap();
    }

    #[test]
    fn steps_are_whole_batches() {
        let config = TrainingConfig { epochs: 3, batch: 10, accumulate: 2, ..Default::default() };
        assert_eq!(config.total_steps(109), 15);
        assert_eq!(TrainingConfig { train_steps: 4, ..config.clone() }.total_steps(109), 4);
        assert_eq!(TrainingConfig { epochs: usize::MAX, ..config }.total_steps(109), usize::MAX);
    }
}
