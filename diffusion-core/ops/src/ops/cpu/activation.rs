//! The activations, each number by itself: one pass for the values, one for the gradient.

use super::arch::arch;
use super::loops::{map, normal, silu, silu_slope, written};
use super::parallel::for_each_piece;
use super::{read, slice, stored};
use crate::ops::Activation;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;

/// How many numbers are a piece of work.
const PIECE: usize = 1 << 15;

/// An activation as a type, so that each has loops of its own.
pub(in crate::ops) trait Curve: Copy {
    /// f(x)
    fn value<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s;
    /// f'(x) dy
    fn slope<S: Simd>(self, simd: S, x: S::f32s, dy: S::f32s) -> S::f32s;
}

/// x
#[derive(Clone, Copy)]
pub(in crate::ops) struct Straight;

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
pub(in crate::ops) struct Silu;

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
pub(in crate::ops) struct Gelu;

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

/// max(x, 0), by comparisons that are false of NaN, so that it stays.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Relu;

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

/// The operation.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Pointwise(pub(in crate::ops) Activation);

impl CustomOp1 for Pointwise {
    fn name(&self) -> &'static str {
        match self.0 {
            Activation::None => "identity",
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::Relu => "relu",
        }
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(stored(self.run(slice(x, layout)?, None), layout.shape()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = read([x, dy], |[x, dy]| self.run(x, Some(dy)))?;
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

impl Pointwise {
    /// The values, or with `dy` the gradient.
    fn run(self, x: &[f32], dy: Option<&[f32]>) -> Vec<f32> {
        // SAFETY: each piece is written whole.
        unsafe {
            written(x.len(), |out| {
                for_each_piece(
                    out,
                    PIECE,
                    || (),
                    |(), i, out| {
                        let part = |x: &'_ [f32]| i * PIECE..x.len().min((i + 1) * PIECE);
                        arch().dispatch(Piece {
                            activation: self.0,
                            x: &x[part(x)],
                            dy: dy.map(|dy| &dy[part(dy)]),
                            out,
                        });
                    },
                );
            })
        }
    }
}

struct Piece<'a> {
    activation: Activation,
    x: &'a [f32],
    dy: Option<&'a [f32]>,
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Piece<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.activation {
            Activation::None => self.run(simd, Straight),
            Activation::Silu => self.run(simd, Silu),
            Activation::Gelu => self.run(simd, Gelu),
            Activation::Relu => self.run(simd, Relu),
        }
    }
}

impl Piece<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, curve: impl Curve) {
        let Self { x, dy, out, .. } = self;
        match dy {
            None => map(
                simd,
                [x],
                out,
                #[inline(always)]
                |[x]| curve.value(simd, x),
            ),
            Some(dy) => map(
                simd,
                [x, dy],
                out,
                #[inline(always)]
                |[x, dy]| curve.slope(simd, x, dy),
            ),
        };
    }
}
