//! Convolution as a matrix product: every window of the image becomes a column
//! ([Chellapilla et al. 2006](https://inria.hal.science/inria-00112631), "unrolling"; also called im2col).
//!
//! It processes one image at a time, or a few small ones together, so that the columns are still in the cache when they
//! are multiplied. For a 1×1 kernel with stride 1, the image itself is the matrix of columns.

use super::winograd::{Gradients, Wanted};
use crate::ops::cpu::arch::arch;
use crate::ops::cpu::loops::written;
use crate::ops::cpu::parallel::{Shared, for_each, for_each_piece, threads};
use crate::ops::cpu::product::{Matrix, Size, Target, product};
use crate::ops::cpu::scratch::Scratch;
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;
use std::ops::Range;

/// The number of columns, from as many images as needed, that are multiplied at a time.
const TOGETHER: usize = 128;
/// The smallest number of columns of the weight's gradient that are computed at a time, with those of as many input
/// channels,
const COLUMNS: usize = 64;
const INPUTS: usize = 16;
/// and of rows, if there are fewer input channels.
const OUTPUTS: usize = 64;

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
    /// Whether the image itself is the matrix of columns.
    fn is_product(&self) -> bool {
        self.kernel == (1, 1) && self.stride == 1 && self.padding == 0
    }

    /// The number of elements of an image of x, and of y.
    fn x_len(&self) -> usize {
        self.inputs * self.pixels()
    }
    fn y_len(&self) -> usize {
        self.outputs * self.out_pixels()
    }
    /// The number of weights of an output channel.
    fn depth(&self) -> usize {
        self.inputs * self.taps()
    }
    /// The number of images multiplied at a time.
    fn at_once(&self) -> usize {
        (TOGETHER / self.out_pixels()).clamp(1, self.batch)
    }

    /// The outputs along an axis for which input `tap` of the kernel lies within the image.
    fn seen(&self, tap: usize, size: usize, out: usize) -> Range<usize> {
        let first = self.padding.saturating_sub(tap).div_ceil(self.stride);
        let end = (size + self.padding).saturating_sub(tap).div_ceil(self.stride);
        first.min(out)..end.min(out).max(first.min(out))
    }

    /// Calls `run` for every run of inputs along a row that windows read, with the index of the kernel element, the
    /// start of the run in the plane of the input channel (its elements are `stride` apart), and the range of outputs.
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

/// The layout of the columns of an image: each has `pitch` elements, and this image's start at `first`.
#[derive(Clone, Copy)]
struct Within {
    pitch: usize,
    first: usize,
}

/// Copies the plane of a channel to its columns.
struct Gather<'a> {
    problem: &'a Problem,
    plane: &'a [f32],
    columns: &'a mut [f32],
    within: Within,
    /// Scratch space for a plane.
    sorted: &'a mut [f32],
}

impl WithSimd for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, plane, columns, within: Within { pitch, first }, sorted } = self;
        if problem.padding > 0 {
            for tap in 0..problem.taps() {
                columns[tap * pitch + first..][..problem.out_pixels()].fill(0.0);
            }
        }
        let to = |tap: usize, out: &Range<usize>| tap * pitch + first + out.start..tap * pitch + first + out.end;
        match problem.stride {
            1 => problem.runs(
                #[inline(always)]
                |tap, from, out| copy(simd, &plane[from..from + out.len()], &mut columns[to(tap, &out)]),
            ),
            // For rows of even length, elements of one column are first moved next to each other.
            2 if problem.image.1.is_multiple_of(2) => {
                let (even, odd) = sorted.split_at_mut(plane.len() / 2);
                for ((even, odd), pair) in even.iter_mut().zip(odd).zip(plane.chunks_exact(2)) {
                    *even = pair[0];
                    *odd = pair[1];
                }
                problem.runs(
                    #[inline(always)]
                    |tap, from, out| {
                        let from = from % 2 * (plane.len() / 2) + from / 2;
                        copy(simd, &sorted[from..from + out.len()], &mut columns[to(tap, &out)]);
                    },
                );
            }
            stride => problem.runs(
                #[inline(always)]
                |tap, from, out| {
                    for (to, x) in columns[to(tap, &out)].iter_mut().zip(plane[from..].iter().step_by(stride)) {
                        *to = *x;
                    }
                },
            ),
        }
    }
}

/// Adds the gradient of the columns to that of the plane, summing over the windows that contain a pixel.
struct Scatter<'a> {
    problem: &'a Problem,
    columns: &'a [f32],
    within: Within,
    plane: &'a mut [f32],
}

impl WithSimd for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { problem, columns, within: Within { pitch, first }, plane } = self;
        problem.runs(
            #[inline(always)]
            |tap, from, out| {
                let columns = &columns[tap * pitch + first..][out];
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
}

/// Copies a few elements: for the short rows of small images, a call to memcpy takes longer.
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

/// The number of parts to split a dimension of `len` into, so that `units` of work become at least one per thread.
fn splits(units: usize, len: usize) -> usize {
    threads().div_ceil(units).clamp(1, len)
}

fn part(len: usize, parts: usize, i: usize) -> Range<usize> {
    i * len / parts..(i + 1) * len / parts
}

impl Problem {
    /// The images of group `i`.
    fn group(&self, i: usize) -> Range<usize> {
        let at_once = self.at_once();
        i * at_once..self.batch.min((i + 1) * at_once)
    }

    fn groups(&self) -> usize {
        self.batch.div_ceil(self.at_once())
    }

    /// Scratch space for the columns of `channels` channels of a group, and for a plane.
    fn room(&self, channels: usize) -> Scratch {
        Scratch::new(channels * self.taps() * self.at_once() * self.out_pixels() + self.pixels())
    }

    /// The columns of some channels of some images, in `scratch`, or in place if the image is its own columns.
    fn columns<'a>(
        &self,
        x: &'a [f32],
        images: &Range<usize>,
        channels: &Range<usize>,
        scratch: &'a mut [f32],
    ) -> Matrix<'a> {
        let (pixels, out, taps) = (self.pixels(), self.out_pixels(), self.taps());
        let plane = |image: usize, channel: usize| &x[image * self.x_len() + channel * pixels..][..pixels];
        if self.is_product() && images.len() == 1 {
            let from = images.start * self.x_len() + channels.start * pixels;
            return Matrix::rows(&x[from..][..channels.len() * pixels], pixels);
        }
        let pitch = images.len() * out;
        let (columns, sorted) = scratch.split_at_mut(channels.len() * taps * pitch);
        for (columns, channel) in columns.chunks_exact_mut(taps * pitch).zip(channels.clone()) {
            for (i, image) in images.clone().enumerate() {
                let within = Within { pitch, first: i * out };
                let plane = plane(image, channel);
                arch().dispatch(Gather { problem: self, plane, columns, within, sorted });
            }
        }
        Matrix::rows(columns, pitch)
    }

    /// The planes of y of some images side by side, in `scratch`, or in place if it is one image.
    fn beside<'a>(&self, y: &'a [f32], images: &Range<usize>, scratch: &'a mut [f32]) -> Matrix<'a> {
        let pixels = self.out_pixels();
        if images.len() == 1 {
            return Matrix::rows(&y[images.start * self.y_len()..][..self.y_len()], pixels);
        }
        let pitch = images.len() * pixels;
        for (i, image) in images.clone().enumerate() {
            let planes = y[image * self.y_len()..][..self.y_len()].chunks_exact(pixels);
            for (row, plane) in scratch.chunks_exact_mut(pitch).zip(planes) {
                row[i * pixels..][..pixels].copy_from_slice(plane);
            }
        }
        Matrix::rows(&scratch[..self.outputs * pitch], pitch)
    }
}

/// The bias of a channel of an image. `bias` has one value per channel, or per channel and image; it is 0 if `bias` is
/// empty.
fn bias_of(bias: &[f32], channels: usize, image: usize, channel: usize) -> f32 {
    match bias.len() {
        0 => 0.0,
        len if len == channels => bias[channel],
        _ => bias[image * channels + channel],
    }
}

/// Computes y (B, O, H', W') from x, weight (O, I, K, L) and bias, (O,) or (B, O), or empty for none.
pub(super) fn forward(problem: &Problem, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let Problem { batch, inputs, outputs, .. } = *problem;
    let (pixels, depth) = (problem.out_pixels(), problem.depth());
    let (at_once, parts) = (problem.at_once(), splits(problem.groups(), outputs));
    let write = |y: &mut [MaybeUninit<f32>]| {
        let y = Shared::new(y);
        let scratch = || (problem.room(inputs), Scratch::new(outputs.div_ceil(parts) * at_once * pixels));
        for_each(problem.groups() * parts, scratch, |(scratch, products), i| {
            let (images, outputs_here) = (problem.group(i / parts), part(outputs, parts, i % parts));
            let columns = problem.columns(x, &images, &(0..inputs), scratch);
            let weight = Matrix::rows(&weight[outputs_here.start * depth..], depth);
            let pitch = images.len() * pixels;
            let size = Size { m: outputs_here.len(), n: pitch, depth };
            let place = |image: usize, output: usize| (image * outputs + output) * pixels;
            let fill = |image: usize, output: usize, y: &mut [MaybeUninit<f32>]| {
                y.fill(MaybeUninit::new(bias_of(bias, outputs, image, output)));
            };
            if images.len() == 1 {
                let from = place(images.start, outputs_here.start);
                // SAFETY: each part of the outputs of each image belongs to one call.
                let y = unsafe { y.part(from..from + outputs_here.len() * pixels) };
                if !bias.is_empty() {
                    y.chunks_exact_mut(pixels).zip(outputs_here).for_each(|(y, output)| fill(images.start, output, y));
                }
                // SAFETY: y has a row of pixels for each output, with a bias written ones.
                unsafe { product(size, weight, columns, Target::rows(y, pixels), !bias.is_empty()) };
                return;
            }
            // SAFETY: there is room for a row for each output.
            unsafe { product(size, weight, columns, Target::rows(products, pitch), false) };
            for (row, output) in products.chunks_exact(pitch).zip(outputs_here) {
                for (plane, image) in row.chunks_exact(pixels).zip(images.clone()) {
                    let from = place(image, output);
                    // SAFETY: each part of the outputs of each image belongs to one call.
                    let y = unsafe { y.part(from..from + pixels) };
                    let bias = bias_of(bias, outputs, image, output);
                    for (y, x) in y.iter_mut().zip(plane) {
                        y.write(x + bias);
                    }
                }
            }
        });
    };
    // SAFETY: each part of the outputs of each image is written, and together they are y.
    unsafe { written(batch * problem.y_len(), write) }
}

/// The gradients of x, weight and bias, from `dy`, the gradient of y, (B, O, H', W').
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

/// The sum of each plane of `pixels` elements.
pub(super) fn plane_sums(planes: &[f32], pixels: usize) -> Vec<f32> {
    const LANES: usize = 16;
    let mut sums = vec![0.0; planes.len() / pixels];
    let at_once = usize::div_ceil(1 << 14, pixels);
    for_each_piece(
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

/// The gradient of x, or equivalently the transposed convolution of `dy`, of shape (B, I, H, W), plus `bias` (I,) or
/// (B, I), or empty for none.
pub(super) fn input_gradient(problem: &Problem, weight: &[f32], dy: &[f32], bias: &[f32]) -> Vec<f32> {
    let Problem { batch, inputs, outputs, .. } = *problem;
    let (pixels, out, taps) = (problem.pixels(), problem.out_pixels(), problem.taps());
    let (at_once, parts) = (problem.at_once(), splits(problem.groups(), inputs));
    let write = |dx: &mut [MaybeUninit<f32>]| {
        let dx = Shared::new(dx);
        let room = if at_once == 1 { 0 } else { outputs * at_once * out };
        let scratch = || (problem.room(inputs.div_ceil(parts)), Scratch::new(room));
        for_each(problem.groups() * parts, scratch, |(columns, beside), i| {
            let (images, channels) = (problem.group(i / parts), part(inputs, parts, i % parts));
            let dy = problem.beside(dy, &images, beside);
            let weight = Matrix::rows(&weight[channels.start * taps..], problem.depth()).t();
            let pitch = images.len() * out;
            let size = Size { m: channels.len() * taps, n: pitch, depth: outputs };
            let place = |image: usize, channel: usize| {
                let from = (image * inputs + channel) * pixels;
                from..from + pixels
            };
            if problem.is_product() && images.len() == 1 {
                let from = place(images.start, channels.start).start;
                // SAFETY: each part of the channels of each image belongs to one call.
                let dx = unsafe { dx.part(from..from + channels.len() * pixels) };
                for (plane, channel) in dx.chunks_exact_mut(pixels).zip(channels) {
                    plane.fill(MaybeUninit::new(bias_of(bias, inputs, images.start, channel)));
                }
                // SAFETY: dx has a row of pixels for each channel, written ones.
                unsafe { product(size, weight, dy, Target::rows(dx, pixels), true) };
                return;
            }
            // SAFETY: the columns have a row of pixels for each channel and tap.
            unsafe { product(size, weight, dy, Target::rows(columns, pitch), false) };
            for (columns, channel) in columns.chunks_exact(taps * pitch).zip(channels) {
                for (i, image) in images.clone().enumerate() {
                    // SAFETY: each part of the channels of each image belongs to one call.
                    let plane = unsafe { dx.part(place(image, channel)) };
                    plane.fill(MaybeUninit::new(bias_of(bias, inputs, image, channel)));
                    // SAFETY: it has just been written.
                    let plane = unsafe { plane.assume_init_mut() };
                    arch().dispatch(Scatter { problem, columns, within: Within { pitch, first: i * out }, plane });
                }
            }
        });
    };
    // SAFETY: each part of the channels of each image is written, and together they are dx.
    unsafe { written(batch * problem.x_len(), write) }
}

/// The gradient of weight, (O, I, K, L). Each part is summed over all images in order, so the result does not depend on
/// the number of threads.
pub(super) fn weight_gradient(problem: &Problem, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let Problem { inputs, outputs, .. } = *problem;
    let (out, taps, depth, at_once) = (problem.out_pixels(), problem.taps(), problem.depth(), problem.at_once());
    let rows = if inputs > OUTPUTS { outputs } else { OUTPUTS.min(outputs) };
    let channels_at_once = INPUTS.max(COLUMNS / taps);
    let (blocks, parts) = (inputs.div_ceil(channels_at_once), outputs.div_ceil(rows));
    // The gradients of y of the images in a group, side by side.
    let group_len = outputs * at_once * out;
    let mut beside = Scratch::new(if at_once == 1 { 0 } else { problem.groups() * group_len });
    if at_once > 1 {
        for_each_piece(
            &mut beside,
            group_len,
            || (),
            |(), i, beside| {
                problem.beside(dy, &problem.group(i), beside);
            },
        );
    }
    let write = |gradient: &mut [MaybeUninit<f32>]| {
        let to = Target::rows(gradient, depth);
        for_each(
            blocks * parts,
            || problem.room(channels_at_once.min(inputs)),
            |scratch, i| {
                let (block, first) = (i / parts * channels_at_once, i % parts * rows);
                let (channels, rows) = (block..inputs.min(block + channels_at_once), rows.min(outputs - first));
                for group in 0..problem.groups() {
                    let images = problem.group(group);
                    let pitch = images.len() * out;
                    let dy = match at_once {
                        1 => Matrix::rows(&dy[(group * outputs + first) * out..], out),
                        _ if images.len() == 1 => Matrix::rows(&dy[(images.start * outputs + first) * out..], out),
                        _ => Matrix::rows(&beside[group * group_len + first * pitch..], pitch),
                    };
                    let columns = problem.columns(x, &images, &channels, scratch);
                    let size = Size { m: rows, n: channels.len() * taps, depth: pitch };
                    // SAFETY: these channels of these outputs belong to one call, and the first group has written them.
                    unsafe { product(size, dy, columns.t(), to.from(first, block * taps), group > 0) };
                }
            },
        );
    };
    // SAFETY: each part is written by the first group.
    unsafe { written(outputs * depth, write) }
}

/// The gradients of the transposed convolution [`input_gradient`], from `dy`, the gradient of its result.
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
