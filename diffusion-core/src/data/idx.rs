//! The IDX format of MNIST and Fashion-MNIST: a header of big-endian numbers, then unsigned bytes.
//!
//! ```text
//! 00 00 08 DD   magic: 08 = unsigned bytes, DD = number of dimensions (3 for images, 1 for labels)
//! u32 × DD      the dimensions, slowest first
//! u8 × product  the values
//! ```
//!
//! The files are read as they are distributed, compressed with gzip, or unpacked. A reader never trusts the header: memory
//! grows with the bytes that are really there.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::bufread::MultiGzDecoder;

use super::download::is_html;

/// No more than this many values are read from one file: 1 GiB, twenty times the training images of MNIST.
pub const MAX_VALUES: usize = 1 << 30;

/// The most that a byte of gzip can unpack to.
const MAX_INFLATION: u64 = 1032;

/// An array of bytes of any number of dimensions, as an IDX file holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx {
    /// The dimensions, slowest first: (n, height, width) for images, (n) for labels. None is 0.
    pub dims: Vec<usize>,
    /// The values in row-major order, as many as the product of `dims`.
    pub data: Vec<u8>,
}

/// Grey images with one label each: what [`read_labelled`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The number of images, at least 1.
    pub n: usize,
    /// The rows of an image.
    pub height: usize,
    /// The columns of an image.
    pub width: usize,
    /// `n` × `height` × `width` values, 0 = background, 255 = ink.
    pub pixels: Vec<u8>,
    /// `n` class numbers.
    pub labels: Vec<u8>,
}

/// Reads an IDX file of unsigned bytes, compressed with gzip or not; the content decides, not the name.
///
/// # Errors
/// The file cannot be read; it is not IDX (the message says what it seems to be); its values are not unsigned bytes; a
/// dimension is 0; there are more than [`MAX_VALUES`] values, or fewer or more than the header says; the gzip data is
/// damaged.
pub fn read(path: &Path) -> Result<Idx> {
    let open = || -> Result<Idx> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut reader = BufReader::new(file);
        if reader.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
            parse(
                MultiGzDecoder::new(reader),
                bytes.saturating_mul(MAX_INFLATION),
            )
            .context("in the gzip data")
        } else {
            parse(reader, bytes)
        }
    };
    open()
        .with_context(|| format!("cannot read {} as IDX", path.display()))
        .map_err(crate::whole)
}

/// Reads an IDX file of images: (number of images, height, width, pixels in row-major order).
///
/// # Errors
/// As for [`read`], and if the file holds labels or anything else but three dimensions.
pub fn read_images(path: &Path) -> Result<(usize, usize, usize, Vec<u8>)> {
    let Idx { dims, data } = read(path)?;
    match dims[..] {
        [n, height, width] => Ok((n, height, width, data)),
        _ => bail!("{} holds {}, not images", path.display(), kind(dims.len())),
    }
}

/// Reads an IDX file of labels: one class number per image.
///
/// # Errors
/// As for [`read`], and if the file holds images or anything else but one dimension.
pub fn read_labels(path: &Path) -> Result<Vec<u8>> {
    let Idx { dims, data } = read(path)?;
    match dims[..] {
        [_] => Ok(data),
        _ => bail!("{} holds {}, not labels", path.display(), kind(dims.len())),
    }
}

/// Reads a file of images and the file of their labels, which are class numbers 0 … `classes`−1.
///
/// # Errors
/// As for [`read_images`] and [`read_labels`], and if the two differ in number or a label is not below `classes`.
pub fn read_labelled(images: &Path, labels: &Path, classes: usize) -> Result<Labelled> {
    let (n, height, width, pixels) = read_images(images)?;
    let numbers = read_labels(labels)?;
    ensure!(
        numbers.len() == n,
        "{n} images in {} but {} labels in {}: they do not belong together",
        images.display(),
        numbers.len(),
        labels.display()
    );
    if let Some(at) = numbers.iter().position(|&label| label as usize >= classes) {
        let known = match classes {
            0 => "there is no class".to_owned(),
            _ => format!("the classes are 0 to {}", classes - 1),
        };
        let label = numbers[at];
        bail!(
            "label {label} of item {at} in {} is too large: {known}",
            labels.display()
        );
    }
    Ok(Labelled {
        n,
        height,
        width,
        pixels,
        labels: numbers,
    })
}

/// Reads header and values; `at_most` bytes can come out of `reader`.
fn parse(mut reader: impl Read, at_most: u64) -> Result<Idx> {
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
    ensure!(
        !dims.contains(&0),
        "its dimensions are {dims:?}: it is empty"
    );
    let expected = dims
        .iter()
        .try_fold(1usize, |product, &d| product.checked_mul(d))
        .filter(|&product| product <= MAX_VALUES)
        .with_context(|| format!("its dimensions are {dims:?}: more than {MAX_VALUES} values"))?;

    // One byte more than expected shows what does not belong there, and makes gzip check its sum.
    let mut data = Vec::new();
    data.try_reserve_exact(expected.min(usize::try_from(at_most).unwrap_or(expected)))
        .with_context(|| format!("there is no memory for {expected} values"))?;
    reader.take(expected as u64 + 1).read_to_end(&mut data)?;
    ensure!(
        data.len() >= expected,
        "it is cut short: {} values instead of {expected} for dimensions {dims:?}",
        data.len()
    );
    ensure!(
        data.len() == expected,
        "something follows the {expected} values for dimensions {dims:?}"
    );
    Ok(Idx { dims, data })
}

fn header(reader: &mut impl Read) -> Result<[u8; 4]> {
    let mut word = [0; 4];
    reader
        .read_exact(&mut word)
        .context("it is cut short within the header")?;
    Ok(word)
}

/// What a file that does not begin like IDX seems to be.
fn not_idx(magic: &[u8; 4], rest: impl Read) -> String {
    let mut start = magic.to_vec();
    // Only a description: if more cannot be read, four bytes must do.
    let _ = rest.take(64).read_to_end(&mut start);
    let what = if is_html(&start) {
        "an HTML page, perhaps of a proxy or a login form"
    } else if magic == b"\x93NUM" {
        "a NumPy array"
    } else if magic.starts_with(&[0x1f, 0x8b]) {
        "gzip data, compressed twice"
    } else if magic.starts_with(b"PK") {
        "a zip archive"
    } else {
        "another kind of file"
    };
    format!("it begins with bytes {magic:02x?}, not with an IDX magic number: it is {what}")
}

fn kind(rank: usize) -> String {
    match rank {
        1 => "labels (one dimension)".to_owned(),
        3 => "images (three dimensions)".to_owned(),
        _ => format!("values of {rank} dimensions"),
    }
}
