//! The NumPy format: a header in Python's notation, then the values.
//!
//! ```text
//! 93 4e 55 4d 50 59     "\x93NUMPY"
//! u8 u8                 version 1.0, 2.0 or 3.0
//! u16 or u32            length of the header (u32 from version 2.0 on), little-endian
//! {'descr': '<f4', 'fortran_order': False, 'shape': (3, 28, 28), }
//! ```
//!
//! The header is not trusted: nothing is allocated before the length of the file is known to match it.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::MAX_BYTES;

/// The largest header; NumPy writes shorter ones, and refuses to read longer ones itself.
const MAX_HEADER: usize = 10_000;

/// An array with values of one type, in C order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    /// The dimensions, slowest first; none is 0.
    pub(super) shape: Vec<usize>,
    pub(super) value: Value,
    /// The values, little-endian.
    pub(super) bytes: Vec<u8>,
}

/// The type of a value in NumPy's notation: `u1` is an unsigned integer of 1 byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// `b` bool, `u` unsigned, `i` signed, `f` float.
    kind: char,
    /// The bytes of a value.
    size: usize,
}

impl Array {
    /// Reads a file of at most [`MAX_BYTES`].
    pub(super) fn read(path: &Path) -> Result<Self> {
        let open = || -> Result<Self> {
            let metadata = fs::metadata(path)?;
            ensure!(metadata.is_file(), "it is not a file");
            parse(BufReader::new(File::open(path)?), metadata.len())
        };
        open()
            .with_context(|| format!("cannot read {} as a NumPy array", path.display()))
            .map_err(diffusion_ops::error::whole)
    }

    /// The values as f64, exact up to 2⁵³.
    pub(super) fn numbers(&self) -> impl Iterator<Item = f64> {
        let value = self.value;
        self.bytes.chunks_exact(value.size).map(move |bytes| value.number(bytes))
    }
}

impl Value {
    pub(super) const U8: Self = Self { kind: 'u', size: 1 };

    /// Parses the type in `descr`, such as `<f4`, without the byte order.
    fn new(descr: &str) -> Result<Self> {
        let (kind, size) = match descr.trim_start_matches(['<', '>', '|', '=']) {
            "b1" | "?" => ('b', 1),
            "u1" | "B" => ('u', 1),
            "u2" => ('u', 2),
            "u4" => ('u', 4),
            "u8" => ('u', 8),
            "i1" | "b" => ('i', 1),
            "i2" => ('i', 2),
            "i4" => ('i', 4),
            "i8" => ('i', 8),
            "f2" => ('f', 2),
            "f4" => ('f', 4),
            "f8" => ('f', 8),
            "O" => bail!(
                "its values are Python objects; if these are arrays of one shape, stack them in NumPy: np.save(file, \
                 np.stack(list(np.load(file, allow_pickle=True))))"
            ),
            _ => bail!(
                "its values are of type {descr:?}; convert them in NumPy: np.save(file, x.astype(np.float32)) for \
                 samples in −1 … 1, x.astype(np.uint8) for images in 0 … 255, x.astype(np.int64) for class numbers"
            ),
        };
        Ok(Self { kind, size })
    }

    pub(super) fn is_float(self) -> bool {
        self.kind == 'f'
    }

    /// The number in `size` bytes.
    fn number(self, bytes: &[u8]) -> f64 {
        let mut all = [0; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(all);
        match (self.kind, self.size) {
            ('f', 2) => half::f16::from_bits(bits as u16).to_f64(),
            ('f', 4) => f64::from(f32::from_bits(bits as u32)),
            ('f', _) => f64::from_bits(bits),
            ('i', size) => {
                let unused = 64 - 8 * size as u32;
                ((bits << unused) as i64 >> unused) as f64
            }
            _ => bits as f64,
        }
    }
}

impl fmt::Display for Value {
    /// The name as in `x.dtype`: `u1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind, self.size)
    }
}

/// Reads the header and the values of a file of `length` bytes.
fn parse(mut reader: impl Read, length: u64) -> Result<Array> {
    let short = "it is truncated within the header";
    let mut start = [0; 8];
    reader.read_exact(&mut start).context(short)?;
    ensure!(
        !start.starts_with(b"PK"),
        "it is a zip archive, as written by np.savez; save each array separately in NumPy: for name, x in \
         np.load(file).items(): np.save(name + \".npy\", x)"
    );
    ensure!(start.starts_with(b"\x93NUMPY"), "it begins with bytes {:02x?}, not like a file of np.save", &start[..6]);
    let mut header_length = [0; 4];
    let used = match start[6] {
        1 => &mut header_length[..2],
        2 | 3 => &mut header_length[..],
        version => bail!("its version is {version}; 1, 2 and 3 are supported"),
    };
    reader.read_exact(used).context(short)?;
    let before = (start.len() + used.len()) as u64;
    let header_length = u32::from_le_bytes(header_length) as usize;
    ensure!(header_length <= MAX_HEADER, "its header has {header_length} bytes, more than {MAX_HEADER}");
    let mut header = vec![0; header_length];
    reader.read_exact(&mut header).context(short)?;
    let header = String::from_utf8_lossy(&header);
    let Header { value, big_endian, fortran_order, shape } =
        read_header(&header).with_context(|| format!("in its header {:?}", header.trim()))?;

    ensure!(!shape.contains(&0), "its shape is {shape:?}: it is empty");
    let expected = shape
        .iter()
        .try_fold(value.size as u64, |product, &d| product.checked_mul(d as u64))
        .filter(|&bytes| bytes <= MAX_BYTES)
        .with_context(|| format!("its shape is {shape:?}: more than {MAX_BYTES} bytes"))?;
    let found = length.saturating_sub(before + header_length as u64);
    ensure!(found == expected, "its shape {shape:?} needs {expected} bytes, but {found} follow the header");
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(usize::try_from(expected)?)
        .with_context(|| format!("there is no memory for {expected} bytes"))?;
    reader.take(expected).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 == expected, "it became shorter while it was read");
    if big_endian {
        bytes.chunks_exact_mut(value.size).for_each(<[u8]>::reverse);
    }
    if fortran_order {
        bytes = in_c_order(&bytes, &shape, value.size);
    }
    Ok(Array { shape, value, bytes })
}

/// Converts values of `size` bytes from Fortran order (the first index changes fastest) to C order.
fn in_c_order(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut ordered = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    for _ in 0..bytes.len() / size {
        let at = index.iter().zip(shape).rev().fold(0, |at, (i, length)| at * length + i);
        ordered.extend_from_slice(&bytes[at * size..][..size]);
        for (i, length) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *length {
                break;
            }
            *i = 0;
        }
    }
    ordered
}

struct Header {
    value: Value,
    big_endian: bool,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// Parses `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 28, 28), }`.
fn read_header(header: &str) -> Result<Header> {
    let after = |key: &str| {
        [format!("'{key}':"), format!("\"{key}\":")]
            .iter()
            .find_map(|key| header.split_once(key))
            .map(|(_, rest)| rest.trim_start())
            .with_context(|| format!("there is no {key:?}"))
    };
    let descr = after("descr")?;
    ensure!(!descr.starts_with('['), "its values are structures; save the field with the images separately");
    let descr = descr.split(['\'', '"']).nth(1).context("no type")?;
    let value = Value::new(descr)?;

    let fortran_order = after("fortran_order")?.starts_with("True");

    let (_, shape) = after("shape")?.split_once('(').context("no shape")?;
    let (shape, _) = shape.split_once(')').context("the shape does not end")?;
    let dimensions: Vec<&str> = shape.split(',').map(str::trim).collect();
    // One dimension is written (3,), and a comma may end any list.
    let dimensions = match &dimensions[..] {
        [most @ .., ""] => most,
        all => all,
    };
    let shape = dimensions.iter().map(|d| d.parse().ok());
    let shape: Option<Vec<usize>> = shape.collect();
    let shape = shape.context("the shape is not a list of numbers")?;
    Ok(Header { value, big_endian: descr.starts_with('>'), fortran_order, shape })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file as written by `np.save`: the header ends with a line break at a multiple of 64 bytes.
    pub(crate) fn npy(descr: &str, shape: &str, values: &[u8]) -> Vec<u8> {
        with_header(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"), values)
    }

    fn with_header(header: &str, values: &[u8]) -> Vec<u8> {
        let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((length as u16).to_le_bytes());
        bytes.extend(format!("{header:<width$}\n", width = length - 1).bytes());
        bytes.extend(values);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Array> {
        parse(bytes, bytes.len() as u64)
    }

    fn numbers(descr: &str, values: &[u8]) -> Vec<f64> {
        let n = values.len() / Value::new(descr).unwrap().size;
        let array = read(&npy(descr, &format!("({n},)"), values)).unwrap();
        assert_eq!(array.shape, [n]);
        array.numbers().collect()
    }

    #[test]
    fn numbers_of_every_type_are_read() {
        assert_eq!(numbers("|u1", &[0, 255]), [0.0, 255.0]);
        assert_eq!(numbers("|i1", &[0, 255]), [0.0, -1.0]);
        assert_eq!(numbers("|b1", &[1, 0]), [1.0, 0.0]);
        assert_eq!(numbers("<u2", &[1, 255]), [65_281.0]);
        assert_eq!(numbers("<i2", &[1, 255]), [-255.0]);
        assert_eq!(numbers("<u4", &[255; 4]), [f64::from(u32::MAX)]);
        assert_eq!(numbers("<i4", &[255; 4]), [-1.0]);
        assert_eq!(numbers("<u8", &7u64.to_le_bytes()), [7.0]);
        assert_eq!(numbers("<i8", &(-7i64).to_le_bytes()), [-7.0]);
        assert_eq!(numbers("<f4", &0.5f32.to_le_bytes()), [0.5]);
        assert_eq!(numbers("<f8", &(-0.1f64).to_le_bytes()), [-0.1]);
        assert_eq!(numbers("<f2", &[0, 0xbc, 1, 0]), [-1.0, 2f64.powi(-24)]);
        assert_eq!(numbers(">i2", &[1, 0]), [256.0]);
        assert_eq!(numbers(">f8", &(-0.1f64).to_be_bytes()), [-0.1]);
    }

    /// As NumPy writes `np.asfortranarray(np.arange(24, dtype="<i2").reshape(2, 3, 4))`.
    #[test]
    fn fortran_order_is_converted() {
        let at = |i: i16| [i % 2 * 12 + i / 2 % 3 * 4 + i / 6];
        let values: Vec<u8> = (0..24).flat_map(at).flat_map(i16::to_le_bytes).collect();
        let header = "{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3, 4), }";
        let array = read(&with_header(header, &values)).unwrap();
        assert_eq!(array.shape, [2, 3, 4]);
        assert!(array.numbers().eq((0..24).map(f64::from)));
    }

    #[test]
    fn versions_2_and_3_have_a_longer_length() {
        let first = npy("|u1", "(2, 3)", &[1, 2, 3, 4, 5, 6]);
        for version in [2, 3] {
            let mut bytes = first.clone();
            bytes[6] = version;
            bytes.splice(10..10, [0, 0]);
            let array = read(&bytes).unwrap();
            assert_eq!((&array.shape[..], &array.bytes[..]), (&[2, 3][..], &[1, 2, 3, 4, 5, 6][..]));
        }
    }

    #[test]
    fn malformed_arrays_are_errors_with_a_reason() {
        let huge = format!("({}, {})", u64::MAX, u64::MAX);
        let mut long_header = npy("|u1", "(1,)", &[0]);
        long_header[6] = 2;
        long_header[8..12].fill(0xff);
        let mut version = npy("|u1", "(1,)", &[0]);
        version[6] = 4;
        for (bytes, fact) in [
            (vec![], "truncated within the header"),
            (npy("|u1", "(1,)", &[0])[..60].to_vec(), "truncated within"),
            (b"PK\x03\x04....".to_vec(), "np.savez"),
            (b"GIF89a..".to_vec(), "not like a file of np.save"),
            (version, "version is 4"),
            (long_header, "4294967295 bytes, more than 10000"),
            (npy("|u1", "(2,)", &[0]), "needs 2 bytes, but 1 follow"),
            (npy("|u1", "(2,)", &[0; 3]), "needs 2 bytes, but 3 follow"),
            (npy("<f8", "(2,)", &[0; 15]), "needs 16 bytes"),
            (npy("|u1", "(0, 3)", &[]), "it is empty"),
            (npy("|u1", "(4000000000, 3)", &[0]), "more than 8589934592"),
            (npy("<f8", &huge, &[0]), "more than 8589934592"),
            (npy("|u1", "(99999999999999999999,)", &[0]), "not a list of"),
            (npy("|u1", "(-1,)", &[0]), "not a list of numbers"),
            (npy("|u1", "(,,)", &[0]), "not a list of numbers"),
            (npy("|u1", "(1", &[0]), "the shape does not end"),
            (npy("|u1", "[1]", &[0]), "no shape"),
            (npy("<c8", "(1,)", &[0; 8]), "x.astype(np.uint8)"),
            (npy("|O", "(1,)", &[0; 8]), "np.stack(list(np.load(file, allow_pickle=True)))"),
            (with_header("{'descr': [('a', '<f4')], 'fortran_order': False}", &[]), "structures"),
            (with_header("{'descr': '|u1'}", &[]), "no \"fortran_order\""),
            (with_header("{}", &[]), "no \"descr\""),
        ] {
            let message = format!("{:#}", read(&bytes).unwrap_err());
            assert!(message.contains(fact), "no {fact:?} in {message}");
        }
    }

    /// Every truncation and many changed bytes give a result or an error, never a panic.
    #[test]
    fn no_damage_panics() {
        let good = npy("<i4", "(2, 3)", &[1; 24]);
        for len in 0..good.len() {
            assert!(read(&good[..len]).is_err(), "{len} of {}", good.len());
        }
        for at in 0..good.len() {
            for flip in [0x01, 0x08, 0x20, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                if let Ok(array) = read(&bytes) {
                    let n: usize = array.shape.iter().product();
                    assert_eq!(array.numbers().count(), n, "byte {at} ^ {flip:#x}");
                }
            }
        }
    }
}
