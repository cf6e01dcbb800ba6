//! The matrix product for convolutions, the affine map and attention, on the calling thread.
//!
//! C += A·B, with the columns of B and C as vectors and the elements of A one at a time. A tile of 6 rows and, with
//! AVX-512, 64 columns of C stays in registers while it runs through the inner dimension (the "outer product" form of
//! [Goto & van de Geijn 2008](https://doi.org/10.1145/1356052.1356053), section 4). Columns of B that are not
//! contiguous, or rows that are far apart, are packed first.
//!
//! Each element of C is summed over the inner dimension in the same order, whatever part of C a call computes, so
//! distributing a product among threads does not change its bits.

use super::arch::arch;
use super::blocks::{BLOCK, transpose};
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;

/// The number of rows of C in a tile.
const ROWS: usize = 6;
/// The part of the inner dimension that is processed at a time, so that 64 columns of B stay in the first-level cache.
const DEPTH: usize = 192;

/// The row distance of B from which rows are on so many pages that address translation becomes slow.
const FAR: usize = 512;
/// The number of elements of the widest vectors times the largest number of vectors in a tile.
const WIDEST: usize = 64;

/// A matrix whose element in row i and column j is `numbers[i * row + j * column]`.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Matrix<'a> {
    pub(in crate::ops) numbers: &'a [f32],
    pub(in crate::ops) row: usize,
    pub(in crate::ops) column: usize,
}

impl<'a> Matrix<'a> {
    /// Contiguous rows of `row` elements.
    pub(in crate::ops) fn rows(numbers: &'a [f32], row: usize) -> Self {
        Self { numbers, row, column: 1 }
    }

    /// The submatrix from row `i` and column `j` on.
    pub(in crate::ops) fn from(self, i: usize, j: usize) -> Self {
        Self { numbers: &self.numbers[i * self.row + j * self.column..], ..self }
    }

    /// The transpose.
    pub(in crate::ops) fn t(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }

    /// Whether it has at least `rows` rows and `columns` columns.
    fn holds(self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row + (columns - 1) * self.column < self.numbers.len()
    }
}

/// The destination of a product, perhaps part of a larger matrix: row i and column j is at `start + i * row + j`.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Target {
    start: *mut f32,
    row: usize,
}

// SAFETY: what is written through it, and that nobody else does so, is the contract of `product`.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// Contiguous rows of `row` elements.
    pub(in crate::ops) fn rows<T>(numbers: &mut [T], row: usize) -> Self {
        const { assert!(size_of::<T>() == size_of::<f32>()) };
        Self { start: numbers.as_mut_ptr().cast(), row }
    }

    /// The destination from row `i` and column `j` on.
    pub(in crate::ops) fn from(self, i: usize, j: usize) -> Self {
        Self { start: self.start.wrapping_add(i * self.row + j), ..self }
    }

    /// Writes `numbers` to row `i`.
    ///
    /// # Safety
    /// As many elements from there on belong to the target, and no other thread uses them meanwhile.
    pub(in crate::ops) unsafe fn write(self, i: usize, numbers: &[f32]) {
        let to = self.start.wrapping_add(i * self.row);
        // SAFETY: by the contract of this function.
        unsafe { to.copy_from_nonoverlapping(numbers.as_ptr(), numbers.len()) }
    }
}

/// The sizes of a product: C is m × n, A is m × `depth`, B is `depth` × n.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Size {
    pub(in crate::ops) m: usize,
    pub(in crate::ops) n: usize,
    pub(in crate::ops) depth: usize,
}

/// Computes C = A·B, where C may be uninitialised, or C += A·B if `add` is set.
///
/// # Safety
/// `c` has m rows of n elements, initialised if `add` is set; no other thread uses them meanwhile.
pub(in crate::ops) unsafe fn product(size: Size, a: Matrix, b: Matrix, c: Target, add: bool) {
    let Size { m, n, depth } = size;
    if m == 0 || n == 0 {
        return;
    }
    if depth == 0 {
        if !add {
            for i in 0..m {
                let row = c.start.wrapping_add(i * c.row);
                // SAFETY: by the contract of this function.
                (0..n).for_each(|j| unsafe { *row.add(j) = 0.0 });
            }
        }
        return;
    }
    assert!(a.holds(m, depth) && b.holds(depth, n), "{m} × {depth} × {n}");
    arch().dispatch(Product { size, a, b, c, add });
}

struct Product<'a> {
    size: Size,
    a: Matrix<'a>,
    b: Matrix<'a>,
    c: Target,
    add: bool,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { size: Size { m, n, depth }, a, b, c, add } = self;
        // As many as there are registers for, besides one row of B and one element of A.
        let widest = if S::REGISTER_COUNT >= 32 { 4 } else { 2 } * S::F32_LANES;
        let mut packed = [const { MaybeUninit::<f32>::uninit() }; DEPTH * WIDEST];
        for p in (0..depth).step_by(DEPTH) {
            let depth = DEPTH.min(depth - p);
            for j in (0..n).step_by(widest) {
                let columns = widest.min(n - j);
                let width = columns.next_multiple_of(S::F32_LANES);
                let mut part = b.from(p, j);
                // Whole vectors are read, which must not exceed the end.
                if b.column != 1 || columns < width || b.row >= FAR && m > 3 * ROWS {
                    let packed = &mut packed[..depth * width];
                    part = Matrix::rows(pack(simd, part, columns, packed, width), width);
                }
                for i in (0..m).step_by(ROWS) {
                    let tile = Tile { depth, a: a.from(i, p), b: part, c: c.from(i, j), columns, add: add || p > 0 };
                    // SAFETY: A and B hold all that the sizes say, C by the contract of `product`.
                    unsafe { tile.run(simd, ROWS.min(m - i), width / S::F32_LANES) };
                }
            }
        }
    }
}

/// Packs `columns` columns, with as many rows as fit into `to`, to rows of `width` elements, padded with zeros.
#[inline(always)]
fn pack<'a, S: Simd>(simd: S, b: Matrix, columns: usize, to: &'a mut [MaybeUninit<f32>], width: usize) -> &'a [f32] {
    let depth = to.len() / width;
    if columns < width {
        to.fill(MaybeUninit::new(0.0));
    }
    if b.column == 1 {
        for (i, row) in to.chunks_exact_mut(width).enumerate() {
            let from = &b.numbers[i * b.row..][..columns];
            if columns < width {
                row[..columns].write_copy_of_slice(from);
                continue;
            }
            // Not in one call, which would check the length.
            for (to, from) in row.chunks_exact_mut(S::F32_LANES).zip(from.chunks_exact(S::F32_LANES)) {
                to.write_copy_of_slice(from);
            }
        }
    } else {
        let at = |i: usize, j: usize| i * b.row + j * b.column;
        for j in (0..columns).step_by(BLOCK) {
            for i in (0..depth).step_by(BLOCK) {
                let start = to[i * width + j..].as_mut_ptr().cast::<f32>();
                if b.row == 1 && i + BLOCK <= depth && j + BLOCK <= columns {
                    let from = &b.numbers[at(i, j)..=at(i + BLOCK - 1, j + BLOCK - 1)];
                    // SAFETY: 16 × 16 numbers are in `from`, as the range says, and in `to`, which has as many rows and
                    // columns.
                    unsafe { transpose(simd, from.as_ptr(), b.column, start, width) };
                    continue;
                }
                for i in i..depth.min(i + BLOCK) {
                    for j in j..columns.min(j + BLOCK) {
                        to[i * width + j].write(b.numbers[at(i, j)]);
                    }
                }
            }
        }
    }
    // SAFETY: zeros, or all columns, have been written.
    unsafe { to.assume_init_ref() }
}

/// One tile of C, and the start of its rows of A and columns of B. The columns of B are contiguous, in whole vectors.
struct Tile<'a> {
    depth: usize,
    a: Matrix<'a>,
    b: Matrix<'a>,
    c: Target,
    columns: usize,
    add: bool,
}

impl Tile<'_> {
    /// # Safety
    /// `rows` rows and `vectors` vectors of columns lie within A and B, `rows` rows and `columns` columns within C.
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S, rows: usize, vectors: usize) {
        // SAFETY: by the contract of this function.
        unsafe {
            match vectors {
                4 => self.rows::<S, 4>(simd, rows),
                3 => self.rows::<S, 3>(simd, rows),
                2 => self.rows::<S, 2>(simd, rows),
                _ => self.rows::<S, 1>(simd, rows),
            }
        }
    }

    /// # Safety
    /// See [`Tile::run`], with V vectors.
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
    /// See [`Tile::run`], with R rows and V vectors.
    #[inline(always)]
    unsafe fn full<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        let (columns, width) = (self.columns, V * S::F32_LANES);
        // SAFETY: by the contract of this function.
        unsafe {
            if columns == width {
                return self.sums::<S, R, V>(simd, self.c);
            }
            // The end of a row of C, shorter than a vector, is copied to a buffer and back.
            let mut whole = [0f32; ROWS * WIDEST];
            let row = |i: usize| self.c.start.wrapping_add(i * self.c.row);
            if self.add {
                for (i, whole) in whole.chunks_exact_mut(width).take(R).enumerate() {
                    whole[..columns].copy_from_slice(std::slice::from_raw_parts(row(i), columns));
                }
            }
            self.sums::<S, R, V>(simd, Target::rows(&mut whole, width));
            for (i, whole) in whole.chunks_exact(width).take(R).enumerate() {
                row(i).copy_from_nonoverlapping(whole.as_ptr(), columns);
            }
        }
    }

    /// Adds to `c` in whole vectors. The loops are so plain that the compiler keeps all sums in registers.
    ///
    /// # Safety
    /// See [`Tile::run`], with R rows and V vectors, also in C.
    #[inline(always)]
    unsafe fn sums<S: Simd, const R: usize, const V: usize>(&self, simd: S, c: Target) {
        // SAFETY: by the contract of this function; vectors are read and written unaligned.
        unsafe {
            let lanes = S::F32_LANES;
            let mut sums = [[simd.splat_f32s(0.0); V]; R];
            let a: [*const f32; R] = std::array::from_fn(|i| self.a.numbers.as_ptr().wrapping_add(i * self.a.row));
            let mut b = self.b.numbers.as_ptr();
            let mut at = 0;
            for _ in 0..self.depth {
                let mut columns = [simd.splat_f32s(0.0); V];
                for (v, column) in columns.iter_mut().enumerate() {
                    *column = b.add(v * lanes).cast::<S::f32s>().read_unaligned();
                }
                for (a, sums) in a.into_iter().zip(sums.iter_mut()) {
                    let factor = simd.splat_f32s(*a.add(at));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = simd.mul_add_e_f32s(factor, column, *sum);
                    }
                }
                at += self.a.column;
                b = b.wrapping_add(self.b.row);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    let c = c.start.add(i * c.row + v * lanes).cast::<S::f32s>();
                    c.write_unaligned(match self.add {
                        true => simd.add_f32s(c.read_unaligned(), *sum),
                        false => *sum,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::arch::each;
    use super::*;

    fn numbers(k: usize, count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * i * 37 + k) as f32).sin()).collect()
    }

    /// All shapes of tiles, transposed and not, written and added; and in two parts, with identical bits.
    #[test]
    fn results_agree_with_the_definition() -> candle_core::Result<()> {
        each(|| {
            for (m, n, depth) in
                [(1, 1, 1), (6, 64, 192), (7, 49, 200), (5, 100, 17), (20, 33, 193), (2, 3, 0), (40, 16, 40)]
            {
                for (turn_a, turn_b, add) in [(false, false, false), (true, false, true), (false, true, true)] {
                    let (a, b, before) = (numbers(1, m * depth), numbers(2, depth * n), numbers(3, m * n));
                    let matrix = |x, turn: bool, rows: usize, columns: usize| match turn {
                        true => Matrix::rows(x, rows).t(),
                        false => Matrix::rows(x, columns),
                    };
                    let (a, b) = (matrix(&a, turn_a, m, depth), matrix(&b, turn_b, depth, n));
                    let mut c = before.clone();
                    // SAFETY: C has m rows of n numbers.
                    unsafe { product(Size { m, n, depth }, a, b, Target::rows(&mut c, n), add) };
                    for (i, c) in c.iter().enumerate() {
                        let number = |x: Matrix, i: usize, j: usize| f64::from(x.numbers[i * x.row + j * x.column]);
                        let sum: f64 = (0..depth).map(|p| number(a, i / n, p) * number(b, p, i % n)).sum();
                        let want = sum + if add { f64::from(before[i]) } else { 0.0 };
                        assert!(
                            (f64::from(*c) - want).abs() < 1e-4,
                            "{m} × {depth} × {n}, {turn_a} {turn_b}: {c} {want}"
                        );
                    }
                    if depth == 0 || m < 2 || n < 2 {
                        continue;
                    }
                    let (mut parts, half) = (before.clone(), Size { m: m / 2, n: n / 2, depth });
                    let to = Target::rows(&mut parts, n);
                    for (i, rows) in [(0, half.m), (half.m, m - half.m)] {
                        for (j, columns) in [(0, half.n), (half.n, n - half.n)] {
                            let size = Size { m: rows, n: columns, depth };
                            // SAFETY: a quarter of C.
                            unsafe { product(size, a.from(i, 0), b.from(0, j), to.from(i, j), add) };
                        }
                    }
                    assert!(
                        parts.iter().zip(&c).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{m} × {depth} × {n} in parts"
                    );
                }
            }
            Ok(())
        })
    }
}
