//! The loss on held-out images.

use super::{Objective, TrainingBatch, TrainingConfig};
use crate::data::Dataset;
use crate::rng::Rng;
use anyhow::Result;
use std::time::Instant;

/// The largest number of images that are evaluated.
const MOST: usize = 256;
/// The largest batch. Times and noise are drawn for each batch, so runs with different batches can be compared.
const BATCH: usize = 64;
/// The seed of times and noise, the same for all runs.
const SEED: u64 = 0;
/// By default, the number of training images between two measurements for each image that is evaluated.
const TRAINED: usize = 32;

/// The held-out images, and when they are evaluated.
#[derive(Debug)]
pub(super) struct HeldOut {
    images: Dataset,
    /// The steps between two measurements; 0 for none.
    pub(super) every: usize,
    /// The time of the last measurement in seconds.
    pub(super) seconds: f64,
}

impl HeldOut {
    pub(super) fn new(images: Dataset, config: &TrainingConfig) -> Self {
        let by_default = || (TRAINED * images.len().min(MOST)).div_ceil(config.images_per_step()).max(1);
        Self { every: config.validate_every.unwrap_or_else(by_default), seconds: 0.0, images }
    }

    /// Whether a measurement is due after `done` steps.
    pub(super) fn due(&self, done: usize, end: bool) -> bool {
        self.every > 0 && (end || done.is_multiple_of(self.every))
    }

    /// The mean loss of up to [`MOST`] images from all parts of the data set, with the raw weights and always with the
    /// same times and noise; `None` if the objective has none.
    pub(super) fn measure<O: Objective>(&mut self, objective: &mut O, batch: usize) -> Result<Option<f64>> {
        let (began, all) = (Instant::now(), self.images.len());
        let (n, device) = (all.min(MOST), objective.device());
        let chosen: Vec<usize> = (0..n).map(|i| i * all / n).collect();
        let (mut rng, mut sum) = (Rng::new(SEED), 0.0);
        for indices in chosen.chunks(batch.min(BATCH)) {
            let images = self.images.images(indices.iter().copied(), &device)?;
            let batch = TrainingBatch { images, data: &self.images, indices, within: 0..indices.len() };
            let Some(loss) = objective.validation_loss(&batch, &mut rng)? else {
                return Ok(None);
            };
            sum += loss * indices.len() as f64;
        }
        self.seconds = began.elapsed().as_secs_f64();
        Ok(Some(sum / n as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Parameters;
    use crate::train::Noise;
    use candle_core::{DType, Device, Tensor};

    /// Notes what it is asked for.
    struct Asked {
        parameters: Parameters,
        batches: Vec<usize>,
        images: Vec<usize>,
        drawn: Vec<u64>,
    }

    impl Objective for Asked {
        fn parameters(&self) -> &Parameters {
            &self.parameters
        }
        fn loss(&mut self, batch: &TrainingBatch, _: &mut Noise) -> Result<Tensor> {
            Ok(batch.images().mean_all()?)
        }
        fn validation_loss(&mut self, batch: &TrainingBatch, rng: &mut Rng) -> Result<Option<f64>> {
            self.batches.push(batch.len());
            self.images.extend(batch.indices());
            self.drawn.push(rng.uniform().to_bits());
            Ok(Some(batch.indices()[0] as f64))
        }
    }

    #[test]
    fn images_of_all_parts_are_evaluated_independently_of_seed_and_large_batches() -> Result<()> {
        let asked = |batch: usize| -> Result<(Asked, Option<f64>)> {
            let parameters = Parameters::new(DType::F32, &Device::Cpu);
            let mut asked = Asked { parameters, batches: Vec::new(), images: Vec::new(), drawn: Vec::new() };
            let config = TrainingConfig { seed: batch as u64, ..Default::default() };
            let loss = HeldOut::new(Dataset::sprites(600, 1)?, &config).measure(&mut asked, batch)?;
            Ok((asked, loss))
        };
        let (large, loss) = asked(1000)?;
        assert_eq!(large.batches, [64; 4]);
        assert_eq!((large.images.len(), large.images[0], large.images[255]), (256, 0, 597));
        assert!(large.images.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(loss, Some((0.0 + 150.0 + 300.0 + 450.0) / 4.0));
        let (other, _) = asked(64)?;
        assert_eq!((&other.images, &other.drawn), (&large.images, &large.drawn));
        // The last batch is smaller and counts less.
        let (small, loss) = asked(100)?;
        assert_eq!((small.batches, loss), (vec![64; 4], Some(225.0)));
        let (small, loss) = asked(60)?;
        assert_eq!(small.batches, [60, 60, 60, 60, 16]);
        assert_eq!(loss, Some((60.0 * (0.0 + 140.0 + 281.0 + 421.0) + 16.0 * 562.0) / 256.0));
        Ok(())
    }

    #[test]
    fn the_default_interval_follows_the_images() -> Result<()> {
        for (held_out, batch, accumulate, validate_every, every) in [
            (1000, 64, 1, None, 128),
            (1000, 16, 8, None, 64),
            (10, 8, 1, None, 40),
            (3, 64, 64, None, 1),
            (1000, 64, 1, Some(7), 7),
            (1000, 64, 1, Some(0), 0),
        ] {
            let config = TrainingConfig { batch, accumulate, validate_every, ..Default::default() };
            let it = HeldOut::new(Dataset::sprites(held_out, 1)?, &config);
            assert_eq!(it.every, every);
            assert_eq!((it.due(14, false), it.due(15, true)), (every == 7 || every == 1, every > 0));
        }
        Ok(())
    }
}
