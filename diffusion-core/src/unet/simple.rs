//! The network of the first notebooks.

use super::network::{Architecture, Blueprint, Layers, Takes};
use super::{Condition, ConditionEmbedding, ResBlock, TimeEmbedding, divisible, fits};
use crate::nn::{Builder, Conv2d, GroupNorm};
use crate::ops::{Activation, Geometry, concat_channels, upsample_nearest2x};
use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// A U-Net of three resolutions with one [`ResBlock`] each on the way down, in the middle and on the way up: for 28×28,
/// 28 → 14 → 7 → 14 → 28. It can be told classes, or a context, which join the time; or be shown a reduced image, which
/// stands beside x_t, enlarged, so that it learns to give back what was lost
/// ([SR3, Saharia et al. 2021](https://arxiv.org/abs/2104.07636), section 2.3).
///
/// With the default, 2.6 million parameters (2,620,545). Height and width must be divisible by 4.
///
/// ```
/// use diffusion_core::{candle::Device, rng::Rng, unet::{Condition, Network, SimpleUNet}};
/// let (mut rng, small) = (Rng::new(42), SimpleUNet { base: 8, ..Default::default() });
/// let net = Network::new(small, &mut rng, &Device::Cpu)?;
/// let xt = rng.randn((2, 1, 28, 28), &Device::Cpu)?;
/// assert_eq!(net.forward(&xt, &[0, 999], &Condition::None)?.dims(), &[2, 1, 28, 28]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimpleUNet {
    /// The image's channels: 1 for grey, 3 for RGB; at most 1024.
    pub channels: usize,
    /// The network's channels at full resolution; twice as many at half, four times at a quarter. Even, 4 … 1024.
    pub base: usize,
    /// The groups of every group norm; they divide `base`.
    pub groups: usize,
    /// How many classes it can be told; 0 for none.
    pub classes: usize,
    /// How many numbers of context it can be told, if not classes; 0 for none.
    pub context: usize,
    /// By which factor the image is reduced that it is shown, if it is told nothing: 2, 4 or 8; 0 for none.
    pub reduced: usize,
}

impl Default for SimpleUNet {
    /// Grey images, 64 channels, 8 groups, no condition.
    fn default() -> Self {
        Self {
            channels: 1,
            base: 64,
            groups: 8,
            classes: 0,
            context: 0,
            reduced: 0,
        }
    }
}

impl From<SimpleUNet> for Architecture {
    fn from(it: SimpleUNet) -> Self {
        Self::SimpleUNet(it)
    }
}

impl Blueprint for SimpleUNet {
    fn takes(&self) -> Takes {
        Takes {
            channels: self.channels,
            classes: self.classes,
            context: self.context,
        }
    }

    fn usual_side(&self) -> usize {
        28
    }

    fn set_takes(&mut self, takes: Takes) {
        (self.channels, self.classes, self.context) =
            (takes.channels, takes.classes, takes.context);
    }

    fn check(&self) -> Result<()> {
        self.takes().check("SimpleUNet")?;
        if ![0, 2, 4, 8].contains(&self.reduced) {
            bail!(
                "SimpleUNet: reduced = {} must be 2, 4 or 8, or 0 for none",
                self.reduced
            )
        }
        if self.reduced > 0 && self.classes + self.context > 0 {
            bail!(
                "SimpleUNet: reduced = {}, classes = {} and context = {}; with a reduced image it is told nothing else",
                self.reduced,
                self.classes,
                self.context
            )
        }
        fits("SimpleUNet", self.base, self.groups, None)
    }

    fn check_size(&self, height: usize, width: usize) -> Result<()> {
        divisible("SimpleUNet", height, width, self.reduced.max(4))
    }

    fn build(&self, build: Builder) -> Result<Box<dyn Layers>> {
        Ok(Box::new(Parts::new(build, self)?))
    }
}

#[derive(Debug)]
struct Parts {
    time_embedding: TimeEmbedding,
    condition: ConditionEmbedding,
    reduced: usize,
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

impl Parts {
    fn new(mut build: Builder, net: &SimpleUNet) -> Result<Self> {
        let SimpleUNet {
            channels,
            base,
            groups,
            reduced,
            ..
        } = *net;
        let shown = if reduced > 0 { 2 * channels } else { channels };
        let time = 4 * base;
        let same = Geometry::same(3);
        let half = same.stride(2);
        let conv = |build: &mut Builder, name, inputs, outputs, geometry| {
            Conv2d::new(build.at(name), inputs, outputs, 3, geometry)
        };
        let block = |build: &mut Builder, name, inputs, outputs| {
            ResBlock::new(build.at(name), inputs, outputs, time, groups)
        };
        let b = &mut build;
        Ok(Self {
            time_embedding: TimeEmbedding::new(b.at("time_embedding"), base, time)?,
            condition: ConditionEmbedding::new(b, net.takes(), time)?,
            reduced,
            conv_in: conv(b, "conv_in", shown, base, same)?,
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

impl Parts {
    /// The reduced image at the size of `xt`.
    fn enlarged(&self, xt: &Tensor, condition: &Condition) -> Result<Tensor> {
        let Condition::Reduced(small) = condition else {
            return xt.zeros_like();
        };
        let mut x = small.to_dtype(xt.dtype())?;
        while x.dim(2)? < xt.dim(2)? {
            x = upsample_nearest2x(&x)?;
        }
        Ok(x)
    }
}

impl Layers for Parts {
    fn forward(&self, xt: &Tensor, t: &[usize], condition: &Condition) -> Result<Tensor> {
        let e = self.time_embedding.forward(t)?;
        let (x, e) = if self.reduced > 0 {
            (concat_channels(xt, &self.enlarged(xt, condition)?)?, e)
        } else {
            (xt.clone(), self.condition.add(&e, condition)?)
        };
        let s1 = self.down1.forward(&self.conv_in.forward(&x)?, &e)?;
        let s2 = self.down2.forward(&self.downsample1.forward(&s1)?, &e)?;
        let x = self.mid.forward(&self.downsample2.forward(&s2)?, &e)?;
        let x = self.upsample2.forward_upsampled(&x)?;
        let x = self.up2.forward(&concat_channels(&x, &s2)?, &e)?;
        let x = self.upsample1.forward_upsampled(&x)?;
        let x = self.up1.forward(&concat_channels(&x, &s1)?, &e)?;
        self.conv_out.forward(&self.norm_out.forward(&x)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::unet::Network;
    use candle_core::{DType, Device};

    #[test]
    fn it_has_the_parameters_of_the_pytorch_network() -> Result<()> {
        let net = Network::new(SimpleUNet::default(), &mut Rng::new(0), &Device::Cpu)?;
        assert_eq!(net.params().count(), 2_620_545);
        Ok(())
    }

    /// A reduced image changes the answer; none is the same as one of zeros.
    #[test]
    fn it_sees_the_reduced_image() -> Result<()> {
        let small = SimpleUNet {
            channels: 3,
            base: 4,
            groups: 2,
            reduced: 4,
            ..Default::default()
        };
        let net = Network::new(small, &mut Rng::new(1), &Device::Cpu)?;
        if let Some(last) = net.params().get("conv_out.weight") {
            last.set(&last.ones_like()?)?;
        }
        let (x, low) = (
            Rng::new(2).randn((2, 3, 8, 8), &Device::Cpu)?,
            Rng::new(3).randn((2, 3, 2, 2), &Device::Cpu)?,
        );
        let answer = |told: &Condition| -> Result<Vec<f32>> {
            net.predict(&x, &[5, 900], told)?.flatten_all()?.to_vec1()
        };
        let shown = answer(&Condition::Reduced(low.clone()))?;
        assert_eq!(shown.len(), 2 * 3 * 64);
        assert_ne!(shown, answer(&Condition::None)?);
        assert_eq!(
            answer(&Condition::None)?,
            answer(&Condition::Reduced(low.zeros_like()?))?
        );
        for (net, wants) in [
            (
                SimpleUNet {
                    reduced: 3,
                    ..small
                },
                "reduced = 3 must be 2, 4 or 8",
            ),
            (
                SimpleUNet {
                    classes: 2,
                    ..small
                },
                "reduced = 4, classes = 2",
            ),
        ] {
            let failed = Network::new(net, &mut Rng::new(1), &Device::Cpu).unwrap_err();
            assert!(failed.to_string().contains(wants), "{failed}");
        }
        Ok(())
    }

    #[test]
    fn wrong_arguments_are_named() -> Result<()> {
        let small = SimpleUNet {
            base: 4,
            groups: 2,
            ..Default::default()
        };
        let net = Network::new(small, &mut Rng::new(1), &Device::Cpu)?;
        let image = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let fail = |shape: &[usize], t: &[usize]| -> Result<String> {
            Ok(net
                .forward(&image(shape)?, t, &Condition::None)
                .unwrap_err()
                .to_string())
        };
        let config = |channels, base, groups| {
            let architecture = SimpleUNet {
                channels,
                base,
                groups,
                ..Default::default()
            };
            Network::new(architecture, &mut Rng::new(1), &Device::Cpu)
                .unwrap_err()
                .to_string()
        };
        for (message, wants) in [
            (
                fail(&[2, 1, 28, 30], &[1, 2])?,
                "SimpleUNet: an image of 28×30; height and width are halved 2 times, so they must be divisible by 4",
            ),
            (
                fail(&[2, 3, 8, 8], &[1, 2])?,
                "simple-unet: xt has shape [2, 3, 8, 8]; the network is for images of 1 channels",
            ),
            (
                fail(&[2, 1, 8, 8], &[1])?,
                "xt has shape [2, 1, 8, 8] and t [1]",
            ),
            (fail(&[1, 8, 8], &[1])?, "xt has shape [1, 8, 8]"),
            (config(0, 64, 8), "channels = 0"),
            (config(1, 2, 1), "base = 2"),
            (config(1, 9, 3), "base = 9"),
            (config(1, usize::MAX - 1, 2), "base = "),
            (config(usize::MAX, 64, 8), "channels = "),
            (config(1, 12, 8), "groups = 8 does not divide base = 12"),
            (config(1, 12, 0), "groups = 0"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
