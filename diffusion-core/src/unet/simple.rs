//! The network of the first notebooks.

use super::{
    Condition, ConditionEmbedding, Conditioning, Config, CrossAttention, Denoiser, EncodedText, ResBlock, TextEncoder,
    TimeEmbedding, conditioning_fields, fits,
};
use crate::nn::{Builder, Conv2d, GroupNorm, Linear};
use crate::ops::{Activation, Geometry, concat_channels, upsample_nearest2x};
use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// The number of heads of the attention to text.
const HEADS: usize = 4;

/// A U-Net with three resolutions and one [`ResBlock`] each on the way down, in the bottleneck and on the way up. A
/// 28×28 image is processed at 28 → 14 → 7 → 14 → 28.
///
/// The embeddings of classes and of a context are added to the time embedding. For super-resolution, the low-resolution
/// image is upsampled and concatenated to the channels of x_t
/// ([SR3, Saharia et al. 2021](https://arxiv.org/abs/2104.07636), section 2.3). Texts are read by a [`TextEncoder`] that
/// is trained with the network; the pixels of the two lower resolutions attend to its tokens ([`CrossAttention`]), and
/// the start token is added to the time embedding ([GLIDE, Nichol et al. 2021](https://arxiv.org/abs/2112.10741), section
/// 2.3).
///
/// The default has 2.6 million parameters (2,620,545). Height and width must be divisible by 4.
///
/// ```
/// use diffusion_core::{candle::Device, rng::Rng, unet::{Condition, Network, SimpleUNet}};
/// let (mut rng, small) = (Rng::new(42), SimpleUNet { base: 8, ..Default::default() });
/// let net = Network::new(small, &mut rng, &Device::Cpu)?;
/// let xt = rng.randn((2, 1, 28, 28), &Device::Cpu)?;
/// assert_eq!(net.forward(&xt, &[0.0, 999.0], &Condition::none())?.dims(), &[2, 1, 28, 28]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimpleUNet {
    /// The number of image channels: 1 for greyscale, 3 for RGB; at most 1024.
    pub channels: usize,
    /// The channels at full resolution; twice as many at half, four times at a quarter; the features of a token. Even, 4 …
    /// 1024; with text divisible by 4.
    pub base: usize,
    /// The groups of every group norm; they divide `base`.
    pub groups: usize,
    /// The number of classes for conditioning; 0 for none.
    pub classes: usize,
    /// The length of the context vector; 0 for none.
    pub context: usize,
    /// The factor between the sizes of the image and its low-resolution condition: 2, 4 or 8; 0 for none.
    #[serde(alias = "reduced")]
    pub low_res: usize,
    /// The longest text in tokens; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub tokens: usize,
    /// The number of different tokens; 0 if and only if `tokens` is 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub vocabulary: usize,
}

/// Files of networks without text have no such fields, as before there were any.
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Default for SimpleUNet {
    /// Greyscale images, 64 channels, 8 groups, no condition.
    fn default() -> Self {
        Self { channels: 1, base: 64, groups: 8, classes: 0, context: 0, low_res: 0, tokens: 0, vocabulary: 0 }
    }
}

impl Config for SimpleUNet {
    conditioning_fields!(channels, classes, context, low_res, tokens, vocabulary);

    fn usual_side(&self) -> usize {
        28
    }

    fn divisor(&self) -> usize {
        self.low_res.max(4)
    }

    fn check(&self, op: &str) -> Result<()> {
        if ![0, 2, 4, 8].contains(&self.low_res) {
            bail!("{op}: low_res = {} must be 2, 4 or 8, or 0 for none", self.low_res)
        }
        fits(op, self.base, self.groups, (self.tokens > 0).then_some(HEADS))
    }

    fn build(&self, build: Builder) -> Result<Box<dyn Denoiser>> {
        Ok(Box::new(Layers::new(build, self)?))
    }
}

#[derive(Debug)]
struct Layers {
    time_embedding: TimeEmbedding,
    condition: ConditionEmbedding,
    text: Option<Text>,
    low_res: usize,
    conv_in: Conv2d,
    down1: ResBlock,
    downsample1: Conv2d,
    down2: ResBlock,
    downsample2: Conv2d,
    mid: ResBlock,
    upsample2: Conv2d,
    up2: ResBlock,
    upsample1: Conv2d,
    up1: ResBlock,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// The layers that only networks with text have.
#[derive(Debug)]
struct Text {
    encoder: TextEncoder,
    /// From the start token to the time embedding.
    to_time: Linear,
    down2: CrossAttention,
    mid: CrossAttention,
    up2: CrossAttention,
}

impl Text {
    fn new(mut b: Builder, net: &SimpleUNet) -> Result<Self> {
        let (width, groups) = (net.base, net.groups);
        let mut attention = |name, channels| CrossAttention::new(b.at(name), channels, width, groups, HEADS);
        Ok(Self {
            down2: attention("down2", 2 * net.base)?,
            mid: attention("mid", 4 * net.base)?,
            up2: attention("up2", 2 * net.base)?,
            encoder: TextEncoder::new(b.at("encoder"), net.conditioning(), width, HEADS)?,
            to_time: Linear::new(b.at("to_time"), width, 4 * net.base)?,
        })
    }
}

impl Layers {
    fn new(mut build: Builder, net: &SimpleUNet) -> Result<Self> {
        let SimpleUNet { channels, base, groups, low_res, .. } = *net;
        let inputs = if low_res > 0 { 2 * channels } else { channels };
        let time = 4 * base;
        let same = Geometry::same(3);
        let half = same.stride(2);
        let conv = |build: &mut Builder, name, inputs, outputs, geometry| {
            Conv2d::new(build.at(name), inputs, outputs, 3, geometry)
        };
        let block =
            |build: &mut Builder, name, inputs, outputs| ResBlock::new(build.at(name), inputs, outputs, time, groups);
        let b = &mut build;
        Ok(Self {
            time_embedding: TimeEmbedding::new(b.at("time_embedding"), base, time)?,
            condition: ConditionEmbedding::new(b, net.conditioning(), time)?,
            text: (net.tokens > 0).then(|| Text::new(b.at("text"), net)).transpose()?,
            low_res,
            conv_in: conv(b, "conv_in", inputs, base, same)?,
            down1: block(b, "down1", base, base)?,
            downsample1: conv(b, "downsample1", base, base, half)?,
            down2: block(b, "down2", base, 2 * base)?,
            downsample2: conv(b, "downsample2", 2 * base, 2 * base, half)?,
            mid: block(b, "mid", 2 * base, 4 * base)?,
            upsample2: conv(b, "upsample2", 4 * base, 2 * base, same)?,
            up2: block(b, "up2", 4 * base, 2 * base)?,
            upsample1: conv(b, "upsample1", 2 * base, base, same)?,
            up1: block(b, "up1", 2 * base, base)?,
            norm_out: GroupNorm::new(b.at("norm_out"), groups, base, Activation::Silu)?,
            conv_out: Conv2d::zeros(b.at("conv_out"), base, channels, 3, same)?,
        })
    }
}

impl Layers {
    /// The low-resolution image upsampled to the size of `xt`.
    fn enlarged(&self, xt: &Tensor, condition: &Condition) -> Result<Tensor> {
        let Some(low_res) = &condition.low_res else {
            return xt.zeros_like();
        };
        let mut x = low_res.to_dtype(xt.dtype())?;
        while x.dim(2)? < xt.dim(2)? {
            x = upsample_nearest2x(&x)?;
        }
        Ok(x)
    }

    /// The output; if there is text, `attend` applies each cross-attention in turn.
    fn run(
        &self,
        xt: &Tensor,
        t: &[f64],
        condition: &Condition,
        mut attend: impl FnMut(&CrossAttention, &Tensor, &EncodedText) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut e = self.time_embedding.forward(t)?;
        e = self.condition.add(&e, condition)?;
        let text = match &self.text {
            Some(text) => {
                let encoded = text.encoder.forward(condition.tokens.as_ref(), t.len())?;
                e = (e + text.to_time.forward(&encoded.features.narrow(1, 0, 1)?.squeeze(1)?)?)?;
                Some((text, encoded))
            }
            None => None,
        };
        let mut attended = |x: Tensor, block: fn(&Text) -> &CrossAttention| match &text {
            Some((text, encoded)) => attend(block(text), &x, encoded),
            None => Ok(x),
        };
        let x = match self.low_res {
            0 => xt.clone(),
            _ => concat_channels(xt, &self.enlarged(xt, condition)?)?,
        };
        let s1 = self.down1.forward(&self.conv_in.forward(&x)?, &e)?;
        let s2 = attended(self.down2.forward(&self.downsample1.forward(&s1)?, &e)?, |text| &text.down2)?;
        // Assigning instead of shadowing frees tensors as soon as they are no longer needed.
        let mut x = attended(self.mid.forward(&self.downsample2.forward(&s2)?, &e)?, |text| &text.mid)?;
        x = self.upsample2.forward_upsampled(&x)?;
        x = concat_channels(&x, &s2)?;
        drop(s2);
        x = attended(self.up2.forward(&x, &e)?, |text| &text.up2)?;
        x = self.upsample1.forward_upsampled(&x)?;
        x = concat_channels(&x, &s1)?;
        drop(s1);
        x = self.up1.forward(&x, &e)?;
        self.conv_out.forward(&self.norm_out.forward(&x)?)
    }
}

impl Denoiser for Layers {
    fn forward(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        self.run(xt, t, condition, |block, x, text| block.forward(x, &text.features, &text.mask))
    }

    fn attention_maps(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Vec<Tensor>> {
        let mut maps = Vec::new();
        self.run(xt, t, condition, |block, x, text| {
            maps.push(block.weights(x, &text.features, &text.mask)?);
            block.forward(x, &text.features, &text.mask)
        })?;
        Ok(maps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::unet::Network;
    use candle_core::Device;

    /// Both a low-resolution image and a class change the output; a missing part has the effect of zeros.
    #[test]
    fn labels_and_low_resolution_images_can_be_combined() -> Result<()> {
        let small = SimpleUNet { channels: 3, base: 4, groups: 2, classes: 2, low_res: 4, ..Default::default() };
        let net = Network::new(small, &mut Rng::new(1), &Device::Cpu)?;
        if let Some(last) = net.parameters().get("conv_out.weight") {
            last.set(&last.ones_like()?)?;
        }
        let (x, low) = (Rng::new(2).randn((2, 3, 8, 8), &Device::Cpu)?, Rng::new(3).randn((2, 3, 2, 2), &Device::Cpu)?);
        let output = |condition: &Condition| -> Result<Vec<f32>> {
            let output = net.predict(&x, &[5.0, 900.0], condition)?;
            output.flatten_all()?.to_vec1()
        };
        let low_res = Condition::low_res(low.clone());
        let labels = Condition::labels([0, 1]);
        let both = labels.clone().and(low_res.clone());
        let none = output(&Condition::none())?;
        let all = [&both, &labels, &low_res].map(|it| output(it).unwrap());
        for (i, one) in all.iter().enumerate() {
            assert!(*one != none && all[..i].iter().all(|other| one != other));
        }
        assert_eq!(none, output(&Condition::low_res(low.zeros_like()?))?);
        assert_eq!(none, output(&both.dropped(&[true, true])?)?);
        Ok(())
    }
}
