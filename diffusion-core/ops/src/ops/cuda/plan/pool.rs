//! Pooling: one value for each square of pixels.

use super::super::launch::{Argument::*, Launch, Real, check, product};
use candle_core::{Result, bail};

/// The operation: from (planes, H, W) to (planes, ⌊H / size⌋, ⌊W / size⌋); planes is B·C.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Pool {
    pub(in crate::ops) real: Real,
    pub(in crate::ops) planes: usize,
    pub(in crate::ops) height: usize,
    pub(in crate::ops) width: usize,
    /// The side of a square, and the stride.
    pub(in crate::ops) size: usize,
    /// Whether to compute the mean instead of the maximum.
    pub(in crate::ops) mean: bool,
}

impl Pool {
    /// # Errors
    /// A dimension is 0 or too large, or the image is smaller than a square.
    pub(in crate::ops) fn forward(&self, x: u64, y: u64) -> Result<Vec<Launch>> {
        let (rows, columns) = self.check()?;
        self.launch(self.real.pick("pool_f32", "pool_bf16"), &[y, x], self.planes * rows * columns)
    }

    /// Writes dx; x is only read for the maximum.
    ///
    /// # Errors
    /// See [`Pool::forward`].
    pub(in crate::ops) fn backward(&self, x: u64, dy: u64, dx: u64) -> Result<Vec<Launch>> {
        self.check()?;
        self.launch(
            self.real.pick("pool_back_f32", "pool_back_bf16"),
            &[dx, x, dy],
            self.planes * self.height * self.width,
        )
    }

    fn launch(&self, kernel: &'static str, addresses: &[u64], length: usize) -> Result<Vec<Launch>> {
        let mut arguments: Vec<_> = addresses.iter().map(|at| Pointer(*at)).collect();
        arguments.extend([
            U64(length as u64),
            U32(self.height as u32),
            U32(self.width as u32),
            U32((self.height / self.size) as u32),
            U32((self.width / self.size) as u32),
            U32(self.size as u32),
            U32(self.mean.into()),
        ]);
        Ok(vec![Launch::over(length, kernel, arguments)?])
    }

    /// The rows and columns of y.
    fn check(&self) -> Result<(usize, usize)> {
        const OP: &str = "pool";
        let Self { planes, height, width, size, .. } = *self;
        check(OP, &[("planes", planes), ("height", height), ("width", width), ("size", size)])?;
        product(OP, &[planes, height, width])?;
        if height < size || width < size || size > 1 << 15 {
            bail!("{OP}: an image of {height}×{width} has no square of {size}×{size}")
        }
        Ok((height / size, width / size))
    }
}
