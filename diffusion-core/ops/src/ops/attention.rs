//! Multi-head attention.

use super::cpu::{attention::Attention, takes};
#[cfg(feature = "cuda")]
use super::cuda;
use super::four;
use super::graph;
use super::half::{half, wide};
use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::ops::softmax;

/// The amount subtracted from the score of a masked key.
const MASKED: f64 = 1e9;

/// Multi-head attention: softmax(Q Kᵀ / √d) V in each head
/// ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), equation 1), with d = C / `heads`.
///
/// Head i uses the channels i·d … (i+1)·d − 1 of `q`, `k` and `v`. If all three come from the positions of one image it
/// is self-attention; if `k` and `v` come from elsewhere it is cross-attention.
///
/// # Shapes
/// `q` (B, N, C); `k` and `v` (B, M, C); the result is (B, N, C). `x.flatten_from(2)?.transpose(1, 2)?` converts an
/// image (B, C, H, W) to this form.
///
/// # Errors
/// The shapes do not match, or `heads` does not divide C.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::Device, ops::attention, rng::Rng};
/// let x = Rng::new(0).randn((2, 49, 64), &Device::Cpu)?;
/// assert_eq!(attention(&x, &x, &x, 4)?.dims(), &[2, 49, 64]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    check_shapes(q, k, v, heads)?;
    #[cfg(feature = "cuda")]
    if cuda::device::takes(q, &[k, v]) {
        return on_device(q, &k.to_dtype(q.dtype())?, &v.to_dtype(q.dtype())?, heads);
    }
    if let Some(half) = half(q) {
        return attention(&wide(q)?, &wide(k)?, &wide(v)?, heads)?.to_dtype(half);
    }
    if takes(&[q, k, v]) {
        return graph::apply("attention", Attention { heads, lengths: Vec::new() }, [q, k, v]);
    }
    composed(q, k, v, None, heads)
}

/// Self-attention between all pixels of an image, from a tensor with the channels of q, k and v concatenated, as from a
/// 1×1 convolution. It avoids transposing the image.
///
/// # Shapes
/// `qkv` (B, 3C, H, W); the result is (B, C, H, W).
///
/// # Errors
/// The shapes do not match, or `heads` does not divide C.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::Device, ops::{attention, self_attention2d}, rng::Rng};
/// let qkv = Rng::new(0).randn((2, 24, 5, 7), &Device::Cpu)?;
/// let y = self_attention2d(&qkv, 4)?;
/// assert_eq!(y.dims(), &[2, 8, 5, 7]);
/// let rows = qkv.flatten_from(2)?.transpose(1, 2)?;
/// let part = |i: usize| rows.narrow(2, 8 * i, 8);
/// let same = attention(&part(0)?, &part(1)?, &part(2)?, 4)?.transpose(1, 2)?.reshape(y.shape())?;
/// assert!((y - same)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-6);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn self_attention2d(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, channels, h, w) = four("self_attention2d", "qkv", qkv)?;
    if channels % 3 != 0 || !(channels / 3).is_multiple_of(heads) {
        bail!(
            "self_attention2d: qkv has shape {:?}; it must have 3C channels, where heads = {heads} divides C",
            qkv.dims()
        )
    }
    if takes(&[qkv]) {
        return graph::apply("self_attention2d", Attention { heads, lengths: Vec::new() }, [qkv]);
    }
    let c = channels / 3;
    let rows = qkv.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
    let part = |i: usize| rows.narrow(2, i * c, c);
    let y = attention(&part(0)?, &part(1)?, &part(2)?, heads)?;
    y.transpose(1, 2)?.reshape((b, c, h, w))
}

/// [`attention`] with a mask: only the keys with `mask` 1 are attended to, those with 0 (padding) are ignored.
///
/// If all keys are masked, the result is 0. The mask has no gradient.
///
/// # Shapes
/// `q` (B, N, C); `k` and `v` (B, M, C); `mask` (B, M); the result is (B, N, C).
///
/// # Errors
/// The shapes do not match, or `heads` does not divide C.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::{attention, masked_attention}, rng::Rng};
/// let x = Rng::new(0).randn((1, 3, 4), &Device::Cpu)?;
/// let mask = Tensor::new(&[[1f32, 1.0, 0.0]], &Device::Cpu)?;
/// let first_two = x.narrow(1, 0, 2)?;
/// let off = (masked_attention(&x, &x, &x, &mask, 2)? - attention(&x, &first_two, &first_two, 2)?)?;
/// assert!(off.abs()?.max_all()?.to_scalar::<f32>()? < 1e-6);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn masked_attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor, heads: usize) -> Result<Tensor> {
    check_shapes(q, k, v, heads)?;
    let (b, m, _) = k.dims3()?;
    if mask.dims() != [b, m] {
        bail!(
            "masked_attention: k has shape {:?} and mask {:?}; mask must have shape [{b}, {m}]",
            k.dims(),
            mask.dims()
        )
    }
    if let Some(half) = half(q) {
        return masked_attention(&wide(q)?, &wide(k)?, &wide(v)?, mask, heads)?.to_dtype(half);
    }
    if takes(&[q, k, v])
        && let Some(lengths) = padded(mask)?
    {
        return graph::apply("masked_attention", Attention { heads, lengths }, [q, k, v]);
    }
    composed(q, k, v, Some(mask), heads)
}

/// The number of keys of each image, if the mask is that of padding: ones, at least one, and then zeros.
fn padded(mask: &Tensor) -> Result<Option<Vec<usize>>> {
    let rows = mask.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let length = |row: &Vec<f32>| {
        let ones = row.iter().take_while(|x| **x == 1.0).count();
        Some(ones).filter(|ones| *ones > 0 && row[*ones..].iter().all(|x| *x == 0.0))
    };
    Ok(rows.iter().map(length).collect())
}

/// Checks the shapes.
fn check_shapes(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<()> {
    let (&[b, n, c], &[_, m, _]) = (q.dims(), k.dims()) else {
        bail!(
            "attention: q has shape {:?} and k {:?}; both must have three dimensions, (B, positions, channels)",
            q.dims(),
            k.dims()
        )
    };
    if [b, n, m, c].contains(&0) {
        bail!("attention: q has shape {:?} and k {:?}; no dimension may be 0", q.dims(), k.dims())
    }
    for (name, x) in [("k", k), ("v", v)] {
        if x.dims() != [b, m, c] {
            bail!(
                "attention: q has shape {:?} and {name} {:?}; for these {name} must have shape [{b}, {m}, {c}]",
                q.dims(),
                x.dims()
            )
        }
    }
    if !c.is_multiple_of(heads) {
        bail!("attention: heads = {heads} does not divide the {c} channels of q, shape {:?}", q.dims())
    }
    Ok(())
}

fn composed(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, heads: usize) -> Result<Tensor> {
    let ((b, n, c), m) = (q.dims3()?, k.dim(1)?);
    let d = c / heads;
    let per_head = |x: &Tensor, positions: usize| x.reshape((b, positions, heads, d))?.transpose(1, 2)?.contiguous();
    let q = (per_head(q, n)? * (d as f64).powf(-0.5))?;
    let mut scores = q.matmul(&per_head(k, m)?.t()?)?;
    let mask = match mask {
        Some(mask) => {
            let mask = mask.detach().to_dtype(scores.dtype())?;
            let mask = mask.reshape((b, 1, 1, m))?;
            // So negative that exp is 0, but finite, so that a row without any key is not NaN.
            scores = scores.broadcast_add(&mask.affine(MASKED, -MASKED)?)?;
            Some(mask)
        }
        None => None,
    };
    // candle's `softmax_last_dim` has no gradient.
    let mut weights = softmax(&scores, D::Minus1)?;
    if let Some(mask) = mask {
        weights = weights.broadcast_mul(&mask)?;
    }
    weights.matmul(&per_head(v, m)?)?.transpose(1, 2)?.reshape((b, n, c))
}

/// On a CUDA device: two cuBLAS products with a kernel between them.
#[cfg(feature = "cuda")]
fn on_device(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, c) = q.dims3()?;
    let d = c / heads;
    let per_head = |x: &Tensor| x.reshape((b, x.dim(1)?, heads, d))?.transpose(1, 2)?.contiguous();
    let scores = per_head(q)?.matmul(&per_head(k)?.t()?)?;
    let looks_at = cuda::device::softmax(&scores, (d as f64).powf(-0.5))?;
    looks_at.matmul(&per_head(v)?)?.transpose(1, 2)?.reshape((b, n, c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::arch::each;
    use crate::ops::cpu::compare::compare;
    use crate::ops::gradients::{check, random};

    #[test]
    fn gradients_agree_with_central_differences() -> Result<()> {
        for (b, n, m, c, heads) in [(1, 1, 1, 1, 1), (1, 5, 3, 4, 2), (3, 2, 7, 3, 3), (2, 3, 3, 6, 1)] {
            let qkv = [random(1, (b, n, c))?, random(2, (b, m, c))?, random(3, (b, m, c))?];
            check(&format!("attention, {heads} heads"), &qkv, |x| attention(&x[0], &x[1], &x[2], heads))?;
        }
        check("of planes", &[random(5, (2, 12, 3, 2))?], |x| self_attention2d(&x[0], 2))?;
        let pictures = [random(4, (2, 4, 3, 2))?];
        check("self-attention over a picture", &pictures, |x| {
            let x = x[0].flatten_from(2)?.transpose(1, 2)?;
            attention(&x, &x, &x, 2)
        })
    }

    #[test]
    fn kernel_agrees_with_the_composition() -> Result<()> {
        for (b, n, m, c, heads) in [
            (1, 1, 1, 1, 1),
            (1, 5, 3, 4, 2),
            (3, 2, 7, 3, 3),
            (2, 49, 49, 32, 4),
            (1, 150, 33, 24, 1),
            (3, 64, 129, 6, 2),
        ] {
            let qkv = [random(1, (b, n, c))?, random(2, (b, m, c))?, random(3, (b, m, c))?];
            let what = format!("{:?}, {heads} heads", (b, n, m, c));
            compare(&what, &qkv, 1e-5, |x| attention(&x[0], &x[1], &x[2], heads))?;
        }
        for (shape, heads) in [([1, 3, 1, 1], 1), ([2, 12, 3, 5], 2), ([2, 24, 9, 8], 4), ([1, 96, 7, 7], 1)] {
            let qkv = [random(5, shape.as_slice())?];
            compare(&format!("{shape:?}"), &qkv, 1e-5, |x| self_attention2d(&x[0], heads))?;
        }
        let pictures = [random(4, (2, 6, 9, 8))?];
        compare("self-attention over part of a picture", &pictures, 1e-5, |x| {
            let x = x[0].narrow(1, 1, 4)?.flatten_from(2)?.transpose(1, 2)?;
            attention(&x, &x, &x, 2)
        })
    }

    /// Masked keys are ignored; the result is 0 where none is left. Also in f32, and with correct gradients.
    #[test]
    fn masked_keys_are_ignored() -> Result<()> {
        let qkv = [1, 2, 3].map(|seed| random(seed, (3, 4, 6)).unwrap());
        let mask = [[1f64, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0], [0.0; 4]];
        let mask = Tensor::new(&mask, qkv[0].device())?;
        check("masked attention", &qkv, |x| masked_attention(&x[0], &x[1], &x[2], &mask, 2))?;
        for dtype in [candle_core::DType::F64, candle_core::DType::F32] {
            let [q, k, v] = [&qkv[0], &qkv[1], &qkv[2]].map(|x| x.to_dtype(dtype).unwrap());
            let y = masked_attention(&q, &k, &v, &mask, 2)?;
            for (i, keys) in [vec![0u32, 1], vec![0, 2]].into_iter().enumerate() {
                let keys = Tensor::new(keys, q.device())?;
                let part = |x: &Tensor| x.narrow(0, i, 1)?.index_select(&keys, 1);
                let want = attention(&q.narrow(0, i, 1)?, &part(&k)?, &part(&v)?, 2)?;
                let off = (y.narrow(0, i, 1)? - want)?.abs()?.max_all()?;
                assert!(off.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()? < 1e-6);
            }
            let rest = y.get(2)?.abs()?.max_all()?.to_dtype(candle_core::DType::F64)?;
            assert_eq!(rest.to_scalar::<f64>()?, 0.0);
        }
        let [q, k, v] = &qkv;
        let message = masked_attention(q, k, v, &mask.t()?, 2).unwrap_err();
        assert!(message.to_string().contains("mask must have shape [3, 4]"), "{message}");
        Ok(())
    }

    #[test]
    fn kernel_agrees_with_the_composition_for_padding() -> Result<()> {
        for (n, m, c, heads, lengths) in
            [(1, 3, 4, 2, [1, 3]), (5, 7, 6, 3, [7, 2]), (150, 33, 24, 1, [33, 32]), (64, 20, 32, 4, [1, 9])]
        {
            let qkv = [random(1, (2, n, c))?, random(2, (2, m, c))?, random(3, (2, m, c))?];
            let mask: Vec<f32> = lengths.iter().flat_map(|it| (0..m).map(move |i| f32::from(i < *it))).collect();
            let mask = Tensor::from_vec(mask, (2, m), qkv[0].device())?;
            assert_eq!(padded(&mask)?, Some(lengths.to_vec()));
            compare(&format!("{lengths:?} of {m} keys"), &qkv, 1e-5, |x| {
                masked_attention(&x[0], &x[1], &x[2], &mask, heads)
            })?;
        }
        let odd = Tensor::new(&[[0f32, 1.0], [1.0, 0.0]], &candle_core::Device::Cpu)?;
        assert_eq!(padded(&odd)?, None);
        assert_eq!(padded(&odd.zeros_like()?)?, None);
        Ok(())
    }

    /// With equal keys, every position gets the mean of the values.
    #[test]
    fn equal_scores_give_the_mean_of_the_values() -> Result<()> {
        each(|| {
            let (q, v) = (random(1, (2, 3, 4))?, random(2, (2, 5, 4))?);
            let out = attention(&q, &v.zeros_like()?, &v, 2)?;
            let off = out.broadcast_sub(&v.mean_keepdim(1)?)?.abs()?.max_all()?;
            assert!(off.to_scalar::<f64>()? < 1e-12, "{off}");
            Ok(())
        })
    }

    /// Scores in the thousands do not overflow.
    #[test]
    fn a_sharp_score_picks_one_value() -> Result<()> {
        each(|| {
            let (k, v) = (random(1, (1, 4, 2))?, random(2, (1, 4, 2))?);
            let q = (k.narrow(1, 2, 1)? * 1e6)?;
            let scores = (&q / 1e6)?.matmul(&k.t()?)?.flatten_all()?;
            let best = scores.argmax(0)?.to_scalar::<u32>()? as usize;
            let off = (attention(&q, &k, &v, 1)? - v.narrow(1, best, 1)?)?;
            assert!(off.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12);
            let [q, k, v] = [q, k, v].map(|x| x.to_dtype(candle_core::DType::F32));
            let (k, v) = (k?, v?);
            let off = (attention(&q?, &k, &v, 1)? - v.narrow(1, best, 1)?)?;
            assert!(off.abs()?.max_all()?.to_scalar::<f32>()? < 1e-6);
            Ok(())
        })
    }

    #[test]
    fn errors_name_wrong_shapes() -> Result<()> {
        let (a, b, c) = (random(1, (2, 5, 6))?, random(2, (2, 4, 8))?, random(3, (5, 6))?);
        let fail = |r: Result<Tensor>| r.unwrap_err().to_string();
        for (message, wants) in [
            (
                fail(attention(&a, &b, &b, 2)),
                "q has shape [2, 5, 6] and k [2, 4, 8]; for these k must have shape [2, 4, 6]",
            ),
            (fail(attention(&a, &a, &b, 2)), "q has shape [2, 5, 6] and v [2, 4, 8]"),
            (fail(attention(&c, &a, &a, 2)), "q has shape [5, 6] and k [2, 5, 6]"),
            (fail(attention(&a, &a, &a, 4)), "heads = 4 does not divide the 6 channels"),
            (fail(attention(&a, &a, &a, 0)), "heads = 0"),
        ] {
            assert!(message.contains(wants) && message.starts_with("attention: "), "{message:?} lacks {wants:?}");
        }
        for (channels, heads, wants) in [(8, 2, "qkv has shape [2, 8, 3, 3]"), (6, 4, "heads = 4"), (6, 0, "heads = 0")]
        {
            let message = fail(self_attention2d(&random(4, (2, channels, 3, 3))?, heads));
            assert!(
                message.contains(wants) && message.starts_with("self_attention2d: "),
                "{message:?} lacks {wants:?}"
            );
        }
        Ok(())
    }
}
