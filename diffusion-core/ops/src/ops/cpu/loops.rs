//! Loops over slices with vector instructions, and functions of a number for such loops.
//!
//! Everything must be inlined into a [`pulp::WithSimd::with_simd`], which is compiled once for each instruction set.
//! The remainder of a slice, less than a vector, is processed with a masked vector, since rows of 7 pixels are common.
//!
//! Closures with vector instructions need `#[inline(always)]`, too, which is only possible where they are passed
//! directly; otherwise each instruction becomes a call.

use super::parallel::Shared;
use pulp::Simd;
use std::mem::MaybeUninit;

/// The number of independent sums in each loop, so that an addition need not wait for the previous one.
const SUMS: usize = 4;

/// A vector of `len` elements, written by `write` without being zeroed first.
///
/// # Safety
/// `write` must write all elements.
pub(in crate::ops) unsafe fn written<T>(len: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut numbers = Vec::with_capacity(len);
    write(&mut numbers.spare_capacity_mut()[..len]);
    // SAFETY: they are within the capacity, and written by the contract of this function.
    unsafe { numbers.set_len(len) };
    numbers
}

/// A slice split into pieces of equal size, for work that writes to pieces of several slices from different threads.
pub(in crate::ops) struct Pieces<'a, T> {
    all: Shared<'a, T>,
    len: usize,
    size: usize,
}

impl<'a, T> Pieces<'a, T> {
    /// Splits `slice` into pieces of `size`; the last may be smaller.
    pub(in crate::ops) fn new(slice: &'a mut [T], size: usize) -> Self {
        Self { len: slice.len(), all: Shared::new(slice), size }
    }

    /// Piece i.
    ///
    /// # Safety
    /// Piece i must not be used twice at the same time.
    #[allow(clippy::mut_from_ref)]
    pub(in crate::ops) unsafe fn get(&self, i: usize) -> &mut [T] {
        let (from, to) = (i * self.size, self.len.min((i + 1) * self.size));
        // SAFETY: pieces of different i are disjoint.
        unsafe { self.all.part(from..to) }
    }
}

/// Writes `out[i]` = f(`x[0][i]`, `x[1][i]`, …), and returns `out`.
#[inline(always)]
pub(in crate::ops) fn map<'a, S: Simd, const N: usize>(
    simd: S,
    x: [&[f32]; N],
    out: &'a mut [MaybeUninit<f32>],
    f: impl Fn([S::f32s; N]) -> S::f32s,
) -> &'a mut [f32] {
    x.iter().for_each(|x| assert_eq!(x.len(), out.len()));
    let (vectors, rest) = S::as_uninit_mut_simd_f32s(out);
    let x = x.map(S::as_simd_f32s);
    let whole = x.map(|x| &x.0[..vectors.len()]);
    for (i, out) in vectors.iter_mut().enumerate() {
        out.write(f(whole.map(|x| x[i])));
    }
    if !rest.is_empty() {
        let last = f(x.map(
            #[inline(always)]
            |x| simd.partial_load_f32s(x.1),
        ));
        rest.fill(MaybeUninit::new(0.0));
        // SAFETY: it has just been filled.
        simd.partial_store_f32s(unsafe { rest.assume_init_mut() }, last);
    }
    // SAFETY: the whole vectors and the rest have been written.
    unsafe { out.assume_init_mut() }
}

/// `out[i]` = f(`out[i]`, `x[0][i]`, `x[1][i]`, …).
#[inline(always)]
pub(in crate::ops) fn update<S: Simd, const N: usize>(
    simd: S,
    x: [&[f32]; N],
    out: &mut [f32],
    f: impl Fn(S::f32s, [S::f32s; N]) -> S::f32s,
) {
    x.iter().for_each(|x| assert_eq!(x.len(), out.len()));
    let (vectors, rest) = S::as_mut_simd_f32s(out);
    let x = x.map(S::as_simd_f32s);
    let whole = x.map(|x| &x.0[..vectors.len()]);
    for (i, out) in vectors.iter_mut().enumerate() {
        *out = f(*out, whole.map(|x| x[i]));
    }
    if !rest.is_empty() {
        let last = f(
            simd.partial_load_f32s(rest),
            x.map(
                #[inline(always)]
                |x| simd.partial_load_f32s(x.1),
            ),
        );
        simd.partial_store_f32s(rest, last);
    }
}

/// Σ f(`x[0][i]`, `x[1][i]`, …) for each of the M results of f.
#[inline(always)]
pub(in crate::ops) fn sums<S: Simd, const N: usize, const M: usize>(
    simd: S,
    x: [&[f32]; N],
    f: impl Fn([S::f32s; N]) -> [S::f32s; M],
) -> [f32; M] {
    x.iter().for_each(|y| assert_eq!(y.len(), x[0].len()));
    let zero = simd.splat_f32s(0.0);
    let x = x.map(S::as_simd_f32s);
    let n = x[0].0.len();
    let whole = x.map(|x| &x.0[..n]);
    let mut total = [[zero; M]; SUMS];
    let mut i = 0;
    while i + SUMS <= n {
        for (j, sums) in total.iter_mut().enumerate() {
            add(simd, sums, f(whole.map(|x| x[i + j])));
        }
        i += SUMS;
    }
    while i < n {
        add(simd, &mut total[0], f(whole.map(|x| x[i])));
        i += 1;
    }
    let rest = x[0].1.len();
    if rest > 0 {
        let mask = simd.mask_between_m32s(0, rest as u32).mask();
        let last = f(x.map(
            #[inline(always)]
            |x| simd.partial_load_f32s(x.1),
        ));
        let last = last.map(
            #[inline(always)]
            |last| simd.select_f32s(mask, last, zero),
        );
        add(simd, &mut total[1], last);
    }
    let [mut a, b, mut c, d] = total;
    add(simd, &mut a, b);
    add(simd, &mut c, d);
    add(simd, &mut a, c);
    a.map(
        #[inline(always)]
        |sum| simd.reduce_sum_f32s(sum),
    )
}

/// `sums[i]` += `terms[i]`.
#[inline(always)]
fn add<S: Simd, const M: usize>(simd: S, sums: &mut [S::f32s; M], terms: [S::f32s; M]) {
    for (sum, term) in sums.iter_mut().zip(terms) {
        *sum = simd.add_f32s(*sum, term);
    }
}

/// The maximum; −∞ for an empty slice, any element if there are NaNs.
#[inline(always)]
pub(in crate::ops) fn maximum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let least = simd.splat_f32s(f32::NEG_INFINITY);
    let (vectors, rest) = S::as_simd_f32s(x);
    let mut most = [least; SUMS];
    let chunks = vectors.chunks_exact(SUMS);
    for x in chunks.remainder() {
        most[0] = simd.max_f32s(most[0], *x);
    }
    for chunk in chunks {
        for (most, x) in most.iter_mut().zip(chunk) {
            *most = simd.max_f32s(*most, *x);
        }
    }
    if !rest.is_empty() {
        let mask = simd.mask_between_m32s(0, rest.len() as u32).mask();
        let last = simd.select_f32s(mask, simd.partial_load_f32s(rest), least);
        most[1] = simd.max_f32s(most[1], last);
    }
    let [a, b, c, d] = most;
    simd.reduce_max_f32s(simd.max_f32s(simd.max_f32s(a, b), simd.max_f32s(c, d)))
}

/// The polynomial c₀ + x (c₁ + x (c₂ + …)).
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::f32s, c: [f32; N]) -> S::f32s {
    let mut y = simd.splat_f32s(c[N - 1]);
    for c in c[..N - 1].iter().rev() {
        y = simd.mul_add_e_f32s(y, x, simd.splat_f32s(*c));
    }
    y
}

/// e^x with a relative error of 2e-7; 0 where it is below 2e-38, ∞ where it is above the largest f32.
///
/// It is 2^n e^r with the integer n nearest to x / ln 2 and r = x − n ln 2, and e^r = 1 + r + r² q(r) with a polynomial
/// q.
#[inline(always)]
pub(in crate::ops) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // ln 2 in two parts, the first so short that its product with n is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // A number of this size has no fractional digits, and its last bits are those of the integer.
    const WHOLE: f32 = (3 << 22) as f32;
    const Q: [f32; 6] = [0.5, 0.166_666_66, 0.041_665_796, 0.008_333_452, 0.001_398_2, 1.987_569_1e-4];
    // By comparisons that are false for NaN, so that NaN is kept.
    let (least, most) = (simd.splat_f32s(-87.6), simd.splat_f32s(89.0));
    let x = simd.select_f32s(simd.less_than_f32s(x, least), least, x);
    let x = simd.select_f32s(simd.less_than_f32s(most, x), most, x);
    let shifted = simd.mul_add_e_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), simd.splat_f32s(WHOLE));
    let n = simd.sub_f32s(shifted, simd.splat_f32s(WHOLE));
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN_2[0]), x);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN_2[1]), r);
    let q = polynomial(simd, r, Q);
    let y = simd.mul_add_e_f32s(q, simd.mul_f32s(r, r), r);
    let y = simd.add_f32s(y, simd.splat_f32s(1.0));
    // 2^(n − 1) from its bits; n = −126 gives 0. It is doubled afterwards, since 2^128 is not an f32, but e^r 2^128 may
    // be.
    let bits = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(126u32.wrapping_sub(WHOLE.to_bits())));
    let power = simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23));
    let half = simd.mul_f32s(y, simd.transmute_f32s_u32s(power));
    simd.add_f32s(half, half)
}

/// x σ(x) with σ(x) = 1 / (1 + e^−x).
#[inline(always)]
pub(in crate::ops) fn silu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let exp = exp(simd, simd.neg_f32s(x));
    simd.div_f32s(x, simd.add_f32s(simd.splat_f32s(1.0), exp))
}

/// The derivative of x σ(x): σ (1 + x (1 − σ)).
#[inline(always)]
pub(in crate::ops) fn silu_slope<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    // e = e^−x, but finite, so that 1 − σ = e σ is accurate.
    let least = simd.splat_f32s(-88.0);
    let above = simd.select_f32s(simd.less_than_f32s(x, least), least, x);
    let e = exp(simd, simd.neg_f32s(above));
    let s = simd.div_f32s(one, simd.add_f32s(one, e));
    let rest = simd.mul_f32s(e, s);
    simd.mul_f32s(s, simd.mul_add_e_f32s(x, rest, one))
}

/// Φ(x), the integral of the normal density φ up to x, and φ(x). The relative error of Φ is 2e-6 down to x = −5.
///
/// Φ(−|x|) = e^(−x²/2) t p(t) with t = 1 / (1 + 0.28 |x|) and a polynomial p with minimax relative error.
#[inline(always)]
pub(in crate::ops) fn normal<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    const P: [f32; 9] = [
        0.111_703_86,
        0.111_699_8,
        0.103_084_66,
        0.083_630_8,
        0.072_774_955,
        -0.006_449_016,
        0.092_427_86,
        -0.093_592_62,
        0.024_719_905,
    ];
    const DENSITY_AT_0: f32 = 0.398_942_3;
    let size = simd.abs_f32s(x);
    let t = simd.mul_add_e_f32s(size, simd.splat_f32s(0.28), simd.splat_f32s(1.0));
    let t = simd.div_f32s(simd.splat_f32s(1.0), t);
    let bell = exp(simd, simd.mul_f32s(simd.mul_f32s(x, x), simd.splat_f32s(-0.5)));
    let tail = simd.mul_f32s(bell, simd.mul_f32s(t, polynomial(simd, t, P)));
    let negative = simd.less_than_f32s(x, simd.splat_f32s(0.0));
    let below = simd.select_f32s(negative, tail, simd.sub_f32s(simd.splat_f32s(1.0), tail));
    (below, simd.mul_f32s(bell, simd.splat_f32s(DENSITY_AT_0)))
}

#[cfg(test)]
mod tests {
    use super::super::arch;
    use super::*;
    use pulp::WithSimd;

    /// Applies one function of a number to a slice.
    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Silu,
        SiluSlope,
        Normal,
        Density,
    }

    struct Apply<'a>(Function, &'a [f32]);

    impl WithSimd for Apply<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let Self(function, x) = self;
            let f = |[x]: [S::f32s; 1]| match function {
                Function::Exp => exp(simd, x),
                Function::Silu => silu(simd, x),
                Function::SiluSlope => silu_slope(simd, x),
                Function::Normal => normal(simd, x).0,
                Function::Density => normal(simd, x).1,
            };
            // SAFETY: `map` writes the whole slice.
            unsafe {
                written(x.len(), |y| {
                    map(simd, [x], y, f);
                })
            }
        }
    }

    /// With all instruction sets that the machine has.
    fn all(function: Function, x: &[f32]) -> Vec<Vec<f32>> {
        let all = arch::all().into_iter();
        all.map(|arch| arch.dispatch(Apply(function, x))).collect()
    }

    #[test]
    fn exp_is_accurate_over_the_whole_range() {
        let x: Vec<f32> = (0..200_003).map(|i| i as f32 * 1e-3 - 105.0).collect();
        for y in all(Function::Exp, &x) {
            for (x, y) in x.iter().zip(y) {
                let want = libm::exp(f64::from(*x));
                let close = (f64::from(y) - want).abs() <= 2e-7 * want;
                let too_small = want < 2e-38 && y == 0.0;
                let too_large = want > f64::from(f32::MAX) && y == f32::INFINITY;
                assert!(close || too_small || too_large, "exp({x}) = {y}, {want}");
            }
        }
        let far = [f32::NEG_INFINITY, f32::MIN, -0.0, 0.0, 100.0, f32::MAX];
        let far = [far.as_slice(), &[f32::INFINITY, f32::NAN]].concat();
        for y in all(Function::Exp, &far) {
            assert_eq!(y[..4], [0.0, 0.0, 1.0, 1.0]);
            assert!(y[4..7].iter().all(|y| *y == f32::INFINITY), "{y:?}");
            assert!(y[7].is_nan(), "{y:?}");
        }
    }

    #[test]
    fn functions_of_exp_are_accurate() {
        let x: Vec<f32> = (-40_000..=40_001).map(|i| i as f32 * 1e-3).collect();
        let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
        let silu = |x: f64| x * sigmoid(x);
        let slope = |x: f64| sigmoid(x) * (1.0 + x * sigmoid(-x));
        let normal = |x: f64| libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2) / 2.0;
        let density = |x: f64| libm::exp(-x * x / 2.0) / (2.0 * std::f64::consts::PI).sqrt();
        for (function, f) in [
            (Function::Silu, &silu as &dyn Fn(f64) -> f64),
            (Function::SiluSlope, &slope),
            (Function::Normal, &normal),
            (Function::Density, &density),
        ] {
            for y in all(function, &x) {
                for (x, y) in x.iter().zip(y) {
                    let want = f(f64::from(*x));
                    let error = (f64::from(y) - want).abs();
                    assert!(error < 2e-7 * want.abs().max(2.0), "{function:?}({x}) = {y}, {want}");
                }
            }
        }
        // The tail is not lost next to 1.
        let far = [-5.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
        for y in all(Function::Normal, &far) {
            let ratio = f64::from(y[0]) / normal(-5.0);
            assert!((ratio - 1.0).abs() < 2e-6, "{ratio}");
            assert!(y[1] == 0.0 && y[2] == 1.0 && y[3].is_nan(), "{y:?}");
        }
    }

    struct Loops<'a>(&'a [f32], &'a [f32]);

    impl WithSimd for Loops<'_> {
        type Output = ([f32; 2], f32, Vec<f32>);

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let Self(x, y) = self;
            let one = simd.splat_f32s(1.0);
            let both = sums(simd, [x, y], |[x, y]| [simd.mul_f32s(x, y), simd.add_f32s(x, one)]);
            let mut out = x.to_vec();
            update(simd, [y], &mut out, |x, [y]| simd.mul_add_e_f32s(x, y, one));
            (both, maximum(simd, x), out)
        }
    }

    /// All lengths, so that every kind of remainder occurs.
    #[test]
    fn loops_leave_nothing_out_and_add_nothing() {
        for n in 0..200usize {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37) % 101) as f32 - 120.0).collect();
            let y: Vec<f32> = (0..n).map(|i| ((i * 11) % 7) as f32 - 3.0).collect();
            let product: f32 = x.iter().zip(&y).map(|(x, y)| x * y).sum();
            let sum: f32 = x.iter().map(|x| x + 1.0).sum();
            let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let out: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x * y + 1.0).collect();
            for arch in arch::all() {
                let got = arch.dispatch(Loops(&x, &y));
                assert_eq!(got, ([product, sum], most, out.clone()), "{n}");
            }
        }
    }
}
