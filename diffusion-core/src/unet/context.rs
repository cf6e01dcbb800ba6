//! The network for 16×16 sprites.

use super::{
    Condition, Conditioning, Config, Denoiser, EmbedFC, Residual, ResidualConvBlock, UnetDown, UnetUp, WIDEST,
};
use crate::nn::{Builder, Conv2d, ConvTranspose2d, GroupNorm};
use crate::ops::{Activation, Geometry, avg_pool2d, concat_channels, gelu, scale_shift};
use candle_core::{DType, Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// The groups of the group norms.
const GROUPS: usize = 8;
/// The heights and widths of the images that it can halve and restore.
const SIDES: [usize; 4] = [16, 20, 24, 28];
/// The side of the window of the average pooling in the bottleneck.
const POOL: usize = 4;

/// The U-Net of a well-known course on 16×16 sprites. Its blocks of convolution, batch norm and GELU reduce the image
/// to one vector and expand it again. On the way up, the features are multiplied by the context embedding, and the time
/// embedding is added.
///
/// The default has 1.5 million parameters (1,480,771). Names, shapes and arithmetic are those of the course's PyTorch
/// network, so its `.pth` files can be loaded: [`Network::load_pth`](super::Network::load_pth). There are two
/// peculiarities. Its first block adds a random convolution that is redrawn at each call; here its mean, 0, is added
/// ([`Residual::Scaled`](super::Residual::Scaled)). For images above 16×16 the bottleneck averages only the top left
/// 4×4 of the lowest resolution (7×7 for 28×28); the MNIST network that it is derived from averages all of it.
///
/// The time embedding receives t / `timesteps`. The batch norms use batch statistics in training and running statistics
/// in evaluation ([`BatchNorm2d`](crate::nn::BatchNorm2d)), so after only a few training steps `predict` still differs
/// from `forward`.
///
/// ```
/// use diffusion_core::{candle::{Device, Tensor}, rng::Rng, unet::{Condition, ContextUnet, Network}};
/// let (mut rng, small) = (Rng::new(42), ContextUnet { n_feat: 8, ..Default::default() });
/// let net = Network::new(small, &mut rng, &Device::Cpu)?;
/// let xt = rng.randn((2, 3, 16, 16), &Device::Cpu)?;
/// let human_and_food = Tensor::new(&[[1f32, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.6, 0.0, 0.0]], &Device::Cpu)?;
/// assert_eq!(net.predict(&xt, &[0.0, 499.0], &Condition::context(human_and_food))?.dims(), &[2, 3, 16, 16]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContextUnet {
    /// The number of image channels; at most 1024.
    pub channels: usize,
    /// The channels at full and half resolution; twice as many at a quarter. A multiple of 8, 8 … 1024.
    pub n_feat: usize,
    /// The length of the context vector, including one-hot labels; 0 for none.
    pub n_cfeat: usize,
    /// The number of classes for conditioning. The label is a one-hot vector at the start of the context.
    pub classes: usize,
    /// The height and width of the images: 16, 20, 24 or 28.
    pub height: usize,
    /// T, the divisor of the time; at least 1.
    #[serde(alias = "steps")]
    pub timesteps: usize,
}

impl Default for ContextUnet {
    /// Colour sprites of 16×16, 64 features, a context of five elements, 500 time steps.
    fn default() -> Self {
        Self { channels: 3, n_feat: 64, n_cfeat: 5, classes: 0, height: 16, timesteps: 500 }
    }
}

impl Config for ContextUnet {
    fn conditioning(&self) -> Conditioning {
        Conditioning {
            channels: self.channels,
            classes: self.classes,
            context: self.n_cfeat.saturating_sub(self.classes),
            ..Default::default()
        }
    }

    fn set_conditioning(&mut self, conditioning: Conditioning) {
        self.channels = conditioning.channels;
        self.classes = conditioning.classes;
        self.n_cfeat = conditioning.classes + conditioning.context;
    }

    fn usual_side(&self) -> usize {
        self.height
    }

    fn divisor(&self) -> usize {
        self.height
    }

    fn check(&self, op: &str) -> Result<()> {
        let Self { n_feat, n_cfeat, classes, height, timesteps, .. } = *self;
        if n_feat == 0 || !n_feat.is_multiple_of(GROUPS) || n_feat > WIDEST {
            bail!("{op}: n_feat = {n_feat} must be a multiple of {GROUPS} in {GROUPS} … {WIDEST}")
        }
        if classes > n_cfeat {
            bail!("{op}: n_cfeat = {n_cfeat} must be at least classes = {classes}")
        }
        if !SIDES.contains(&height) {
            bail!("{op}: height = {height} must be 16, 20, 24 or 28")
        }
        if timesteps == 0 {
            bail!("{op}: timesteps = 0 must be at least 1")
        }
        Ok(())
    }

    fn check_size(&self, op: &str, height: usize, width: usize) -> Result<()> {
        let (side, known) = (self.height, SIDES.contains(&self.height));
        if known && (height, width) == (side, side) {
            return Ok(());
        }
        let (sides, near) = match known {
            true => (format!("{side}×{side}"), side),
            false => {
                let fitting = SIDES.into_iter().rfind(|near| *near <= height.min(width));
                ("16×16, 20×20, 24×24 or 28×28".to_owned(), fitting.unwrap_or(SIDES[0]))
            }
        };
        bail!(
            "{op}: the image is {height}×{width}, but the network is for {sides}. Resize it to {near}×{near} (--side \
             {near}, or `side = {near}` under [data] in a file)"
        )
    }

    fn build(&self, build: Builder) -> Result<Box<dyn Denoiser>> {
        Ok(Box::new(Layers::new(build, *self)?))
    }
}

#[derive(Debug)]
struct Layers {
    net: ContextUnet,
    init_conv: ResidualConvBlock,
    down1: UnetDown,
    down2: UnetDown,
    timeembed1: EmbedFC,
    timeembed2: EmbedFC,
    /// `None` without a context.
    contextembed: Option<[EmbedFC; 2]>,
    up0: (ConvTranspose2d, GroupNorm),
    up1: UnetUp,
    up2: UnetUp,
    out: (Conv2d, GroupNorm, Conv2d),
}

impl Layers {
    fn new(mut build: Builder, net: ContextUnet) -> Result<Self> {
        let ContextUnet { channels, n_feat: n, n_cfeat, .. } = net;
        let (b, same, relu) = (&mut build, Geometry::same(3), Activation::Relu);
        // Upsamples to the size of the lowest resolution.
        let side = net.height / 4;
        Ok(Self {
            net,
            init_conv: ResidualConvBlock::new(b.at("init_conv"), channels, n, Residual::Scaled)?,
            down1: UnetDown::new(b.at("down1"), n, n)?,
            down2: UnetDown::new(b.at("down2"), n, 2 * n)?,
            timeembed1: EmbedFC::new(b.at("timeembed1"), 1, 2 * n)?,
            timeembed2: EmbedFC::new(b.at("timeembed2"), 1, n)?,
            contextembed: match n_cfeat {
                0 => None,
                k => Some([EmbedFC::new(b.at("contextembed1"), k, 2 * n)?, EmbedFC::new(b.at("contextembed2"), k, n)?]),
            },
            up0: {
                let mut b = b.at("up0");
                let spread = Geometry::default().stride(side);
                (
                    ConvTranspose2d::new(b.at(0), 2 * n, 2 * n, side, spread)?,
                    GroupNorm::new(b.at(1), GROUPS, 2 * n, relu)?,
                )
            },
            up1: UnetUp::new(b.at("up1"), 4 * n, n)?,
            up2: UnetUp::new(b.at("up2"), 2 * n, n)?,
            out: {
                let mut b = b.at("out");
                (
                    Conv2d::new(b.at(0), 2 * n, n, 3, same)?,
                    GroupNorm::new(b.at(1), GROUPS, n, relu)?,
                    Conv2d::zeros(b.at(3), n, channels, 3, same)?,
                )
            },
        })
    }

    /// (B, K): the labels as one-hot vectors, then the context.
    fn context(&self, condition: &Condition, batch: usize, dtype: DType, device: &Device) -> Result<Tensor> {
        let (k, classes) = (self.net.n_cfeat, self.net.classes);
        let mut one_hot = vec![0f32; batch * classes];
        for (i, label) in condition.labels.iter().flatten().enumerate() {
            label.iter().for_each(|label| one_hot[i * classes + label] = 1.0);
        }
        let labels = match classes {
            0 => None,
            _ => Some(Tensor::from_vec(one_hot, (batch, classes), device)?.to_dtype(dtype)?),
        };
        let context = match &condition.context {
            _ if k == classes => None,
            Some(context) => Some(context.to_dtype(dtype)?),
            None => Some(Tensor::zeros((batch, k - classes), dtype, device)?),
        };
        let parts: Vec<Tensor> = labels.into_iter().chain(context).collect();
        Tensor::cat(&parts, 1)
    }
}

impl Denoiser for Layers {
    fn forward(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        let (dtype, device) = (xt.dtype(), xt.device());
        let time: Vec<f32> = t.iter().map(|t| *t as f32 / self.net.timesteps as f32).collect();
        let time = Tensor::from_vec(time, (t.len(), 1), device)?.to_dtype(dtype)?;
        // x · context + time, with one value of each for every channel of every image.
        let conditioned = |x: Tensor, stage: usize, embed: &EmbedFC| {
            let shift = embed.forward(&time)?;
            let scale = match &self.contextembed {
                None => shift.ones_like()?,
                Some(embed) => embed[stage].forward(&self.context(condition, t.len(), dtype, device)?)?,
            };
            scale_shift(&x, &scale, &shift)
        };

        let x = self.init_conv.forward(xt)?;
        let down1 = self.down1.forward(&x)?;
        let down2 = self.down2.forward(&down1)?;
        let vector = gelu(&avg_pool2d(&down2, POOL)?)?;

        let (spread, norm) = &self.up0;
        let up1 = norm.forward(&spread.forward(&vector)?)?;
        let up2 = self.up1.forward(&conditioned(up1, 0, &self.timeembed1)?, &down2)?;
        let up3 = self.up2.forward(&conditioned(up2, 1, &self.timeembed2)?, &down1)?;
        let (first, norm, last) = &self.out;
        let mut y = concat_channels(&up3, &x)?;
        y = first.forward(&y)?;
        last.forward(&norm.forward(&y)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::unet::Network;

    fn small() -> ContextUnet {
        ContextUnet { n_feat: 8, ..Default::default() }
    }

    /// The network for 28×28 differs only in `up0`: 7×7 instead of 4×4.
    #[test]
    fn parameters_match_the_pytorch_network() -> Result<()> {
        let count = |net| {
            let net = Network::new(net, &mut Rng::new(0), &Device::Cpu)?;
            Ok::<_, candle_core::Error>(net.parameters().count())
        };
        let large = ContextUnet { height: 28, ..Default::default() };
        assert_eq!(count(ContextUnet::default())?, 1_480_771);
        assert_eq!(count(large)?, 1_480_771 + 128 * 128 * (49 - 16));
        Ok(())
    }

    /// A label is a one-hot context, and a missing label a context of zeros.
    #[test]
    fn a_label_is_a_one_hot_context() -> Result<()> {
        let with = |classes| {
            let net = ContextUnet { classes, ..small() };
            let net = Network::new(net, &mut Rng::new(1), &Device::Cpu)?;
            let last = net.parameters().get("out.3.weight").unwrap();
            last.set(&Rng::new(2).randn_like(last)?)?;
            Ok::<_, candle_core::Error>(net)
        };
        let (labels, contexts) = (with(5)?, with(0)?);
        let xt = Rng::new(3).randn((2, 3, 16, 16), &Device::Cpu)?;
        let condition = Condition::labels([2, 0]).dropped(&[false, true])?;
        let context = Tensor::new(&[[0f32, 0.0, 1.0, 0.0, 0.0], [0.0; 5]], &Device::Cpu)?;
        let by_label = labels.predict(&xt, &[3.0, 4.0], &condition)?;
        let by_context = contexts.predict(&xt, &[3.0, 4.0], &Condition::context(context))?;
        let free = contexts.predict(&xt, &[3.0, 4.0], &Condition::none())?;
        let numbers = |x: &Tensor, i| x.get(i)?.flatten_all()?.to_vec1::<f32>();
        for i in 0..2 {
            assert_eq!(numbers(&by_label, i)?, numbers(&by_context, i)?);
        }
        assert_eq!(numbers(&by_label, 1)?, numbers(&free, 1)?);
        assert_ne!(numbers(&by_label, 0)?, numbers(&free, 0)?);
        Ok(())
    }
}
