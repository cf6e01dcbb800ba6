//! Training of a classifier.

use super::{Attribute, Classifier};
use crate::class_accuracy;
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use candle_nn::loss::cross_entropy;
use diffusion_data::Dataset;
use diffusion_data::sprites::Sprites;
use diffusion_nn::optim::{AdamW, AdamWConfig, Decay};
use diffusion_ops::ops::backward;
use diffusion_ops::rng::Rng;
use diffusion_show::progress::Progress;

/// The number of test images in memory at once.
const AT_ONCE: usize = 1000;

/// Hyper-parameters of a [`Classifier`]: cross-entropy loss, AdamW, a learning rate with warm-up and cosine decay, and
/// random translations.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Passes over the images, at least 1. Default 6.
    pub epochs: usize,
    /// Images in a batch, at least 2. Default 128.
    pub batch: usize,
    /// The channels of the network's first convolution, 1 … 1024: 32 for digits and sprites, 64 for photographs. Default 32.
    pub base: usize,
    /// The peak learning rate, reached after a tenth of the steps. Default 0.003.
    pub lr: f64,
    /// The weight decay of AdamW. Default 0.05.
    pub weight_decay: f64,
    /// Every image is translated by −shift … shift pixels along each axis, repeating the pixels at the edge. Default 2.
    pub shift: usize,
    /// The seed of all random numbers. Default 42.
    pub seed: u64,
}

impl Default for Fit {
    fn default() -> Self {
        Self { epochs: 6, batch: 128, base: 32, lr: 3e-3, weight_decay: 0.05, shift: 2, seed: 42 }
    }
}

impl Fit {
    /// Trains a classifier on `train`, with its augmentation; `test` is used once, at the end, for [`About::test_accuracy`](super::About).
    ///
    /// # Errors
    /// The data sets differ in shape or classes, a value is out of range, there are fewer images than in a batch, or
    /// the loss becomes NaN or infinite.
    pub fn run(&self, train: &Dataset, test: &Dataset, device: &Device) -> Result<Classifier> {
        self.run_with(train, test, Vec::new(), &[], device)
    }

    /// Trains a classifier of the classes and of all attributes of sprites; `test` is used once, at the end.
    ///
    /// # Errors
    /// See [`Fit::run`].
    pub fn run_attributes(&self, train: &Sprites, test: &Sprites, device: &Device) -> Result<Classifier> {
        let attributes = Attribute::of(&train.attributes);
        let labels = attributes.iter().map(|it| it.labels(&train.attributes)).collect::<Result<Vec<_>>>()?;
        let [train, test_images] = [Dataset::from_sprites(train)?, Dataset::from_sprites(test)?];
        let mut it = self.run_with(&train, &test_images, attributes, &labels, device)?;
        let x = test_images.images(0..test_images.len(), &Device::Cpu)?;
        for (name, accuracy) in it.attribute_accuracy(&x, &test.attributes)?.each {
            let mut attributes = it.about.attributes.iter_mut();
            if let Some(attribute) = attributes.find(|it| it.name == name) {
                attribute.test_accuracy = accuracy.accuracy;
            }
        }
        Ok(it)
    }

    /// `labels` are those of each attribute.
    fn run_with(
        &self,
        train: &Dataset,
        test: &Dataset,
        attributes: Vec<Attribute>,
        labels: &[Vec<u32>],
        device: &Device,
    ) -> Result<Classifier> {
        ensure!(
            train.shape() == test.shape() && train.class_names() == test.class_names(),
            "classifier: {train} and {test} differ in shape or classes"
        );
        for (field, value, least, most) in
            [("epochs", self.epochs, 1, 100_000), ("batch", self.batch, 2, train.len()), ("shift", self.shift, 0, 1024)]
        {
            ensure!((least..=most).contains(&value), "classifier: {field} = {value} must be in {least} … {most}");
        }
        let mut rng = Rng::new(self.seed);
        let (shape, classes) = (train.shape(), train.class_names());
        let mut it =
            Classifier::with_attributes(train.name(), shape, classes, self.base, attributes, &mut rng, device)?;
        let config = AdamWConfig { lr: self.lr, weight_decay: self.weight_decay, ..Default::default() };
        let mut adam = AdamW::new(&it.params.by_name(), config)?;
        // A batch norm learns nothing from the few images that may remain.
        let per_epoch = train.len() / self.batch;
        let steps = self.epochs * per_epoch;
        let mut progress = Progress::new(steps as u64, "classifier");
        for _ in 0..self.epochs {
            for indices in rng.permutation(train.len()).chunks_exact(self.batch) {
                let share = Decay::Cosine { floor: 0.0 }.share(it.about.steps, steps, steps / 10);
                adam.set_lr(self.lr * share)?;
                let loss = self.step(&it, &mut adam, (train, labels), indices, &mut rng, device)?;
                ensure!(
                    loss.is_finite(),
                    "classifier: the loss is {loss} at step {}; use a learning rate below {}",
                    it.about.steps,
                    self.lr
                );
                it.about.steps += 1;
                it.about.images_seen += indices.len() as u64;
                progress.message(format!("loss {loss:.4}"));
                progress.step();
            }
        }
        progress.finish();
        it.about.test_accuracy = it.accuracy(test)?;
        it.about.test_images = test.len();
        Ok(it)
    }

    fn step(
        &self,
        it: &Classifier,
        adam: &mut AdamW,
        (train, of_attributes): (&Dataset, &[Vec<u32>]),
        indices: &[usize],
        rng: &mut Rng,
        device: &Device,
    ) -> Result<f32> {
        let images = train.batch(indices.iter().copied(), rng, &Device::Cpu)?;
        let x = shifted(&images, self.shift, rng)?.to_device(device)?;
        let logits = it.logits(&x)?;
        let labels: Vec<u32> = indices.iter().map(|i| train.labels()[*i]).collect();
        let classes = it.about.classes.len();
        let labels = Tensor::from_vec(labels, indices.len(), device)?;
        let mut loss = cross_entropy(&logits.narrow(1, 0, classes)?, &labels)?;
        for ((attribute, range), all) in it.about.attributes.iter().zip(it.about.ranges(classes)).zip(of_attributes) {
            let labels: Vec<u32> = indices.iter().map(|i| all[*i]).collect();
            loss = (loss + attribute.loss(&logits.narrow(1, range.0, range.1)?, labels)?)?;
        }
        adam.step(&backward(&loss)?)?;
        Ok(loss.to_scalar()?)
    }
}

impl Classifier {
    /// The classification accuracy on `data`, 0 … 1.
    ///
    /// # Errors
    /// The images have a different shape; or see [`class_accuracy`].
    pub fn accuracy(&self, data: &Dataset) -> Result<f64> {
        let mut right = 0.0;
        for start in (0..data.len()).step_by(AT_ONCE) {
            let some = start..data.len().min(start + AT_ONCE);
            let labels = &data.labels()[some.clone()];
            let p = self.probabilities(&data.images(some, &Device::Cpu)?)?;
            right += class_accuracy(&p, labels)?.accuracy * labels.len() as f64;
        }
        Ok(right / data.len() as f64)
    }
}

/// Translates every image by a random −by … by pixels along each axis, repeating the pixels at the edge.
fn shifted(x: &Tensor, by: usize, rng: &mut Rng) -> Result<Tensor> {
    let (n, channels, height, width) = x.dims4()?;
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    let mut moved = Vec::with_capacity(values.len());
    for image in values.chunks_exact(channels * height * width) {
        let [dy, dx] = [0, 1].map(|_| rng.below(2 * by + 1) as isize - by as isize);
        let from = |at: usize, d: isize, len: usize| at.saturating_add_signed(d).min(len - 1);
        for plane in image.chunks_exact(height * width) {
            for y in 0..height {
                let row = &plane[from(y, dy, height) * width..][..width];
                moved.extend((0..width).map(|x| row[from(x, dx, width)]));
            }
        }
    }
    Ok(Tensor::from_vec(moved, (n, channels, height, width), x.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_translated_and_edges_are_repeated() -> Result<()> {
        let x = Tensor::arange(0f32, 2.0 * 5.0 * 7.0, &Device::Cpu)?.reshape((1, 2, 5, 7))?;
        let (mut rng, mut seen) = (Rng::new(1), std::collections::BTreeSet::new());
        for _ in 0..300 {
            let moved = shifted(&x, 2, &mut rng)?.flatten_all()?.to_vec1::<f32>()?;
            // The translation follows from the pixel now at (2, 3), the same in both channels.
            let centre = moved[2 * 7 + 3] as isize;
            let (dy, dx) = (centre / 7 - 2, centre % 7 - 3);
            for (i, value) in moved.iter().enumerate() {
                let (c, y, x) = ((i / 35) as isize, (i / 7 % 5) as isize, (i % 7) as isize);
                let want = 35 * c + 7 * (y + dy).clamp(0, 4) + (x + dx).clamp(0, 6);
                assert_eq!(*value, want as f32, "{dy} {dx} at {i}");
            }
            seen.insert((dy, dx));
        }
        assert_eq!(seen.len(), 25);
        let same = shifted(&x, 0, &mut rng)?;
        assert_eq!((same - &x)?.abs()?.max_all()?.to_scalar::<f32>()?, 0.0);
        Ok(())
    }

    #[test]
    fn errors_name_the_value_out_of_range() -> Result<()> {
        let (train, other) =
            (Dataset::sprites(20, 1)?, Dataset::sprites(20, 1)?.resize(8, diffusion_data::Resize::Nearest)?);
        let fail = |fit: Fit, test| fit.run(&train, test, &Device::Cpu).unwrap_err().to_string();
        for (message, wants) in [
            (fail(Fit { epochs: 0, ..Default::default() }, &train), "epochs = 0"),
            (fail(Fit { batch: 21, ..Default::default() }, &train), "batch = 21 must be in 2 … 20"),
            (fail(Fit { batch: 4, lr: -1.0, ..Default::default() }, &train), "lr = -1"),
            (fail(Fit::default(), &other), "differ in shape or classes"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
