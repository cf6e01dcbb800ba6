//! The affine map as matrix products, split into blocks for the threads, without transposed copies.

use super::super::graph::{Gradient, Kernel};
use super::loops::{Pieces, written};
use super::parallel::{for_each, threads};
use super::product::{Matrix, Size, Target, product};
use candle_core::Shape;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// The largest number of multiplications for a product on one thread.
const SMALL: usize = 1 << 22;

/// The operation y = x Wᵀ + b for x (…, I), W (O, I) and, if it has three inputs, b (O,).
pub(in crate::ops) struct Linear;

impl Kernel<2> for Linear {
    fn forward(&self, [x, weight]: [&[f32]; 2], shapes: [&Shape; 2]) -> (Vec<f32>, Shape) {
        forward(x, weight, None, shapes)
    }

    fn backward(
        &self,
        [x, weight]: [&[f32]; 2],
        shapes: [&Shape; 2],
        dy: Gradient,
        wanted: [bool; 2],
    ) -> [Option<Gradient>; 2] {
        let dims = sizes(x, shapes[1]);
        [wanted[0].then(|| input_gradient(weight, &dy, dims)), wanted[1].then(|| weight_gradient(x, &dy, dims))]
    }
}

impl Kernel<3> for Linear {
    fn forward(&self, [x, weight, bias]: [&[f32]; 3], [of_x, of_weight, _]: [&Shape; 3]) -> (Vec<f32>, Shape) {
        forward(x, weight, Some(bias), [of_x, of_weight])
    }

    fn backward(
        &self,
        [x, weight, bias]: [&[f32]; 3],
        shapes: [&Shape; 3],
        dy: Gradient,
        wanted: [bool; 3],
    ) -> [Option<Gradient>; 3] {
        let dims = sizes(x, shapes[1]);
        [
            wanted[0].then(|| input_gradient(weight, &dy, dims)),
            wanted[1].then(|| weight_gradient(x, &dy, dims)),
            wanted[2].then(|| Arc::new(column_sums(&dy, bias.len()))),
        ]
    }
}

/// The number of rows of x, and the row lengths of x and y.
fn sizes(x: &[f32], weight: &Shape) -> [usize; 3] {
    let (out, inner) = (weight.dims()[0], weight.dims()[1]);
    [x.len() / inner, inner, out]
}

fn forward(x: &[f32], weight: &[f32], bias: Option<&[f32]>, [of_x, of_weight]: [&Shape; 2]) -> (Vec<f32>, Shape) {
    let [rows, inner, out] = sizes(x, of_weight);
    let mut shape = of_x.dims().to_vec();
    shape.pop();
    shape.push(out);
    let y = multiply([rows, out, inner], Matrix::rows(x, inner), Matrix::rows(weight, inner).t(), bias);
    (y, shape.into())
}

fn input_gradient(weight: &[f32], dy: &[f32], [rows, inner, out]: [usize; 3]) -> Gradient {
    Arc::new(multiply([rows, inner, out], Matrix::rows(dy, out), Matrix::rows(weight, inner), None))
}

fn weight_gradient(x: &[f32], dy: &[f32], [rows, inner, out]: [usize; 3]) -> Gradient {
    Arc::new(multiply([out, inner, rows], Matrix::rows(dy, out).t(), Matrix::rows(x, inner), None))
}

/// A B, with `bias` added to each row; A is m × `depth`, B is `depth` × n.
fn multiply([m, n, depth]: [usize; 3], a: Matrix, b: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    // Blocks of rows or, if there are few rows, of columns: at least 16 of them, and two blocks for each thread; a
    // single block if the work is too small to wake a thread.
    let by_rows = m >= 16 * threads() || m >= n;
    let blocks = if m * n * depth <= SMALL { 1 } else { 2 * threads() };
    let block = (if by_rows { m } else { n }).div_ceil(blocks).next_multiple_of(16);
    let work = |c: &mut [MaybeUninit<f32>]| {
        let c = Target::rows(c, n);
        let count = (if by_rows { m } else { n }).div_ceil(block);
        for_each(
            count,
            || (),
            |(), i| {
                let (i, j) = if by_rows { (i * block, 0) } else { (0, i * block) };
                let size = match by_rows {
                    true => Size { m: block.min(m - i), n, depth },
                    false => Size { m, n: block.min(n - j), depth },
                };
                let c = c.from(i, j);
                if let Some(bias) = bias {
                    for row in 0..size.m {
                        // SAFETY: the block belongs to this thread.
                        unsafe { c.write(row, &bias[j..][..size.n]) };
                    }
                }
                // SAFETY: as above, and with a bias it has been written.
                unsafe { product(size, a.from(i, 0), b.from(0, j), c, bias.is_some()) };
            },
        );
    };
    // SAFETY: the blocks cover the whole result.
    unsafe { written(m * n, work) }
}

/// The sum of each of the `columns` columns, row by row.
fn column_sums(x: &[f32], columns: usize) -> Vec<f32> {
    const BLOCK: usize = 64;
    let mut sums = vec![0f32; columns];
    let pieces = Pieces::new(&mut sums, BLOCK);
    for_each(
        columns.div_ceil(BLOCK),
        || (),
        |(), i| {
            // SAFETY: each i is used once at a time.
            let sums = unsafe { pieces.get(i) };
            let mut total = [0f64; BLOCK];
            for row in x.chunks_exact(columns) {
                for (total, x) in total.iter_mut().zip(&row[i * BLOCK..][..sums.len()]) {
                    *total += f64::from(*x);
                }
            }
            for (sum, total) in sums.iter_mut().zip(total) {
                *sum = total as f32;
            }
        },
    );
    sums
}
