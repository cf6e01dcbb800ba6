//! 3×3 convolution of stride 1 with fewer multiplications ([Lavin & Gray 2015](https://arxiv.org/abs/1509.09308)).
//!
//! The image is split into tiles of M×M outputs, each computed from (M + 2)² inputs. Tiles and filters are transformed.
//! For each of the (M + 2)² elements of a transformed tile, one matrix product combines all channels of all tiles with
//! all filters, and the products are transformed back. With M = 4 this takes 36 multiplications for 16 outputs instead
//! of 144.
//!
//! The gradients use the transposed transforms in reverse order. Both gradients share the transformed gradient of the
//! output.
//!
//! For a 2× upsampled image, 11 of the 36 products (for M = 4) are 0 in all tiles and are skipped.

// Indices are used for rows and columns of small matrices, as in the formulas.
#![allow(clippy::needless_range_loop)]

mod backward;
mod forward;
mod strips;
mod transforms;

use crate::ops::cpu::arch::arch;
use crate::ops::cpu::blocks::{BLOCK, to_block, transpose};
use crate::ops::cpu::parallel::{Shared, for_each, threads};
use crate::ops::cpu::scratch::Scratch;
use crate::ops::cpu::vector::Vector;
pub(super) use backward::{Gradients, Wanted};
use pulp::{Simd, WithSimd};
use std::ops::Range;
use strips::{Strip, rows_per_unit, strips};
use transforms::{Four, Matrix, Transform, Two, ZERO_IF_DOUBLED, column};

/// The number of columns in a panel of transformed filters, the number that a product processes at a time.
const PANEL: usize = 64;
/// Transformed filters with more elements than this count as large, since they exceed the second-level cache…
const LARGE_FILTERS: usize = 1 << 20;
/// …and fewer 4×4 tiles than this, over all images, count as few.
const FEW_TILES: usize = 100;
/// The minimum number of tiles that are transformed before they are multiplied, if there are as many.
const TILES: usize = 48;

/// Computes y (B, O, H', W') from x, weight (O, I, 3, 3) and bias, (O,) or (B, O), or empty for none.
pub(super) fn forward(problem: Problem, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    match problem.tile() {
        TileSize::Two => forward::forward::<Two, 4, 2>(problem, x, weight, bias),
        TileSize::Four => forward::forward::<Four, 6, 4>(problem, x, weight, bias),
    }
}

/// The gradients of x, weight and bias, from `dy`, the gradient of y, (B, O, H', W').
pub(super) fn backward(problem: Problem, x: &[f32], weight: &[f32], dy: &[f32], wanted: Wanted) -> Gradients {
    match problem.tile() {
        TileSize::Two => backward::backward::<Two, 4, 2>(problem, x, weight, dy, wanted),
        TileSize::Four => backward::backward::<Four, 6, 4>(problem, x, weight, dy, wanted),
    }
}

/// Tiles of 2×2 or of 4×4 outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TileSize {
    Two,
    Four,
}

/// The sizes of a 3×3 convolution with stride 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    pub(super) batch: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Height and width of x, before upsampling.
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) padding: usize,
    /// Whether the image is upsampled 2× first; then `padding` is 1.
    pub(super) doubled: bool,
}

impl Problem {
    fn scale(&self) -> usize {
        if self.doubled { 2 } else { 1 }
    }
    /// Height and width of y.
    pub(super) fn out_size(&self) -> (usize, usize) {
        let grown = |size| size * self.scale() + 2 * self.padding - 2;
        (grown(self.height), grown(self.width))
    }

    /// Chooses the tile size with fewer multiplications, which is the larger one except for the smallest images. If
    /// large filters meet few tiles, reading and writing the filters takes longer than multiplying, so the smaller
    /// tiles are used, with 16 elements per filter instead of 36.
    fn tile(&self) -> TileSize {
        let (height, width) = self.out_size();
        let tiles = |size: usize| height.div_ceil(size) * width.div_ceil(size);
        let large = 36 * self.inputs * self.outputs > LARGE_FILTERS && self.batch * tiles(4) < FEW_TILES;
        match large || 16 * tiles(2) < 36 * tiles(4) {
            true => TileSize::Two,
            false => TileSize::Four,
        }
    }
}

/// A problem split into tiles.
#[derive(Clone, Copy)]
struct Plan<const N: usize, const M: usize> {
    problem: Problem,
    out_h: usize,
    out_w: usize,
    tiles_h: usize,
    tiles_w: usize,
    /// The number of products that are not 0 for all tiles.
    products: usize,
    /// The product that each element of a transformed tile belongs to; `products` for those that are 0.
    product_of: [[usize; N]; N],
}

impl<const N: usize, const M: usize> Plan<N, M> {
    fn new(problem: Problem) -> Self {
        let (out_h, out_w) = problem.out_size();
        let mut products = 0;
        let mut product_of = [[usize::MAX; N]; N];
        for (i, row) in product_of.iter_mut().enumerate() {
            for (j, product) in row.iter_mut().enumerate() {
                if !(problem.doubled && (i == ZERO_IF_DOUBLED || j == ZERO_IF_DOUBLED)) {
                    *product = products;
                    products += 1;
                }
            }
        }
        Self {
            problem,
            out_h,
            out_w,
            tiles_h: out_h.div_ceil(M),
            tiles_w: out_w.div_ceil(M),
            products,
            product_of: product_of.map(|row| row.map(|product| product.min(products))),
        }
    }

    fn tiles(&self) -> usize {
        self.tiles_h * self.tiles_w
    }
}

/// The transformed tiles: for each product and each tile, the channels.
struct Transformed {
    numbers: Scratch,
    /// The distance between products.
    product: usize,
    /// The distance between tiles.
    tile: usize,
}

impl Transformed {
    fn new(products: usize, tiles: usize, channels: usize) -> Self {
        let tile = channels.next_multiple_of(BLOCK);
        // Not a multiple of the page size, or the elements of a tile would all compete for the same cache lines.
        let product = tiles * tile + BLOCK;
        // One more for the products that are 0: it is written but not read, or read as 0.
        let mut numbers = Scratch::new((products + 1) * product);
        numbers[products * product..].fill(0.0);
        Self { numbers, product, tile }
    }

    /// Access to the 16 channels from `channel` on of `count` tiles from `tile` on.
    fn tiles<const N: usize>(
        &mut self,
        product_of: &[[usize; N]; N],
        tile: usize,
        count: usize,
        channel: usize,
    ) -> Tiles<N> {
        let products = product_of.map(|row| row.map(|product| product * self.product));
        let last = products.as_flattened().iter().max().copied().unwrap_or(0);
        let first = tile * self.tile + channel;
        assert!(last + first + count.saturating_sub(1) * self.tile + BLOCK <= self.numbers.len());
        Tiles { first: self.numbers[first..].as_mut_ptr(), tile: self.tile, products }
    }
}

/// The location of some tiles.
struct Tiles<const N: usize> {
    first: *mut f32,
    tile: usize,
    /// The distances from the first element of a tile to the others.
    products: [[usize; N]; N],
}

impl<const N: usize> Tiles<N> {
    /// The first element of tile `i`.
    #[inline(always)]
    fn of(&self, i: usize) -> *mut f32 {
        self.first.wrapping_add(i * self.tile)
    }
}

/// A block of 16 channels of some rows of an image, with a margin of zeros, that tiles are read from and written to.
struct Window {
    numbers: Scratch,
    columns: usize,
    /// The same rows without a margin.
    inside: Scratch,
}

impl Window {
    fn new(rows: usize, columns: usize) -> Self {
        let numbers = || Scratch::new(rows * columns * BLOCK);
        Self { numbers: numbers(), columns, inside: numbers() }
    }
}

/// The planes of one image from the first channel of a block on.
#[derive(Clone, Copy)]
struct Planes<'a> {
    numbers: &'a [f32],
    height: usize,
    width: usize,
    channels: usize,
}

impl<'a> Planes<'a> {
    /// The block of channels from `channel` on of image `image`, in (B, `channels`, `height`, `width`).
    fn new(numbers: &'a [f32], (channels, height, width): (usize, usize, usize), image: usize, channel: usize) -> Self {
        Self {
            numbers: &numbers[(image * channels + channel) * height * width..],
            height,
            width,
            channels: (channels - channel).min(BLOCK),
        }
    }

    /// Fills the first `rows` rows of `window` with the image from row `top` − `margin` and column −`margin` on.
    #[inline(always)]
    fn fill<S: Simd>(self, simd: S, window: &mut Window, (top, rows): (usize, usize), margin: usize, doubled: bool) {
        let scale = if doubled { 2 } else { 1 };
        let height = self.height * scale;
        let plane = self.height * self.width;
        let across = window.columns * BLOCK;
        // The rows of the planes that are visible.
        let first = top.saturating_sub(margin).min(height) / scale;
        let end = (top + rows).saturating_sub(margin).min(height).div_ceil(scale).max(first);
        let inside = &mut window.inside[..(end - first) * self.width * BLOCK];
        if !inside.is_empty() {
            let from = &self.numbers[first * self.width..];
            to_block(simd, from, plane, self.channels, inside);
        }
        for (i, row) in window.numbers.chunks_exact_mut(across).take(rows).enumerate() {
            let Some(y) = (top + i).checked_sub(margin).filter(|y| *y < height) else {
                row.fill(0.0);
                continue;
            };
            let from = &inside[(y / scale - first) * self.width * BLOCK..][..self.width * BLOCK];
            let (before, rest) = row.split_at_mut(margin * BLOCK);
            let (row, after) = rest.split_at_mut(from.len() * scale);
            before.fill(0.0);
            after.fill(0.0);
            if doubled {
                for (pair, pixel) in row.chunks_exact_mut(2 * BLOCK).zip(from.chunks_exact(BLOCK)) {
                    pair[..BLOCK].copy_from_slice(pixel);
                    pair[BLOCK..].copy_from_slice(pixel);
                }
            } else {
                row.copy_from_slice(from);
            }
        }
    }
}

/// The transformed filters, for each pair of an input (row of a product) and an output (column).
///
/// They are stored in panels of up to 64 columns; a panel has, for each product and each row, its columns.
struct Filters {
    numbers: Scratch,
    rows: usize,
    columns: usize,
    products: usize,
}

impl Filters {
    fn none() -> Self {
        Self { numbers: Scratch::new(0), rows: 0, columns: 0, products: 0 }
    }

    /// Transforms `weight` with these rows and columns.
    fn new<W: Transform<N, M>, const N: usize, const M: usize>(
        plan: &Plan<N, M>,
        weight: &[f32],
        rows: Axis,
        columns: Axis,
    ) -> Self {
        let (width, products) = (columns.len.next_multiple_of(BLOCK), plan.products);
        let mut it = Self { numbers: Scratch::new(0), rows: rows.len, columns: width, products };
        it.numbers = Scratch::new(width.div_ceil(PANEL) * it.panel_len(PANEL.min(width)));
        let shared = Shared::new(&mut it.numbers);
        for_each(
            width / BLOCK,
            || Scratch::new(BLOCK * ROOM + BLOCK * BLOCK),
            |scratch, block| {
                let first = block * BLOCK;
                let panel = first / PANEL * PANEL;
                arch().dispatch(FilterBlock::<W, N, M> {
                    plan,
                    weight,
                    rows,
                    columns,
                    first,
                    at: panel / PANEL * product_len(rows.len, PANEL) * products + first - panel,
                    width: (width - panel).min(PANEL),
                    out: &shared,
                    scratch,
                    transform: std::marker::PhantomData,
                })
            },
        );
        it
    }

    fn panel_len(&self, width: usize) -> usize {
        product_len(self.rows, width) * self.products
    }

    /// All rows of product `i` of the panel that starts at column `panel`, and its number of columns.
    fn of(&self, panel: usize, i: usize) -> (&[f32], usize) {
        let width = (self.columns - panel).min(PANEL);
        let at = panel / PANEL * self.panel_len(PANEL) + i * product_len(self.rows, width);
        (&self.numbers[at..][..self.rows * width], width)
    }
}

/// The distance between the products of a panel. It is not a multiple of the page size, or writing all products at a
/// time would compete for the same cache lines.
fn product_len(rows: usize, width: usize) -> usize {
    rows * width + BLOCK
}

/// One of the two channel dimensions of a weight: its length and stride.
#[derive(Clone, Copy)]
struct Axis {
    len: usize,
    step: usize,
}

/// The elements of 16 filters, with some extra space for a transpose of 16 rows.
const ROOM: usize = 9 * BLOCK + BLOCK;

/// 16 columns of all rows.
struct FilterBlock<'a, W, const N: usize, const M: usize> {
    plan: &'a Plan<N, M>,
    weight: &'a [f32],
    rows: Axis,
    columns: Axis,
    /// The first column.
    first: usize,
    /// The start of the panel, and its number of columns.
    at: usize,
    width: usize,
    out: &'a Shared<'a, f32>,
    scratch: &'a mut Scratch,
    transform: std::marker::PhantomData<W>,
}

impl<W: Transform<N, M>, const N: usize, const M: usize> WithSimd for FilterBlock<'_, W, N, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { plan, weight, rows, columns, first, at, width, out, scratch, .. } = self;
        let present = BLOCK.min(columns.len - first);
        let product = product_len(rows.len, width);
        let (given, taps) = scratch.split_at_mut(BLOCK * ROOM);
        for chunk in (0..rows.len).step_by(BLOCK) {
            let count = BLOCK.min(rows.len - chunk);
            // For each of the 16 rows, the taps of the 16 columns as they are stored in the weights: contiguous within
            // a row or within a column.
            let by_row = columns.step == 9;
            let (outer, inner) = if by_row { (count, present) } else { (present, count) };
            if outer < BLOCK || inner < BLOCK {
                given.fill(0.0);
            }
            for i in 0..outer {
                let from = match by_row {
                    true => (chunk + i) * rows.step + first * 9,
                    false => (first + i) * columns.step + chunk * 9,
                };
                given[i * ROOM..][..inner * 9].copy_from_slice(&weight[from..][..inner * 9]);
            }
            for row in 0..count {
                // The row's element (tap, column).
                let (from, step) = if by_row { (row * ROOM, 9) } else { (row * 9, ROOM) };
                assert!(from + (BLOCK - 1) * step + BLOCK <= given.len() && taps.len() >= BLOCK * BLOCK);
                // SAFETY: 16 rows of 16 numbers are in both, as has been asserted; of these, 9 columns are meant.
                unsafe { transpose(simd, given.as_ptr().add(from), step, taps.as_mut_ptr(), BLOCK) };
                for lane in (0..BLOCK).step_by(S::F32_LANES) {
                    let mut rows_of = [[Vector::splat(simd, 0.0); N]; 3];
                    for i in 0..3 {
                        let tap = |j: usize| Vector::load(simd, &taps[(3 * i + j) * BLOCK + lane..]);
                        rows_of[i] = W::Filter::of([tap(0), tap(1), tap(2)]);
                    }
                    let at = at + (chunk + row) * width + lane;
                    for j in 0..N {
                        let transformed = column::<W::Filter, _, 3, N, N>(&rows_of, j);
                        for i in 0..N {
                            let number = plan.product_of[i][j];
                            if number < plan.products {
                                let at = at + number * product;
                                // SAFETY: each block of columns is written by one call.
                                transformed[i].store(unsafe { out.part(at..at + S::F32_LANES) });
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Transforms the tiles in rows `rows` of `window`, and writes them to `to` from tile `tile` and channel `channel` on.
///
/// `FROM` inputs give `N` elements; tiles are `step` pixels apart.
#[inline(always)]
fn transform_tiles<S: Simd, X: Matrix<FROM, N>, const FROM: usize, const N: usize>(
    simd: S,
    window: &Window,
    (rows, columns, step): (usize, usize, usize),
    product_of: &[[usize; N]; N],
    to: &mut Transformed,
    (tile, channel): (usize, usize),
) {
    let width = window.columns * BLOCK;
    let tiles = to.tiles(product_of, tile, rows * columns, channel);
    for y in 0..rows {
        for x in 0..columns {
            let corner = &window.numbers[y * step * width + x * step * BLOCK..];
            let tile = tiles.of(y * columns + x);
            for lane in (0..BLOCK).step_by(S::F32_LANES) {
                let mut half = [[Vector::splat(simd, 0.0); N]; FROM];
                for i in 0..FROM {
                    let row = &corner[i * width..][..FROM * BLOCK];
                    let mut inputs = [Vector::splat(simd, 0.0); FROM];
                    for j in 0..FROM {
                        inputs[j] = Vector::load(simd, &row[j * BLOCK + lane..]);
                    }
                    half[i] = X::of(inputs);
                }
                for j in 0..N {
                    let outputs = column::<X, _, FROM, N, N>(&half, j);
                    for i in 0..N {
                        // SAFETY: `tiles` has checked all its tiles; the lanes are within a block.
                        unsafe { outputs[i].write(tile.add(tiles.products[i][j] + lane)) };
                    }
                }
            }
        }
    }
}

/// Transforms the products of one tile back along the rows only; [`column`] completes it.
///
/// # Safety
/// `tile` is one of `tiles`, at most 16 − lanes elements further.
#[inline(always)]
unsafe fn half_of_products<S: Simd, X: Matrix<N, M>, const N: usize, const M: usize>(
    simd: S,
    tiles: &Tiles<N>,
    tile: *const f32,
) -> [[Vector<S>; M]; N] {
    let mut half = [[Vector::splat(simd, 0.0); M]; N];
    for i in 0..N {
        let mut products = [Vector::splat(simd, 0.0); N];
        for j in 0..N {
            // SAFETY: by the contract of this function.
            products[j] = unsafe { Vector::read(simd, tile.add(tiles.products[i][j])) };
        }
        half[i] = X::of(products);
    }
    half
}

#[cfg(test)]
mod tests;
