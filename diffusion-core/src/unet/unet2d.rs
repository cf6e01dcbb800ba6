//! The network of Hugging Face diffusers.

mod layers;

use super::{Conditioning, Config, Denoiser, WIDEST, divisible};
use crate::nn::Builder;
use crate::ops::Activation;
use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

/// The `UNet2DModel` of [diffusers](https://huggingface.co/docs/diffusers/api/models/unet2d), with the same parameters,
/// arithmetic and fields. [`Model::load`](crate::model::Model::load) reads the files of diffusers, and
/// [`Model::save_diffusers`](crate::model::Model::save_diffusers) writes files for it.
///
/// Each level has `layers_per_block` residual blocks on the way down and one more on the way up, each followed by
/// attention if the type of the level has it. Between the levels there is a convolution with stride 2, or
/// nearest-neighbour upsampling and a convolution. Every block on the way down has a skip connection.
///
/// For n levels, height and width must be divisible by 2^(n−1). The default has 2.7 million parameters (2,736,099).
///
/// ```
/// use diffusion_core::{candle::Device, rng::Rng, unet::{Condition, Network, UNet2DModel}};
/// let small = UNet2DModel { block_out_channels: vec![8, 8, 16], ..Default::default() };
/// let mut rng = Rng::new(42);
/// let net = Network::new(small, &mut rng, &Device::Cpu)?;
/// let xt = rng.randn((2, 3, 32, 32), &Device::Cpu)?;
/// assert_eq!(net.predict(&xt, &[0.0, 999.0], &Condition::none())?.dims(), &[2, 3, 32, 32]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet2DModel {
    /// The height and width of the training images.
    pub sample_size: Option<SampleSize>,
    /// The number of image channels: 1 for greyscale, 3 for RGB; at most 1024.
    pub in_channels: usize,
    /// The number of output channels, equal to `in_channels`.
    pub out_channels: usize,
    /// Whether the input is first scaled from 0 … 1 to −1 … 1.
    pub center_input_sample: bool,
    /// s in the frequencies 10000^(−i / (h − s)) of the time embedding.
    pub freq_shift: usize,
    /// Whether the cosines come first.
    pub flip_sin_to_cos: bool,
    /// The levels on the way down.
    pub down_block_types: Vec<DownBlockType>,
    /// The bottleneck; `None` for none.
    pub mid_block_type: Option<MidBlockType>,
    /// The levels on the way up, the lowest resolution first.
    pub up_block_types: Vec<UpBlockType>,
    /// The channels of each level, the highest resolution first; the first is even, and all are 4 … 1024.
    pub block_out_channels: Vec<usize>,
    /// The residual blocks of a level on the way down; 1 … 16.
    pub layers_per_block: usize,
    /// The divisor of the outputs of the blocks in the bottleneck.
    pub mid_block_scale_factor: f64,
    /// The zero padding before downsampling: 1 on each side, or with 0 one row below and one column to the right.
    pub downsample_padding: usize,
    /// The activation of the residual blocks.
    pub act_fn: ActFn,
    /// The channels of an attention head; `None` for one head.
    pub attention_head_dim: Option<usize>,
    /// The groups of every group norm; they divide all channels.
    pub norm_num_groups: usize,
    /// The groups of the attention's norm in the bottleneck; `None` for as many as the other norms, or for no norm with
    /// [`TimeScaleShift::ScaleShift`].
    pub attn_norm_num_groups: Option<usize>,
    /// The ε added to the variance in every group norm.
    pub norm_eps: f64,
    /// How the time embedding enters a residual block.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Whether there is attention in the bottleneck.
    pub add_attention: bool,
    /// The number of class embeddings; `None` for none.
    pub num_class_embeds: Option<usize>,
    /// Whether the last class embedding is the null class, which guidance needs. diffusers has no such field.
    pub null_class: bool,
}

/// The height and width of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SampleSize {
    /// The side of a square image.
    Side(usize),
    /// Height, width.
    HeightWidth([usize; 2]),
}

/// A level on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockType {
    /// Residual blocks without attention.
    DownBlock2D,
    /// Residual blocks, each followed by attention.
    AttnDownBlock2D,
}

/// The bottleneck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MidBlockType {
    /// A residual block, attention and a residual block.
    UNetMidBlock2D,
}

/// A level on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockType {
    /// Residual blocks without attention.
    UpBlock2D,
    /// Residual blocks, each followed by attention.
    AttnUpBlock2D,
}

/// How the time embedding enters a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// It is added before the second norm.
    Default,
    /// As a scale and a shift after the second norm.
    ScaleShift,
}

/// An activation, by its name in diffusers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActFn {
    /// SiLU.
    #[serde(alias = "swish")]
    Silu,
    /// GELU, in its exact form.
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
    /// Colour images, three levels of 32, 64 and 128 channels with attention at the lowest resolution, 8 groups, one
    /// block per level; otherwise diffusers' defaults.
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

impl UNet2DModel {
    /// How often an image is halved.
    fn halvings(&self) -> u32 {
        self.block_out_channels.len().saturating_sub(1) as u32
    }

    /// The width of the time embedding.
    fn time(&self) -> usize {
        4 * self.block_out_channels[0]
    }

    /// The attention heads for `channels` channels.
    fn heads(&self, channels: usize) -> usize {
        channels / self.attention_head_dim.unwrap_or(channels)
    }

    /// The groups of the attention's norm in the bottleneck.
    fn mid_groups(&self) -> Option<usize> {
        self.attn_norm_num_groups.or(match self.resnet_time_scale_shift {
            TimeScaleShift::Default => Some(self.norm_num_groups),
            TimeScaleShift::ScaleShift => None,
        })
    }

    /// The levels with attention on the way down and on the way up.
    fn attends(&self) -> [Vec<bool>; 2] {
        let down = self.down_block_types.iter();
        let up = self.up_block_types.iter();
        [
            down.map(|it| *it == DownBlockType::AttnDownBlock2D).collect(),
            up.map(|it| *it == UpBlockType::AttnUpBlock2D).collect(),
        ]
    }
}

impl Config for UNet2DModel {
    fn conditioning(&self) -> Conditioning {
        let embeds = self.num_class_embeds.unwrap_or(0);
        Conditioning {
            channels: self.in_channels,
            classes: embeds.saturating_sub(usize::from(self.null_class)),
            ..Default::default()
        }
    }

    fn usual_side(&self) -> usize {
        match self.sample_size {
            Some(SampleSize::Side(side) | SampleSize::HeightWidth([side, _])) => side,
            None => 32,
        }
    }

    fn set_conditioning(&mut self, conditioning: Conditioning) {
        (self.in_channels, self.out_channels) = (conditioning.channels, conditioning.channels);
        self.null_class = conditioning.classes > 0;
        self.num_class_embeds = self.null_class.then_some(conditioning.classes + 1);
    }

    fn divisor(&self) -> usize {
        1 << self.halvings()
    }

    fn check_size(&self, op: &str, height: usize, width: usize) -> Result<()> {
        // A configuration read from a file may have any number of levels.
        self.check(op)?;
        divisible(op, height, width, self.divisor())
    }

    fn check(&self, op: &str) -> Result<()> {
        let widths = &self.block_out_channels;
        let levels = widths.len();
        let (down, up) = (self.down_block_types.len(), self.up_block_types.len());
        if !(1..=10).contains(&levels) || [down, up] != [levels; 2] {
            bail!(
                "{op}: {levels} block_out_channels, {down} down_block_types and {up} up_block_types; their numbers \
                 must be equal, 1 … 10"
            )
        }
        if let Some(width) = widths.iter().find(|w| !(4..=WIDEST).contains(*w)) {
            bail!("{op}: block_out_channels = {width} must be in 4 … {WIDEST}")
        }
        if !widths[0].is_multiple_of(2) {
            bail!("{op}: block_out_channels = {}, the first, must be even", widths[0])
        }
        let groups = self.norm_num_groups;
        if let Some(width) = widths.iter().find(|w| !w.is_multiple_of(groups)) {
            bail!("{op}: norm_num_groups = {groups} does not divide block_out_channels = {width}")
        }
        let last = widths[levels - 1];
        if let Some(groups) = self.mid_groups().filter(|g| !last.is_multiple_of(*g)) {
            bail!("{op}: attn_norm_num_groups = {groups} does not divide the {last} channels of the bottleneck")
        }
        if let Some(dim) = self.attention_head_dim {
            let [down, up] = self.attends();
            let attends = |i: usize| down[i] || up[levels - 1 - i] || i == levels - 1;
            let mut wide = widths.iter().enumerate();
            if let Some((_, width)) = wide.find(|(i, w)| attends(*i) && !w.is_multiple_of(dim)) {
                bail!("{op}: attention_head_dim = {dim} does not divide the {width} channels of a level with attention")
            }
        }
        for (field, fits, range) in [
            ("layers_per_block", (1..=16).contains(&self.layers_per_block), "1 … 16"),
            ("downsample_padding", self.downsample_padding <= 1, "0 or 1"),
            ("freq_shift", self.freq_shift < widths[0] / 2, "below half of the first block_out_channels"),
            ("norm_eps", self.norm_eps > 0.0 && self.norm_eps < 1.0, "in (0, 1)"),
            (
                "mid_block_scale_factor",
                self.mid_block_scale_factor.is_finite() && self.mid_block_scale_factor != 0.0,
                "a number other than 0",
            ),
            ("out_channels", self.out_channels == self.in_channels, "equal to in_channels (no learned variances)"),
            (
                "num_class_embeds",
                self.num_class_embeds.is_none_or(|n| n > usize::from(self.null_class)),
                "at least one class",
            ),
        ] {
            if !fits {
                bail!("{op}: {field} must be {range}")
            }
        }
        Ok(())
    }

    fn build(&self, build: Builder) -> Result<Box<dyn Denoiser>> {
        Ok(Box::new(layers::Layers::new(build, self)?))
    }
}
