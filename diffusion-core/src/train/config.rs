//! The hyper-parameters of a training run.

use super::{AdamWConfig, Decay, EmaConfig, Loss, Warmup, Weighting};
use crate::choice::name_or_table;
use crate::device::Precision;
use crate::prediction::Prediction;
use crate::process::{NoiseProcess, TimeSampling};
use crate::unet::Architecture;
use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

/// The hyper-parameters of [`Training`](super::Training). The defaults are those of DDPM
/// ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), section 4 and appendix B), scaled to a laptop.
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
    /// The seed of the initial weights, the order of the images, augmentation, times and noise.
    pub seed: u64,
    /// Number of passes over the data.
    pub epochs: usize,
    /// The largest number of optimiser steps; the training ends earlier if the epochs are done. 0 for no limit.
    pub train_steps: usize,
    /// Images in a batch. The images left over at the end of an epoch are dropped, different ones in each epoch.
    pub batch: usize,
    /// Gradient accumulation: batches per optimiser step, for the effect of a larger batch without its memory.
    pub accumulate: usize,
    /// The floating-point precision of the network's computations.
    #[serde(skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// The noise process, which determines the noise levels.
    pub process: NoiseProcess,
    /// The prediction type: what the network predicts.
    #[serde(deserialize_with = "name_or_table")]
    pub prediction: Prediction,
    /// The loss function between the network's output and its target.
    #[serde(deserialize_with = "name_or_table")]
    pub loss: Loss,
    /// The weight of each noise level in the loss.
    #[serde(deserialize_with = "name_or_table")]
    pub weighting: Weighting,
    /// How the times of a batch are sampled.
    #[serde(deserialize_with = "name_or_table")]
    pub times: TimeSampling,
    /// Progressive training on a discrete process: the number of stages in which the number of time steps doubles up to
    /// T, over the first half of the training; 1 trains on all time steps from the start.
    pub stages: usize,
    /// Immiscible noise ([Li et al. 2025](https://arxiv.org/abs/2505.18521)): the number of noise tensors that are drawn for
    /// each image, of which the nearest to it is used. 1, the default, makes noise and image independent.
    /// [`Consistency`](super::Consistency) does not use it.
    #[serde(skip_serializing_if = "is_one")]
    pub noise_candidates: usize,
    /// The optimiser. Default AdamW.
    #[serde(skip_serializing_if = "Optimiser::is_adamw")]
    pub optimiser: Optimiser,
    /// The learning rate, after the warm-up.
    pub lr: f64,
    /// Warm-up: optimiser steps over which the learning rate rises from 0.
    pub warmup: usize,
    /// How the learning rate decays after the warm-up.
    #[serde(deserialize_with = "name_or_table")]
    pub decay: Decay,
    /// β₂ of Adam, the decay of the mean squared gradient; a smaller value adapts faster.
    pub beta2: f64,
    /// Weight decay λ of AdamW; 0 is Adam.
    pub weight_decay: f64,
    /// The largest gradient norm; larger gradients are clipped. Infinity turns clipping off.
    pub clip: f64,
    /// The decay of the exponential moving average (EMA) of the weights, which is used for sampling; 0 turns it off.
    pub ema: f64,
    /// Condition dropout: the fraction of images whose condition is dropped, so that the network also learns the
    /// unconditional prediction that classifier-free guidance needs.
    pub condition_dropout: f64,
    /// Optimiser steps between checkpoints; 0 for one at the end of each epoch.
    pub checkpoint_every: usize,
    /// The number of checkpoints kept; older ones are deleted.
    pub keep: usize,
    /// Optimiser steps between measurements of the validation loss
    /// ([`Training::validate_on`](super::Training::validate_on)); 0 for none. It is also measured at the end of the
    /// training.
    ///
    /// By default 32 training images pass between two measurements for each of the (at most 256) held-out images: 128
    /// steps with batches of 64. An evaluation without gradients takes about a third of a training step per image, so
    /// the measurements take about 1 % of the time, and 2 % in a consistency distillation, which also evaluates the
    /// teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_every: Option<usize>,
    /// Epochs between grids of samples; 0 for none.
    pub sample_every: usize,
    /// Images in a grid of samples.
    pub samples: usize,
    /// DDIM steps for each sample.
    pub sample_steps: usize,
    /// The largest fraction of the time to spend on grids of samples; grids beyond it are skipped. 1 skips none.
    pub sample_share: f64,
}

/// The optimiser of a training run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimiser {
    /// [`AdamW`](super::AdamW) for all parameters.
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// [`Muon`](super::Muon) for matrices, AdamW for the rest.
    Muon,
}

impl Optimiser {
    fn is_adamw(&self) -> bool {
        *self == Self::AdamW
    }
}

/// The kind of condition of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionOn {
    /// The class label.
    #[default]
    Classes,
    /// The class as a one-hot vector, which can be mixed with others when sampling.
    Context,
    /// The caption of the image.
    Text,
    /// No condition: an unconditional network.
    #[serde(alias = "nothing")]
    None,
}

impl ConditionOn {
    /// The kind of condition that a network of this architecture has.
    pub fn of(architecture: &Architecture) -> Self {
        let conditioning = architecture.conditioning();
        match (conditioning.classes, conditioning.context) {
            _ if conditioning.tokens > 0 => Self::Text,
            (0, 0) => Self::None,
            (0, _) => Self::Context,
            _ => Self::Classes,
        }
    }
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

/// The largest number of sampler steps for a continuous process.
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
            noise_candidates: 1,
            optimiser: Optimiser::AdamW,
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
            validate_every: None,
            sample_every: 1,
            samples: 32,
            sample_steps: 50,
            sample_share: 0.1,
        }
    }
}

impl TrainingConfig {
    /// Checks that every field is in its range.
    ///
    /// # Errors
    /// A field is out of range: the message names it and its value.
    pub fn check(&self) -> Result<()> {
        for (field, value) in [
            ("epochs", self.epochs),
            ("batch", self.batch),
            ("accumulate", self.accumulate),
            ("stages", self.stages),
            ("noise_candidates", self.noise_candidates),
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
            bail!("training: clip = {} must be positive; use inf to turn clipping off", self.clip)
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

    /// The number of optimiser steps of the training for `images` images.
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

    /// Images per optimiser step: batch × accumulate.
    pub(super) fn images_per_step(&self) -> usize {
        self.batch.saturating_mul(self.accumulate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_value_out_of_range() {
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
