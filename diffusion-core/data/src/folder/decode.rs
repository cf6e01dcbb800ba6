//! Decoding the pictures of a folder, in bounded memory.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use std::{fs, io, io::SeekFrom};

use anyhow::{Context, Error, Result, ensure};
use diffusion_ops::error::{message, whole};
use diffusion_show::progress::{Progress, Unit};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::cache::{Cache, Decoded, Key, Storage, cannot_write, in_memory, say};
use crate::picture::Picture;
use crate::pixels::Pixels;
use crate::resize::{Fit, check_bytes};

/// The number of pictures in memory at once.
const AT_ONCE: usize = 64;

/// The files of a data set, and how they become images of one size.
pub(crate) struct Pictures<'a> {
    /// The name of the data set.
    pub(crate) name: &'a str,
    /// The folder that the names of the files start from.
    pub(crate) folder: &'a Path,
    /// At least one file.
    pub(crate) files: Vec<&'a Path>,
    /// The height and width of the images; without it that of the pictures, which must be the same for all.
    pub(crate) side: Option<usize>,
    pub(crate) fit: Fit,
    /// Whether unreadable files are listed on standard error and left out; otherwise the first one is an error.
    pub(crate) skip_bad: bool,
}

impl Pictures<'_> {
    /// The pixels of all images, and which files are left out.
    pub(crate) fn pixels(&self, cache: Option<&Cache>) -> Result<(Pixels, Decoded)> {
        let decode = |out: &mut dyn Storage, path: Option<&Path>| self.decode(out, path);
        let (pixels, decoded) = match cache {
            Some(cache) => cache.pixels(self.key()?, self.skip_bad, &decode)?,
            None => in_memory(&decode)?,
        };
        decoded.skipped.iter().for_each(|(_, problem)| say(&format!("skipped: {problem}")));
        Ok((pixels, decoded))
    }

    /// What identifies the images in a cache. Names are relative to the folder, which may have moved.
    pub(crate) fn key(&self) -> Result<Key> {
        let mut hasher = Sha256::new();
        for file in &self.files {
            let name = file.strip_prefix(self.folder).unwrap_or(file).as_os_str().as_encoded_bytes();
            let about = fs::metadata(file).with_context(|| format!("cannot read {}", file.display())).map_err(whole)?;
            let changed = about.modified().unwrap_or(UNIX_EPOCH);
            let (after, nanoseconds) = match changed.duration_since(UNIX_EPOCH) {
                Ok(after) => (1, after.as_nanos()),
                Err(before) => (0, before.duration().as_nanos()),
            };
            hasher.update((name.len() as u64).to_le_bytes());
            hasher.update(name);
            hasher.update(about.len().to_le_bytes());
            hasher.update([after]);
            hasher.update(nanoseconds.to_le_bytes());
        }
        Ok(Key { files: format!("{:x}", hasher.finalize()), side: self.side, fit: self.fit })
    }

    /// Writes the pixels of all pictures to `out`, which is memory if it has no path.
    pub(crate) fn decode(&self, out: &mut dyn Storage, path: Option<&Path>) -> Result<Decoded> {
        if self.side.is_none() {
            self.sizes()?.one(USUAL_SIDE)?;
        }
        let size = self.side.map(|side| (side, side));
        let mut progress = self.progress("decoding");
        let mut decoded = Decoded::default();
        for (first, piece) in (0..).step_by(AT_ONCE).zip(self.files.chunks(AT_ONCE)) {
            let read: Vec<_> = piece.par_iter().map(|file| Picture::read(file, size, self.fit)).collect();
            let mut pixels = Vec::new();
            for (i, picture) in read.into_iter().enumerate() {
                let picture = match picture {
                    Err(bad) if self.skip_bad => {
                        decoded.skipped.push((first + i, message(&bad)));
                        continue;
                    }
                    picture => picture.map_err(with_advice)?,
                };
                let (height, width) = (picture.height, picture.width);
                if decoded.images == 0 {
                    decoded.shape = [1, height, width];
                    if path.is_none() {
                        check_bytes(self.files.len(), [3, height, width]).with_context(|| self.name.to_owned())?;
                    }
                }
                // Their headers were equal, but a file may have been written meanwhile.
                ensure!(decoded.shape[1..] == [height, width], "{} has another size than before", piece[i].display());
                // The images are greyscale until there is a colour.
                if !picture.grey && decoded.shape[0] == 1 {
                    decoded.shape[0] = 3;
                    let written = out.write_all(&pixels);
                    let repeated = written.and_then(|()| repeat_three_times(out, decoded.images, height * width));
                    self.written(repeated, path, decoded.shape)?;
                    pixels.clear();
                }
                pixels.extend(picture.planes(decoded.shape[0]));
                decoded.images += 1;
            }
            self.written(out.write_all(&pixels), path, decoded.shape)?;
            progress.inc(piece.len() as u64);
        }
        progress.finish();
        ensure!(decoded.images > 0, "{}: none of its images can be read", self.name);
        Ok(decoded)
    }

    fn written(&self, result: io::Result<()>, path: Option<&Path>, shape: [usize; 3]) -> Result<()> {
        let bytes = shape.iter().product::<usize>() as u64 * self.files.len() as u64;
        match path {
            Some(path) => result.with_context(|| cannot_write(path, Some(bytes))).map_err(whole),
            None => Ok(result?),
        }
    }

    /// The sizes of the pictures, from the headers of their files, up to the first ones that differ.
    pub(crate) fn sizes(&self) -> Result<PictureSizes> {
        let mut progress = self.progress("sizes");
        let mut sizes: Option<PictureSizes> = None;
        for piece in self.files.chunks(AT_ONCE) {
            let read: Vec<_> = piece.par_iter().map(|file| Ok((file.to_path_buf(), Picture::size(file)?))).collect();
            for it in read {
                let it = match it {
                    Err(_) if self.skip_bad => continue,
                    it => it.map_err(with_advice)?,
                };
                let sizes = sizes.get_or_insert_with(|| PictureSizes { smallest: it.clone(), largest: it.clone() });
                let area = |(_, (width, height)): &(PathBuf, (usize, usize))| (width * height, *width);
                if area(&it) < area(&sizes.smallest) {
                    sizes.smallest = it;
                } else if area(&it) > area(&sizes.largest) {
                    sizes.largest = it;
                }
            }
            progress.inc(piece.len() as u64);
            if sizes.as_ref().is_some_and(PictureSizes::differ) {
                break;
            }
        }
        progress.finish();
        sizes.with_context(|| format!("{}: none of its images can be read", self.name))
    }

    fn progress(&self, what: &str) -> Progress {
        let unit = Unit::Items("images".to_owned());
        Progress::new(self.files.len() as u64, format!("{}: {what}", self.name)).unit(unit)
    }
}

fn with_advice(bad: Error) -> Error {
    let advice = "To leave out all files that cannot be used: --skip-bad (`skip_bad = true` in a file or in Source)";
    Error::msg(format!("{}. {advice}", message(&bad)))
}

/// Replaces `n` greyscale images of `area` pixels at the beginning of `out` by RGB images.
fn repeat_three_times(out: &mut dyn Storage, n: usize, area: usize) -> io::Result<()> {
    let (mut grey, area) = (vec![0; area], area as u64);
    // From the last one, so that none is overwritten before it is read.
    for i in (0..n as u64).rev() {
        out.seek(SeekFrom::Start(i * area))?;
        out.read_exact(&mut grey)?;
        out.seek(SeekFrom::Start(3 * i * area))?;
        out.write_all(&grey.repeat(3))?;
    }
    out.seek(SeekFrom::Start(3 * n as u64 * area)).map(drop)
}

/// The side that is advised if pictures need one.
pub(crate) const USUAL_SIDE: usize = 64;

/// The sizes of the pictures of a folder: [`Source::picture_sizes`](crate::Source::picture_sizes).
#[derive(Clone, Debug)]
pub struct PictureSizes {
    /// Files with their width and height.
    smallest: (PathBuf, (usize, usize)),
    largest: (PathBuf, (usize, usize)),
}

impl PictureSizes {
    fn differ(&self) -> bool {
        self.smallest.1 != self.largest.1
    }

    /// The height and width of all pictures.
    ///
    /// # Errors
    /// They differ: the message names two files with their sizes, and advises `side`.
    pub fn one(&self, side: usize) -> Result<[usize; 2]> {
        let Self { smallest: (a, (w, h)), largest: (b, (width, height)) } = self;
        ensure!(
            !self.differ(),
            "the images differ in size: {} has {w}×{h} pixels, {} has {width}×{height}. Set a side (--side {side}, or \
             `side = {side}` under [data] in a file) to resize the central square of each image",
            a.display(),
            b.display(),
        );
        Ok([*h, *w])
    }
}
