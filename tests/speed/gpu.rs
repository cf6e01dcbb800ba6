//! Steps of training and of sampling on a GPU, or for a trial on the CPU.

use anyhow::{Context, Result, bail, ensure};
use diffusion_core::candle::Device;
use diffusion_core::data::Dataset;
use diffusion_core::device::{Precision, best};
use diffusion_core::rng::Rng;
use diffusion_core::sampler::Sampler;
use diffusion_core::train::{Training, TrainingConfig};
use diffusion_core::unet::{Architecture, AttentionUNet, Condition, SimpleUNet};
use std::time::Instant;

/// Steps that are timed together, after as many to warm up.
const TRAINED: usize = 20;
const DRAWN: usize = 10;

/// A network with random images, on the best device there is.
pub struct Work {
    training: Training,
    batch: usize,
    device: Device,
}

impl Work {
    pub fn new(name: &str, batch: usize, side: usize, precision: &str) -> Result<Self> {
        let (architecture, channels) = match name {
            "simple_unet" => (Architecture::from(SimpleUNet::default()), 1),
            "attention_unet" => (Architecture::from(AttentionUNet::default()), 3),
            _ => bail!("{name}: it must be simple_unet or attention_unet"),
        };
        let n = batch.max(64) * 2;
        let pixels = (0..n * channels * side * side).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8);
        let data = Dataset::from_u8("random", pixels.collect(), [channels, side, side], vec![0; n], &["random"])?;
        let config = TrainingConfig {
            epochs: usize::MAX >> 20,
            batch,
            sample_every: 0,
            precision: precision.parse::<Precision>()?,
            ..Default::default()
        };
        let device = best();
        Ok(Self { training: Training::new(config, architecture, &data, &device)?, batch, device })
    }

    /// Seconds of one step: `train`, or `sample`, which is one of DDIM.
    pub fn seconds(&mut self, line: &str) -> Result<f64> {
        let began = Instant::now();
        match line {
            "train" => {
                for _ in 0..TRAINED {
                    let step = self.training.next().context("the training has ended")??;
                    ensure!(step.loss.is_finite(), "the loss is {}", step.loss);
                }
                Ok(began.elapsed().as_secs_f64() / TRAINED as f64)
            }
            "sample" => {
                let mut rng = Rng::new(5);
                let (n, sampler) = (self.batch, Sampler::ddim(DRAWN));
                let model = self.training.averaged_model()?;
                let noise = model.noise(n, &mut rng)?;
                let began = Instant::now();
                let states = model.states(&noise, Condition::none(), &sampler, &mut rng)?;
                // Waits for the device.
                states.finish()?.mean_all()?.to_scalar::<f32>()?;
                Ok(began.elapsed().as_secs_f64() / DRAWN as f64)
            }
            _ => bail!("{line}: it must be train or sample"),
        }
    }

    /// The most memory of the device, as JSON.
    pub fn peak(&self) -> String {
        #[cfg(feature = "cuda")]
        if let Some(bytes) = diffusion_core::device::peak_memory(&self.device) {
            return bytes.to_string();
        }
        let _ = &self.device;
        "null".to_owned()
    }
}
