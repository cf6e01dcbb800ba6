//! What all training runs of a data set are measured by.

use super::{Budget, Options};
use anyhow::{Context, Result, ensure};
use diffusion_core::candle::{Device, Tensor};
use diffusion_core::config::RunConfig;
use diffusion_core::data::{Dataset, Source, Split};
use diffusion_core::guidance::Guidance;
use diffusion_core::metrics::{Classifier, FeatureExtractor, Gaussian, class_accuracy};
use diffusion_core::model::Model;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::Sampler;
use diffusion_core::train::{Decay, Training, TrainingConfig};
use diffusion_core::unet::{Architecture, SimpleUNet};
use std::time::Instant;

/// The largest number of held-out images, so that the real-vs-real baseline has others to draw from.
const REAL: usize = 5000;

/// The classifier and the real images against which samples are measured.
pub(super) struct Referee {
    pub(super) classifier: Classifier,
    /// The training data.
    pub(super) data: Dataset,
    /// The held-out images that samples are compared with.
    pub(super) held_out: Dataset,
    real: Gaussian,
    /// The real-vs-real baseline: the distance of as many other real images as there are samples.
    pub(super) baseline: f64,
    pub(super) real_images: usize,
    samples: usize,
}

/// The measurements of a sampler.
pub(super) struct Measured {
    pub(super) frechet: f64,
    pub(super) accuracy: f64,
    pub(super) seconds: f64,
}

impl Referee {
    /// For the sprites or another data set with a classifier.
    pub(super) fn new(options: &Options, budget: Budget, task: &str, device: &Device) -> Result<Self> {
        let path = options.classifiers.join(format!("classifier-{task}.safetensors"));
        ensure!(
            path.is_file(),
            "--classifiers: {} does not exist; `cargo diffusion classifier --task {task} --images 50000 --out {}` trains it",
            path.display(),
            path.display()
        );
        let classifier = Classifier::load(&path, device).context("--classifiers")?;
        let Budget { samples, images, .. } = budget;
        let source = Source { task: task.to_owned(), images, ..Source::default() };
        let data = source.load(Split::Train, 1)?;
        let (real, others) = match task {
            "sprites" => (Dataset::sprites(REAL, 1_000_001)?, Dataset::sprites(samples, 1_000_002)?),
            _ => {
                let held_out = source.load(Split::Test, 1)?;
                let order = Rng::new(1).permutation(held_out.len());
                let real = REAL.min(held_out.len().saturating_sub(samples));
                ensure!(real > 1, "--samples {samples}: {task} has only {} held-out images", held_out.len());
                let some = |at: &[usize]| held_out.select(at.iter().copied());
                (some(&order[..real])?, some(&order[real..real + samples])?)
            }
        };
        let gaussian = |data: &Dataset| Gaussian::fit(&classifier.extract_from(data, data.len())?.features);
        let (of_real, of_others) = (gaussian(&real)?, gaussian(&others)?);
        let baseline = of_real.frechet(&of_others)?;
        Ok(Self { baseline, real: of_real, real_images: real.len(), held_out: real, classifier, data, samples })
    }

    /// Trains a network with the values that all runs have in common, and returns it with the seconds.
    pub(super) fn train(&self, budget: Budget, config: TrainingConfig, device: &Device) -> Result<(Model, f64)> {
        let run = RunConfig {
            network: Architecture::from(SimpleUNet { base: budget.base, ..SimpleUNet::default() }),
            training: TrainingConfig {
                epochs: 1_000_000,
                train_steps: budget.train_steps,
                lr: 1e-3,
                warmup: budget.train_steps / 20,
                decay: Decay::Cosine { floor: 0.0 },
                ema: 0.998,
                sample_every: 0,
                ..config
            },
            ..RunConfig::default()
        };
        let architecture = run.architecture(&self.data);
        let mut training = Training::new(run.training, architecture, &self.data, device)?;
        let began = Instant::now();
        training.run()?;
        Ok((training.into_model()?, began.elapsed().as_secs_f64()))
    }

    /// Measures a model's samples of all classes in turn, without guidance.
    pub(super) fn measure(&self, model: &Model, sampler: &Sampler, seed: u64) -> Result<Measured> {
        self.measure_guided(model, 1.0, sampler, seed)
    }

    /// Measures a model's samples of all classes in turn, with the guidance scale `w`.
    pub(super) fn measure_guided(&self, model: &Model, w: f64, sampler: &Sampler, seed: u64) -> Result<Measured> {
        let n = self.samples;
        let classes = self.data.class_names().len();
        let labels: Vec<u32> = (0..n).map(|i| (i % classes) as u32).collect();
        let (began, rng) = (Instant::now(), &mut Rng::new(seed));
        let images = model.sample_in_batches(n, 250, Guidance::new(model.conditions(n)?, w), sampler, rng)?;
        let seconds = began.elapsed().as_secs_f64();
        let (frechet, accuracy) = self.judge(&images, &labels)?;
        Ok(Measured { frechet, accuracy, seconds })
    }

    fn judge(&self, images: &Tensor, labels: &[u32]) -> Result<(f64, f64)> {
        let seen = self.classifier.extract(&images.clamp(-1f32, 1f32)?)?;
        let frechet = self.real.frechet(&Gaussian::fit(&seen.features)?)?;
        let accuracy = class_accuracy(&seen.probabilities, labels)?.accuracy;
        Ok((frechet, accuracy))
    }
}

/// The values of several seeds.
#[derive(Default)]
pub(super) struct Spread(pub(super) Vec<f64>);

impl Spread {
    pub(super) fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// The standard deviation, if there are at least two values.
    pub(super) fn deviation(&self) -> Option<f64> {
        let (mean, n) = (self.mean(), self.0.len() as f64);
        let squares = self.0.iter().map(|x| (x - mean).powi(2));
        (self.0.len() > 1).then(|| (squares.sum::<f64>() / (n - 1.0)).sqrt())
    }
}
