//! Images to learn from: built-in sprites, MNIST, Fashion-MNIST.
//!
//! A [`Dataset`] keeps 8-bit pixels and hands out tensors in \[−1, 1\], where diffusion models work. The built-in sprites
//! ([`Dataset::sprites`]) need no file and no network; the others are downloaded on first use into [`download::data_dir`].

mod batches;
pub mod download;
pub mod idx;
pub mod sprites;

pub use batches::{Batch, Batches};

use crate::progress::{Progress, Unit};
use crate::rng::Rng;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use download::{Fetch, RemoteFile};
use image::imageops::{self, FilterType};
use image::{GrayImage, RgbImage};
use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

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

/// The most sprites that [`Dataset::sprites`] draws: 768 MB of pixels.
pub const MAX_SPRITES: usize = 1_000_000;

/// Which part of a data set: the one to learn from, or the one kept aside to test on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The training images.
    Train,
    /// The test images.
    Test,
}

/// How [`Dataset::resize`] fills in between pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Weighted means of the neighbours: for photographs and handwriting.
    Bilinear,
    /// The nearest pixel: keeps the hard edges of pixel art.
    Nearest,
}

/// Labelled images of one size.
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
    /// (N, C, H, W), 0 … 255.
    pixels: Arc<[u8]>,
    /// C, H, W.
    shape: [usize; 3],
    labels: Arc<[u32]>,
    class_names: Arc<[String]>,
}

impl Dataset {
    /// `n` sprites drawn by this crate: 16×16 RGB on white, five classes ([`sprites::CLASSES`]), the same for the same
    /// `seed`. The first 100 of 10,000 are the same as 100.
    ///
    /// # Errors
    /// `n` = 0 or above [`MAX_SPRITES`].
    pub fn sprites(n: usize, seed: u64) -> Result<Self> {
        const SIDE: usize = sprites::SIDE;
        ensure!(
            (1..=MAX_SPRITES).contains(&n),
            "n = {n} sprites: ask for 1 … {MAX_SPRITES}"
        );
        let (pixels, labels) = sprites::generate(n, seed);
        let by_channel = to_channels_first(&pixels, 3, SIDE * SIDE);
        Self::new(
            "sprites",
            by_channel,
            [3, SIDE, SIDE],
            labels,
            &sprites::CLASSES,
        )
    }

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

    /// A data set of your own.
    ///
    /// `pixels` are (N, C, H, W) in row-major order, 0 … 255; `shape` is (C, H, W) with C = 1 (grey) or 3 (RGB); `labels`
    /// one for each image, numbers of `classes`.
    ///
    /// # Errors
    /// No image; a number of channels other than 1 and 3; pixels that do not fill N images; a label without a class name.
    pub fn new(
        name: &str,
        pixels: Vec<u8>,
        shape: [usize; 3],
        labels: Vec<u32>,
        classes: &[&str],
    ) -> Result<Self> {
        let [channels, height, width] = shape;
        ensure!(
            matches!(channels, 1 | 3),
            "{name}: images of {channels} channels; 1 (grey) and 3 (RGB) are understood"
        );
        let want = [channels, height, width, labels.len()]
            .iter()
            .try_fold(1usize, |a, b| a.checked_mul(*b));
        ensure!(
            want == Some(pixels.len()) && !pixels.is_empty(),
            "{name}: {} labels and images of {channels}×{height}×{width} do not fit {} pixel values",
            labels.len(),
            pixels.len(),
        );
        if let Some((i, label)) = labels
            .iter()
            .enumerate()
            .find(|(_, l)| **l as usize >= classes.len())
        {
            bail!(
                "{name}: labels[{i}] = {label}, but there are {} classes, 0 … {}",
                classes.len(),
                classes.len().max(1) - 1
            )
        }
        Ok(Self {
            name: name.to_owned(),
            pixels: pixels.into(),
            shape,
            labels: labels.into(),
            class_names: classes.iter().map(|c| (*c).to_owned()).collect(),
        })
    }

    /// `sprites`, `mnist`, `fashion-mnist`, or the name given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of images; at least 1.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Never: a data set holds at least one image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// (C, H, W) of each image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The class number of each image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The names of the classes, by number.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// How many images each class has.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        self.labels
            .iter()
            .for_each(|label| counts[*label as usize] += 1);
        counts
    }

    /// The images with these indices, as f32 in \[−1, 1\]: black is −1, white 1.
    ///
    /// # Shapes
    /// (B, C, H, W), B the number of `indices`: a range as `0..8`, or a `Vec` or array of `usize` in any order.
    ///
    /// # Errors
    /// No index, or one that is not below [`Dataset::len`].
    pub fn images(
        &self,
        indices: impl IntoIterator<Item = usize>,
        device: &Device,
    ) -> Result<Tensor> {
        let [channels, height, width] = self.shape;
        let size = channels * height * width;
        let (mut values, mut n) = (Vec::new(), 0);
        for i in indices {
            self.check(i)?;
            let pixels = &self.pixels[i * size..(i + 1) * size];
            values.extend(pixels.iter().map(|&p| p as f32 / 127.5 - 1.0));
            n += 1;
        }
        ensure!(
            n > 0,
            "no image was asked for: the list of indices is empty"
        );
        Ok(Tensor::from_vec(
            values,
            (n, channels, height, width),
            device,
        )?)
    }

    /// The classes of the images with these indices as vectors of 0 and a single 1: the context of a conditional model.
    ///
    /// # Shapes
    /// (B, K) f32 for B `indices` and K classes.
    ///
    /// # Errors
    /// As [`Dataset::images`].
    pub fn context(
        &self,
        indices: impl IntoIterator<Item = usize>,
        device: &Device,
    ) -> Result<Tensor> {
        let classes = self.class_names.len();
        let (mut values, mut n) = (Vec::new(), 0);
        for i in indices {
            self.check(i)?;
            values.extend((0..classes).map(|c| f32::from(c == self.labels[i] as usize)));
            n += 1;
        }
        ensure!(
            n > 0,
            "no context was asked for: the list of indices is empty"
        );
        Ok(Tensor::from_vec(values, (n, classes), device)?)
    }

    fn check(&self, index: usize) -> Result<()> {
        ensure!(
            index < self.len(),
            "index {index} is out of range: {} has the images 0 … {}",
            self.name,
            self.len() - 1
        );
        Ok(())
    }

    /// The indices of the images of a class, in order.
    ///
    /// # Errors
    /// There is no class of this number.
    pub fn of_class(&self, class: usize) -> Result<Vec<usize>> {
        let classes = self.class_names.len();
        ensure!(
            class < classes,
            "class {class} does not exist: {} has the classes 0 … {}",
            self.name,
            classes - 1
        );
        Ok((0..self.len())
            .filter(|&i| self.labels[i] as usize == class)
            .collect())
    }

    /// The data set of these images only.
    ///
    /// # Errors
    /// As [`Dataset::images`].
    pub fn select(&self, indices: impl IntoIterator<Item = usize>) -> Result<Self> {
        let size: usize = self.shape.iter().product();
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for i in indices {
            self.check(i)?;
            pixels.extend_from_slice(&self.pixels[i * size..(i + 1) * size]);
            labels.push(self.labels[i]);
        }
        ensure!(
            !labels.is_empty(),
            "no image was selected: the list of indices is empty"
        );
        Ok(Self {
            pixels: pixels.into(),
            labels: labels.into(),
            ..self.clone()
        })
    }

    /// A random split in two: the share `test` of the images is kept aside, the rest is to learn from; `(train, test)`.
    ///
    /// # Errors
    /// `test` is not in (0, 1), or so small or large that one of the two would be empty.
    pub fn split(&self, test: f64, rng: &mut Rng) -> Result<(Self, Self)> {
        let kept = (self.len() as f64 * test).round();
        ensure!(
            kept >= 1.0 && kept < self.len() as f64,
            "test = {test}: a share that leaves at least one of the {} images on each side is needed, as 0.1",
            self.len(),
        );
        let order = rng.permutation(self.len());
        let (test, train) = order.split_at(kept as usize);
        Ok((
            self.select(train.iter().copied())?,
            self.select(test.iter().copied())?,
        ))
    }

    /// The same images `side` pixels high and wide: 28 → 32 or 32 → 64, say.
    ///
    /// # Errors
    /// `side` = 0 or above 1024.
    pub fn resize(&self, side: usize, how: Resize) -> Result<Self> {
        ensure!(
            (1..=1024).contains(&side),
            "side = {side}: 1 … 1024 pixels are possible"
        );
        let [channels, height, width] = self.shape;
        let filter = match how {
            Resize::Bilinear => FilterType::Triangle,
            Resize::Nearest => FilterType::Nearest,
        };
        let (from, to) = ((width as u32, height as u32), side as u32);
        let mut pixels = Vec::with_capacity(self.len() * channels * side * side);
        for image in self.pixels.chunks_exact(channels * height * width) {
            if channels == 1 {
                let image =
                    GrayImage::from_raw(from.0, from.1, image.to_vec()).context("a grey image")?;
                pixels.extend(imageops::resize(&image, to, to, filter).into_raw());
            } else {
                let interleaved = to_channels_last(image, channels, height * width);
                let image =
                    RgbImage::from_raw(from.0, from.1, interleaved).context("an RGB image")?;
                let resized = imageops::resize(&image, to, to, filter).into_raw();
                pixels.extend(to_channels_first(&resized, channels, side * side));
            }
        }
        Ok(Self {
            pixels: pixels.into(),
            shape: [channels, side, side],
            ..self.clone()
        })
    }

    /// One pass over all images in random order, in batches; the last may be smaller.
    ///
    /// # Errors
    /// `size` = 0.
    pub fn batches(&self, size: usize, rng: &mut Rng) -> Result<Batches> {
        Batches::new(self.clone(), size, rng)
    }

    /// Shows name, number, size and classes in a notebook.
    pub fn evcxr_display(&self) {
        println!("EVCXR_BEGIN_CONTENT text/plain\n{self}\nEVCXR_END_CONTENT");
    }
}

/// `mnist: 60000 images of 1×28×28, 10 classes (0: 5923, 1: 6742, …)`
impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [c, h, w] = self.shape;
        let counted = self.class_names.iter().zip(self.class_counts());
        let counted: Vec<String> = counted.map(|(name, n)| format!("{name}: {n}")).collect();
        let (name, n, classes) = (&self.name, self.len(), self.class_names.len());
        write!(
            f,
            "{name}: {n} images of {c}×{h}×{w}, {classes} classes ({})",
            counted.join(", ")
        )
    }
}

/// As [`Display`](fmt::Display): millions of pixels say less than their summary.
impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The file in `dir`: unpacked if somebody put it there so, else as distributed, downloaded if need be.
fn locate(file: &RemoteFile, dir: &Path) -> Result<PathBuf> {
    let unpacked = dir.join(file.name.trim_end_matches(".gz"));
    if unpacked.is_file() {
        return Ok(unpacked);
    }
    let bar: Rc<RefCell<Option<Progress>>> = Rc::default();
    let (shown, name) = (bar.clone(), file.name.clone());
    let report = move |done: u64, total: u64| {
        let mut bar = shown.borrow_mut();
        bar.get_or_insert_with(|| Progress::new(total, &name).unit(Unit::Bytes))
            .set(done);
    };
    let mut options = Fetch {
        progress: Some(Box::new(report)),
        ..Fetch::default()
    };
    let path = download::fetch(file, dir, &mut options)?;
    if let Some(bar) = bar.borrow_mut().as_mut() {
        bar.finish();
    }
    Ok(path)
}

fn to_channels_first(interleaved: &[u8], channels: usize, area: usize) -> Vec<u8> {
    let images = interleaved.chunks_exact(channels * area);
    images
        .flat_map(|image| {
            (0..channels).flat_map(move |c| (0..area).map(move |i| image[i * channels + c]))
        })
        .collect()
}

fn to_channels_last(planes: &[u8], channels: usize, area: usize) -> Vec<u8> {
    (0..area)
        .flat_map(|i| (0..channels).map(move |c| planes[c * area + i]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two images of 1×2×2 and one more, with a label each.
    fn tiny() -> Dataset {
        let pixels = vec![0, 255, 51, 204, 1, 2, 3, 4, 9, 9, 9, 9];
        Dataset::new("tiny", pixels, [1, 2, 2], vec![1, 0, 1], &["a", "b"]).unwrap()
    }

    #[test]
    fn pixels_become_numbers_from_minus_one_to_one() -> Result<()> {
        let images = tiny()
            .images([0], &Device::Cpu)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let want = [-1.0, 1.0, -0.6, 0.6];
        assert!(
            images.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6),
            "{images:?}"
        );
        assert_eq!(
            tiny().context([0, 1], &Device::Cpu)?.to_vec2::<f32>()?,
            [[0.0, 1.0], [1.0, 0.0]]
        );
        Ok(())
    }

    #[test]
    fn classes_are_counted_and_found() -> Result<()> {
        let d = tiny();
        assert_eq!((d.class_counts(), d.of_class(1)?), (vec![1, 2], vec![0, 2]));
        assert_eq!(
            format!("{d:?}"),
            "tiny: 3 images of 1×2×2, 2 classes (a: 1, b: 2)"
        );
        let b = d.select(d.of_class(1)?)?;
        assert_eq!((b.len(), b.labels()), (2, &[1, 1][..]));
        assert_eq!(
            b.images([1], &Device::Cpu)?.to_string(),
            d.images([2], &Device::Cpu)?.to_string()
        );
        Ok(())
    }

    #[test]
    fn sprites_keep_their_colours_and_their_prefix() -> Result<()> {
        let (few, many) = (Dataset::sprites(20, 7)?, Dataset::sprites(50, 7)?);
        assert_eq!(few.pixels, many.pixels[..few.pixels.len()].into());
        let (rows, _) = sprites::generate(1, 7);
        for (i, rgb) in rows.chunks_exact(3).enumerate() {
            assert_eq!(
                rgb,
                [few.pixels[i], few.pixels[256 + i], few.pixels[512 + i]]
            );
        }
        assert_eq!(
            Dataset::sprites(500, 1)?.class_counts().iter().min(),
            Some(&100)
        );
        Ok(())
    }

    #[test]
    fn a_split_shares_out_every_image_once() -> Result<()> {
        let all = Dataset::sprites(50, 3)?;
        let (train, test) = all.split(0.2, &mut Rng::new(1))?;
        assert_eq!((train.len(), test.len()), (40, 10));
        let size = 3 * 16 * 16;
        let mut images: Vec<&[u8]> = train
            .pixels
            .chunks(size)
            .chain(test.pixels.chunks(size))
            .collect();
        let mut want: Vec<&[u8]> = all.pixels.chunks(size).collect();
        images.sort();
        want.sort();
        assert_eq!(images, want);
        Ok(())
    }

    #[test]
    fn resizing_keeps_flat_images_flat_and_channels_apart() -> Result<()> {
        let pixels = [10u8, 20, 30].iter().flat_map(|p| [*p; 6]).collect();
        let flat = Dataset::new("flat", pixels, [3, 2, 3], vec![0], &["a"])?;
        for how in [Resize::Bilinear, Resize::Nearest] {
            let large = flat.resize(8, how)?;
            assert_eq!(large.shape(), [3, 8, 8]);
            let want: Vec<u8> = [10u8, 20, 30].iter().flat_map(|p| [*p; 64]).collect();
            assert_eq!(&large.pixels[..], want);
        }
        let doubled = tiny().resize(4, Resize::Nearest)?;
        assert_eq!(doubled.pixels[..8], [0, 0, 255, 255, 0, 0, 255, 255]);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_says_so() {
        let new = |pixels: usize, shape, labels| {
            Dataset::new("x", vec![0; pixels], shape, labels, &["a", "b"])
        };
        let d = tiny();
        for (result, wants) in [
            (new(8, [2, 2, 2], vec![0]).map(drop), "2 channels"),
            (
                new(7, [1, 2, 2], vec![0, 1]).map(drop),
                "2 labels and images of 1×2×2 do not fit 7",
            ),
            (new(0, [1, 2, 2], vec![]).map(drop), "0 labels"),
            (new(4, [1, usize::MAX, 3], vec![0]).map(drop), "do not fit"),
            (
                new(4, [1, 2, 2], vec![2]).map(drop),
                "labels[0] = 2, but there are 2 classes",
            ),
            (
                d.images([3], &Device::Cpu).map(drop),
                "index 3 is out of range: tiny has the images 0 … 2",
            ),
            (d.images([], &Device::Cpu).map(drop), "empty"),
            (d.of_class(2).map(drop), "class 2 does not exist"),
            (d.split(0.0, &mut Rng::new(0)).map(drop), "test = 0"),
            (d.split(f64::NAN, &mut Rng::new(0)).map(drop), "test = NaN"),
            (d.resize(0, Resize::Nearest).map(drop), "side = 0"),
            (d.batches(0, &mut Rng::new(0)).map(drop), "size = 0"),
            (Dataset::sprites(0, 0).map(drop), "n = 0"),
            (
                Dataset::sprites(usize::MAX, 0).map(drop),
                "ask for 1 … 1000000",
            ),
        ] {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
    }

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
