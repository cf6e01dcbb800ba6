//! Rows of a table, and what each row receives back.

use super::{read, slice, stored};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// The operation: of a table (N, D), the rows of these numbers.
pub(in crate::ops) struct Rows(pub(in crate::ops) Vec<usize>);

impl CustomOp1 for Rows {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, columns) = layout.shape().dims2()?;
        let table = slice(table, layout)?;
        let mut out = Vec::with_capacity(self.0.len() * columns);
        for id in &self.0 {
            out.extend_from_slice(&table[id * columns..][..columns]);
        }
        Ok(stored(out, (self.0.len(), columns)))
    }

    /// Row after row in the order of the ids, so that the sums are the same on every run.
    fn bwd(&self, table: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        let (_, columns) = table.dims2()?;
        let mut sums = vec![0f32; table.elem_count()];
        read([dout], |[dout]| {
            for (i, id) in self.0.iter().enumerate() {
                let dout = &dout[i * columns..][..columns];
                for (sum, x) in sums[id * columns..][..columns].iter_mut().zip(dout) {
                    *sum += x;
                }
            }
        })?;
        Tensor::from_vec(sums, table.shape(), table.device()).map(Some)
    }
}
