//! The forward pass.

use super::*;
use crate::ops::cpu::arch::arch;
use crate::ops::cpu::blocks::from_block;
use crate::ops::cpu::loops::written;
use crate::ops::cpu::product::{self, Size, Target, product};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Computes y (B, O, H', W') from x, weight (O, I, 3, 3) and bias, (O,) or (B, O), or empty for none.
pub(super) fn forward<W: Transform<N, M>, const N: usize, const M: usize>(
    problem: Problem,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
) -> Vec<f32> {
    let plan = Plan::<N, M>::new(problem);
    let Problem { batch, inputs, outputs, .. } = problem;
    let (input_axis, output_axis) = (Axis { len: inputs, step: 9 }, Axis { len: outputs, step: 9 * inputs });
    let filters = Filters::new::<W, N, M>(&plan, weight, input_axis, output_axis);
    let unit = rows_per_unit(&plan);
    let rows = batch * plan.tiles_h;
    let scratch = || Memory::new(&plan, unit);
    let write = |y: &mut [MaybeUninit<f32>]| {
        let y = Shared::new(y);
        for_each(rows.div_ceil(unit), scratch, |scratch, i| {
            arch().dispatch(Part::<W, N, M> {
                plan: &plan,
                x,
                filters: &filters,
                bias,
                strips: strips(plan.tiles_h, i * unit..rows.min((i + 1) * unit)),
                y: &y,
                scratch,
                transform: PhantomData,
            })
        });
    };
    // SAFETY: every row of tiles of every image is in a unit, which writes all output channels of all its pixels.
    unsafe { written(batch * outputs * plan.out_h * plan.out_w, write) }
}

struct Memory {
    window: Window,
    inputs: Transformed,
    products: Transformed,
    outputs: Window,
}

impl Memory {
    fn new<const N: usize, const M: usize>(plan: &Plan<N, M>, rows: usize) -> Self {
        let (tiles, strip) = (rows * plan.tiles_w, rows.min(plan.tiles_h));
        let columns = plan.tiles_w * M;
        Self {
            window: Window::new(strip * M + 2, columns + 2),
            inputs: Transformed::new(plan.products, tiles, plan.problem.inputs),
            products: Transformed::new(plan.products, tiles, plan.problem.outputs.min(PANEL)),
            outputs: Window::new(strip * M, columns),
        }
    }
}

/// The rows of tiles that are computed at a time.
struct Part<'a, W, const N: usize, const M: usize> {
    plan: &'a Plan<N, M>,
    x: &'a [f32],
    filters: &'a Filters,
    bias: &'a [f32],
    strips: Vec<Strip>,
    y: &'a Shared<'a, MaybeUninit<f32>>,
    scratch: &'a mut Memory,
    transform: PhantomData<W>,
}

impl<W: Transform<N, M>, const N: usize, const M: usize> WithSimd for Part<'_, W, N, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let tiles = self.transform_inputs(simd);
        let Problem { inputs, outputs, .. } = self.plan.problem;
        let width = outputs.next_multiple_of(BLOCK);
        for panel in (0..width).step_by(PANEL) {
            let columns = (width - panel).min(PANEL);
            let Memory { inputs: v, products: m, .. } = &mut *self.scratch;
            m.tile = columns;
            for i in 0..self.plan.products {
                let size = Size { m: tiles, n: columns, depth: inputs };
                let tiles = product::Matrix::rows(&v.numbers[i * v.product..], v.tile);
                let filters = product::Matrix::rows(self.filters.of(panel, i).0, columns);
                let to = Target::rows(&mut m.numbers[i * m.product..][..m.product], columns);
                // SAFETY: a product has a row of `columns` numbers for each tile.
                unsafe { product(size, tiles, filters, to, false) };
            }
            for block in (panel..panel + columns).step_by(BLOCK) {
                self.transform_outputs(simd, panel, block);
            }
        }
    }
}

impl<W: Transform<N, M>, const N: usize, const M: usize> Part<'_, W, N, M> {
    /// Transforms the input tiles and returns their number.
    #[inline(always)]
    fn transform_inputs<S: Simd>(&mut self, simd: S) -> usize {
        let plan = self.plan;
        let Problem { inputs, height, width, padding, doubled, .. } = plan.problem;
        let Memory { window, inputs: to, .. } = &mut *self.scratch;
        let mut tiles = 0;
        for channel in (0..inputs).step_by(BLOCK) {
            tiles = 0;
            for Strip { image, rows } in &self.strips {
                Planes::new(self.x, (inputs, height, width), *image, channel).fill(
                    simd,
                    window,
                    (rows.start * M, rows.len() * M + 2),
                    padding,
                    doubled,
                );
                let seen = (rows.len(), plan.tiles_w, M);
                transform_tiles::<S, W::Input, N, N>(simd, window, seen, &plan.product_of, to, (tiles, channel));
                tiles += rows.len() * plan.tiles_w;
            }
        }
        tiles
    }

    /// Computes the outputs from `block` on from the products of the panel that starts at output `panel`.
    #[inline(always)]
    fn transform_outputs<S: Simd>(&mut self, simd: S, panel: usize, block: usize) {
        let plan = self.plan;
        let outputs = plan.problem.outputs;
        let channels = (outputs - block).min(BLOCK);
        let Memory { products: from, outputs: window, .. } = &mut *self.scratch;
        let width = window.columns * BLOCK;
        let mut tile = 0;
        for Strip { image, rows } in &self.strips {
            let mut bias = [0.0; BLOCK];
            if !self.bias.is_empty() {
                let start = if self.bias.len() == outputs { 0 } else { image * outputs };
                bias[..channels].copy_from_slice(&self.bias[start + block..][..channels]);
            }
            let tiles = from.tiles(&plan.product_of, tile, rows.len() * plan.tiles_w, block - panel);
            for y in 0..rows.len() {
                for x in 0..plan.tiles_w {
                    let products = tiles.of(y * plan.tiles_w + x);
                    let corner = &mut window.numbers[y * M * width + x * M * BLOCK..];
                    for lane in (0..BLOCK).step_by(S::F32_LANES) {
                        // SAFETY: a tile of `tiles`; the lanes are within a block.
                        let half = unsafe { half_of_products::<S, W::Output, N, M>(simd, &tiles, products.add(lane)) };
                        let bias = Vector::load(simd, &bias[lane..]);
                        for j in 0..M {
                            let out = column::<W::Output, _, N, M, M>(&half, j);
                            for i in 0..M {
                                (out[i] + bias).store(&mut corner[i * width + j * BLOCK + lane..]);
                            }
                        }
                    }
                }
            }
            tile += rows.len() * plan.tiles_w;
            // Without the part beyond the edge.
            let rows = rows.start * M..plan.out_h.min(rows.end * M);
            let inside = &mut window.inside[..rows.len() * plan.out_w * BLOCK];
            let row = plan.out_w * BLOCK;
            for (to, from) in inside.chunks_exact_mut(row).zip(window.numbers.chunks_exact(width)) {
                to.copy_from_slice(&from[..row]);
            }
            let plane = plan.out_h * plan.out_w;
            let at = (image * outputs + block) * plane + rows.start * plan.out_w;
            // SAFETY: each row of tiles of each image is in one strip.
            unsafe { from_block(simd, inside, channels, self.y, at, plane) };
        }
    }
}
