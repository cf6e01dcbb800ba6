//! Checks gradients against central differences, also for your own operations.

use crate::rng::Rng;
use candle_core::{DType, Device, Result, Shape, Tensor, Var};

/// Half the step of a central difference; the truncation error is of order STEP², the rounding error 1e-16 / STEP.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-6;

/// Standard normal numbers in f64.
pub fn random(seed: u64, shape: impl Into<Shape>) -> Result<Tensor> {
    Rng::new(seed).randn(shape, &Device::Cpu)?.to_dtype(DType::F64)
}

/// Asserts that the gradient of `f` with respect to each of `inputs`, in f64, agrees with central differences.
///
/// The loss weights every element of the result with a random number. It also uses each input directly, before and
/// after `f`, which reveals a gradient that overwrites another; and the gradient that reaches `f` is contiguous once
/// and transposed once.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::ops::{gradients::{check, random}, silu};
/// check("silu", &[random(1, (2, 3))?], |x| silu(&x[0]))?;
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
///
/// # Panics
/// A gradient is missing, has the wrong shape or differs from the central difference; the message contains `what`.
pub fn check(what: &str, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<()> {
    let vars = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = f(&tensors)?;
    let weights = random(101, out.shape())?;
    let beside = |x: &[Tensor]| {
        x.iter().enumerate().try_fold(Tensor::new(0f64, &Device::Cpu)?, |sum, (i, x)| {
            sum + (x.sqr()? * random(200 + i as u64, x.shape())?)?.sum_all()?
        })
    };
    let last = out.rank().saturating_sub(1);
    let first = beside(&tensors)?;
    let straight = (first + (&out * &weights)?.sum_all()?)?.backward()?;
    let turned = (f(&tensors)?.transpose(0, last)? * weights.transpose(0, last)?)?.sum_all()?;
    let turned = (turned + beside(&tensors)?)?.backward()?;

    let loss = |x: &[Tensor]| ((f(x)? * &weights)?.sum_all()? + beside(x)?)?.to_scalar::<f64>();
    for (i, input) in inputs.iter().enumerate() {
        let [straight, turned] = [&straight, &turned].map(|grads| {
            let grad = grads.get(&vars[i]).unwrap_or_else(|| panic!("{what}: input {i} has no gradient"));
            assert_eq!(grad.dims(), input.dims(), "{what}: gradient of input {i}");
            grad.flatten_all().and_then(|g| g.to_vec1::<f64>())
        });
        let (straight, turned) = (straight?, turned?);
        let values = input.flatten_all()?.to_vec1::<f64>()?;
        for j in 0..values.len() {
            let at = |moved: f64| {
                let mut values = values.clone();
                values[j] += moved;
                let mut x = tensors.clone();
                x[i] = Tensor::from_vec(values, input.shape(), &Device::Cpu)?;
                loss(&x)
            };
            let want = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
            for (way, got) in [("straight", straight[j]), ("turned", turned[j])] {
                assert!(
                    (got - want).abs() <= TOLERANCE * (1.0 + want.abs()),
                    "{what}: input {i} of shape {:?}, element {j}, {way}: gradient {got}, central difference {want}",
                    input.dims()
                );
            }
        }
    }
    Ok(())
}
