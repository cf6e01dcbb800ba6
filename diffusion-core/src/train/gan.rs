//! Generative adversarial networks, for comparison with diffusion.

pub(super) mod layers;

use layers::{Encoder, Generator, Sizes};

use super::{AdamW, AdamWConfig, Noise, Objective, TrainingBatch};
use crate::data::Dataset;
use crate::nn::Parameters;
use crate::ops::backward;
use crate::rng::Rng;
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The standard deviation of the noise by which the slope of the discriminator is measured.
const NUDGE: f64 = 0.02;
/// The prefixes of names in a checkpoint's state.
const DISCRIMINATOR: &str = "discriminator.";
const OPTIMISER: &str = "discriminator-adam.";

/// The settings of a [`Gan`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GanConfig {
    /// The numbers of a z, 1 … 4096.
    pub noise: usize,
    /// The channels at full resolution; twice as many at lower ones. 4 … 1024, divisible by 4.
    pub base: usize,
    /// γ, the weight of the discriminator's gradient penalty; 0 for none.
    pub r1: f64,
    /// The learning rate of the discriminator, which stays constant.
    pub discriminator_lr: f64,
}

impl Default for GanConfig {
    fn default() -> Self {
        Self { noise: 64, base: 64, r1: 1.0, discriminator_lr: 2e-4 }
    }
}

/// A generative adversarial network ([Goodfellow et al. 2014](https://arxiv.org/abs/1406.2661)) of the size of DCGAN
/// ([Radford et al. 2015](https://arxiv.org/abs/1511.06434)): a generator G makes images of noise, a discriminator D tells them
/// from real ones.
///
/// With the non-saturating loss, D minimises softplus(−D(x)) + softplus(D(G(z))) + γ/2 ‖∇D(x)‖², and then G minimises
/// softplus(−D(G(z))). The penalty is R1 ([Mescheder et al. 2018](https://arxiv.org/abs/1801.04406)), estimated by a difference
/// without a second derivative: ‖∇D(x)‖² ≈ E (D(x + σε) − D(x))²/σ² for a small σ and ε ~ N(0, 1).
///
/// The training loop has one optimiser, that of G; the objective holds D and its AdamW (β₁ = 0.5), which takes a step in
/// every evaluation of the loss.
#[derive(Debug)]
pub struct Gan {
    config: GanConfig,
    /// The parameters, the layers, and the same layers without gradients.
    generator: (Parameters, Generator, Generator),
    discriminator: (Parameters, Encoder, Encoder),
    optimiser: AdamW,
}

impl Gan {
    /// Creates both networks with random weights from `seed`, for images like those of `data`.
    ///
    /// # Errors
    /// A value of `config` is out of range, or height or width of the images is not divisible by 4.
    pub fn new(config: GanConfig, seed: u64, data: &Dataset, device: &Device) -> Result<Self> {
        let GanConfig { noise, base, r1, discriminator_lr: lr } = config;
        let sizes = Sizes { vector: noise, base, image: data.shape() };
        sizes.check("gan", "noise")?;
        ensure!(r1.is_finite() && r1 >= 0.0, "gan: r1 = {r1} must be at least 0");
        let rng = &mut Rng::new(seed);
        let mut parameters = Parameters::new(DType::F32, device);
        let layers = Generator::new(parameters.builder(rng), sizes)?;
        let constant = Generator::new(parameters.constants(), sizes)?;
        let generator = (parameters, layers, constant);
        let mut parameters = Parameters::new(DType::F32, device);
        let layers = Encoder::new(parameters.builder(rng), sizes, 1)?;
        let constant = Encoder::new(parameters.constants(), sizes, 1)?;
        let adam = AdamWConfig { lr, beta1: 0.5, beta2: 0.99, weight_decay: 0.0, ..Default::default() };
        let optimiser = AdamW::new(&parameters.by_name(), adam)?;
        Ok(Self { config, generator, discriminator: (parameters, layers, constant), optimiser })
    }

    /// The number of parameters of the discriminator; those of the generator are [`Objective::parameters`].
    pub fn discriminator_parameters(&self) -> usize {
        self.discriminator.0.count()
    }

    /// Generates an image of each z.
    ///
    /// # Shapes
    /// `z` (B, [`GanConfig::noise`]), standard normal; the result is (B, C, H, W), in \[−1, 1\].
    ///
    /// # Errors
    /// The shape is wrong.
    pub fn generate(&self, z: &Tensor) -> Result<Tensor> {
        Ok(self.generator.2.forward(z)?)
    }

    /// The discriminator's loss for real images `x` and images of `z`; `eps` has the shape of `x`.
    fn discriminator_loss(&self, x: &Tensor, z: &Tensor, eps: &Tensor) -> Result<Tensor> {
        let discriminator = &self.discriminator.1;
        let (real, fake) = (discriminator.forward(x)?, discriminator.forward(&self.generate(z)?)?);
        let mut loss = (softplus(&real.neg()?)? + softplus(&fake)?)?.mean_all()?;
        if self.config.r1 > 0.0 {
            let nudged = discriminator.forward(&(x + (eps * NUDGE)?)?)?;
            let slope = ((nudged - real)?.sqr()? * (0.5 * self.config.r1 / (NUDGE * NUDGE)))?;
            loss = (loss + slope.mean_all()?)?;
        }
        Ok(loss)
    }
}

impl Objective for Gan {
    /// Those of the generator.
    fn parameters(&self) -> &Parameters {
        &self.generator.0
    }

    /// Trains the discriminator for a step, and returns the generator's loss.
    fn loss(&mut self, batch: &TrainingBatch, noise: &mut Noise) -> Result<Tensor> {
        let x = batch.images();
        let like = Tensor::zeros((batch.len(), self.config.noise), DType::F32, x.device())?;
        let (z, eps) = (noise.randn_like(&like)?, noise.randn_like(x)?);
        let loss = self.discriminator_loss(x, &z, &eps)?;
        let value = loss.to_scalar::<f32>()?;
        ensure!(value.is_finite(), "gan: the loss of the discriminator is {value}; use a lower learning rate for it");
        self.optimiser.step(&backward(&loss)?)?;
        // Its weights are constants here: the gradient passes through them to the generator.
        let fake = self.generator.1.forward(&noise.randn_like(&like)?)?;
        Ok(softplus(&self.discriminator.2.forward(&fake)?.neg()?)?.mean_all()?)
    }

    fn samples(
        &self,
        n: usize,
        _: &Dataset,
        rng: &mut Rng,
        watch: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Option<Tensor>> {
        let images = self.generate(&rng.randn((n, self.config.noise), &self.device())?)?;
        watch(1.0)?;
        Ok(Some(images))
    }

    /// The discriminator and its optimiser.
    fn state(&self) -> Result<HashMap<String, Tensor>> {
        let named = |prefix: &'static str| move |(name, tensor): (String, Tensor)| (format!("{prefix}{name}"), tensor);
        let weights = self.discriminator.0.values()?.into_iter().map(named(DISCRIMINATOR));
        Ok(weights.chain(self.optimiser.state()?.into_iter().map(named(OPTIMISER))).collect())
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let part = |prefix: &str| -> HashMap<String, Tensor> {
            let stripped =
                |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
            state.iter().filter_map(stripped).collect()
        };
        self.discriminator.0.assign(&part(DISCRIMINATOR)).context("the discriminator")?;
        Ok(self.optimiser.load_state(&part(OPTIMISER))?)
    }

    fn describe(&self) -> Result<toml::Table> {
        let objective = toml::Table::from_iter([("gan".to_owned(), toml::Value::try_from(self.config)?)]);
        Ok(toml::Table::from_iter([("objective".to_owned(), objective.into())]))
    }
}

/// log(1 + eˣ), without overflow.
fn softplus(x: &Tensor) -> candle_core::Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(config: GanConfig) -> Result<Gan> {
        Gan::new(GanConfig { base: 8, noise: 6, ..config }, 1, &Dataset::sprites(16, 1)?, &Device::Cpu)
    }

    #[test]
    fn both_networks_have_gradients_of_their_own() -> Result<()> {
        let gan = small(GanConfig::default())?;
        let data = Dataset::sprites(8, 2)?;
        let (x, z) = (data.images(0..8, &Device::Cpu)?, Rng::new(1).randn((8, 6), &Device::Cpu)?);
        let eps = Rng::new(2).randn_like(&x)?;
        let of_discriminator = backward(&gan.discriminator_loss(&x, &z, &eps)?)?;
        let fake = gan.generator.1.forward(&z)?;
        let of_generator = backward(&softplus(&gan.discriminator.2.forward(&fake)?.neg()?)?.mean_all()?)?;
        for (parameters, with, without) in [
            (&gan.discriminator.0, &of_discriminator, &of_generator),
            (&gan.generator.0, &of_generator, &of_discriminator),
        ] {
            for (name, var) in parameters.iter() {
                let grad = with.get(var).with_context(|| name.to_owned())?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(grad > 1e-8, "{name}: {grad}");
                assert!(without.get(var).is_none(), "{name}");
            }
        }
        Ok(())
    }

    /// The penalty of a linear function is the squared norm of its weights.
    #[test]
    fn the_penalty_is_the_mean_squared_slope() -> Result<()> {
        let (plain, penalised) =
            (small(GanConfig { r1: 0.0, ..Default::default() })?, small(GanConfig { r1: 2.0, ..Default::default() })?);
        let x = Dataset::sprites(1, 2)?.images([0; 4000], &Device::Cpu)?;
        let (z, eps) = (Tensor::zeros((4000, 6), DType::F32, &Device::Cpu)?, Rng::new(3).randn_like(&x)?);
        let loss = |gan: &Gan| Ok::<_, anyhow::Error>(gan.discriminator_loss(&x, &z, &eps)?.to_scalar::<f32>()?);
        let penalty = loss(&penalised)? - loss(&plain)?;
        let var = candle_core::Var::from_tensor(&x.narrow(0, 0, 1)?)?;
        let grads = backward(&plain.discriminator.2.forward(&var)?.sum_all()?)?;
        let slope = grads.get(&var).context("a gradient")?.sqr()?.sum_all()?.to_scalar::<f32>()?;
        assert!((penalty / slope - 1.0).abs() < 0.1, "{penalty} {slope}");
        Ok(())
    }

    #[test]
    fn errors_name_the_value_or_the_size() -> Result<()> {
        let fail = |config: GanConfig, data: &Dataset| Gan::new(config, 1, data, &Device::Cpu).unwrap_err().to_string();
        let data = Dataset::sprites(8, 1)?;
        for (config, wants) in [
            (GanConfig { noise: 0, ..Default::default() }, "noise = 0"),
            (GanConfig { base: 6, ..Default::default() }, "base = 6"),
            (GanConfig { r1: f64::NAN, ..Default::default() }, "r1 = NaN"),
            (GanConfig { discriminator_lr: -1.0, ..Default::default() }, "lr = -1"),
        ] {
            assert!(fail(config, &data).contains(wants), "{}", fail(config, &data));
        }
        let odd = data.resize(10, crate::data::Resize::Nearest)?;
        assert!(fail(GanConfig::default(), &odd).contains("images of 3×10×10 do not suit it"));
        Ok(())
    }
}
