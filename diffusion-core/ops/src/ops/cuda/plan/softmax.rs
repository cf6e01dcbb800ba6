//! Softmax over the last dimension.

use super::super::launch::{Argument::*, Launch, Real, aligned, check, product};
use super::bias::teams;
use candle_core::Result;

/// The operation: softmax(scale · x) over each row of x (rows, length).
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Softmax {
    pub(in crate::ops) real: Real,
    pub(in crate::ops) rows: usize,
    pub(in crate::ops) length: usize,
    pub(in crate::ops) scale: f32,
}

impl Softmax {
    /// Writes y, which may be x.
    ///
    /// # Errors
    /// A dimension is 0 or too large.
    pub(in crate::ops) fn forward(&self, x: u64, y: u64) -> Result<Vec<Launch>> {
        self.launch(self.real.pick("softmax_f32", "softmax_bf16"), &[y, x])
    }

    /// Writes dx, which may be dy: scale · y (dy − Σ y dy).
    ///
    /// # Errors
    /// See [`Softmax::forward`].
    pub(in crate::ops) fn backward(&self, y: u64, dy: u64, dx: u64) -> Result<Vec<Launch>> {
        let kernel = self.real.pick("softmax_back_f32", "softmax_back_bf16");
        self.launch(kernel, &[dx, y, dy])
    }

    fn launch(&self, kernel: &'static str, addresses: &[u64]) -> Result<Vec<Launch>> {
        check("softmax", &[("length", self.length)])?;
        product("softmax", &[self.rows, self.length])?;
        let wide = self.length.is_multiple_of(self.real.width()) && aligned(addresses);
        let (blocks, threads, by_block) = teams(self.rows, self.length);
        let mut arguments: Vec<_> = addresses.iter().map(|at| Pointer(*at)).collect();
        arguments.extend([
            U64(self.rows as u64),
            U32(self.length as u32),
            F32(self.scale),
            U32(by_block.into()),
            U32(wide.into()),
        ]);
        Ok(vec![Launch::new(kernel, (blocks, 1), threads, arguments)?])
    }
}
