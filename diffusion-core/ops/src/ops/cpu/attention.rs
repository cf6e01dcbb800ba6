//! Attention in one operation: each head of each image by itself, some of its queries at a time.
//!
//! The scores of these queries stay in the cache until the values have been weighed by them, and are never written to
//! memory; the gradient computes them again.

use super::arch::arch;
use super::loops::{exp, maximum, sums, update, written};
use super::matrix::{Matrix, Sizes, Target, product};
use super::parallel::for_each;
use super::{read, slice, stored};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};

/// How many queries are looked at together.
const QUERIES: usize = 64;

/// The operation: of q (B, N, C), k and v (B, M, C).
pub(in crate::ops) struct Attention {
    pub(in crate::ops) heads: usize,
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = q_layout.shape();
        let sizes = Heads::new(self.heads, shape.dims(), k_layout.dims());
        let q = slice(q, q_layout)?;
        let (k, v) = (slice(k, k_layout)?, slice(v, v_layout)?);
        Ok(stored(sizes.forward(q, k, v), shape))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = Heads::new(self.heads, q.dims(), k.dims());
        let [dq, dk, dv] = read([q, k, v, dout], |[q, k, v, dout]| sizes.backward(q, k, v, dout))?;
        let tensor = |of: &Tensor, gradient: Vec<f32>| {
            of.track_op().then(|| Tensor::from_vec(gradient, of.shape(), of.device())).transpose()
        };
        Ok((tensor(q, dq)?, tensor(k, dk)?, tensor(v, dv)?))
    }
}

/// The sizes of an attention.
#[derive(Clone, Copy)]
struct Heads {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    /// Of all heads together.
    channels: usize,
}

impl Heads {
    fn new(heads: usize, q: &[usize], k: &[usize]) -> Self {
        Self { batch: q[0], heads, queries: q[1], keys: k[1], channels: q[2] }
    }

    /// The channels of a head.
    fn d(self) -> usize {
        self.channels / self.heads
    }

    /// Room for the scores of the queries that are looked at together.
    fn scores(self) -> Vec<f32> {
        vec![0.0; QUERIES.min(self.queries) * self.keys]
    }

    /// softmax(`q` `k`ᵀ / √d) for the first `n` queries of `q`.
    fn looks_at(self, n: usize, q: Matrix, k: Matrix, scores: &mut [f32]) {
        let (m, n, k_size) = (n, self.keys, self.d());
        let size = Sizes { m, n, k: k_size };
        let scale = (self.d() as f32).sqrt().recip();
        let target = Target::rows(scores, n);
        // SAFETY: `scores` has room for as many queries.
        unsafe { product(size, scale, q, k.t(), target, false) };
        let scores = &mut scores[..m * n];
        arch().dispatch(Softmax { scores, row: n });
    }

    fn forward(self, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let Self { batch, heads, queries, keys, channels } = self;
        let [q, k, v] = [q, k, v].map(|x| Matrix::rows(x, channels));
        let blocks = queries.div_ceil(QUERIES);
        // SAFETY: each head of each image writes its channels for all of the queries.
        unsafe {
            written(batch * queries * channels, |out| {
                let out = Target::rows(out, channels);
                for_each(
                    batch * heads * blocks,
                    || self.scores(),
                    |scores, i| {
                        let (block, i) = (i % blocks, i / blocks);
                        let (image, channel) = (i / heads, i % heads * self.d());
                        let query = image * queries + block * QUERIES;
                        let n = QUERIES.min(queries - block * QUERIES);
                        let [k, v] = [k, v].map(|x| x.from(image * keys, channel));
                        self.looks_at(n, q.from(query, channel), k, scores);
                        let size = Sizes { m: n, n: self.d(), k: keys };
                        let looks_at = Matrix::rows(scores, keys);
                        product(size, 1.0, looks_at, v, out.from(query, channel), false);
                    },
                );
            })
        }
    }

    /// With P the softmax and S what goes into it: dV = Pᵀ dO, dP = dO Vᵀ, dS = P (dP − Σ P dP), dQ = dS K / √d and
    /// dK = dSᵀ Q / √d.
    fn backward(self, q: &[f32], k: &[f32], v: &[f32], dout: &[f32]) -> [Vec<f32>; 3] {
        let Self { batch, heads, queries, keys, channels } = self;
        let d = self.d();
        let scale = (d as f32).sqrt().recip();
        let [q, k, v, dout] = [q, k, v, dout].map(|x| Matrix::rows(x, channels));
        let [mut dk, mut dv] = [(); 2].map(|()| Vec::with_capacity(batch * keys * channels));
        let to_k = Target::rows(dk.spare_capacity_mut(), channels);
        let to_v = Target::rows(dv.spare_capacity_mut(), channels);
        // SAFETY: each head of each image writes its channels for all of the queries and keys.
        unsafe {
            let dq = written(batch * queries * channels, |dq| {
                let to_q = Target::rows(dq, channels);
                for_each(
                    batch * heads,
                    || (self.scores(), self.scores()),
                    |(p, ds), i| {
                        let (image, channel) = (i / heads, i % heads * d);
                        let [k, v] = [k, v].map(|x| x.from(image * keys, channel));
                        let [to_k, to_v] = [to_k, to_v].map(|x| x.from(image * keys, channel));
                        for block in (0..queries).step_by(QUERIES) {
                            let (query, n) = (image * queries + block, QUERIES.min(queries - block));
                            let [q, dout] = [q, dout].map(|x| x.from(query, channel));
                            let by_query = Sizes { m: n, n: d, k: keys };
                            let by_key = Sizes { m: keys, n: d, k: n };
                            self.looks_at(n, q, k, p);
                            let size = Sizes { m: n, n: keys, k: d };
                            product(size, 1.0, dout, v.t(), Target::rows(ds, keys), false);
                            let (p, ds) = (&p[..n * keys], &mut ds[..n * keys]);
                            arch().dispatch(SoftmaxSlopes { p, ds, row: keys });
                            let [p, ds] = [p, ds].map(|x| Matrix::rows(x, keys));
                            product(by_key, 1.0, p.t(), dout, to_v, block > 0);
                            product(by_key, scale, ds.t(), q, to_k, block > 0);
                            product(by_query, scale, ds, k, to_q.from(query, channel), false);
                        }
                    },
                );
            });
            dk.set_len(batch * keys * channels);
            dv.set_len(batch * keys * channels);
            [dq, dk, dv]
        }
    }
}

/// Each row to e^x / Σ e^x, in place.
struct Softmax<'a> {
    scores: &'a mut [f32],
    row: usize,
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for row in self.scores.chunks_exact_mut(self.row) {
            let most = simd.splat_f32s(maximum(simd, row));
            update(
                simd,
                [],
                row,
                #[inline(always)]
                |x, []| exp(simd, simd.sub_f32s(x, most)),
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

/// From dP to dS, row by row, in place.
struct SoftmaxSlopes<'a> {
    p: &'a [f32],
    ds: &'a mut [f32],
    row: usize,
}

impl WithSimd for SoftmaxSlopes<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
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
                |dp, [p]| simd.mul_f32s(p, simd.sub_f32s(dp, mean)),
            );
        }
    }
}
