//! The time embedding.

use crate::nn::{Builder, Linear};
use crate::ops::Activation;
use candle_core::{DType, Device, Result, Tensor, bail};

/// The longest period of [`sinusoidal`], in units of 2π.
const LONGEST: f64 = 10_000.0;

/// Sinusoidal time embedding: sines and cosines with frequencies from 1 down to 1/10000
/// ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section 3.5; all sines first, as in the code of DDPM).
///
/// For each t: sin(t f_0), …, sin(t f_{h−1}), cos(t f_0), …, cos(t f_{h−1}) with h = `width` / 2 and f_i = 10000^(−i /
/// (h − 1)). It is computed in f32, as in PyTorch networks, and then converted to `dtype`.
///
/// # Shapes
/// `t` B times; the result is (B, `width`).
///
/// # Errors
/// `width` is odd or below 4, or a time is not finite.
///
/// ```
/// use diffusion_core::{candle::{DType, Device}, unet::sinusoidal};
/// let e = sinusoidal(&[0.0, 10.0], 4, DType::F32, &Device::Cpu)?.to_vec2::<f32>()?;
/// assert_eq!(e[0], [0.0, 0.0, 1.0, 1.0]);
/// for (value, want) in e[1].iter().zip([10f32.sin(), 0.001f32.sin(), 10f32.cos(), 0.001f32.cos()]) {
///     assert!((value - want).abs() < 1e-6);
/// }
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn sinusoidal(t: &[f64], width: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    if width < 4 || !width.is_multiple_of(2) {
        bail!("sinusoidal: width = {width} must be even and at least 4")
    }
    if let Some(t) = t.iter().find(|t| !t.is_finite()) {
        bail!("sinusoidal: t = {t} must be a finite number")
    }
    waves(t, width, 1, false)?.to_device(device)?.to_dtype(dtype)
}

/// [`sinusoidal`] on the CPU with frequencies 10000^(−i / (h − `shift`)), with the cosines first if `flip` is set.
pub(in crate::unet) fn waves(t: &[f64], width: usize, shift: usize, flip: bool) -> Result<Tensor> {
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

/// The time embedding that every block receives: [`sinusoidal`] → linear → activation → linear.
#[derive(Clone, Debug)]
pub struct TimeEmbedding {
    /// The number of sines and cosines.
    pub width: usize,
    /// From the sines and cosines to the hidden width.
    pub linear1: Linear,
    /// From the hidden width to the hidden width.
    pub linear2: Linear,
    /// The activation between the linear layers; SiLU by default.
    pub activation: Activation,
}

impl TimeEmbedding {
    /// Creates an embedding with `width` sines and cosines and `hidden` outputs; parts `linear1` and `linear2`.
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

    /// Applies the block.
    ///
    /// # Shapes
    /// `t` B times; the result is (B, hidden).
    pub fn forward(&self, t: &[f64]) -> Result<Tensor> {
        let weight = &self.linear1.weight;
        let waves = sinusoidal(t, self.width, weight.dtype(), weight.device())?;
        let hidden = self.linear1.forward(&waves)?;
        self.linear2.forward(&self.activation.apply(&hidden)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Parameters;
    use crate::nn::gradients::check_params;
    use crate::rng::Rng;

    #[test]
    fn frequencies_go_from_1_to_a_ten_thousandth() -> Result<()> {
        let e = sinusoidal(&[1.0, 500.0], 16, DType::F64, &Device::Cpu)?.to_vec2::<f64>()?;
        for (t, e) in [1.0, 500.0].into_iter().zip(e) {
            for i in 0..8 {
                let angle = t * 10_000f64.powf(-(i as f64) / 7.0);
                assert!((e[i] - angle.sin()).abs() < 1e-4, "sin, t = {t}, {i}");
                assert!((e[8 + i] - angle.cos()).abs() < 1e-4, "cos, t = {t}, {i}");
            }
        }
        for width in [0, 1, 2, 5] {
            let message = sinusoidal(&[1.0], width, DType::F32, &Device::Cpu).unwrap_err();
            assert!(message.to_string().contains(&format!("width = {width} ")));
        }
        let message = sinusoidal(&[0.5, f64::NAN], 4, DType::F32, &Device::Cpu).unwrap_err();
        assert!(message.to_string().contains("t = NaN must be"), "{message}");
        Ok(())
    }

    /// Interpolates between whole numbers, and equals the PyTorch parity tests to the bit at whole numbers.
    #[test]
    fn times_are_real_numbers() -> Result<()> {
        let e = sinusoidal(&[2.5], 4, DType::F32, &Device::Cpu)?.to_vec2::<f32>()?;
        let want = [2.5f32, 2.5 * 1e-4].map(|x| [x.sin(), x.cos()]);
        for (got, want) in e[0].iter().zip([want[0][0], want[1][0], want[0][1], want[1][1]]) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        Ok(())
    }

    #[test]
    fn the_time_has_the_right_gradients() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
        let time = TimeEmbedding::new(params.builder(&mut rng), 6, 5)?;
        check_params("time embedding", &params, || time.forward(&[0.0, 3.0, 999.0]))
    }
}
