//! All measures of samples that are there.

use crate::measure::Timed;
use anyhow::Result;
use diffusion_core::candle::{Device, Tensor};
use diffusion_core::data::Dataset;
use diffusion_core::metrics::{Classifier, Evaluation};
use diffusion_core::rng::Rng;

/// As many images as MNIST has to test on.
const REAL: usize = 10_000;
/// More than copies are searched in.
const TRAIN: usize = 60_000;
const CLASSES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

pub struct Measuring {
    classifier: Classifier,
    real: Dataset,
    train: Dataset,
    samples: Tensor,
    labels: Vec<u32>,
}

impl Measuring {
    /// Of `n` samples of 28×28. What they show is no matter of time.
    pub fn new(n: usize) -> Result<Self> {
        let mut rng = Rng::new(1);
        let mut noise = |n: usize| {
            let pixels = (0..n * 784).map(|_| rng.below(256) as u8).collect();
            let labels = (0..n).map(|i| i as u32 % 10).collect();
            Dataset::from_u8("noise", pixels, [1, 28, 28], labels, &CLASSES)
        };
        let (real, train, samples) = (noise(REAL)?, noise(TRAIN)?, noise(n)?);
        let (shape, classes) = (real.shape(), real.class_names());
        let classifier = Classifier::new("noise", shape, classes, 32, &mut Rng::new(2), &Device::Cpu)?;
        Ok(Self {
            labels: samples.labels().to_vec(),
            samples: samples.images(0..n, &Device::Cpu)?,
            classifier,
            real,
            train,
        })
    }

    /// The seconds of everything that `diffusion evaluate` measures.
    pub fn seconds(&self) -> Result<f64> {
        Timed::new(|| {
            let (labels, rng) = (Some(&self.labels[..]), &mut Rng::new(3));
            let (real, train) = (&self.real, &self.train);
            Evaluation::new(&self.classifier, real, train, &self.samples, labels, rng)
        })
        .seconds()
    }
}
