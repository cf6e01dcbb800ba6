//! What readers bring themselves goes into the same training loop: an objective, a network.

use crate::training::{bits, config, sprites};
use anyhow::{Context, Result};
use diffusion_core::candle::{self, DType, Device, Tensor};
use diffusion_core::data::Dataset;
use diffusion_core::model::Model;
use diffusion_core::nn::{Conv2d, Linear, Parameters};
use diffusion_core::ops::{Geometry, silu};
use diffusion_core::rng::Rng;
use diffusion_core::sampler::Sampler;
use diffusion_core::train::{Gan, GanConfig, Noise, Objective, State, Step, Training, TrainingBatch, TrainingConfig};
use diffusion_core::unet::{Architecture, Condition, Conditioning, Denoiser, TimeEmbedding};
use std::fs;

/// Another objective in the same loop: an autoencoder.
struct Autoencoder {
    parameters: Parameters,
    encoder: Linear,
    decoder: Linear,
}

impl Autoencoder {
    fn new() -> Result<Self> {
        let mut parameters = Parameters::new(DType::F32, &Device::Cpu);
        let mut rng = Rng::new(1);
        let mut build = parameters.builder(&mut rng);
        let encoder = Linear::new(build.at("encoder"), 3 * 16 * 16, 8)?;
        let decoder = Linear::new(build.at("decoder"), 8, 3 * 16 * 16)?;
        Ok(Self { parameters, encoder, decoder })
    }
}

impl Objective for Autoencoder {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// A denoising one, so that it draws random numbers.
    fn loss(&mut self, batch: &TrainingBatch, noise: &mut Noise) -> Result<Tensor> {
        let x = batch.images().flatten_from(1)?;
        let noised = (&x + (noise.randn_like(&x)? * 0.1)?)?;
        let decoded = self.decoder.forward(&self.encoder.forward(&noised)?)?;
        Ok((decoded - x)?.sqr()?.mean_all()?)
    }

    /// The loss has no state of its own.
    fn validation_loss(&mut self, batch: &TrainingBatch, rng: &mut Rng) -> Result<Option<f64>> {
        let loss = self.loss(batch, &mut Noise::new(rng.split(), &Device::Cpu)?)?;
        Ok(Some(f64::from(loss.to_scalar::<f32>()?)))
    }
}

#[test]
fn another_objective_trains_stops_and_resumes_to_the_bit() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let begin = |folder: &str| -> Result<Training<Autoencoder>> {
        let config = TrainingConfig { epochs: 6, lr: 1e-2, ..config() };
        let training = Training::with_objective(config, Autoencoder::new()?, &sprites()?)?;
        training.validate_on(Dataset::sprites(8, 2)?)?.in_folder(temp.path().join(folder))
    };
    let mut whole = begin("whole")?;
    let all: Vec<Step> = whole.by_ref().collect::<Result<_>>()?;
    assert!(all[41].loss < 0.8 * all[0].loss, "{} {}", all[0].loss, all[41].loss);
    let mut broken = begin("broken")?;
    broken.by_ref().take(17).try_for_each(|step| step.map(drop))?;
    fs::write(temp.path().join("broken/stop"), "")?;
    assert!(broken.next().is_none());
    assert_eq!(broken.state(), State::Stopped);
    let mut broken = begin("broken")?;
    assert_eq!(broken.resumed().context("a checkpoint")?.steps, 17);
    broken.by_ref().try_for_each(|step| step.map(drop))?;
    let file = |folder: &str| bits(&temp.path().join(folder).join("model.safetensors"));
    assert!(file("whole")? == file("broken")?);
    let losses = |training: &Training<Autoencoder>| -> Vec<u64> {
        training.history().iter().map(|step| step.loss.to_bits()).collect()
    };
    assert_eq!(losses(&whole), losses(&broken));
    Ok(())
}

#[derive(Debug)]
struct Tiny {
    time: TimeEmbedding,
    first: Conv2d,
    last: Conv2d,
}

impl Denoiser for Tiny {
    fn forward(&self, xt: &Tensor, t: &[f64], _: &Condition) -> candle::Result<Tensor> {
        let e = self.time.forward(t)?.unsqueeze(2)?.unsqueeze(3)?;
        self.last.forward(&silu(&self.first.forward(xt)?.broadcast_add(&e)?)?)
    }
}

fn tiny() -> Architecture {
    let conditioning = Conditioning { channels: 3, ..Default::default() };
    Architecture::custom("tiny", conditioning, |mut b| {
        Ok(Tiny {
            time: TimeEmbedding::new(b.at("time"), 8, 8)?,
            first: Conv2d::new(b.at("first"), 3, 8, 3, Geometry::same(3))?,
            last: Conv2d::zeros(b.at("last"), 8, 3, 3, Geometry::same(3))?,
        })
    })
}

#[test]
fn a_network_of_ones_own_trains_resumes_loads_and_samples() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let begin = |folder: &str| -> Result<Training> {
        let training = Training::new(config(), tiny(), &sprites()?, &Device::Cpu)?;
        training.in_folder(temp.path().join(folder))
    };
    begin("whole")?.try_for_each(|step| step.map(drop))?;
    begin("broken")?.take(8).try_for_each(|step| step.map(drop))?;
    let mut broken = begin("broken")?;
    assert_eq!(broken.resumed().context("a checkpoint")?.steps, 6);
    broken.try_for_each(|step| step.map(drop))?;
    let file = |folder: &str| temp.path().join(folder).join("model.safetensors");
    assert!(bits(&file("whole"))? == bits(&file("broken"))?);

    let message = Model::load(file("whole"), &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("tiny") && message.contains("load_with"), "{message}");
    let model = Model::load_with(file("whole"), tiny(), &Device::Cpu)?;
    let draw = |model: &Model| -> Result<Vec<f32>> {
        let samples = model.sample(2, Condition::none(), &Sampler::ddim(3), &mut Rng::new(1))?;
        Ok(samples.flatten_all()?.to_vec1()?)
    };
    assert_eq!(draw(&model)?, draw(&begin("whole")?.into_model()?)?);
    Ok(())
}

/// Two optimisers: that of the loop and that of the objective, whose state is in the checkpoints.
#[test]
fn a_gan_is_resumed_to_the_bit() -> Result<()> {
    let (temp, data) = (tempfile::tempdir()?, Dataset::sprites(60, 1)?);
    let settings = GanConfig { base: 8, noise: 6, ..Default::default() };
    let begin = |folder: &str| {
        let gan = Gan::new(settings, 1, &data, &Device::Cpu)?;
        Training::with_objective(config(), gan, &data)?.in_folder(temp.path().join(folder))
    };
    let mut whole = begin("whole")?;
    whole.run()?;
    begin("broken")?.take(8).collect::<Result<Vec<_>>>()?;
    let mut broken = begin("broken")?;
    assert_eq!(broken.history().len(), 6);
    broken.run()?;
    let images = |training: Training<Gan>| {
        let gan = training.into_objective()?;
        let images = gan.generate(&Rng::new(1).randn((4, 6), &Device::Cpu)?)?;
        Ok::<_, anyhow::Error>((images.flatten_all()?.to_vec1::<f32>()?, gan.state()?))
    };
    let ((a, of_a), (b, of_b)) = (images(whole)?, images(broken)?);
    assert_eq!(a, b);
    assert_eq!(a.len(), 4 * 3 * 16 * 16);
    for (name, tensor) in &of_a {
        let values = |x: &Tensor| x.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>();
        assert_eq!(values(tensor)?, values(&of_b[name])?, "{name}");
    }
    Ok(())
}
