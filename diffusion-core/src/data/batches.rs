//! One pass over a data set in random order.

use super::Dataset;
use crate::rng::Rng;
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

/// The batches of one pass over a [`Dataset`], from [`Dataset::batches`]: every image once, in an order that the generator
/// decided.
///
/// ```
/// use diffusion_core::{data::Dataset, rng::Rng};
/// let sprites = Dataset::sprites(100, 42)?;
/// let sizes: Vec<usize> = sprites.batches(32, &mut Rng::new(0))?.map(|batch| batch.len()).collect();
/// assert_eq!(sizes, [32, 32, 32, 4]);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Batches {
    data: Dataset,
    order: Vec<usize>,
    size: usize,
    next: usize,
}

impl Batches {
    pub(super) fn new(data: Dataset, size: usize, rng: &mut Rng) -> Result<Self> {
        ensure!(size > 0, "size = 0: a batch needs at least 1 image");
        let order = rng.permutation(data.len());
        Ok(Self {
            data,
            order,
            size,
            next: 0,
        })
    }
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let end = (self.next + self.size).min(self.order.len());
        let indices = self
            .order
            .get(self.next..end)
            .filter(|i| !i.is_empty())?
            .to_vec();
        self.next = end;
        Some(Batch {
            data: self.data.clone(),
            indices,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.order.len() - self.next).div_ceil(self.size);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Batches {}

/// Some images of a [`Dataset`] with their labels.
#[derive(Clone, Debug)]
pub struct Batch {
    data: Dataset,
    indices: Vec<usize>,
}

impl Batch {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none; a batch from [`Batches`] has at least one.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Which images of the data set these are.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// The images (B, C, H, W) in \[−1, 1\].
    ///
    /// # Errors
    /// The device has no room for them.
    pub fn images(&self, device: &Device) -> Result<Tensor> {
        self.data.images(self.indices.iter().copied(), device)
    }

    /// The class numbers, B of them.
    pub fn labels(&self) -> Vec<u32> {
        self.indices
            .iter()
            .map(|i| self.data.labels()[*i])
            .collect()
    }

    /// The classes as (B, K) vectors of 0 and a single 1.
    ///
    /// # Errors
    /// The device has no room for them.
    pub fn context(&self, device: &Device) -> Result<Tensor> {
        self.data.context(self.indices.iter().copied(), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_shows_every_image_once_in_an_order_of_the_seeds_own() -> Result<()> {
        let data = Dataset::sprites(103, 1)?;
        let pass = |seed| -> Result<Vec<usize>> {
            let batches = data.batches(10, &mut Rng::new(seed))?;
            assert_eq!(batches.len(), 11);
            Ok(batches.flat_map(|b| b.indices().to_vec()).collect())
        };
        let mut once = pass(5)?;
        assert_eq!(once, pass(5)?);
        assert_ne!(once, pass(6)?);
        once.sort_unstable();
        assert_eq!(once, (0..103).collect::<Vec<_>>());
        Ok(())
    }

    #[test]
    fn images_and_labels_belong_together() -> Result<()> {
        let data = Dataset::sprites(40, 1)?;
        let batch = data.batches(16, &mut Rng::new(2))?.nth(1).unwrap();
        let want = data.images(batch.indices().to_vec(), &Device::Cpu)?;
        assert_eq!(batch.images(&Device::Cpu)?.to_string(), want.to_string());
        let context = batch.context(&Device::Cpu)?.argmax(1)?.to_vec1::<u32>()?;
        assert_eq!(context, batch.labels());
        Ok(())
    }
}
