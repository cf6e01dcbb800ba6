//! Element-wise activations.

use super::super::launch::{Argument::*, Launch, Real, aligned, product};
use super::number;
use crate::ops::Activation;
use candle_core::Result;

/// The operation on `length` elements.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Pointwise {
    pub(in crate::ops) real: Real,
    pub(in crate::ops) length: usize,
    pub(in crate::ops) activation: Activation,
}

impl Pointwise {
    /// Writes y, which may be x.
    ///
    /// # Errors
    /// There are no elements.
    pub(in crate::ops) fn forward(&self, x: u64, y: u64) -> Result<Vec<Launch>> {
        let kernel = self.real.pick("activate_f32", "activate_bf16");
        self.launch(kernel, &[y, x])
    }

    /// Writes dx, which may be dy.
    ///
    /// # Errors
    /// There are no elements.
    pub(in crate::ops) fn backward(&self, x: u64, dy: u64, dx: u64) -> Result<Vec<Launch>> {
        let kernel = self.real.pick("activate_back_f32", "activate_back_bf16");
        self.launch(kernel, &[dx, x, dy])
    }

    fn launch(&self, kernel: &'static str, addresses: &[u64]) -> Result<Vec<Launch>> {
        product(kernel, &[self.length])?;
        let wide = aligned(addresses);
        let packs = self.length.div_ceil(if wide { self.real.width() } else { 1 });
        let mut arguments: Vec<_> = addresses.iter().map(|at| Pointer(*at)).collect();
        arguments.extend([U64(self.length as u64), U32(number(self.activation)), U32(wide.into())]);
        Ok(vec![Launch::over(packs, kernel, arguments)?])
    }
}
