//! The exponential moving average (EMA) of the weights, which gives better samples than the raw weights.

use super::state::{Expected, check_params, check_state, count_tensor, read_count};
use candle_core::{DType, Result, Shape, Tensor, Var, bail};
use diffusion_ops::optimiser::average_in;
use std::collections::{BTreeMap, HashMap};

/// The settings of an [`Ema`]. The default is a decay of 0.9999
/// ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), appendix B) with [`Warmup::Ramp`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmaConfig {
    /// The decay d in [0, 1), the fraction of the average kept at each update. The average covers about 1/(1−d)
    /// updates.
    pub decay: f64,
    /// The decay during the first updates.
    pub warmup: Warmup,
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self { decay: 0.9999, warmup: Warmup::Ramp }
    }
}

/// The warm-up of an [`Ema`]: a smaller decay in the first updates, so that the initial weights are forgotten soon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Warmup {
    /// No warm-up: the same decay from the first update on.
    Off,
    /// The decay min(d, (1+n)/(10+n)) after n updates: 0.1 at first, 0.9 after 80, 0.99 after 890.
    #[default]
    Ramp,
}

/// The exponential moving average of the parameters, θ̄ ← d θ̄ + (1−d) θ after every step, starting at θ̄ = θ (after
/// [Polyak & Juditsky 1992](https://doi.org/10.1137/0330046), who average without decay).
///
/// Training continues with the raw weights θ; samples use θ̄. [`Ema::averaged`] swaps θ̄ into the network temporarily.
///
/// ```
/// use diffusion_core::{candle::{Device, Var}, train::{Ema, EmaConfig, Warmup}};
/// use std::collections::BTreeMap;
/// let w = Var::new(0f32, &Device::Cpu)?;
/// let params = BTreeMap::from([("w".to_string(), w.clone())]);
/// let mut ema = Ema::new(&params, EmaConfig { decay: 0.75, warmup: Warmup::Off })?;
/// w.set(&w.ones_like()?)?;
/// ema.update()?;
/// assert_eq!(ema.averaged(|| w.to_scalar::<f32>())??, 0.25);
/// assert_eq!(w.to_scalar::<f32>()?, 1.0);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Debug)]
pub struct Ema {
    config: EmaConfig,
    slots: Vec<Slot>,
    updates: u64,
    /// The raw weights while the parameters hold the averages.
    set_aside: Option<Vec<Tensor>>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    average: Var,
}

impl Slot {
    /// The name of the average in a saved state.
    fn state_name(&self) -> String {
        format!("{}.average", self.name)
    }
}

impl Ema {
    /// Creates an average of `params`, the variables of a network, starting from their present values.
    ///
    /// # Errors
    /// `config.decay` is not in [0, 1); `params` is empty, contains a parameter that is neither f32 nor f64, or
    /// contains one variable under two names.
    pub fn new(params: &BTreeMap<String, Var>, config: EmaConfig) -> Result<Self> {
        if !(0.0..1.0).contains(&config.decay) {
            bail!("ema: decay = {} must be in [0, 1)", config.decay)
        }
        check_params("ema", params)?;
        let slot = |(name, var): (&String, &Var)| {
            Ok(Slot { name: name.clone(), var: var.clone(), average: Var::from_tensor(&var.as_detached_tensor())? })
        };
        Ok(Self { config, slots: params.iter().map(slot).collect::<Result<_>>()?, updates: 0, set_aside: None })
    }

    /// The settings of the average.
    pub fn config(&self) -> &EmaConfig {
        &self.config
    }

    /// n, the number of updates so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The decay d of the next update.
    pub fn decay(&self) -> f64 {
        let n = self.updates as f64;
        match self.config.warmup {
            Warmup::Off => self.config.decay,
            Warmup::Ramp => self.config.decay.min((1.0 + n) / (10.0 + n)),
        }
    }

    /// Updates the average; call it after each optimiser step.
    ///
    /// # Errors
    /// The parameters currently hold the averages.
    pub fn update(&mut self) -> Result<()> {
        if self.set_aside.is_some() {
            bail!("ema: the parameters hold the averages; call restore before training on")
        }
        let weight = 1.0 - self.decay();
        for Slot { var, average, .. } in &self.slots {
            average_in(average, var, weight)?;
        }
        self.updates += 1;
        Ok(())
    }

    /// Counts an update made by a kernel and returns the weight of the parameters in it.
    #[cfg(feature = "cuda")]
    pub fn count(&mut self) -> f64 {
        let weight = 1.0 - self.decay();
        self.updates += 1;
        weight
    }

    /// Undoes the last `updates` counts of [`Ema::count`], for updates that were not made.
    #[cfg(feature = "cuda")]
    pub fn uncount(&mut self, updates: usize) {
        self.updates = self.updates.saturating_sub(updates as u64);
    }

    /// The parameters with their averages, in order.
    #[cfg(feature = "cuda")]
    pub fn pairs(&self) -> impl Iterator<Item = (&Tensor, &Tensor)> {
        self.slots.iter().map(|slot| (slot.var.as_tensor(), slot.average.as_tensor()))
    }

    /// Copies of the averages by parameter name: the EMA weights to save for sampling.
    ///
    /// # Errors
    /// There is not enough memory for the copies.
    pub fn averages(&self) -> Result<HashMap<String, Tensor>> {
        let average = |slot: &Slot| Ok((slot.name.clone(), copy(&slot.average)?));
        self.slots.iter().map(average).collect()
    }

    /// Swaps the averages into the parameters, until [`Ema::restore`].
    ///
    /// # Errors
    /// The parameters already hold the averages, or there is not enough memory to keep the raw weights.
    pub fn apply(&mut self) -> Result<()> {
        if self.set_aside.is_some() {
            bail!("ema: the parameters hold the averages already; call restore first")
        }
        let own: Vec<Tensor> = self.slots.iter().map(|slot| copy(&slot.var)).collect::<Result<_>>()?;
        self.set_aside = Some(own);
        self.slots.iter().try_for_each(|slot| slot.var.set(&slot.average))
    }

    /// Restores the raw weights that the parameters had before [`Ema::apply`].
    ///
    /// # Errors
    /// The parameters do not hold the averages.
    pub fn restore(&mut self) -> Result<()> {
        let Some(own) = &self.set_aside else { bail!("ema: there is nothing to restore; call apply first") };
        for (slot, own) in self.slots.iter().zip(own) {
            slot.var.set(own)?;
        }
        self.set_aside = None;
        Ok(())
    }

    /// Calls `f` while the parameters hold the averages, then restores the raw weights, even if `f` fails.
    ///
    /// # Errors
    /// See [`Ema::apply`]. The result of `f` is returned, also if it is an error.
    pub fn averaged<R>(&mut self, f: impl FnOnce() -> R) -> Result<R> {
        self.apply()?;
        let result = f();
        self.restore()?;
        Ok(result)
    }

    /// Copies the state into named tensors to save: the average of a parameter `w` as `w.average`, and n as `updates`.
    /// The configuration is not included.
    ///
    /// # Errors
    /// There is not enough memory for the copies.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state = HashMap::from([("updates".to_string(), count_tensor(self.updates)?)]);
        for slot in &self.slots {
            state.insert(slot.state_name(), copy(&slot.average)?);
        }
        Ok(state)
    }

    /// Restores a state from [`Ema::state`]. With the same configuration and parameters, the next averages are
    /// identical to the bit.
    ///
    /// # Errors
    /// A tensor is missing, has the wrong shape or type, or belongs to no parameter. Then nothing is changed.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut expected = Expected::from([("updates".to_string(), (Shape::from(()), DType::I64))]);
        for slot in &self.slots {
            let like = (slot.var.shape().clone(), slot.var.dtype());
            expected.insert(slot.state_name(), like);
        }
        check_state("ema", &expected, state)?;
        self.updates = read_count("ema", state, "updates")?;
        for slot in &self.slots {
            let average = state[&slot.state_name()].to_device(slot.var.device())?;
            slot.average.set(&average)?;
        }
        Ok(())
    }
}

fn copy(var: &Var) -> Result<Tensor> {
    var.as_detached_tensor().copy()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_ramp_ends_at_the_decay() -> Result<()> {
        let params = BTreeMap::from([("w".to_string(), Var::new(0f32, &Device::Cpu)?)]);
        let config = EmaConfig { decay: 0.5, warmup: Warmup::Ramp };
        let mut ema = Ema::new(&params, config)?;
        let mut decays = vec![];
        for _ in 0..10 {
            decays.push(ema.decay());
            ema.update()?;
        }
        assert_eq!(decays[..3], [0.1, 2.0 / 11.0, 3.0 / 12.0]);
        assert_eq!(decays[8..], [0.5, 0.5]);
        Ok(())
    }
}
