//! Operations that change the size of each plane (H, W) of a tensor (B, C, H, W): pooling and upsampling.
//!
//! The loops are plain ones over whole rows without branches, which the compiler vectorises.

use super::super::graph::{Gradient, Kernel};
use super::arch::arch;
use super::loops::{Pieces, written};
use super::parallel::for_each;
use candle_core::Shape;
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;
use std::sync::Arc;

/// The approximate number of elements in a piece of work.
const PIECE: usize = 1 << 14;

/// The operation on each plane.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Planes {
    /// 2× nearest-neighbour upsampling.
    Nearest2x,
    /// 2× bilinear upsampling.
    Bilinear2x,
    /// The maximum of each square of this size.
    MaxPool(usize),
    /// The mean of each square of this size.
    AvgPool(usize),
}

impl Kernel<1> for Planes {
    fn forward(&self, [x]: [&[f32]; 1], [shape]: [&Shape; 1]) -> (Vec<f32>, Shape) {
        let [count, h, w] = sizes(shape);
        let (rows, columns) = self.size(h, w);
        let (b, c) = (shape.dims()[0], shape.dims()[1]);
        (self.run(x, None, count, (h, w)), (b, c, rows, columns).into())
    }

    fn needs_arguments(&self) -> bool {
        matches!(self, Self::MaxPool(_))
    }

    fn backward(&self, [x]: [&[f32]; 1], [shape]: [&Shape; 1], dy: Gradient, _: [bool; 1]) -> [Option<Gradient>; 1] {
        let [count, h, w] = sizes(shape);
        [Some(Arc::new(self.run(x, Some(&dy), count, (h, w))))]
    }
}

/// The number of planes, their height and their width.
fn sizes(shape: &Shape) -> [usize; 3] {
    let dims = shape.dims();
    [dims[0] * dims[1], dims[2], dims[3]]
}

impl Planes {
    /// The size of the result for a plane of h rows and w columns.
    fn size(self, h: usize, w: usize) -> (usize, usize) {
        match self {
            Self::Nearest2x | Self::Bilinear2x => (2 * h, 2 * w),
            Self::MaxPool(size) | Self::AvgPool(size) => (h / size, w / size),
        }
    }

    /// The values, or with `dy` the gradient, of `count` planes of h rows and w columns.
    fn run(self, x: &[f32], dy: Option<&[f32]>, count: usize, (h, w): (usize, usize)) -> Vec<f32> {
        let (rows, columns) = self.size(h, w);
        let (before, after) = (h * w, rows * columns);
        let out = if dy.is_some() { before } else { after };
        let block = (PIECE / before.max(after)).max(1);
        let work = |out: &mut [MaybeUninit<f32>]| {
            let pieces = Pieces::new(out, block * out.len() / count.max(1));
            for_each(
                count.div_ceil(block),
                || (),
                |(), i| {
                    let (from, to) = (i * block, count.min((i + 1) * block));
                    arch().dispatch(Block {
                        planes: self,
                        w,
                        h,
                        x: if x.is_empty() { x } else { &x[from * before..to * before] },
                        dy: dy.map(|dy| &dy[from * after..to * after]),
                        // SAFETY: each i is used once at a time.
                        out: unsafe { pieces.get(i) },
                    });
                },
            );
        };
        // SAFETY: every plane is written completely.
        unsafe { written(count * out, work) }
    }
}

/// Some planes.
struct Block<'a> {
    planes: Planes,
    h: usize,
    w: usize,
    x: &'a [f32],
    dy: Option<&'a [f32]>,
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { planes, h, w, x, dy, out } = self;
        let (rows, columns) = planes.size(h, w);
        let (before, after) = (h * w, rows * columns);
        match dy {
            None => {
                for (x, y) in x.chunks_exact(before).zip(out.chunks_exact_mut(after)) {
                    match planes {
                        Planes::Nearest2x => nearest2x(x, w, y),
                        Planes::Bilinear2x => bilinear2x(x, w, y),
                        // A constant 2, so that the compiler can unroll it.
                        Planes::MaxPool(2) => max_pool(x, w, 2, y),
                        Planes::MaxPool(size) => max_pool(x, w, size, y),
                        Planes::AvgPool(2) => avg_pool(x, w, 2, y),
                        Planes::AvgPool(size) => avg_pool(x, w, size, y),
                    }
                }
            }
            Some(dy) => {
                for (i, (dy, dx)) in dy.chunks_exact(after).zip(out.chunks_exact_mut(before)).enumerate() {
                    // Only the maximum needs it.
                    let x = x.get(i * before..(i + 1) * before).unwrap_or_default();
                    match planes {
                        Planes::Nearest2x => nearest2x_back(dy, w, dx),
                        Planes::Bilinear2x => bilinear2x_back(dy, w, dx),
                        Planes::MaxPool(2) => max_pool_back(x, dy, w, 2, dx),
                        Planes::MaxPool(size) => max_pool_back(x, dy, w, size, dx),
                        Planes::AvgPool(2) => avg_pool_back(dy, w, 2, dx),
                        Planes::AvgPool(size) => avg_pool_back(dy, w, size, dx),
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn nearest2x(x: &[f32], w: usize, y: &mut [MaybeUninit<f32>]) {
    for (x, y) in x.chunks_exact(w).zip(y.chunks_exact_mut(4 * w)) {
        for y in y.chunks_exact_mut(2 * w) {
            for (x, y) in x.iter().zip(y.chunks_exact_mut(2)) {
                y[0].write(*x);
                y[1].write(*x);
            }
        }
    }
}

#[inline(always)]
fn nearest2x_back(dy: &[f32], w: usize, dx: &mut [MaybeUninit<f32>]) {
    for (dx, dy) in dx.chunks_exact_mut(w).zip(dy.chunks_exact(4 * w)) {
        let (top, bottom) = dy.split_at(2 * w);
        let squares = top.chunks_exact(2).zip(bottom.chunks_exact(2));
        for (dx, (top, bottom)) in dx.iter_mut().zip(squares) {
            dx.write((top[0] + top[1]) + (bottom[0] + bottom[1]));
        }
    }
}

#[inline(always)]
fn bilinear2x(x: &[f32], w: usize, y: &mut [MaybeUninit<f32>]) {
    let h = x.len() / w;
    let row = |i: usize| &x[i * w..][..w];
    // A row between two, with one more element at each end.
    let mut mixed = vec![0f32; w + 2];
    for (i, y) in y.chunks_exact_mut(2 * w).enumerate() {
        let near = row(i / 2);
        let far = row(match i % 2 {
            0 => (i / 2).saturating_sub(1),
            _ => (i / 2 + 1).min(h - 1),
        });
        for ((mixed, near), far) in mixed[1..=w].iter_mut().zip(near).zip(far) {
            *mixed = 0.75 * near + 0.25 * far;
        }
        (mixed[0], mixed[w + 1]) = (mixed[1], mixed[w]);
        for (y, mixed) in y.chunks_exact_mut(2).zip(mixed.windows(3)) {
            y[0].write(0.75 * mixed[1] + 0.25 * mixed[0]);
            y[1].write(0.75 * mixed[1] + 0.25 * mixed[2]);
        }
    }
}

/// Row i contributes ¾ to rows 2i and 2i + 1, and ¼ to rows 2i − 1 and 2i + 2; contributions beyond the edge go to the
/// row at the edge.
#[inline(always)]
fn bilinear2x_back(dy: &[f32], w: usize, dx: &mut [MaybeUninit<f32>]) {
    let h = dx.len() / w;
    let row = |i: usize| &dy[i * 2 * w..][..2 * w];
    let mut mixed = vec![0f32; 2 * w + 2];
    for (i, dx) in dx.chunks_exact_mut(w).enumerate() {
        let (before, after) = ((2 * i).max(1) - 1, (2 * i + 2).min(2 * h - 1));
        let near = row(2 * i).iter().zip(row(2 * i + 1));
        let far = row(before).iter().zip(row(after));
        for ((mixed, near), far) in mixed[1..=2 * w].iter_mut().zip(near).zip(far) {
            *mixed = 0.75 * (near.0 + near.1) + 0.25 * (far.0 + far.1);
        }
        (mixed[0], mixed[2 * w + 1]) = (mixed[1], mixed[2 * w]);
        let pairs = mixed.chunks_exact(2).zip(mixed[2..].chunks_exact(2));
        for (dx, (a, b)) in dx.iter_mut().zip(pairs) {
            dx.write(0.75 * (a[1] + b[0]) + 0.25 * (a[0] + b[1]));
        }
    }
}

/// Whether `x` replaces the maximum so far: the first of equal elements is kept, and NaN always replaces, as in
/// PyTorch.
#[inline(always)]
fn exceeds(x: f32, most: f32) -> bool {
    x > most || x.is_nan()
}

#[inline(always)]
fn max_pool(x: &[f32], w: usize, size: usize, y: &mut [MaybeUninit<f32>]) {
    let columns = w / size;
    for (x, y) in x.chunks_exact(size * w).zip(y.chunks_exact_mut(columns)) {
        for (j, y) in y.iter_mut().enumerate() {
            let mut most = f32::NEG_INFINITY;
            for row in x.chunks_exact(w) {
                for x in &row[j * size..][..size] {
                    most = if exceeds(*x, most) { *x } else { most };
                }
            }
            y.write(most);
        }
    }
}

#[inline(always)]
fn max_pool_back(x: &[f32], dy: &[f32], w: usize, size: usize, dx: &mut [MaybeUninit<f32>]) {
    let columns = w / size;
    zero_left_over(w, size, dx);
    // For each square of a strip, the maximum so far and its position in the square.
    let (mut most, mut first) = (vec![0f32; columns], vec![0u32; columns]);
    let strips = x.chunks_exact(size * w).zip(dx.chunks_exact_mut(size * w));
    for ((x, dx), dy) in strips.zip(dy.chunks_exact(columns)) {
        most.fill(f32::NEG_INFINITY);
        first.fill(0);
        for (i, row) in x.chunks_exact(w).enumerate() {
            for (x, square) in row.chunks_exact(size).zip(most.iter_mut().zip(&mut first)) {
                let (mut most, mut first) = (*square.0, *square.1);
                for (k, x) in x.iter().enumerate() {
                    let exceeds = exceeds(*x, most);
                    most = if exceeds { *x } else { most };
                    first = if exceeds { (i * size + k) as u32 } else { first };
                }
                (*square.0, *square.1) = (most, first);
            }
        }
        for (i, row) in dx.chunks_exact_mut(w).enumerate() {
            for (dx, (first, dy)) in row.chunks_exact_mut(size).zip(first.iter().zip(dy)) {
                for (k, dx) in dx.iter_mut().enumerate() {
                    let here = *first == (i * size + k) as u32;
                    dx.write(if here { *dy } else { 0.0 });
                }
            }
        }
    }
}

#[inline(always)]
fn avg_pool(x: &[f32], w: usize, size: usize, y: &mut [MaybeUninit<f32>]) {
    let columns = w / size;
    let share = 1.0 / (size * size) as f32;
    for (x, y) in x.chunks_exact(size * w).zip(y.chunks_exact_mut(columns)) {
        for (j, y) in y.iter_mut().enumerate() {
            let mut sum = 0.0;
            for row in x.chunks_exact(w) {
                for x in &row[j * size..][..size] {
                    sum += x;
                }
            }
            y.write(sum * share);
        }
    }
}

#[inline(always)]
fn avg_pool_back(dy: &[f32], w: usize, size: usize, dx: &mut [MaybeUninit<f32>]) {
    let columns = w / size;
    let share = 1.0 / (size * size) as f32;
    zero_left_over(w, size, dx);
    let strips = dx.chunks_exact_mut(size * w).zip(dy.chunks_exact(columns));
    for (dx, dy) in strips {
        for row in dx.chunks_exact_mut(w) {
            for (dx, dy) in row.chunks_exact_mut(size).zip(dy) {
                dx.fill(MaybeUninit::new(dy * share));
            }
        }
    }
}

/// Sets the rows and columns that belong to no square to 0.
#[inline(always)]
fn zero_left_over(w: usize, size: usize, dx: &mut [MaybeUninit<f32>]) {
    let zero = MaybeUninit::new(0.0);
    let rows = dx.len() / w / size * size;
    let (squares, below) = dx.split_at_mut(rows * w);
    below.fill(zero);
    if !w.is_multiple_of(size) {
        let right = squares.chunks_exact_mut(w);
        right.for_each(|row| row[w / size * size..].fill(zero));
    }
}
