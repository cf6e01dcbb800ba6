//! Rows of a table, and their gradients.

use super::super::graph::{Gradient, Kernel};
use candle_core::Shape;
use std::sync::Arc;

/// The operation: selects these rows of a table (N, D).
pub(in crate::ops) struct Rows(pub(in crate::ops) Vec<usize>);

impl Kernel<1> for Rows {
    fn forward(&self, [table]: [&[f32]; 1], [shape]: [&Shape; 1]) -> (Vec<f32>, Shape) {
        let columns = shape.dims()[1];
        let rows = self.0.iter().flat_map(|id| &table[id * columns..][..columns]);
        (rows.copied().collect(), (self.0.len(), columns).into())
    }

    fn needs_arguments(&self) -> bool {
        false
    }

    /// Row by row in the order of the ids, so that the sums are the same on every run.
    fn backward(&self, _: [&[f32]; 1], [shape]: [&Shape; 1], dy: Gradient, _: [bool; 1]) -> [Option<Gradient>; 1] {
        let columns = shape.dims()[1];
        let mut sums = vec![0f32; shape.elem_count()];
        for (id, dy) in self.0.iter().zip(dy.chunks_exact(columns)) {
            for (sum, x) in sums[id * columns..][..columns].iter_mut().zip(dy) {
                *sum += x;
            }
        }
        [Some(Arc::new(sums))]
    }
}
