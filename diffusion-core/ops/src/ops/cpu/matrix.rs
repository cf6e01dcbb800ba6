//! Products of matrices that may be transposed or part of larger ones, by the `gemm` crate, on the thread that asks.

use gemm::Parallelism;

/// The number in row i and column j is `numbers[i * row + j * column]`.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Matrix<'a> {
    pub(in crate::ops) numbers: &'a [f32],
    pub(in crate::ops) row: usize,
    pub(in crate::ops) column: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `row` numbers, one after the other.
    pub(in crate::ops) fn rows(numbers: &'a [f32], row: usize) -> Self {
        Self { numbers, row, column: 1 }
    }

    /// What is left from row `i` and column `j` on.
    pub(in crate::ops) fn from(self, i: usize, j: usize) -> Self {
        Self { numbers: &self.numbers[i * self.row + j * self.column..], ..self }
    }

    /// The transpose.
    pub(in crate::ops) fn t(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }

    /// Whether it has `rows` rows and `columns` columns at least.
    fn holds(self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row + (columns - 1) * self.column < self.numbers.len()
    }
}

/// Where a product goes, perhaps part of a larger matrix: the number in row i and column j is at `start + i * row + j`.
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
    /// Rows of `row` numbers, one after the other.
    pub(in crate::ops) fn rows<T>(numbers: &mut [T], row: usize) -> Self {
        const { assert!(size_of::<T>() == size_of::<f32>()) };
        Self { start: numbers.as_mut_ptr().cast(), row }
    }

    /// From row `i` and column `j` on.
    pub(in crate::ops) fn from(self, i: usize, j: usize) -> Self {
        Self { start: self.start.wrapping_add(i * self.row + j), ..self }
    }

    /// Writes `numbers` to row `i`.
    ///
    /// # Safety
    /// As many numbers from there on are the target's, and nobody else uses them meanwhile.
    pub(in crate::ops) unsafe fn write(self, i: usize, numbers: &[f32]) {
        let to = self.start.wrapping_add(i * self.row);
        // SAFETY: by the contract of this function.
        unsafe { to.copy_from_nonoverlapping(numbers.as_ptr(), numbers.len()) }
    }
}

/// The sizes of a product: C has m rows and n columns, A has k columns and B k rows; none of them 0.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Sizes {
    pub(in crate::ops) m: usize,
    pub(in crate::ops) n: usize,
    pub(in crate::ops) k: usize,
}

/// C = `scale` A B, or if `add` C += `scale` A B, of which C is written only.
///
/// # Safety
/// `c` has m rows of n numbers, all of them f32 and, if `add`, written; nobody else uses them meanwhile.
pub(in crate::ops) unsafe fn product(Sizes { m, n, k }: Sizes, scale: f32, a: Matrix, b: Matrix, c: Target, add: bool) {
    assert!(a.holds(m, k) && b.holds(k, n), "{m} × {k} × {n}");
    // SAFETY: A and B are as large as asserted, C by the contract of this function.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.start,
            1,
            c.row as isize,
            add,
            a.numbers.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.numbers.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
