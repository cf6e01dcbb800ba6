//! The batch normalisation layer, with running statistics.

use super::{Builder, Init, Probe};
use candle_core::{DType, Result, Tensor, Var, bail};
use diffusion_ops::ops::{Activation, Moments, batch_norm, batch_norm_with};

/// The weight of the batch statistics in the update of the running statistics, as in PyTorch.
const MOMENTUM: f64 = 0.1;

/// Batch normalisation with a weight and a bias per channel, followed by an activation.
///
/// In training mode it normalises with the statistics of the batch ([`batch_norm`]), and moves the running mean and
/// variance a tenth of the way towards them (with N − 1 in the denominator of the variance), as in PyTorch. In
/// evaluation mode, with [`Parameters::constants`](super::Parameters::constants), it uses the running statistics
/// ([`batch_norm_with`]).
#[derive(Clone, Debug)]
pub struct BatchNorm2d {
    /// (C,), initially 1.
    pub weight: Tensor,
    /// (C,), initially 0.
    pub bias: Tensor,
    /// (C,), initially 0; not trained.
    pub running_mean: Var,
    /// (C,), initially 1; not trained.
    pub running_var: Var,
    /// The ε added to the variance: 1e-5, PyTorch's default.
    pub eps: f64,
    /// The activation after the normalisation.
    pub activation: Activation,
    constant: bool,
    probe: Probe,
}

impl BatchNorm2d {
    /// Creates a layer for `channels` channels; parameters `weight` and `bias`, buffers `running_mean` and
    /// `running_var`.
    ///
    /// # Errors
    /// `channels` is 0, or the names are taken.
    pub fn new(mut build: Builder, channels: usize, activation: Activation) -> Result<Self> {
        Ok(Self {
            probe: build.probe(),
            weight: build.param("weight", channels, Init::Ones)?,
            bias: build.param("bias", channels, Init::Zeros)?,
            running_mean: build.buffer("running_mean", channels, Init::Zeros)?,
            running_var: build.buffer("running_var", channels, Init::Ones)?,
            eps: 1e-5,
            activation,
            constant: build.is_constant(),
        })
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// `x` (B, C, H, W); the result has the shape of `x`.
    ///
    /// # Errors
    /// See [`batch_norm`]. In training mode, also a batch with only one value per channel, which has no variance.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Self { weight, bias, eps, activation, .. } = self;
        let y = if self.constant {
            let moments = Moments {
                mean: self.running_mean.as_detached_tensor(),
                variance: self.running_var.as_detached_tensor(),
            };
            batch_norm_with(x, &moments, weight, bias, *eps, *activation)?
        } else {
            let (y, moments) = batch_norm(x, weight, bias, *eps, *activation)?;
            self.remember(&moments, x)?;
            y
        };
        let kind = || "batch norm".to_owned();
        self.probe.saw(kind, &[weight, bias], &y, 1);
        Ok(y)
    }

    fn remember(&self, moments: &Moments, x: &Tensor) -> Result<()> {
        let n = x.elem_count() / self.weight.elem_count();
        if n < 2 {
            bail!("BatchNorm2d: x has shape {:?}; in training mode it needs more than one value per channel", x.dims())
        }
        let unbiased = n as f64 / (n - 1) as f64;
        for (running, seen, factor) in
            [(&self.running_mean, &moments.mean, 1.0), (&self.running_var, &moments.variance, unbiased)]
        {
            // Metal does not support f64.
            let wide = match running.device().is_metal() {
                true => DType::F32,
                false => DType::F64,
            };
            let before = running.as_detached_tensor().to_dtype(wide)?;
            let seen = seen.to_dtype(wide)?;
            let after = ((before * (1.0 - MOMENTUM))? + (seen * (MOMENTUM * factor))?)?;
            running.set(&after.to_dtype(running.dtype())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parameters;
    use crate::gradients::random;
    use candle_core::Device;
    use diffusion_ops::rng::Rng;

    /// Computed by hand: the mean is 5/2, the variance 5/4, or 5/3 with N − 1.
    #[test]
    fn a_step_moves_the_running_statistics_a_tenth_of_the_way() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F32, &Device::Cpu));
        let norm = BatchNorm2d::new(params.builder(&mut rng).at("n"), 1, Activation::None)?;
        let x = Tensor::new(&[1f32, 2.0, 3.0, 4.0], &Device::Cpu)?.reshape((2, 1, 1, 2))?;
        let y = norm.forward(&x)?.flatten_all()?.to_vec1::<f32>()?;
        let rstd = 1.0 / (1.25f32 + 1e-5).sqrt();
        for (y, x) in y.iter().zip([-1.5, -0.5, 0.5, 1.5]) {
            assert!((y - x * rstd).abs() < 1e-6, "{y}");
        }
        let mean = norm.running_mean.to_vec1::<f32>()?[0];
        let variance = norm.running_var.to_vec1::<f32>()?[0];
        assert!((mean - 0.25).abs() < 1e-6, "{mean}");
        assert!((variance - (0.9 + 0.1 * 5.0 / 3.0)).abs() < 1e-6, "{variance}");
        Ok(())
    }

    /// Constants use the running statistics, also after these have changed, and do not change them.
    #[test]
    fn constants_use_the_running_statistics() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
        let norm = BatchNorm2d::new(params.builder(&mut rng).at("n"), 3, Activation::None)?;
        let constant = BatchNorm2d::new(params.constants().at("n"), 3, Activation::None)?;
        let x = ((random(1, (4, 3, 2, 2))? * 3.0)? + 2.0)?;
        let off = (constant.forward(&x)? - &x)?.abs()?.max_all()?;
        // Initially mean 0 and variance 1, up to ε.
        assert!(off.to_scalar::<f64>()? < 1e-4);
        for _ in 0..200 {
            norm.forward(&x)?;
        }
        let before = params.values()?;
        let y = constant.forward(&x)?;
        for (name, value) in params.values()? {
            let off = (value - &before[&name])?.abs()?.max_all()?;
            assert_eq!(off.to_scalar::<f64>()?, 0.0, "{name}");
        }
        // The same except for N − 1 = 15 instead of 16.
        let want = (norm.forward(&x)? * (15f64 / 16.0).sqrt())?;
        let off = (&y - want)?.abs()?.max_all()?;
        assert!(off.to_scalar::<f64>()? < 1e-5, "{off}");
        assert!(!y.track_op());
        Ok(())
    }

    #[test]
    fn one_number_has_no_variance() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F32, &Device::Cpu));
        let norm = BatchNorm2d::new(params.builder(&mut rng).at("n"), 2, Activation::None)?;
        let x = Tensor::zeros((1, 2, 1, 1), DType::F32, &Device::Cpu)?;
        let message = norm.forward(&x).unwrap_err().to_string();
        assert!(message.contains("x has shape [1, 2, 1, 1]"), "{message}");
        Ok(())
    }
}
