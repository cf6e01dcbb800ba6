//! SiLU and GELU, each number by itself: one pass for the values, one for the gradient.

use super::arch::arch;
use super::loops::{map, normal, silu, silu_slope, written};
use super::parallel::for_each_piece;
use super::{read, slice, stored};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;

/// How many numbers are a piece of work.
const PIECE: usize = 1 << 15;

/// The operation.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Function {
    /// x σ(x)
    Silu,
    /// x Φ(x)
    Gelu,
}

impl CustomOp1 for Function {
    fn name(&self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
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

impl Function {
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
                            function: self,
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
    function: Function,
    x: &'a [f32],
    dy: Option<&'a [f32]>,
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Piece<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            function,
            x,
            dy,
            out,
        } = self;
        match (function, dy) {
            (Function::Silu, None) => map(
                simd,
                [x],
                out,
                #[inline(always)]
                |[x]| silu(simd, x),
            ),
            (Function::Silu, Some(dy)) => map(
                simd,
                [x, dy],
                out,
                #[inline(always)]
                |[x, dy]| simd.mul_f32s(dy, silu_slope(simd, x)),
            ),
            (Function::Gelu, None) => map(
                simd,
                [x],
                out,
                #[inline(always)]
                |[x]| simd.mul_f32s(x, normal(simd, x).0),
            ),
            (Function::Gelu, Some(dy)) => map(
                simd,
                [x, dy],
                out,
                #[inline(always)]
                |[x, dy]| {
                    let (below, density) = normal(simd, x);
                    simd.mul_f32s(dy, simd.mul_add_e_f32s(x, density, below))
                },
            ),
        };
    }
}
