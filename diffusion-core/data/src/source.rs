//! Data sets by name, as in a configuration or on the command line.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::celeba;
use super::download::data_dir;
use super::folder::{Found, PictureSizes, name_of};
use super::resize::check_side;
use super::sprites::Combinations;
use super::{Augmentation, Cache, Dataset, Fit, MAX_SPRITES, Resize, Split};
use diffusion_ops::rng::Rng;

/// The names for [`Source::task`], besides the path of a folder or file.
pub const TASKS: [&str; 5] = ["sprites", "mnist", "fashion-mnist", "cifar10", celeba::NAME];

/// Those whose images are drawings or writing, not photographs.
const DRAWN: [&str; 3] = ["sprites", "mnist", "fashion-mnist"];

/// The fraction of a folder or array that is held out as the test set.
const TEST: f64 = 0.1;

/// A data set by name, and how to prepare it.
///
/// ```
/// use diffusion_core::data::{Split, Source};
/// let source = Source { images: 100, side: Some(32), ..Source::default() };
/// let train = source.load(Split::Train, 42)?;
/// assert_eq!((train.len(), train.shape()), (100, [3, 32, 32]));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Source {
    /// `sprites` (the default), `mnist`, `fashion-mnist`, `cifar10`, `celeba`, or the path of a folder of images
    /// ([`Dataset::from_folder`]), of an `.npy` file ([`Dataset::from_npy`]), or of a folder with one `.npy` file of
    /// images and optionally one with `label` in its name. A folder with one of the five names is written `./mnist`.
    pub task: String,
    /// The number of training sprites, 1 … 1,000,000. Default 10,000. Other data sets have a fixed number of images.
    pub images: usize,
    /// The height and width to resize images to, 1 … 1024. Without it they keep their size, which must be the same for
    /// all images of a folder; those of `celeba` get 64. Sprites keep their hard edges ([`Resize::Nearest`]); other images
    /// are smoothed.
    pub side: Option<usize>,
    /// How pictures of a folder with other proportions become squares of `side` pixels: `crop` (the default), `pad` or
    /// `stretch`.
    #[serde(skip_serializing_if = "is_default")]
    pub fit: Fit,
    /// The `.npy` file of labels for images from an `.npy` file.
    pub labels: Option<PathBuf>,
    /// Whether unreadable files of a folder are listed and skipped; otherwise the first one is an error. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_bad: bool,
    /// Whether every image has a caption, for models that are conditioned on text. Then sprites get captions, and none of
    /// them shows a [held-out](crate::sprites::HELD_OUT) combination. A folder must have some. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub captions: bool,
    /// Augmentations of the training images, such as `["horizontal-flip"]`. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub augment: Vec<Augmentation>,
}

fn is_default(fit: &Fit) -> bool {
    *fit == Fit::default()
}

impl Default for Source {
    fn default() -> Self {
        Self {
            task: "sprites".to_owned(),
            images: 10_000,
            side: None,
            fit: Fit::Crop,
            labels: None,
            skip_bad: false,
            captions: false,
            augment: Vec::new(),
        }
    }
}

impl Source {
    /// Loads the images of a split.
    ///
    /// MNIST, Fashion-MNIST, CIFAR-10 and CelebA have their own test images and do not depend on `seed`. For a folder or array,
    /// `seed` chooses a tenth of the images that is held out for [`Split::Test`], unless the folder itself contains
    /// `train` and `val`. Sprites are drawn from `seed`; their
    /// test set is a tenth as large, drawn from a different seed, and contains no image of the training set. Only
    /// training images are augmented.
    ///
    /// # Errors
    /// `task` is neither a name nor an existing path; a value is out of range; `labels` is given without an `.npy` file
    /// of images; captions are needed and there are none; a folder or array has fewer than 5 images; or a file cannot be
    /// used.
    pub fn load(&self, split: Split, seed: u64) -> Result<Dataset> {
        self.check()?;
        let all = match self.named(split, seed)? {
            Some(named) => named,
            None => {
                let (train, test) = self.halves(seed, None)?;
                if split == Split::Train { train } else { test }
            }
        };
        self.prepared(all, split)
    }

    /// Loads both splits, the training images first, reading a folder or array only once.
    ///
    /// # Errors
    /// See [`Source::load`].
    pub fn load_both(&self, seed: u64) -> Result<(Dataset, Dataset)> {
        self.both(seed, None)
    }

    /// [`Source::load_both`] with the decoded pictures of a folder, or of CelebA, in a file. The second time they are not
    /// decoded again, and they may be larger than memory. Other data sets do not use the file.
    ///
    /// # Errors
    /// See [`Source::load`]; or the file cannot be written.
    pub fn load_both_cached(&self, seed: u64, cache: &Cache) -> Result<(Dataset, Dataset)> {
        self.both(seed, Some(cache))
    }

    fn both(&self, seed: u64, cache: Option<&Cache>) -> Result<(Dataset, Dataset)> {
        self.check()?;
        let (train, test) = match self.named(Split::Train, seed)? {
            Some(train) => {
                let test = self.named(Split::Test, seed)?;
                (train, test.context("the test images")?)
            }
            None => self.halves(seed, cache)?,
        };
        Ok((self.prepared(train, Split::Train)?, self.prepared(test, Split::Test)?))
    }

    /// Whether the images are photographs, which stay plausible when they are mirrored: CIFAR-10, CelebA, a folder or an
    /// array.
    pub fn is_photographs(&self) -> bool {
        !DRAWN.contains(&&self.task[..])
    }

    /// The sizes of the pictures of a folder that is loaded without a `side`, from the headers of the files; `None` for
    /// other data.
    ///
    /// # Errors
    /// See [`Source::load`].
    pub fn picture_sizes(&self) -> Result<Option<PictureSizes>> {
        self.check()?;
        if self.side.is_some() || TASKS.contains(&&self.task[..]) {
            return Ok(None);
        }
        Ok(match self.place()? {
            Place::Arrays(..) => None,
            Place::Pictures(found) => Some(found.pictures(None, self.fit, self.skip_bad).sizes()?),
        })
    }

    fn check(&self) -> Result<()> {
        self.side.map_or(Ok(()), check_side)?;
        ensure!(
            is_default(&self.fit) || !TASKS.contains(&&self.task[..]),
            "fit = {:?} is for folders of pictures, not for {}; leave it out",
            self.fit,
            self.task
        );
        ensure!(is_default(&self.fit) || self.side.is_some(), "fit = {:?} needs a side, such as side = 64", self.fit);
        // Before anything is downloaded.
        let named = TASKS.contains(&&self.task[..]);
        ensure!(!self.captions || !named || self.task == "sprites", "{}", self.without_captions());
        if let Some(labels) = &self.labels
            && named
        {
            bail!("labels = {labels:?} cannot be set, since {} has its own labels", self.task);
        }
        Ok(())
    }

    fn without_captions(&self) -> String {
        format!(
            "{} has no captions. A text model needs the sprites, or a folder of pictures with texts: NAME.txt beside NAME.jpg, or \
             lines such as {{\"file_name\": \"1.jpg\", \"text\": \"a sleeping cat\"}} in metadata.jsonl",
            self.task
        )
    }

    /// Loads a split of the built-in data set with this name, if there is one.
    fn named(&self, split: Split, seed: u64) -> Result<Option<Dataset>> {
        Ok(Some(match &self.task[..] {
            "sprites" => self.sprites(split, seed)?,
            "mnist" => Dataset::mnist(split)?,
            "fashion-mnist" => Dataset::fashion_mnist(split)?,
            "cifar10" => Dataset::cifar10(split)?,
            _ => return Ok(None),
        }))
    }

    /// Resizes the images, and adds the augmentation to training images.
    fn prepared(&self, all: Dataset, split: Split) -> Result<Dataset> {
        ensure!(!self.captions || all.captions().is_some(), "{}", self.without_captions());
        let [_, height, width] = all.shape();
        let how = match &self.task[..] {
            "sprites" => Resize::Nearest,
            _ => Resize::Bilinear,
        };
        let all = match self.side {
            Some(side) if (height, width) != (side, side) => all.resize(side, how)?,
            _ => all,
        };
        Ok(match split {
            Split::Train => all.with_augmentation(self.augment.iter().copied()),
            Split::Test => all,
        })
    }

    fn sprites(&self, split: Split, seed: u64) -> Result<Dataset> {
        ensure!(
            (1..=MAX_SPRITES).contains(&self.images),
            "images = {} sprites must be in 1 … {MAX_SPRITES}",
            self.images
        );
        let draw = |n, seed| match self.captions {
            true => Dataset::captioned_sprites(n, seed, Combinations::Seen),
            false => Dataset::sprites(n, seed),
        };
        let train = draw(self.images, seed)?;
        if split == Split::Train {
            return Ok(train);
        }
        let test = draw((self.images / 10).max(1), !seed)?;
        let size = train.shape().iter().product();
        let images = |d| Dataset::bytes(d).unwrap_or_default().chunks_exact(size);
        let known: HashSet<&[u8]> = images(&train).collect();
        let images = images(&test).enumerate();
        let new = images.filter(|(_, image)| !known.contains(image));
        test.select(new.map(|(i, _)| i))
    }

    /// Loads CelebA, a folder or an array, and splits off the images that are held out: the official test images, those of a
    /// folder `val` beside `train`, or a tenth.
    fn halves(&self, seed: u64, cache: Option<&Cache>) -> Result<(Dataset, Dataset)> {
        let (all, held_out) = match self.place()? {
            Place::Arrays(name, images, labels) => (Dataset::from_npy(&name, &images, labels.as_deref(), &[])?, 0),
            Place::Pictures(found) => {
                let side = self.side.or((self.task == celeba::NAME).then_some(celeba::SIDE));
                found.load(side, self.fit, self.skip_bad, cache)?
            }
        };
        let train = all.len() - held_out;
        if held_out > 0 {
            return Ok((all.select(0..train)?, all.select(train..all.len())?));
        }
        ensure!(train >= 5, "{} has {train} images; at least 5 are needed to hold out a tenth", all.name());
        all.split(TEST, &mut Rng::new(seed))
    }

    /// Finds the files.
    fn place(&self) -> Result<Place> {
        if self.task == celeba::NAME {
            return Ok(Place::Pictures(celeba::found(&data_dir().join(celeba::NAME))?));
        }
        let path = Path::new(&self.task);
        let is_array = |path: &Path| {
            let extension = path.extension().unwrap_or_default();
            extension.eq_ignore_ascii_case("npy") && path.is_file()
        };
        if is_array(path) {
            let name = name_of(path.with_extension("").as_path());
            return Ok(Place::Arrays(name, path.to_owned(), self.labels.clone()));
        }
        ensure!(
            path.exists(),
            "task = {:?} is neither one of {} nor an existing folder or .npy file",
            self.task,
            TASKS.join(", ")
        );
        ensure!(
            path.is_dir(),
            "task = {:?} is a file that does not end in .npy; use a folder of images or an .npy file",
            self.task
        );
        let mut arrays = Vec::new();
        for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
            let file = entry.with_context(|| path.display().to_string())?.path();
            if is_array(&file) {
                arrays.push(file);
            }
        }
        if !arrays.is_empty() {
            let (images, labels) = self.pair(arrays)?;
            return Ok(Place::Arrays(name_of(path), images, labels));
        }
        if let Some(labels) = &self.labels {
            bail!(
                "labels = {labels:?} can only be used with an .npy file; in the folder {:?}, each folder is a class",
                self.task
            );
        }
        Ok(Place::Pictures(Found::in_folder(path)?))
    }

    /// Finds the images and the labels among the arrays in a folder.
    fn pair(&self, mut arrays: Vec<PathBuf>) -> Result<(PathBuf, Option<PathBuf>)> {
        arrays.sort();
        let is_labels = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.to_lowercase().contains("label")
        };
        let (labels, images): (Vec<_>, Vec<_>) = arrays.into_iter().partition(is_labels);
        match (&images[..], &labels[..], &self.labels) {
            ([images], _, Some(labels)) => Ok((images.clone(), Some(labels.clone()))),
            ([images], [], None) => Ok((images.clone(), None)),
            ([images], [labels], None) => Ok((images.clone(), Some(labels.clone()))),
            _ => bail!(
                "the folder {:?} holds {} .npy files of images and {} of labels (judging by their names); set task to \
                 the path of the images and labels to that of the labels",
                self.task,
                images.len(),
                labels.len()
            ),
        }
    }
}

/// Files of a data set.
enum Place {
    /// The name of the data set, the images and the labels.
    Arrays(String, PathBuf, Option<PathBuf>),
    Pictures(Found),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npy::tests::npy;
    use image::{GrayImage, Luma};

    fn task(task: impl AsRef<Path>) -> Source {
        Source { task: task.as_ref().to_str().unwrap().to_owned(), ..Source::default() }
    }

    #[test]
    fn a_configuration_is_read_and_unknown_keys_are_errors() {
        let source: Source = toml::from_str("task = \"mnist\"\nside = 32").unwrap();
        let want = Source { side: Some(32), ..task("mnist") };
        assert_eq!(source, want);
        assert_eq!(toml::from_str::<Source>("").unwrap(), Source::default());
        let augmented: Source = toml::from_str("augment = [\"horizontal-flip\"]").unwrap();
        assert_eq!(augmented.augment, [Augmentation::HorizontalFlip]);
        let message = toml::from_str::<Source>("augment = [\"flip\"]").unwrap_err();
        assert!(message.to_string().contains("horizontal-flip"), "{message}");
        let written = toml::to_string(&want).unwrap();
        assert!(!written.contains("augment"), "as older run folders have it");
        assert_eq!(toml::from_str::<Source>(&written).unwrap(), want);
        let message = toml::from_str::<Source>("sides = 32").unwrap_err();
        assert!(message.to_string().contains("sides"), "{message}");
    }

    #[test]
    fn test_sprites_are_not_in_the_training_set() -> Result<()> {
        let source = Source { images: 2000, ..Source::default() };
        let (train, test) = (source.load(Split::Train, 1)?, source.load(Split::Test, 1)?);
        assert_eq!(train.fingerprint()?, Dataset::sprites(2000, 1)?.fingerprint()?);
        assert!((190..=200).contains(&test.len()), "{}", test.len());
        let images =
            |d: &Dataset| -> HashSet<Vec<u8>> { d.bytes().unwrap().chunks_exact(768).map(<[u8]>::to_vec).collect() };
        assert!(images(&train).is_disjoint(&images(&test)));
        let large = Source { images: 3, side: Some(32), augment: vec![Augmentation::HorizontalFlip], ..source };
        assert_eq!(large.load(Split::Test, 1)?.augmentation(), []);
        let large = large.load(Split::Train, 1)?;
        assert_eq!(large.augmentation(), [Augmentation::HorizontalFlip]);
        assert_eq!(large.shape(), [3, 32, 32]);
        // Enlarged without smoothing: every row and every pixel is repeated.
        let pixels = large.bytes().unwrap();
        assert_eq!(pixels[..32], pixels[32..64]);
        assert!(pixels.chunks_exact(2).all(|pair| pair[0] == pair[1]));
        Ok(())
    }

    /// With captions, the sprites lack the held-out combinations; whatever has no captions is refused.
    #[test]
    fn captions_are_there_where_they_are_needed() -> Result<()> {
        let source = Source { images: 500, captions: true, ..Source::default() };
        let (train, test) = source.load_both(1)?;
        let seen = |n, seed| Dataset::captioned_sprites(n, seed, Combinations::Seen);
        assert_eq!(train.fingerprint()?, seen(500, 1)?.fingerprint()?);
        assert_eq!(test.captions().unwrap()[0], seen(1, !1)?.captions().unwrap()[0]);
        assert_ne!(train.bytes(), Dataset::sprites(500, 1)?.bytes());
        assert_eq!(Source::default().load(Split::Train, 1)?.captions(), None);
        let message = Source { captions: true, ..task("mnist") }.load(Split::Train, 1).unwrap_err().to_string();
        assert!(message.contains("mnist has no captions"), "{message}");
        let dir = tempfile::tempdir()?;
        for i in 0..10 {
            GrayImage::from_pixel(4, 4, Luma([i])).save(dir.path().join(format!("{i}.png")))?;
        }
        let folder = Source { captions: true, ..task(dir.path()) };
        let message = folder.load(Split::Train, 1).unwrap_err().to_string();
        assert!(message.contains("has no captions") && message.contains("NAME.txt beside"), "{message}");
        fs::write(dir.path().join("3.txt"), "three")?;
        let (train, test) = folder.load_both(1)?;
        assert_eq!([train, test].iter().flat_map(|d| d.captions().unwrap()).filter(|text| *text == "three").count(), 1);
        Ok(())
    }

    #[test]
    fn arrays_are_found_by_path_or_in_their_folder() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let [images, labels] = ["x.npy", "x_Labels.npy"].map(|name| dir.path().join(name));
        let pixels: Vec<u8> = (0..20).collect();
        fs::write(&images, npy("|u1", "(20, 1, 1)", &pixels))?;
        let both = |source: &Source| -> Result<[Dataset; 2]> {
            Ok([source.load(Split::Train, 7)?, source.load(Split::Test, 7)?])
        };
        for source in [task(&images), task(dir.path())] {
            let [train, test] = both(&source)?;
            assert_eq!((train.len(), test.len(), train.class_names().len()), (18, 2, 1));
            let mut all = [train.bytes().unwrap(), test.bytes().unwrap()].concat();
            all.sort();
            assert_eq!(all, pixels);
        }
        // Class i % 2 for image i, found in the folder or named.
        let numbers: Vec<u8> = pixels.iter().map(|p| p % 2).collect();
        fs::write(&labels, npy("|u1", "(20,)", &numbers))?;
        let named = Source { labels: Some(labels), ..task(&images) };
        for source in [named, task(dir.path())] {
            let [train, test] = both(&source)?;
            for d in [&train, &test] {
                let wanted: Vec<u32> = d.bytes().unwrap().iter().map(|p| u32::from(p % 2)).collect();
                assert_eq!(d.labels(), wanted);
            }
            assert_eq!(train.class_names(), ["class 0", "class 1"]);
        }
        fs::write(dir.path().join("y.npy"), "")?;
        let message = task(dir.path()).load(Split::Train, 7).unwrap_err().to_string();
        assert!(message.contains("2 .npy files of images and 1 of labels"), "{message}");
        Ok(())
    }

    #[test]
    fn a_folder_of_images_is_resized_only_with_a_side() -> Result<()> {
        let dir = tempfile::tempdir()?;
        for i in 0..10 {
            let image = GrayImage::from_pixel(6, 4, Luma([i]));
            image.save(dir.path().join(format!("{i}.png")))?;
        }
        let plain = task(dir.path());
        assert_eq!(plain.load(Split::Train, 1)?.shape(), [1, 4, 6]);
        let square = Source { side: Some(8), ..plain };
        let (train, test) = (square.load(Split::Train, 1)?, square.load(Split::Test, 1)?);
        assert_eq!((train.shape(), train.len(), test.len()), ([1, 8, 8], 9, 1));
        assert_ne!(test.bytes(), square.load(Split::Test, 2)?.bytes());
        // A folder may hold out images itself.
        for (folder, images) in [("train", 0..7u8), ("val", 7..10)] {
            fs::create_dir(dir.path().join(folder))?;
            for i in images {
                fs::rename(dir.path().join(format!("{i}.png")), dir.path().join(format!("{folder}/{i}.png")))?;
            }
        }
        let (train, test) = square.load_both(1)?;
        assert_eq!((train.len(), test.len(), train.class_names().len()), (7, 3, 1));
        assert!(test.bytes().unwrap().iter().all(|pixel| (7..10).contains(pixel)));
        Ok(())
    }

    #[test]
    fn errors_explain_what_cannot_be_loaded() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let few = dir.path().join("few.npy");
        fs::write(&few, npy("|u1", "(4, 1, 1)", &[0; 4]))?;
        let text = dir.path().join("notes.txt");
        fs::write(&text, "")?;
        let empty = dir.path().join("empty");
        fs::create_dir(&empty)?;
        let with_labels = |source: Source| Source { labels: Some(few.clone()), ..source };
        for (source, facts) in [
            (task("mnits"), ["task = \"mnits\"", "sprites, mnist, fashion-mnist, cifar10"]),
            (task(""), ["task = \"\"", "sprites, mnist"]),
            (task(&text), ["notes.txt", "does not end in .npy"]),
            (task(&few), ["few has 4 images", "at least 5"]),
            (task(&empty), ["no image in", "empty"]),
            (with_labels(task(&empty)), ["few.npy", "each folder is a class"]),
            (with_labels(task("sprites")), ["few.npy", "sprites has its own"]),
            (Source { images: 0, ..Source::default() }, ["images = 0", "1 … 1000000"]),
            (Source { side: Some(0), ..task("mnist") }, ["side = 0", "1 … 1024"]),
        ] {
            let message = format!("{:#}", source.load(Split::Train, 1).unwrap_err());
            for fact in facts {
                assert!(message.contains(fact), "no {fact:?} in {message}");
            }
        }
        Ok(())
    }
}
