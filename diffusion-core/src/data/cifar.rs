//! CIFAR-10 in its binary version: records of a label and an image of 32×32 pixels.
//!
//! ```text
//! u8           the label, 0 … 9
//! u8 × 1024    red, row by row from the top
//! u8 × 1024    green
//! u8 × 1024    blue
//! ```
//!
//! A file is nothing but records: their number is its length / 3073, 10,000 in the official files.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flate2::bufread::GzDecoder;
use tar::Entry;

use super::download::{self, Fetch, RemoteFile, data_dir};
use super::{Dataset, Part, locate};

/// The names of CIFAR-10's classes.
pub const CIFAR10_CLASSES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

/// The folder of the files in the archive, and in the data folder.
pub const FOLDER: &str = "cifar-10-batches-bin";

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;
const RECORD: usize = 1 + PIXELS;

/// No more records than this are read from a file: ten times those of an official one.
const MAX_RECORDS: usize = 100_000;
const MAX_FILE: u64 = (MAX_RECORDS * RECORD) as u64;

const TRAIN: [&str; 5] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];
const TEST: [&str; 1] = ["test_batch.bin"];

impl Dataset {
    /// [CIFAR-10](https://www.cs.toronto.edu/~kriz/cifar.html): 32×32 colour photographs of ten kinds of animals and
    /// vehicles, 50,000 to learn from and 10,000 to test on, downloaded on first use (170.1 MB; 184.4 MB unpacked) into
    /// `cifar-10-batches-bin` in [`download::data_dir`].
    ///
    /// Author: A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009; no licence is stated.
    ///
    /// # Errors
    /// A file is neither there nor to be had, or is damaged: the message says where to put it by hand.
    pub fn cifar10(part: Part) -> Result<Self> {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for file in locate::cifar10(part, &data_dir())? {
            let (more_pixels, more_labels) = read(&file)?;
            pixels.extend(more_pixels);
            labels.extend(more_labels);
        }
        Self::new("cifar10", pixels, [3, SIDE, SIDE], labels, &CIFAR10_CLASSES)
    }
}

/// Reads one file: the pixels of its images, (N, 3, 32, 32), and their labels.
///
/// # Errors
/// The file cannot be read; it is empty, has more than 100,000 records, or its length is not that of whole records; a label
/// is above 9.
pub fn read(path: &Path) -> Result<(Vec<u8>, Vec<u32>)> {
    read_records(path)
        .with_context(|| format!("cannot read {} as a batch of CIFAR-10", path.display()))
        .map_err(crate::whole)
}

fn read_records(path: &Path) -> Result<(Vec<u8>, Vec<u32>)> {
    let metadata = fs::metadata(path)?;
    ensure!(metadata.is_file(), "it is not a file");
    ensure!(
        metadata.len() <= MAX_FILE,
        "it has more than {MAX_RECORDS} records of {RECORD} bytes"
    );
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    ensure!(!bytes.is_empty(), "it is empty");
    let (records, rest) = bytes.as_chunks::<RECORD>();
    ensure!(
        rest.is_empty(),
        "its length is {} bytes: {} records of {RECORD} bytes and {} bytes more. Delete it to have it unpacked again",
        bytes.len(),
        records.len(),
        rest.len()
    );
    let mut pixels = Vec::with_capacity(records.len() * PIXELS);
    let mut labels = Vec::with_capacity(records.len());
    for (i, [label, image @ ..]) in records.iter().enumerate() {
        ensure!(
            usize::from(*label) < CIFAR10_CLASSES.len(),
            "record {i} (counted from 0) has the label {label}; the classes are 0 … 9"
        );
        labels.push(u32::from(*label));
        pixels.extend_from_slice(image);
    }
    Ok((pixels, labels))
}

/// Makes sure that the files of a part are in the folder [`FOLDER`] of `data_dir`, and returns their paths in order.
///
/// If one is missing, `archive` is downloaded into `data_dir`, unless it is there, and whatever file of either part is
/// missing is unpacked from it. Files that are there are left as they are. Then the archive is deleted if it was downloaded
/// by this call, as all of it has been unpacked; one that was there before is kept.
///
/// # Errors
/// As [`download::fetch`]; the archive is damaged or does not hold the files; a file cannot be written.
pub fn files(
    part: Part,
    data_dir: &Path,
    archive: &RemoteFile,
    options: &mut Fetch,
) -> Result<Vec<PathBuf>> {
    let dir = data_dir.join(FOLDER);
    let names = match part {
        Part::Train => &TRAIN[..],
        Part::Test => &TEST,
    };
    let paths = || names.iter().map(|name| dir.join(name));
    if paths().any(|path| !path.exists()) {
        let was_there = data_dir.join(&archive.name).exists();
        let packed = download::fetch(archive, data_dir, options)?;
        unpack(&packed, &dir)
            .with_context(|| format!("cannot unpack {}", packed.display()))
            .map_err(crate::whole)?;
        if !was_there {
            // What cannot be deleted only takes space.
            let _ = fs::remove_file(&packed);
        }
    }
    Ok(paths().collect())
}

/// Unpacks what is missing in the folder `dir`.
fn unpack(archive: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    let file = File::open(archive)?;
    // A second process waits here, and then finds the work done. Without locks, both do the same.
    let _ = file.lock();
    let is_missing = |name: &&str| !dir.join(name).exists();
    let mut missing: Vec<&str> = TRAIN.into_iter().chain(TEST).filter(is_missing).collect();
    let mut entries = tar::Archive::new(GzDecoder::new(BufReader::new(&file)));
    for entry in entries.entries()? {
        if missing.is_empty() {
            break;
        }
        let mut entry = entry?;
        // A path in the archive is compared, never used.
        let path = entry.path_bytes().into_owned();
        let is_this = |name: &&str| path == format!("{FOLDER}/{name}").as_bytes();
        if let Some(at) = missing.iter().position(is_this) {
            let name = missing.swap_remove(at);
            save(&mut entry, dir, name).with_context(|| format!("{FOLDER}/{name}"))?;
        }
    }
    ensure!(
        missing.is_empty(),
        "there is no {} in it",
        missing.join(" and no ")
    );
    Ok(())
}

/// Writes a file of the archive to `dir/name`, complete or not at all.
fn save(entry: &mut Entry<impl Read>, dir: &Path, name: &str) -> Result<()> {
    let bytes = entry.size();
    ensure!(
        entry.header().entry_type().is_file() && bytes <= MAX_FILE,
        "it is no file or is too large ({bytes} bytes)"
    );
    let (path, part) = (dir.join(name), dir.join(format!("{name}.part")));
    let cannot = || format!("cannot write {}", part.display());
    let mut file = File::create(&part).with_context(cannot)?;
    let written = io::copy(entry, &mut file).with_context(cannot)?;
    ensure!(
        written == bytes,
        "it is cut short: {written} of {bytes} bytes"
    );
    file.sync_all().with_context(cannot)?;
    fs::rename(&part, &path)
        .with_context(|| format!("cannot rename {} to {}", part.display(), path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of one label with pixels that count up from it.
    fn record(label: u8) -> Vec<u8> {
        let mut record = vec![label];
        record.extend((0..PIXELS).map(|i| (i + usize::from(label)) as u8));
        record
    }

    fn read_bytes(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u32>)> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("batch.bin");
        fs::write(&path, bytes)?;
        read(&path)
    }

    #[test]
    fn records_are_a_label_and_three_planes() {
        let bytes: Vec<u8> = [9, 0, 4].into_iter().flat_map(record).collect();
        let (pixels, labels) = read_bytes(&bytes).unwrap();
        assert_eq!((labels, pixels.len()), (vec![9, 0, 4], 3 * PIXELS));
        assert_eq!(pixels[..PIXELS], record(9)[1..]);
        assert_eq!(pixels[2 * PIXELS..], record(4)[1..]);
    }

    #[test]
    fn what_is_not_whole_records_is_an_error_that_names_the_file() {
        let two: Vec<u8> = [1, 2].into_iter().flat_map(record).collect();
        let three: Vec<u8> = [1, 2, 10].into_iter().flat_map(record).collect();
        for (bytes, fact) in [
            (&two[..0], "it is empty"),
            (&two[..1], "0 records of 3073 bytes and 1 bytes more"),
            (&two[..6145], "1 records of 3073 bytes and 3072 bytes more"),
            (&three, "record 2 (counted from 0) has the label 10"),
        ] {
            let message = read_bytes(bytes).unwrap_err().to_string();
            assert!(message.contains(fact), "no {fact:?} in {message}");
            assert!(message.contains("batch.bin"), "no path in {message}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_err());
        // As long as a disk: it is not read.
        let path = dir.path().join("huge.bin");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("more than 100000 records"), "{message}");
    }

    /// Runs on the real files where they are, and on nothing where they are not.
    #[test]
    fn cifar10_is_what_it_should_be() -> Result<()> {
        let file = data_dir().join(FOLDER).join(TEST[0]);
        if !file.is_file() {
            eprintln!(
                "{} is not there: only made-up files were tested",
                file.display()
            );
            return Ok(());
        }
        let test = Dataset::cifar10(Part::Test)?;
        assert_eq!(test.shape(), [3, 32, 32]);
        // A thousand of each in the official file, of which some copies lack a few; it begins with a cat, two ships and
        // an airplane.
        assert!(test.class_counts().iter().all(|n| (950..=1000).contains(n)));
        assert_eq!(test.labels()[..4], [3, 8, 8, 0]);
        // Photographs: means and spreads of all three colours are in the middle.
        for plane in 0..3 {
            let values = test.pixels.chunks_exact(1024).skip(plane).step_by(3);
            let sum: u64 = values.flatten().map(|&p| u64::from(p)).sum();
            let mean = sum as f64 / (1024 * test.len()) as f64;
            assert!((100.0..150.0).contains(&mean), "{mean}");
        }
        Ok(())
    }
}
