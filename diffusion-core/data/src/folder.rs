//! Image folders, with subfolders as classes.

mod picture;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rayon::prelude::*;

use super::resize::{check_bytes, check_side, to_channels_first};
use super::{Dataset, MAX_CLASSES};
use diffusion_show::progress::{Progress, Unit};
use picture::Picture;

/// The file extensions of images.
const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "bmp", "gif", "webp"];

impl Dataset {
    /// Loads the images in a folder, resized to `side` pixels high and wide (1 … 1024).
    ///
    /// PNG, JPEG, BMP, GIF (its first frame) and WebP are supported. If the folder contains folders of images, each of
    /// them is a class, in alphabetical order; if it contains images, they form one class with the folder's name.
    /// Deeper folders are ignored, as are hidden files (`.name`). The number of other skipped files and folders is
    /// displayed with the data set.
    ///
    /// The central square of each image is resized by a weighted mean of neighbouring pixels. Transparent pixels are
    /// blended with white. The images are RGB, or greyscale if all files are.
    ///
    /// # Errors
    /// The folder cannot be read, contains no image, or mixes images and folders of images; an image file cannot be
    /// decoded or takes more than 256 MiB; there are more than [`MAX_CLASSES`] folders, or more than
    /// [`MAX_BYTES`](super::MAX_BYTES) of pixels.
    pub fn from_folder(path: &Path, side: usize) -> Result<Self> {
        check_side(side)?;
        Self::read_folder(path, Some(side), false)
    }

    /// [`Dataset::from_folder`] with options. Without a `side`, images that all have the same size keep it. With
    /// `skip_bad`, unreadable files are listed on standard error and skipped.
    pub(super) fn read_folder(path: &Path, side: Option<usize>, skip_bad: bool) -> Result<Self> {
        let mut found = find(path)?;
        if skip_bad {
            found.leave_out_bad()?;
        }
        let files: Vec<&PathBuf> = found.classes.iter().flat_map(|(_, files)| files).collect();
        let pictures = read_all(&found.name, &files, side)?;
        let (height, width) = (pictures[0].height, pictures[0].width);
        let channels = if pictures.iter().all(|picture| picture.grey) { 1 } else { 3 };
        let mut pixels = Vec::with_capacity(files.len() * channels * height * width);
        for picture in pictures {
            if picture.grey {
                (0..channels).for_each(|_| pixels.extend_from_slice(&picture.pixels));
            } else {
                pixels.extend(to_channels_first(&picture.pixels, 3, height * width));
            }
        }
        let labels = found.classes.iter().zip(0..);
        let labels = labels.flat_map(|((_, files), class)| vec![class; files.len()]);
        let names: Vec<&str> = found.classes.iter().map(|(name, _)| &name[..]).collect();
        let all = Self::from_u8(&found.name, pixels, [channels, height, width], labels.collect(), &names)?;
        Ok(Self { skipped: found.skipped, ..all })
    }
}

/// The last component of a path, also for `.` and similar paths.
pub(super) fn name_of(path: &Path) -> String {
    let absolute = fs::canonicalize(path).unwrap_or_default();
    let name = path.file_name().or(absolute.file_name());
    name.unwrap_or(OsStr::new("images")).to_string_lossy().into_owned()
}

/// The contents of a folder of images.
struct Found {
    /// The name of the folder.
    name: String,
    /// The name and the files of each class; there is at least one of each.
    classes: Vec<(String, Vec<PathBuf>)>,
    /// The number of other files and folders.
    skipped: usize,
}

impl Found {
    /// Lists and removes the unreadable files.
    fn leave_out_bad(&mut self) -> Result<()> {
        for (_, files) in &mut self.classes {
            let bad: Vec<Option<String>> = files.par_iter().map(|file| Picture::problem(file)).collect();
            for problem in bad.iter().flatten() {
                let _ = writeln!(std::io::stderr(), "skipped: {problem}");
            }
            self.skipped += bad.iter().flatten().count();
            let mut bad = bad.iter();
            files.retain(|_| bad.next().is_none_or(Option::is_none));
        }
        self.classes.retain(|(_, files)| !files.is_empty());
        ensure!(!self.classes.is_empty(), "{}: none of its images can be read", self.name);
        Ok(())
    }
}

fn find(path: &Path) -> Result<Found> {
    let at = path.display();
    let top = Listing::read(path)?;
    let (mut classes, mut skipped) = (Vec::new(), top.others);
    for folder in top.folders {
        let inside = Listing::read(&folder)?;
        skipped += inside.others + inside.folders.len();
        if !inside.images.is_empty() {
            classes.push((name_of(&folder), inside.images));
        }
    }
    if !top.images.is_empty() {
        ensure!(
            classes.is_empty(),
            "{at} contains both {} images and folders of images; move the images into a folder, so that every folder \
             is a class",
            top.images.len()
        );
        classes.push((name_of(path), top.images));
    }
    if classes.is_empty()
        && let Some(deeper) = with_classes(path)?
    {
        bail!(
            "there is no image in {at} or in its folders; but there are images in the folders of {}, so perhaps use \
             that folder",
            deeper.display()
        )
    }
    ensure!(
        !classes.is_empty(),
        "there is no image in {at} or in its folders; PNG, JPEG, BMP, GIF and WebP are supported; {skipped} other \
         files or folders were skipped"
    );
    ensure!(
        classes.len() <= MAX_CLASSES,
        "{at} holds {} folders of images; at most {MAX_CLASSES} classes are supported",
        classes.len()
    );
    Ok(Found { name: name_of(path), classes, skipped })
}

/// Finds a subfolder that contains folders of images, such as `train` next to `val`: the one with the most images.
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

/// The visible entries of a folder in alphabetical order.
struct Listing {
    images: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    others: usize,
}

impl Listing {
    fn read(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read the folder {}", path.display());
        let (mut images, mut folders, mut others) = (Vec::new(), Vec::new(), 0);
        for entry in fs::read_dir(path).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() && is_named_as_image(&path) {
                images.push(path);
            } else {
                others += 1;
            }
        }
        images.sort();
        folders.sort();
        Ok(Self { images, folders, others })
    }
}

fn is_named_as_image(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    EXTENSIONS.iter().any(|e| extension.eq_ignore_ascii_case(e))
}

/// Reads at least one file into pictures of one size.
fn read_all(name: &str, files: &[&PathBuf], side: Option<usize>) -> Result<Vec<Picture>> {
    let unit = Unit::Items("images".to_owned());
    let mut progress = Progress::new(files.len() as u64, name).unit(unit);
    let mut pictures: Vec<Picture> = Vec::new();
    // In chunks, so that an error is found early.
    for piece in files.chunks(64) {
        let read = piece.par_iter().map(|file| Picture::read(file, side));
        let read: Result<Vec<Picture>> = read.collect();
        let read = read.map_err(|bad| {
            anyhow!("{bad:#}. To leave out all files that cannot be used: --skip-bad (`skip_bad = true` in a file or in Source)")
        })?;
        let first = pictures.first().unwrap_or(&read[0]);
        let (width, height) = (first.width, first.height);
        check_bytes(files.len(), [3, height, width]).with_context(|| name.to_owned())?;
        for (picture, file) in read.iter().zip(piece) {
            ensure!(
                (picture.width, picture.height) == (width, height),
                "the images differ in size: {} has {width}×{height} pixels, {} has {}×{}. Set a side (--side 64, or \
                 `side = 64` under [data] in a file) to resize the central square of each image",
                files[0].display(),
                file.display(),
                picture.width,
                picture.height
            );
        }
        pictures.extend(read);
        progress.inc(piece.len() as u64);
    }
    progress.finish();
    Ok(pictures)
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
        let d = Dataset::read_folder(&grey.path().join("pile"), None, false).unwrap();
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
            let message = format!("{:#}", Dataset::read_folder(dir, side, false).unwrap_err());
            for fact in facts {
                assert!(message.contains(fact), "no {fact:?} in {message}");
            }
        }
        // The readable file remains.
        let d = Dataset::read_folder(damaged.path(), Some(2), true).unwrap();
        assert_eq!((d.len(), d.to_string().contains("1 other files or folders skipped")), (1, true));
        let splits = folder(&[
            ("val/a/1.png", [0; 3], [3, 4]),
            ("train/a/1.png", [0; 3], [3, 4]),
            ("train/b/1.png", [0; 3], [3, 4]),
        ]);
        let message = Dataset::from_folder(splits.path(), 2).unwrap_err().to_string();
        assert!(message.contains("train, so perhaps use that folder"), "{message}");
        for side in [0, 1025, usize::MAX] {
            let message = Dataset::from_folder(sizes.path(), side).unwrap_err();
            assert!(message.to_string().contains("1 … 1024"), "{message}");
        }
    }
}
