//! An optimiser step: gradient clipping, AdamW or Muon, and EMA.

#[cfg(feature = "cuda")]
use super::on_device::OnDevice;
use super::{AdamW, Ema, Muon, Optimiser as Kind, TrainingConfig, clip_grad_norm};
use crate::nn::Parameters;
use anyhow::Result;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use std::collections::{BTreeMap, HashMap};

/// The optimiser of a training run, with the EMA of its weights.
#[derive(Debug)]
pub(super) struct Optimiser {
    pub(super) parameters: BTreeMap<String, Var>,
    pub(super) adam: AdamW,
    /// For the matrices; AdamW has the rest.
    muon: Option<Muon>,
    pub(super) ema: Option<Ema>,
}

impl Optimiser {
    pub(super) fn new(config: &TrainingConfig, parameters: &Parameters) -> Result<Self> {
        // Buffers too, since running statistics belong to the weights that they were measured with.
        let all = parameters.all().map(|(name, var)| (name.to_owned(), var.clone())).collect::<BTreeMap<_, _>>();
        let ema = (config.ema > 0.0).then(|| Ema::new(&all, config.ema())).transpose()?;
        let parameters = parameters.by_name();
        let (matrices, rest) = match config.optimiser {
            Kind::AdamW => (BTreeMap::new(), parameters.clone()),
            Kind::Muon => parameters.clone().into_iter().partition(|(_, var)| Muon::takes(var)),
        };
        let muon = (!matrices.is_empty()).then(|| Muon::new(&matrices, config.weight_decay)).transpose()?;
        Ok(Self { adam: AdamW::new(&rest, config.adam())?, muon, parameters, ema })
    }

    /// Takes a step along `grads`, the summed gradients of 1/`share` batches, and returns the norm of their mean, which
    /// is clipped. Nothing changes if the norm is not finite.
    pub(super) fn step(&mut self, grads: &GradStore, lr: f64, clip: f64, share: f64) -> Result<f64> {
        let clip = clip_grad_norm(&self.parameters, grads, clip / share)?;
        if clip.norm.is_finite() {
            self.adam.set_lr(lr)?;
            self.adam.step_scaled(grads, clip.scale * share)?;
            if let Some(muon) = &mut self.muon {
                muon.set_lr(lr)?;
                muon.step_scaled(grads, clip.scale * share)?;
            }
            if let Some(ema) = &mut self.ema {
                ema.update()?;
            }
        }
        Ok(clip.norm * share)
    }

    /// Adds the gradients of another batch.
    pub(super) fn add(&self, sum: &mut GradStore, grads: &GradStore) -> Result<()> {
        for var in self.parameters.values() {
            if let Some(grad) = grads.get(var) {
                let so_far = sum.get(var).map_or_else(|| Ok(grad.clone()), |x| x + grad)?;
                sum.insert(var, so_far.detach());
            }
        }
        Ok(())
    }

    /// Calls `with` while the parameters hold their averages.
    pub(super) fn averaged<R>(&mut self, with: impl FnOnce() -> Result<R>) -> Result<R> {
        match &mut self.ema {
            Some(ema) => ema.averaged(with)?,
            None => with(),
        }
    }

    /// Undoes the counts of the last `steps` steps, which a device was asked for and did not take.
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
        // Muon is composed of operations that the CPU asks for one by one.
        Ok((device.is_cuda() && self.muon.is_none()).then(new).transpose()?)
    }

    /// The state of the optimiser and the EMA, by the names in a checkpoint.
    pub(super) fn state(&self) -> Result<Vec<(&'static str, HashMap<String, Tensor>)>> {
        let mut parts = vec![("adam", self.adam.state()?)];
        if let Some(muon) = &self.muon {
            parts.push(("muon", muon.state()?));
        }
        if let Some(ema) = &self.ema {
            parts.push(("ema", ema.state()?));
        }
        Ok(parts)
    }

    /// Restores the state from a checkpoint. Nothing is changed if any part does not fit.
    pub(super) fn load_state(&mut self, part: impl Fn(&str) -> HashMap<String, Tensor>) -> Result<()> {
        // The optimiser first: it checks everything before it changes anything.
        self.adam.load_state(&part("adam"))?;
        if let Some(muon) = &mut self.muon {
            muon.load_state(&part("muon"))?;
        }
        if let Some(ema) = &mut self.ema {
            ema.load_state(&part("ema"))?;
        }
        Ok(())
    }
}
