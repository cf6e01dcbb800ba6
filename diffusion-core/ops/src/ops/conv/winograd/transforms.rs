//! The transforms of Winograd's convolution, and their adjoints.
//!
//! In one dimension, M outputs of a filter of length 3 are computed from N = M + 2 inputs as y = Aᵀ[(G g) ⊙ (Bᵀ d)],
//! with N multiplications instead of 3 M. The matrices evaluate polynomials at N − 1 points and at infinity
//! ([Lavin & Gray 2015](https://arxiv.org/abs/1509.09308), sections 4.1 and 4.3). Two dimensions are transformed one
//! after the other. The gradients use the transposed matrices in reverse order.

use crate::ops::cpu::vector::Number;

/// A matrix that maps A numbers to B.
// A type for each matrix instead of a function argument, because calls of functions are not always inlined, and code
// that is not inlined is compiled without the vector instructions detected at run time.
pub(super) trait Matrix<const A: usize, const B: usize> {
    fn of<T: Number>(x: [T; A]) -> [T; B];
}

/// M outputs from N inputs, by N products.
pub(super) trait Transform<const N: usize, const M: usize>: Sync {
    /// Bᵀ
    type Input: Matrix<N, N>;
    /// Aᵀ
    type Output: Matrix<N, M>;
    /// G
    type Filter: Matrix<3, N>;
    /// B
    type InputAdjoint: Matrix<N, N>;
    /// A
    type OutputAdjoint: Matrix<M, N>;
    /// Gᵀ
    type FilterAdjoint: Matrix<N, 3>;
}

/// The index of the product that is always 0 for inputs (a, b, b, c, c, …), whose polynomial has the factor x − 1. It
/// is the same in both transforms.
pub(super) const ZERO_IF_DOUBLED: usize = 2;

/// F(2×2, 3×3), from the points 0, 1, −1.
pub(super) struct Two;

impl Transform<4, 2> for Two {
    type Input = InputTwo;
    type Output = OutputTwo;
    type Filter = FilterTwo;
    type InputAdjoint = InputAdjointTwo;
    type OutputAdjoint = OutputAdjointTwo;
    type FilterAdjoint = FilterAdjointTwo;
}

pub(super) struct InputTwo;
impl Matrix<4, 4> for InputTwo {
    #[inline(always)]
    fn of<T: Number>([d0, d1, d2, d3]: [T; 4]) -> [T; 4] {
        [d0 - d2, d1 + d2, d2 - d1, d1 - d3]
    }
}

pub(super) struct OutputTwo;
impl Matrix<4, 2> for OutputTwo {
    #[inline(always)]
    fn of<T: Number>([m0, m1, m2, m3]: [T; 4]) -> [T; 2] {
        [m0 + m1 + m2, m1 - m2 - m3]
    }
}

pub(super) struct FilterTwo;
impl Matrix<3, 4> for FilterTwo {
    #[inline(always)]
    fn of<T: Number>([g0, g1, g2]: [T; 3]) -> [T; 4] {
        let even = (g0 + g2).times(0.5);
        [g0, even.plus(0.5, g1), even.plus(-0.5, g1), g2]
    }
}

pub(super) struct InputAdjointTwo;
impl Matrix<4, 4> for InputAdjointTwo {
    #[inline(always)]
    fn of<T: Number>([v0, v1, v2, v3]: [T; 4]) -> [T; 4] {
        [v0, v1 - v2 + v3, v1 + v2 - v0, v3.times(-1.0)]
    }
}

pub(super) struct OutputAdjointTwo;
impl Matrix<2, 4> for OutputAdjointTwo {
    #[inline(always)]
    fn of<T: Number>([y0, y1]: [T; 2]) -> [T; 4] {
        [y0, y0 + y1, y0 - y1, y1.times(-1.0)]
    }
}

pub(super) struct FilterAdjointTwo;
impl Matrix<4, 3> for FilterAdjointTwo {
    #[inline(always)]
    fn of<T: Number>([u0, u1, u2, u3]: [T; 4]) -> [T; 3] {
        let (sum, difference) = (u1 + u2, u1 - u2);
        [u0.plus(0.5, sum), difference.times(0.5), u3.plus(0.5, sum)]
    }
}

/// F(4×4, 3×3), from the points 0, 1, −1, 2, −2.
pub(super) struct Four;

impl Transform<6, 4> for Four {
    type Input = InputFour;
    type Output = OutputFour;
    type Filter = FilterFour;
    type InputAdjoint = InputAdjointFour;
    type OutputAdjoint = OutputAdjointFour;
    type FilterAdjoint = FilterAdjointFour;
}

pub(super) struct InputFour;
impl Matrix<6, 6> for InputFour {
    #[inline(always)]
    fn of<T: Number>([d0, d1, d2, d3, d4, d5]: [T; 6]) -> [T; 6] {
        let (even1, odd1) = (d4.plus(-4.0, d2), d3.plus(-4.0, d1));
        let (even2, odd2) = (d4 - d2, d3 - d1);
        [
            d4.plus(4.0, d0).plus(-5.0, d2),
            even1 + odd1,
            even1 - odd1,
            even2.plus(2.0, odd2),
            even2.plus(-2.0, odd2),
            d5.plus(4.0, d1).plus(-5.0, d3),
        ]
    }
}

pub(super) struct OutputFour;
impl Matrix<6, 4> for OutputFour {
    #[inline(always)]
    fn of<T: Number>([m0, m1, m2, m3, m4, m5]: [T; 6]) -> [T; 4] {
        let (even1, odd1) = (m1 + m2, m1 - m2);
        let (even2, odd2) = (m3 + m4, m3 - m4);
        [m0 + even1 + even2, odd1.plus(2.0, odd2), even1.plus(4.0, even2), (m5 + odd1).plus(8.0, odd2)]
    }
}

pub(super) struct FilterFour;
impl Matrix<3, 6> for FilterFour {
    #[inline(always)]
    fn of<T: Number>([g0, g1, g2]: [T; 3]) -> [T; 6] {
        let even1 = (g0 + g2).times(-1.0 / 6.0);
        let even2 = g2.plus(0.25, g0).times(1.0 / 6.0);
        [
            g0.times(0.25),
            even1.plus(-1.0 / 6.0, g1),
            even1.plus(1.0 / 6.0, g1),
            even2.plus(1.0 / 12.0, g1),
            even2.plus(-1.0 / 12.0, g1),
            g2,
        ]
    }
}

pub(super) struct InputAdjointFour;
impl Matrix<6, 6> for InputAdjointFour {
    #[inline(always)]
    fn of<T: Number>([v0, v1, v2, v3, v4, v5]: [T; 6]) -> [T; 6] {
        let (sum1, difference1) = (v1 + v2, v1 - v2);
        let (sum2, difference2) = (v3 + v4, v3 - v4);
        [
            v0.times(4.0),
            v5.plus(-1.0, difference1).times(4.0).plus(-2.0, difference2),
            (v0.times(-5.0) - sum2).plus(-4.0, sum1),
            difference1.plus(2.0, difference2).plus(-5.0, v5),
            v0 + sum1 + sum2,
            v5,
        ]
    }
}

pub(super) struct OutputAdjointFour;
impl Matrix<4, 6> for OutputAdjointFour {
    #[inline(always)]
    fn of<T: Number>([y0, y1, y2, y3]: [T; 4]) -> [T; 6] {
        let (even1, odd1) = (y0 + y2, y1 + y3);
        let (even2, odd2) = (y0.plus(4.0, y2), y1.plus(4.0, y3));
        [y0, even1 + odd1, even1 - odd1, even2.plus(2.0, odd2), even2.plus(-2.0, odd2), y3]
    }
}

pub(super) struct FilterAdjointFour;
impl Matrix<6, 3> for FilterAdjointFour {
    #[inline(always)]
    fn of<T: Number>([u0, u1, u2, u3, u4, u5]: [T; 6]) -> [T; 3] {
        let (sum1, difference1) = (u1 + u2, u1 - u2);
        let (sum2, difference2) = (u3 + u4, u3 - u4);
        [
            u0.times(0.25).plus(-1.0 / 6.0, sum1).plus(1.0 / 24.0, sum2),
            difference2.times(1.0 / 12.0).plus(-1.0 / 6.0, difference1),
            u5.plus(-1.0 / 6.0, sum1).plus(1.0 / 6.0, sum2),
        ]
    }
}

/// Multiplies a matrix with column `j` of a square: the second half of a two-dimensional transform.
// A loop, for the same reason.
#[inline(always)]
pub(super) fn column<X: Matrix<A, B>, T: Number, const A: usize, const B: usize, const J: usize>(
    rows: &[[T; J]; A],
    j: usize,
) -> [T; B] {
    let mut column = [rows[0][0]; A];
    for i in 0..A {
        column[i] = rows[i][j];
    }
    X::of(column)
}
