//! Self-attention between the pixels of an image.

use crate::nn::{Builder, GroupNorm, Linear, Probe};
use crate::ops::{Activation, add, self_attention2d};
use candle_core::{Result, Tensor, bail};

/// Self-attention, in which every pixel attends to every other: group norm → [`self_attention2d`] → linear, added to
/// the input ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), appendix B). The cost is quadratic in the number of
/// pixels, so it is used at low resolutions.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    /// Normalises the channels.
    pub norm: GroupNorm,
    /// Queries, keys and values: from C channels to 3C.
    pub qkv: Linear,
    /// The output projection, from C channels to C.
    pub out: Linear,
    /// The number of heads.
    pub heads: usize,
    probe: Probe,
}

impl SelfAttention {
    /// Creates a block for `channels` channels, with a norm of `groups` groups; parts `norm`, `qkv` and `out`.
    ///
    /// # Errors
    /// `groups` or `heads` does not divide `channels`.
    pub fn new(mut build: Builder, channels: usize, groups: usize, heads: usize) -> Result<Self> {
        if !channels.is_multiple_of(heads) {
            bail!("SelfAttention: heads = {heads} does not divide channels = {channels}")
        }
        Ok(Self {
            norm: GroupNorm::new(build.at("norm"), groups, channels, Activation::None)?,
            qkv: Linear::new(build.at("qkv"), channels, channels.saturating_mul(3))?,
            probe: build.probe(),
            out: Linear::new(build.at("out"), channels, channels)?,
            heads,
        })
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// `x` (B, C, H, W); the result has the shape of `x`.
    ///
    /// # Errors
    /// The shapes do not match.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = x.dims4()?;
        let mut y = self.norm.forward(x)?;
        y = self.qkv.forward_pixels(&y)?;
        y = self_attention2d(&y, self.heads)?;
        // Each query is multiplied with each key, and each weight with a value.
        let kind = || format!("attention {}", self.heads);
        self.probe.saw(kind, &[], &y, 2 * h * w);
        add(x, &self.out.forward_pixels(&y)?, 1.0)
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
    fn gradients_are_correct() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
        let layer = SelfAttention::new(params.builder(&mut rng), 4, 2, 2)?;
        let x = random(1, (2, 4, 2, 3))?;
        check("input", std::slice::from_ref(&x), |x| layer.forward(&x[0]))?;
        check_params("parameters", &params, || layer.forward(&x))
    }

    /// The output does not depend on the position of a pixel.
    #[test]
    fn a_transposed_image_gives_a_transposed_output() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
        let layer = SelfAttention::new(params.builder(&mut rng), 4, 2, 2)?;
        let x = random(1, (2, 4, 2, 3))?;
        let turned = layer.forward(&x.transpose(2, 3)?.contiguous()?)?;
        let off = (layer.forward(&x)?.transpose(2, 3)? - turned)?;
        assert!(off.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12);
        Ok(())
    }

    #[test]
    fn errors_name_heads_that_do_not_divide() {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
        for heads in [0, 3] {
            let layer = SelfAttention::new(params.builder(&mut rng), 4, 2, heads);
            let message = layer.unwrap_err().to_string();
            assert!(message.contains(&format!("heads = {heads} does")), "{message}");
        }
    }
}
