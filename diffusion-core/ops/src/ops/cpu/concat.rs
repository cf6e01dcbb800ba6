//! Two tensors into one, image by image.

use super::loops::{Pieces, written};
use super::parallel::for_each;
use super::{slice, stored};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

/// How many numbers, at the least, are a piece of work.
const PIECE: usize = 1 << 14;

/// The operation: of a (B, C, …) and b (B, D, …).
pub(in crate::ops) struct Concat;

impl CustomOp2 for Concat {
    fn name(&self) -> &'static str {
        "concat_channels"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut dims = a_layout.dims().to_vec();
        dims[1] += b_layout.dims()[1];
        let (a, b, batch) = (slice(a, a_layout)?, slice(b, b_layout)?, dims[0]);
        let (of_a, of_b) = (a.len() / batch, b.len() / batch);
        // SAFETY: every image of the result is written, the first part from a, the rest from b.
        let out = unsafe {
            written(a.len() + b.len(), |out| {
                let out = Pieces::new(out, of_a + of_b);
                in_blocks(batch, of_a + of_b, |i| {
                    let (left, right) = out.get(i).split_at_mut(of_a);
                    left.write_copy_of_slice(&a[i * of_a..][..of_a]);
                    right.write_copy_of_slice(&b[i * of_b..][..of_b]);
                });
            })
        };
        Ok(stored(out, dims))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        // Views: candle adds them to what the arguments have received so far, which copies them anyway.
        let part = |of: &Tensor, from: usize| of.track_op().then(|| dout.narrow(1, from, of.dims()[1])).transpose();
        Ok((part(a, 0)?, part(b, a.dims()[1])?))
    }
}

/// Calls `work` for each i below `n`, several at a time if what each does is of few numbers.
fn in_blocks(n: usize, numbers: usize, work: impl Fn(usize) + Sync) {
    let block = (PIECE / numbers).max(1);
    for_each(n.div_ceil(block), || (), |(), i| (i * block..n.min((i + 1) * block)).for_each(&work));
}
