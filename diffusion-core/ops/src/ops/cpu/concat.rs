//! Concatenation of two tensors, image by image.

use super::super::graph::{Gradient, Kernel};
use super::loops::{Pieces, written};
use super::parallel::for_each;
use candle_core::Shape;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// The minimum number of elements in a piece of work.
const PIECE: usize = 1 << 14;

/// The operation on a (B, C, …) and b (B, D, …).
pub(in crate::ops) struct Concat;

impl Kernel<2> for Concat {
    fn forward(&self, [a, b]: [&[f32]; 2], shapes: [&Shape; 2]) -> (Vec<f32>, Shape) {
        let mut dims = shapes[0].dims().to_vec();
        dims[1] += shapes[1].dims()[1];
        let (of_a, of_b) = (a.len() / dims[0], b.len() / dims[0]);
        // SAFETY: every image of the result is written, the first part from a, the rest from b.
        let out = unsafe {
            written(a.len() + b.len(), |out| {
                let out = Pieces::new(out, of_a + of_b);
                in_blocks(dims[0], of_a + of_b, |i| {
                    let (left, right) = out.get(i).split_at_mut(of_a);
                    left.write_copy_of_slice(&a[i * of_a..][..of_a]);
                    right.write_copy_of_slice(&b[i * of_b..][..of_b]);
                });
            })
        };
        (out, dims.into())
    }

    fn needs_arguments(&self) -> bool {
        false
    }

    fn backward(&self, _: [&[f32]; 2], shapes: [&Shape; 2], dy: Gradient, wanted: [bool; 2]) -> [Option<Gradient>; 2] {
        let batch = shapes[0].dims()[0];
        let [of_a, of_b] = shapes.map(|shape| shape.elem_count() / batch);
        let part = |first: usize, len: usize| {
            let copy = |out: &mut [MaybeUninit<f32>]| {
                let out = Pieces::new(out, len);
                in_blocks(batch, len, |i| {
                    // SAFETY: each i is used once at a time.
                    unsafe { out.get(i) }.write_copy_of_slice(&dy[i * (of_a + of_b) + first..][..len]);
                });
            };
            // SAFETY: every image is written.
            Arc::new(unsafe { written(batch * len, copy) })
        };
        [wanted[0].then(|| part(0, of_a)), wanted[1].then(|| part(of_a, of_b))]
    }
}

/// Calls `work` for each i below `n`, in blocks if each call handles few elements.
fn in_blocks(n: usize, numbers: usize, work: impl Fn(usize) + Sync) {
    let block = (PIECE / numbers).max(1);
    for_each(n.div_ceil(block), || (), |(), i| (i * block..n.min((i + 1) * block)).for_each(&work));
}
