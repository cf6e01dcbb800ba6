//! The training objective of variational autoencoders.

use super::{Noise, Objective, TrainingBatch};
use crate::data::Dataset;
use crate::latent::{Autoencoder, FOR_SCALE, Vae, VaeConfig};
use crate::nn::Parameters;
use crate::rng::Rng;
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// The number of columns of the pictures that show the progress.
const COLUMNS: usize = 10;

/// The settings of [`VaeLoss`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaeLossConfig {
    /// The sizes of the autoencoder; its channels follow from the images.
    pub network: VaeConfig,
    /// The weight of the KL divergence; 0 for none.
    pub kl_weight: f64,
}

impl Default for VaeLossConfig {
    fn default() -> Self {
        Self { network: VaeConfig::default(), kl_weight: 1e-3 }
    }
}

/// Reconstruction and KL divergence, as in a β-VAE ([Higgins et al. 2017](https://openreview.net/forum?id=Sy2fzU9gl)):
///
/// L = mean (x − x̂)² + β · mean ½ (μ² + σ² − 1 − log σ²), with x̂ the decoded z = μ + σε and ε ~ N(0, 1).
///
/// The first mean is over the numbers of an image, the second over those of a latent. With β near 0 the latents may take
/// any values; with a large β the decoder learns to do with less information, and images become blurred. Latent
/// diffusion needs only a small β, since the diffusion model learns the distribution of the latents.
///
/// ```
/// use diffusion_core::{candle::Device, data::Dataset, latent::{Autoencoder, VaeConfig}};
/// use diffusion_core::train::{Training, TrainingConfig, VaeLoss, VaeLossConfig};
/// let sprites = Dataset::sprites(32, 1)?;
/// let settings = VaeLossConfig { network: VaeConfig { base: 8, ..Default::default() }, ..Default::default() };
/// let config = TrainingConfig { epochs: 1, batch: 16, sample_every: 0, ..Default::default() };
/// let objective = VaeLoss::new(settings, config.seed, &sprites, &Device::Cpu)?;
/// let mut training = Training::with_objective(config, objective, &sprites)?;
/// training.run()?;
/// let vae = training.into_objective()?.into_vae()?;
/// assert_eq!(vae.encode(&sprites.images(0..2, &Device::Cpu)?)?.dims(), [2, 4, 4, 4]);
/// # Ok::<(), diffusion_core::anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct VaeLoss {
    vae: Vae,
    settings: VaeLossConfig,
    /// The images whose latents determine the scale.
    images: Dataset,
}

impl VaeLoss {
    /// Creates an autoencoder with random weights from `seed`, to be trained on the images of `data`.
    ///
    /// # Errors
    /// A value of `settings` is out of range, or the autoencoder does not suit the images.
    pub fn new(settings: VaeLossConfig, seed: u64, data: &Dataset, device: &Device) -> Result<Self> {
        let kl = settings.kl_weight;
        ensure!(kl.is_finite() && kl >= 0.0, "vae: kl_weight = {kl} must be at least 0");
        let network = VaeConfig { channels: data.shape()[0], ..settings.network };
        let vae = Vae::new(network, &mut Rng::new(seed), device)?;
        vae.latent_shape(data.shape())?;
        let images = data.select(0..data.len().min(FOR_SCALE))?;
        Ok(Self { vae, settings: VaeLossConfig { network, ..settings }, images })
    }

    /// The autoencoder with its raw weights, without EMA.
    pub fn vae(&self) -> &Vae {
        &self.vae
    }

    /// Converts the objective into its autoencoder, with the scale that the training images need.
    ///
    /// # Errors
    /// The images cannot be read, or all latents are equal.
    pub fn into_vae(mut self) -> Result<Vae> {
        self.vae.fit_scale(&self.images)?;
        Ok(self.vae)
    }

    /// The mean squared error and the KL divergence for given ε.
    fn parts(&self, x: &Tensor, eps: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>) -> Result<(Tensor, Tensor)> {
        let (mean, log_variance) = self.vae.posterior(x)?;
        let (z, kl) = draw(&mean, &log_variance, &eps(&mean)?)?;
        Ok(((self.vae.reconstruct(&z)? - x)?.sqr()?.mean_all()?, kl.mean_all()?))
    }
}

/// z = μ + σε, and the KL divergence ½ (μ² + σ² − 1 − log σ²) of each number from N(0, 1).
pub(super) fn draw(mean: &Tensor, log_variance: &Tensor, eps: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let std = (log_variance / 2.0)?.exp()?;
    let z = (mean + (&std * eps)?)?;
    let kl = ((mean.sqr()? + std.sqr()?)? - log_variance)?;
    Ok((z, ((kl - 1.0)? / 2.0)?))
}

impl Objective for VaeLoss {
    fn parameters(&self) -> &Parameters {
        self.vae.parameters()
    }

    fn loss(&mut self, batch: &TrainingBatch, noise: &mut Noise) -> Result<Tensor> {
        let (error, kl) = self.parts(batch.images(), |like| noise.randn_like(like))?;
        Ok((error + (kl * self.settings.kl_weight)?)?)
    }

    fn validation_loss(&mut self, batch: &TrainingBatch, rng: &mut Rng) -> Result<Option<f64>> {
        let (error, kl) = self.parts(batch.images(), |like| rng.randn_like(like))?;
        let loss = (error + (kl * self.settings.kl_weight)?)?;
        Ok(Some(f64::from(loss.to_scalar::<f32>()?)))
    }

    /// The first images of the data in the odd rows, and below them their reconstructions.
    fn samples(
        &self,
        n: usize,
        data: &Dataset,
        _: &mut Rng,
        watch: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Option<Tensor>> {
        let (rows, mut pictures) = (n.div_ceil(2 * COLUMNS), Vec::new());
        for row in 0..rows {
            let x = data.images((0..COLUMNS).map(|i| (row * COLUMNS + i) % data.len()), &self.device())?;
            let decoded = self.vae.decode(&self.vae.encode(&x)?)?;
            pictures.extend([x, decoded]);
            watch((row + 1) as f64 / rows as f64)?;
        }
        Ok(Some(Tensor::cat(&pictures, 0)?))
    }

    fn sample_columns(&self) -> usize {
        COLUMNS
    }

    fn describe(&self) -> Result<toml::Table> {
        let settings = toml::Value::try_from(self.settings)?;
        let objective = toml::Table::from_iter([("vae".to_owned(), settings)]);
        Ok(toml::Table::from_iter([("objective".to_owned(), objective.into())]))
    }

    fn metadata(&self) -> Result<HashMap<String, String>> {
        self.vae.metadata()
    }

    /// With the scale that the training images need.
    fn save(&self, path: &Path, _: u64) -> Result<()> {
        let mut vae = self.vae.copy()?;
        vae.fit_scale(&self.images)?;
        vae.save(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_kl_divergence_is_that_of_two_normal_distributions() -> Result<()> {
        let data = Dataset::sprites(8, 1)?;
        let settings = VaeLossConfig { network: VaeConfig { base: 8, ..Default::default() }, ..Default::default() };
        let it = VaeLoss::new(settings, 1, &data, &Device::Cpu)?;
        let x = data.images(0..8, &Device::Cpu)?;
        let (_, kl) = it.parts(&x, Tensor::zeros_like)?;
        // By a sum over samples: the mean of log q(z) − log p(z).
        let (mean, log_variance) = it.vae.posterior(&x)?;
        let std = (&log_variance / 2.0)?.exp()?;
        let (mut rng, mut sum) = (Rng::new(1), 0.0);
        for _ in 0..400 {
            let eps = rng.randn_like(&mean)?;
            let z = (&mean + (&std * &eps)?)?;
            let log_ratio = (((z.sqr()? - eps.sqr()?)? - &log_variance)? / 2.0)?;
            sum += f64::from(log_ratio.mean_all()?.to_scalar::<f32>()?);
        }
        let kl = f64::from(kl.to_scalar::<f32>()?);
        assert!((sum / 400.0 - kl).abs() < 0.05 * kl, "{} {kl}", sum / 400.0);
        Ok(())
    }

    #[test]
    fn every_parameter_has_a_gradient_and_training_changes_the_scale() -> Result<()> {
        let data = Dataset::sprites(32, 1)?;
        let settings =
            VaeLossConfig { network: VaeConfig { base: 8, groups: 2, ..Default::default() }, ..Default::default() };
        let mut it = VaeLoss::new(settings, 1, &data, &Device::Cpu)?;
        // The last layer of a block is 0 at first, which hides those before it.
        for (name, var) in it.parameters().iter().filter(|(name, _)| name.ends_with("conv2.weight")) {
            var.set(&(Rng::new(2).randn_like(var)? * 0.1)?).with_context(|| name.to_owned())?;
        }
        let x = data.images(0..8, &Device::Cpu)?;
        let (error, kl) = it.parts(&x, |like| Rng::new(3).randn_like(like))?;
        let grads = (error + kl)?.backward()?;
        for (name, var) in it.parameters().iter() {
            let grad = grads.get(var).with_context(|| name.to_owned())?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(grad > 1e-7, "{name}: {grad}");
        }
        it.settings.kl_weight = -1.0;
        let message = VaeLoss::new(it.settings, 1, &data, &Device::Cpu).unwrap_err().to_string();
        assert!(message.contains("kl_weight = -1"), "{message}");
        let vae = it.into_vae()?;
        let z = vae.encode(&data.images(0..32, &Device::Cpu)?)?.flatten_all()?.to_vec1::<f32>()?;
        let mean = z.iter().sum::<f32>() / z.len() as f32;
        let variance = z.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / z.len() as f32;
        assert!((variance - 1.0).abs() < 1e-3, "{variance}");
        Ok(())
    }
}
