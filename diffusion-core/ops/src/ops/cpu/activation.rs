//! Element-wise activations: one pass for the values, one for the gradient.

use super::super::graph::{Gradient, Kernel};
use super::arch::arch;
use super::loops::{map, normal, silu, silu_slope, update, written};
use super::parallel::for_each_piece;
use crate::ops::Activation;
use candle_core::Shape;
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;
use std::sync::Arc;

/// The number of elements in a piece of work.
const PIECE: usize = 1 << 15;

/// An activation as a type, so that each gets its own loops.
pub(in crate::ops) trait Curve: Copy {
    /// f(x)
    fn value<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s;
    /// f'(x) dy
    fn slope<S: Simd>(self, simd: S, x: S::f32s, dy: S::f32s) -> S::f32s;
}

/// x
#[derive(Clone, Copy)]
struct Straight;

impl Curve for Straight {
    #[inline(always)]
    fn value<S: Simd>(self, _: S, x: S::f32s) -> S::f32s {
        x
    }
    #[inline(always)]
    fn slope<S: Simd>(self, _: S, _: S::f32s, dy: S::f32s) -> S::f32s {
        dy
    }
}

/// x σ(x)
#[derive(Clone, Copy)]
struct Silu;

impl Curve for Silu {
    #[inline(always)]
    fn value<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        silu(simd, x)
    }
    #[inline(always)]
    fn slope<S: Simd>(self, simd: S, x: S::f32s, dy: S::f32s) -> S::f32s {
        simd.mul_f32s(dy, silu_slope(simd, x))
    }
}

/// x Φ(x)
#[derive(Clone, Copy)]
struct Gelu;

impl Curve for Gelu {
    #[inline(always)]
    fn value<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        simd.mul_f32s(x, normal(simd, x).0)
    }
    #[inline(always)]
    fn slope<S: Simd>(self, simd: S, x: S::f32s, dy: S::f32s) -> S::f32s {
        let (below, density) = normal(simd, x);
        simd.mul_f32s(dy, simd.mul_add_e_f32s(x, density, below))
    }
}

/// max(x, 0), by comparisons that are false for NaN, so that NaN is kept.
#[derive(Clone, Copy)]
struct Relu;

impl Curve for Relu {
    #[inline(always)]
    fn value<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        let zero = simd.splat_f32s(0.0);
        simd.select_f32s(simd.less_than_f32s(x, zero), zero, x)
    }
    #[inline(always)]
    fn slope<S: Simd>(self, simd: S, x: S::f32s, dy: S::f32s) -> S::f32s {
        let zero = simd.splat_f32s(0.0);
        simd.select_f32s(simd.less_than_f32s(zero, x), dy, zero)
    }
}

/// Work that contains an activation in its loops.
pub(in crate::ops) trait WithCurve {
    fn run<S: Simd>(self, simd: S, curve: impl Curve);
}

/// The work with this activation.
pub(in crate::ops) struct Curved<W>(pub(in crate::ops) Activation, pub(in crate::ops) W);

impl<W: WithCurve> WithSimd for Curved<W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.0 {
            Activation::None => self.1.run(simd, Straight),
            Activation::Silu => self.1.run(simd, Silu),
            Activation::Gelu => self.1.run(simd, Gelu),
            Activation::Relu => self.1.run(simd, Relu),
        }
    }
}

/// The operation of an activation.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Pointwise(pub(in crate::ops) Activation);

impl Kernel<1> for Pointwise {
    fn forward(&self, [x]: [&[f32]; 1], [shape]: [&Shape; 1]) -> (Vec<f32>, Shape) {
        // SAFETY: each piece is written completely.
        let y = unsafe {
            written(x.len(), |y| {
                for_each_piece(
                    y,
                    PIECE,
                    || (),
                    |(), i, y| arch().dispatch(Curved(self.0, Values { x: &x[i * PIECE..][..y.len()], y })),
                );
            })
        };
        (y, shape.clone())
    }

    fn backward(&self, [x]: [&[f32]; 1], _: [&Shape; 1], dy: Gradient, _: [bool; 1]) -> [Option<Gradient>; 1] {
        let mut dx = Arc::unwrap_or_clone(dy);
        for_each_piece(
            &mut dx,
            PIECE,
            || (),
            |(), i, dx| arch().dispatch(Curved(self.0, Slopes { x: &x[i * PIECE..][..dx.len()], dx })),
        );
        [Some(Arc::new(dx))]
    }
}

struct Values<'a> {
    x: &'a [f32],
    y: &'a mut [MaybeUninit<f32>],
}

impl WithCurve for Values<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, curve: impl Curve) {
        map(
            simd,
            [self.x],
            self.y,
            #[inline(always)]
            |[x]| curve.value(simd, x),
        );
    }
}

/// Turns dy into dx, in place.
struct Slopes<'a> {
    x: &'a [f32],
    dx: &'a mut [f32],
}

impl WithCurve for Slopes<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, curve: impl Curve) {
        update(
            simd,
            [self.x],
            self.dx,
            #[inline(always)]
            |dy, [x]| curve.slope(simd, x, dy),
        );
    }
}
