//! The arithmetic of one AdamW step: [`AdamW`](super::AdamW) has the formula.

use super::AdamWConfig;
use super::in_place::{CHUNK, Real, lerp, lerp_tensors, write, write_from};
use candle_core::{DType, Result, Tensor, Var};
use rayon::prelude::*;

/// The coefficients of one step of one parameter.
pub(super) struct Update {
    scale: f64,
    /// 1 − β₁
    mean_weight: f64,
    beta2: f64,
    /// 1 − lr·λ
    keep: f64,
    /// lr / (1−β₁ᵏ)
    step_size: f64,
    /// √(1−β₂ᵏ)
    correction: f64,
    eps: f64,
}

impl Update {
    /// The coefficients of step `step`, counted from 1.
    pub(super) fn new(config: &AdamWConfig, step: u64, scale: f64) -> Self {
        let left = |beta: f64| 1.0 - libm::pow(beta, step as f64);
        Self {
            scale,
            mean_weight: 1.0 - config.beta1,
            beta2: config.beta2,
            keep: 1.0 - config.lr * config.weight_decay,
            step_size: config.lr / left(config.beta1),
            correction: left(config.beta2).sqrt(),
            eps: config.eps,
        }
    }

    /// What is the same for all parameters, for the kernel that moves them together.
    #[cfg(feature = "cuda")]
    pub(super) fn for_all(&self, share: f64, average_weight: f64) -> crate::ops::FusedUpdate {
        crate::ops::FusedUpdate {
            share,
            beta1: 1.0 - self.mean_weight,
            beta2: self.beta2,
            keep: self.keep,
            eps: self.eps,
            average_weight,
        }
    }

    /// What is a parameter's own: lr / (1−β₁ᵏ) and √(1−β₂ᵏ).
    #[cfg(feature = "cuda")]
    pub(super) fn rates(&self) -> [f64; 2] {
        [self.step_size, self.correction]
    }

    /// Moves the parameter `theta` and its moments `m` and `v` by its gradient `g`; all four of one shape, type and device.
    pub(super) fn apply(&self, theta: &Var, m: &Var, v: &Var, g: &Tensor) -> Result<()> {
        match (theta.device().is_cpu(), theta.dtype()) {
            (true, DType::F32) => self.fused::<f32>(theta, m, v, g),
            (true, DType::F64) => self.fused::<f64>(theta, m, v, g),
            _ => self.composed(theta, m, v, g),
        }
    }

    /// On the CPU: each element of θ, g, m and v is read once, and those of θ, m and v written once.
    fn fused<T: Real>(&self, theta: &Var, m: &Var, v: &Var, g: &Tensor) -> Result<()> {
        write::<T>(m, |m| {
            write::<T>(v, |v| {
                write_from::<T>(theta, g, |theta, g| {
                    if theta.len() <= CHUNK {
                        self.elements(theta, g, m, v);
                    } else {
                        let (theta, g) = (theta.par_chunks_mut(CHUNK), g.par_chunks(CHUNK));
                        let (m, v) = (m.par_chunks_mut(CHUNK), v.par_chunks_mut(CHUNK));
                        (theta, g, m, v)
                            .into_par_iter()
                            .for_each(|(theta, g, m, v)| self.elements(theta, g, m, v));
                    }
                    Ok(())
                })
            })
        })
    }

    fn elements<T: Real>(&self, theta: &mut [T], g: &[T], m: &mut [T], v: &mut [T]) {
        let [scale, mean_weight, beta2, square_weight] =
            [self.scale, self.mean_weight, self.beta2, 1.0 - self.beta2].map(T::from_f64);
        let [keep, step_size, correction, eps] =
            [self.keep, self.step_size, self.correction, self.eps].map(T::from_f64);
        for (((theta, g), m), v) in theta.iter_mut().zip(g).zip(m).zip(v) {
            let g = scale * *g;
            *m = lerp(*m, g, mean_weight);
            *v = beta2 * *v + square_weight * g * g;
            *theta = keep * *theta - step_size * *m / (v.sqrt() / correction + eps);
        }
    }

    /// The same by candle's operations, on any device.
    fn composed(&self, theta: &Var, m: &Var, v: &Var, g: &Tensor) -> Result<()> {
        let g = (g.detach() * self.scale)?;
        let new_m = lerp_tensors(&m.as_detached_tensor(), &g, self.mean_weight)?;
        let new_v = (v.as_detached_tensor() * self.beta2)?;
        let new_v = (new_v + (g.sqr()? * (1.0 - self.beta2))?)?;
        let denominator = ((new_v.sqrt()? / self.correction)? + self.eps)?;
        let kept = (theta.as_detached_tensor() * self.keep)?;
        theta.set(&(kept - ((&new_m * self.step_size)? / denominator)?)?)?;
        m.set(&new_m)?;
        v.set(&new_v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use candle_core::Device;

    /// The path of other devices, tried on the CPU: equal to the one pass but for rounding, in both halves of `lerp`.
    #[test]
    fn the_composition_equals_the_one_pass() -> Result<()> {
        let mut rng = Rng::new(1);
        for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F64, 1e-14)] {
            for beta1 in [0.9, 0.2, 0.0] {
                let config = AdamWConfig {
                    lr: 0.01,
                    beta1,
                    ..AdamWConfig::default()
                };
                let mut random = || rng.randn((CHUNK + 3, 2), &Device::Cpu)?.to_dtype(dtype);
                let start = random()?;
                // θ, m and v
                let fresh = || -> Result<[Var; 3]> {
                    let zeros = || Var::from_tensor(&start.zeros_like()?);
                    Ok([Var::from_tensor(&start)?, zeros()?, zeros()?])
                };
                let (one_pass, composed) = (fresh()?, fresh()?);
                for step in 1..4 {
                    let (update, g) = (Update::new(&config, step, 0.7), random()?);
                    let [theta, m, v] = &one_pass;
                    update.apply(theta, m, v, &g)?;
                    let [theta, m, v] = &composed;
                    update.composed(theta, m, v, &g)?;
                }
                let off = |a: &Tensor, b: &Tensor| -> Result<f64> {
                    let off = (a.detach() - b.detach())?.abs()?.max_all()?;
                    off.to_dtype(DType::F64)?.to_scalar()
                };
                for (a, b) in one_pass.iter().zip(&composed) {
                    assert!(off(a, b)? < tolerance, "{dtype:?}, {beta1}: {}", off(a, b)?);
                }
                assert!(off(&one_pass[0], &start)? > 0.01, "it has moved");
            }
        }
        Ok(())
    }
}
