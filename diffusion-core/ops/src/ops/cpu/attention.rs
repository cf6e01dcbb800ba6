//! Attention as one operation, for some queries of one head of one image at a time.
//!
//! The scores of these queries stay in the cache until they have weighted the values, and are never written to memory;
//! the backward pass recomputes them.

use super::super::graph::{Gradient, Kernel};
use super::arch::arch;
use super::loops::{exp, maximum, sums, update, written};
use super::parallel::for_each;
use super::product::{Matrix, Size, Target, product};
use super::scratch::Scratch;
use candle_core::Shape;
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;
use std::sync::Arc;

/// The number of queries processed together.
const QUERIES: usize = 64;

/// The operation: for q (B, N, C), k and v (B, M, C), or for one tensor with q, k and v concatenated in (B, 3C, …).
pub(in crate::ops) struct Attention {
    pub(in crate::ops) heads: usize,
    /// The number of keys of each image that are attended to, the first ones and at least one; empty for all.
    pub(in crate::ops) lengths: Vec<usize>,
}

impl Kernel<3> for Attention {
    fn forward(&self, [q, k, v]: [&[f32]; 3], [of_q, of_k, _]: [&Shape; 3]) -> (Vec<f32>, Shape) {
        let (heads, places) = self.of_rows(of_q, of_k);
        (heads.forward([q, k, v], places), of_q.clone())
    }

    fn backward(
        &self,
        [q, k, v]: [&[f32]; 3],
        [of_q, of_k, _]: [&Shape; 3],
        dy: Gradient,
        _: [bool; 3],
    ) -> [Option<Gradient>; 3] {
        let (heads, places) = self.of_rows(of_q, of_k);
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| match self.lengths[..] {
            [] => Vec::with_capacity(x.len()),
            _ => {
                // Zeros, which remain for the keys that are not attended to.
                let mut gradient = vec![0.0; x.len()];
                gradient.clear();
                gradient
            }
        });
        let starts = [&mut dq, &mut dk, &mut dv].map(|x| Target::rows(x.spare_capacity_mut(), heads.heads * heads.d));
        heads.backward([q, k, v], places, &dy, starts);
        for (gradient, x) in [&mut dq, &mut dk, &mut dv].into_iter().zip([q, k, v]) {
            // SAFETY: each head of each image has written its channels for all of the queries and keys, except for the keys
            // that are not attended to, whose memory contains zeros.
            unsafe { gradient.set_len(x.len()) };
        }
        [dq, dk, dv].map(|gradient| Some(Arc::new(gradient)))
    }
}

impl Attention {
    fn of_rows(&self, of_q: &Shape, of_k: &Shape) -> (Heads<'_>, [Place; 3]) {
        let (batch, queries, channels) = (of_q.dims()[0], of_q.dims()[1], of_q.dims()[2]);
        let keys = of_k.dims()[1];
        let places = [queries, keys, keys].map(|positions| Place::rows(positions, channels));
        let (heads, d, lengths) = (self.heads, channels / self.heads, &self.lengths[..]);
        (Heads { batch, heads, queries, keys, lengths, d, planes: false }, places)
    }

    fn of_planes(&self, shape: &Shape) -> (Heads<'_>, [Place; 3]) {
        let (batch, channels) = (shape.dims()[0], shape.dims()[1] / 3);
        let positions: usize = shape.dims()[2..].iter().product();
        let place = |i: usize| Place {
            first: i * channels * positions,
            image: 3 * channels * positions,
            position: 1,
            channel: positions,
        };
        let (heads, d) = (self.heads, channels / self.heads);
        let heads = Heads { batch, heads, queries: positions, keys: positions, lengths: &[], d, planes: true };
        (heads, [0, 1, 2].map(place))
    }
}

impl Kernel<1> for Attention {
    fn forward(&self, [qkv]: [&[f32]; 1], [shape]: [&Shape; 1]) -> (Vec<f32>, Shape) {
        let (heads, places) = self.of_planes(shape);
        let mut dims = shape.dims().to_vec();
        dims[1] /= 3;
        (heads.forward([qkv; 3], places), dims.into())
    }

    fn backward(&self, [qkv]: [&[f32]; 1], [shape]: [&Shape; 1], dy: Gradient, _: [bool; 1]) -> [Option<Gradient>; 1] {
        let (heads, places) = self.of_planes(shape);
        let work = |gradient: &mut [MaybeUninit<f32>]| {
            let start = Target::rows(gradient, heads.queries);
            heads.backward([qkv; 3], places, &dy, [start; 3]);
        };
        // SAFETY: each head of each image writes its channels of all three for all of the positions.
        [Some(Arc::new(unsafe { written(qkv.len(), work) }))]
    }
}

/// The memory layout of q, k or v.
#[derive(Clone, Copy)]
struct Place {
    /// The start, and the strides of images, positions and channels.
    first: usize,
    image: usize,
    position: usize,
    channel: usize,
}

impl Place {
    /// (B, positions, channels)
    fn rows(positions: usize, channels: usize) -> Self {
        Self { first: 0, image: positions * channels, position: channels, channel: 1 }
    }

    /// (B, channels, positions)
    fn planes(positions: usize, channels: usize) -> Self {
        Self { first: 0, image: positions * channels, position: 1, channel: positions }
    }

    /// The location of position `position` and the first of the `d` channels of a head.
    fn at(self, image: usize, head: usize, position: usize, d: usize) -> usize {
        self.first + image * self.image + head * d * self.channel + position * self.position
    }

    /// The matrix of positions × channels of a head, from `position` on.
    fn of(self, x: &[f32], image: usize, head: usize, position: usize, d: usize) -> Matrix<'_> {
        Matrix { numbers: &x[self.at(image, head, position, d)..], row: self.position, column: self.channel }
    }
}

/// The sizes of an attention.
#[derive(Clone, Copy)]
struct Heads<'a> {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    /// As in [`Attention`].
    lengths: &'a [usize],
    /// The number of channels of a head.
    d: usize,
    /// Whether the channels are planes of positions, instead of the positions rows of channels.
    planes: bool,
}

impl Heads<'_> {
    /// The number of keys of an image that are attended to.
    fn keys_of(self, image: usize) -> usize {
        self.lengths.get(image).map_or(self.keys, |length| *length)
    }

    /// The factor of the scores.
    fn scale(self) -> f32 {
        (self.d as f32).sqrt().recip()
    }

    /// Scratch space for the scores of the queries that are processed together.
    fn scores(self) -> Scratch {
        Scratch::new(QUERIES.min(self.queries) * self.keys)
    }

    /// softmax(`q` `k`ᵀ / √d) for the first `n` queries of `q` and the first `keys` keys of `k`.
    fn looks_at(self, [n, keys]: [usize; 2], q: Matrix, k: Matrix, scores: &mut [f32]) {
        let scores = &mut scores[..n * keys];
        let size = Size { m: n, n: keys, depth: self.d };
        // SAFETY: `scores` has room for as many queries.
        unsafe { product(size, q, k.t(), Target::rows(scores, keys), false) };
        arch().dispatch(Softmax { scores, row: keys, scale: self.scale() });
    }

    /// Computes `a` · `b`, positions × channels, in the layout of this attention.
    ///
    /// # Safety
    /// See [`product`].
    unsafe fn put(self, [positions, depth]: [usize; 2], a: Matrix, b: Matrix, to: Target, add: bool) {
        // SAFETY: by the contract of this function.
        unsafe {
            match self.planes {
                true => product(Size { m: self.d, n: positions, depth }, b.t(), a.t(), to, add),
                false => product(Size { m: positions, n: self.d, depth }, a, b, to, add),
            }
        }
    }

    fn place_of_y(self) -> Place {
        match self.planes {
            true => Place::planes(self.queries, self.heads * self.d),
            false => Place::rows(self.queries, self.heads * self.d),
        }
    }

    fn forward(self, [q, k, v]: [&[f32]; 3], [of_q, of_k, of_v]: [Place; 3]) -> Vec<f32> {
        let Self { batch, heads, queries, d, .. } = self;
        let (blocks, of_y) = (queries.div_ceil(QUERIES), self.place_of_y());
        let work = |y: &mut [MaybeUninit<f32>]| {
            let y = Target::rows(y, if self.planes { queries } else { heads * d });
            for_each(
                batch * heads * blocks,
                || self.scores(),
                |scores, i| {
                    let (position, i) = (i % blocks * QUERIES, i / blocks);
                    let (image, head) = (i / heads, i % heads);
                    let (n, keys) = (QUERIES.min(queries - position), self.keys_of(image));
                    let (k, v) = (of_k.of(k, image, head, 0, d), of_v.of(v, image, head, 0, d));
                    self.looks_at([n, keys], of_q.of(q, image, head, position, d), k, scores);
                    let y = y.from(0, of_y.at(image, head, position, d));
                    // SAFETY: the channels of this head and image, of these queries.
                    unsafe { self.put([n, keys], Matrix::rows(scores, keys), v, y, false) };
                },
            );
        };
        // SAFETY: each head of each image writes its channels for all of the queries.
        unsafe { written(batch * queries * heads * d, work) }
    }

    /// With the softmax P and its inputs S: dV = Pᵀ dO, dP = dO Vᵀ, dS = P (dP − Σ P dP), dQ = dS K / √d and dK = dSᵀ Q
    /// / √d. They are written to `starts` in the layouts of q, k and v.
    fn backward(self, [q, k, v]: [&[f32]; 3], places: [Place; 3], dy: &[f32], starts: [Target; 3]) {
        let Self { batch, heads, queries, d, .. } = self;
        let ([of_q, of_k, of_v], of_y) = (places, self.place_of_y());
        for_each(
            batch * heads,
            || (self.scores(), self.scores()),
            |(p, ds), i| {
                let (image, head) = (i / heads, i % heads);
                let keys = self.keys_of(image);
                let (k, v) = (of_k.of(k, image, head, 0, d), of_v.of(v, image, head, 0, d));
                let to = |j: usize, position: usize| starts[j].from(0, places[j].at(image, head, position, d));
                for position in (0..queries).step_by(QUERIES) {
                    let n = QUERIES.min(queries - position);
                    let q = of_q.of(q, image, head, position, d);
                    let dy = of_y.of(dy, image, head, position, d);
                    self.looks_at([n, keys], q, k, p);
                    let (p, ds) = (&p[..n * keys], &mut ds[..n * keys]);
                    let (size, add) = (Size { m: n, n: keys, depth: d }, position > 0);
                    // SAFETY: `ds` has room for as many queries; the rest are the channels of this head and image, all
                    // positions of which the first queries write.
                    unsafe {
                        product(size, dy, v.t(), Target::rows(ds, keys), false);
                        arch().dispatch(SoftmaxSlopes { p, ds, row: keys, scale: self.scale() });
                        let [p, ds] = [p, ds].map(|x| Matrix::rows(x, keys));
                        self.put([n, keys], ds, k, to(0, position), false);
                        self.put([keys, n], ds.t(), q, to(1, 0), add);
                        self.put([keys, n], p.t(), dy, to(2, 0), add);
                    }
                }
            },
        );
    }
}

/// Turns each row into e^(scale x) / Σ e^(scale x), in place.
struct Softmax<'a> {
    scores: &'a mut [f32],
    row: usize,
    scale: f32,
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let scale = simd.splat_f32s(self.scale);
        for row in self.scores.chunks_exact_mut(self.row) {
            let most = simd.splat_f32s(maximum(simd, row));
            update(
                simd,
                [],
                row,
                #[inline(always)]
                |x, []| exp(simd, simd.mul_f32s(scale, simd.sub_f32s(x, most))),
            );
            let [sum] = sums(
                simd,
                [&*row],
                #[inline(always)]
                |[x]| [x],
            );
            let share = simd.splat_f32s(1.0 / sum);
            update(
                simd,
                [],
                row,
                #[inline(always)]
                |x, []| simd.mul_f32s(x, share),
            );
        }
    }
}

/// Turns dP into scale · dS, row by row, in place.
struct SoftmaxSlopes<'a> {
    p: &'a [f32],
    ds: &'a mut [f32],
    row: usize,
    scale: f32,
}

impl WithSimd for SoftmaxSlopes<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let scale = simd.splat_f32s(self.scale);
        let rows = self.p.chunks_exact(self.row);
        for (p, ds) in rows.zip(self.ds.chunks_exact_mut(self.row)) {
            let [mean] = sums(
                simd,
                [p, ds],
                #[inline(always)]
                |[p, dp]| [simd.mul_f32s(p, dp)],
            );
            let mean = simd.splat_f32s(mean);
            update(
                simd,
                [p],
                ds,
                #[inline(always)]
                |dp, [p]| simd.mul_f32s(simd.mul_f32s(p, scale), simd.sub_f32s(dp, mean)),
            );
        }
    }
}
