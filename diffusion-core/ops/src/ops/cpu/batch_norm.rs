//! Batch normalisation with its activation, some neighbouring channels of all images at a time.
//!
//! The numbers of a few channels, though far apart, fit into a cache: they are read from memory once, for the mean, the
//! variance and the result, and once more for the gradient.

use super::activation::{Curve, Gelu, Relu, Silu, Straight};
use super::arch::arch;
use super::loops::{Pieces, map, sums, update, written};
use super::parallel::{Shared, for_each, threads};
use super::{read, slice, stored};
use crate::ops::Activation;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// So many numbers that lie together are read at a time, in as many channels as that takes.
const TOGETHER: usize = 1 << 10;

/// Mean and variance of each channel.
type Found = Vec<[f64; 2]>;

/// The operation: of x (B, C, …), weight (C,) and bias (C,).
pub(in crate::ops) struct BatchNorm {
    eps: f64,
    activation: Activation,
    /// Given, or set by the forward pass.
    moments: Arc<OnceLock<Found>>,
    given: bool,
}

impl BatchNorm {
    /// With the moments of the batch, and where they are once they have been found.
    pub(in crate::ops) fn of_batch(eps: f64, activation: Activation) -> (Self, Arc<OnceLock<Found>>) {
        let moments = Arc::new(OnceLock::new());
        let it = Self { eps, activation, moments: moments.clone(), given: false };
        (it, moments)
    }

    /// With these moments.
    pub(in crate::ops) fn with(mean: &Tensor, variance: &Tensor, eps: f64, activation: Activation) -> Result<Self> {
        let moments: Found = read([mean, variance], |[mean, variance]| {
            let pairs = mean.iter().zip(variance);
            pairs.map(|(m, v)| [f64::from(*m), f64::from(*v)]).collect()
        })?;
        Ok(Self { eps, activation, moments: Arc::new(OnceLock::from(moments)), given: true })
    }

    fn batch<'a>(&self, images: usize, x: &'a [f32], weight: &'a [f32], bias: &'a [f32]) -> Batch<'a> {
        let channels = weight.len();
        let pixels = x.len() / (images * channels);
        let fair = channels.div_ceil(threads());
        Batch {
            x,
            weight,
            bias,
            images,
            pixels,
            block: (TOGETHER / pixels).clamp(1, fair),
            eps: self.eps,
            activation: self.activation,
        }
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
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
        let batch = self.batch(x_layout.dims()[0], x, weight, bias);
        let mut moments = match self.moments.get() {
            Some(given) => given.clone(),
            None => vec![[0.0; 2]; weight.len()],
        };
        // SAFETY: each block of channels writes its rows of y, and together they are y; the moments too are in pieces.
        let y = unsafe {
            written(x.len(), |y| {
                let (y, moments) = (&Shared::new(y), Pieces::new(&mut moments, batch.block));
                batch.for_each(|channels| {
                    arch().dispatch(Forward {
                        batch: &batch,
                        given: self.given,
                        moments: moments.get(channels.start / batch.block),
                        channels,
                        y,
                    });
                });
            })
        };
        self.moments.get_or_init(|| moments);
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
        let images = x.dims()[0];
        let (dx, sums) = read([x, weight, bias, dy], |[x, weight, bias, dy]| {
            let batch = self.batch(images, x, weight, bias);
            let moments = self.moments.get().map_or(&[][..], Vec::as_slice);
            let mut sums = vec![[0f32; 2]; weight.len()];
            // SAFETY: each block of channels writes its rows of dx, and together they are dx; the sums too are in pieces.
            let dx = unsafe {
                written(x.len(), |dx| {
                    let (dx, sums) = (&Shared::new(dx), Pieces::new(&mut sums, batch.block));
                    batch.for_each(|channels| {
                        arch().dispatch(Backward {
                            batch: &batch,
                            moments,
                            given: self.given,
                            sums: sums.get(channels.start / batch.block),
                            channels,
                            dy,
                            dx,
                        });
                    });
                })
            };
            (dx, sums)
        })?;
        let tensor = |of: &Tensor, gradient: Vec<f32>| {
            of.track_op().then(|| Tensor::from_vec(gradient, of.shape(), of.device())).transpose()
        };
        let part = |j: usize| sums.iter().map(|sums| sums[j]).collect();
        Ok((tensor(x, dx)?, tensor(weight, part(0))?, tensor(bias, part(1))?))
    }
}

/// All images.
struct Batch<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    images: usize,
    pixels: usize,
    /// How many channels are a piece of work.
    block: usize,
    eps: f64,
    activation: Activation,
}

impl Batch<'_> {
    /// Calls `work` for each block of channels.
    fn for_each(&self, work: impl Fn(Range<usize>) + Sync) {
        let channels = self.weight.len();
        for_each(
            channels.div_ceil(self.block),
            || (),
            |(), i| work(i * self.block..channels.min((i + 1) * self.block)),
        );
    }

    /// Where the numbers of a channel of an image are.
    #[inline(always)]
    fn row(&self, image: usize, channel: usize) -> Range<usize> {
        let from = (image * self.weight.len() + channel) * self.pixels;
        from..from + self.pixels
    }

    /// All rows of these channels, image by image, with the number of the channel.
    #[inline(always)]
    fn rows(&self, channels: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let channels = channels.clone();
        (0..self.images).flat_map(move |image| channels.clone().map(move |c| (c, self.row(image, c))))
    }

    /// Mean and variance of these channels, in two passes: around a mean near 1000 the squares of small differences would be
    /// lost in one.
    #[inline(always)]
    fn find<S: Simd>(&self, simd: S, channels: &Range<usize>, found: &mut [[f64; 2]]) {
        let n = (self.images * self.pixels) as f64;
        for (c, row) in self.rows(channels) {
            let [sum] = sums(
                simd,
                [&self.x[row]],
                #[inline(always)]
                |[x]| [x],
            );
            found[c - channels.start][0] += f64::from(sum) / n;
        }
        let mut around = vec![[0f64; 2]; found.len()];
        for (c, row) in self.rows(channels) {
            let shift = simd.splat_f32s(found[c - channels.start][0] as f32);
            let [sum, squares] = sums(
                simd,
                [&self.x[row]],
                #[inline(always)]
                |[x]| {
                    let d = simd.sub_f32s(x, shift);
                    [d, simd.mul_f32s(d, d)]
                },
            );
            around[c - channels.start][0] += f64::from(sum) / n;
            around[c - channels.start][1] += f64::from(squares) / n;
        }
        for (found, [rest, squares]) in found.iter_mut().zip(around) {
            // What the first pass lost by rounding its sums.
            let mean = f64::from(found[0] as f32) + rest;
            *found = [mean, (squares - rest * rest).max(0.0)];
        }
    }

    #[inline(always)]
    fn normal(&self, channel: usize, [mean, variance]: [f64; 2]) -> Normal {
        let shift = mean as f32;
        let (rest, rstd) = (mean - f64::from(shift), 1.0 / (variance + self.eps).sqrt());
        let a = f64::from(self.weight[channel]) * rstd;
        Normal { shift, rest, rstd, a: a as f32, b: (f64::from(self.bias[channel]) - rest * a) as f32 }
    }
}

/// x̂ = (x − shift − rest) rstd, and weight x̂ + bias = a (x − shift) + b.
struct Normal {
    shift: f32,
    rest: f64,
    rstd: f64,
    a: f32,
    b: f32,
}

/// Writes y, and for each channel its moments if they were not given.
struct Forward<'a> {
    batch: &'a Batch<'a>,
    given: bool,
    moments: &'a mut [[f64; 2]],
    channels: Range<usize>,
    y: &'a Shared<'a, MaybeUninit<f32>>,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.batch.activation {
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
        let Self { batch, given, moments, channels, y } = self;
        if !given {
            batch.find(simd, &channels, moments);
        }
        for (c, row) in batch.rows(&channels) {
            let Normal { shift, a, b, .. } = batch.normal(c, moments[c - channels.start]);
            let shift = simd.splat_f32s(shift);
            let (a, b) = (simd.splat_f32s(a), simd.splat_f32s(b));
            // SAFETY: no other block has these rows.
            let y = unsafe { y.part(row.clone()) };
            map(
                simd,
                [&batch.x[row]],
                y,
                #[inline(always)]
                |[x]| curve.value(simd, simd.mul_add_e_f32s(a, simd.sub_f32s(x, shift), b)),
            );
        }
    }
}

/// Writes dx, and for each channel [dweight, dbias].
struct Backward<'a> {
    batch: &'a Batch<'a>,
    moments: &'a [[f64; 2]],
    /// Whether the moments do not depend on x.
    given: bool,
    channels: Range<usize>,
    dy: &'a [f32],
    dx: &'a Shared<'a, MaybeUninit<f32>>,
    sums: &'a mut [[f32; 2]],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.batch.activation {
            Activation::None => self.run(simd, Straight),
            Activation::Silu => self.run(simd, Silu),
            Activation::Gelu => self.run(simd, Gelu),
            Activation::Relu => self.run(simd, Relu),
        }
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, curve: impl Curve) {
        let Self { batch, moments, given, channels, dy, dx, sums: of_channels } = self;
        // First dz, the gradient of what goes into the activation, and Σ dz (x − shift) and Σ dz.
        let mut total = vec![[0f64; 2]; channels.len()];
        for (c, row) in batch.rows(&channels) {
            let Normal { shift, a, b, .. } = batch.normal(c, moments[c]);
            let shift = simd.splat_f32s(shift);
            let (a, b) = (simd.splat_f32s(a), simd.splat_f32s(b));
            // SAFETY: no other block has these rows.
            let dz = unsafe { dx.part(row.clone()) };
            let x = &batch.x[row.clone()];
            let dz = map(
                simd,
                [x, &dy[row]],
                dz,
                #[inline(always)]
                |[x, dy]| {
                    let z = simd.mul_add_e_f32s(a, simd.sub_f32s(x, shift), b);
                    curve.slope(simd, z, dy)
                },
            );
            let [by_difference, sum] = sums(
                simd,
                [x, dz],
                #[inline(always)]
                |[x, dz]| [simd.mul_f32s(dz, simd.sub_f32s(x, shift)), dz],
            );
            total[c - channels.start][0] += f64::from(by_difference);
            total[c - channels.start][1] += f64::from(sum);
        }
        // Through mean and variance each number has a share in all: dx = a dz − a (Σ dz + x̂ Σ dz x̂) / N.
        let n = (batch.images * batch.pixels) as f64;
        let mut shares = vec![[0f32; 2]; channels.len()];
        for (i, [by_difference, sum]) in total.into_iter().enumerate() {
            let c = channels.start + i;
            let Normal { rest, rstd, a, .. } = batch.normal(c, moments[c]);
            let by_normal = (by_difference - sum * rest) * rstd;
            of_channels[i] = [by_normal as f32, sum as f32];
            if !given {
                let slope = f64::from(a) * by_normal / n * rstd;
                let all = f64::from(a) * sum / n - slope * rest;
                shares[i] = [-slope as f32, -all as f32];
            }
        }
        for (c, row) in batch.rows(&channels) {
            let Normal { shift, a, .. } = batch.normal(c, moments[c]);
            let [slope, all] = shares[c - channels.start];
            let (shift, a) = (simd.splat_f32s(shift), simd.splat_f32s(a));
            let (slope, all) = (simd.splat_f32s(slope), simd.splat_f32s(all));
            // SAFETY: no other block has these rows, and the first loop has written them.
            let dx = unsafe { dx.part(row.clone()).assume_init_mut() };
            update(
                simd,
                [&batch.x[row]],
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
