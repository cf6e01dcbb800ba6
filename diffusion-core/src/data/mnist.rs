//! MNIST, Fashion-MNIST, and data sets of your own in their format.

use std::path::Path;

use anyhow::Result;

use super::download::{self, RemoteFile};
use super::locate::locate;
use super::{Dataset, Part, idx};

/// The names of MNIST's classes.
pub const MNIST_CLASSES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// The names of Fashion-MNIST's classes.
pub const FASHION_CLASSES: [&str; 10] = [
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
];

impl Dataset {
    /// MNIST: 28×28 grey handwritten digits, 60,000 to learn from and 10,000 to test on, downloaded on first use
    /// (11.6 MB) into `mnist` in [`download::data_dir`].
    ///
    /// Authors: Y. LeCun, C. Cortes, C. Burges; licence CC BY-SA 3.0.
    ///
    /// # Errors
    /// A file is neither there nor to be had, or is damaged: the message says where to put it by hand.
    pub fn mnist(part: Part) -> Result<Self> {
        Self::idx_files(
            "mnist",
            &download::mnist(),
            part,
            &MNIST_CLASSES,
            &download::data_dir(),
        )
    }

    /// Fashion-MNIST ([Xiao et al. 2017](https://arxiv.org/abs/1708.07747)): articles of clothing in MNIST's format,
    /// downloaded on first use (30.9 MB) into `fashion-mnist` in [`download::data_dir`]. Licence MIT.
    ///
    /// # Errors
    /// As [`Dataset::mnist`].
    pub fn fashion_mnist(part: Part) -> Result<Self> {
        let files = download::fashion_mnist();
        Self::idx_files(
            "fashion-mnist",
            &files,
            part,
            &FASHION_CLASSES,
            &download::data_dir(),
        )
    }

    /// Four IDX files (images and labels to learn from, images and labels to test on) in the folder `name` of `data_dir`.
    fn idx_files(
        name: &str,
        files: &[RemoteFile; 4],
        part: Part,
        classes: &[&str],
        data_dir: &Path,
    ) -> Result<Self> {
        let [images, labels] = match part {
            Part::Train => [&files[0], &files[1]],
            Part::Test => [&files[2], &files[3]],
        };
        let dir = data_dir.join(name);
        Self::from_idx(
            name,
            &locate(images, &dir)?,
            &locate(labels, &dir)?,
            classes,
        )
    }

    /// Grey images and labels from a pair of IDX files of your own, gzip or raw.
    ///
    /// # Errors
    /// A file cannot be read or is not what it should be, the two differ in number, or a label has no class name.
    pub fn from_idx(name: &str, images: &Path, labels: &Path, classes: &[&str]) -> Result<Self> {
        let read = idx::read_labelled(images, labels, classes.len())?;
        let labels = read.labels.into_iter().map(u32::from).collect();
        Self::new(
            name,
            read.pixels,
            [1, read.height, read.width],
            labels,
            classes,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs on the real files where they are, and on nothing where they are not.
    #[test]
    fn mnist_is_what_it_should_be() -> Result<()> {
        let dir = download::data_dir();
        if !dir.join("mnist/t10k-images-idx3-ubyte.gz").is_file() {
            eprintln!(
                "MNIST is not in {}: only the made-up files were tested",
                dir.display()
            );
            return Ok(());
        }
        let test = Dataset::mnist(Part::Test)?;
        assert_eq!(test.shape(), [1, 28, 28]);
        assert_eq!(
            test.class_counts(),
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        );
        Ok(())
    }
}
