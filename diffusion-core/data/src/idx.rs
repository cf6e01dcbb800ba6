//! The IDX format of MNIST and Fashion-MNIST: a header of big-endian numbers, then unsigned bytes.
//!
//! ```text
//! 00 00 08 DD   magic: 08 = unsigned bytes, DD = number of dimensions (3 for images, 1 for labels)
//! u32 × DD      the dimensions, slowest first
//! u8 × product  the values
//! ```
//!
//! The files may be compressed with gzip, as distributed, or unpacked. The header is not trusted: memory is allocated
//! only as data is read.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::bufread::MultiGzDecoder;

use super::Dataset;
use super::download::is_html;

/// The largest number of values in a file: 1 GiB, twenty times the training images of MNIST.
const MAX_VALUES: usize = 1 << 30;

/// The largest number of bytes that one byte of gzip can expand to.
const MAX_INFLATION: u64 = 1032;

impl Dataset {
    /// Loads greyscale images and labels from a pair of IDX files, compressed with gzip or not.
    ///
    /// # Errors
    /// A file cannot be read, is not IDX (the message says what it seems to be), contains something other than unsigned
    /// bytes, more than 2³⁰ of them, or a number that differs from its header; the files differ in number; or a label
    /// has no class name.
    pub fn from_idx(name: &str, images: &Path, labels: &Path, classes: &[&str]) -> Result<Self> {
        let (dims, pixels) = read(images)?;
        let [n, height, width] = dims[..] else { bail!("{} holds {}, not images", images.display(), kind(&dims)) };
        let (dims, numbers) = read(labels)?;
        let at = labels.display();
        ensure!(dims.len() == 1, "{at} holds {}, not labels", kind(&dims));
        ensure!(
            numbers.len() == n,
            "{n} images in {} but {} labels in {at}: they do not belong together",
            images.display(),
            numbers.len()
        );
        let numbers = numbers.into_iter().map(u32::from).collect();
        Self::from_u8(name, pixels, [1, height, width], numbers, classes)
            .with_context(|| at.to_string())
            .map_err(diffusion_ops::error::whole)
    }
}

/// Reads the dimensions, none of which is 0, and the values of a file; compression is detected by the content.
fn read(path: &Path) -> Result<(Vec<usize>, Vec<u8>)> {
    let open = || {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut reader = BufReader::new(file);
        if reader.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
            let most = bytes.saturating_mul(MAX_INFLATION);
            parse(MultiGzDecoder::new(reader), most).context("in the gzip data")
        } else {
            parse(reader, bytes)
        }
    };
    open().with_context(|| format!("cannot read {} as IDX", path.display())).map_err(diffusion_ops::error::whole)
}

/// Reads the header and the values; `reader` yields at most `at_most` bytes.
fn parse(mut reader: impl Read, at_most: u64) -> Result<(Vec<usize>, Vec<u8>)> {
    let magic: [u8; 4] = header(&mut reader)?;
    let [0, 0, kind_of_value, rank @ 1..=8] = magic else {
        bail!("{}", not_idx(&magic, reader));
    };
    ensure!(
        kind_of_value == 8,
        "it holds values of type 0x{kind_of_value:02x}; only unsigned bytes (0x08) are supported"
    );
    let mut dims = Vec::new();
    for _ in 0..rank {
        dims.push(u32::from_be_bytes(header(&mut reader)?) as usize);
    }
    ensure!(!dims.contains(&0), "its dimensions are {dims:?}: it is empty");
    let expected = dims
        .iter()
        .try_fold(1usize, |product, &d| product.checked_mul(d))
        .filter(|&product| product <= MAX_VALUES)
        .with_context(|| format!("its dimensions are {dims:?}: more than {MAX_VALUES} values"))?;

    // Reading one more byte than expected reveals extra data and makes gzip verify its checksum.
    let mut data = Vec::new();
    data.try_reserve_exact(expected.min(usize::try_from(at_most).unwrap_or(expected)))
        .with_context(|| format!("there is no memory for {expected} values"))?;
    reader.take(expected as u64 + 1).read_to_end(&mut data)?;
    ensure!(
        data.len() >= expected,
        "it is truncated: {} values instead of {expected} for dimensions {dims:?}",
        data.len()
    );
    ensure!(data.len() == expected, "there is extra data after the {expected} values for dimensions {dims:?}");
    Ok((dims, data))
}

fn header(reader: &mut impl Read) -> Result<[u8; 4]> {
    let mut word = [0; 4];
    reader.read_exact(&mut word).context("it is truncated within the header")?;
    Ok(word)
}

/// Describes a file that does not start like IDX.
fn not_idx(magic: &[u8; 4], rest: impl Read) -> String {
    let mut start = magic.to_vec();
    // This is only a description, so if reading fails four bytes are enough.
    let _ = rest.take(64).read_to_end(&mut start);
    let what = match magic {
        _ if is_html(&start) => "an HTML page, perhaps of a proxy or a login form",
        b"\x93NUM" => "a NumPy array",
        [0x1f, 0x8b, ..] => "gzip data, compressed twice",
        [b'P', b'K', ..] => "a zip archive",
        _ => "another kind of file",
    };
    format!("it begins with bytes {magic:02x?}, not with an IDX magic number: it is {what}")
}

fn kind(dims: &[usize]) -> String {
    match dims.len() {
        1 => "labels (one dimension)".to_owned(),
        3 => "images (three dimensions)".to_owned(),
        rank => format!("values of {rank} dimensions"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::fs;
    use std::io::Write;

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, dims.len() as u8];
        bytes.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    /// Three images of 2 × 4 pixels.
    fn small() -> Vec<u8> {
        idx(&[3, 2, 4], &(0..24).collect::<Vec<_>>())
    }

    fn read_bytes(bytes: &[u8]) -> Result<(Vec<usize>, Vec<u8>)> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("images");
        fs::write(&path, bytes)?;
        read(&path)
    }

    fn refused(bytes: &[u8], fact: &str) {
        let message = format!("{:#}", read_bytes(bytes).unwrap_err());
        assert!(message.contains(fact), "no {fact:?} in {message}");
        assert!(message.contains("images as IDX"), "no path in {message}");
    }

    #[test]
    fn files_are_read_with_and_without_gzip() {
        let want = (vec![3, 2, 4], (0..24).collect());
        assert_eq!(read_bytes(&small()).unwrap(), want);
        assert_eq!(read_bytes(&gzip(&small())).unwrap(), want);
        // Parallel compressors write several gzip members.
        let members = [gzip(&small()[..20]), gzip(&small()[20..])].concat();
        assert_eq!(read_bytes(&members).unwrap(), want);
    }

    #[test]
    fn malformed_files_are_errors_with_a_reason() {
        let longer = [&small()[..], &[0]].concat();
        let many = "more than 1073741824 values";
        for (bytes, fact) in [
            (&b""[..], "truncated within the header"),
            (&small()[..9], "truncated within the header"),
            (&small()[..39], "truncated: 23 values instead of 24"),
            (&longer, "extra data after the 24 values"),
            (b"<html><body>login</body></html>", "HTML page"),
            (b"\n <!doctype HTML>", "HTML page"),
            (b"\x93NUMPY\x01\x00", "NumPy array"),
            (b"PK\x03\x04....", "zip archive"),
            (b"\x00\x01\x08\x03....", "another kind of file"),
            (&[0, 0, 8, 0, 0], "not with an IDX magic number"),
            (&[0, 0, 0x0d, 1, 0, 0, 0, 1], "type 0x0d"),
            (&idx(&[3, 0, 4], &[]), "it is empty"),
            // What the header claims is never allocated.
            (&idx(&[1 << 30], &[1, 2, 3]), "3 values instead of 1073741824"),
            (&idx(&[1 << 31, 1], &[1]), many),
            (&idx(&[u32::MAX; 8], &[1]), many),
        ] {
            refused(bytes, fact);
            refused(&gzip(bytes), fact);
        }
        let good = gzip(&small());
        refused(&good[..12], "gzip data");
        refused(&[&good[..], b"garbage"].concat(), "gzip data");
        refused(&gzip(&good), "compressed twice");
        let dir = tempfile::tempdir().unwrap();
        let missing = read(&dir.path().join("missing")).unwrap_err();
        assert!(missing.to_string().contains("missing"), "{missing}");
        assert!(read(dir.path()).is_err());
    }

    /// Every truncation and many changed bytes give a result or an error, never a panic, and never different data from
    /// gzip.
    #[test]
    fn no_damage_panics() {
        let good = read_bytes(&small()).unwrap();
        for bytes in [small(), gzip(&small())] {
            let is_gzip = bytes[0] == 0x1f;
            for len in 0..bytes.len() {
                assert!(read_bytes(&bytes[..len]).is_err(), "{len} bytes");
            }
            for at in 0..bytes.len() {
                for flip in [0x01, 0x08, 0x80, 0xff] {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= flip;
                    if let Ok(found) = read_bytes(&bytes) {
                        assert_eq!(found.1.len(), found.0.iter().product::<usize>());
                        assert!(!is_gzip || found == good, "byte {at} ^ {flip:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn images_and_labels_must_belong_together() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let images = write("images", &small());
        let labels = write("labels", &gzip(&idx(&[3], &[0, 2, 1])));
        let fewer = write("fewer", &idx(&[2], &[0, 1]));
        let stack = write("stack", &idx(&[1, 1, 1, 1], &[0]));
        let classes = ["a", "b", "c"];

        let d = Dataset::from_idx("x", &images, &labels, &classes).unwrap();
        assert_eq!((d.shape(), d.labels()), ([1, 2, 4], &[0, 2, 1][..]));
        assert_eq!(d.bytes().unwrap(), (0..24).collect::<Vec<u8>>());

        for (images, labels, known, facts) in [
            (&images, &fewer, 3, ["3 images", "2 labels"]),
            (&images, &labels, 2, ["labels: x: labels[1] = 2", "0 … 1"]),
            (&images, &labels, 0, ["labels[0] = 0", "0 classes"]),
            (&labels, &labels, 3, ["labels holds labels", "not images"]),
            (&images, &images, 3, ["images holds images", "not labels"]),
            (&stack, &labels, 3, ["stack", "values of 4 dimensions"]),
        ] {
            let result = Dataset::from_idx("x", images, labels, &classes[..known]);
            let message = result.unwrap_err().to_string();
            for fact in facts {
                assert!(message.contains(fact), "no {fact:?} in {message}");
            }
        }
    }
}
