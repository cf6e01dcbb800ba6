//! Variational autoencoders with one latent vector for each image, for comparison with diffusion.

use super::gan::layers::{Encoder, Generator, Sizes};
use super::vae::draw;
use super::{Noise, Objective, TrainingBatch};
use crate::data::Dataset;
use crate::nn::Parameters;
use crate::rng::Rng;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

/// The smallest mean squared error that the loss takes the logarithm of.
const LEAST_ERROR: f64 = 1e-6;

/// The sizes of a [`VectorVae`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VectorVaeConfig {
    /// The numbers of a latent, 1 … 4096.
    pub latent: usize,
    /// The channels at full resolution; twice as many at lower ones. 4 … 1024, divisible by 4.
    pub base: usize,
}

impl Default for VectorVaeConfig {
    fn default() -> Self {
        Self { latent: 64, base: 64 }
    }
}

/// A variational autoencoder ([Kingma & Welling 2014](https://arxiv.org/abs/1312.6114)) that generates images by itself: the
/// decoded latents of z ~ N(0, 1). Its decoder has the layers of the generator of a [`Gan`](super::Gan), its encoder those
/// of the discriminator.
///
/// The decoder's variance is the mean squared error of the batch, which needs no weight between the terms (σ-VAE,
/// [Rybkin et al. 2021](https://arxiv.org/abs/2006.13202)). In nats for each of the D numbers of an image:
///
/// L = ½ log mean (x − x̂)² + (1/D) Σ ½ (μ² + σ² − 1 − log σ²), with x̂ the decoded z = μ + σε and ε ~ N(0, 1).
///
/// [`Vae`](crate::latent::Vae), by contrast, keeps the positions of an image, and leaves it to a diffusion model to generate
/// latents.
#[derive(Debug)]
pub struct VectorVae {
    config: VectorVaeConfig,
    parameters: Parameters,
    /// Encoder and decoder, and the same layers without gradients.
    layers: (Encoder, Generator),
    constant: (Encoder, Generator),
}

impl VectorVae {
    /// Creates the networks with random weights from `seed`, for images like those of `data`.
    ///
    /// # Errors
    /// A value of `config` is out of range, or height or width of the images is not divisible by 4.
    pub fn new(config: VectorVaeConfig, seed: u64, data: &Dataset, device: &Device) -> Result<Self> {
        let sizes = Sizes { vector: config.latent, base: config.base, image: data.shape() };
        sizes.check("vae", "latent")?;
        let mut parameters = Parameters::new(DType::F32, device);
        let (rng, outputs) = (&mut Rng::new(seed), 2 * config.latent);
        let mut build = parameters.builder(rng);
        let layers = (Encoder::new(build.at("encoder"), sizes, outputs)?, Generator::new(build.at("decoder"), sizes)?);
        let mut build = parameters.constants();
        let constant =
            (Encoder::new(build.at("encoder"), sizes, outputs)?, Generator::new(build.at("decoder"), sizes)?);
        Ok(Self { config, parameters, layers, constant })
    }

    /// The mean latents of images.
    ///
    /// # Shapes
    /// `x` (B, C, H, W), in \[−1, 1\]; the result is (B, [`VectorVaeConfig::latent`]).
    ///
    /// # Errors
    /// The shape is wrong.
    pub fn encode(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.constant.0.forward(x)?.narrow(1, 0, self.config.latent)?)
    }

    /// The images of latents; those of z ~ N(0, 1) are samples.
    ///
    /// # Shapes
    /// `z` (B, [`VectorVaeConfig::latent`]); the result is (B, C, H, W), in \[−1, 1\].
    ///
    /// # Errors
    /// The shape is wrong.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        Ok(self.constant.1.forward(z)?)
    }

    /// The loss for ε, which has the shape of a latent.
    fn loss_of(&self, x: &Tensor, eps: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>) -> Result<Tensor> {
        let (latent, (encoder, decoder)) = (self.config.latent, &self.layers);
        let encoded = encoder.forward(x)?;
        let (mean, log_variance) = (encoded.narrow(1, 0, latent)?, encoded.narrow(1, latent, latent)?);
        let (z, kl) = draw(&mean, &log_variance, &eps(&mean)?)?;
        let error = (decoder.forward(&z)? - x)?.sqr()?.mean_all()?.maximum(LEAST_ERROR)?;
        Ok(((error.log()? / 2.0)? + (kl.sum_all()? / x.elem_count() as f64)?)?)
    }
}

impl Objective for VectorVae {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn loss(&mut self, batch: &TrainingBatch, noise: &mut Noise) -> Result<Tensor> {
        self.loss_of(batch.images(), |like| noise.randn_like(like))
    }

    fn validation_loss(&mut self, batch: &TrainingBatch, rng: &mut Rng) -> Result<Option<f64>> {
        let loss = self.loss_of(batch.images(), |like| rng.randn_like(like))?;
        Ok(Some(f64::from(loss.to_scalar::<f32>()?)))
    }

    fn samples(
        &self,
        n: usize,
        _: &Dataset,
        rng: &mut Rng,
        watch: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Option<Tensor>> {
        let images = self.decode(&rng.randn((n, self.config.latent), &self.device())?)?;
        watch(1.0)?;
        Ok(Some(images))
    }

    fn describe(&self) -> Result<toml::Table> {
        let objective = toml::Table::from_iter([("vector-vae".to_owned(), toml::Value::try_from(self.config)?)]);
        Ok(toml::Table::from_iter([("objective".to_owned(), objective.into())]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{Training, TrainingConfig};
    use anyhow::Context;

    #[test]
    fn every_parameter_has_a_gradient() -> Result<()> {
        let data = Dataset::sprites(8, 1)?;
        let it = VectorVae::new(VectorVaeConfig { base: 8, latent: 6 }, 1, &data, &Device::Cpu)?;
        let x = data.images(0..8, &Device::Cpu)?;
        let grads = it.loss_of(&x, |like| Rng::new(1).randn_like(like))?.backward()?;
        for (name, var) in it.parameters.iter() {
            let grad = grads.get(var).with_context(|| name.to_owned())?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(grad > 1e-8, "{name}: {grad}");
        }
        Ok(())
    }

    /// A decoder whose images are constant leaves the variance of the data; a trained one explains a part of it.
    #[test]
    fn it_learns_to_reconstruct() -> Result<()> {
        let data = Dataset::sprites(64, 1)?;
        let it = VectorVae::new(VectorVaeConfig { base: 8, latent: 8 }, 1, &data, &Device::Cpu)?;
        let config =
            TrainingConfig { epochs: 100, batch: 16, lr: 2e-3, ema: 0.0, sample_every: 0, ..Default::default() };
        let mut training = Training::with_objective(config, it, &data)?;
        training.run()?;
        let it = training.into_objective()?;
        let x = data.images(0..64, &Device::Cpu)?;
        let z = it.encode(&x)?;
        assert_eq!(z.dims(), [64, 8]);
        let error = (it.decode(&z)? - &x)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
        let variance = x.broadcast_sub(&x.mean_keepdim(0)?)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
        assert!(error < 0.7 * variance, "{error} {variance}");
        Ok(())
    }

    #[test]
    fn errors_name_the_value_or_the_size() -> Result<()> {
        let data = Dataset::sprites(8, 1)?;
        let fail = |config, data: &Dataset| VectorVae::new(config, 1, data, &Device::Cpu).unwrap_err().to_string();
        let default = VectorVaeConfig::default();
        assert!(fail(VectorVaeConfig { latent: 0, ..default }, &data).contains("vae: latent = 0"));
        assert!(fail(VectorVaeConfig { base: 6, ..default }, &data).contains("vae: base = 6"));
        let odd = data.resize(10, crate::data::Resize::Nearest)?;
        assert!(fail(default, &odd).contains("images of 3×10×10 do not suit it"));
        Ok(())
    }
}
