//! The elements of CPU tensors as slices, for one pass over several tensors; and `lerp`, which AdamW and EMA share.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor, Var, WithDType, bail};
use std::cell::RefCell;

/// The number of elements for a thread at a time. The chunks, and so the results, do not depend on the number of
/// threads.
pub(super) const CHUNK: usize = 1 << 15;

/// The types of trainable parameters: f32 and f64.
pub(super) trait Real: WithDType {
    fn sqrt(self) -> Self;
    fn widen(self) -> f64;
    fn elements(storage: &mut CpuStorage) -> Option<&mut Vec<Self>>;
}

macro_rules! real {
    ($type:ty, $variant:ident) => {
        impl Real for $type {
            #[inline]
            fn sqrt(self) -> Self {
                <$type>::sqrt(self)
            }
            #[inline]
            fn widen(self) -> f64 {
                self.into()
            }
            fn elements(storage: &mut CpuStorage) -> Option<&mut Vec<Self>> {
                match storage {
                    CpuStorage::$variant(elements) => Some(elements),
                    _ => None,
                }
            }
        }
    };
}
real!(f32, F32);
real!(f64, F64);

/// a + w (b − a), computed from the nearer end so that w = 1 gives exactly b, as in PyTorch's `lerp`.
#[inline]
pub(super) fn lerp<T: Real>(a: T, b: T, w: T) -> T {
    if w + w < T::one() { a + w * (b - a) } else { b - (b - a) * (T::one() - w) }
}

/// [`lerp`] of tensors, on any device.
pub(super) fn lerp_tensors(a: &Tensor, b: &Tensor, w: f64) -> Result<Tensor> {
    let difference = (b - a)?;
    if w < 0.5 { a + (difference * w)? } else { b - (difference * (1.0 - w))? }
}

/// A pass over the elements of the tensor that is written and of the one that is read.
type Pass<'a, T> = dyn FnMut(&mut [T], &[T]) -> Result<()> + 'a;

/// A [`Pass`] as an in-place operation of candle.
struct InPlace<'a, T>(RefCell<&'a mut Pass<'a, T>>);

/// Calls `pass` with the elements of `x`, a CPU tensor, for writing.
pub(super) fn write<T: Real>(x: &Var, mut pass: impl FnMut(&mut [T]) -> Result<()>) -> Result<()> {
    x.inplace_op1(&InPlace(RefCell::new(&mut |x: &mut [T], _: &[T]| pass(x))))
}

/// Calls `pass` with the elements of `x`, for writing, and of `from`, with the same shape and type; both on the CPU.
pub(super) fn write_from<T: Real>(
    x: &Var,
    from: &Tensor,
    mut pass: impl FnMut(&mut [T], &[T]) -> Result<()>,
) -> Result<()> {
    x.inplace_op2(&from.contiguous()?, &InPlace(RefCell::new(&mut pass)))
}

impl<T: Real> InPlace<'_, T> {
    fn run(&self, x: &mut CpuStorage, layout: &Layout, from: &[T]) -> Result<()> {
        match (T::elements(x), layout.contiguous_offsets()) {
            (Some(x), Some((start, end))) => (self.0.borrow_mut())(&mut x[start..end], from),
            (None, _) => bail!("a variable is not of type {:?}", T::DTYPE),
            (_, None) => bail!("a variable of shape {:?} is not contiguous", layout.dims()),
        }
    }
}

impl<T: Real> InplaceOp1 for InPlace<'_, T> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        self.run(x, layout, &[])
    }
}

impl<T: Real> InplaceOp2 for InPlace<'_, T> {
    fn name(&self) -> &'static str {
        "write from a tensor"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout, from: &CpuStorage, from_layout: &Layout) -> Result<()> {
        match from_layout.contiguous_offsets() {
            Some((start, end)) => self.run(x, layout, &from.as_slice::<T>()?[start..end]),
            None => bail!("a tensor of shape {:?} is not contiguous", from_layout.dims()),
        }
    }
}
