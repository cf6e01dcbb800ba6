//! The residual block of the smaller networks.

use crate::nn::{Builder, Conv2d, GroupNorm, Linear};
use crate::ops::{Activation, Geometry, add, silu};
use candle_core::{Result, Tensor, bail};

/// A residual block: group norm → SiLU → convolution, twice, with the time embedding added in between.
///
/// h = conv1(silu(norm1(x))) + time(silu(e)); y = skip(x) + conv2(silu(norm2(h))), where skip is a 1×1 convolution if
/// the numbers of channels differ, otherwise the identity ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), appendix
/// B).
#[derive(Clone, Debug)]
pub struct ResBlock {
    /// Group norm and SiLU over the input channels.
    pub norm1: GroupNorm,
    /// 3×3, from input to output channels.
    pub conv1: Conv2d,
    /// From the time embedding to one value for each output channel.
    pub time: Linear,
    /// Group norm and SiLU over the output channels.
    pub norm2: GroupNorm,
    /// 3×3, from output to output channels.
    pub conv2: Conv2d,
    /// 1×1, from input to output channels, if their numbers differ.
    pub skip: Option<Conv2d>,
}

impl ResBlock {
    /// Creates a block from `inputs` to `outputs` channels, for a time embedding with `time` elements. The norms have
    /// `groups` groups, the first at most one per channel. Parts `norm1`, `conv1`, `time`, `norm2`, `conv2`, and `skip`
    /// if there is one.
    ///
    /// # Errors
    /// `groups` does not divide the channels, or one of the numbers is 0.
    pub fn new(mut build: Builder, inputs: usize, outputs: usize, time: usize, groups: usize) -> Result<Self> {
        let (silu, same) = (Activation::Silu, Geometry::same(3));
        Ok(Self {
            norm1: GroupNorm::new(build.at("norm1"), groups.min(inputs), inputs, silu)?,
            conv1: Conv2d::new(build.at("conv1"), inputs, outputs, 3, same)?,
            time: Linear::new(build.at("time"), time, outputs)?,
            norm2: GroupNorm::new(build.at("norm2"), groups, outputs, silu)?,
            conv2: Conv2d::new(build.at("conv2"), outputs, outputs, 3, same)?,
            skip: (inputs != outputs)
                .then(|| Conv2d::new(build.at("skip"), inputs, outputs, 1, Geometry::same(1)))
                .transpose()?,
        })
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// `x` (B, inputs, H, W); `e` (B, time), from [`TimeEmbedding`](crate::unet::TimeEmbedding); the result is (B,
    /// outputs, H, W).
    ///
    /// # Errors
    /// The shapes do not match.
    pub fn forward(&self, x: &Tensor, e: &Tensor) -> Result<Tensor> {
        if x.dims().first() != e.dims().first() {
            bail!("ResBlock: x has shape {:?} and e {:?}; their batch dimensions must be equal", x.dims(), e.dims())
        }
        // The time is added as a per-image bias, which saves a pass over the pixels.
        let time = self.time.forward(&silu(e)?)?;
        let bias = time.broadcast_add(&self.conv1.bias)?;
        // Assigning instead of shadowing frees tensors as soon as they are no longer needed.
        let mut h = self.norm1.forward(x)?;
        h = self.conv1.forward_with_bias(&h, &bias)?;
        h = self.norm2.forward(&h)?;
        h = self.conv2.forward(&h)?;
        match &self.skip {
            Some(skip) => add(&skip.forward(x)?, &h, 1.0),
            None => add(x, &h, 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Parameters;
    use crate::nn::gradients::{check, check_params, random};
    use crate::rng::Rng;
    use candle_core::{DType, Device};

    /// Gradients of the input, the time and every parameter, with and without the skip convolution.
    #[test]
    fn the_block_has_the_right_gradients() -> Result<()> {
        for (batch, inputs, outputs, groups) in [(1, 2, 2, 2), (3, 1, 2, 2), (1, 4, 2, 1)] {
            let what = format!("{inputs} → {outputs}");
            let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
            let block = ResBlock::new(params.builder(&mut rng), inputs, outputs, 3, groups)?;
            let xe = [random(1, (batch, inputs, 3, 2))?, random(2, (batch, 3))?];
            check(&what, &xe, |x| block.forward(&x[0], &x[1]))?;
            check_params(&what, &params, || block.forward(&xe[0], &xe[1]))?;
        }
        Ok(())
    }

    #[test]
    fn errors_name_wrong_shapes() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
        let mut build = params.builder(&mut rng);
        let block = ResBlock::new(build.at("a"), 2, 4, 3, 2)?;
        let (x, e) = (random(1, (2, 2, 3, 3))?, random(2, (1, 3))?);
        let message = block.forward(&x, &e).unwrap_err().to_string();
        let wants = "ResBlock: x has shape [2, 2, 3, 3] and e [1, 3]";
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        let message = ResBlock::new(build.at("b"), 2, 4, 3, 3).unwrap_err().to_string();
        let wants = "groups = 3 does not divide channels = 4";
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        Ok(())
    }
}
