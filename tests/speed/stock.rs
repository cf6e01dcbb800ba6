//! The crate's networks as a user of candle would write them: with the operations and layers of candle and candle-nn alone.

use candle_nn::{Conv2d, Conv2dConfig, GroupNorm, Linear, VarBuilder, conv2d, group_norm, linear};
use diffusion_core::candle::{DType, Device, Module, Result, Tensor};
use diffusion_core::candle_nn;

/// (B,) time steps → (B, width): all sines, then all cosines.
fn sinusoidal(t: &Tensor, width: usize) -> Result<Tensor> {
    let half = width / 2;
    let slope = -10_000f64.ln() / (half - 1) as f64;
    let frequencies = (Tensor::arange(0, half as u32, t.device())?.to_dtype(DType::F32)? * slope)?.exp()?;
    let angles = t.to_dtype(DType::F32)?.unsqueeze(1)?.broadcast_mul(&frequencies.unsqueeze(0)?)?;
    Tensor::cat(&[angles.sin()?, angles.cos()?], 1)
}

fn conv(inputs: usize, outputs: usize, kernel: usize, stride: usize, vb: VarBuilder) -> Result<Conv2d> {
    let config = Conv2dConfig { padding: kernel / 2, stride, ..Default::default() };
    conv2d(inputs, outputs, kernel, config, vb)
}

struct ResBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    skip: Option<Conv2d>,
}

impl ResBlock {
    fn new(inputs: usize, outputs: usize, time: usize, vb: VarBuilder) -> Result<Self> {
        let skip = || conv(inputs, outputs, 1, 1, vb.pp("skip"));
        Ok(Self {
            norm1: group_norm(inputs.min(8), inputs, 1e-5, vb.pp("norm1"))?,
            conv1: conv(inputs, outputs, 3, 1, vb.pp("conv1"))?,
            time: linear(time, outputs, vb.pp("time"))?,
            norm2: group_norm(8, outputs, 1e-5, vb.pp("norm2"))?,
            conv2: conv(outputs, outputs, 3, 1, vb.pp("conv2"))?,
            skip: (inputs != outputs).then(skip).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor, e: &Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward(x)?.silu()?)?;
        let time = self.time.forward(&e.silu()?)?.unsqueeze(2)?.unsqueeze(3)?;
        let h = h.broadcast_add(&time)?;
        let h = self.conv2.forward(&self.norm2.forward(&h)?.silu()?)?;
        match &self.skip {
            Some(skip) => skip.forward(x)? + h,
            None => x + h,
        }
    }
}

pub struct SimpleUNet {
    base: usize,
    linear1: Linear,
    linear2: Linear,
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

impl SimpleUNet {
    pub fn new(base: usize, vb: VarBuilder) -> Result<Self> {
        let (b, time) = (base, 4 * base);
        let conv = |name, inputs, outputs, stride| conv(inputs, outputs, 3, stride, vb.pp(name));
        let block = |name, inputs, outputs| ResBlock::new(inputs, outputs, time, vb.pp(name));
        Ok(Self {
            base,
            linear1: linear(base, time, vb.pp("time_embedding.linear1"))?,
            linear2: linear(time, time, vb.pp("time_embedding.linear2"))?,
            conv_in: conv("conv_in", 1, b, 1)?,
            down1: block("down1", b, b)?,
            downsample1: conv("downsample1", b, b, 2)?,
            down2: block("down2", b, 2 * b)?,
            downsample2: conv("downsample2", 2 * b, 2 * b, 2)?,
            mid: block("mid", 2 * b, 4 * b)?,
            upsample2: conv("upsample2", 4 * b, 2 * b, 1)?,
            up2: block("up2", 4 * b, 2 * b)?,
            upsample1: conv("upsample1", 2 * b, b, 1)?,
            up1: block("up1", 2 * b, b)?,
            norm_out: group_norm(8, b, 1e-5, vb.pp("norm_out"))?,
            conv_out: conv("conv_out", b, 1, 1)?,
        })
    }

    pub fn forward(&self, xt: &Tensor, t: &[f64]) -> Result<Tensor> {
        let t: Vec<u32> = t.iter().map(|t| *t as u32).collect();
        let t = Tensor::new(t, &Device::Cpu)?;
        let e = self.linear1.forward(&sinusoidal(&t, self.base)?)?.silu()?;
        let e = self.linear2.forward(&e)?;
        let s1 = self.down1.forward(&self.conv_in.forward(xt)?, &e)?;
        let s2 = self.down2.forward(&self.downsample1.forward(&s1)?, &e)?;
        let x = self.mid.forward(&self.downsample2.forward(&s2)?, &e)?;
        let x = self.upsample2.forward(&upsample(&x)?)?;
        let x = self.up2.forward(&Tensor::cat(&[&x, &s2], 1)?, &e)?;
        let x = self.upsample1.forward(&upsample(&x)?)?;
        let x = self.up1.forward(&Tensor::cat(&[&x, &s1], 1)?, &e)?;
        self.conv_out.forward(&self.norm_out.forward(&x)?.silu()?)
    }
}

fn upsample(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    x.upsample_nearest2d(2 * h, 2 * w)
}
