//! Fingerprints of data sets, and descriptions of their differences.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Augmentation, Dataset, Pixels};

/// The facts about its data that a run records, to describe later changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    images: usize,
    shape: [usize; 3],
    classes: Vec<String>,
    /// The first digits of the SHA-256 of the labels.
    labels: String,
    augmentation: Vec<Augmentation>,
}

impl Facts {
    /// Describes how the data has changed to `now`, for example `it had 540 images and now has 541`.
    ///
    /// Pixels, captions and attributes are not recorded; they are named if nothing else has changed.
    ///
    /// ```
    /// use diffusion_core::data::Dataset;
    /// let (before, now) = (Dataset::sprites(5, 1)?.facts(), Dataset::sprites(6, 1)?.facts());
    /// assert!(before.changes(&now).starts_with("it had 5 images and now has 6"));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn changes(&self, now: &Self) -> String {
        let mut changes = Vec::new();
        if self.images != now.images {
            changes.push(format!("it had {} images and now has {}", self.images, now.images));
        }
        if self.shape != now.shape {
            let [a, b] = [self, now].map(|it| it.shape.map(|n| n.to_string()).join("×"));
            changes.push(format!("its images were {a} and are now {b}"));
        }
        if self.classes != now.classes {
            let [a, b] = [self, now].map(|it| it.classes.join(", "));
            changes.push(format!("its classes were {a} and are now {b}"));
        } else if self.images == now.images && self.labels != now.labels {
            changes.push("labels have changed".to_owned());
        }
        if self.augmentation != now.augmentation {
            changes.push(format!("its augmentation was {:?} and is now {:?}", self.augmentation, now.augmentation));
        }
        if changes.is_empty() {
            changes.push("images, their order, captions or attributes have changed".to_owned());
        }
        changes.join("; ")
    }
}

impl Dataset {
    /// A fingerprint of 16 hexadecimal digits, which changes with the images, their order, labels, captions or attributes,
    /// the class names or the augmentation. A resumed run uses it to notice that its data has changed.
    ///
    /// It is the start of a SHA-256. The name of the data set does not count, nor whether images are in memory or in a
    /// [`Cache`](super::Cache).
    ///
    /// ```
    /// use diffusion_core::data::Dataset;
    /// let sprites = Dataset::sprites(100, 42)?;
    /// assert_eq!(sprites.fingerprint()?, Dataset::sprites(100, 42)?.fingerprint()?);
    /// assert_ne!(sprites.fingerprint()?, Dataset::sprites(100, 43)?.fingerprint()?);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// The file of a cache cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let number = |hasher: &mut Sha256, n: usize| hasher.update((n as u64).to_le_bytes());
        let mut hasher = Sha256::new();
        number(&mut hasher, self.len());
        self.shape.iter().for_each(|&d| number(&mut hasher, d));
        if let Pixels::F32(values) = &self.pixels {
            hasher.update("f32");
            values.iter().for_each(|x| hasher.update(x.to_le_bytes()));
        }
        self.pixels.each(0..self.len(), self.shape.iter().product(), |image| hasher.update(image))?;
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
        for name in self.attribute_names() {
            number(&mut hasher, name.len());
            hasher.update(name);
        }
        self.attributes().iter().for_each(|value| hasher.update(value.to_le_bytes()));
        for augmentation in &self.augmentation {
            hasher.update(match augmentation {
                Augmentation::HorizontalFlip => "horizontal-flip",
            });
        }
        Ok(digits(hasher))
    }

    /// The facts that a run records to describe later changes of its data.
    pub fn facts(&self) -> Facts {
        let mut hasher = Sha256::new();
        self.labels.iter().for_each(|label| hasher.update(label.to_le_bytes()));
        Facts {
            images: self.len(),
            shape: self.shape,
            classes: self.class_names.to_vec(),
            labels: digits(hasher),
            augmentation: self.augmentation.clone(),
        }
    }
}

/// The first 16 hexadecimal digits.
fn digits(hasher: Sha256) -> String {
    let mut digits = format!("{:x}", hasher.finalize());
    digits.truncate(16);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_difference_changes_the_fingerprint() {
        let new = |name, pixels: [u8; 4], shape, labels: &[u32], classes: &[&str]| {
            Dataset::from_u8(name, pixels.to_vec(), shape, labels.to_vec(), classes).unwrap().fingerprint().unwrap()
        };
        let captions = |[a, b]: [&str; 2]| {
            let d = Dataset::from_u8("x", vec![1, 2], [1, 1, 1], vec![0, 0], &["a"]).unwrap();
            d.with_captions(vec![a.to_owned(), b.to_owned()]).unwrap()
        };
        let flipped = captions(["ab", "c"]).with_augmentation([Augmentation::HorizontalFlip]);
        let attributes =
            |values, name| captions(["ab", "c"]).with_attributes(values, &[name]).unwrap().fingerprint().unwrap();
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
            captions(["ab", "c"]).fingerprint().unwrap(),
            captions(["a", "bc"]).fingerprint().unwrap(),
            flipped.fingerprint().unwrap(),
            floats.fingerprint().unwrap(),
            attributes(vec![1.0, -1.0], "x"),
            attributes(vec![1.0, 1.0], "x"),
            attributes(vec![1.0, 1.0], "y"),
        ];
        assert_eq!(different.iter().collect::<HashSet<_>>().len(), 14);
        assert!(different.iter().all(|digits| digits.len() == 16));
    }

    #[test]
    fn changes_are_described() {
        let new = |pixels: &[u8], shape, labels: &[u32], classes: &[&str]| {
            Dataset::from_u8("x", pixels.to_vec(), shape, labels.to_vec(), classes).unwrap()
        };
        let two = new(&[1, 2, 3, 4], [1, 1, 2], &[0, 1], &["a", "b"]);
        for (now, wants) in [
            (new(&[1, 2], [1, 1, 2], &[0], &["a", "b"]), "it had 2 images and now has 1"),
            (new(&[1, 2, 3, 4], [1, 2, 1], &[0, 1], &["a", "b"]), "its images were 1×1×2 and are now 1×2×1"),
            (new(&[1, 2, 3, 4], [1, 1, 2], &[0, 1], &["a", "c"]), "its classes were a, b and are now a, c"),
            (new(&[1, 2, 3, 4], [1, 1, 2], &[1, 0], &["a", "b"]), "labels have changed"),
            (new(&[1, 2, 3, 5], [1, 1, 2], &[0, 1], &["a", "b"]), "images, their order, captions or attributes"),
            (two.clone().with_augmentation([Augmentation::HorizontalFlip]), "its augmentation was []"),
        ] {
            let said = two.facts().changes(&now.facts());
            assert!(said.contains(wants) && !said.contains(';'), "{said}");
        }
    }

    /// Pinned: after a change here, every resumed run would report changed data.
    #[test]
    fn the_fingerprint_is_unchanged() {
        let d = Dataset::from_u8("x", vec![1, 2, 3, 4], [1, 2, 2], vec![0], &["a", "b"]).unwrap();
        assert_eq!(d.fingerprint().unwrap(), "0242d6a5a88e5110");
    }
}
