//! What an optimiser step does to the parameters: clipping, AdamW, the running average.

#[cfg(feature = "cuda")]
use super::on_device::OnDevice;
use super::{AdamW, Ema, TrainingConfig, clip_grad_norm};
use crate::nn::Parameters;
use anyhow::Result;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use std::collections::{BTreeMap, HashMap};

/// The optimiser of a training with the averages of its weights.
#[derive(Debug)]
pub(super) struct Optimiser {
    pub(super) parameters: BTreeMap<String, Var>,
    pub(super) adam: AdamW,
    pub(super) ema: Option<Ema>,
}

impl Optimiser {
    pub(super) fn new(config: &TrainingConfig, parameters: &Parameters) -> Result<Self> {
        // Buffers too: running statistics belong to the weights that they were measured with.
        let all = parameters.all().map(|(name, var)| (name.to_owned(), var.clone())).collect::<BTreeMap<_, _>>();
        let ema = (config.ema > 0.0).then(|| Ema::new(&all, config.ema())).transpose()?;
        let parameters = parameters.by_name();
        Ok(Self { adam: AdamW::new(&parameters, config.adam())?, parameters, ema })
    }

    /// Takes a step down `grads`, the sums of the gradients of 1/`share` batches, whose mean is clipped; returns the norm
    /// of the mean. Nothing changes if that is not finite.
    pub(super) fn step(&mut self, grads: &GradStore, lr: f64, clip: f64, share: f64) -> Result<f64> {
        let clip = clip_grad_norm(&self.parameters, grads, clip / share)?;
        if clip.norm.is_finite() {
            self.adam.set_lr(lr)?;
            self.adam.step_scaled(grads, clip.scale * share)?;
            if let Some(ema) = &mut self.ema {
                ema.update()?;
            }
        }
        Ok(clip.norm * share)
    }

    /// Adds the gradients of a further batch.
    pub(super) fn add(&self, sum: &mut GradStore, grads: &GradStore) -> Result<()> {
        for var in self.parameters.values() {
            if let Some(grad) = grads.get(var) {
                let so_far = sum.get(var).map_or_else(|| Ok(grad.clone()), |x| x + grad)?;
                sum.insert(var, so_far.detach());
            }
        }
        Ok(())
    }

    /// What `with` makes of the parameters while they hold their averages.
    pub(super) fn averaged<R>(&mut self, with: impl FnOnce() -> Result<R>) -> Result<R> {
        match &mut self.ema {
            Some(ema) => ema.averaged(with)?,
            None => with(),
        }
    }

    /// Takes back the last `steps` that a device was asked for and did not take.
    #[cfg(feature = "cuda")]
    pub(super) fn uncount(&mut self, steps: usize) {
        self.adam.uncount(steps);
        if let Some(ema) = &mut self.ema {
            ema.uncount(steps);
        }
    }

    #[cfg(feature = "cuda")]
    pub(super) fn on_device(
        &self,
        data: &crate::data::Dataset,
        device: &candle_core::Device,
    ) -> Result<Option<OnDevice>> {
        let new = || OnDevice::new(data, &self.adam, self.ema.as_ref(), device);
        Ok(device.is_cuda().then(new).transpose()?)
    }

    /// The state of both, by the names that a checkpoint has.
    pub(super) fn state(&self) -> Result<Vec<(&'static str, HashMap<String, Tensor>)>> {
        let mut parts = vec![("adam", self.adam.state()?)];
        if let Some(ema) = &self.ema {
            parts.push(("ema", ema.state()?));
        }
        Ok(parts)
    }

    /// Takes up the state of a checkpoint; nothing is changed unless all of it fits.
    pub(super) fn load_state(&mut self, part: impl Fn(&str) -> HashMap<String, Tensor>) -> Result<()> {
        // The optimiser first: it refuses what does not fit before it changes anything.
        self.adam.load_state(&part("adam"))?;
        if let Some(ema) = &mut self.ema {
            ema.load_state(&part("ema"))?;
        }
        Ok(())
    }
}
