//! Cross-attention from the pixels of an image to text tokens.

use crate::nn::{Builder, GroupNorm, Linear, Probe};
use crate::ops::{Activation, masked_attention};
use candle_core::{D, Result, Tensor, bail};
use candle_nn::ops::softmax;

/// Cross-attention, in which every pixel attends to the tokens: group norm → [`masked_attention`] → linear, added to
/// the input
/// ([Rombach et al. 2022](https://arxiv.org/abs/2112.10752), equation 3, with one head or more).
#[derive(Clone, Debug)]
pub struct CrossAttention {
    /// Normalises the channels of the image.
    pub norm: GroupNorm,
    /// Queries: from C channels to C.
    pub q: Linear,
    /// Keys and values: from D token features to 2C.
    pub kv: Linear,
    /// The output projection, from C channels to C.
    pub out: Linear,
    /// The number of heads.
    pub heads: usize,
    probe: Probe,
}

impl CrossAttention {
    /// Creates a block for `channels` channels and tokens of `width` features; parts `norm`, `q`, `kv`, `out`.
    ///
    /// # Errors
    /// `groups` or `heads` does not divide `channels`, or `width` is 0.
    pub fn new(mut build: Builder, channels: usize, width: usize, groups: usize, heads: usize) -> Result<Self> {
        if !channels.is_multiple_of(heads) {
            bail!("CrossAttention: heads = {heads} does not divide channels = {channels}")
        }
        Ok(Self {
            norm: GroupNorm::new(build.at("norm"), groups, channels, Activation::None)?,
            q: Linear::new(build.at("q"), channels, channels)?,
            kv: Linear::new(build.at("kv"), width, channels.saturating_mul(2))?,
            probe: build.probe(),
            out: Linear::new(build.at("out"), channels, channels)?,
            heads,
        })
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// `x` (B, C, H, W); `tokens` (B, L, D); `mask` (B, L), 1 for tokens and 0 for padding; the result has the shape of
    /// `x`.
    ///
    /// # Errors
    /// The shapes do not match.
    pub fn forward(&self, x: &Tensor, tokens: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let [q, k, v] = self.projections(x, tokens)?;
        let y = masked_attention(&q, &k, &v, mask, self.heads)?;
        let kind = || format!("attention {}", self.heads);
        self.probe.saw(kind, &[], &y, 2 * tokens.dim(1)?);
        x + self.out.forward(&y)?.transpose(1, 2)?.reshape(x.shape())?
    }

    /// The weights with which each pixel attends to the tokens, as means over the heads; they add up to 1 over L.
    ///
    /// # Shapes
    /// As for [`CrossAttention::forward`]; the result is (B, L, H, W).
    ///
    /// # Errors
    /// The shapes do not match, or a text has no token.
    pub fn weights(&self, x: &Tensor, tokens: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let (d, length) = (c / self.heads, tokens.dim(1)?);
        let [q, k, _] = self.projections(x, tokens)?;
        let per_head = |x: &Tensor| x.reshape((b, x.dim(1)?, self.heads, d))?.transpose(1, 2)?.contiguous();
        let scores = (per_head(&q)?.matmul(&per_head(&k)?.t()?)? * (d as f64).powf(-0.5))?;
        let padding = mask.to_dtype(scores.dtype())?.log()?.reshape((b, 1, 1, length))?;
        let weights = softmax(&scores.broadcast_add(&padding)?, D::Minus1)?;
        weights.mean(1)?.transpose(1, 2)?.reshape((b, length, h, w))
    }

    /// Queries (B, H·W, C), keys and values (B, L, C).
    fn projections(&self, x: &Tensor, tokens: &Tensor) -> Result<[Tensor; 3]> {
        let c = x.dim(1)?;
        let pixels = self.norm.forward(x)?.flatten_from(2)?.transpose(1, 2)?;
        let kv = self.kv.forward(tokens)?;
        Ok([self.q.forward(&pixels.contiguous()?)?, kv.narrow(2, 0, c)?, kv.narrow(2, c, c)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Parameters;
    use crate::nn::gradients::{check, check_params, random};
    use crate::rng::Rng;
    use candle_core::{DType, Device};

    #[test]
    fn gradients_are_correct_and_padding_has_no_effect() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
        let layer = CrossAttention::new(params.builder(&mut rng), 4, 3, 2, 2)?;
        let inputs = [random(1, (2, 4, 2, 3))?, random(2, (2, 5, 3))?];
        let mask = Tensor::new(&[[1f64, 1.0, 1.0, 0.0, 0.0], [1.0; 5]], &Device::Cpu)?;
        check("inputs", &inputs, |x| layer.forward(&x[0], &x[1], &mask))?;
        let [x, tokens] = &inputs;
        check_params("parameters", &params, || layer.forward(x, tokens, &mask))?;
        let cut = layer.forward(
            &x.narrow(0, 0, 1)?,
            &tokens.narrow(0, 0, 1)?.narrow(1, 0, 3)?,
            &mask.narrow(0, 0, 1)?.narrow(1, 0, 3)?,
        )?;
        let off = (layer.forward(x, tokens, &mask)?.narrow(0, 0, 1)? - cut)?;
        assert!(off.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12);
        Ok(())
    }

    /// With one head, the values summed with these weights are what the block adds before its last layer.
    #[test]
    fn the_weights_are_those_of_the_attention() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
        let layer = CrossAttention::new(params.builder(&mut rng), 4, 3, 2, 1)?;
        let (x, tokens) = (random(1, (2, 4, 2, 3))?, random(2, (2, 5, 3))?);
        let mask = Tensor::new(&[[1f64, 1.0, 1.0, 0.0, 0.0], [1.0; 5]], &Device::Cpu)?;
        let weights = layer.weights(&x, &tokens, &mask)?;
        assert_eq!(weights.dims(), [2, 5, 2, 3]);
        assert_eq!(weights.get(0)?.narrow(0, 3, 2)?.max_all()?.to_scalar::<f64>()?, 0.0);
        let [_, _, v] = layer.projections(&x, &tokens)?;
        let y = weights.flatten_from(2)?.transpose(1, 2)?.matmul(&v)?;
        let want = (layer.out.forward(&y)?.transpose(1, 2)?.reshape(x.shape())? + &x)?;
        let off = (layer.forward(&x, &tokens, &mask)? - want)?.abs()?.max_all()?;
        assert!(off.to_scalar::<f64>()? < 1e-12);
        Ok(())
    }
}
