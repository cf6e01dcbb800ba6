//! CIFAR-10 in its binary version: records of a label and an image of 32×32 pixels.
//!
//! ```text
//! u8           the label, 0 … 9
//! u8 × 1024    red, row by row from the top
//! u8 × 1024    green
//! u8 × 1024    blue
//! ```
//!
//! A file contains only records: their number is its length / 3073, 10,000 in the official files.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flate2::bufread::GzDecoder;

use super::download::{cifar10, data_dir};
use super::locate::download;
use super::{Dataset, Split};

/// The names of CIFAR-10's classes.
pub const CIFAR10_CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The folder of the files, in the archive and in the data folder.
const FOLDER: &str = "cifar-10-batches-bin";

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;
const RECORD: usize = 1 + PIXELS;

/// The largest number of records in a file, ten times that of an official one.
const MAX_RECORDS: usize = 100_000;
const MAX_FILE: u64 = (MAX_RECORDS * RECORD) as u64;

const TRAIN: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST: [&str; 1] = ["test_batch.bin"];

/// Finds the Python version of CIFAR-10, whose files are pickles, that is, Python programs.
fn python_version(dir: &Path) -> Option<PathBuf> {
    let places = ["cifar-10-batches-py", "cifar-10-python.tar.gz"].map(|name| dir.join(name));
    places.into_iter().find(|path| path.exists())
}

impl Dataset {
    /// [CIFAR-10](https://www.cs.toronto.edu/~kriz/cifar.html): 32×32 colour photographs of ten kinds of animals and
    /// vehicles, 50,000 training and 10,000 test images. The archive is downloaded on first use (170.1 MB) into
    /// [`download::data_dir`](super::download::data_dir); unpacked files in `cifar-10-batches-bin` there are used
    /// first.
    ///
    /// Author: A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009; no licence is stated.
    ///
    /// # Errors
    /// See [`Dataset::mnist`].
    pub fn cifar10(split: Split) -> Result<Self> {
        let names = match split {
            Split::Train => &TRAIN[..],
            Split::Test => &TEST,
        };
        let dir = data_dir();
        let batches = match names.iter().all(|name| dir.join(FOLDER).join(name).is_file()) {
            true => {
                let read = |name| read_file(&dir.join(FOLDER).join(name));
                names.iter().map(read).collect::<Result<_>>()?
            }
            false => {
                let archive = download(&cifar10(), &dir).with_context(|| match python_version(&dir) {
                    Some(path) => format!(
                        "{} is the Python version, which is not supported; the binary version is needed",
                        path.display()
                    ),
                    None => "CIFAR-10 is needed in its binary version".to_owned(),
                });
                read_archive(&archive.map_err(diffusion_ops::error::whole)?, names)?
            }
        };
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for (more_pixels, more_labels) in batches {
            pixels.extend(more_pixels);
            labels.extend(more_labels);
        }
        Self::from_u8("cifar10", pixels, [3, SIDE, SIDE], labels, &CIFAR10_CLASSES)
    }
}

/// The pixels (N, 3, 32, 32) and the labels of a file.
type Batch = (Vec<u8>, Vec<u32>);

fn read_file(path: &Path) -> Result<Batch> {
    let open = || {
        let metadata = fs::metadata(path)?;
        ensure!(metadata.is_file(), "it is not a file");
        read(File::open(path)?, metadata.len())
    };
    open()
        .with_context(|| format!("cannot read {} as a batch of CIFAR-10", path.display()))
        .map_err(diffusion_ops::error::whole)
}

/// Reads the files with these names from the archive.
fn read_archive(path: &Path, names: &[&str]) -> Result<Vec<Batch>> {
    let open = || -> Result<Vec<Batch>> {
        let mut found: Vec<Option<Batch>> = vec![None; names.len()];
        let file = BufReader::new(File::open(path)?);
        for entry in tar::Archive::new(GzDecoder::new(file)).entries()? {
            let entry = entry?;
            let path = entry.path_bytes().into_owned();
            let is_this = |name: &&str| path == format!("{FOLDER}/{name}").as_bytes();
            if let Some(i) = names.iter().position(is_this) {
                let bytes = entry.size();
                found[i] = Some(read(entry, bytes).context(names[i].to_owned())?);
            }
        }
        let named = found.into_iter().zip(names);
        named.map(|(batch, name)| batch.with_context(|| format!("there is no {name} in it"))).collect()
    };
    open()
        .with_context(|| format!("cannot read {} as the archive of CIFAR-10", path.display()))
        .map_err(diffusion_ops::error::whole)
}

/// Reads the records of a file of `length` bytes.
fn read(file: impl Read, length: u64) -> Result<Batch> {
    ensure!(length <= MAX_FILE, "it has more than {MAX_RECORDS} records of {RECORD} bytes");
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    ensure!(!bytes.is_empty(), "it is empty");
    let (records, rest) = bytes.as_chunks::<RECORD>();
    ensure!(
        rest.is_empty() && bytes.len() as u64 == length,
        "it is truncated: {} records of {RECORD} bytes and {} more bytes",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idx::tests::gzip;

    /// A record with this label and with pixels that count up from it.
    fn record(label: u8) -> Vec<u8> {
        let mut record = vec![label];
        record.extend((0..PIXELS).map(|i| (i + usize::from(label)) as u8));
        record
    }

    fn records(labels: &[u8]) -> Vec<u8> {
        labels.iter().copied().flat_map(record).collect()
    }

    fn with_file<T>(bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, bytes).unwrap();
        read(&path)
    }

    #[test]
    fn records_are_a_label_and_three_planes() {
        let (pixels, labels) = with_file(&records(&[9, 0, 4]), read_file).unwrap();
        assert_eq!((labels, pixels.len()), (vec![9, 0, 4], 3 * PIXELS));
        assert_eq!(pixels[..PIXELS], record(9)[1..]);
        assert_eq!(pixels[2 * PIXELS..], record(4)[1..]);
    }

    #[test]
    fn malformed_files_are_errors_that_name_the_file() {
        let two = records(&[1, 2]);
        for (bytes, fact) in [
            (&two[..0], "it is empty"),
            (&two[..1], "0 records of 3073 bytes and 1 more bytes"),
            (&two[..6145], "1 records of 3073 bytes and 3072 more bytes"),
            (&records(&[1, 2, 10]), "record 2 (counted from 0) has the label 10"),
        ] {
            let message = with_file(bytes, read_file).unwrap_err().to_string();
            assert!(message.contains(fact), "no {fact:?} in {message}");
            assert!(message.contains("file as a batch"), "no path in {message}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(read_file(dir.path()).is_err());
        // As large as a disk: it is not read.
        let path = dir.path().join("huge.bin");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let message = read_file(&path).unwrap_err().to_string();
        assert!(message.contains("more than 100000 records"), "{message}");
    }

    /// An archive whose headers state the length of each file.
    fn archive(files: &[(&str, u64, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for &(path, size, data) in files {
            let mut header = tar::Header::new_gnu();
            header.set_path(path).unwrap();
            header.set_size(size);
            header.set_cksum();
            tar.append(&header, data).unwrap();
        }
        gzip(&tar.into_inner().unwrap())
    }

    #[test]
    fn the_batches_of_an_archive_are_found_in_any_order() {
        let [first, second, other] = [&[1, 1][..], &[2], &[3]].map(records);
        let bytes = archive(&[
            ("cifar-10-batches-bin/readme.html", 6, b"<html>"),
            ("cifar-10-batches-bin/data_batch_2.bin", 3073, &second),
            ("data_batch_1.bin", 3073, &other),
            ("cifar-10-batches-bin/data_batch_1.bin", 6146, &first),
        ]);
        let batches = with_file(&bytes, |path| read_archive(path, &TRAIN[..2])).unwrap();
        assert_eq!((&batches[0].1, &batches[1].1), (&vec![1, 1], &vec![2]));
        assert_eq!(batches[1].0, second[1..]);
    }

    #[test]
    fn malformed_archives_are_errors_with_a_reason() {
        let path = "cifar-10-batches-bin/test_batch.bin";
        let good = archive(&[(path, 3073, &record(1))]);
        let mut changed = good.clone();
        changed[20..30].fill(0x55);
        for (bytes, fact) in [
            (good[..good.len() / 2].to_vec(), "test_batch.bin"),
            (changed, "archive"),
            (b"no archive".to_vec(), "archive"),
            (gzip(b"no archive"), "archive"),
            (gzip(&[]), "there is no test_batch.bin"),
            (archive(&[("test_batch.bin", 3073, &record(1))]), "there is no "),
            (archive(&[(path, 0, &[])]), "it is empty"),
            (archive(&[(path, 1 << 40, &[1])]), "more than 100000 records"),
            (archive(&[(path, 6146, &record(1))]), "test_batch.bin"),
        ] {
            let result = with_file(&bytes, |path| read_archive(path, &TEST));
            let message = result.unwrap_err().to_string();
            for fact in [fact, "file as the archive of CIFAR-10"] {
                assert!(message.contains(fact), "no {fact:?} in {message}");
            }
        }
    }
}
