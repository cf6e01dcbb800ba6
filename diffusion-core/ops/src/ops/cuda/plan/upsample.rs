//! 2× nearest-neighbour upsampling.

use super::super::launch::{Argument::*, Launch, Real, aligned, check, product};
use candle_core::Result;

/// The operation: from (planes, H, W) to (planes, 2H, 2W); planes is B·C.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Upsample {
    pub(in crate::ops) real: Real,
    pub(in crate::ops) planes: usize,
    pub(in crate::ops) height: usize,
    pub(in crate::ops) width: usize,
}

impl Upsample {
    /// # Errors
    /// A dimension is 0 or too large.
    pub(in crate::ops) fn forward(&self, x: u64, y: u64) -> Result<Vec<Launch>> {
        self.launch(self.real.pick("upsample_f32", "upsample_bf16"), y, x)
    }

    /// # Errors
    /// See [`Upsample::forward`].
    pub(in crate::ops) fn backward(&self, dy: u64, dx: u64) -> Result<Vec<Launch>> {
        let kernel = self.real.pick("upsample_back_f32", "upsample_back_bf16");
        self.launch(kernel, dx, dy)
    }

    fn launch(&self, kernel: &'static str, to: u64, from: u64) -> Result<Vec<Launch>> {
        let Self { planes, height, width, .. } = *self;
        check("upsample", &[("height", height), ("width", width)])?;
        let length = product("upsample", &[planes, height, width])?;
        product("upsample", &[length, 4])?;
        // Half a pack of x gives a whole pack of y.
        let half = self.real.width() / 2;
        let wide = width.is_multiple_of(half) && aligned(&[to, from]);
        Ok(vec![Launch::over(
            length / if wide { half } else { 1 },
            kernel,
            vec![Pointer(to), Pointer(from), U64(length as u64), U32(width as u32), U32(wide.into())],
        )?])
    }
}
