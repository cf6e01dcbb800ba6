//! The exponential moving average of the weights.

use super::in_place::{CHUNK, Real, lerp, lerp_tensors, write_from};
use candle_core::{DType, Result, Var};
use rayon::prelude::*;

/// Updates a moving average: θ̄ ← θ̄ + `weight` · (θ − θ̄), for tensors of one shape, type and device.
///
/// # Errors
/// Shape, type or device differ.
pub fn average_in(average: &Var, var: &Var, weight: f64) -> Result<()> {
    match (var.device().is_cpu(), var.dtype()) {
        (true, DType::F32) => fused::<f32>(average, var, weight),
        (true, DType::F64) => fused::<f64>(average, var, weight),
        _ => composed(average, var, weight),
    }
}

/// On the CPU: reads each element of both once, and writes that of the average once.
fn fused<T: Real>(average: &Var, var: &Var, weight: f64) -> Result<()> {
    let weight = T::from_f64(weight);
    let elements = |average: &mut [T], theta: &[T]| {
        for (average, theta) in average.iter_mut().zip(theta) {
            *average = lerp(*average, *theta, weight);
        }
    };
    write_from::<T>(average, var, |average, theta| {
        if theta.len() <= CHUNK {
            elements(average, theta);
        } else {
            (average.par_chunks_mut(CHUNK), theta.par_chunks(CHUNK))
                .into_par_iter()
                .for_each(|(average, theta)| elements(average, theta));
        }
        Ok(())
    })
}

/// Composed of candle's operations, for any device.
fn composed(average: &Var, var: &Var, weight: f64) -> Result<()> {
    let (old, theta) = (average.as_detached_tensor(), var.as_detached_tensor());
    average.set(&lerp_tensors(&old, &theta, weight)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use candle_core::{Device, Tensor};

    /// The composition, tested on the CPU, equals the single pass in both halves of `lerp`.
    #[test]
    fn the_composition_equals_the_one_pass() -> Result<()> {
        let mut rng = Rng::new(1);
        for weight in [0.001, 0.3, 0.9, 1.0] {
            for dtype in [DType::F32, DType::F64] {
                let mut random = || -> Result<Tensor> { rng.randn((3, CHUNK), &Device::Cpu)?.to_dtype(dtype) };
                let (start, theta) = (random()?, Var::from_tensor(&random()?)?);
                let (a, b) = (Var::from_tensor(&start)?, Var::from_tensor(&start)?);
                match dtype {
                    DType::F32 => fused::<f32>(&a, &theta, weight)?,
                    _ => fused::<f64>(&a, &theta, weight)?,
                }
                composed(&b, &theta, weight)?;
                let off = |x: &Var, y: &Tensor| -> Result<f64> {
                    let off = (x.as_detached_tensor() - y)?.abs()?.max_all()?;
                    off.to_dtype(DType::F64)?.to_scalar()
                };
                assert!(off(&a, &b)? < 1e-6, "{weight} {dtype:?}");
                assert!(off(&a, &start)? > weight, "it has moved");
                assert_eq!(off(&a, &theta)? == 0.0, weight == 1.0);
            }
        }
        Ok(())
    }
}
