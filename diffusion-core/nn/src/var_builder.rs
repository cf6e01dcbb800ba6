//! A bridge to the layers of candle-nn.

use super::{Builder, Init};
use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use std::sync::{Mutex, MutexGuard, PoisonError};

impl Builder<'_> {
    /// A `VarBuilder` for layers of candle-nn. Their parameters are initialised from the seeded generator, which candle
    /// does not support, and are trained, saved, loaded and averaged by name like those of diffusion-core's layers.
    ///
    /// In layers for evaluation they are constants without gradients. candle's batch
    /// norm is rejected, since it keeps copies of its running statistics; use [`BatchNorm2d`](super::BatchNorm2d).
    /// Layers without a gradient in candle, such as `LayerNorm` on contiguous tensors, are not trained here either.
    ///
    /// ```
    /// use diffusion_core::candle::{DType, Device};
    /// use diffusion_core::{candle_nn, nn::Parameters, rng::Rng};
    /// let (mut rng, mut parameters) = (Rng::new(42), Parameters::new(DType::F32, &Device::Cpu));
    /// let mut b = parameters.builder(&mut rng);
    /// let vb = b.var_builder();
    /// let conv = candle_nn::conv2d(1, 8, 3, Default::default(), vb.pp("conv"))?;
    /// drop(vb);
    /// assert_eq!(conv.weight().dims(), &[8, 1, 3, 3]);
    /// assert_eq!(parameters.names().collect::<Vec<_>>(), ["conv.weight", "conv.bias"]);
    /// # Ok::<(), diffusion_core::candle::Error>(())
    /// ```
    pub fn var_builder(&mut self) -> VarBuilder<'_> {
        let parameters = self.parameters();
        let (dtype, device) = (parameters.dtype(), parameters.device().clone());
        let bridge = Bridge(Mutex::new(self.here()));
        VarBuilder::from_backend(Box::new(bridge), dtype, device)
    }
}

/// Where a `VarBuilder` gets its tensors.
struct Bridge<'a>(Mutex<Builder<'a>>);

impl<'a> Bridge<'a> {
    /// The builder, if the requested type and device are those of the parameters.
    fn builder(&self, name: &str, dtype: DType, device: &Device) -> Result<MutexGuard<'_, Builder<'a>>> {
        let builder = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = builder.parameters();
        if ours.dtype() != dtype || !ours.device().same_device(device) {
            bail!(
                "parameter {name}: the VarBuilder was set to {dtype:?} on {device:?}, but the network has {:?} on \
                 {:?}; leave both as they are",
                ours.dtype(),
                ours.device()
            )
        }
        Ok(builder)
    }
}

impl SimpleBackend for Bridge<'_> {
    fn get(&self, shape: Shape, name: &str, init: candle_nn::Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut builder = self.builder(name, dtype, device)?;
        if name.ends_with("running_mean") || name.ends_with("running_var") {
            bail!(
                "parameter {name}: the batch norm of candle-nn keeps copies of its running statistics, so that they would be \
                 neither saved nor used to predict; use diffusion_core::nn::BatchNorm2d"
            )
        }
        let init = to_init(init, &shape);
        builder.param(name, shape, init)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut builder = self.builder(name, dtype, device)?;
        let Some(shape) = builder.stored(name).map(|tensor| tensor.shape().clone()) else {
            bail!("parameter {name} does not exist yet and cannot be created without its shape")
        };
        builder.param(name, shape, Init::Zeros)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        let builder = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        builder.stored(name).is_some()
    }
}

/// The equivalent initialisation for our generator.
pub(crate) fn to_init(init: candle_nn::Init, shape: &Shape) -> Init {
    let normal = |mean, std| Init::Gaussian { mean, std };
    let uniform = |low, high| Init::Uniform { low, high };
    match init {
        candle_nn::Init::Const(value) => Init::Constant(value),
        candle_nn::Init::Randn { mean, stdev } => normal(mean, stdev),
        candle_nn::Init::Uniform { lo, up } => uniform(lo, up),
        candle_nn::Init::Kaiming { dist, fan, non_linearity } => {
            let fan = fan.for_shape(shape).max(1) as f64;
            let std = non_linearity.gain() / fan.sqrt();
            let bound = 3f64.sqrt() * std;
            match dist {
                NormalOrUniform::Normal => normal(0.0, std),
                NormalOrUniform::Uniform => uniform(-bound, bound),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parameters;
    use diffusion_ops::rng::Rng;
    use std::collections::HashMap;

    fn layers(mut build: Builder) -> Result<candle_nn::Sequential> {
        let vb = build.var_builder();
        Ok(candle_nn::seq().add(candle_nn::linear(3, 4, vb.pp("first"))?).add(candle_nn::linear(
            4,
            2,
            vb.pp("second"),
        )?))
    }

    #[test]
    fn values_come_from_the_seed_or_the_file() -> Result<()> {
        use candle_nn::Module;
        let made = |seed| {
            let mut params = Parameters::new(DType::F32, &Device::Cpu);
            let layers = layers(params.builder(&mut Rng::new(seed)).at("part"))?;
            Ok::<_, candle_core::Error>((params, layers))
        };
        let ((a, net), (b, _), (c, _)) = (made(1)?, made(1)?, made(2)?);
        let names = ["first.weight", "first.bias", "second.weight", "second.bias"];
        let names: Vec<String> = names.map(|name| format!("part.{name}")).into();
        assert_eq!(a.names().collect::<Vec<_>>(), names);
        let weight = |p: &Parameters| p.get("part.first.weight").unwrap().to_vec2::<f32>();
        assert!(weight(&a)? == weight(&b)? && weight(&a)? != weight(&c)?);

        let x = Tensor::new(&[[1f32, -2.0, 0.5]], &Device::Cpu)?;
        let y = net.forward(&x)?;
        let gradients = (&y * 3.0)?.sqr()?.sum_all()?.backward()?;
        assert!(a.iter().all(|(_, var)| gradients.get(var).is_some()));
        let numbers = |y: Tensor| y.flatten_all()?.to_vec1::<f32>();
        let constant = layers(a.constants().at("part"))?.forward(&x)?;
        assert!(!constant.track_op());
        assert_eq!(numbers(constant)?, numbers(y.clone())?);
        let (values, mut loaded) = (a.values()?, Parameters::new(DType::F32, &Device::Cpu));
        let loaded = layers(loaded.builder_from(&values).at("part"))?;
        assert_eq!(numbers(loaded.forward(&x)?)?, numbers(y)?);
        let mut empty = Parameters::new(DType::F32, &Device::Cpu);
        let missing = layers(empty.builder_from(&HashMap::new()).at("part")).err();
        let missing = missing.map(|e| e.to_string()).unwrap_or_default();
        assert!(missing.contains("missing: part.first.weight"));
        Ok(())
    }

    #[test]
    fn errors_explain_what_is_not_supported() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F32, &Device::Cpu));
        let mut build = params.builder(&mut rng);
        let vb = build.var_builder();
        assert!(!vb.contains_tensor("w"));
        let (of_shape, wide) = (vb.get(3, "w")?, vb.to_dtype(DType::F64));
        assert!(vb.contains_tensor("w") && of_shape.is_variable());
        for (failed, wants) in [
            (vb.get(3, "w").unwrap_err(), "parameter w already exists"),
            (vb.get_unchecked("v").unwrap_err(), "v does not exist yet"),
            (wide.get(3, "u").unwrap_err(), "F64"),
            (candle_nn::batch_norm(2, 1e-5, vb.pp("n")).unwrap_err(), "nn::BatchNorm2d"),
        ] {
            assert!(failed.to_string().contains(wants), "{failed}");
        }
        drop((vb, wide));
        assert!(params.constants().var_builder().get_unchecked("w").is_ok());
        Ok(())
    }
}
