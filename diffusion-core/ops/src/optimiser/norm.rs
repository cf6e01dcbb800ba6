//! The norm of a gradient.

use super::in_place::{CHUNK, Real};
use candle_core::{CpuStorage, DType, Result, Storage, Tensor};
use rayon::prelude::*;

/// Σ x², summed in f64 (in f32 on Metal, which lacks f64), in an order that does not depend on the number of threads.
///
/// # Errors
/// `x` is neither f32 nor f64.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let (start, end) = (layout.start_offset(), layout.start_offset() + layout.shape().elem_count());
    match &*storage {
        Storage::Cpu(CpuStorage::F32(x)) => Ok(in_chunks(&x[start..end])),
        Storage::Cpu(CpuStorage::F64(x)) => Ok(in_chunks(&x[start..end])),
        Storage::Metal(_) => Ok(x.sqr()?.sum_all()?.to_scalar::<f32>()?.into()),
        _ => x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar(),
    }
}

fn in_chunks<T: Real>(x: &[T]) -> f64 {
    if x.len() <= CHUNK {
        return in_lanes(x);
    }
    let sums: Vec<f64> = x.par_chunks(CHUNK).map(in_lanes).collect();
    sums.iter().sum()
}

/// Eight independent sums, which a processor adds in parallel.
fn in_lanes<T: Real>(x: &[T]) -> f64 {
    let (blocks, rest) = x.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane += x.widen() * x.widen();
        }
    }
    let rest: f64 = rest.iter().map(|x| x.widen() * x.widen()).sum();
    lanes.iter().sum::<f64>() + rest
}
