//! Optimiser steps: batches, gradients, clipping and the update, on the CPU or several steps ahead on a CUDA device.

#[cfg(feature = "cuda")]
use super::on_device::OnDevice;
use super::optimiser::Optimiser;
use super::{Noise, Objective, StepInfo, TrainingBatch, TrainingConfig};
use crate::data::Dataset;
use crate::device::{out_of_memory, too_little};
use crate::ops::backward;
use crate::rng::Rng;
use anyhow::{Error, Result, bail, ensure};
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use std::time::Instant;

/// Random streams: step i has stream i + 1; augmentations and epoch orders have streams from here on.
const AUGMENTATIONS: u64 = 1 << 62;
const ORDERS: u64 = 1 << 63;

/// The largest number of steps that a CUDA device takes before it reports.
#[cfg(feature = "cuda")]
const AHEAD: usize = 10;

/// Loads images by index from device memory.
type Resident<'a> = &'a dyn Fn(&[usize]) -> candle_core::Result<Tensor>;

/// Everything that is needed to take training steps.
#[derive(Debug)]
pub(super) struct Steps<O> {
    pub(super) config: TrainingConfig,
    pub(super) objective: O,
    pub(super) optimiser: Optimiser,
    pub(super) data: Dataset,
    pub(super) rng: Rng,
    /// The current epoch and the order of its images.
    order: Option<(usize, Vec<usize>)>,
    #[cfg(feature = "cuda")]
    on_device: Option<OnDevice>,
}

/// The result of a step that was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
    pub(super) lr: f64,
    pub(super) seconds: f64,
}

/// A step that was not taken, because its loss or gradient was not finite.
#[derive(Debug)]
pub(super) struct NotFinite(String);

impl std::fmt::Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotFinite {}

impl<O: Objective> Steps<O> {
    pub(super) fn new(config: TrainingConfig, objective: O, data: &Dataset) -> Result<Self> {
        config.check()?;
        let images = config.images_per_step();
        ensure!(
            images <= data.len(),
            "a step takes batch × accumulate = {images} images, but {} has {}: use a smaller batch (--batch)",
            data.name(),
            data.len()
        );
        let optimiser = Optimiser::new(&config, objective.parameters())?;
        Ok(Self {
            #[cfg(feature = "cuda")]
            on_device: optimiser.on_device(data, &objective.device())?,
            rng: Rng::new(config.seed),
            data: data.clone(),
            objective,
            optimiser,
            order: None,
            config,
        })
    }

    pub(super) fn per_epoch(&self) -> usize {
        self.config.steps_per_epoch(self.data.len())
    }

    /// Takes step `first` of `total`; on a CUDA device also the next few steps before step `until`, when other work is
    /// due, so that it need not wait for the CPU. Returns the steps taken and the error that prevented the next one, if
    /// any.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub(super) fn take(&mut self, first: usize, total: usize, until: usize) -> (Vec<Taken>, Option<Error>) {
        #[cfg(feature = "cuda")]
        if let Some(mut on_device) = self.on_device.take() {
            let mut taken = Vec::new();
            let mut ahead = self.take_ahead(&mut on_device, first, (total, until), &mut taken);
            if ahead.is_err() {
                ahead = on_device.reset(&self.objective.device()).map_err(Error::from).and(ahead);
            }
            self.on_device = Some(on_device);
            return (taken, ahead.err().map(|error| self.explained(error)));
        }
        match self.take_one(first, total) {
            Ok(step) => (vec![step], None),
            Err(error) => (Vec::new(), Some(self.explained(error))),
        }
    }

    fn take_one(&mut self, index: usize, total: usize) -> Result<Taken> {
        let began = Instant::now();
        let (losses, grads) = self.gradients(index, total)?;
        let mut loss = 0.0;
        for batch in &losses {
            loss += f64::from(batch.to_scalar::<f32>()?);
        }
        loss /= losses.len() as f64;
        if !loss.is_finite() {
            bail!(self.not_finite("loss", index, loss))
        }
        let (lr, share) = (self.rate(index, total), 1.0 / losses.len() as f64);
        let grad_norm = self.optimiser.step(&grads, lr, self.config.clip, share)?;
        if !grad_norm.is_finite() {
            bail!(self.not_finite("gradient's norm", index, grad_norm))
        }
        let seconds = began.elapsed().as_secs_f64();
        Ok(Taken { loss, grad_norm, lr, seconds })
    }

    /// Takes up to [`AHEAD`] steps before step `until`; then the device reports the results.
    #[cfg(feature = "cuda")]
    fn take_ahead(
        &mut self,
        on_device: &mut OnDevice,
        first: usize,
        (total, until): (usize, usize),
        taken: &mut Vec<Taken>,
    ) -> Result<()> {
        let began = Instant::now();
        let count = AHEAD.min(until - first);
        let share = 1.0 / self.config.accumulate as f64;
        for index in first..first + count {
            let images = on_device.images.as_ref();
            let images = images.map(|images| move |indices: &[usize]| images.images(indices));
            let resident = images.as_ref().map(|images| images as &dyn Fn(&[usize]) -> _);
            let (losses, grads) = self.gradients_of(index, total, resident)?;
            let loss = match losses.as_slice() {
                [loss] => loss.clone(),
                _ => Tensor::stack(&losses, 0)?.mean(0)?,
            };
            let (lr, clip) = (self.rate(index, total), self.config.clip);
            let Optimiser { adam, ema, .. } = &mut self.optimiser;
            adam.set_lr(lr)?;
            on_device.step(adam, ema.as_mut(), &grads, loss, clip, (share, index + 1))?;
        }
        let outcomes = on_device.outcomes()?;
        let seconds = began.elapsed().as_secs_f64() / count as f64;
        for (i, it) in outcomes.iter().enumerate() {
            let (index, grad_norm) = (first + i, it.norm * share);
            if !it.taken {
                // The steps after it have not been taken either.
                self.optimiser.uncount(outcomes.len() - i);
                if !it.loss.is_finite() {
                    bail!(self.not_finite("loss", index, it.loss))
                }
                bail!(self.not_finite("gradient's norm", index, grad_norm))
            }
            let lr = self.rate(index, total);
            taken.push(Taken { loss: it.loss, grad_norm, lr, seconds });
        }
        Ok(())
    }

    /// The learning rate of step `index`.
    fn rate(&self, index: usize, total: usize) -> f64 {
        let config = &self.config;
        config.lr * config.decay.share(index, total, config.warmup)
    }

    /// The indices of the images of step `index`.
    fn images(&mut self, index: usize) -> Vec<usize> {
        let per_epoch = self.per_epoch();
        let (epoch, step) = (index / per_epoch, index % per_epoch);
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let mut rng = self.rng.fork(ORDERS + epoch as u64);
            self.order = Some((epoch, rng.permutation(self.data.len())));
        }
        let order = self.order.as_ref().map_or(&[][..], |(_, order)| order);
        let size = self.config.images_per_step();
        order[step * size..(step + 1) * size].to_vec()
    }

    fn gradients(&mut self, index: usize, total: usize) -> Result<(Vec<Tensor>, GradStore)> {
        self.gradients_of(index, total, None)
    }

    /// The losses of the batches of step `index` and the sum of their gradients. If `resident` is given, the images are
    /// read from device memory.
    fn gradients_of(
        &mut self,
        index: usize,
        total: usize,
        resident: Option<Resident>,
    ) -> Result<(Vec<Tensor>, GradStore)> {
        // Drawn for the whole step, so that small batches make the same step as one large batch.
        let mut rng = self.rng.fork(index as u64 + 1);
        let images = self.images(index);
        let info = StepInfo { index, total, images: images.len() };
        self.objective.begin_step(info, &mut rng)?;
        let device = self.objective.device();
        let mut augmentation = self.rng.fork(AUGMENTATIONS + index as u64);
        let mut noise = Noise::new(rng, &device)?;
        let (size, mut losses, mut sum) = (self.config.batch, Vec::new(), GradStore::default());
        for from in (0..images.len()).step_by(size) {
            let within = from..from + size;
            let indices = &images[within.clone()];
            let x0 = match resident {
                Some(resident) => resident(indices)?,
                None => self.data.images(indices.iter().copied(), &device)?,
            };
            let x0 = self.data.augment(x0, &mut augmentation)?;
            let batch = TrainingBatch { images: x0, data: &self.data, indices, within };
            let loss = self.objective.loss(&batch, &mut noise)?;
            let grads = backward(&loss)?;
            losses.push(loss.detach());
            if images.len() == size {
                sum = grads;
                break;
            }
            self.optimiser.add(&mut sum, &grads)?;
        }
        Ok((losses, sum))
    }

    fn not_finite(&self, what: &str, index: usize, value: f64) -> NotFinite {
        NotFinite(format!(
            "training: the {what} of step {index} is {value}; the step was not taken. Most often the learning rate is \
             too high (lr = {:e}: try a tenth, or warmup = 500) or gradients are not clipped (clip = {}); otherwise \
             check the images and conditions for NaN",
            self.config.lr, self.config.clip
        ))
    }

    /// Adds advice to an out-of-memory error.
    fn explained(&self, error: Error) -> Error {
        let Some(name) = out_of_memory(error.as_ref()) else {
            return error;
        };
        let (batch, accumulate) = (self.config.batch, self.config.accumulate);
        let wanted = format!("training with batch = {batch}");
        // The product must stay the same for identical steps.
        let advice = match (2..=batch).find(|by| batch.is_multiple_of(*by)) {
            Some(by) => format!(
                "batch = {} with accumulate = {} makes the same steps with less memory",
                batch / by,
                accumulate * by
            ),
            None => "use a smaller network or smaller images".to_owned(),
        };
        anyhow::anyhow!("training: {}", too_little(name, &wanted, &advice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Precision;
    use crate::train::{Diffusion, Training};
    use crate::unet::SimpleUNet;
    use candle_core::Device;

    fn net(base: usize) -> SimpleUNet {
        SimpleUNet { channels: 3, base, groups: 2, ..Default::default() }
    }

    #[test]
    fn out_of_memory_error_names_the_batch_and_an_equivalent_one() -> Result<()> {
        let sprites = Dataset::sprites(64, 1)?;
        let message = |batch, accumulate| -> Result<String> {
            let config = TrainingConfig { batch, accumulate, ..Default::default() };
            let diffusion = Diffusion::new(&config, net(8), &sprites, &Device::Cpu)?;
            let steps = Steps::new(config, diffusion, &sprites)?;
            let full = r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#;
            let error = candle_core::Error::Msg(full.to_owned()).context("conv2d");
            Ok(steps.explained(error.into()).to_string())
        };
        assert_eq!(
            message(32, 1)?,
            "training: the device is out of memory for training with batch = 32 (CUDA_ERROR_OUT_OF_MEMORY); batch = 16 with \
             accumulate = 2 makes the same steps with less memory"
        );
        assert!(message(15, 2)?.contains("batch = 5 with accumulate = 6"));
        assert!(message(1, 1)?.contains("smaller network"));
        Ok(())
    }

    /// In bf16 with f32 weights, the losses follow those in f32 within 2 % over 500 steps, without loss scaling.
    #[test]
    fn losses_in_bf16_follow_those_in_f32() -> Result<()> {
        let sprites = Dataset::sprites(256, 1)?.resize(8, crate::data::Resize::Bilinear)?;
        let losses = |precision| -> Result<Vec<f64>> {
            let config =
                TrainingConfig { epochs: 100, train_steps: 500, batch: 8, lr: 1e-3, precision, ..Default::default() };
            let training = Training::new(config, net(4), &sprites, &Device::Cpu)?;
            training.map(|step| Ok(step?.loss)).collect()
        };
        let (f32s, bf16s) = (losses(Precision::F32)?, losses(Precision::Bf16)?);
        assert_eq!((f32s.len(), bf16s.len()), (500, 500));
        for (i, (a, b)) in f32s.chunks(50).zip(bf16s.chunks(50)).enumerate() {
            let (a, b): (f64, f64) = (a.iter().sum(), b.iter().sum());
            assert!((b / a - 1.0).abs() < 0.02, "from step {}: {a}, {b}", 50 * i);
        }
        assert_ne!(f32s, bf16s);
        assert!(f32s[450..].iter().sum::<f64>() < 0.5 * f32s[..50].iter().sum::<f64>());
        Ok(())
    }
}
