//! Latent models: an autoencoder, a network trained on its latents, and both in one file.

use crate::training::config;
use anyhow::{Context, Result};
use diffusion_core::candle::{Device, Tensor};
use diffusion_core::data::{Augmentation, Dataset, sprites::Combinations};
use diffusion_core::latent::{Autoencoder, Vae, VaeConfig, encoded};
use diffusion_core::metrics::psnr;
use diffusion_core::model::Model;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::Sampler;
use diffusion_core::train::{Diffusion, Training, TrainingConfig, VaeLoss, VaeLossConfig};
use diffusion_core::unet::{Condition, Network, SimpleUNet};

fn vae(data: &Dataset, steps: usize) -> Result<Vae> {
    let network = VaeConfig { base: 16, factor: 2, ..Default::default() };
    let settings = VaeLossConfig { network, ..Default::default() };
    let config = TrainingConfig { epochs: 20, train_steps: steps, lr: 3e-3, ..config() };
    let mut training = Training::with_objective(config, VaeLoss::new(settings, 1, data, &Device::Cpu)?, data)?;
    training.run()?;
    training.into_objective()?.into_vae()
}

fn off(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a - b)?.abs()?.max_all()?.to_scalar()?)
}

/// 16×16 pixels in 3 colours become 8×8 latents with 4 channels, a third of the numbers.
#[test]
fn an_autoencoder_learns_to_reconstruct_images_that_it_has_not_seen() -> Result<()> {
    let (train, test) = (Dataset::sprites(400, 1)?, Dataset::sprites(100, 2)?);
    let x = test.images(0..100, &Device::Cpu)?;
    let quality = |vae: &Vae| {
        let each = psnr(&vae.decode(&vae.encode(&x)?)?, &x, 2.0)?;
        Ok::<f64, anyhow::Error>(each.iter().sum::<f64>() / each.len() as f64)
    };
    let (few, many) = (quality(&vae(&train, 2)?)?, quality(&vae(&train, 300)?)?);
    assert!(many > 16.0 && many > few + 4.0, "{few} dB, then {many} dB");
    Ok(())
}

#[test]
fn latents_are_those_of_the_images_then_of_the_flipped_images() -> Result<()> {
    let data = Dataset::sprites(130, 1)?;
    let vae = vae(&data, 2)?;
    let z = encoded(&data, &vae, &Device::Cpu)?;
    assert_eq!((z.len(), z.shape(), z.labels()), (130, [4, 8, 8], data.labels()));
    let x = data.images([129], &Device::Cpu)?;
    assert!(off(&z.images([129], &Device::Cpu)?, &vae.encode(&x)?)? < 1e-5);
    let z = encoded(&data.with_augmentation([Augmentation::HorizontalFlip]), &vae, &Device::Cpu)?;
    assert_eq!((z.len(), z.labels()[..130] == z.labels()[130..]), (260, true));
    assert!(off(&z.images([259], &Device::Cpu)?, &vae.encode(&x.flip(&[3])?)?)? < 1e-5);
    // Captions and attributes, too.
    let named = Dataset::captioned_sprites(4, 1, Combinations::All)?;
    let named = named.with_attributes(vec![1.0, -1.0, 0.0, 1.0], &["bright"])?;
    let named = named.with_augmentation([Augmentation::HorizontalFlip]);
    let z = encoded(&named, &vae, &Device::Cpu)?;
    let captions = named.captions().context("captions")?;
    assert_eq!(z.captions().context("captions")?, [captions, captions].concat());
    assert_eq!(z.attribute_names(), ["bright"]);
    assert_eq!(z.context([5], &Device::Cpu)?.to_vec2::<f32>()?, [[-1.0]]);
    assert!(z.augmentation().is_empty());
    let wrong = named.with_values(vec![0.0; 7], [1, 1, 2]).unwrap_err().to_string();
    assert!(wrong.contains("7 pixel values do not fit"), "{wrong}");
    Ok(())
}

/// A run on latents saves a file that samples images, and resumes.
#[test]
fn a_model_of_latents_and_its_autoencoder_are_one_file() -> Result<()> {
    let (folder, data) = (tempfile::tempdir()?, Dataset::sprites(64, 1)?);
    let path = folder.path().join("vae.safetensors");
    vae(&data, 2)?.save(&path)?;
    let vae = || Vae::load(&path, &Device::Cpu);
    let latents = encoded(&data, &vae()?, &Device::Cpu)?;
    let net = SimpleUNet { channels: 4, base: 8, classes: 5, ..Default::default() };
    let run = folder.path().join("run");
    let config = TrainingConfig { epochs: 1, samples: 4, sample_steps: 2, ..config() };
    let objective = || Diffusion::new(&config, net, &latents, &Device::Cpu)?.with_autoencoder(vae()?);
    let mut training = Training::with_objective(config.clone(), objective()?, &latents)?.in_folder(&run)?;
    training.run()?;
    assert_eq!(training.samples(4)?.dims(), [4, 3, 16, 16]);
    let text = std::fs::read_to_string(run.join("config.toml"))?;
    assert!(text.contains("autoencoder = ") && text.contains("vae.safetensors"), "{text}");
    let model = training.into_model()?;
    let loaded = Model::load(run.join("model.safetensors"), &Device::Cpu)?;
    assert_eq!((loaded.info.shape, loaded.image_shape()), ([4, 8, 8], [3, 16, 16]));
    let draw = |model: &Model| model.sample(3, Condition::labels([0; 3]), &Sampler::ddim(2), &mut Rng::new(1));
    let images = draw(&model)?;
    assert_eq!(images.dims(), [3, 3, 16, 16]);
    assert_eq!(off(&images, &draw(&loaded)?)?, 0.0);
    assert_eq!(off(&images, &draw(&model.copy()?)?)?, 0.0);
    // In batches, and step by step, the same.
    let batches = model.sample_in_batches(3, 2, Condition::labels([0; 3]), &Sampler::ddim(2), &mut Rng::new(1))?;
    assert!(off(&images, &batches)? < 1e-4);
    let (mut rng, condition) = (Rng::new(1), Condition::labels([0; 3]));
    let z = model.states(&model.noise(3, &mut rng)?, condition, &Sampler::ddim(2), &mut rng)?.finish()?;
    assert_eq!(z.dims(), [3, 4, 8, 8]);
    assert!(off(&images, &model.decode(&z)?)? < 1e-5);
    let x = data.images(0..2, &Device::Cpu)?;
    assert!(off(&model.latents(&x)?, &latents.images(0..2, &Device::Cpu)?)? < 1e-5);
    // Half of the bytes, and almost the same images.
    let half = folder.path().join("half.safetensors");
    loaded.save_as(&half, diffusion_core::candle::DType::F16)?;
    let half = Model::load(&half, &Device::Cpu)?;
    assert!(half.autoencoder.is_some() && off(&images, &draw(&half)?)? < 0.1);
    Ok(())
}

#[test]
fn errors_name_what_does_not_fit() -> Result<()> {
    let (folder, data) = (tempfile::tempdir()?, Dataset::sprites(32, 1)?);
    let vae = vae(&data, 1)?;
    let path = folder.path().join("vae.safetensors");
    vae.save(&path)?;
    let message = Model::load(&path, &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("vae.safetensors") && message.contains("it is an autoencoder"), "{message}");
    let net = SimpleUNet { channels: 3, base: 8, ..Default::default() };
    let objective = Diffusion::new(&config(), net, &data, &Device::Cpu)?;
    let message = objective.with_autoencoder(vae).unwrap_err().to_string();
    assert!(message.contains("latents with 3 channels, but the latents of the autoencoder have 4"), "{message}");
    let network = Network::new(net, &mut Rng::new(1), &Device::Cpu)?;
    let model = folder.path().join("net.safetensors");
    network.save(&model)?;
    let message = Vae::load(&model, &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("cannot use") && message.contains("no description of one"), "{message}");
    let settings = VaeLossConfig { network: VaeConfig { factor: 8, ..Default::default() }, ..Default::default() };
    let odd = Dataset::sprites(8, 1)?.resize(12, diffusion_core::data::Resize::Nearest)?;
    let message = VaeLoss::new(settings, 1, &odd, &Device::Cpu).err().context("an error")?.to_string();
    assert!(message.contains("height and width must be divisible by 8"), "{message}");
    Ok(())
}
