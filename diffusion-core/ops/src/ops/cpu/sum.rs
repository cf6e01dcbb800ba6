//! Sums of tensors, and scaling and shifting of planes.

use super::super::graph::{Gradient, Kernel};
use super::arch::arch;
use super::loops::{map, sums, update, written};
use super::parallel::{Shared, for_each, for_each_piece};
use candle_core::Shape;
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;
use std::sync::Arc;

/// The number of elements in a piece of work.
const PIECE: usize = 1 << 15;

/// `sum[i]` += `x[i]`.
pub(in crate::ops) fn add_to(sum: &mut [f32], x: &[f32]) {
    assert_eq!(sum.len(), x.len());
    let work = |(): &mut (), i: usize, sum: &mut [f32]| arch().dispatch(AddTo { x: &x[i * PIECE..][..sum.len()], sum });
    for_each_piece(sum, PIECE, || (), work);
}

struct AddTo<'a> {
    sum: &'a mut [f32],
    x: &'a [f32],
}

impl WithSimd for AddTo<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        update(
            simd,
            [self.x],
            self.sum,
            #[inline(always)]
            |sum, [x]| simd.add_f32s(sum, x),
        );
    }
}

/// The operation (a + b) · `scale` for two tensors of one shape.
pub(in crate::ops) struct Sum {
    pub(in crate::ops) scale: f32,
}

impl Kernel<2> for Sum {
    fn forward(&self, [a, b]: [&[f32]; 2], shapes: [&Shape; 2]) -> (Vec<f32>, Shape) {
        let scale = self.scale;
        let work = |out: &mut [MaybeUninit<f32>]| {
            for_each_piece(
                out,
                PIECE,
                || (),
                |(), i, out| {
                    let (a, b) = (&a[i * PIECE..][..out.len()], &b[i * PIECE..][..out.len()]);
                    arch().dispatch(Add { a, b, scale, out });
                },
            );
        };
        // SAFETY: each piece is written completely.
        (unsafe { written(a.len(), work) }, shapes[0].clone())
    }

    fn needs_arguments(&self) -> bool {
        false
    }

    fn backward(&self, _: [&[f32]; 2], _: [&Shape; 2], dy: Gradient, _: [bool; 2]) -> [Option<Gradient>; 2] {
        let dx = if self.scale == 1.0 { dy } else { Arc::new(scaled(Arc::unwrap_or_clone(dy), self.scale)) };
        [Some(dx.clone()), Some(dx)]
    }
}

/// The operation x · scale.
pub(in crate::ops) struct Scaled(pub(in crate::ops) f32);

impl Kernel<1> for Scaled {
    fn forward(&self, [x]: [&[f32]; 1], [shape]: [&Shape; 1]) -> (Vec<f32>, Shape) {
        (scaled(x.to_vec(), self.0), shape.clone())
    }

    fn needs_arguments(&self) -> bool {
        false
    }

    fn backward(&self, _: [&[f32]; 1], _: [&Shape; 1], dy: Gradient, _: [bool; 1]) -> [Option<Gradient>; 1] {
        [Some(Arc::new(scaled(Arc::unwrap_or_clone(dy), self.0)))]
    }
}

fn scaled(mut x: Vec<f32>, scale: f32) -> Vec<f32> {
    for_each_piece(&mut x, PIECE, || (), |(), _, x| arch().dispatch(Scale { x, scale }));
    x
}

struct Add<'a> {
    a: &'a [f32],
    b: &'a [f32],
    scale: f32,
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let scale = simd.splat_f32s(self.scale);
        map(
            simd,
            [self.a, self.b],
            self.out,
            #[inline(always)]
            |[a, b]| simd.mul_f32s(simd.add_f32s(a, b), scale),
        );
    }
}

struct Scale<'a> {
    x: &'a mut [f32],
    scale: f32,
}

impl WithSimd for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let scale = simd.splat_f32s(self.scale);
        update(
            simd,
            [],
            self.x,
            #[inline(always)]
            |x, []| simd.mul_f32s(x, scale),
        );
    }
}

/// The operation x · scale + shift for x (B, C, …), scale and shift (B, C).
pub(in crate::ops) struct ScaleShift;

impl ScaleShift {
    /// Calls `work` for each row, several at a time on each thread.
    fn rows(rows: usize, pixels: usize, work: impl Fn(usize) + Sync) {
        let block = (PIECE / pixels).max(1);
        for_each(rows.div_ceil(block), || (), |(), i| (i * block..rows.min((i + 1) * block)).for_each(&work));
    }
}

impl Kernel<3> for ScaleShift {
    fn forward(&self, [x, scale, shift]: [&[f32]; 3], shapes: [&Shape; 3]) -> (Vec<f32>, Shape) {
        let pixels = x.len() / scale.len();
        let work = |y: &mut [MaybeUninit<f32>]| {
            let y = Shared::new(y);
            Self::rows(scale.len(), pixels, |i| {
                let row = i * pixels..(i + 1) * pixels;
                // SAFETY: each row is used once.
                let y = unsafe { y.part(row.clone()) };
                arch().dispatch(Line { x: &x[row], scale: scale[i], shift: shift[i], y });
            });
        };
        // SAFETY: each row is written completely.
        (unsafe { written(x.len(), work) }, shapes[0].clone())
    }

    fn backward(
        &self,
        [x, scale, _]: [&[f32]; 3],
        _: [&Shape; 3],
        dy: Gradient,
        _: [bool; 3],
    ) -> [Option<Gradient>; 3] {
        let pixels = x.len() / scale.len();
        let mut dx = Arc::unwrap_or_clone(dy);
        let mut of_rows = vec![[0f32; 2]; scale.len()];
        let (shared, rows) = (Shared::new(&mut dx), Shared::new(&mut of_rows));
        Self::rows(scale.len(), pixels, |i| {
            let row = i * pixels..(i + 1) * pixels;
            // SAFETY: each row is used once.
            let (dx, of_row) = unsafe { (shared.part(row.clone()), rows.part(i..i + 1)) };
            of_row[0] = arch().dispatch(LineBack { x: &x[row], scale: scale[i], dx });
        });
        let part = |j: usize| Some(Arc::new(of_rows.iter().map(|sums| sums[j]).collect()));
        [Some(Arc::new(dx)), part(0), part(1)]
    }
}

struct Line<'a> {
    x: &'a [f32],
    scale: f32,
    shift: f32,
    y: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Line<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (scale, shift) = (simd.splat_f32s(self.scale), simd.splat_f32s(self.shift));
        map(
            simd,
            [self.x],
            self.y,
            #[inline(always)]
            |[x]| simd.mul_add_e_f32s(x, scale, shift),
        );
    }
}

/// Turns dy into dx; returns Σ dy x and Σ dy.
struct LineBack<'a> {
    x: &'a [f32],
    scale: f32,
    dx: &'a mut [f32],
}

impl WithSimd for LineBack<'_> {
    type Output = [f32; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f32; 2] {
        let of_row = sums(
            simd,
            [self.x, &*self.dx],
            #[inline(always)]
            |[x, dy]| [simd.mul_f32s(x, dy), dy],
        );
        Scale { x: self.dx, scale: self.scale }.with_simd(simd);
        of_row
    }
}
