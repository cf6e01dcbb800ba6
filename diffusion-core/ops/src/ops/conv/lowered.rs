//! Convolution as a matrix product: every window of the image becomes a column
//! ([Chellapilla et al. 2006](https://inria.hal.science/inria-00112631), "unrolling"; also called im2col).
//!
//! One image at a time, so that its columns are still in the cache when they are multiplied. A 1×1 kernel of stride 1 needs no
//! columns: the image is them.

use super::winograd::{Gradients, Wanted};
use crate::ops::cpu::arch::arch;
use crate::ops::cpu::blocks::{BLOCK, to_block};
use crate::ops::cpu::parallel::{Shared, for_each, threads};
use crate::ops::cpu::product::{Left, Out, Right, Size, product};
use crate::ops::cpu::scratch::Scratch;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    pub(super) batch: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Height and width of x, of the kernel, and of y.
    pub(super) image: (usize, usize),
    pub(super) kernel: (usize, usize),
    pub(super) out: (usize, usize),
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Problem {
    fn pixels(&self) -> usize {
        self.image.0 * self.image.1
    }
    fn out_pixels(&self) -> usize {
        self.out.0 * self.out.1
    }
    fn taps(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }
    /// Whether an image is its own columns.
    fn is_product(&self) -> bool {
        self.kernel == (1, 1) && self.stride == 1 && self.padding == 0
    }

    /// For row `tap` of the kernel: the outputs along an axis whose input lies within the image.
    fn seen(&self, tap: usize, size: usize, out: usize) -> Range<usize> {
        let first = self.padding.saturating_sub(tap).div_ceil(self.stride);
        let end = (size + self.padding).saturating_sub(tap).div_ceil(self.stride);
        first.min(out)..end.min(out).max(first.min(out))
    }

    /// Calls `run` for all that windows and image have in common, in runs along a row: with the number of the kernel, where
    /// the run begins in the plane of the input channel (each number `stride` after the last), and which outputs it is for.
    #[inline(always)]
    fn runs(&self, mut run: impl FnMut(usize, usize, Range<usize>)) {
        let (height, width) = self.image;
        for u in 0..self.kernel.0 {
            let rows = self.seen(u, height, self.out.0);
            for v in 0..self.kernel.1 {
                let columns = self.seen(v, width, self.out.1);
                if columns.is_empty() {
                    continue;
                }
                let x = columns.start * self.stride + v - self.padding;
                for row in rows.clone() {
                    let y = row * self.stride + u - self.padding;
                    let at = row * self.out.1;
                    run(u * self.kernel.1 + v, y * width + x, at + columns.start..at + columns.end);
                }
            }
        }
    }
}

/// From the plane of a channel to its columns.
#[inline(always)]
fn gather<S: Simd>(simd: S, problem: &Problem, plane: &[f32], columns: &mut [f32], sorted: &mut [f32]) {
    let pixels = problem.out_pixels();
    columns.fill(0.0);
    match problem.stride {
        1 => problem.runs(
            #[inline(always)]
            |tap, from, out| {
                let to = &mut columns[tap * pixels..][out];
                copy(simd, &plane[from..from + to.len()], to);
            },
        ),
        // Even rows of pixels: the numbers that belong together are put side by side first.
        2 if problem.image.1.is_multiple_of(2) => {
            let (even, odd) = sorted.split_at_mut(plane.len() / 2);
            for ((even, odd), pair) in even.iter_mut().zip(odd).zip(plane.chunks_exact(2)) {
                *even = pair[0];
                *odd = pair[1];
            }
            problem.runs(
                #[inline(always)]
                |tap, from, out| {
                    let to = &mut columns[tap * pixels..][out];
                    let from = from % 2 * (plane.len() / 2) + from / 2;
                    copy(simd, &sorted[from..from + to.len()], to);
                },
            );
        }
        stride => problem.runs(
            #[inline(always)]
            |tap, from, out| {
                let to = &mut columns[tap * pixels..][out];
                for (to, x) in to.iter_mut().zip(plane[from..].iter().step_by(stride)) {
                    *to = *x;
                }
            },
        ),
    }
}

/// From the gradient of the columns to that of the plane: the sum over the windows that a pixel is in.
#[inline(always)]
fn scatter(problem: &Problem, columns: &[f32], plane: &mut [f32]) {
    let pixels = problem.out_pixels();
    problem.runs(
        #[inline(always)]
        |tap, from, out| {
            let columns = &columns[tap * pixels..][out];
            match problem.stride {
                1 => {
                    for (sum, x) in plane[from..].iter_mut().zip(columns) {
                        *sum += x;
                    }
                }
                2 => {
                    for (i, x) in columns.iter().enumerate() {
                        plane[from + 2 * i] += x;
                    }
                }
                stride => {
                    for (sum, x) in plane[from..].iter_mut().step_by(stride).zip(columns) {
                        *sum += x;
                    }
                }
            }
        },
    );
}

/// Copies a few numbers: for the short rows of small images a call of the C library's function takes longer.
#[inline(always)]
fn copy<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
    let (from, from_rest) = S::as_simd_f32s(from);
    let (to, to_rest) = S::as_mut_simd_f32s(to);
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    if !to_rest.is_empty() {
        simd.partial_store_f32s(to_rest, simd.partial_load_f32s(from_rest));
    }
}

/// How many parts a dimension of `len` is cut into so that `units` of work become at least as many as there are threads.
fn splits(units: usize, len: usize) -> usize {
    threads().div_ceil(units).clamp(1, len)
}

fn part(len: usize, parts: usize, i: usize) -> Range<usize> {
    i * len / parts..(i + 1) * len / parts
}

/// y of (B, O, H', W') from x, weight (O, I, K, L), and bias of O numbers or of O for each image (or none, if empty).
pub(super) fn forward(problem: &Problem, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let Problem { batch, outputs, .. } = *problem;
    let mut y = vec![0.0; batch * outputs * problem.out_pixels()];
    let shared = Shared::new(&mut y);
    let parts = splits(batch, outputs);
    let columns = || Scratch::new(columns_len(problem));
    for_each(batch * parts, columns, |columns, i| {
        let (image, outputs) = (i / parts, part(outputs, parts, i % parts));
        let from = (image * problem.outputs + outputs.start) * problem.out_pixels();
        arch().dispatch(Forward {
            problem,
            x,
            weight,
            bias,
            image,
            // SAFETY: each part of the outputs of each image is one call's.
            y: unsafe { shared.part(from..from + outputs.len() * problem.out_pixels()) },
            outputs,
            columns,
        })
    });
    y
}

/// How many numbers the columns of an image are, with a plane to sort pixels in.
fn columns_len(problem: &Problem) -> usize {
    match problem.is_product() {
        true => 0,
        false => problem.inputs * problem.taps() * problem.out_pixels() + problem.pixels(),
    }
}

/// The columns of some channels of an image, made if they are not the image itself.
#[inline(always)]
fn columns_of<'a, S: Simd>(simd: S, problem: &Problem, x: &'a [f32], scratch: &'a mut [f32]) -> &'a [f32] {
    if problem.is_product() {
        return x;
    }
    let (columns, sorted) = scratch.split_at_mut(scratch.len() - problem.pixels());
    let pixels = problem.out_pixels();
    let planes = x.chunks_exact(problem.pixels());
    for (plane, columns) in planes.zip(columns.chunks_exact_mut(problem.taps() * pixels)) {
        gather(simd, problem, plane, columns, sorted);
    }
    columns
}

struct Forward<'a> {
    problem: &'a Problem,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    image: usize,
    outputs: Range<usize>,
    y: &'a mut [f32],
    columns: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, image, outputs, y, .. } = self;
        let (pixels, depth) = (problem.out_pixels(), problem.inputs * problem.taps());
        let per_image = problem.inputs * problem.pixels();
        let x = &self.x[image * per_image..][..per_image];
        let columns = columns_of(simd, problem, x, self.columns);
        if !self.bias.is_empty() {
            let per_image = self.bias.len() > problem.outputs;
            let first = outputs.start + if per_image { image * problem.outputs } else { 0 };
            for (row, bias) in y.chunks_exact_mut(pixels).zip(&self.bias[first..]) {
                row.fill(*bias);
            }
        }
        product(
            simd,
            Size { m: outputs.len(), n: pixels, depth },
            Left { numbers: &self.weight[outputs.start * depth..], row: depth, column: 1 },
            Right { numbers: columns, row: pixels },
            Out { numbers: y, row: pixels },
            !self.bias.is_empty(),
        );
    }
}

/// The gradients, from `dy`, that of y, of (B, O, H', W').
pub(super) fn backward(problem: &Problem, x: &[f32], weight: &[f32], dy: &[f32], wanted: Wanted) -> Gradients {
    let bias = match wanted.bias {
        true => plane_sums(dy, problem.out_pixels()),
        false => Vec::new(),
    };
    Gradients {
        x: if wanted.x { input_gradient(problem, weight, dy, &[]) } else { Vec::new() },
        weight: if wanted.weight { weight_gradient(problem, x, dy) } else { Vec::new() },
        bias,
    }
}

/// The sum of each plane of `pixels` numbers.
pub(super) fn plane_sums(planes: &[f32], pixels: usize) -> Vec<f32> {
    const LANES: usize = 16;
    let mut sums = vec![0.0; planes.len() / pixels];
    let at_once = usize::div_ceil(1 << 14, pixels);
    crate::ops::cpu::parallel::for_each_piece(
        &mut sums,
        at_once,
        || (),
        |(), i, sums| {
            let planes = planes[i * at_once * pixels..].chunks_exact(pixels);
            arch().dispatch(|| {
                for (sum, plane) in sums.iter_mut().zip(planes) {
                    let mut lanes = [0.0; LANES];
                    let chunks = plane.chunks_exact(LANES);
                    let rest: f32 = chunks.remainder().iter().sum();
                    for chunk in chunks {
                        for (lane, x) in lanes.iter_mut().zip(chunk) {
                            *lane += x;
                        }
                    }
                    *sum = lanes.iter().sum::<f32>() + rest;
                }
            });
        },
    );
    sums
}

/// The gradient of x, or, the other way round, the transposed convolution of `dy`: of (B, I, H, W), with `bias` of I numbers or
/// of I for each image added to it (or none, if empty).
pub(super) fn input_gradient(problem: &Problem, weight: &[f32], dy: &[f32], bias: &[f32]) -> Vec<f32> {
    let Problem { batch, inputs, .. } = *problem;
    let mut dx = vec![0.0; batch * inputs * problem.pixels()];
    let shared = Shared::new(&mut dx);
    let parts = splits(batch, inputs);
    let columns = || Scratch::new(columns_len(problem));
    for_each(batch * parts, columns, |columns, i| {
        let (image, channels) = (i / parts, part(inputs, parts, i % parts));
        let from = (image * inputs + channels.start) * problem.pixels();
        arch().dispatch(InputGradient {
            problem,
            weight,
            dy,
            bias,
            image,
            // SAFETY: each part of the inputs of each image is one call's.
            dx: unsafe { shared.part(from..from + channels.len() * problem.pixels()) },
            channels,
            columns,
        })
    });
    dx
}

struct InputGradient<'a> {
    problem: &'a Problem,
    weight: &'a [f32],
    dy: &'a [f32],
    bias: &'a [f32],
    image: usize,
    channels: Range<usize>,
    dx: &'a mut [f32],
    columns: &'a mut [f32],
}

impl WithSimd for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, image, channels, dx, .. } = self;
        let (pixels, taps) = (problem.out_pixels(), problem.taps());
        let depth = problem.inputs * taps;
        let size = Size { m: channels.len() * taps, n: pixels, depth: problem.outputs };
        let weight = Left { numbers: &self.weight[channels.start * taps..], row: 1, column: depth };
        let dy = Right { numbers: &self.dy[image * problem.outputs * pixels..], row: pixels };
        let has_bias = !self.bias.is_empty();
        if has_bias {
            let per_image = self.bias.len() > problem.inputs;
            let first = channels.start + if per_image { image * problem.inputs } else { 0 };
            for (plane, bias) in dx.chunks_exact_mut(problem.pixels()).zip(&self.bias[first..]) {
                plane.fill(*bias);
            }
        }
        if problem.is_product() {
            product(simd, size, weight, dy, Out { numbers: dx, row: pixels }, has_bias);
            return;
        }
        product(simd, size, weight, dy, Out { numbers: self.columns, row: pixels }, false);
        let planes = dx.chunks_exact_mut(problem.pixels());
        for (plane, columns) in planes.zip(self.columns.chunks_exact(taps * pixels)) {
            scatter(problem, columns, plane);
        }
    }
}

/// The gradient of weight, of (O, I, K, L).
pub(super) fn weight_gradient(problem: &Problem, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let Problem { batch, inputs, outputs, .. } = *problem;
    // Images are shared out, and, where these are too few, the input channels too.
    let groups = batch.min(threads());
    let parts = splits(groups, inputs);
    let (width, taps) = (outputs.next_multiple_of(BLOCK), problem.taps());
    let group = inputs * taps * width;
    let mut sums = Scratch::new(groups * group);
    let shared = Shared::new(&mut sums);
    let scratch = || {
        let transposed = Scratch::new(width * problem.out_pixels());
        (Scratch::new(columns_len(problem)), transposed, Scratch::new(BLOCK * problem.out_pixels()))
    };
    for_each(groups * parts, scratch, |(columns, transposed, block), i| {
        let channels = part(inputs, parts, i % parts);
        let from = i / parts * group + channels.start * taps * width;
        arch().dispatch(WeightGradient {
            problem,
            x,
            dy,
            images: part(batch, groups, i / parts),
            // SAFETY: each group has sums of its own, and each part of the inputs its rows of them.
            sums: unsafe { shared.part(from..from + channels.len() * taps * width) },
            channels,
            columns,
            transposed,
            block,
        })
    });
    let mut gradient = vec![0.0; outputs * inputs * taps];
    for (output, gradient) in gradient.chunks_exact_mut(inputs * taps).enumerate() {
        for (i, gradient) in gradient.iter_mut().enumerate() {
            *gradient = (0..groups).map(|g| sums[g * group + i * width + output]).sum();
        }
    }
    gradient
}

struct WeightGradient<'a> {
    problem: &'a Problem,
    x: &'a [f32],
    dy: &'a [f32],
    images: Range<usize>,
    channels: Range<usize>,
    sums: &'a mut [f32],
    columns: &'a mut [f32],
    transposed: &'a mut [f32],
    block: &'a mut [f32],
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, channels, transposed, block, .. } = self;
        let (pixels, outputs) = (problem.out_pixels(), problem.outputs);
        let width = outputs.next_multiple_of(BLOCK);
        for image in self.images.clone() {
            // The outputs side by side, pixel by pixel.
            let dy = &self.dy[image * outputs * pixels..][..outputs * pixels];
            for first in (0..outputs).step_by(BLOCK) {
                let present = BLOCK.min(outputs - first);
                to_block(simd, &dy[first * pixels..], pixels, present, block);
                let rows = transposed.chunks_exact_mut(width);
                for (row, pixel) in rows.zip(block.chunks_exact(BLOCK)) {
                    row[first..first + BLOCK].copy_from_slice(pixel);
                }
            }
            let from = (image * problem.inputs + channels.start) * problem.pixels();
            let x = &self.x[from..from + channels.len() * problem.pixels()];
            let columns = columns_of(simd, problem, x, self.columns);
            product(
                simd,
                Size { m: channels.len() * problem.taps(), n: width, depth: pixels },
                Left { numbers: columns, row: pixels, column: 1 },
                Right { numbers: transposed, row: width },
                Out { numbers: self.sums, row: width },
                image > self.images.start,
            );
        }
    }
}

/// The gradients of the transposed convolution [`input_gradient`], from `dy`, that of its result.
pub(super) fn backward_of_transpose(
    problem: &Problem,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    wanted: Wanted,
) -> Gradients {
    Gradients {
        x: if wanted.x { forward(problem, dy, weight, &[]) } else { Vec::new() },
        weight: if wanted.weight { weight_gradient(problem, dy, x) } else { Vec::new() },
        bias: if wanted.bias { plane_sums(dy, problem.pixels()) } else { Vec::new() },
    }
}
