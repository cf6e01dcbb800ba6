//! The layers of [`UNet2DModel`].

use super::{MidBlockType, TimeScaleShift, UNet2DModel};
use crate::nn::{Builder, Conv2d, Embedding, GroupNorm, Linear, Probe};
use crate::ops::{Activation, Geometry, add, attention, concat_channels, silu};
use crate::unet::{Condition, Denoiser, waves};
use candle_core::{Result, Tensor, bail};

/// A group norm with the network's ε.
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

/// A residual block: norm → activation → convolution, twice, with the time embedding in between.
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
    fn new(mut build: Builder, net: &UNet2DModel, inputs: usize, outputs: usize, scale: f64) -> Result<Self> {
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
                self.norm2.forward(&self.conv1.forward_with_bias(&h, &bias)?)?
            }
            TimeScaleShift::ScaleShift => {
                let width = time.dim(1)? / 2;
                let (scale, shift) = (time.narrow(1, 0, width)?, time.narrow(1, width, width)?);
                let h = self.conv1.forward(&h)?;
                self.norm2.forward_scaled(&h, &scale, &shift)?
            }
        };
        let h = self.conv2.forward(&h)?;
        match &self.conv_shortcut {
            Some(shortcut) => add(&shortcut.forward(x)?, &h, 1.0 / self.scale),
            None => add(x, &h, 1.0 / self.scale),
        }
    }
}

/// Self-attention, in which every pixel attends to every other.
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
    fn new(mut build: Builder, net: &UNet2DModel, channels: usize, groups: Option<usize>, scale: f64) -> Result<Self> {
        let mut linear = |name| Linear::new(build.at(name), channels, channels);
        let (qkv, to_out) = ([linear("to_q")?, linear("to_k")?, linear("to_v")?], linear("to_out.0")?);
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
        let (q, k, v) = (q.forward(&pixels)?, k.forward(&pixels)?, v.forward(&pixels)?);
        let y = attention(&q, &k, &v, self.heads)?;
        // Each query is multiplied with each key, and each weight with a value.
        let kind = || format!("attention {}", self.heads);
        self.probe.saw(kind, &[], &y, 2 * y.dim(1)?);
        let y = self.to_out.forward(&y)?;
        add(x, &y.transpose(1, 2)?.reshape(x.shape())?, 1.0 / self.scale)
    }
}

/// One resolution: its blocks, with or without attention after each, and the convolution to the next resolution, if
/// any.
#[derive(Debug)]
struct Level {
    resnets: Vec<Resnet>,
    attentions: Vec<Attention>,
    resample: Option<Conv2d>,
}

impl Level {
    /// Creates one block for each entry of `inputs`, its number of input channels.
    fn new(
        mut build: Builder,
        net: &UNet2DModel,
        inputs: &[usize],
        outputs: usize,
        attends: bool,
        resample: Option<(&str, Geometry)>,
    ) -> Result<Self> {
        let groups = Some(net.norm_num_groups);
        let mut level = Self { resnets: Vec::new(), attentions: Vec::new(), resample: None };
        for (i, inputs) in inputs.iter().enumerate() {
            let at = build.at(format!("resnets.{i}"));
            level.resnets.push(Resnet::new(at, net, *inputs, outputs, 1.0)?);
            if attends {
                let at = build.at(format!("attentions.{i}"));
                level.attentions.push(Attention::new(at, net, outputs, groups, 1.0)?);
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

/// The bottleneck: a residual block, attention if there is any, and a residual block.
#[derive(Debug)]
struct Middle {
    resnets: [Resnet; 2],
    attention: Option<Attention>,
}

#[derive(Debug)]
pub(super) struct Layers {
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

impl Layers {
    pub(super) fn new(mut build: Builder, net: &UNet2DModel) -> Result<Self> {
        let (widths, time, same) = (&net.block_out_channels, net.time(), Geometry::same(3));
        let (levels, layers) = (widths.len(), net.layers_per_block);
        let [down_attends, up_attends] = net.attends();
        let b = &mut build;
        let halve = match net.downsample_padding {
            0 => Geometry::default().stride(2),
            _ => same.stride(2),
        };
        let mut down = Vec::new();
        // The channels of the skip connections.
        let mut seen = vec![widths[0]];
        for i in 0..levels {
            let (before, width) = (widths[i.saturating_sub(1)], widths[i]);
            let inputs: Vec<usize> = (0..layers).map(|j| if j == 0 { before } else { width }).collect();
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
                Some(Middle { resnets, attention: attention.transpose()? })
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

    /// The sum of the time and class embeddings.
    fn embedded(&self, t: &[f64], condition: &Condition) -> Result<Tensor> {
        let (weight, net) = (&self.linear_1.weight, &self.net);
        let waves = waves(t, net.block_out_channels[0], net.freq_shift, net.flip_sin_to_cos);
        let waves = waves?.to_device(weight.device())?.to_dtype(weight.dtype())?;
        let e = self.linear_2.forward(&silu(&self.linear_1.forward(&waves)?)?)?;
        let Some(table) = &self.class_embedding else {
            return Ok(e);
        };
        let null = net.null_class.then(|| table.weight.dims()[0] - 1);
        let labels = condition.labels.clone();
        let labels = labels.unwrap_or_else(|| vec![None; t.len()]);
        let ids: Option<Vec<usize>> = labels.into_iter().map(|label| label.or(null)).collect();
        match ids {
            Some(ids) => e + table.forward(&ids)?,
            None => bail!("unet-2d-model: the network has no null class; give the class of every image"),
        }
    }
}

impl Denoiser for Layers {
    fn forward(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
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
        if let Some(Middle { resnets: [first, second], attention }) = &self.mid {
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
