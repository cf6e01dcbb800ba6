//! The network of Hugging Face's diffusers.

use super::network::{Architecture, Blueprint, Layers, Takes};
use super::{Condition, WIDEST, divisible, waves};
use crate::nn::{Builder, Conv2d, Embedding, GroupNorm, Linear, Probe};
use crate::ops::{Activation, Geometry, attention, concat_channels, silu};
use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// `UNet2DModel` of [diffusers](https://huggingface.co/docs/diffusers/api/models/unet2d): parameters, arithmetic and fields
/// have the same names there, so that [`Model::load`](crate::model::Model::load) reads what it has written and
/// [`Model::save_diffusers`](crate::model::Model::save_diffusers) writes what it reads.
///
/// Each level has `layers_per_block` residual blocks on the way down and one more on the way up, with attention after each if
/// its type says so; between levels a convolution of stride 2, or doubled pixels and a convolution. All that was seen on the
/// way down, after every block, comes in again on the way up.
///
/// Height and width must be divisible by 2 to the number of levels less one. With the default, 2.7 million parameters
/// (2,736,099).
///
/// ```
/// use diffusion_core::{candle::Device, rng::Rng, unet::{Condition, Network, UNet2DModel}};
/// let small = UNet2DModel { block_out_channels: vec![8, 8, 16], ..Default::default() };
/// let mut rng = Rng::new(42);
/// let net = Network::new(small, &mut rng, &Device::Cpu)?;
/// let xt = rng.randn((2, 3, 32, 32), &Device::Cpu)?;
/// assert_eq!(net.predict(&xt, &[0, 999], &Condition::None)?.dims(), &[2, 3, 32, 32]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet2DModel {
    /// The height and width of the images that it was trained on.
    pub sample_size: Option<SampleSize>,
    /// The image's channels: 1 for grey, 3 for RGB; at most 1024.
    pub in_channels: usize,
    /// The same.
    pub out_channels: usize,
    /// Whether the image is brought from 0 … 1 to −1 … 1 first.
    pub center_input_sample: bool,
    /// What is taken from the number of frequencies of the time embedding before it divides.
    pub freq_shift: usize,
    /// Whether the cosines come first.
    pub flip_sin_to_cos: bool,
    /// The levels on the way down.
    pub down_block_types: Vec<DownBlockType>,
    /// What is in the middle, if anything.
    pub mid_block_type: Option<MidBlockType>,
    /// The levels on the way up: the first is the coarsest.
    pub up_block_types: Vec<UpBlockType>,
    /// The channels of each level, the finest first; the first is even, and all are 4 … 1024.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level on the way down; 1 … 16.
    pub layers_per_block: usize,
    /// The answers of the blocks in the middle are divided by this.
    pub mid_block_scale_factor: f64,
    /// The zeros around an image before it is halved: 1 on each side, or with 0 one row below and one column to the right.
    pub downsample_padding: usize,
    /// The activation of the residual blocks.
    pub act_fn: ActFn,
    /// The channels of a head of attention; None for one head.
    pub attention_head_dim: Option<usize>,
    /// The groups of every group norm; they divide all channels.
    pub norm_num_groups: usize,
    /// The groups of the norm of the attention in the middle; None for as many as the others have, or for no norm with
    /// [`TimeScaleShift::ScaleShift`].
    pub attn_norm_num_groups: Option<usize>,
    /// What is added to the variance in every group norm.
    pub norm_eps: f64,
    /// How the time enters a residual block.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Whether there is attention in the middle.
    pub add_attention: bool,
    /// How many vectors for classes there are; None for none.
    pub num_class_embeds: Option<usize>,
    /// Whether the last of these vectors means no class in particular, as guidance needs one. Ours: diffusers does not say.
    pub null_class: bool,
}

/// The height and width of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SampleSize {
    /// Both.
    Side(usize),
    /// Height, width.
    HeightWidth([usize; 2]),
}

/// A level on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockType {
    /// Residual blocks.
    DownBlock2D,
    /// Each followed by attention.
    AttnDownBlock2D,
}

/// What is in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MidBlockType {
    /// A residual block, attention, a residual block.
    UNetMidBlock2D,
}

/// A level on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockType {
    /// Residual blocks.
    UpBlock2D,
    /// Each followed by attention.
    AttnUpBlock2D,
}

/// How the time enters a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// Added before the second norm.
    Default,
    /// As a scale and a shift after it.
    ScaleShift,
}

/// An activation under diffusers' name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActFn {
    /// SiLU.
    #[serde(alias = "swish")]
    Silu,
    /// GELU, the exact one.
    Gelu,
    /// ReLU.
    Relu,
}

impl From<ActFn> for Activation {
    fn from(it: ActFn) -> Self {
        match it {
            ActFn::Silu => Self::Silu,
            ActFn::Gelu => Self::Gelu,
            ActFn::Relu => Self::Relu,
        }
    }
}

impl Default for UNet2DModel {
    /// Images in colour, three levels of 32, 64 and 128 channels with attention at the coarsest, 8 groups, one block a level; the
    /// rest as diffusers has it.
    fn default() -> Self {
        use {DownBlockType::*, UpBlockType::*};
        Self {
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            freq_shift: 0,
            flip_sin_to_cos: true,
            down_block_types: vec![DownBlock2D, DownBlock2D, AttnDownBlock2D],
            mid_block_type: Some(MidBlockType::UNetMidBlock2D),
            up_block_types: vec![AttnUpBlock2D, UpBlock2D, UpBlock2D],
            block_out_channels: vec![32, 64, 128],
            layers_per_block: 1,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            act_fn: ActFn::Silu,
            attention_head_dim: Some(8),
            norm_num_groups: 8,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeScaleShift::Default,
            add_attention: true,
            num_class_embeds: None,
            null_class: false,
        }
    }
}

impl From<UNet2DModel> for Architecture {
    fn from(it: UNet2DModel) -> Self {
        Self::UNet2DModel(it)
    }
}

impl UNet2DModel {
    /// How often it halves an image.
    fn halvings(&self) -> u32 {
        self.block_out_channels.len().saturating_sub(1) as u32
    }

    /// The width of the time's vector.
    fn time(&self) -> usize {
        4 * self.block_out_channels[0]
    }

    /// The heads of attention over so many channels.
    fn heads(&self, channels: usize) -> usize {
        channels / self.attention_head_dim.unwrap_or(channels)
    }

    /// The groups of the norm of the attention in the middle.
    fn mid_groups(&self) -> Option<usize> {
        self.attn_norm_num_groups
            .or(match self.resnet_time_scale_shift {
                TimeScaleShift::Default => Some(self.norm_num_groups),
                TimeScaleShift::ScaleShift => None,
            })
    }

    /// Which levels have attention on the way down, and on the way up.
    fn attends(&self) -> [Vec<bool>; 2] {
        let down = self.down_block_types.iter();
        let up = self.up_block_types.iter();
        [
            down.map(|it| *it == DownBlockType::AttnDownBlock2D)
                .collect(),
            up.map(|it| *it == UpBlockType::AttnUpBlock2D).collect(),
        ]
    }
}

impl Blueprint for UNet2DModel {
    fn takes(&self) -> Takes {
        let embeds = self.num_class_embeds.unwrap_or(0);
        Takes {
            channels: self.in_channels,
            classes: embeds.saturating_sub(usize::from(self.null_class)),
            context: 0,
        }
    }

    fn usual_side(&self) -> usize {
        match self.sample_size {
            Some(SampleSize::Side(side) | SampleSize::HeightWidth([side, _])) => side,
            None => 32,
        }
    }

    fn set_takes(&mut self, takes: Takes) {
        (self.in_channels, self.out_channels) = (takes.channels, takes.channels);
        self.null_class = takes.classes > 0;
        self.num_class_embeds = self.null_class.then_some(takes.classes + 1);
    }

    fn check(&self) -> Result<()> {
        let op = "UNet2DModel";
        self.takes().check(op)?;
        let widths = &self.block_out_channels;
        let levels = widths.len();
        let (down, up) = (self.down_block_types.len(), self.up_block_types.len());
        if !(1..=10).contains(&levels) || [down, up] != [levels; 2] {
            bail!(
                "{op}: {levels} block_out_channels, {down} down_block_types and {up} up_block_types; there must be equally many, \
                 1 … 10"
            )
        }
        if let Some(width) = widths.iter().find(|w| !(4..=WIDEST).contains(*w)) {
            bail!("{op}: block_out_channels = {width} must be in 4 … {WIDEST}")
        }
        if !widths[0].is_multiple_of(2) {
            bail!(
                "{op}: block_out_channels = {}, the first, must be even",
                widths[0]
            )
        }
        let groups = self.norm_num_groups;
        if let Some(width) = widths.iter().find(|w| !w.is_multiple_of(groups)) {
            bail!("{op}: norm_num_groups = {groups} does not divide block_out_channels = {width}")
        }
        let last = widths[levels - 1];
        if let Some(groups) = self.mid_groups().filter(|g| !last.is_multiple_of(*g)) {
            bail!(
                "{op}: attn_norm_num_groups = {groups} does not divide the {last} channels of the middle"
            )
        }
        if let Some(dim) = self.attention_head_dim {
            let [down, up] = self.attends();
            let attends = |i: usize| down[i] || up[levels - 1 - i] || i == levels - 1;
            let mut wide = widths.iter().enumerate();
            if let Some((_, width)) = wide.find(|(i, w)| attends(*i) && !w.is_multiple_of(dim)) {
                bail!(
                    "{op}: attention_head_dim = {dim} does not divide the {width} channels of a level with attention"
                )
            }
        }
        for (field, fits, range) in [
            (
                "layers_per_block",
                (1..=16).contains(&self.layers_per_block),
                "1 … 16",
            ),
            ("downsample_padding", self.downsample_padding <= 1, "0 or 1"),
            (
                "freq_shift",
                self.freq_shift < widths[0] / 2,
                "below half of the first block_out_channels",
            ),
            (
                "norm_eps",
                self.norm_eps > 0.0 && self.norm_eps < 1.0,
                "in (0, 1)",
            ),
            (
                "mid_block_scale_factor",
                self.mid_block_scale_factor.is_finite() && self.mid_block_scale_factor != 0.0,
                "a number other than 0",
            ),
            (
                "out_channels",
                self.out_channels == self.in_channels,
                "as in_channels; variances are not learned here",
            ),
            (
                "num_class_embeds",
                self.num_class_embeds
                    .is_none_or(|n| n > usize::from(self.null_class)),
                "at least one class",
            ),
        ] {
            if !fits {
                bail!("{op}: {field} must be {range}")
            }
        }
        Ok(())
    }

    fn check_size(&self, height: usize, width: usize) -> Result<()> {
        // Of a configuration that was only read, there may be any number of levels.
        self.check()?;
        divisible("UNet2DModel", height, width, 1 << self.halvings())
    }

    fn build(&self, build: Builder) -> Result<Box<dyn Layers>> {
        Ok(Box::new(Parts::new(build, self)?))
    }
}

/// A group norm with the network's eps.
fn norm(
    build: Builder,
    net: &UNet2DModel,
    groups: usize,
    channels: usize,
    activation: Activation,
) -> Result<GroupNorm> {
    let mut norm = GroupNorm::new(build, groups, channels, activation)?;
    norm.eps = net.norm_eps;
    Ok(norm)
}

/// Norm → activation → convolution, twice, with the time in between and the input added at the end.
#[derive(Debug)]
struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    activation: Activation,
    time: TimeScaleShift,
    scale: f64,
}

impl Resnet {
    fn new(
        mut build: Builder,
        net: &UNet2DModel,
        inputs: usize,
        outputs: usize,
        scale: f64,
    ) -> Result<Self> {
        let (groups, activation) = (net.norm_num_groups, net.act_fn.into());
        let (same, time) = (Geometry::same(3), net.resnet_time_scale_shift);
        let projected = match time {
            TimeScaleShift::Default => outputs,
            TimeScaleShift::ScaleShift => 2 * outputs,
        };
        Ok(Self {
            norm1: norm(build.at("norm1"), net, groups, inputs, activation)?,
            conv1: Conv2d::new(build.at("conv1"), inputs, outputs, 3, same)?,
            time_emb_proj: Linear::new(build.at("time_emb_proj"), net.time(), projected)?,
            norm2: norm(build.at("norm2"), net, groups, outputs, activation)?,
            conv2: Conv2d::new(build.at("conv2"), outputs, outputs, 3, same)?,
            conv_shortcut: (inputs != outputs)
                .then(|| {
                    let build = build.at("conv_shortcut");
                    Conv2d::new(build, inputs, outputs, 1, Geometry::same(1))
                })
                .transpose()?,
            activation,
            time,
            scale,
        })
    }

    fn forward(&self, x: &Tensor, e: &Tensor) -> Result<Tensor> {
        let time = self.time_emb_proj.forward(&self.activation.apply(e)?)?;
        let h = self.norm1.forward(x)?;
        let h = match self.time {
            TimeScaleShift::Default => {
                let bias = time.broadcast_add(&self.conv1.bias)?;
                self.norm2
                    .forward(&self.conv1.forward_with_bias(&h, &bias)?)?
            }
            TimeScaleShift::ScaleShift => {
                let width = time.dim(1)? / 2;
                let (scale, shift) = (time.narrow(1, 0, width)?, time.narrow(1, width, width)?);
                let h = self.conv1.forward(&h)?;
                self.norm2.forward_scaled(&h, &scale, &shift)?
            }
        };
        let h = self.conv2.forward(&h)?;
        let y = match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x)? + h,
            None => x + h,
        };
        divided(y?, self.scale)
    }
}

/// x / by, where 1 costs nothing.
fn divided(x: Tensor, by: f64) -> Result<Tensor> {
    if by == 1.0 { Ok(x) } else { x / by }
}

/// Every pixel looks at every other.
#[derive(Debug)]
struct Attention {
    group_norm: Option<GroupNorm>,
    qkv: [Linear; 3],
    to_out: Linear,
    heads: usize,
    scale: f64,
    probe: Probe,
}

impl Attention {
    fn new(
        mut build: Builder,
        net: &UNet2DModel,
        channels: usize,
        groups: Option<usize>,
        scale: f64,
    ) -> Result<Self> {
        let mut linear = |name| Linear::new(build.at(name), channels, channels);
        let (qkv, to_out) = (
            [linear("to_q")?, linear("to_k")?, linear("to_v")?],
            linear("to_out.0")?,
        );
        Ok(Self {
            group_norm: groups
                .map(|groups| {
                    let build = build.at("group_norm");
                    norm(build, net, groups, channels, Activation::None)
                })
                .transpose()?,
            qkv,
            to_out,
            heads: net.heads(channels),
            scale,
            probe: build.probe(),
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normed = match &self.group_norm {
            Some(norm) => norm.forward(x)?,
            None => x.clone(),
        };
        let pixels = normed.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let [q, k, v] = &self.qkv;
        let (q, k, v) = (
            q.forward(&pixels)?,
            k.forward(&pixels)?,
            v.forward(&pixels)?,
        );
        let y = attention(&q, &k, &v, self.heads)?;
        // Each query meets each key, and each weight a value.
        let kind = || format!("attention {}", self.heads);
        self.probe.saw(kind, &[], &y, 2 * y.dim(1)?);
        let y = self.to_out.forward(&y)?;
        divided((x + y.transpose(1, 2)?.reshape(x.shape())?)?, self.scale)
    }
}

/// The blocks of a resolution, with attention after each or none, and the convolution to the next resolution if there is one.
#[derive(Debug)]
struct Level {
    resnets: Vec<Resnet>,
    attentions: Vec<Attention>,
    resample: Option<Conv2d>,
}

impl Level {
    /// With a block for each number of channels that comes in.
    fn new(
        mut build: Builder,
        net: &UNet2DModel,
        inputs: &[usize],
        outputs: usize,
        attends: bool,
        resample: Option<(&str, Geometry)>,
    ) -> Result<Self> {
        let groups = Some(net.norm_num_groups);
        let mut level = Self {
            resnets: Vec::new(),
            attentions: Vec::new(),
            resample: None,
        };
        for (i, inputs) in inputs.iter().enumerate() {
            let at = build.at(format!("resnets.{i}"));
            level
                .resnets
                .push(Resnet::new(at, net, *inputs, outputs, 1.0)?);
            if attends {
                let at = build.at(format!("attentions.{i}"));
                level
                    .attentions
                    .push(Attention::new(at, net, outputs, groups, 1.0)?);
            }
        }
        if let Some((name, geometry)) = resample {
            let at = build.at(name);
            level.resample = Some(Conv2d::new(at, outputs, outputs, 3, geometry)?);
        }
        Ok(level)
    }

    fn block(&self, i: usize, x: &Tensor, e: &Tensor) -> Result<Tensor> {
        let y = self.resnets[i].forward(x, e)?;
        match self.attentions.get(i) {
            Some(attention) => attention.forward(&y),
            None => Ok(y),
        }
    }
}

/// A residual block, attention if there is any, and a residual block.
#[derive(Debug)]
struct Middle {
    resnets: [Resnet; 2],
    attention: Option<Attention>,
}

#[derive(Debug)]
struct Parts {
    net: UNet2DModel,
    linear_1: Linear,
    linear_2: Linear,
    class_embedding: Option<Embedding>,
    conv_in: Conv2d,
    down: Vec<Level>,
    mid: Option<Middle>,
    up: Vec<Level>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Parts {
    fn new(mut build: Builder, net: &UNet2DModel) -> Result<Self> {
        let (widths, time, same) = (&net.block_out_channels, net.time(), Geometry::same(3));
        let (levels, layers) = (widths.len(), net.layers_per_block);
        let [down_attends, up_attends] = net.attends();
        let b = &mut build;
        let halve = match net.downsample_padding {
            0 => Geometry::default().stride(2),
            _ => same.stride(2),
        };
        let mut down = Vec::new();
        // The channels of all that is seen on the way down.
        let mut seen = vec![widths[0]];
        for i in 0..levels {
            let (before, width) = (widths[i.saturating_sub(1)], widths[i]);
            let inputs: Vec<usize> = (0..layers)
                .map(|j| if j == 0 { before } else { width })
                .collect();
            let halve = (i + 1 < levels).then_some(("downsamplers.0.conv", halve));
            seen.resize(seen.len() + layers + usize::from(halve.is_some()), width);
            let at = b.at(format!("down_blocks.{i}"));
            down.push(Level::new(at, net, &inputs, width, down_attends[i], halve)?);
        }
        let last = widths[levels - 1];
        let mid = match net.mid_block_type {
            None => None,
            Some(MidBlockType::UNetMidBlock2D) => {
                let (mut b, scale) = (b.at("mid_block"), net.mid_block_scale_factor);
                let mut resnet = |i| {
                    let at = b.at(format!("resnets.{i}"));
                    Resnet::new(at, net, last, last, scale)
                };
                let resnets = [resnet(0)?, resnet(1)?];
                let attention = net.add_attention.then(|| {
                    let at = b.at("attentions.0");
                    Attention::new(at, net, last, net.mid_groups(), scale)
                });
                Some(Middle {
                    resnets,
                    attention: attention.transpose()?,
                })
            }
        };
        let (mut up, mut before) = (Vec::new(), last);
        for i in 0..levels {
            let width = widths[levels - 1 - i];
            let mut inputs = Vec::new();
            for _ in 0..=layers {
                inputs.push(before + seen.pop().unwrap_or(0));
                before = width;
            }
            let double = (i + 1 < levels).then_some(("upsamplers.0.conv", same));
            let at = b.at(format!("up_blocks.{i}"));
            up.push(Level::new(at, net, &inputs, width, up_attends[i], double)?);
        }
        let (groups, first) = (net.norm_num_groups, widths[0]);
        Ok(Self {
            linear_1: Linear::new(b.at("time_embedding.linear_1"), first, time)?,
            linear_2: Linear::new(b.at("time_embedding.linear_2"), time, time)?,
            class_embedding: net
                .num_class_embeds
                .map(|n| Embedding::new(b.at("class_embedding"), n, time))
                .transpose()?,
            conv_in: Conv2d::new(b.at("conv_in"), net.in_channels, first, 3, same)?,
            conv_norm_out: norm(b.at("conv_norm_out"), net, groups, first, Activation::Silu)?,
            conv_out: Conv2d::zeros(b.at("conv_out"), first, net.out_channels, 3, same)?,
            net: net.clone(),
            down,
            mid,
            up,
        })
    }

    /// Time and class as a vector.
    fn embedded(&self, t: &[usize], condition: &Condition) -> Result<Tensor> {
        let (weight, net) = (&self.linear_1.weight, &self.net);
        let waves = waves(
            t,
            net.block_out_channels[0],
            net.freq_shift,
            net.flip_sin_to_cos,
        );
        let waves = waves?
            .to_device(weight.device())?
            .to_dtype(weight.dtype())?;
        let e = self
            .linear_2
            .forward(&silu(&self.linear_1.forward(&waves)?)?)?;
        let Some(table) = &self.class_embedding else {
            return Ok(e);
        };
        let null = net.null_class.then(|| table.weight.dims()[0] - 1);
        let told: Vec<Option<usize>> = match condition {
            Condition::Labels(labels) => labels.clone(),
            _ => vec![None; t.len()],
        };
        let ids: Option<Vec<usize>> = told.into_iter().map(|label| label.or(null)).collect();
        match ids {
            Some(ids) => e + table.forward(&ids)?,
            None => bail!(
                "UNet2DModel: it must be told the class of every image; it was not trained without, so that there is no guidance \
                 away from that"
            ),
        }
    }
}

impl Layers for Parts {
    fn forward(&self, xt: &Tensor, t: &[usize], condition: &Condition) -> Result<Tensor> {
        let e = self.embedded(t, condition)?;
        let mut x = match self.net.center_input_sample {
            true => xt.affine(2.0, -1.0)?,
            false => xt.clone(),
        };
        x = self.conv_in.forward(&x)?;
        let mut seen = vec![x.clone()];
        for level in &self.down {
            for i in 0..level.resnets.len() {
                x = level.block(i, &x, &e)?;
                seen.push(x.clone());
            }
            if let Some(halve) = &level.resample {
                if self.net.downsample_padding == 0 {
                    x = x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?;
                }
                x = halve.forward(&x)?;
                seen.push(x.clone());
            }
        }
        if let Some(Middle {
            resnets: [first, second],
            attention,
        }) = &self.mid
        {
            x = first.forward(&x, &e)?;
            if let Some(attention) = attention {
                x = attention.forward(&x)?;
            }
            x = second.forward(&x, &e)?;
        }
        for level in &self.up {
            for i in 0..level.resnets.len() {
                if let Some(seen) = seen.pop() {
                    x = concat_channels(&x, &seen)?;
                }
                x = level.block(i, &x, &e)?;
            }
            if let Some(double) = &level.resample {
                x = double.forward_upsampled(&x)?;
            }
        }
        self.conv_out.forward(&self.conv_norm_out.forward(&x)?)
    }
}
