//! The affine map as products, each cut into blocks for the threads, without a transposed copy of anything.

use super::loops::{Pieces, written};
use super::matrix::{Matrix, Sizes, Target, product};
use super::parallel::{for_each, threads};
use super::{read, slice, stored};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use std::mem::MaybeUninit;

/// Products of up to so many multiplications are done on one thread.
const SMALL: usize = 1 << 22;

/// The operation y = x Wᵀ + b: of x (R, I), W (O, I) and, as an operation of three, b (O,).
pub(in crate::ops) struct Linear;

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, inner), (out, _)) = (x_layout.shape().dims2()?, weight_layout.shape().dims2()?);
        let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
        let y = forward(x, weight, None, [rows, inner, out]);
        Ok(stored(y, (rows, out)))
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        backward(x, weight, dy)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, inner), (out, _)) = (x_layout.shape().dims2()?, weight_layout.shape().dims2()?);
        let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
        let bias = slice(bias, bias_layout)?;
        let y = forward(x, weight, Some(bias), [rows, inner, out]);
        Ok(stored(y, (rows, out)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dbias = match bias.track_op() {
            true => {
                let sums = read([dy], |[dy]| column_sums(dy, bias.elem_count()))?;
                Some(Tensor::from_vec(sums, bias.shape(), bias.device())?)
            }
            false => None,
        };
        let (dx, dweight) = backward(x, weight, dy)?;
        Ok((dx, dweight, dbias))
    }
}

fn forward(x: &[f32], weight: &[f32], bias: Option<&[f32]>, [rows, inner, out]: [usize; 3]) -> Vec<f32> {
    let (x, weight) = (Matrix::rows(x, inner), Matrix::rows(weight, inner));
    multiply([rows, out, inner], x, weight.t(), bias)
}

fn backward(x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let ((rows, inner), (out, _)) = (x.dims2()?, weight.dims2()?);
    let [dx, dweight] = read([x, weight, dy], |[x_numbers, weight_numbers, dy]| {
        let dy = Matrix::rows(dy, out);
        let dx = || multiply([rows, inner, out], dy, Matrix::rows(weight_numbers, inner), None);
        let dweight = || multiply([out, inner, rows], dy.t(), Matrix::rows(x_numbers, inner), None);
        [x.track_op().then(dx), weight.track_op().then(dweight)]
    })?;
    let tensor = |of: &Tensor, gradient: Option<Vec<f32>>| {
        gradient.map(|gradient| Tensor::from_vec(gradient, of.shape(), of.device())).transpose()
    };
    Ok((tensor(x, dx)?, tensor(weight, dweight)?))
}

/// A B, with `bias` added to each row; A has m rows and k columns, B n columns.
fn multiply([m, n, k]: [usize; 3], a: Matrix, b: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    // Blocks of whole rows or, if there are few rows, of columns; of 16 at least, and two for each thread; but one block
    // if there is less to do than it takes to wake a thread.
    let by_rows = m >= 16 * threads() || m >= n;
    let blocks = if m * n * k <= SMALL { 1 } else { 2 * threads() };
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
                    true => Sizes { m: block.min(m - i), n, k },
                    false => Sizes { m, n: block.min(n - j), k },
                };
                let c = c.from(i, j);
                if let Some(bias) = bias {
                    for row in 0..size.m {
                        // SAFETY: the block is this thread's.
                        unsafe { c.write(row, &bias[j..][..size.n]) };
                    }
                }
                // SAFETY: as above, and with a bias it has been written.
                unsafe { product(size, 1.0, a.from(i, 0), b.from(0, j), c, bias.is_some()) };
            },
        );
    };
    // SAFETY: the blocks are all of it.
    unsafe { written(m * n, work) }
}

/// The sum of each of the `columns` columns, row after row.
fn column_sums(x: &[f32], columns: usize) -> Vec<f32> {
    const BLOCK: usize = 64;
    let mut sums = vec![0f32; columns];
    let pieces = Pieces::new(&mut sums, BLOCK);
    for_each(
        columns.div_ceil(BLOCK),
        || (),
        |(), i| {
            // SAFETY: each i once at a time.
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
