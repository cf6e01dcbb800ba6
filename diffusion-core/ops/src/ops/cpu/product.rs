//! The matrix product that the convolutions are made of.
//!
//! C += A·B with the columns of B and C as vectors and the numbers of A one at a time: a tile of 6 rows and, with AVX-512,
//! 64 columns of C stays in registers while it runs through the whole inner dimension (the "outer product" form of
//! [Goto & van de Geijn 2008](https://doi.org/10.1145/1356052.1356053), section 4). Rows of B that are far apart
//! are put side by side first.

use pulp::Simd;
use std::mem::MaybeUninit;

/// The rows of C that a tile has.
const ROWS: usize = 6;
/// How much of the inner dimension is done at a time, so that 64 columns of B stay in the first-level cache.
const DEPTH: usize = 192;

/// From so far apart on, rows of B are on so many pages that their addresses have to be looked up each time.
const FAR: usize = 512;
/// The widest vectors' numbers times the most of them in a tile.
const WIDEST: usize = 64;

/// A: the number in row i and column p is `numbers[i * row + p * column]`.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Left<'a> {
    pub(in crate::ops) numbers: &'a [f32],
    pub(in crate::ops) row: usize,
    pub(in crate::ops) column: usize,
}

/// B: the number in row p and column j is `numbers[p * row + j]`.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Right<'a> {
    pub(in crate::ops) numbers: &'a [f32],
    pub(in crate::ops) row: usize,
}

/// C: the number in row i and column j is `numbers[i * row + j]`.
pub(in crate::ops) struct Out<'a> {
    pub(in crate::ops) numbers: &'a mut [f32],
    pub(in crate::ops) row: usize,
}

/// The sizes of a product: C has m rows and n columns, A has `depth` columns and B as many rows.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Size {
    pub(in crate::ops) m: usize,
    pub(in crate::ops) n: usize,
    pub(in crate::ops) depth: usize,
}

/// C = A·B, or C += A·B if `add`.
#[inline(always)]
pub(in crate::ops) fn product<S: Simd>(simd: S, size: Size, a: Left, b: Right, c: Out, add: bool) {
    let Size { m, n, depth } = size;
    if m == 0 || n == 0 {
        return;
    }
    if depth == 0 {
        if !add {
            (0..m).for_each(|i| c.numbers[i * c.row..][..n].fill(0.0));
        }
        return;
    }
    // All that the pointers below reach: the last number of each matrix.
    assert!((m - 1) * a.row + (depth - 1) * a.column < a.numbers.len());
    assert!((depth - 1) * b.row + n <= b.numbers.len());
    assert!((m - 1) * c.row + n <= c.numbers.len());
    let lanes = S::F32_LANES;
    // As many as there are registers for, beside one row of B and one number of A.
    let widest = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
    let c_start = c.numbers.as_mut_ptr();
    let mut packed = [const { MaybeUninit::<f32>::uninit() }; DEPTH * WIDEST];
    for p in (0..depth).step_by(DEPTH) {
        let depth = DEPTH.min(depth - p);
        let add = add || p > 0;
        let mut j = 0;
        while j < n {
            let vectors = match (n - j) / lanes {
                0 => 0,
                left if left >= widest => widest,
                left if left >= 2 => 2,
                _ => 1,
            };
            let columns = match vectors {
                0 => n - j,
                _ => vectors * lanes,
            };
            // SAFETY: the rows p … p + depth − 1 and the columns from j on are in B.
            let (mut b_start, mut b_row) = (unsafe { b.numbers.as_ptr().add(p * b.row + j) }, b.row);
            if vectors > 0 && b.row >= FAR && m > 3 * ROWS {
                for (i, row) in packed.chunks_exact_mut(columns).take(depth).enumerate() {
                    let row = row.as_mut_ptr().cast::<S::f32s>();
                    for v in 0..vectors {
                        // SAFETY: `vectors` registers are `columns` numbers, of B and of the row.
                        unsafe {
                            let from = b_start.add(i * b.row + v * lanes).cast::<S::f32s>();
                            row.add(v).write_unaligned(from.read_unaligned());
                        }
                    }
                }
                (b_start, b_row) = (packed.as_ptr().cast(), columns);
            }
            let mut i = 0;
            while i < m {
                let rows = ROWS.min(m - i);
                // SAFETY: the rows i … i + rows − 1 are below m, the columns j … below n.
                unsafe {
                    let tile = Tile {
                        depth,
                        a: a.numbers.as_ptr().add(i * a.row + p * a.column),
                        a_row: a.row,
                        a_column: a.column,
                        b: b_start,
                        b_row,
                        c: c_start.add(i * c.row + j),
                        c_row: c.row,
                        add,
                    };
                    match vectors {
                        4 => tile.rows::<S, 4>(simd, rows),
                        2 => tile.rows::<S, 2>(simd, rows),
                        1 => tile.rows::<S, 1>(simd, rows),
                        _ => tile.edge(simd, rows, columns),
                    }
                }
                i += rows;
            }
            j += columns;
        }
    }
}

/// One tile of C, and where its rows of A and columns of B begin.
struct Tile {
    depth: usize,
    a: *const f32,
    a_row: usize,
    a_column: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    add: bool,
}

impl Tile {
    /// # Safety
    /// `rows` rows and V vectors of columns lie within the matrices.
    #[inline(always)]
    unsafe fn rows<S: Simd, const V: usize>(self, simd: S, rows: usize) {
        // SAFETY: by the contract of this function.
        unsafe {
            match rows {
                6 => self.full::<S, 6, V>(simd),
                5 => self.full::<S, 5, V>(simd),
                4 => self.full::<S, 4, V>(simd),
                3 => self.full::<S, 3, V>(simd),
                2 => self.full::<S, 2, V>(simd),
                _ => self.full::<S, 1, V>(simd),
            }
        }
    }

    /// # Safety
    /// R rows and V vectors of columns lie within the matrices.
    #[inline(always)]
    unsafe fn full<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        // SAFETY: by the contract of this function; vectors are read and written unaligned.
        unsafe {
            let lanes = S::F32_LANES;
            let mut sums = [[simd.splat_f32s(0.0); V]; R];
            let (mut a, mut b) = (self.a, self.b);
            for _ in 0..self.depth {
                let mut columns = [simd.splat_f32s(0.0); V];
                for (v, column) in columns.iter_mut().enumerate() {
                    *column = b.add(v * lanes).cast::<S::f32s>().read_unaligned();
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let factor = simd.splat_f32s(*a.add(i * self.a_row));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = simd.mul_add_e_f32s(factor, column, *sum);
                    }
                }
                a = a.wrapping_add(self.a_column);
                b = b.wrapping_add(self.b_row);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    let c = self.c.add(i * self.c_row + v * lanes).cast::<S::f32s>();
                    c.write_unaligned(match self.add {
                        true => simd.add_f32s(c.read_unaligned(), *sum),
                        false => *sum,
                    });
                }
            }
        }
    }

    /// The last columns, fewer than a vector has.
    ///
    /// # Safety
    /// `rows` rows and `columns` columns lie within the matrices.
    #[inline(always)]
    unsafe fn edge<S: Simd>(self, simd: S, rows: usize, columns: usize) {
        let zero = simd.splat_f32s(0.0);
        let mut sums = [zero; ROWS];
        // SAFETY: by the contract of this function.
        unsafe {
            let slice = |p: usize| std::slice::from_raw_parts(self.b.add(p * self.b_row), columns);
            for p in 0..self.depth {
                let column = simd.partial_load_f32s(slice(p));
                for (i, sum) in sums[..rows].iter_mut().enumerate() {
                    let factor = simd.splat_f32s(*self.a.add(i * self.a_row + p * self.a_column));
                    *sum = simd.mul_add_e_f32s(factor, column, *sum);
                }
            }
            for (i, sum) in sums[..rows].iter().enumerate() {
                let c = std::slice::from_raw_parts_mut(self.c.add(i * self.c_row), columns);
                let before = if self.add { simd.partial_load_f32s(c) } else { zero };
                simd.partial_store_f32s(c, simd.add_f32s(before, *sum));
            }
        }
    }
}
