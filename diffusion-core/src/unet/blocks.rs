//! What the networks are made of: the time step as a vector, and the residual block that takes it in.

mod residual_conv;
mod resnet;
mod self_attention;

pub use residual_conv::{EmbedFC, Residual, ResidualConvBlock, UnetDown, UnetUp};
pub use resnet::ResnetBlock;
pub use self_attention::SelfAttention;

use super::Condition;
use super::network::Takes;
use crate::nn::{Builder, Conv2d, Embedding, GroupNorm, Linear};
use crate::ops::{Activation, Geometry, silu};
use candle_core::{DType, Device, Result, Tensor, bail};

/// The largest period of [`sinusoidal`], in units of 2π steps.
const LONGEST: f64 = 10_000.0;

/// A time step as sines and cosines of frequencies from 1 down to 1/10000
/// ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section 3.5; all sines first, as in the original DDPM's code).
///
/// For each t: sin(t f_0), …, sin(t f_{h−1}), cos(t f_0), …, cos(t f_{h−1}) with h = `width` / 2 and
/// f_i = 10000^(−i / (h − 1)). Computed in f32, as PyTorch networks do, and then converted to `dtype`.
///
/// # Shapes
/// `t` B time steps; the result is (B, `width`).
///
/// # Errors
/// `width` is odd or below 4.
///
/// ```
/// use diffusion_core::{candle::{DType, Device}, unet::sinusoidal};
/// let e = sinusoidal(&[0, 10], 4, DType::F32, &Device::Cpu)?.to_vec2::<f32>()?;
/// assert_eq!(e[0], [0.0, 0.0, 1.0, 1.0]);
/// for (value, want) in e[1].iter().zip([10f32.sin(), 0.001f32.sin(), 10f32.cos(), 0.001f32.cos()]) {
///     assert!((value - want).abs() < 1e-6);
/// }
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn sinusoidal(t: &[usize], width: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    if width < 4 || !width.is_multiple_of(2) {
        bail!("sinusoidal: width = {width} must be even and at least 4")
    }
    waves(t, width, 1, false)?
        .to_device(device)?
        .to_dtype(dtype)
}

/// [`sinusoidal`] on the CPU with frequencies 10000^(−i / (h − `shift`)), the cosines first if `flip`.
pub(super) fn waves(t: &[usize], width: usize, shift: usize, flip: bool) -> Result<Tensor> {
    let half = width / 2;
    let slope = -libm::log(LONGEST) as f32;
    let frequency = |i: usize| libm::expf(slope * i as f32 / (half - shift) as f32);
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let mut values = Vec::with_capacity(t.len() * width);
    for &t in t {
        let angles = frequencies.iter().map(|f| t as f32 * f);
        let at = values.len();
        values.extend(angles.clone().map(libm::sinf));
        values.extend(angles.map(libm::cosf));
        if flip {
            values[at..].rotate_left(half);
        }
    }
    Tensor::from_vec(values, (t.len(), width), &Device::Cpu)
}

/// The time step as a vector that the blocks take in: [`sinusoidal`] → linear → activation → linear.
#[derive(Clone, Debug)]
pub struct TimeEmbedding {
    /// How many sines and cosines.
    pub width: usize,
    /// From these to the hidden width.
    pub linear1: Linear,
    /// From the hidden width to the same.
    pub linear2: Linear,
    /// What is between them: SiLU unless said otherwise.
    pub activation: Activation,
}

impl TimeEmbedding {
    /// From `width` sines and cosines to `hidden` numbers; parts `linear1` and `linear2`.
    ///
    /// # Errors
    /// `width` is odd or below 4, or `hidden` is 0.
    pub fn new(mut build: Builder, width: usize, hidden: usize) -> Result<Self> {
        sinusoidal(&[], width, DType::F32, &Device::Cpu)?;
        Ok(Self {
            width,
            linear1: Linear::new(build.at("linear1"), width, hidden)?,
            linear2: Linear::new(build.at("linear2"), hidden, hidden)?,
            activation: Activation::Silu,
        })
    }

    /// # Shapes
    /// `t` B time steps; the result is (B, hidden).
    pub fn forward(&self, t: &[usize]) -> Result<Tensor> {
        let weight = &self.linear1.weight;
        let waves = sinusoidal(t, self.width, weight.dtype(), weight.device())?;
        let hidden = self.linear1.forward(&waves)?;
        self.linear2.forward(&self.activation.apply(&hidden)?)
    }
}

/// What the images should show as a vector, to be added to that of the time
/// ([Dhariwal & Nichol 2021](https://arxiv.org/abs/2105.05233), section 3): a learned one for each class and one for any
/// class, or of a context linear → SiLU → linear.
#[derive(Clone, Debug)]
pub enum ConditionEmbedding {
    /// For a network that is told nothing.
    None,
    /// K + 1 vectors: of each class, and of any.
    Labels(Embedding),
    /// From the context to the hidden width, and from that to the same.
    Context(Linear, Linear),
}

impl ConditionEmbedding {
    /// For what `takes` says, to vectors of `hidden` numbers: part `label_embedding`, or `context_embedding.linear1` and
    /// `.linear2`.
    ///
    /// # Errors
    /// `hidden` is 0.
    pub fn new(build: &mut Builder, takes: Takes, hidden: usize) -> Result<Self> {
        if takes.classes > 0 {
            let labels = build.at("label_embedding");
            return Embedding::new(labels, takes.classes + 1, hidden).map(Self::Labels);
        }
        if takes.context > 0 {
            let mut build = build.at("context_embedding");
            return Ok(Self::Context(
                Linear::new(build.at("linear1"), takes.context, hidden)?,
                Linear::new(build.at("linear2"), hidden, hidden)?,
            ));
        }
        Ok(Self::None)
    }

    /// `e` with the condition's vector added.
    ///
    /// # Shapes
    /// `e` (B, hidden); the result is as `e`.
    ///
    /// # Errors
    /// The condition is not for B images, or of another kind.
    pub fn add(&self, e: &Tensor, condition: &Condition) -> Result<Tensor> {
        match self.vector(e, condition)? {
            Some(vector) => e + vector,
            None => Ok(e.clone()),
        }
    }

    /// The condition's vector, if the network is told anything.
    ///
    /// # Shapes
    /// `e`, what it is for, and the result (B, hidden).
    ///
    /// # Errors
    /// The condition is not for B images, or of another kind.
    pub fn vector(&self, e: &Tensor, condition: &Condition) -> Result<Option<Tensor>> {
        let batch = e.dim(0)?;
        match (self, condition) {
            (Self::None, Condition::None) => Ok(None),
            (Self::Labels(table), Condition::None | Condition::Labels(_)) => {
                let any = table.weight.dim(0)? - 1;
                let ids: Vec<usize> = match condition {
                    Condition::Labels(labels) => labels.iter().map(|l| l.unwrap_or(any)).collect(),
                    _ => vec![any; batch],
                };
                table.forward(&ids).map(Some)
            }
            (Self::Context(linear1, linear2), Condition::None | Condition::Context(_)) => {
                let context = match condition {
                    Condition::Context(context) => context.to_dtype(e.dtype())?,
                    _ => Tensor::zeros((batch, linear1.weight.dim(1)?), e.dtype(), e.device())?,
                };
                linear2
                    .forward(&silu(&linear1.forward(&context)?)?)
                    .map(Some)
            }
            _ => bail!("condition: the network understands another kind than {condition:?}"),
        }
    }
}

/// Group norm → SiLU → convolution, twice, with the time added in between and the input added at the end.
///
/// h = conv1(silu(norm1(x))) + time(silu(e)); y = skip(x) + conv2(silu(norm2(h))), where skip is a 1×1 convolution if the
/// numbers of channels differ, and else nothing ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), appendix B).
#[derive(Clone, Debug)]
pub struct ResBlock {
    /// With SiLU, over the input channels.
    pub norm1: GroupNorm,
    /// 3×3, from input to output channels.
    pub conv1: Conv2d,
    /// From the time's vector to one number for each output channel.
    pub time: Linear,
    /// With SiLU, over the output channels.
    pub norm2: GroupNorm,
    /// 3×3, from output to output channels.
    pub conv2: Conv2d,
    /// 1×1, from input to output channels, if these differ in number.
    pub skip: Option<Conv2d>,
}

impl ResBlock {
    /// From `inputs` to `outputs` channels, with a time vector of `time` numbers; the norms have `groups` groups, the
    /// first at most one per channel. Parts `norm1`, `conv1`, `time`, `norm2`, `conv2`, and `skip` if there is one.
    ///
    /// # Errors
    /// `groups` does not divide the channels, or one of the numbers is 0.
    pub fn new(
        mut build: Builder,
        inputs: usize,
        outputs: usize,
        time: usize,
        groups: usize,
    ) -> Result<Self> {
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

    /// # Shapes
    /// `x` (B, inputs, H, W); `e` (B, time), from [`TimeEmbedding`]; the result is (B, outputs, H, W).
    ///
    /// # Errors
    /// Other shapes.
    pub fn forward(&self, x: &Tensor, e: &Tensor) -> Result<Tensor> {
        if x.dims().first() != e.dims().first() {
            bail!(
                "ResBlock: x has shape {:?} and e {:?}; the first dimensions, the batch, must be equal",
                x.dims(),
                e.dims()
            )
        }
        // The time is added as a bias that each image has of its own: no pass over the pixels.
        let time = self.time.forward(&silu(e)?)?;
        let bias = time.broadcast_add(&self.conv1.bias)?;
        let h = self.norm1.forward(x)?;
        let h = self.conv1.forward_with_bias(&h, &bias)?;
        let h = self.conv2.forward(&self.norm2.forward(&h)?)?;
        match &self.skip {
            Some(skip) => skip.forward(x)? + h,
            None => x + h,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Params;
    use crate::nn::gradients::{check, check_params, random};
    use crate::rng::Rng;

    #[test]
    fn frequencies_go_from_1_to_a_ten_thousandth() -> Result<()> {
        let e = sinusoidal(&[1, 500], 16, DType::F64, &Device::Cpu)?.to_vec2::<f64>()?;
        for (t, e) in [1.0, 500.0].into_iter().zip(e) {
            for i in 0..8 {
                let angle = t * 10_000f64.powf(-(i as f64) / 7.0);
                assert!((e[i] - angle.sin()).abs() < 1e-4, "sin, t = {t}, {i}");
                assert!((e[8 + i] - angle.cos()).abs() < 1e-4, "cos, t = {t}, {i}");
            }
        }
        for width in [0, 1, 2, 5] {
            let message = sinusoidal(&[1], width, DType::F32, &Device::Cpu).unwrap_err();
            assert!(message.to_string().contains(&format!("width = {width} ")));
        }
        Ok(())
    }

    #[test]
    fn the_time_has_the_right_gradients() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Params::new(DType::F64, &Device::Cpu));
        let time = TimeEmbedding::new(params.builder(&mut rng), 6, 5)?;
        check_params("time embedding", &params, || time.forward(&[0, 3, 999]))
    }

    /// With respect to the input, the time and every parameter, with and without the skip convolution.
    #[test]
    fn the_block_has_the_right_gradients() -> Result<()> {
        for (batch, inputs, outputs, groups) in [(1, 2, 2, 2), (3, 1, 2, 2), (1, 4, 2, 1)] {
            let what = format!("{inputs} → {outputs}");
            let (mut rng, mut params) = (Rng::new(1), Params::new(DType::F64, &Device::Cpu));
            let block = ResBlock::new(params.builder(&mut rng), inputs, outputs, 3, groups)?;
            let xe = [random(1, (batch, inputs, 3, 2))?, random(2, (batch, 3))?];
            check(&what, &xe, |x| block.forward(&x[0], &x[1]))?;
            check_params(&what, &params, || block.forward(&xe[0], &xe[1]))?;
        }
        Ok(())
    }

    #[test]
    fn wrong_shapes_are_named() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Params::new(DType::F64, &Device::Cpu));
        let mut build = params.builder(&mut rng);
        let block = ResBlock::new(build.at("a"), 2, 4, 3, 2)?;
        let (x, e) = (random(1, (2, 2, 3, 3))?, random(2, (1, 3))?);
        let message = block.forward(&x, &e).unwrap_err().to_string();
        let wants = "ResBlock: x has shape [2, 2, 3, 3] and e [1, 3]";
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        let message = ResBlock::new(build.at("b"), 2, 4, 3, 3)
            .unwrap_err()
            .to_string();
        let wants = "groups = 3 does not divide channels = 4";
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        Ok(())
    }
}
