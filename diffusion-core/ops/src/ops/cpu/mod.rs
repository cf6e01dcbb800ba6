//! The common parts of the CPU kernels of [`ops`](super): tensors as slices, threads, vector instructions.
//!
//! The kernels are for f32. Other types and devices use the composition of candle operations next to each kernel, which
//! the tests also compare with.

pub(in crate::ops) mod activation;
pub(in crate::ops) mod arch;
pub(in crate::ops) mod attention;
pub(in crate::ops) mod blocks;
#[cfg(test)]
pub(in crate::ops) mod compare;
pub(in crate::ops) mod concat;
pub(in crate::ops) mod embedding;
pub(in crate::ops) mod linear;
pub(in crate::ops) mod loops;
mod memory;
pub(in crate::ops) mod norm;
pub(in crate::ops) mod parallel;
pub(in crate::ops) mod planes;
pub(in crate::ops) mod product;
pub(in crate::ops) mod scratch;
pub(in crate::ops) mod sum;
mod threads;
pub(in crate::ops) mod vector;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};
pub(in crate::ops) use sum::add_to;

/// Whether the kernels can be used for these tensors: f32, on the CPU.
pub(in crate::ops) fn takes(tensors: &[&Tensor]) -> bool {
    let takes = tensors.iter().all(|x| x.dtype() == DType::F32 && x.device().is_cpu());
    if takes {
        memory::keep();
    }
    takes
}

/// The elements of a contiguous f32 tensor.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a tensor of shape {:?} is not contiguous", layout.dims()),
    }
}

/// Calls `f` with the elements of `tensors`, for which [`takes`] must have returned true.
pub(in crate::ops) fn read<const N: usize, R>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> R) -> Result<R> {
    let contiguous = tensors.map(Tensor::contiguous);
    let mut tensors = Vec::with_capacity(N);
    for x in contiguous {
        tensors.push(x?);
    }
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = [&[] as &[f32]; N];
    for (slice_of, (storage, layout)) in slices.iter_mut().zip(&guards) {
        match &**storage {
            Storage::Cpu(storage) => *slice_of = slice(storage, layout)?,
            _ => bail!("a tensor of shape {:?} is not on the CPU", layout.dims()),
        }
    }
    Ok(f(slices))
}
