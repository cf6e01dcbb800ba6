//! Compares gradients of parameters with central differences, also for your own layers.

use super::Parameters;
use candle_core::{Device, Result, Tensor};
pub use diffusion_ops::ops::gradients::{check, random};

/// Half the step of a central difference; the truncation error is of order STEP², the rounding error 1e-16 / STEP.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-6;

/// Asserts that the gradient of `f` with respect to each of `params`, which are f64, equals the central difference.
pub fn check_params(what: &str, params: &Parameters, f: impl Fn() -> Result<Tensor>) -> Result<()> {
    let weights = random(102, f()?.shape())?;
    let loss = || (f()? * &weights)?.sum_all();
    let grads = loss()?.backward()?;
    for (name, var) in params.iter() {
        let grad = grads.get(var).unwrap_or_else(|| panic!("{what}: {name} has no gradient"));
        let grad = grad.flatten_all()?.to_vec1::<f64>()?;
        let values = var.flatten_all()?.to_vec1::<f64>()?;
        for (j, got) in grad.into_iter().enumerate() {
            let at = |moved: f64| {
                let mut values = values.clone();
                values[j] += moved;
                var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
                loss()?.to_scalar::<f64>()
            };
            let want = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
            at(0.0)?;
            assert!(
                (got - want).abs() <= TOLERANCE * (1.0 + want.abs()),
                "{what}: {name}, element {j}: gradient {got}, central difference {want}"
            );
        }
    }
    Ok(())
}
