//! Adam and AdamW, whose state can be saved and loaded.

use super::state::{Expected, check_params, check_state, count_tensor, read_count};
use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Shape, Tensor, Var, bail};
pub use diffusion_ops::optimiser::AdamWConfig;
use diffusion_ops::optimiser::Update;
use std::collections::{BTreeMap, HashMap};

/// Adam ([Kingma & Ba 2015](https://arxiv.org/abs/1412.6980), Algorithm 1) with decoupled weight decay
/// ([Loshchilov & Hutter 2019](https://arxiv.org/abs/1711.05101), Algorithm 2; as in PyTorch, the decay is multiplied
/// by the learning rate).
///
/// For a parameter θ with gradient g, in its k-th update:
///
/// m ← β₁ m + (1−β₁) g, v ← β₂ v + (1−β₂) g²,
/// θ ← (1 − lr·λ) θ − lr · m̂ / (√v̂ + ε), where m̂ = m / (1−β₁ᵏ) and v̂ = v / (1−β₂ᵏ).
///
/// The arithmetic is that of PyTorch, operation by operation. m and v start at 0 and have the type of θ, f32 or f64.
///
/// ```
/// use diffusion_core::{candle::{Device, Var}, train::{AdamW, AdamWConfig}};
/// use std::collections::BTreeMap;
/// let w = Var::new(&[1f32, -2.0], &Device::Cpu)?;
/// let params = BTreeMap::from([("w".to_string(), w.clone())]);
/// let mut adam = AdamW::new(&params, AdamWConfig { lr: 0.1, ..AdamWConfig::adam() })?;
/// adam.step(&w.sqr()?.sum_all()?.backward()?)?;
/// // The first step has size lr and the sign of the gradient.
/// let moved = w.to_vec1::<f32>()?;
/// assert!((moved[0] - 0.9).abs() < 1e-6 && (moved[1] + 1.9).abs() < 1e-6);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
}

/// A parameter and its moments.
#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    /// m, the running mean of the gradient.
    exp_avg: Var,
    /// v, the running mean of the squared gradient.
    exp_avg_sq: Var,
    /// k, the number of updates.
    step: u64,
}

impl Slot {
    /// The names of m, v and k in a saved state: PyTorch's names, prefixed with the parameter's name.
    fn names(&self) -> [String; 3] {
        ["exp_avg", "exp_avg_sq", "step"].map(|part| format!("{}.{part}", self.name))
    }
}

impl AdamW {
    /// Creates an optimiser for `params`, the variables of a network, which it updates in place.
    ///
    /// # Errors
    /// A value of `config` is out of range; `params` is empty, contains a parameter that is neither f32 nor f64, or
    /// contains one variable under two names.
    pub fn new(params: &BTreeMap<String, Var>, config: AdamWConfig) -> Result<Self> {
        config.check()?;
        check_params("adamw", params)?;
        let slot = |(name, var): (&String, &Var)| {
            Ok(Slot {
                name: name.clone(),
                var: var.clone(),
                exp_avg: Var::zeros(var.shape(), var.dtype(), var.device())?,
                exp_avg_sq: Var::zeros(var.shape(), var.dtype(), var.device())?,
                step: 0,
            })
        };
        Ok(Self { config, slots: params.iter().map(slot).collect::<Result<_>>()? })
    }

    /// The settings that the next step uses.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// Sets the learning rate from the next step on.
    ///
    /// # Errors
    /// `lr` is negative or not finite.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        let config = AdamWConfig { lr, ..self.config };
        config.check()?;
        self.config = config;
        Ok(())
    }

    /// Takes one optimiser step. A parameter without a gradient is left unchanged, also by weight decay.
    ///
    /// # Errors
    /// No parameter has a gradient, or a gradient differs from its parameter in shape, type or device. Then nothing is
    /// changed.
    pub fn step(&mut self, grads: &GradStore) -> Result<()> {
        self.step_scaled(grads, 1.0)
    }

    /// Takes one step with all gradients multiplied by `scale`: that of a [`Clip`](super::Clip), or 1/n for n
    /// accumulated batches.
    ///
    /// # Errors
    /// See [`AdamW::step`]; or `scale` is not finite.
    pub fn step_scaled(&mut self, grads: &GradStore, scale: f64) -> Result<()> {
        if !scale.is_finite() {
            bail!("adamw: scale = {scale} must be finite; skip the step if the gradient is not finite")
        }
        let config = self.config;
        for (slot, grad) in self.found(grads)? {
            slot.step += 1;
            let update = Update::new(&config, slot.step, scale);
            update.apply(&slot.var, &slot.exp_avg, &slot.exp_avg_sq, grad)?;
        }
        Ok(())
    }

    /// The parameters that have a gradient, each with its gradient.
    fn found<'a>(&'a mut self, grads: &'a GradStore) -> Result<Vec<(&'a mut Slot, &'a Tensor)>> {
        let mut found = Vec::new();
        for slot in &mut self.slots {
            if let Some(grad) = grads.get(&slot.var) {
                let kind = |x: &Tensor| (x.dims().to_vec(), x.dtype(), x.device().location());
                let (var, grad_is) = (kind(&slot.var), kind(grad));
                if var != grad_is {
                    bail!(
                        "adamw: {} is {var:?} and its gradient {grad_is:?}; shape, type and device must be equal",
                        slot.name
                    )
                }
                found.push((slot, grad));
            }
        }
        if found.is_empty() {
            bail!("adamw: none of the parameters has a gradient; compute the loss from these variables")
        }
        Ok(found)
    }

    /// The parameters in order.
    #[cfg(feature = "cuda")]
    pub fn vars(&self) -> impl Iterator<Item = &Var> {
        self.slots.iter().map(|slot| &slot.var)
    }

    /// Counts a step and returns what a kernel needs to update all parameters at once.
    #[cfg(feature = "cuda")]
    pub fn rows(&mut self, grads: &GradStore) -> Result<(Vec<diffusion_ops::on_device::Row<'_>>, AdamWConfig)> {
        for (slot, _) in self.found(grads)? {
            slot.step += 1;
        }
        let config = self.config;
        let mut rows = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            rows.push(diffusion_ops::on_device::Row {
                theta: slot.var.as_tensor(),
                gradient: grads.get(&slot.var).map(Tensor::contiguous).transpose()?,
                moments: Some([slot.exp_avg.as_tensor(), slot.exp_avg_sq.as_tensor()]),
                average: None,
                rates: Update::new(&config, slot.step.max(1), 1.0).rates(),
            });
        }
        Ok((rows, config))
    }

    /// Undoes the last `steps` counts of [`AdamW::rows`], for steps that were not taken.
    #[cfg(feature = "cuda")]
    pub fn uncount(&mut self, steps: usize) {
        for slot in &mut self.slots {
            slot.step = slot.step.saturating_sub(steps as u64);
        }
    }

    /// Copies the state into named tensors to save: for a parameter `w`, its m, v and k as `w.exp_avg`, `w.exp_avg_sq`
    /// and `w.step`. The configuration is not included.
    ///
    /// # Errors
    /// There is not enough memory for the copies.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state = HashMap::new();
        for slot in &self.slots {
            let [exp_avg, exp_avg_sq, step] = slot.names();
            state.insert(exp_avg, slot.exp_avg.as_detached_tensor().copy()?);
            state.insert(exp_avg_sq, slot.exp_avg_sq.as_detached_tensor().copy()?);
            state.insert(step, count_tensor(slot.step)?);
        }
        Ok(state)
    }

    /// Restores a state from [`AdamW::state`]. With the same parameters, configuration and gradients, the next steps
    /// are identical to the bit.
    ///
    /// # Errors
    /// A tensor is missing, has the wrong shape or type, or belongs to no parameter. Then nothing is changed.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut expected = Expected::new();
        for slot in &self.slots {
            let [exp_avg, exp_avg_sq, step] = slot.names();
            let like = (slot.var.shape().clone(), slot.var.dtype());
            expected.insert(exp_avg, like.clone());
            expected.insert(exp_avg_sq, like);
            expected.insert(step, (Shape::from(()), DType::I64));
        }
        check_state("adamw", &expected, state)?;
        let mut steps = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            steps.push(read_count("adamw", state, &slot.names()[2])?);
        }
        for (slot, step) in self.slots.iter_mut().zip(steps) {
            let [exp_avg, exp_avg_sq, _] = slot.names();
            let device = slot.var.device();
            slot.exp_avg.set(&state[&exp_avg].to_device(device)?)?;
            slot.exp_avg_sq.set(&state[&exp_avg_sq].to_device(device)?)?;
            slot.step = step;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn values_out_of_range_are_errors_that_name_the_field() -> Result<()> {
        let params = BTreeMap::from([("w".to_string(), Var::new(1f32, &Device::Cpu)?)]);
        type Change = fn(&mut AdamWConfig);
        let changes: [(Change, &str); 7] = [
            (|c| c.lr = -1.0, "lr = -1 must be"),
            (|c| c.lr = f64::INFINITY, "lr = inf must be"),
            (|c| c.beta1 = 1.0, "beta1 = 1 must be in [0, 1)"),
            (|c| c.beta2 = -0.1, "beta2 = -0.1 must be in [0, 1)"),
            (|c| c.beta2 = f64::NAN, "beta2 = NaN must be"),
            (|c| c.eps = 0.0, "eps = 0 must be"),
            (|c| c.weight_decay = -0.5, "weight_decay = -0.5 must be"),
        ];
        for (change, want) in changes {
            let mut config = AdamWConfig::default();
            change(&mut config);
            let message = AdamW::new(&params, config).unwrap_err().to_string();
            assert!(message.contains(want), "{message:?} lacks {want:?}");
        }
        let edge = AdamWConfig { lr: 0.0, beta1: 0.0, beta2: 0.0, ..AdamWConfig::default() };
        let mut adam = AdamW::new(&params, edge)?;
        assert!(adam.set_lr(f64::NAN).is_err());
        assert_eq!(adam.config().lr, 0.0, "a refused learning rate is not kept");
        adam.set_lr(0.5)?;
        assert_eq!(adam.config().lr, 0.5);
        Ok(())
    }
}
