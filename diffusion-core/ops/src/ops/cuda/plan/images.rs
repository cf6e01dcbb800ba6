//! Loading images of a data set in device memory.

use super::super::launch::{Argument::*, Launch, aligned, check, product};
use candle_core::Result;

/// The operation: selects `batch` of `count` images of `size` bytes, as f32 in \[−1, 1\].
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Images {
    pub(in crate::ops) count: usize,
    /// C · H · W
    pub(in crate::ops) size: usize,
    pub(in crate::ops) batch: usize,
}

impl Images {
    /// Writes y (batch, size), f32, from `pixels` (count, size), u8, and `indices` (batch,), u32. An image whose index
    /// is not below `count` becomes NaN.
    ///
    /// # Errors
    /// A dimension is 0 or too large.
    pub(in crate::ops) fn forward(&self, pixels: u64, indices: u64, y: u64) -> Result<Vec<Launch>> {
        const OP: &str = "images";
        check(OP, &[("count", self.count), ("size", self.size)])?;
        product(OP, &[self.count, self.size])?;
        let length = product(OP, &[self.batch, self.size])?;
        let wide = self.size.is_multiple_of(4) && aligned(&[pixels, y]);
        Ok(vec![Launch::over(
            length / if wide { 4 } else { 1 },
            OP,
            vec![
                Pointer(y),
                Pointer(pixels),
                Pointer(indices),
                U64(length as u64),
                U32(self.size as u32),
                U32(self.count as u32),
                U32(wide.into()),
            ],
        )?])
    }
}
