//! The residual block of the larger networks.

use crate::nn::{Builder, Conv2d, GroupNorm, Linear};
use crate::ops::{Activation, Geometry, add, silu};
use candle_core::{Result, Tensor, bail};

/// The constructor of a convolution: [`Conv2d::new`] or [`Conv2d::standardized`].
type MakeConv = fn(Builder, usize, usize, usize, Geometry) -> Result<Conv2d>;

/// A residual block: convolution → group norm → SiLU, twice, with the time embedding as a scale and shift before the
/// first SiLU.
///
/// With (s, m) = time(silu(e)): h = silu(norm1(conv1(x)) · (1 + s) + m); y = skip(x) + silu(norm2(conv2(h))), where
/// skip is a 1×1 convolution if the numbers of channels differ, otherwise the identity
/// ([Dhariwal & Nichol 2021](https://arxiv.org/abs/2105.05233), section 3, with the norm after the convolution).
#[derive(Clone, Debug)]
pub struct ResnetBlock {
    /// 3×3, from input to output channels.
    pub conv1: Conv2d,
    /// Over the output channels.
    pub norm1: GroupNorm,
    /// From the time embedding to two values for each output channel: the scales, then the shifts.
    pub time: Linear,
    /// 3×3, from output to output channels.
    pub conv2: Conv2d,
    /// Over the output channels.
    pub norm2: GroupNorm,
    /// 1×1, from input to output channels, if their numbers differ.
    pub skip: Option<Conv2d>,
}

impl ResnetBlock {
    /// Creates a block from `inputs` to `outputs` channels, for a time embedding with `time` elements, with norms of
    /// `groups` groups; `conv` constructs `conv1` and `conv2`. Parts `conv1`, `norm1`, `time`, `conv2`, `norm2`, and
    /// `skip` if there is one.
    ///
    /// # Errors
    /// `groups` does not divide `outputs`, or one of the numbers is 0.
    pub fn new(
        mut build: Builder,
        inputs: usize,
        outputs: usize,
        time: usize,
        groups: usize,
        conv: MakeConv,
    ) -> Result<Self> {
        let (silu, same) = (Activation::Silu, Geometry::same(3));
        Ok(Self {
            conv1: conv(build.at("conv1"), inputs, outputs, 3, same)?,
            norm1: GroupNorm::new(build.at("norm1"), groups, outputs, silu)?,
            time: Linear::new(build.at("time"), time, outputs.saturating_mul(2))?,
            conv2: conv(build.at("conv2"), outputs, outputs, 3, same)?,
            norm2: GroupNorm::new(build.at("norm2"), groups, outputs, silu)?,
            skip: (inputs != outputs)
                .then(|| Conv2d::new(build.at("skip"), inputs, outputs, 1, Geometry::same(1)))
                .transpose()?,
        })
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// `x` (B, inputs, H, W); `e` (B, time), from [`TimeEmbedding`](crate::unet::TimeEmbedding); the result is
    /// (B, outputs, H, W).
    ///
    /// # Errors
    /// The shapes do not match.
    pub fn forward(&self, x: &Tensor, e: &Tensor) -> Result<Tensor> {
        if x.dims().first() != e.dims().first() {
            bail!("ResnetBlock: x has shape {:?} and e {:?}; their batch dimensions must be equal", x.dims(), e.dims())
        }
        let time = self.time.forward(&silu(e)?)?;
        let width = time.dim(1)? / 2;
        let (scale, shift) = (time.narrow(1, 0, width)?, time.narrow(1, width, width)?);
        // Assigning instead of shadowing frees tensors as soon as they are no longer needed.
        let mut h = self.conv1.forward(x)?;
        h = self.norm1.forward_scaled(&h, &scale, &shift)?;
        h = self.conv2.forward(&h)?;
        h = self.norm2.forward(&h)?;
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
    fn gradients_are_correct() -> Result<()> {
        for (inputs, conv) in [(2, Conv2d::new as MakeConv), (3, Conv2d::new), (2, Conv2d::standardized)] {
            let what = format!("{inputs} → 2");
            let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
            let block = ResnetBlock::new(params.builder(&mut rng), inputs, 2, 3, 1, conv)?;
            let (x, e) = (random(1, (2, inputs, 2, 3))?, random(2, (2, 3))?);
            check(&what, &[x.clone(), e.clone()], |x| block.forward(&x[0], &x[1]))?;
            check_params(&what, &params, || block.forward(&x, &e))?;
        }
        Ok(())
    }

    #[test]
    fn errors_name_a_different_batch() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
        let block = ResnetBlock::new(params.builder(&mut rng), 2, 2, 3, 1, Conv2d::new)?;
        let message = block.forward(&random(1, (2, 2, 2, 2))?, &random(2, (3, 3))?).unwrap_err().to_string();
        let wants = "x has shape [2, 2, 2, 2] and e [3, 3]";
        assert!(message.contains(wants), "{message}");
        Ok(())
    }
}
