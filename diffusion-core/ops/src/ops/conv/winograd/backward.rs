//! The gradients of x, weight and bias from that of y.

use super::*;
use crate::ops::cpu::arch::arch;
use crate::ops::cpu::blocks::from_block;
use crate::ops::cpu::loops::written;
use crate::ops::cpu::product::{self, Size, Target, product};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Which gradients to compute.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops::conv) struct Wanted {
    pub(in crate::ops::conv) x: bool,
    pub(in crate::ops::conv) weight: bool,
    pub(in crate::ops::conv) bias: bool,
}

/// The gradients; those that were not requested are empty.
#[derive(Debug, Default)]
pub(in crate::ops::conv) struct Gradients {
    /// In the shape of x.
    pub(in crate::ops::conv) x: Vec<f32>,
    /// In the shape of weight.
    pub(in crate::ops::conv) weight: Vec<f32>,
    /// (B, O), the gradient of a bias per image.
    pub(in crate::ops::conv) bias: Vec<f32>,
}

/// The largest number of groups of images, each with its own sums for the gradient of the weight. It does not depend on
/// the number of threads, since the result would, too.
const GROUPS: usize = 4;
/// The largest number of elements of all these sums.
const LARGEST_SUMS: usize = 3 << 19;

/// The gradients of x, weight and bias, from `dy`, the gradient of y, (B, O, H', W').
pub(super) fn backward<W: Transform<N, M>, const N: usize, const M: usize>(
    problem: Problem,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    wanted: Wanted,
) -> Gradients {
    let plan = Plan::<N, M>::new(problem);
    let Problem { batch, inputs, outputs, height, width, .. } = problem;
    let (input_axis, output_axis) = (Axis { len: inputs, step: 9 }, Axis { len: outputs, step: 9 * inputs });
    let filters = match wanted.x {
        true => Filters::new::<W, N, M>(&plan, weight, output_axis, input_axis),
        false => Filters::none(),
    };
    // The work is split by images and, if there are too few, by input channels.
    let sums = plan.products * inputs * outputs.next_multiple_of(BLOCK);
    let groups = [GROUPS, GROUPS / 2].into_iter().find(|groups| groups * sums <= LARGEST_SUMS && *groups <= batch);
    let groups = groups.unwrap_or(1);
    let blocks = inputs.div_ceil(BLOCK);
    let splits = threads().div_ceil(groups).min(blocks);
    let mut weight_sums = Scratch::new(if wanted.weight { groups * sums } else { 0 });
    let mut dbias = vec![0.0; if wanted.bias { batch * outputs } else { 0 }];
    let shared_dbias = Shared::new(&mut dbias);
    let shared_sums = Shared::new(&mut weight_sums);
    let at_once = (TILES.max((inputs + outputs) / 4) / plan.tiles()).clamp(1, batch.div_ceil(groups));
    let per_split = blocks.div_ceil(splits) * BLOCK;
    let scratch = || Memory::new(&plan, at_once * plan.tiles(), per_split.min(inputs));
    let write = |dx: &mut [MaybeUninit<f32>]| {
        let dx = Shared::new(dx);
        for_each(groups * splits, scratch, |scratch, i| {
            let (group, split) = (i / splits, i % splits);
            let images = group * batch / groups..(group + 1) * batch / groups;
            let channels = (split * per_split).min(inputs)..((split + 1) * per_split).min(inputs);
            arch().dispatch(Part::<W, N, M> {
                plan: &plan,
                x,
                dy,
                filters: &filters,
                wanted: Wanted { bias: wanted.bias && split == 0, ..wanted },
                images,
                at_once,
                channels,
                sums_from: group * sums,
                sums: &shared_sums,
                dx: &dx,
                dbias: &shared_dbias,
                scratch,
                transform: PhantomData,
            })
        });
    };
    let len = if wanted.x { batch * inputs * height * width } else { 0 };
    // SAFETY: if it is wanted, each pair of an image and an input channel is in one part, which writes its pixels.
    let dx = unsafe { written(len, write) };
    Gradients {
        x: dx,
        weight: match wanted.weight {
            true => weight_gradient::<W, N, M>(&plan, &weight_sums, groups),
            false => Vec::new(),
        },
        bias: dbias,
    }
}

struct Memory {
    window: Window,
    inputs: Transformed,
    outputs: Transformed,
    products: Transformed,
    sums: Window,
}

impl Memory {
    fn new<const N: usize, const M: usize>(plan: &Plan<N, M>, tiles: usize, channels: usize) -> Self {
        let (rows, columns) = (plan.tiles_h * M + 2, plan.tiles_w * M + 2);
        Self {
            window: Window::new(rows, columns),
            inputs: Transformed::new(plan.products, tiles, channels),
            outputs: Transformed::new(plan.products, tiles, plan.problem.outputs),
            products: Transformed::new(plan.products, tiles, channels.min(PANEL)),
            sums: Window::new(rows, columns),
        }
    }
}

/// The gradients from some of the images with respect to some of the input channels.
struct Part<'a, W, const N: usize, const M: usize> {
    plan: &'a Plan<N, M>,
    x: &'a [f32],
    dy: &'a [f32],
    filters: &'a Filters,
    wanted: Wanted,
    images: Range<usize>,
    at_once: usize,
    channels: Range<usize>,
    sums: &'a Shared<'a, f32>,
    sums_from: usize,
    dx: &'a Shared<'a, MaybeUninit<f32>>,
    dbias: &'a Shared<'a, f32>,
    scratch: &'a mut Memory,
    transform: PhantomData<W>,
}

impl<W: Transform<N, M>, const N: usize, const M: usize> WithSimd for Part<'_, W, N, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for from in self.images.clone().step_by(self.at_once) {
            let images = from..self.images.end.min(from + self.at_once);
            let tiles = images.len() * self.plan.tiles();
            self.transform_outputs(simd, images.clone());
            if self.wanted.weight {
                self.transform_inputs(simd, images.clone());
                self.add_to_weight(tiles, from > self.images.start);
            }
            if self.wanted.x {
                self.input_gradient(simd, images, tiles);
            }
        }
    }
}

impl<W: Transform<N, M>, const N: usize, const M: usize> Part<'_, W, N, M> {
    #[inline(always)]
    fn transform_inputs<S: Simd>(&mut self, simd: S, images: Range<usize>) {
        let plan = self.plan;
        let Problem { inputs, height, width, padding, doubled, .. } = plan.problem;
        let Memory { window, inputs: to, .. } = &mut *self.scratch;
        let seen = (plan.tiles_h, plan.tiles_w, M);
        window.columns = plan.tiles_w * M + 2;
        for channel in self.channels.clone().step_by(BLOCK) {
            for (i, image) in images.clone().enumerate() {
                Planes::new(self.x, (inputs, height, width), image, channel).fill(
                    simd,
                    window,
                    (0, plan.tiles_h * M + 2),
                    padding,
                    doubled,
                );
                let at = (i * plan.tiles(), channel - self.channels.start);
                transform_tiles::<S, W::Input, N, N>(simd, window, seen, &plan.product_of, to, at);
            }
        }
    }

    /// Transforms dy, and sums it for the bias.
    #[inline(always)]
    fn transform_outputs<S: Simd>(&mut self, simd: S, images: Range<usize>) {
        let plan = self.plan;
        let outputs = plan.problem.outputs;
        let Memory { window, outputs: to, .. } = &mut *self.scratch;
        let seen = (plan.tiles_h, plan.tiles_w, M);
        window.columns = plan.tiles_w * M;
        for channel in (0..outputs).step_by(BLOCK) {
            for (i, image) in images.clone().enumerate() {
                let planes = Planes::new(self.dy, (outputs, plan.out_h, plan.out_w), image, channel);
                planes.fill(simd, window, (0, plan.tiles_h * M), 0, false);
                let at = (i * plan.tiles(), channel);
                transform_tiles::<S, W::OutputAdjoint, M, N>(simd, window, seen, &plan.product_of, to, at);
                if self.wanted.bias {
                    let mut sums = [0f32; BLOCK];
                    for pixel in window.inside[..plan.out_h * plan.out_w * BLOCK].chunks_exact(BLOCK) {
                        for (sum, x) in sums.iter_mut().zip(pixel) {
                            *sum += x;
                        }
                    }
                    let at = image * outputs + channel;
                    // SAFETY: only one split of the images' group writes their bias.
                    let dbias = unsafe { self.dbias.part(at..at + planes.channels) };
                    dbias.copy_from_slice(&sums[..planes.channels]);
                }
            }
        }
    }

    /// For each product, adds the sum over the tiles: inputs × outputs.
    fn add_to_weight(&mut self, tiles: usize, add: bool) {
        let Problem { inputs, outputs, .. } = self.plan.problem;
        let width = outputs.next_multiple_of(BLOCK);
        let Memory { inputs: v, outputs: d, .. } = &*self.scratch;
        for i in 0..self.plan.products {
            let from = self.sums_from + (i * inputs + self.channels.start) * width;
            // SAFETY: each group has its own sums, and each split of it its own channels.
            let sums = unsafe { self.sums.part(from..from + self.channels.len() * width) };
            for panel in (0..width).step_by(PANEL) {
                let size = Size { m: self.channels.len(), n: (width - panel).min(PANEL), depth: tiles };
                let v = product::Matrix::rows(&v.numbers[i * v.product..], v.tile).t();
                let d = product::Matrix::rows(&d.numbers[i * d.product + panel..], d.tile);
                // SAFETY: the sums have a row of `width` numbers for each channel, written by the first call.
                unsafe { product(size, v, d, Target::rows(sums, width).from(0, panel), add) };
            }
        }
    }

    #[inline(always)]
    fn input_gradient<S: Simd>(&mut self, simd: S, images: Range<usize>, tiles: usize) {
        let outputs = self.plan.problem.outputs;
        let mut channel = self.channels.start;
        while channel < self.channels.end {
            // The part of the panel that belongs to this split.
            let panel = channel / PANEL * PANEL;
            let end = self.channels.end.min(panel + PANEL);
            let columns = (end - channel).next_multiple_of(BLOCK);
            let Memory { outputs: d, products: m, .. } = &mut *self.scratch;
            m.tile = columns;
            for i in 0..self.plan.products {
                let (filters, panel_width) = self.filters.of(panel, i);
                let filters = &filters[channel - panel..];
                let size = Size { m: tiles, n: columns, depth: outputs };
                let d = product::Matrix::rows(&d.numbers[i * d.product..], d.tile);
                let to = Target::rows(&mut m.numbers[i * m.product..][..m.product], columns);
                // SAFETY: a product has a row of `columns` numbers for each tile.
                unsafe { product(size, d, product::Matrix::rows(filters, panel_width), to, false) };
            }
            for block in (channel..end).step_by(BLOCK) {
                for (i, image) in images.clone().enumerate() {
                    let tile = i * self.plan.tiles();
                    self.add_tiles(simd, (tile, block - channel));
                    self.write_inputs(simd, image, block);
                }
            }
            channel = end;
        }
    }

    /// Transforms the products of one image and one block of input channels back, and adds overlapping tiles.
    #[inline(always)]
    fn add_tiles<S: Simd>(&mut self, simd: S, (tile, channel): (usize, usize)) {
        let plan = self.plan;
        let Memory { products: from, sums, .. } = &mut *self.scratch;
        sums.numbers.fill(0.0);
        let width = sums.columns * BLOCK;
        let tiles = from.tiles(&plan.product_of, tile, plan.tiles(), channel);
        for y in 0..plan.tiles_h {
            for x in 0..plan.tiles_w {
                let products = tiles.of(y * plan.tiles_w + x);
                let corner = &mut sums.numbers[y * M * width + x * M * BLOCK..];
                for lane in (0..BLOCK).step_by(S::F32_LANES) {
                    // SAFETY: a tile of `tiles`; the lanes are within a block.
                    let half =
                        unsafe { half_of_products::<S, W::InputAdjoint, N, N>(simd, &tiles, products.add(lane)) };
                    for j in 0..N {
                        let out = column::<W::InputAdjoint, _, N, N, N>(&half, j);
                        for i in 0..N {
                            let sum = &mut corner[i * width + j * BLOCK + lane..];
                            (out[i] + Vector::load(simd, sum)).store(sum);
                        }
                    }
                }
            }
        }
    }

    /// Writes the sums, without the margin, to the planes of x's gradient.
    #[inline(always)]
    fn write_inputs<S: Simd>(&mut self, simd: S, image: usize, block: usize) {
        let Problem { inputs, height, width, padding, doubled, .. } = self.plan.problem;
        let Window { numbers, columns, inside } = &mut self.scratch.sums;
        let across = *columns * BLOCK;
        let inside = &mut inside[..height * width * BLOCK];
        for (y, row) in inside.chunks_exact_mut(width * BLOCK).enumerate() {
            if doubled {
                let (top, bottom) = numbers[(2 * y + padding) * across..].split_at(across);
                let margin = padding * BLOCK;
                let top = top[margin..].chunks_exact(2 * BLOCK);
                let bottom = bottom[margin..].chunks_exact(2 * BLOCK);
                for (pixel, (top, bottom)) in row.chunks_exact_mut(BLOCK).zip(top.zip(bottom)) {
                    for c in 0..BLOCK {
                        pixel[c] = (top[c] + top[c + BLOCK]) + (bottom[c] + bottom[c + BLOCK]);
                    }
                }
            } else {
                row.copy_from_slice(&numbers[(y + padding) * across + padding * BLOCK..][..width * BLOCK]);
            }
        }
        let (channels, plane) = ((inputs - block).min(BLOCK), height * width);
        let at = (image * inputs + block) * plane;
        // SAFETY: each group has its own images, and each split of it its own channels.
        unsafe { from_block(simd, inside, channels, self.dx, at, plane) };
    }
}

/// Transforms the sums of all groups back to the gradient (O, I, 3, 3).
fn weight_gradient<W: Transform<N, M>, const N: usize, const M: usize>(
    plan: &Plan<N, M>,
    sums: &[f32],
    groups: usize,
) -> Vec<f32> {
    let Problem { inputs, outputs, .. } = plan.problem;
    let mut gradient = vec![0.0; outputs * inputs * 9];
    let shared = Shared::new(&mut gradient);
    for_each(
        inputs,
        || (),
        |(), input| {
            arch().dispatch(WeightPart::<W, N, M> {
                plan,
                sums,
                groups,
                input,
                gradient: &shared,
                transform: PhantomData,
            })
        },
    );
    gradient
}

/// The gradient of the weights of one input channel.
struct WeightPart<'a, W, const N: usize, const M: usize> {
    plan: &'a Plan<N, M>,
    sums: &'a [f32],
    groups: usize,
    input: usize,
    gradient: &'a Shared<'a, f32>,
    transform: PhantomData<W>,
}

impl<W: Transform<N, M>, const N: usize, const M: usize> WithSimd for WeightPart<'_, W, N, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { plan, sums, groups, input, .. } = self;
        let Problem { inputs, outputs, .. } = plan.problem;
        let width = outputs.next_multiple_of(BLOCK);
        let group = plan.products * inputs * width;
        let mut taps = [[0f32; BLOCK]; 9];
        for block in (0..outputs).step_by(BLOCK) {
            for lane in (0..BLOCK).step_by(S::F32_LANES) {
                let zero = Vector::splat(simd, 0.0);
                let mut products = [[zero; N]; N];
                for i in 0..N {
                    for j in 0..N {
                        let product = plan.product_of[i][j];
                        if product < plan.products {
                            for g in 0..groups {
                                let at = g * group + (product * inputs + input) * width + block + lane;
                                products[i][j] = products[i][j] + Vector::load(simd, &sums[at..]);
                            }
                        }
                    }
                }
                let mut half = [[zero; 3]; N];
                for i in 0..N {
                    half[i] = W::FilterAdjoint::of(products[i]);
                }
                for j in 0..3 {
                    let filter = column::<W::FilterAdjoint, _, N, 3, 3>(&half, j);
                    for i in 0..3 {
                        filter[i].store(&mut taps[3 * i + j][lane..]);
                    }
                }
            }
            for column in 0..BLOCK.min(outputs - block) {
                let at = ((block + column) * inputs + input) * 9;
                // SAFETY: each input channel belongs to one call.
                let gradient = unsafe { self.gradient.part(at..at + 9) };
                for (gradient, tap) in gradient.iter_mut().zip(&taps) {
                    *gradient = tap[column];
                }
            }
        }
    }
}
