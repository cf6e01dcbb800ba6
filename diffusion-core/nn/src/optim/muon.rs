//! Muon, an optimiser of matrices, whose state can be saved and loaded.

use super::state::{Expected, check_params, check_state};
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};
use std::collections::{BTreeMap, HashMap};

/// The decay of the momentum.
const MOMENTUM: f64 = 0.95;
/// The iterations of Newton–Schulz, and the coefficients of X, XXᵀX and (XXᵀ)²X.
const ITERATIONS: usize = 5;
const COEFFICIENTS: [f64; 3] = [3.4445, -4.775, 2.0315];
/// The root mean square of an update, as AdamW's usually are.
const RMS: f64 = 0.2;
/// The smallest number of rows and of columns of a matrix that is worth it.
const SMALLEST: usize = 16;

/// Muon ([Jordan et al. 2024](https://kellerjordan.github.io/posts/muon/)): momentum whose updates are orthogonalised, so
/// that every direction of a weight matrix moves equally far, also those in which gradients are small.
///
/// For a matrix θ of m × n with gradient g:
///
/// b ← μ b + g, u = g + μ b, θ ← (1 − lr·λ) θ − lr · 0.2 √max(m, n) · UVᵀ, where u = UΣVᵀ is the singular value decomposition
///
/// with μ = 0.95. UVᵀ is computed approximately, by five iterations of Newton–Schulz. The factor, of
/// [Liu et al. 2025](https://arxiv.org/abs/2502.16982) (section 2.2), gives the updates the size of AdamW's, so the same learning
/// rate serves both. A convolution's kernel is a matrix with a row for each output channel.
///
/// It is for matrices with at least 16 rows and columns; [`AdamW`](super::AdamW) takes the rest.
#[derive(Debug)]
pub struct Muon {
    lr: f64,
    weight_decay: f64,
    slots: Vec<Slot>,
}

/// A parameter and its momentum.
#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    momentum: Var,
}

impl Muon {
    /// Whether it is for parameters of this shape.
    pub fn takes(var: &Var) -> bool {
        let [rows, columns] = size(var);
        var.rank() >= 2 && rows.min(columns) >= SMALLEST
    }

    /// Creates an optimiser for `params`, which it updates in place, with a learning rate of 0.
    ///
    /// # Errors
    /// `params` is empty, contains a parameter that is neither f32 nor f64, or one that is too small, or contains one variable
    /// under two names; or `weight_decay` is negative or not finite.
    pub fn new(params: &BTreeMap<String, Var>, weight_decay: f64) -> Result<Self> {
        check_params("muon", params)?;
        if !(weight_decay.is_finite() && weight_decay >= 0.0) {
            bail!("muon: weight_decay = {weight_decay} must be at least 0")
        }
        if let Some((name, var)) = params.iter().find(|(_, var)| !Self::takes(var)) {
            bail!("muon: {name} of shape {:?} is not a matrix with at least {SMALLEST} rows and columns", var.dims())
        }
        let slot = |(name, var): (&String, &Var)| {
            let momentum = Var::zeros(var.shape(), var.dtype(), var.device())?;
            Ok(Slot { name: name.clone(), var: var.clone(), momentum })
        };
        Ok(Self { lr: 0.0, weight_decay, slots: params.iter().map(slot).collect::<Result<_>>()? })
    }

    /// Sets the learning rate from the next step on.
    ///
    /// # Errors
    /// `lr` is negative or not finite.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        if !(lr.is_finite() && lr >= 0.0) {
            bail!("muon: lr = {lr} must be at least 0")
        }
        self.lr = lr;
        Ok(())
    }

    /// Takes one step with all gradients multiplied by `scale`. A parameter without a gradient is left unchanged.
    ///
    /// # Errors
    /// A gradient differs from its parameter in shape or type, or `scale` is not finite.
    pub fn step_scaled(&mut self, grads: &GradStore, scale: f64) -> Result<()> {
        if !scale.is_finite() {
            bail!("muon: scale = {scale} must be finite; skip the step if the gradient is not finite")
        }
        for Slot { var, momentum, .. } in &self.slots {
            let Some(grad) = grads.get(var) else { continue };
            let grad = (grad.detach() * scale)?;
            momentum.set(&((momentum.as_detached_tensor() * MOMENTUM)? + &grad)?)?;
            let update = (grad + (momentum.as_detached_tensor() * MOMENTUM)?)?;
            let [rows, columns] = size(var);
            let update = orthogonal(&update.reshape((rows, columns))?)?.reshape(var.shape())?;
            let step = self.lr * RMS * (rows.max(columns) as f64).sqrt();
            let kept = (var.as_detached_tensor() * (1.0 - self.lr * self.weight_decay))?;
            var.set(&(kept - (update * step)?)?)?;
        }
        Ok(())
    }

    /// Copies the state into named tensors to save: for a parameter `w`, its momentum `w.momentum`.
    ///
    /// # Errors
    /// There is not enough memory for the copies.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let copy = |slot: &Slot| Ok((slot.key(), slot.momentum.as_detached_tensor().copy()?));
        self.slots.iter().map(copy).collect()
    }

    /// Restores a state from [`Muon::state`].
    ///
    /// # Errors
    /// A tensor is missing, has the wrong shape or type, or belongs to no parameter. Then nothing is changed.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let like = |slot: &Slot| (slot.key(), (slot.var.shape().clone(), slot.var.dtype()));
        check_state("muon", &self.slots.iter().map(like).collect::<Expected>(), state)?;
        for slot in &self.slots {
            slot.momentum.set(&state[&slot.key()].to_device(slot.var.device())?)?;
        }
        Ok(())
    }
}

impl Slot {
    fn key(&self) -> String {
        format!("{}.momentum", self.name)
    }
}

/// The rows, one for each output, and the columns.
fn size(var: &Tensor) -> [usize; 2] {
    let rows = var.dims().first().copied().unwrap_or(1);
    [rows, var.elem_count() / rows.max(1)]
}

/// About UVᵀ for `x` = UΣVᵀ: the iterations bring every singular value into 0.7 … 1.2.
fn orthogonal(x: &Tensor) -> Result<Tensor> {
    let (rows, columns) = x.dims2()?;
    let mut x = if rows > columns { x.t()?.contiguous()? } else { x.clone() };
    let norm = x.sqr()?.sum_all()?.sqrt()?;
    x = x.broadcast_div(&(norm + 1e-7)?)?;
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..ITERATIONS {
        let gram = x.matmul(&x.t()?)?;
        let polynomial = ((&gram * b)? + (gram.matmul(&gram)? * c)?)?;
        x = ((&x * a)? + polynomial.matmul(&x)?)?;
    }
    if rows > columns { x.t()?.contiguous() } else { Ok(x) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use diffusion_ops::rng::Rng;

    fn matrix(shape: &[usize]) -> Result<(BTreeMap<String, Var>, Var)> {
        let var = Var::from_tensor(&Rng::new(1).randn(shape, &Device::Cpu)?)?;
        Ok(([("w".to_owned(), var.clone())].into(), var))
    }

    #[test]
    fn singular_values_become_nearly_equal() -> Result<()> {
        for shape in [(16, 40), (40, 16)] {
            let x = Rng::new(1).randn(shape, &Device::Cpu)?;
            let y = orthogonal(&x)?;
            let y = if shape.0 > shape.1 { y.t()? } else { y };
            let gram = y.matmul(&y.t()?.contiguous()?)?.to_vec2::<f32>()?;
            for (i, row) in gram.iter().enumerate() {
                assert!((0.4..1.5).contains(&row[i]), "{shape:?}: {}", row[i]);
                // U and V are those of x, so the product is symmetric with x.
                assert!(row.iter().enumerate().all(|(j, v)| i == j || v.abs() < 0.45), "{row:?}");
            }
            let inner = (&x * orthogonal(&x)?)?.sum_all()?.to_scalar::<f32>()?;
            assert!(inner > 0.0);
        }
        Ok(())
    }

    /// A matrix is found whose columns differ a thousand times in their scale.
    #[test]
    fn steps_approach_a_matrix() -> Result<()> {
        let (params, w) = matrix(&[16, 4, 3, 3])?;
        let goal = Rng::new(2).randn((16, 4, 3, 3), &Device::Cpu)?;
        let scales = Tensor::arange(0f32, 36.0, &Device::Cpu)?.affine(1.0 / 36.0, 1e-2)?.reshape((1, 4, 3, 3))?;
        let mut muon = Muon::new(&params, 0.0)?;
        let loss = || (w.as_tensor() - &goal)?.broadcast_mul(&scales)?.sqr()?.sum_all();
        let before = loss()?.to_scalar::<f32>()?;
        for step in 0..100 {
            muon.set_lr(0.3 * (1.0 - step as f64 / 100.0))?;
            muon.step_scaled(&loss()?.backward()?, 1.0)?;
        }
        let after = loss()?.to_scalar::<f32>()?;
        assert!(after < 0.01 * before, "{before} {after}");
        Ok(())
    }

    #[test]
    fn a_restored_state_continues_to_the_bit_and_does_not_depend_on_the_scale() -> Result<()> {
        let run = |stop: usize, scale: f64| {
            let (params, w) = matrix(&[16, 20])?;
            let mut muon = Muon::new(&params, 0.1)?;
            for step in 0..4 {
                muon.set_lr(0.01)?;
                if step == stop {
                    let state = muon.state()?;
                    muon = Muon::new(&params, 0.1)?;
                    muon.set_lr(0.01)?;
                    muon.load_state(&state)?;
                }
                muon.step_scaled(&(w.as_tensor() * 3.0)?.exp()?.sum_all()?.backward()?, scale)?;
            }
            w.flatten_all()?.to_vec1::<f32>()
        };
        assert_eq!(run(9, 1.0)?, run(2, 1.0)?);
        let off = run(9, 1.0)?.iter().zip(run(9, 0.5)?).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-4, "{off}");
        Ok(())
    }

    #[test]
    fn errors_name_what_is_wrong() -> Result<()> {
        let (small, _) = matrix(&[15, 100])?;
        let said = Muon::new(&small, 0.0).unwrap_err().to_string();
        assert!(said.contains("w of shape [15, 100] is not a matrix with at least 16 rows and columns"), "{said}");
        let (params, w) = matrix(&[16, 16])?;
        assert!(Muon::new(&params, -1.0).unwrap_err().to_string().contains("weight_decay = -1"));
        let mut muon = Muon::new(&params, 0.0)?;
        assert!(muon.set_lr(f64::NAN).unwrap_err().to_string().contains("lr = NaN"));
        let grads = w.sqr()?.sum_all()?.backward()?;
        assert!(muon.step_scaled(&grads, f64::INFINITY).unwrap_err().to_string().contains("scale = inf"));
        let state = [("w.momentum".to_owned(), Tensor::zeros((2, 2), DType::F32, &Device::Cpu)?)].into();
        assert!(muon.load_state(&state).unwrap_err().to_string().contains("w.momentum in the state has shape [2, 2]"));
        assert!(!Muon::takes(&Var::zeros(100, DType::F32, &Device::Cpu)?));
        Ok(())
    }
}
