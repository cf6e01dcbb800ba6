//! Data augmentation: random changes to training images that keep their content.

use anyhow::Result;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::Dataset;
use diffusion_ops::rng::Rng;

/// A random change to a training image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augmentation {
    /// Mirrors the image left to right with probability 1/2.
    HorizontalFlip,
}

impl Dataset {
    /// Sets the augmentations that [`Dataset::batch`] applies, in this order; an empty list turns them off.
    ///
    /// ```
    /// use diffusion_core::{candle::Device, data::{Augmentation, Dataset}, rng::Rng};
    /// let sprites = Dataset::sprites(8, 42)?.with_augmentation([Augmentation::HorizontalFlip]);
    /// let x0 = sprites.images(0..8, &Device::Cpu)?;
    /// let batch = sprites.batch(0..8, &mut Rng::new(1), &Device::Cpu)?;
    /// assert_eq!(batch.dims(), x0.dims());
    /// assert_ne!(batch.to_string(), x0.to_string());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn with_augmentation(self, list: impl IntoIterator<Item = Augmentation>) -> Self {
        Self { augmentation: list.into_iter().collect(), ..self }
    }

    /// The augmentations that [`Dataset::batch`] applies; none by default.
    pub fn augmentation(&self) -> &[Augmentation] {
        &self.augmentation
    }

    /// Loads the images with these indices and augments them: [`Dataset::images`], then [`Dataset::augment`].
    ///
    /// # Shapes
    /// (B, C, H, W) f32 for B `indices`.
    ///
    /// # Errors
    /// See [`Dataset::images`].
    pub fn batch(&self, indices: impl IntoIterator<Item = usize>, rng: &mut Rng, device: &Device) -> Result<Tensor> {
        self.augment(self.images(indices, device)?, rng)
    }

    /// Applies the augmentations to images of this data set, on the device of `images`.
    ///
    /// For each image and augmentation, one number is drawn from `rng`, image by image, so two consecutive batches are
    /// augmented like one batch of both. Without augmentations nothing is drawn and `images` is returned.
    ///
    /// # Shapes
    /// `images` and result (B, C, H, W).
    ///
    /// # Errors
    /// `images` does not have four dimensions, or the device is out of memory.
    pub fn augment(&self, mut images: Tensor, rng: &mut Rng) -> Result<Tensor> {
        let (batch, _, _, _) = images.dims4()?;
        let mut chosen = vec![Vec::with_capacity(batch); self.augmentation.len()];
        for _ in 0..batch {
            for chosen in &mut chosen {
                chosen.push(u8::from(rng.uniform() < 0.5));
            }
        }
        for (augmentation, chosen) in self.augmentation.iter().zip(chosen) {
            let changed = match augmentation {
                Augmentation::HorizontalFlip => images.flip(&[3])?,
            };
            let chosen = Tensor::from_vec(chosen, (batch, 1, 1, 1), images.device())?;
            let chosen = chosen.broadcast_as(images.shape())?;
            images = chosen.where_cond(&changed, &images)?;
        }
        Ok(images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(x: Tensor) -> Result<Vec<f32>> {
        Ok(x.flatten_all()?.to_vec1()?)
    }

    #[test]
    fn a_flip_mirrors_about_half_of_the_images_and_nothing_else() -> Result<()> {
        let pixels = (0..100).flat_map(|i| [i, i + 1, i + 2, i + 3, i + 4, i + 5]);
        let d = Dataset::from_u8("x", pixels.collect(), [1, 2, 3], vec![0; 100], &["a"])?;
        let (mut rng, cpu) = (Rng::new(3), Device::Cpu);
        let plain = values(d.batch(0..100, &mut rng, &cpu)?)?;
        assert_eq!(plain, values(d.images(0..100, &cpu)?)?);
        assert_eq!(rng, Rng::new(3), "nothing to draw");

        let d = d.with_augmentation([Augmentation::HorizontalFlip]);
        assert_eq!(values(d.images(0..100, &cpu)?)?, plain);
        let batch = values(d.batch(0..100, &mut rng, &cpu)?)?;
        let mut flipped = 0;
        for (got, image) in batch.chunks(6).zip(plain.chunks(6)) {
            let mirrored: Vec<f32> = image.chunks(3).flat_map(|row| row.iter().rev().copied()).collect();
            assert!(got == image || got == mirrored, "{got:?} {image:?}");
            flipped += usize::from(got == mirrored);
        }
        assert!((35..65).contains(&flipped), "{flipped}");

        // The same stream gives the same batch, also in two halves.
        let mut again = Rng::new(3);
        let mut halves = values(d.batch(0..30, &mut again, &cpu)?)?;
        halves.extend(values(d.batch(30..100, &mut again, &cpu)?)?);
        assert_eq!(halves, batch);
        Ok(())
    }
}
