//! Training data: built-in sprites, MNIST, Fashion-MNIST, CIFAR-10, CelebA, NumPy arrays, image folders and latents.
//!
//! A [`Dataset`] of 8-bit images returns tensors in \[−1, 1\], the range of diffusion models; one of f32 values, such
//! as the latents of an autoencoder, returns them unchanged. The built-in sprites ([`Dataset::sprites`]) need no file
//! and no network. MNIST, Fashion-MNIST and CIFAR-10 are downloaded on first use into [`download::data_dir`], or ahead
//! of time with [`fetch`]. Your own images come from a folder ([`Dataset::from_folder`]), from NumPy
//! ([`Dataset::from_npy`]), from IDX files ([`Dataset::from_idx`]) or from memory ([`Dataset::from_u8`],
//! [`Dataset::from_f32`]). [`Source`] names any of them in a configuration, and a [`Cache`] keeps the decoded pictures of
//! a folder in a file. CelebA ([`Dataset::celeba`]) is read from files that you have downloaded.

mod augment;
mod cache;
mod celeba;
mod cifar;
mod context;
pub mod download;
mod fingerprint;
mod folder;
mod idx;
mod locate;
mod mnist;
mod npy;
mod picture;
mod pixels;
mod resize;
mod source;

#[doc(inline)]
pub use diffusion_sprites as sprites;
#[cfg(test)]
mod tests;

pub use augment::Augmentation;
pub use cache::Cache;
pub use cifar::CIFAR10_CLASSES;
pub use fingerprint::Facts;
pub use folder::PictureSizes;
pub use locate::{DOWNLOADS, fetch};
pub use mnist::{FASHION_CLASSES, MNIST_CLASSES};
pub use npy::{labels_from_npy, samples_from_npy};
pub use picture::{read_image, write_image};
pub use resize::{Fit, Resize};
pub use source::{Source, TASKS};

use std::fmt;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use candle_core::{Device, Tensor};

use context::Attributes;
use diffusion_ops::rng::Rng;
use pixels::{Pixels, gather};
use resize::to_channels_first;
use sprites::Combinations;

/// The largest number of sprites that [`Dataset::sprites`] draws: 768 MB of pixels.
pub const MAX_SPRITES: usize = 1_000_000;

/// The largest size of the pixels read from files or made by [`Dataset::resize`]: 8 GiB.
pub const MAX_BYTES: u64 = 8 << 30;

/// The largest number of classes for labels without names.
pub const MAX_CLASSES: usize = 10_000;

/// The largest number of channels of an image or latent.
pub const MAX_CHANNELS: usize = 64;

/// A split of a data set: the images to train on, or the held-out test set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The training images.
    Train,
    /// The test images.
    Test,
}

/// A data set of labelled images, or latents, of one size.
///
/// ```
/// use diffusion_core::{candle::Device, data::Dataset};
/// let sprites = Dataset::sprites(100, 42)?;
/// assert_eq!(sprites.images(0..8, &Device::Cpu)?.dims(), &[8, 3, 16, 16]);
/// assert_eq!(sprites.class_names().len(), 5);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct Dataset {
    name: String,
    pixels: Pixels,
    /// The shape (C, H, W) of an image.
    shape: [usize; 3],
    labels: Arc<[u32]>,
    class_names: Arc<[String]>,
    captions: Option<Arc<[String]>>,
    attributes: Option<Attributes>,
    augmentation: Vec<Augmentation>,
    /// The number of entries of a folder that are not images.
    skipped: usize,
}

impl Dataset {
    /// Draws `n` sprites procedurally: 16×16 RGB on white, in five classes ([`sprites::CLASSES`]), determined by
    /// `seed`. The first 100 of 10,000 are the same as 100.
    ///
    /// # Errors
    /// `n` = 0 or above [`MAX_SPRITES`].
    pub fn sprites(n: usize, seed: u64) -> Result<Self> {
        Ok(Self { captions: None, ..Self::captioned_sprites(n, seed, Combinations::All)? })
    }

    /// [`Dataset::sprites`] with a caption for each image, and only some combinations of attributes:
    /// [`sprites::generate_of`].
    ///
    /// ```
    /// use diffusion_core::data::{Dataset, sprites::Combinations};
    /// let sprites = Dataset::captioned_sprites(100, 42, Combinations::Seen)?;
    /// assert!(sprites.captions().is_some_and(|captions| captions.len() == 100));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Dataset::sprites`].
    pub fn captioned_sprites(n: usize, seed: u64, combinations: Combinations) -> Result<Self> {
        ensure!((1..=MAX_SPRITES).contains(&n), "n = {n} sprites must be in 1 … {MAX_SPRITES}");
        Self::from_sprites(&sprites::generate_of(combinations, n, seed))
    }

    /// The images, classes and captions of drawn sprites.
    ///
    /// # Errors
    /// There is no sprite.
    pub fn from_sprites(drawn: &sprites::Sprites) -> Result<Self> {
        const SIDE: usize = sprites::SIDE;
        let by_channel = to_channels_first(&drawn.pixels, 3, SIDE * SIDE);
        Self::from_u8("sprites", by_channel, [3, SIDE, SIDE], drawn.labels.clone(), &sprites::CLASSES)?
            .with_captions(drawn.captions.clone())
    }

    /// Creates a data set of 8-bit images.
    ///
    /// `pixels` are (N, C, H, W) in row-major order, 0 … 255; `shape` is (C, H, W) with C = 1 … [`MAX_CHANNELS`], 1 for
    /// greyscale and 3 for RGB; `labels` are N class labels, indices into `classes`.
    ///
    /// ```
    /// use diffusion_core::data::Dataset;
    /// let bars = Dataset::from_u8("bars", vec![0, 255, 0, 255], [1, 2, 2], vec![0], &["vertical"])?;
    /// assert_eq!((bars.len(), bars.shape()), (1, [1, 2, 2]));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// There is no image, the number of channels is out of range, the pixels do not fill N images, or a label has no
    /// class name.
    pub fn from_u8(name: &str, pixels: Vec<u8>, shape: [usize; 3], labels: Vec<u32>, classes: &[&str]) -> Result<Self> {
        Self::build(name, Pixels::U8(pixels.into()), shape, labels, classes)
    }

    /// Creates a data set of f32 values without a fixed range, such as the latents of an autoencoder.
    ///
    /// `values` are (N, C, H, W) in row-major order, and [`Dataset::images`] returns them unchanged; `shape`, `labels`
    /// and `classes` are as for [`Dataset::from_u8`].
    ///
    /// ```
    /// use diffusion_core::{candle::Device, data::Dataset};
    /// let latents = Dataset::from_f32("latents", vec![0.5; 32], [8, 2, 2], vec![0], &["any"])?;
    /// let z = latents.images([0], &Device::Cpu)?;
    /// assert_eq!(z.flatten_all()?.to_vec1::<f32>()?, [0.5; 32]);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Dataset::from_u8`]; or a value is NaN or infinite.
    pub fn from_f32(
        name: &str,
        values: Vec<f32>,
        shape: [usize; 3],
        labels: Vec<u32>,
        classes: &[&str],
    ) -> Result<Self> {
        if let Some(i) = values.iter().position(|value| !value.is_finite()) {
            bail!("{name}: value {i} is {}, not a finite number", values[i])
        }
        Self::build(name, Pixels::F32(values.into()), shape, labels, classes)
    }

    fn build(name: &str, pixels: Pixels, shape: [usize; 3], labels: Vec<u32>, classes: &[&str]) -> Result<Self> {
        let [channels, height, width] = shape;
        let len = pixels.len(shape.iter().fold(1, |size, n| size.saturating_mul(*n)));
        ensure!((1..=MAX_CHANNELS).contains(&channels), "{name}: channels = {channels} must be in 1 … {MAX_CHANNELS}");
        let want = [channels, height, width, labels.len()].iter().try_fold(1usize, |a, b| a.checked_mul(*b));
        ensure!(
            want == Some(len) && len > 0,
            "{name}: {len} pixel values do not fit {} labels and images of {channels}×{height}×{width}",
            labels.len()
        );
        let known = classes.len();
        if let Some(i) = labels.iter().position(|&label| label as usize >= known) {
            bail!("{name}: labels[{i}] = {}, but there are {known} classes, 0 … {}", labels[i], known.max(1) - 1)
        }
        Ok(Self {
            name: name.to_owned(),
            pixels,
            shape,
            labels: labels.into(),
            class_names: classes.iter().map(|c| (*c).to_owned()).collect(),
            captions: None,
            attributes: None,
            augmentation: Vec::new(),
            skipped: 0,
        })
    }

    /// Adds a caption to every image, in order.
    ///
    /// ```
    /// use diffusion_core::data::Dataset;
    /// let dot = Dataset::from_u8("dot", vec![0], [1, 1, 1], vec![0], &["dots"])?;
    /// let dot = dot.with_captions(vec!["a black dot".to_owned()])?;
    /// assert_eq!(dot.captions().unwrap()[0], "a black dot");
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// The number of captions is not [`Dataset::len`].
    pub fn with_captions(self, captions: Vec<String>) -> Result<Self> {
        ensure!(
            captions.len() == self.len(),
            "{}: there are {} captions for {} images; give one for each image",
            self.name,
            captions.len(),
            self.len()
        );
        Ok(Self { captions: Some(captions.into()), ..self })
    }

    /// The name: `sprites`, `mnist`, `fashion-mnist`, `cifar10`, the name of the folder, or the given name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of images; at least 1.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Always false: a data set contains at least one image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The shape (C, H, W) of each image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The class label of each image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The class names by label.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The caption of each image, if there are captions.
    pub fn captions(&self) -> Option<&[String]> {
        self.captions.as_deref()
    }

    /// The number of images in each class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        self.labels.iter().for_each(|label| counts[*label as usize] += 1);
        counts
    }

    /// Whether the values are 8-bit pixels, which [`Dataset::images`] returns in \[−1, 1\], and not f32 values.
    pub fn is_8_bit(&self) -> bool {
        !matches!(self.pixels, Pixels::F32(_))
    }

    /// The pixels of 8-bit images, (N, C, H, W); `None` if the values are f32, or if they are read from a [`Cache`].
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.pixels {
            Pixels::U8(pixels) => Some(pixels),
            Pixels::F32(_) | Pixels::File(..) => None,
        }
    }

    /// Loads the images with these indices as f32, without augmentation: 8-bit pixels in \[−1, 1\], with black at −1
    /// and white at 1; f32 values unchanged.
    ///
    /// # Shapes
    /// (B, C, H, W) for B `indices`: a range such as `0..8`, or a `Vec` or array of `usize` in any order.
    ///
    /// # Errors
    /// There is no index, or one is not below [`Dataset::len`]; or the file of a [`Cache`] cannot be read.
    pub fn images(&self, indices: impl IntoIterator<Item = usize>, device: &Device) -> Result<Tensor> {
        let indices = self.checked(indices)?;
        let [channels, height, width] = self.shape;
        let values = self.pixels.values(&indices, channels * height * width)?;
        let shape = (indices.len(), channels, height, width);
        Ok(Tensor::from_vec(values, shape, device)?)
    }

    /// Checks that there are indices and all are in range.
    fn checked(&self, indices: impl IntoIterator<Item = usize>) -> Result<Vec<usize>> {
        let indices: Vec<usize> = indices.into_iter().collect();
        ensure!(!indices.is_empty(), "the list of indices is empty");
        if let Some(index) = indices.iter().find(|&&index| index >= self.len()) {
            bail!("index {index} is out of range: {} has the images 0 … {}", self.name, self.len() - 1)
        }
        Ok(indices)
    }

    /// The indices of the images in a class, in order.
    ///
    /// # Errors
    /// The class does not exist.
    pub fn of_class(&self, class: usize) -> Result<Vec<usize>> {
        let classes = self.class_names.len();
        ensure!(class < classes, "class {class} does not exist: {} has the classes 0 … {}", self.name, classes - 1);
        Ok((0..self.len()).filter(|&i| self.labels[i] as usize == class).collect())
    }

    /// A data set of the images with these indices.
    ///
    /// # Errors
    /// See [`Dataset::images`].
    pub fn select(&self, indices: impl IntoIterator<Item = usize>) -> Result<Self> {
        let indices = self.checked(indices)?;
        let size = self.shape.iter().product();
        let captions = self.captions.as_deref();
        Ok(Self {
            pixels: self.pixels.select(&indices, size),
            labels: gather(&self.labels, &indices, 1).into(),
            captions: captions.map(|captions| gather(captions, &indices, 1).into()),
            attributes: self.attributes.as_ref().map(|attributes| attributes.select(&indices)),
            ..self.clone()
        })
    }

    /// The same data set with f32 values of another shape (C, H, W) in place of the pixels, such as latents, and without
    /// augmentation. With k times as many values, the labels, captions and attributes are repeated k times.
    ///
    /// # Errors
    /// See [`Dataset::from_f32`].
    pub fn with_values(&self, values: Vec<f32>, shape: [usize; 3]) -> Result<Self> {
        let of_all = self.len() * shape.iter().product::<usize>();
        let repeats = values.len().checked_div(of_all).unwrap_or(0);
        let indices: Vec<usize> = (0..repeats * self.len()).map(|i| i % self.len()).collect();
        let classes: Vec<&str> = self.class_names.iter().map(String::as_str).collect();
        let labels = gather(&self.labels, &indices, 1);
        Ok(Self {
            captions: self.captions.as_deref().map(|captions| gather(captions, &indices, 1).into()),
            attributes: self.attributes.as_ref().map(|attributes| attributes.select(&indices)),
            ..Self::from_f32(&self.name, values, shape, labels, &classes)?
        })
    }

    /// Splits the images at random into `(train, test)`, where the fraction `test` is held out.
    ///
    /// # Errors
    /// `test` is not in (0, 1), or would leave one of the two empty.
    pub fn split(&self, test: f64, rng: &mut Rng) -> Result<(Self, Self)> {
        let kept = (self.len() as f64 * test).round();
        ensure!(
            kept >= 1.0 && kept < self.len() as f64,
            "test = {test} must be a fraction, such as 0.1, that leaves at least one of the {} images on each side",
            self.len(),
        );
        let order = rng.permutation(self.len());
        let (test, train) = order.split_at(kept as usize);
        Ok((self.select(train.iter().copied())?, self.select(test.iter().copied())?))
    }

    /// Displays the name, number, size and classes in a notebook.
    pub fn evcxr_display(&self) {
        println!("EVCXR_BEGIN_CONTENT text/plain\n{self}\nEVCXR_END_CONTENT");
    }
}

/// Prints `mnist: 60000 images of 1×28×28, 10 classes (0: 5923, 1: 6742, …)`, and the number of skipped files.
impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [c, h, w] = self.shape;
        let counted = self.class_names.iter().zip(self.class_counts());
        let counted: Vec<String> = counted.map(|(name, n)| format!("{name}: {n}")).collect();
        let (name, n, classes) = (&self.name, self.len(), self.class_names.len());
        write!(f, "{name}: {n} images of {c}×{h}×{w}, {classes} classes ({})", counted.join(", "))?;
        if self.captions.is_some() {
            write!(f, "; with captions")?;
        }
        if !self.attribute_names().is_empty() {
            write!(f, "; with {} attributes", self.attribute_names().len())?;
        }
        if let Pixels::File(file, _) = &self.pixels {
            write!(f, "; read from {}", file.path().display())?;
        }
        match self.skipped {
            0 => Ok(()),
            skipped => write!(f, "; {skipped} other files or folders skipped"),
        }
    }
}

/// Prints the summary of [`Display`](fmt::Display) instead of millions of pixels.
impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
