//! The original U-Net, with a time embedding.

use super::{
    Condition, ConditionEmbedding, Conditioning, Config, Denoiser, SelfAttention, TimeEmbedding, conditioning_fields,
    fits,
};
use crate::nn::{Builder, Conv2d, GroupNorm, Linear};
use crate::ops::{Activation, Geometry, concat_channels, max_pool2d, scale_shift, silu, upsample_bilinear2x};
use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// The U-Net of [Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597) with three levels: max pooling on the way
/// down, bilinear upsampling on the way up, and skip connections. The features in the bottleneck are multiplied by the
/// time embedding.
///
/// It can be conditioned on classes, whose embedding goes through linear → SiLU → linear and is added to the time
/// embedding, and on a context. If `heads` is not 0, it has [`SelfAttention`] at the two lowest resolutions.
///
/// The default has 8.0 million parameters (8,002,691), with `heads: 4` 9.3 million (9,318,019). Height and width must
/// be divisible by 8.
///
/// ```
/// use diffusion_core::{candle::Device, rng::Rng, unet::{Condition, Network, UNet}};
/// let (mut rng, small) = (Rng::new(42), UNet { base: 8, heads: 2, classes: 10, ..Default::default() });
/// let net = Network::new(small, &mut rng, &Device::Cpu)?;
/// let xt = rng.randn((2, 3, 32, 32), &Device::Cpu)?;
/// let automobile = Condition::labels([1, 1]);
/// assert_eq!(net.predict(&xt, &[0.0, 999.0], &automobile)?.dims(), &[2, 3, 32, 32]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet {
    /// The number of image channels: 1 for greyscale, 3 for RGB; at most 1024.
    pub channels: usize,
    /// The channels at full resolution; the lower levels have twice, four and eight times as many. Even, 4 … 1024.
    pub base: usize,
    /// The groups of every group norm; they divide `base`.
    pub groups: usize,
    /// The heads of every attention block, which divide `base`; 0 for no attention.
    pub heads: usize,
    /// The number of classes for conditioning; 0 for none.
    pub classes: usize,
    /// The length of the context vector; 0 for none.
    pub context: usize,
}

impl Default for UNet {
    /// Colour images, 64 channels, 8 groups, no attention, no condition.
    fn default() -> Self {
        Self { channels: 3, base: 64, groups: 8, heads: 0, classes: 0, context: 0 }
    }
}

impl Config for UNet {
    conditioning_fields!(channels, classes, context);

    fn usual_side(&self) -> usize {
        32
    }

    fn divisor(&self) -> usize {
        8
    }

    fn check(&self, op: &str) -> Result<()> {
        let heads = Some(self.heads).filter(|heads| *heads > 0);
        fits(op, self.base, self.groups, heads)
    }

    fn build(&self, build: Builder) -> Result<Box<dyn Denoiser>> {
        Ok(Box::new(Layers::new(build, self)?))
    }
}

/// Two units of 3×3 convolution → group norm → ReLU.
#[derive(Debug)]
struct DoubleConv {
    conv1: Conv2d,
    norm1: GroupNorm,
    conv2: Conv2d,
    norm2: GroupNorm,
}

impl DoubleConv {
    fn new(mut build: Builder, inputs: usize, outputs: usize, groups: usize) -> Result<Self> {
        let (relu, same) = (Activation::Relu, Geometry::same(3));
        Ok(Self {
            conv1: Conv2d::new(build.at("conv1"), inputs, outputs, 3, same)?,
            norm1: GroupNorm::new(build.at("norm1"), groups, outputs, relu)?,
            conv2: Conv2d::new(build.at("conv2"), outputs, outputs, 3, same)?,
            norm2: GroupNorm::new(build.at("norm2"), groups, outputs, relu)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.conv1.forward(x)?;
        // Assigning instead of nesting frees tensors as soon as they are no longer needed.
        x = self.norm1.forward(&x)?;
        x = self.conv2.forward(&x)?;
        self.norm2.forward(&x)
    }
}

#[derive(Debug)]
struct Layers {
    time_embedding: TimeEmbedding,
    condition: ConditionEmbedding,
    /// For labels only, since the embedding of a context already has two linear layers.
    label_mlp: Option<[Linear; 2]>,
    enc: [DoubleConv; 3],
    bottleneck: DoubleConv,
    time_mlp: Linear,
    attention: Option<SelfAttention>,
    dec3: DoubleConv,
    attention3: Option<SelfAttention>,
    dec2: DoubleConv,
    dec1: DoubleConv,
    conv_out: Conv2d,
}

impl Layers {
    fn new(mut build: Builder, net: &UNet) -> Result<Self> {
        let UNet { channels, base: w, groups, heads, classes, .. } = *net;
        let time = 4 * w;
        let b = &mut build;
        let double =
            |b: &mut Builder, name: &str, inputs, outputs| DoubleConv::new(b.at(name), inputs, outputs, groups);
        let attention = |b: &mut Builder, name: &str, width| match heads {
            0 => Ok(None),
            heads => SelfAttention::new(b.at(name), width, groups, heads).map(Some),
        };
        Ok(Self {
            time_embedding: TimeEmbedding::new(b.at("time_embedding"), w, time)?,
            condition: ConditionEmbedding::new(b, net.conditioning(), time)?,
            label_mlp: match classes {
                0 => None,
                _ => {
                    let mut b = b.at("label_mlp");
                    Some([Linear::new(b.at(0), time, time)?, Linear::new(b.at(2), time, time)?])
                }
            },
            enc: [double(b, "enc1", channels, w)?, double(b, "enc2", w, 2 * w)?, double(b, "enc3", 2 * w, 4 * w)?],
            bottleneck: double(b, "bottleneck", 4 * w, 8 * w)?,
            time_mlp: Linear::new(b.at("time_mlp"), time, 8 * w)?,
            attention: attention(b, "attention", 8 * w)?,
            dec3: double(b, "dec3", (8 + 4) * w, 4 * w)?,
            attention3: attention(b, "attention3", 4 * w)?,
            dec2: double(b, "dec2", (4 + 2) * w, 2 * w)?,
            dec1: double(b, "dec1", (2 + 1) * w, w)?,
            conv_out: Conv2d::zeros(b.at("conv_out"), w, channels, 1, Geometry::same(1))?,
        })
    }
}

impl Denoiser for Layers {
    fn forward(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        let mut e = self.time_embedding.forward(t)?;
        if let (Some(label), Some([first, second])) = (self.condition.label(t.len(), condition)?, &self.label_mlp) {
            e = (e + second.forward(&silu(&first.forward(&label)?)?)?)?;
        }
        if let Some(context) = self.condition.context(&e, condition)? {
            e = (e + context)?;
        }
        let [enc1, enc2, enc3] = &self.enc;
        let s1 = enc1.forward(xt)?;
        let s2 = enc2.forward(&max_pool2d(&s1, 2)?)?;
        let s3 = enc3.forward(&max_pool2d(&s2, 2)?)?;
        let mut x = self.bottleneck.forward(&max_pool2d(&s3, 2)?)?;

        let time = self.time_mlp.forward(&silu(&e)?)?;
        let time = time.to_dtype(x.dtype())?;
        x = scale_shift(&x, &time, &time.zeros_like()?)?;
        let look = |attention: &Option<SelfAttention>, x: Tensor| match attention {
            Some(attention) => attention.forward(&x),
            None => Ok(x),
        };
        let up = |conv: &DoubleConv, mut x: Tensor, seen: Tensor| {
            x = upsample_bilinear2x(&x)?;
            x = concat_channels(&x, &seen)?;
            drop(seen);
            conv.forward(&x)
        };
        x = look(&self.attention, x)?;
        x = look(&self.attention3, up(&self.dec3, x, s3)?)?;
        x = up(&self.dec2, x, s2)?;
        x = up(&self.dec1, x, s1)?;
        self.conv_out.forward(&x)
    }
}
