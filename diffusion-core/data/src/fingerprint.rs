//! A short name for what is in a data set.

use sha2::{Digest, Sha256};

use super::{Augmentation, Dataset, Pixels};

impl Dataset {
    /// 16 hexadecimal digits that differ if the images, their order, labels or captions, the names of the classes or the
    /// augmentation differ: how a run that is resumed notices that its data has changed.
    ///
    /// They are the beginning of a SHA-256. The name of the data set does not count.
    ///
    /// ```
    /// use diffusion_core::data::Dataset;
    /// let sprites = Dataset::sprites(100, 42)?;
    /// assert_eq!(sprites.fingerprint(), Dataset::sprites(100, 42)?.fingerprint());
    /// assert_ne!(sprites.fingerprint(), Dataset::sprites(100, 43)?.fingerprint());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn fingerprint(&self) -> String {
        let number = |hasher: &mut Sha256, n: usize| hasher.update((n as u64).to_le_bytes());
        let mut hasher = Sha256::new();
        number(&mut hasher, self.len());
        self.shape.iter().for_each(|&d| number(&mut hasher, d));
        match &self.pixels {
            Pixels::U8(pixels) => hasher.update(pixels),
            Pixels::F32(values) => {
                hasher.update("f32");
                values.iter().for_each(|x| hasher.update(x.to_le_bytes()));
            }
        }
        for label in self.labels.iter() {
            hasher.update(label.to_le_bytes());
        }
        number(&mut hasher, self.class_names.len());
        for name in self.class_names.iter() {
            number(&mut hasher, name.len());
            hasher.update(name);
        }
        for caption in self.captions().unwrap_or_default() {
            number(&mut hasher, caption.len());
            hasher.update(caption);
        }
        for augmentation in &self.augmentation {
            hasher.update(match augmentation {
                Augmentation::HorizontalFlip => "horizontal-flip",
            });
        }
        let mut digits = format!("{:x}", hasher.finalize());
        digits.truncate(16);
        digits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn whatever_differs_changes_it() {
        let new = |name, pixels: [u8; 4], shape, labels: &[u32], classes: &[&str]| {
            Dataset::from_u8(name, pixels.to_vec(), shape, labels.to_vec(), classes).unwrap().fingerprint()
        };
        let captions = |[a, b]: [&str; 2]| {
            let d = Dataset::from_u8("x", vec![1, 2], [1, 1, 1], vec![0, 0], &["a"]).unwrap();
            d.with_captions(vec![a.to_owned(), b.to_owned()]).unwrap()
        };
        let flipped = captions(["ab", "c"]).with_augmentation([Augmentation::HorizontalFlip]);
        let bits = f32::from_bits(u32::from_le_bytes([1, 2, 3, 4]));
        let floats = Dataset::from_f32("x", vec![bits], [1, 1, 1], vec![0], &["a"]).unwrap();
        let first = new("x", [1, 2, 3, 4], [1, 2, 2], &[0], &["a", "bc"]);
        assert_eq!(first, new("y", [1, 2, 3, 4], [1, 2, 2], &[0], &["a", "bc"]));
        let different = [
            first,
            new("x", [1, 2, 3, 5], [1, 2, 2], &[0], &["a", "bc"]),
            new("x", [1, 2, 3, 4], [1, 1, 4], &[0], &["a", "bc"]),
            new("x", [1, 2, 3, 4], [1, 2, 2], &[1], &["a", "bc"]),
            new("x", [1, 2, 3, 4], [1, 2, 2], &[0], &["ab", "c"]),
            new("x", [1, 2, 3, 4], [1, 2, 2], &[0], &["a"]),
            new("x", [1, 2, 3, 4], [1, 1, 2], &[0, 0], &["a", "bc"]),
            captions(["ab", "c"]).fingerprint(),
            captions(["a", "bc"]).fingerprint(),
            flipped.fingerprint(),
            floats.fingerprint(),
        ];
        assert_eq!(different.iter().collect::<HashSet<_>>().len(), 11);
        assert!(different.iter().all(|digits| digits.len() == 16));
    }

    /// Pinned: a change here makes every run that is resumed say that its data has changed.
    #[test]
    fn it_stays_the_same() {
        let d = Dataset::from_u8("x", vec![1, 2, 3, 4], [1, 2, 2], vec![0], &["a", "b"]).unwrap();
        assert_eq!(d.fingerprint(), "0242d6a5a88e5110");
    }
}
