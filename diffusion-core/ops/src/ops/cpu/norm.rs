//! Normalisation with an activation: group norm within an image, or batch norm over a whole batch.
//!
//! The elements that share a mean and a variance are a *set*: the channels of a group, which are contiguous, or one
//! channel of all images, in as many pieces. A thread processes a set, or a few small contiguous ones, so that they are
//! read from memory once and from the cache afterwards: for the mean, the variance and the result, and for the
//! gradient.

use super::super::graph::{Gradient, Kernel};
use super::activation::{Curve, Curved, WithCurve};
use super::arch::arch;
use super::loops::{Pieces, map, sums, update, written};
use super::parallel::{Shared, for_each};
use crate::ops::Activation;
use candle_core::Shape;
use pulp::Simd;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// The number of elements that are summed in f32 before they are added to a sum in f64.
const PIECE: usize = 1 << 12;
/// The number of contiguous elements that are read at a time, from as many sets as needed.
const TOGETHER: usize = 1 << 10;

/// The mean and the variance of each set.
pub(in crate::ops) type Moments = Vec<[f64; 2]>;

/// The elements that share a mean and a variance.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Over {
    /// The channels of each of this many groups, in each image.
    Groups(usize),
    /// Each channel, in all images.
    Batch,
}

/// The operation on x (B, C, …), and weight and bias, both (C,) or both (B, C).
pub(in crate::ops) struct Norm {
    over: Over,
    eps: f64,
    activation: Activation,
    /// Given, or set by the forward pass.
    moments: Arc<OnceLock<Moments>>,
    given: bool,
}

impl Norm {
    /// Computes the moments, and returns where they are stored.
    pub(in crate::ops) fn new(over: Over, eps: f64, activation: Activation) -> (Self, Arc<OnceLock<Moments>>) {
        let moments = Arc::new(OnceLock::new());
        (Self { over, eps, activation, moments: moments.clone(), given: false }, moments)
    }

    /// Uses given moments, which do not depend on x.
    pub(in crate::ops) fn with(moments: Moments, over: Over, eps: f64, activation: Activation) -> Self {
        Self { over, eps, activation, moments: Arc::new(OnceLock::from(moments)), given: true }
    }

    fn problem<'a>(&self, [x, weight, bias]: [&'a [f32]; 3], shape: &Shape) -> Problem<'a> {
        let (images, channels) = (shape.dims()[0], shape.dims()[1]);
        let pixels = x.len() / (images * channels);
        let sets = match self.over {
            Over::Groups(groups) => images * groups,
            Over::Batch => channels,
        };
        let numbers = match self.over {
            Over::Groups(_) => x.len() / sets,
            Over::Batch => pixels,
        };
        let unit = (TOGETHER / numbers).clamp(1, sets);
        Problem { x, weight, bias, over: self.over, images, channels, pixels, sets, unit }
    }
}

impl Kernel<3> for Norm {
    fn forward(&self, x: [&[f32]; 3], shapes: [&Shape; 3]) -> (Vec<f32>, Shape) {
        let problem = self.problem(x, shapes[0]);
        let mut moments = match self.moments.get() {
            Some(moments) => moments.clone(),
            None => vec![[0.0; 2]; problem.sets],
        };
        // SAFETY: each unit writes the rows of its sets, which together are y; the moments are in pieces, too.
        let y = unsafe {
            written(problem.x.len(), |y| {
                let (y, moments) = (&Shared::new(y), Pieces::new(&mut moments, problem.unit));
                problem.for_each(|i, sets| {
                    let moments = moments.get(i);
                    let work = Forward { norm: self, problem: &problem, sets, moments, y };
                    arch().dispatch(Curved(self.activation, work));
                });
            })
        };
        self.moments.get_or_init(|| moments);
        (y, shapes[0].clone())
    }

    fn backward(&self, x: [&[f32]; 3], shapes: [&Shape; 3], dy: Gradient, wanted: [bool; 3]) -> [Option<Gradient>; 3] {
        let problem = self.problem(x, shapes[0]);
        let moments = self.moments.get().map_or(&[][..], Vec::as_slice);
        let mut dx = Arc::unwrap_or_clone(dy);
        let mut of_rows = vec![[0f32; 2]; problem.images * problem.channels];
        let (shared, rows) = (Shared::new(&mut dx), Shared::new(&mut of_rows));
        problem.for_each(|_, sets| {
            let moments = &moments[sets.clone()];
            let work = Backward { norm: self, problem: &problem, sets, moments, dx: &shared, of_rows: &rows };
            arch().dispatch(Curved(self.activation, work));
        });
        let sum = |j: usize| -> Gradient {
            if problem.weight.len() == of_rows.len() {
                return Arc::new(of_rows.iter().map(|sums| sums[j]).collect());
            }
            let mut total = vec![0f64; problem.channels];
            for image in of_rows.chunks_exact(problem.channels) {
                for (total, sums) in total.iter_mut().zip(image) {
                    *total += f64::from(sums[j]);
                }
            }
            Arc::new(total.into_iter().map(|x| x as f32).collect())
        };
        let (weight, bias) = (wanted[1].then(|| sum(0)), wanted[2].then(|| sum(1)));
        [wanted[0].then(|| Arc::new(dx)), weight, bias]
    }
}

/// All elements. A row is one channel of one image.
struct Problem<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    over: Over,
    images: usize,
    channels: usize,
    pixels: usize,
    sets: usize,
    /// The number of sets that a thread processes at a time.
    unit: usize,
}

impl Problem<'_> {
    /// Calls `work(i, sets)` for each unit.
    fn for_each(&self, work: impl Fn(usize, Range<usize>) + Sync) {
        let units = self.sets.div_ceil(self.unit);
        for_each(units, || (), |(), i| work(i, i * self.unit..self.sets.min((i + 1) * self.unit)));
    }

    /// The rows of these sets in memory order, each with the index of its set.
    #[inline(always)]
    fn rows(&self, sets: &Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        let (of_groups, per_set) = match self.over {
            Over::Groups(groups) => (true, self.channels / groups),
            Over::Batch => (false, self.images),
        };
        let (outer, inner) = if of_groups { (sets.len(), per_set) } else { (per_set, sets.len()) };
        let (start, channels) = (sets.start, self.channels);
        (0..outer).flat_map(move |i| {
            (0..inner).map(move |j| match of_groups {
                true => (i, (start + i) * per_set + j),
                false => (j, i * channels + start + j),
            })
        })
    }

    /// The contiguous parts of these sets, each with the index of its set.
    #[inline(always)]
    fn spans(&self, sets: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let step = match self.over {
            Over::Groups(groups) => self.channels / groups,
            Over::Batch => 1,
        };
        let pixels = self.pixels;
        self.rows(sets).step_by(step).map(move |(set, row)| (set, row * pixels..(row + step) * pixels))
    }

    fn row(&self, row: usize) -> Range<usize> {
        row * self.pixels..(row + 1) * self.pixels
    }

    /// The weight and the bias of a row.
    fn affine(&self, row: usize) -> [f32; 2] {
        let of = if self.weight.len() == self.channels { row % self.channels } else { row };
        [self.weight[of], self.bias[of]]
    }

    /// The number of elements of a set.
    fn count(&self) -> f64 {
        (self.x.len() / self.sets) as f64
    }

    /// The mean and variance of these sets, in two passes: one pass would lose the squares of small deviations from a
    /// mean near 1000.
    #[inline(always)]
    fn find<S: Simd>(&self, simd: S, sets: &Range<usize>, found: &mut [[f64; 2]]) {
        let n = self.count();
        for (set, span) in self.spans(sets) {
            for x in self.x[span].chunks(PIECE) {
                let [sum] = sums(
                    simd,
                    [x],
                    #[inline(always)]
                    |[x]| [x],
                );
                found[set][0] += f64::from(sum) / n;
            }
        }
        let mut around = vec![[0f64; 2]; found.len()];
        for (set, span) in self.spans(sets) {
            let shift = simd.splat_f32s(found[set][0] as f32);
            for x in self.x[span].chunks(PIECE) {
                let [sum, squares] = sums(
                    simd,
                    [x],
                    #[inline(always)]
                    |[x]| {
                        let d = simd.sub_f32s(x, shift);
                        [d, simd.mul_f32s(d, d)]
                    },
                );
                around[set][0] += f64::from(sum) / n;
                around[set][1] += f64::from(squares) / n;
            }
        }
        for (found, [rest, squares]) in found.iter_mut().zip(around) {
            // What the first pass lost by rounding its sums.
            let mean = f64::from(found[0] as f32) + rest;
            *found = [mean, (squares - rest * rest).max(0.0)];
        }
    }
}

/// x̂ = (x − shift − rest) rstd.
#[derive(Clone, Copy)]
struct Normal {
    shift: f32,
    rest: f64,
    rstd: f64,
}

impl Normal {
    fn all(moments: &[[f64; 2]], eps: f64) -> Vec<Self> {
        let of = |[mean, variance]: &[f64; 2]| {
            let shift = *mean as f32;
            Self { shift, rest: mean - f64::from(shift), rstd: 1.0 / (variance + eps).sqrt() }
        };
        moments.iter().map(of).collect()
    }

    /// a and b such that weight x̂ + bias = a (x − shift) + b.
    fn line(self, [weight, bias]: [f32; 2]) -> [f32; 2] {
        let a = f64::from(weight) * self.rstd;
        [a as f32, (f64::from(bias) - self.rest * a) as f32]
    }
}

/// Writes the rows of y, and the moments of the sets if they were not given.
struct Forward<'a> {
    norm: &'a Norm,
    problem: &'a Problem<'a>,
    sets: Range<usize>,
    moments: &'a mut [[f64; 2]],
    y: &'a Shared<'a, MaybeUninit<f32>>,
}

impl WithCurve for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, curve: impl Curve) {
        let Self { norm, problem, sets, moments, y } = self;
        if !norm.given {
            problem.find(simd, &sets, moments);
        }
        let normals = Normal::all(moments, norm.eps);
        for (set, row) in problem.rows(&sets) {
            let [a, b] = normals[set].line(problem.affine(row));
            let shift = simd.splat_f32s(normals[set].shift);
            let (a, b) = (simd.splat_f32s(a), simd.splat_f32s(b));
            let row = problem.row(row);
            // SAFETY: no other unit has these rows.
            let y = unsafe { y.part(row.clone()) };
            map(
                simd,
                [&problem.x[row]],
                y,
                #[inline(always)]
                |[x]| curve.value(simd, simd.mul_add_e_f32s(a, simd.sub_f32s(x, shift), b)),
            );
        }
    }
}

/// Turns the rows of dy into those of dx, and writes [Σ dz x̂, Σ dz] for each, where dz is the gradient of the
/// activation's input.
struct Backward<'a> {
    norm: &'a Norm,
    problem: &'a Problem<'a>,
    sets: Range<usize>,
    moments: &'a [[f64; 2]],
    dx: &'a Shared<'a, f32>,
    of_rows: &'a Shared<'a, [f32; 2]>,
}

impl WithCurve for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, curve: impl Curve) {
        let Self { norm, problem, sets, moments, dx, of_rows } = self;
        let normals = Normal::all(moments, norm.eps);
        // Σ weight dz x̂ and Σ weight dz.
        let mut total = vec![[0f64; 2]; sets.len()];
        for (set, row) in problem.rows(&sets) {
            let Normal { shift, rest, rstd } = normals[set];
            let affine = problem.affine(row);
            let [a, b] = normals[set].line(affine);
            let shift = simd.splat_f32s(shift);
            let (a, b) = (simd.splat_f32s(a), simd.splat_f32s(b));
            // SAFETY: no other unit has these rows.
            let (dz, of_row) = unsafe { (dx.part(problem.row(row)), &mut of_rows.part(row..row + 1)[0]) };
            let x = &problem.x[problem.row(row)];
            update(
                simd,
                [x],
                dz,
                #[inline(always)]
                |dy, [x]| {
                    let z = simd.mul_add_e_f32s(a, simd.sub_f32s(x, shift), b);
                    curve.slope(simd, z, dy)
                },
            );
            let (mut by_difference, mut sum) = (0.0, 0.0);
            for (x, dz) in x.chunks(PIECE).zip(dz.chunks(PIECE)) {
                let of_piece = sums(
                    simd,
                    [x, dz],
                    #[inline(always)]
                    |[x, dz]| [simd.mul_f32s(dz, simd.sub_f32s(x, shift)), dz],
                );
                by_difference += f64::from(of_piece[0]);
                sum += f64::from(of_piece[1]);
            }
            let by_normal = (by_difference - sum * rest) * rstd;
            *of_row = [by_normal as f32, sum as f32];
            total[set][0] += f64::from(affine[0]) * by_normal;
            total[set][1] += f64::from(affine[0]) * sum;
        }
        // Every element also acts through mean and variance: dx = rstd (w dz − (Σ w dz + x̂ Σ w dz x̂) / N).
        let n = if norm.given { f64::INFINITY } else { problem.count() };
        for (set, row) in problem.rows(&sets) {
            let Normal { shift, rest, rstd } = normals[set];
            let slope = total[set][0] / n * rstd;
            let all = total[set][1] / n - slope * rest;
            let [a, _] = normals[set].line(problem.affine(row));
            let (shift, a) = (simd.splat_f32s(shift), simd.splat_f32s(a));
            let (slope, all) = (simd.splat_f32s((-slope * rstd) as f32), simd.splat_f32s((-all * rstd) as f32));
            // SAFETY: no other unit has these rows.
            let dx = unsafe { dx.part(problem.row(row)) };
            update(
                simd,
                [&problem.x[problem.row(row)]],
                dx,
                #[inline(always)]
                |dz, [x]| {
                    let shares = simd.mul_add_e_f32s(slope, simd.sub_f32s(x, shift), all);
                    simd.mul_add_e_f32s(a, dz, shares)
                },
            );
        }
    }
}
