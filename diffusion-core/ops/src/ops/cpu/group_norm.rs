//! Group normalisation with its activation, one group of one image at a time.
//!
//! The numbers of a group lie together and mostly fit into a cache. So they are read from memory once: mean, variance,
//! normalisation and activation are loops over numbers that are still near. The gradient computes mean and variance again
//! rather than have them kept.

use super::activation::{Curve, Gelu, Relu, Silu, Straight};
use super::arch::arch;
use super::loops::{Pieces, map, sums, update, written};
use super::parallel::{for_each, threads};
use super::{read, slice, stored};
use crate::ops::Activation;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;

/// About how many numbers are a piece of work, and how many are added up in f32 before the sum is added to one of f64.
const PIECE: usize = 1 << 14;

/// The operation: of x (B, C, …), weight and bias (C,) or (B, C).
pub(in crate::ops) struct GroupNorm {
    pub(in crate::ops) groups: usize,
    pub(in crate::ops) eps: f64,
    pub(in crate::ops) activation: Activation,
}

impl CustomOp3 for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, x_layout)?;
        let (weight, bias) = (slice(weight, weight_layout)?, slice(bias, bias_layout)?);
        let groups = self.groups(x_layout.dims(), x, weight, bias);
        // SAFETY: each group writes its piece of y, and together they are y.
        let y = unsafe {
            written(x.len(), |y| {
                let y = Pieces::new(y, groups.size());
                groups.for_each(|i, group| group.forward(y.get(i)));
            })
        };
        Ok(stored(y, x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dims = x.dims();
        let (dx, [dweight, dbias]) = read([x, weight, bias, dy], |[x, weight, bias, dy]| {
            let groups = self.groups(dims, x, weight, bias);
            let mut of_images = vec![[0f32; 2]; dims[0] * dims[1]];
            // SAFETY: each group writes its piece of dx, and together they are dx; the sums too are in pieces.
            let dx = unsafe {
                written(x.len(), |dx| {
                    let dx = Pieces::new(dx, groups.size());
                    let of_images = Pieces::new(&mut of_images, dims[1] / self.groups);
                    groups.for_each(|i, group| {
                        let dy = &dy[i * groups.size()..][..groups.size()];
                        group.backward(dy, dx.get(i), of_images.get(i));
                    });
                })
            };
            let mut total = vec![[0f64; 2]; weight.len()];
            for image in of_images.chunks(weight.len()) {
                for (total, [dweight, dbias]) in total.iter_mut().zip(image) {
                    total[0] += f64::from(*dweight);
                    total[1] += f64::from(*dbias);
                }
            }
            let part = |j: usize| total.iter().map(|sums| sums[j] as f32).collect::<Vec<f32>>();
            (dx, [part(0), part(1)])
        })?;
        let tensor = |of: &Tensor, gradient: Vec<f32>| {
            of.track_op().then(|| Tensor::from_vec(gradient, of.shape(), of.device())).transpose()
        };
        Ok((tensor(x, dx)?, tensor(weight, dweight)?, tensor(bias, dbias)?))
    }
}

impl GroupNorm {
    fn groups<'a>(&self, dims: &[usize], x: &'a [f32], weight: &'a [f32], bias: &'a [f32]) -> Groups<'a> {
        let channels = dims[1] / self.groups;
        Groups {
            count: dims[0] * self.groups,
            eps: self.eps,
            activation: self.activation,
            channels,
            pixels: x.len() / (dims[0] * dims[1]),
            x,
            weight,
            bias,
        }
    }
}

/// All groups of all images.
struct Groups<'a> {
    count: usize,
    eps: f64,
    activation: Activation,
    /// Of a group.
    channels: usize,
    /// Of a channel.
    pixels: usize,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
}

impl Groups<'_> {
    /// The numbers of one.
    fn size(&self) -> usize {
        self.channels * self.pixels
    }

    /// Calls `work(i, group)` for each of them: one to a thread, or if there are fewer than threads, each shared out.
    fn for_each(&self, work: impl Fn(usize, &Group) + Sync) {
        let shared = self.count < threads() && self.size() > PIECE;
        let group = |i: usize| {
            // Of the channels, or of those of all images.
            let first = i * self.channels % self.weight.len();
            work(
                i,
                &Group {
                    x: &self.x[i * self.size()..][..self.size()],
                    weight: &self.weight[first..][..self.channels],
                    bias: &self.bias[first..][..self.channels],
                    pixels: self.pixels,
                    // Whole channels.
                    piece: (PIECE / self.pixels).max(1),
                    eps: self.eps,
                    activation: self.activation,
                    shared,
                },
            );
        };
        if shared {
            (0..self.count).for_each(group);
        } else {
            for_each(self.count, || (), |(), i| group(i));
        }
    }
}

/// One group of one image.
struct Group<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    pixels: usize,
    /// How many channels are a piece of work.
    piece: usize,
    eps: f64,
    activation: Activation,
    /// Whether the pieces are for all threads, or for the one that this is called on.
    shared: bool,
}

impl Group<'_> {
    /// Calls `work` for each piece of work, with its first channel.
    fn for_each(&self, work: impl Fn(usize) + Sync) {
        let pieces = self.weight.len().div_ceil(self.piece);
        match self.shared {
            true => for_each(pieces, || (), |(), i| work(i)),
            false => (0..pieces).for_each(work),
        }
    }

    fn forward(&self, y: &mut [MaybeUninit<f32>]) {
        let normal = self.normal();
        let y = Pieces::new(y, self.piece * self.pixels);
        self.for_each(|i| {
            let part = self.part(i, normal);
            // SAFETY: each i once at a time.
            let y = unsafe { y.get(i) };
            arch().dispatch(Forward { part, y });
        });
    }

    /// Writes dx, and for each channel its part of [dweight, dbias].
    fn backward(&self, dy: &[f32], dx: &mut [MaybeUninit<f32>], sums: &mut [[f32; 2]]) {
        let normal = self.normal();
        let size = self.piece * self.pixels;
        let dz = Pieces::new(dx, size);
        let of_pieces = Pieces::new(sums, self.piece);
        self.for_each(|i| {
            let part = self.part(i, normal);
            let dy = &dy[i * size..][..part.x.len()];
            // SAFETY: each i once at a time.
            let (dz, sums) = unsafe { (dz.get(i), of_pieces.get(i)) };
            arch().dispatch(Slopes { part, dy, dz, sums });
        });
        // SAFETY: the pieces have written all of it.
        let dx = unsafe { dx.assume_init_mut() };
        // Through mean and variance each number has a share in all: dx = rstd (w dz − (Σ w dz + x̂ Σ w dz x̂) / N).
        let [mut by_variance, mut by_mean] = [0f64; 2];
        for (weight, [dweight, dbias]) in self.weight.iter().zip(sums.iter()) {
            by_variance += f64::from(*weight) * f64::from(*dweight);
            by_mean += f64::from(*weight) * f64::from(*dbias);
        }
        let n = self.x.len() as f64;
        let share = [by_variance / n, by_mean / n];
        let dx = Pieces::new(dx, size);
        self.for_each(|i| {
            let part = self.part(i, normal);
            // SAFETY: each i once at a time.
            let dx = unsafe { dx.get(i) };
            arch().dispatch(Shares { part, share, dx });
        });
    }

    /// Mean and variance, in two passes: around a mean near 1000 the squares of small differences would be lost in one.
    fn normal(&self) -> Normal {
        let n = self.x.len() as f64;
        let [mean, _] = self.moments(0.0);
        let shift = (mean / n) as f32;
        let [mean, squares] = self.moments(shift);
        // What the mean in f32 leaves: nothing beside it, but perhaps something beside the differences from it.
        let rest = mean / n;
        let variance = (squares / n - rest * rest).max(0.0);
        let rstd = 1.0 / (variance + self.eps).sqrt();
        Normal { shift, rest: rest as f32, rstd: rstd as f32 }
    }

    /// Σ (x − shift) and Σ (x − shift)², in a fixed order.
    fn moments(&self, shift: f32) -> [f64; 2] {
        let add = |[a, b]: [f64; 2], [c, d]: [f64; 2]| [a + c, b + d];
        let size = self.piece * self.pixels;
        if !self.shared {
            let of_piece = |x| arch().dispatch(Moments { x, shift });
            return self.x.chunks(size).map(of_piece).fold([0.0; 2], add);
        }
        let mut of_pieces = vec![[0.0; 2]; self.x.len().div_ceil(size)];
        let pieces = Pieces::new(&mut of_pieces, 1);
        self.for_each(|i| {
            let x = &self.x[i * size..][..size.min(self.x.len() - i * size)];
            // SAFETY: each i once at a time.
            let of_piece = unsafe { pieces.get(i) };
            of_piece[0] = arch().dispatch(Moments { x, shift });
        });
        of_pieces.into_iter().fold([0.0; 2], add)
    }

    /// The i-th piece of work.
    fn part(&self, i: usize, normal: Normal) -> Part<'_> {
        let first = i * self.piece;
        let channels = self.piece.min(self.weight.len() - first);
        Part {
            x: &self.x[first * self.pixels..][..channels * self.pixels],
            weight: &self.weight[first..][..channels],
            bias: &self.bias[first..][..channels],
            pixels: self.pixels,
            normal,
            activation: self.activation,
        }
    }
}

/// x̂ = (x − shift − rest) rstd.
#[derive(Clone, Copy)]
struct Normal {
    shift: f32,
    rest: f32,
    rstd: f32,
}

/// Some channels of a group.
struct Part<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    pixels: usize,
    normal: Normal,
    activation: Activation,
}

impl Part<'_> {
    /// For each channel its numbers, and a and b with weight x̂ + bias = a (x − shift) + b.
    #[inline(always)]
    fn channels(&self) -> impl Iterator<Item = (&[f32], [f32; 2])> {
        let Normal { rest, rstd, .. } = self.normal;
        let affine = self.weight.iter().zip(self.bias);
        let affine = affine.map(move |(weight, bias)| {
            let a = weight * rstd;
            [a, bias - rest * a]
        });
        self.x.chunks_exact(self.pixels).zip(affine)
    }
}

struct Moments<'a> {
    x: &'a [f32],
    shift: f32,
}

impl WithSimd for Moments<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f64; 2] {
        let shift = simd.splat_f32s(self.shift);
        let mut total = [0f64; 2];
        for x in self.x.chunks(PIECE) {
            let [sum, squares] = sums(
                simd,
                [x],
                #[inline(always)]
                |[x]| {
                    let d = simd.sub_f32s(x, shift);
                    [d, simd.mul_f32s(d, d)]
                },
            );
            total[0] += f64::from(sum);
            total[1] += f64::from(squares);
        }
        total
    }
}

struct Forward<'a> {
    part: Part<'a>,
    y: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.part.activation {
            Activation::None => self.run(simd, Straight),
            Activation::Silu => self.run(simd, Silu),
            Activation::Gelu => self.run(simd, Gelu),
            Activation::Relu => self.run(simd, Relu),
        }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, curve: impl Curve) {
        let Self { part, y } = self;
        let shift = simd.splat_f32s(part.normal.shift);
        for ((x, affine), y) in part.channels().zip(y.chunks_exact_mut(part.pixels)) {
            let [a, b] = [simd.splat_f32s(affine[0]), simd.splat_f32s(affine[1])];
            map(
                simd,
                [x],
                y,
                #[inline(always)]
                |[x]| curve.value(simd, simd.mul_add_e_f32s(a, simd.sub_f32s(x, shift), b)),
            );
        }
    }
}

/// dz, the gradient of what goes into the activation, and for each channel [Σ dz x̂, Σ dz].
struct Slopes<'a> {
    part: Part<'a>,
    dy: &'a [f32],
    dz: &'a mut [MaybeUninit<f32>],
    sums: &'a mut [[f32; 2]],
}

impl WithSimd for Slopes<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.part.activation {
            Activation::None => self.run(simd, Straight),
            Activation::Silu => self.run(simd, Silu),
            Activation::Gelu => self.run(simd, Gelu),
            Activation::Relu => self.run(simd, Relu),
        }
    }
}

impl Slopes<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, curve: impl Curve) {
        let Self { part, dy, dz, sums: of_channels } = self;
        let Normal { shift, rest, rstd } = part.normal;
        let shift = simd.splat_f32s(shift);
        let rows = dy.chunks_exact(part.pixels).zip(dz.chunks_exact_mut(part.pixels));
        for (((x, affine), (dy, dz)), of_channel) in part.channels().zip(rows).zip(of_channels) {
            let [a, b] = [simd.splat_f32s(affine[0]), simd.splat_f32s(affine[1])];
            let dz = map(
                simd,
                [x, dy],
                dz,
                #[inline(always)]
                |[x, dy]| {
                    let z = simd.mul_add_e_f32s(a, simd.sub_f32s(x, shift), b);
                    curve.slope(simd, z, dy)
                },
            );
            let mut total = [0f64; 2];
            for (x, dz) in x.chunks(PIECE).zip(dz.chunks(PIECE)) {
                let [by_difference, sum] = sums(
                    simd,
                    [x, dz],
                    #[inline(always)]
                    |[x, dz]| [simd.mul_f32s(dz, simd.sub_f32s(x, shift)), dz],
                );
                total[0] += f64::from(by_difference);
                total[1] += f64::from(sum);
            }
            let [by_difference, sum] = total;
            let by_normal = (by_difference - sum * f64::from(rest)) * f64::from(rstd);
            *of_channel = [by_normal as f32, sum as f32];
        }
    }
}

/// From dz to dx.
struct Shares<'a> {
    part: Part<'a>,
    /// Σ weight dz x̂ / N and Σ weight dz / N.
    share: [f64; 2],
    dx: &'a mut [f32],
}

impl WithSimd for Shares<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { part, share: [by_variance, by_mean], dx } = self;
        let Normal { shift, rest, rstd } = part.normal;
        let by_difference = by_variance * f64::from(rstd);
        let all = by_mean - by_difference * f64::from(rest);
        let [slope, all] = [by_difference, all].map(|x| (-x * f64::from(rstd)) as f32);
        let (slope, all) = (simd.splat_f32s(slope), simd.splat_f32s(all));
        let shift = simd.splat_f32s(shift);
        for ((x, [a, _]), dx) in part.channels().zip(dx.chunks_exact_mut(part.pixels)) {
            let a = simd.splat_f32s(a);
            update(
                simd,
                [x],
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
