//! MNIST and Fashion-MNIST.

use anyhow::Result;

use super::download::{self, RemoteFile, data_dir};
use super::locate::locate;
use super::{Dataset, Split};

/// The names of MNIST's classes.
pub const MNIST_CLASSES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// The names of Fashion-MNIST's classes.
pub const FASHION_CLASSES: [&str; 10] =
    ["T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"];

impl Dataset {
    /// MNIST: 28×28 greyscale handwritten digits, 60,000 training and 10,000 test images, downloaded on first use (11.6
    /// MB) into `mnist` in [`data_dir`].
    ///
    /// Authors: Y. LeCun, C. Cortes, C. Burges; licence CC BY-SA 3.0.
    ///
    /// # Errors
    /// A file neither exists nor can be downloaded, or it is damaged: the message says where to put it by hand.
    pub fn mnist(split: Split) -> Result<Self> {
        Self::idx_files("mnist", &download::mnist(), split, &MNIST_CLASSES)
    }

    /// Fashion-MNIST ([Xiao et al. 2017](https://arxiv.org/abs/1708.07747)): articles of clothing in MNIST's format,
    /// downloaded on first use (30.9 MB) into `fashion-mnist` in [`data_dir`]. Licence MIT.
    ///
    /// # Errors
    /// See [`Dataset::mnist`].
    pub fn fashion_mnist(split: Split) -> Result<Self> {
        let files = download::fashion_mnist();
        Self::idx_files("fashion-mnist", &files, split, &FASHION_CLASSES)
    }

    /// Four IDX files (training images and labels, test images and labels) in the folder `name` of the data folder.
    fn idx_files(name: &str, files: &[RemoteFile; 4], split: Split, classes: &[&str]) -> Result<Self> {
        let [images, labels] = match split {
            Split::Train => [&files[0], &files[1]],
            Split::Test => [&files[2], &files[3]],
        };
        let dir = data_dir().join(name);
        let (images, labels) = (locate(images, &dir)?, locate(labels, &dir)?);
        Self::from_idx(name, &images, &labels, classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Skipped if the real files are not available.
    #[test]
    fn mnist_has_the_expected_content() -> Result<()> {
        let dir = data_dir();
        if !dir.join("mnist/t10k-images-idx3-ubyte.gz").is_file() {
            eprintln!("MNIST is not in {}: only the made-up files were tested", dir.display());
            return Ok(());
        }
        let test = Dataset::mnist(Split::Test)?;
        assert_eq!(test.shape(), [1, 28, 28]);
        assert_eq!(test.class_counts(), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]);
        Ok(())
    }
}
