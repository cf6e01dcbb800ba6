//! Image folders, with subfolders as classes.

mod decode;
mod listing;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use listing::Listing;
use serde::Deserialize;

pub use decode::PictureSizes;
use decode::Pictures;

use super::resize::{Fit, check_side};
use super::{Cache, Dataset, MAX_CLASSES};

impl Dataset {
    /// Loads the images in a folder, resized to `side` pixels high and wide (1 … 1024).
    ///
    /// PNG, JPEG, BMP, GIF (its first frame) and WebP are supported. If the folder contains folders of images, each of
    /// them is a class, in alphabetical order; if it contains images, they form one class with the folder's name. If it
    /// contains a folder `train` and one of `val`, `validation` and `test`, the images of both are loaded, those of
    /// `train` first. Deeper folders are ignored, as are hidden files (`.name`). The number of other skipped files and
    /// folders is displayed with the data set.
    ///
    /// A caption is the content of `NAME.txt` beside `NAME.png`, or the `text` of a line of `metadata.jsonl` in the
    /// folder, such as `{"file_name": "cats/1.png", "text": "a sleeping cat"}`. If there are captions, images without
    /// one have an empty caption.
    ///
    /// The central square of each image is resized by a weighted mean of neighbouring pixels ([`Source::fit`] offers
    /// other ways). Transparent pixels are blended with white. The images are RGB, or greyscale if all files are.
    ///
    /// # Errors
    /// The folder cannot be read, contains no image, or mixes images and folders of images; an image file cannot be
    /// decoded or takes more than 256 MiB; a line of `metadata.jsonl` is wrong or names no image; the held-out images
    /// have a class that the others lack; there are more than [`MAX_CLASSES`] folders, or more than
    /// [`MAX_BYTES`](super::MAX_BYTES) of pixels.
    ///
    /// [`Source::fit`]: super::Source::fit
    pub fn from_folder(path: &Path, side: usize) -> Result<Self> {
        check_side(side)?;
        Ok(Found::in_folder(path)?.load(Some(side), Fit::Crop, false, None)?.0)
    }
}

/// The last component of a path, also for `.` and similar paths.
pub(super) fn name_of(path: &Path) -> String {
    let absolute = fs::canonicalize(path).unwrap_or_default();
    let name = path.file_name().or(absolute.file_name());
    name.unwrap_or(OsStr::new("images")).to_string_lossy().into_owned()
}

/// The contents of a folder of images.
pub(super) struct Found {
    /// The name of the data set.
    pub(super) name: String,
    pub(super) folder: PathBuf,
    /// The names of the classes; there is at least one, and each has an image that is not held out.
    pub(super) classes: Vec<String>,
    /// The images that are not held out, class by class, and then the others.
    pub(super) images: Vec<Image>,
    /// The names of the attributes, if there are any.
    pub(super) attributes: Vec<String>,
    /// The number of other files and folders.
    pub(super) skipped: usize,
}

pub(super) struct Image {
    pub(super) path: PathBuf,
    /// An index into the names of the classes.
    pub(super) class: usize,
    pub(super) caption: Option<String>,
    /// A value for each attribute.
    pub(super) attributes: Vec<i8>,
    pub(super) held_out: bool,
}

/// The names of a folder of training images, and of those beside it whose images are held out, the first that is there.
const TRAIN: &str = "train";
const HELD_OUT: [&str; 4] = ["val", "valid", "validation", "test"];

impl Found {
    /// Finds the images of a folder, or those of `train` and `val` in it.
    pub(super) fn in_folder(path: &Path) -> Result<Self> {
        let top = Listing::read(path)?;
        let named = |name: &str| top.folders.iter().find(|folder| name_of(folder).eq_ignore_ascii_case(name));
        let held_out = HELD_OUT.iter().find_map(|name| named(name));
        let (Some(train), Some(val)) = (named(TRAIN), held_out) else {
            return Self::of_classes(path, top);
        };
        let (flat, mut it) =
            (!Listing::read(train)?.images.is_empty(), Self::of_classes(train, Listing::read(train)?)?);
        let held_out = Self::of_classes(val, Listing::read(val)?)?;
        let others = top.folders.len() - 2 + top.others;
        it.skipped += held_out.skipped + others;
        if flat {
            it.classes = vec![name_of(path)];
        }
        for image in held_out.images {
            let class = match flat {
                true => Some(0),
                false => it.classes.iter().position(|name| *name == held_out.classes[image.class]),
            };
            let class = class.with_context(|| {
                format!(
                    "{} has the class {:?}, of which there is no image in {}",
                    val.display(),
                    held_out.classes[image.class],
                    train.display()
                )
            })?;
            it.images.push(Image { class, held_out: true, ..image });
        }
        it.add_metadata(path, top.metadata)?;
        Ok(Self { name: name_of(path), folder: path.to_owned(), ..it })
    }

    /// Finds the images of a folder whose listing is `top`, and of the folders in it, which are classes.
    fn of_classes(path: &Path, top: Listing) -> Result<Self> {
        let at = path.display();
        let (name, folder) = (name_of(path), path.to_owned());
        let (classes, images, attributes) = (Vec::new(), Vec::new(), Vec::new());
        let mut it = Self { name, folder, classes, images, attributes, skipped: top.others };
        for folder in &top.folders {
            let inside = Listing::read(folder)?;
            it.skipped += inside.others + inside.folders.len();
            if !inside.images.is_empty() {
                it.add_class(folder, inside)?;
            }
        }
        if !top.images.is_empty() {
            ensure!(
                it.classes.is_empty(),
                "{at} contains both {} images and folders of images; move the images into a folder, so that every \
                 folder is a class",
                top.images.len()
            );
            it.add_class(path, top)?;
        } else {
            it.add_metadata(path, top.metadata)?;
        }
        if it.classes.is_empty()
            && let Some(deeper) = with_classes(path)?
        {
            bail!(
                "there is no image in {at} or in its folders; but there are images in the folders of {}, so perhaps \
                 use that folder",
                deeper.display()
            )
        }
        ensure!(
            !it.classes.is_empty(),
            "there is no image in {at} or in its folders; PNG, JPEG, BMP, GIF and WebP are supported; {} other files \
             or folders were skipped",
            it.skipped
        );
        ensure!(
            it.classes.len() <= MAX_CLASSES,
            "{at} holds {} folders of images; at most {MAX_CLASSES} classes are supported",
            it.classes.len()
        );
        Ok(it)
    }

    fn add_class(&mut self, folder: &Path, inside: Listing) -> Result<()> {
        let class = self.classes.len();
        self.classes.push(name_of(folder));
        for path in inside.images {
            let text = path.with_extension("txt");
            let caption = match inside.texts.contains(&text) {
                true => Some(fs::read_to_string(&text).with_context(|| format!("cannot read {}", text.display()))?),
                false => None,
            };
            let caption = caption.map(|text| text.trim().to_owned());
            self.images.push(Image { path, class, caption, attributes: Vec::new(), held_out: false });
        }
        self.add_metadata(folder, inside.metadata)
    }

    /// Sets the captions of the images that lines of `metadata.jsonl` in this folder name.
    fn add_metadata(&mut self, folder: &Path, metadata: Option<PathBuf>) -> Result<()> {
        let Some(path) = metadata else { return Ok(()) };
        let at = path.display();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {at}"))?;
        let mut by_path: HashMap<PathBuf, &mut Image> =
            self.images.iter_mut().map(|image| (image.path.clone(), image)).collect();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let line: Metadata = serde_json::from_str(line).with_context(|| {
                format!("{at}, line {}: it must be like {{\"file_name\": \"1.png\", \"text\": \"a cat\"}}", i + 1)
            })?;
            let image = by_path.get_mut(&folder.join(&line.file_name)).with_context(|| {
                format!("{at}, line {}: there is no image {:?} in {}", i + 1, line.file_name, folder.display())
            })?;
            image.caption = Some(line.text.trim().to_owned());
        }
        Ok(())
    }

    /// The files, to be brought to one size.
    pub(super) fn pictures(&self, side: Option<usize>, fit: Fit, skip_bad: bool) -> Pictures<'_> {
        let files = self.images.iter().map(|image| &*image.path).collect();
        Pictures { name: &self.name, folder: &self.folder, files, side, fit, skip_bad }
    }

    /// Decodes the images, or reads them from the cache; also returns how many are held out, which come last. Without a
    /// `side`, pictures that all have the same size keep it. With `skip_bad`, unreadable files are listed on standard error
    /// and left out.
    pub(super) fn load(
        mut self,
        side: Option<usize>,
        fit: Fit,
        skip_bad: bool,
        cache: Option<&Cache>,
    ) -> Result<(Dataset, usize)> {
        let (mut pixels, decoded) = self.pictures(side, fit, skip_bad).pixels(cache)?;
        let kept = self.leave_out(&decoded.skipped)?;
        if kept.len() < decoded.images {
            pixels = pixels.select(&kept, decoded.shape.iter().product());
        }
        let labels = self.images.iter().map(|image| image.class as u32).collect();
        let names: Vec<&str> = self.classes.iter().map(|name| &name[..]).collect();
        let mut all = Dataset::build(&self.name, pixels, decoded.shape, labels, &names)?;
        if self.images.iter().any(|image| image.caption.is_some()) {
            let captions = self.images.iter().map(|image| image.caption.clone().unwrap_or_default());
            all = all.with_captions(captions.collect())?;
        }
        if !self.attributes.is_empty() {
            let values = self.images.iter().flat_map(|image| image.attributes.iter().copied().map(f32::from));
            let names: Vec<&str> = self.attributes.iter().map(|name| &name[..]).collect();
            all = all.with_attributes(values.collect(), &names)?;
        }
        let held_out = self.images.iter().filter(|image| image.held_out).count();
        Ok((Dataset { skipped: self.skipped, ..all }, held_out))
    }

    /// Removes the images in these places, and classes without other images. Returns the places of those that are kept,
    /// counted without the former.
    fn leave_out(&mut self, bad: &[(usize, String)]) -> Result<Vec<usize>> {
        if bad.is_empty() {
            return Ok((0..self.images.len()).collect());
        }
        let bad: HashSet<usize> = bad.iter().map(|(place, _)| *place).collect();
        let mut places = 0..;
        self.images.retain(|_| places.next().is_none_or(|place| !bad.contains(&place)));
        let classes: Vec<usize> = (0..self.classes.len())
            .filter(|class| self.images.iter().any(|image| image.class == *class && !image.held_out))
            .collect();
        ensure!(!classes.is_empty(), "{}: none of its images can be read", self.name);
        let of_class = |image: &Image| classes.iter().position(|class| *class == image.class);
        let kept: Vec<usize> =
            self.images.iter().enumerate().filter(|(_, image)| of_class(image).is_some()).map(|(i, _)| i).collect();
        self.skipped += bad.len() + self.images.len() - kept.len();
        self.images.retain(|image| of_class(image).is_some());
        for image in &mut self.images {
            image.class = of_class(image).unwrap_or(0);
        }
        self.classes = classes.iter().map(|class| self.classes[*class].clone()).collect();
        Ok(kept)
    }
}

/// A line of `metadata.jsonl`, as the image folders of Hugging Face have it.
#[derive(Deserialize)]
struct Metadata {
    file_name: PathBuf,
    #[serde(alias = "caption")]
    text: String,
}

/// Finds a subfolder that contains folders of images, such as `train` without `val`: the one with the most images.
fn with_classes(path: &Path) -> Result<Option<PathBuf>> {
    let mut found = Vec::new();
    for folder in Listing::read(path)?.folders {
        let mut images = 0;
        for class in Listing::read(&folder)?.folders {
            images += Listing::read(&class)?.images.len();
        }
        found.push((images, folder));
    }
    let most = found.into_iter().filter(|(images, _)| *images > 0).max_by_key(|(images, _)| *images);
    Ok(most.map(|(_, folder)| folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma, Rgb, RgbImage};
    use tempfile::TempDir;

    /// A folder with files of a single colour each; greyscale if the name begins with `grey`.
    fn folder(files: &[(&str, [u8; 3], [u32; 2])]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for &(name, rgb, [width, height]) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if name.contains("grey") {
                GrayImage::from_pixel(width, height, Luma([rgb[0]])).save(path)
            } else {
                RgbImage::from_pixel(width, height, Rgb(rgb)).save(path)
            }
            .unwrap();
        }
        dir
    }

    fn read(path: &Path, side: Option<usize>, skip_bad: bool) -> Result<(Dataset, usize)> {
        Found::in_folder(path)?.load(side, Fit::Crop, skip_bad, None)
    }

    #[test]
    fn folders_are_classes_in_the_order_of_their_names() {
        let dir = folder(&[
            ("dogs/2.png", [2, 20, 200], [5, 4]),
            ("dogs/1.BMP", [1, 10, 100], [3, 9]),
            ("cats/grey.png", [7, 7, 7], [2, 2]),
            ("cats/deeper/x.png", [0, 0, 0], [2, 2]),
            (".hidden/x.png", [0, 0, 0], [2, 2]),
        ]);
        fs::write(dir.path().join("dogs/list.csv"), "1,2").unwrap();
        fs::write(dir.path().join("README"), "dogs and cats").unwrap();
        fs::write(dir.path().join("dogs/.DS_Store"), "").unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        let d = Dataset::from_folder(dir.path(), 2).unwrap();
        assert_eq!((d.shape(), d.labels()), ([3, 2, 2], &[0, 1, 1][..]));
        assert_eq!(d.class_names(), ["cats", "dogs"]);
        let want = [[7, 7, 7], [1, 10, 100], [2, 20, 200]];
        let want: Vec<u8> = want.iter().flatten().flat_map(|p| [*p; 4]).collect();
        assert_eq!(d.bytes().unwrap(), want);
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(
            d.to_string(),
            format!("{name}: 3 images of 3×2×2, 2 classes (cats: 1, dogs: 2); 3 other files or folders skipped")
        );
    }

    #[test]
    fn images_without_folders_are_one_class_and_grey_if_all_are() {
        let mut files = vec![("pile/grey1.png", [9; 3], [3, 3]), ("pile/grey2.png", [8; 3], [3, 3])];
        let grey = folder(&files);
        let (d, held_out) = read(&grey.path().join("pile"), None, false).unwrap();
        assert_eq!(held_out, 0);
        assert_eq!((d.shape(), d.name()), ([1, 3, 3], "pile"));
        assert_eq!((d.class_names(), d.class_counts()), (&["pile".to_owned()][..], vec![2]));
        assert_eq!(d.bytes().unwrap()[8..10], [9, 8]);

        files.push(("pile/rgb.png", [5; 3], [3, 3]));
        let mixed = folder(&files);
        let d = Dataset::from_folder(&mixed.path().join("pile"), 3).unwrap();
        assert_eq!(d.shape(), [3, 3, 3]);
        assert!(d.bytes().unwrap()[..27].iter().all(|&p| p == 9));
    }

    #[test]
    fn train_and_val_are_kept_apart_with_and_without_classes() {
        let files = [
            ("train/a/1.png", [1; 3], [3, 4]),
            ("train/b/1.png", [2; 3], [3, 4]),
            ("Val/b/1.png", [3; 3], [3, 4]),
            ("Val/a/1.png", [4; 3], [3, 4]),
            ("extra/a/1.png", [5; 3], [3, 4]),
        ];
        let dir = folder(&files);
        let (d, held_out) = read(dir.path(), Some(1), false).unwrap();
        assert_eq!(
            (d.bytes().unwrap(), d.labels(), held_out),
            (&[1, 1, 1, 2, 2, 2, 4, 4, 4, 3, 3, 3][..], &[0, 1, 0, 1][..], 2)
        );
        assert_eq!(d.class_names(), ["a", "b"]);
        let flat = folder(&[("pile/train/1.png", [1; 3], [3, 4]), ("pile/test/1.png", [2; 3], [3, 4])]);
        let (d, held_out) = read(&flat.path().join("pile"), Some(1), false).unwrap();
        assert_eq!((d.class_names(), d.labels(), held_out), (&["pile".to_owned()][..], &[0, 0][..], 1));
        // A class of which no training image can be read goes with its held-out images.
        fs::write(dir.path().join("train/a/1.png"), "no image").unwrap();
        let (d, held_out) = read(dir.path(), Some(1), true).unwrap();
        assert_eq!((d.class_names(), d.len(), held_out), (&["b".to_owned()][..], 2, 1));
    }

    #[test]
    fn captions_come_from_texts_and_from_metadata() {
        let dir = folder(&[
            ("cats/1.png", [0; 3], [3, 4]),
            ("cats/2.png", [0; 3], [3, 4]),
            ("dogs/1.png", [0; 3], [3, 4]),
            ("dogs/3.jpg", [0; 3], [3, 4]),
        ]);
        assert_eq!(Dataset::from_folder(dir.path(), 2).unwrap().captions(), None);
        fs::write(dir.path().join("cats/1.txt"), "a cat\n").unwrap();
        fs::write(dir.path().join("cats/notes.txt"), "").unwrap();
        let lines = "{\"file_name\": \"dogs/1.png\", \"text\": \"a dog\", \"more\": 1}\n{\"file_name\": \"dogs/3.jpg\", \"caption\": \"two\"}\n";
        fs::write(dir.path().join("metadata.jsonl"), lines).unwrap();
        let d = Dataset::from_folder(dir.path(), 2).unwrap();
        assert_eq!(d.captions().unwrap(), ["a cat", "", "a dog", "two"]);
        assert!(d.to_string().contains("1 other files or folders skipped"), "{d}");
    }

    #[test]
    fn errors_name_unreadable_files() {
        let sizes = folder(&[("a.png", [0; 3], [3, 4]), ("b.png", [0; 3], [4, 4])]);
        let mixed = folder(&[("a.png", [0; 3], [3, 4]), ("b/b.png", [0; 3], [4, 4])]);
        let damaged = folder(&[("good.png", [0; 3], [3, 4])]);
        fs::write(damaged.path().join("odd.jpg"), "no image").unwrap();
        let none = folder(&[]);
        fs::write(none.path().join("a.txt"), "").unwrap();
        for (dir, side, facts) in [
            (sizes.path(), None, ["a.png has 3×4", "b.png has 4×4"]),
            (mixed.path(), Some(2), ["contains both 1 images", "move the images"]),
            (damaged.path(), Some(2), ["odd.jpg", "image"]),
            (none.path(), Some(2), ["no image in", "1 other files"]),
            (&none.path().join("a.txt"), Some(2), ["folder", "a.txt"]),
            (&none.path().join("missing"), Some(2), ["folder", "missing"]),
        ] {
            let message = format!("{:#}", read(dir, side, false).map(|it| it.0).unwrap_err());
            for fact in facts {
                assert!(message.contains(fact), "no {fact:?} in {message}");
            }
        }
        // The readable file remains.
        let (d, _) = read(damaged.path(), Some(2), true).unwrap();
        assert_eq!((d.len(), d.to_string().contains("1 other files or folders skipped")), (1, true));
        let splits = folder(&[
            ("raw/a/1.png", [0; 3], [3, 4]),
            ("train/a/1.png", [0; 3], [3, 4]),
            ("train/b/1.png", [0; 3], [3, 4]),
        ]);
        let message = Dataset::from_folder(splits.path(), 2).unwrap_err().to_string();
        assert!(message.contains("train, so perhaps use that folder"), "{message}");
        let odd = folder(&[("train/a/1.png", [0; 3], [3, 4]), ("val/b/1.png", [0; 3], [3, 4])]);
        let message = Dataset::from_folder(odd.path(), 2).unwrap_err().to_string();
        assert!(message.contains("val has the class \"b\", of which there is no image in"), "{message}");
        let named = folder(&[("1.png", [0; 3], [3, 4])]);
        for (line, wants) in
            [("{\"file_name\": \"2.png\", \"text\": \"x\"}", "no image \"2.png\""), ("1.png,x", "like {\"file_name\"")]
        {
            fs::write(named.path().join("metadata.jsonl"), format!("\n{line}\n")).unwrap();
            let message = format!("{:#}", Dataset::from_folder(named.path(), 2).unwrap_err());
            assert!(message.contains("metadata.jsonl, line 2") && message.contains(wants), "{message}");
        }
        for side in [0, 1025, usize::MAX] {
            let message = Dataset::from_folder(sizes.path(), side).unwrap_err();
            assert!(message.to_string().contains("1 … 1024"), "{message}");
        }
    }
}
