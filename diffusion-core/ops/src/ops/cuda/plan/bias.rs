//! A bias for each channel, and its gradient.

use super::super::launch::{Argument::*, Launch, Real, aligned, check, product};
use candle_core::Result;

/// The operation: adds a bias per channel, (C,) or (B, C), to y (B, C, pixels).
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Bias {
    pub(in crate::ops) real: Real,
    /// B
    pub(in crate::ops) batch: usize,
    /// C
    pub(in crate::ops) channels: usize,
    pub(in crate::ops) pixels: usize,
    /// Whether the bias is (B, C) rather than (C,).
    pub(in crate::ops) by_image: bool,
}

impl Bias {
    /// The f32 scratch elements that the backward pass needs.
    pub(in crate::ops) fn scratch(&self) -> usize {
        match self.by_image {
            true => 0,
            false => self.batch * self.channels,
        }
    }

    /// Adds `bias`, f32, to y in place.
    ///
    /// # Errors
    /// A dimension is 0 or too large.
    pub(in crate::ops) fn forward(&self, y: u64, bias: u64) -> Result<Vec<Launch>> {
        let (rows, length) = self.check()?;
        let period = if self.by_image { rows } else { self.channels };
        let width = self.real.width();
        let wide = length.is_multiple_of(width) && aligned(&[y]);
        Ok(vec![Launch::over(
            length / if wide { width } else { 1 },
            self.real.pick("bias_add_f32", "bias_add_bf16"),
            vec![
                Pointer(y),
                Pointer(bias),
                U64(length as u64),
                U32(self.pixels as u32),
                U32(period as u32),
                U32(wide.into()),
            ],
        )?])
    }

    /// Writes dbias, f32 in the shape of the bias, from dy; `scratch` has [`Bias::scratch`] f32 elements.
    ///
    /// # Errors
    /// See [`Bias::forward`].
    pub(in crate::ops) fn backward(&self, dy: u64, dbias: u64, scratch: u64) -> Result<Vec<Launch>> {
        let (rows, _) = self.check()?;
        let width = self.real.width();
        let wide = self.pixels.is_multiple_of(width) && aligned(&[dy]);
        let sums = if self.by_image { dbias } else { scratch };
        let (blocks, threads, by_block) = teams(rows, self.pixels);
        let mut launches = vec![Launch::new(
            self.real.pick("row_sums_f32", "row_sums_bf16"),
            (blocks, 1),
            threads,
            vec![
                Pointer(sums),
                Pointer(dy),
                U64(rows as u64),
                U32(self.pixels as u32),
                U32(by_block.into()),
                U32(wide.into()),
            ],
        )?];
        if !self.by_image {
            launches.push(column_sums((self.batch, self.channels), (dbias, sums), None)?);
        }
        Ok(launches)
    }

    /// The number of channels over all images, and of elements.
    fn check(&self) -> Result<(usize, usize)> {
        const OP: &str = "bias";
        let Self { batch, channels, pixels, .. } = *self;
        check(OP, &[("batch", batch), ("channels", channels), ("pixels", pixels)])?;
        let rows = product(OP, &[batch, channels])?;
        check(OP, &[("channels of all images", rows)])?;
        Ok((rows, product(OP, &[rows, pixels])?))
    }
}

/// Blocks and threads for `rows` rows of `length` elements, and whether a whole block processes a row instead of a
/// warp.
pub(super) fn teams(rows: usize, length: usize) -> (usize, u32, bool) {
    if length <= 2048 {
        return (rows.div_ceil(8).min(1 << 16), 256, false);
    }
    let threads = if length <= 1 << 14 { 256 } else { 1024 };
    (rows.min(1 << 16), threads, true)
}

/// The sums over the rows of a matrix (rows, columns) of f32, `(to, from)`, and optionally of another of the same
/// shape.
pub(super) fn column_sums(
    (rows, columns): (usize, usize),
    (to, from): (u64, u64),
    other: Option<(u64, u64)>,
) -> Result<Launch> {
    let matrices = if other.is_some() { 2 } else { 1 };
    let (other_to, other_from) = other.unwrap_or_default();
    Launch::new(
        "column_sums",
        (columns.div_ceil(32), matrices),
        256,
        vec![Pointer(to), Pointer(from), Pointer(other_to), Pointer(other_from), U32(rows as u32), U32(columns as u32)],
    )
}
