//! Images and labels from NumPy files, as written by `np.save`.
//!
//! candle's reader is not used because it allocates whatever a header claims.

mod array;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};

use super::resize::to_channels_first;
use super::{Dataset, MAX_CLASSES};
use array::{Array, Value};

impl Dataset {
    /// Loads images, and labels if there are any, from `.npy` files (NumPy's `np.save`).
    ///
    /// `images` are whole numbers in 0 … 255 of any type: (N, H, W) for greyscale, otherwise (N, H, W, C) or (N, C, H,
    /// W) with C = 1 (greyscale) or 3 (RGB). The last axis is the channel axis if its length is 1 or 3, otherwise the
    /// second. (N, S²), such as (N, 784), holds greyscale squares.
    ///
    /// `labels` are class labels, (N,) or (N, 1) of any type, or one-hot rows, (N, K). Without labels, all images are
    /// in one class. `classes` are the class names; without names, the classes are called `class 0`, `class 1`, … up to
    /// the highest label, or up to K.
    ///
    /// # Errors
    /// A file cannot be read or has the wrong content (the message says what to do in NumPy) or more than
    /// [`MAX_BYTES`](super::MAX_BYTES); the files differ in number; or a label is not a whole number, has no class
    /// name, or is [`MAX_CLASSES`] or above.
    pub fn from_npy(name: &str, images: &Path, labels: Option<&Path>, classes: &[&str]) -> Result<Self> {
        let (n, shape, pixels) = images_of(Array::read(images)?, images)?;
        let (numbers, count) = match labels {
            None => (vec![0; n], 1),
            Some(path) => read_labels(path, n)?,
        };
        let at = labels.unwrap_or(images).display();
        let names: Vec<String> = match classes {
            [] => (0..count).map(|class| format!("class {class}")).collect(),
            _ => classes.iter().map(|&class| class.to_owned()).collect(),
        };
        ensure!(labels.is_some() || names.len() == 1, "there are {} class names for {at}, but no labels", names.len());
        ensure!(
            count <= names.len(),
            "{at} has the classes 0 … {}, but there are {} class names",
            count - 1,
            names.len()
        );
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Self::from_u8(name, pixels, shape, numbers, &names)
    }
}

/// Loads generated images from an `.npy` file: `float32` or `float64` (N, C, H, W) in −1 … 1, as written by
/// `diffusion sample --npy`, or `uint8` in the format of [`Dataset::from_npy`].
///
/// # Shapes
/// (N, C, H, W), f32, in \[−1, 1\].
///
/// # Errors
/// The file cannot be read or contains no images, or a value is not finite or far outside −1 … 1: the message names the
/// file.
pub fn samples_from_npy(path: &Path) -> Result<Tensor> {
    let at = path.display();
    let array = Array::read(path)?;
    if array.value == Value::U8 {
        let (n, [c, h, w], bytes) = images_of(array, path)?;
        let x = Tensor::from_vec(bytes, (n, c, h, w), &Device::Cpu)?;
        return Ok(x.to_dtype(DType::F32)?.affine(2.0 / 255.0, -1.0)?);
    }
    ensure!(
        array.value.is_float(),
        "{at} holds values of type {}; samples must be float32 in −1 … 1, or uint8",
        array.value
    );
    let [n, c @ (1 | 3), h, w] = array.shape[..] else {
        bail!("{at} holds an array of shape {:?}; samples must be (N, C, H, W) with C = 1 or 3", array.shape)
    };
    let values: Vec<f32> = array.numbers().map(|x| x as f32).collect();
    // Values beyond 1.5 indicate a mistake, such as 0 … 255 as float.
    if let Some(i) = values.iter().position(|x| !(-1.5..=1.5).contains(x)) {
        bail!("{at}: sample {} has the value {}; samples are in −1 … 1", i / (c * h * w), values[i])
    }
    Ok(Tensor::from_vec(values, (n, c, h, w), &Device::Cpu)?.clamp(-1f32, 1f32)?)
}

/// Loads the labels of `n` images in the format of [`Dataset::from_npy`].
///
/// # Errors
/// The file cannot be read, or does not contain `n` labels: the message names it.
pub fn labels_from_npy(path: &Path, n: usize) -> Result<Vec<u32>> {
    read_labels(path, n).map(|(labels, _)| labels)
}

/// (N, \[C, H, W\], pixels in channels-first order).
fn images_of(array: Array, path: &Path) -> Result<(usize, [usize; 3], Vec<u8>)> {
    let at = path.display();
    let bytes = match array.value {
        Value::U8 => array.bytes,
        _ => array.numbers().map(as_byte).collect::<Option<Vec<u8>>>().with_context(|| not_bytes(&array, path))?,
    };
    let (n, shape, bytes) = match array.shape[..] {
        [n, h, w] => (n, [1, h, w], bytes),
        [n, h, w, c @ (1 | 3)] => (n, [c, h, w], to_channels_first(&bytes, c, h * w)),
        [n, c @ (1 | 3), h, w] => (n, [c, h, w], bytes),
        [n, pixels] if is_square(pixels) => (n, [1, pixels.isqrt(), pixels.isqrt()], bytes),
        [_, 3072] => bail!(
            "{at} holds rows of 3072 values; if each row is the red, green and blue plane of a 32×32 image, convert \
             them in NumPy: np.save(file, x.reshape(-1, 3, 32, 32))"
        ),
        [.., 4] if array.shape.len() == 4 => {
            bail!("{at} holds RGBA images; remove alpha in NumPy: np.save(file, x[..., :3])")
        }
        [_, 4, _, _] => bail!("{at} holds RGBA images; remove alpha in NumPy: np.save(file, x[:, :3])"),
        _ => bail!(
            "{at} holds an array of shape {:?}, not images: (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3",
            array.shape
        ),
    };
    ensure!(
        bytes.iter().any(|byte| *byte > 1) || bytes.iter().all(|byte| *byte == 0),
        "{at}: all values are 0 or 1, but images must be 0 … 255; if 1 is white, convert them in NumPy: np.save(file, \
         (255 * x).astype(np.uint8))"
    );
    Ok((n, shape, bytes))
}

/// Whether rows of this length hold squares with a side of at least 8 pixels.
fn is_square(pixels: usize) -> bool {
    pixels >= 64 && pixels.isqrt().pow(2) == pixels
}

fn as_byte(value: f64) -> Option<u8> {
    ((0.0..=255.0).contains(&value) && value.fract() == 0.0).then_some(value as u8)
}

/// Explains values that are not bytes, with the line of NumPy that converts them.
fn not_bytes(array: &Array, path: &Path) -> String {
    let finite = || array.numbers().filter(|x| x.is_finite());
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    let (what, repair) = if finite().count() < array.numbers().count() {
        (
            "values that are not finite".to_owned(),
            "np.nan_to_num(x) replaces them, but first find out where they come from".to_owned(),
        )
    } else {
        let repair = match (low, high) {
            (0.0.., ..=1.0) => "255 * x",
            (-1.0.., ..=1.0) => "127.5 * (x + 1)",
            (0.0.., ..=255.0) => "x",
            _ => "255 * (x - x.min()) / (x.max() - x.min())",
        };
        let what = format!("values in {low} … {high} of type {}", array.value);
        (what, format!("np.save(file, ({repair}).round().astype(np.uint8))"))
    };
    format!("{} holds {what}; images must be whole numbers in 0 … 255. Convert them in NumPy: {repair}", path.display())
}

/// The labels of `n` images, and the number of classes.
fn read_labels(path: &Path, n: usize) -> Result<(Vec<u32>, usize)> {
    let at = path.display();
    let array = Array::read(path)?;
    let (found, k) = match array.shape[..] {
        [found] | [found, 1] => (found, None),
        [found, k] => (found, Some(k)),
        _ => bail!(
            "{at} holds an array of shape {:?}, not labels: (N,) class numbers or (N, K) one-hot rows",
            array.shape
        ),
    };
    ensure!(found == n, "{found} labels in {at} for {n} images: they do not belong together");
    let values: Vec<f64> = array.numbers().collect();
    let Some(k) = k else {
        for (i, value) in values.iter().enumerate() {
            ensure!(
                value.fract() == 0.0 && (0.0..MAX_CLASSES as f64).contains(value),
                "labels[{i}] = {value} in {at}: labels must be whole numbers from 0 to {}",
                MAX_CLASSES - 1
            );
        }
        let labels: Vec<u32> = values.iter().map(|value| *value as u32).collect();
        let count = labels.iter().max().map_or(0, |most| *most as usize + 1);
        return Ok((labels, count));
    };
    ensure!(k <= MAX_CLASSES, "{at} has rows of {k} values; at most {MAX_CLASSES} classes are supported");
    let mut labels = Vec::with_capacity(n);
    for (i, row) in values.chunks_exact(k).enumerate() {
        let class = row.iter().position(|&value| value == 1.0);
        let others_are_0 = row.iter().filter(|&&value| value != 0.0).count() == 1;
        let class = class.filter(|_| others_are_0);
        labels
            .push(class.with_context(|| format!("labels[{i}] in {at} is not one-hot: a single 1 and otherwise 0"))?
                as u32);
    }
    Ok((labels, k))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    pub(crate) use array::tests::npy;
    use std::fs;
    use std::path::PathBuf;
    use tempfile::TempDir;

    /// Files with these contents in a temporary folder.
    fn files<const N: usize>(contents: [Vec<u8>; N]) -> (TempDir, [PathBuf; N]) {
        let dir = tempfile::tempdir().unwrap();
        let paths = std::array::from_fn(|i| dir.path().join(format!("file{i}.npy")));
        for (path, bytes) in std::iter::zip(&paths, contents) {
            fs::write(path, bytes).unwrap();
        }
        (dir, paths)
    }

    fn counting(n: u8) -> Vec<u8> {
        (0..n).collect()
    }

    #[test]
    fn samples_are_read_as_they_are_written() -> Result<()> {
        let x = Tensor::new(&[[[[-1f32, 0.25], [1.0, 1.2]]]], &Device::Cpu)?;
        let values = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let (dir, [bytes, far, labels]) = files([
            npy("|u1", "(2, 1, 2)", &[0, 255, 51, 102]),
            npy("<f4", "(1, 1, 1, 2)", &values(&[0.0, 200.0])),
            npy("|u1", "(3,)", &[2, 0, 1]),
        ]);
        let path = dir.path().join("x.npy");
        x.write_npy(&path)?;
        let numbers = |x: Tensor| x.flatten_all()?.to_vec1::<f32>();
        let read = samples_from_npy(&path)?;
        assert_eq!(read.dims(), [1, 1, 2, 2]);
        assert_eq!(numbers(read)?, [-1.0, 0.25, 1.0, 1.0]);
        let read = samples_from_npy(&bytes)?;
        assert_eq!(read.dims(), [2, 1, 1, 2]);
        for (x, want) in numbers(read)?.iter().zip([-1.0, 1.0, -0.6, -0.2]) {
            assert!((x - want).abs() < 1e-6, "{x} {want}");
        }
        let message = samples_from_npy(&far).unwrap_err().to_string();
        assert!(message.contains("sample 0 has the value 200; samples are in −1 … 1"), "{message}");
        let message = samples_from_npy(&labels).unwrap_err().to_string();
        assert!(message.contains("not images"), "{message}");
        assert_eq!(labels_from_npy(&labels, 3)?, [2, 0, 1]);
        assert!(labels_from_npy(&labels, 2).is_err());
        Ok(())
    }

    #[test]
    fn every_order_of_axes_gives_the_same_images() {
        // Two images of 3 × 2 × 4, whose bytes count up in channels-first order and jump in channels-last order.
        let by_channel = counting(48);
        let by_pixel: Vec<u8> =
            (0..2).flat_map(|n| (0..8).flat_map(move |p| (0..3).map(move |c| n * 24 + c * 8 + p))).collect();
        let (_dir, [first, last, grey, plain]) = files([
            npy("|u1", "(2, 3, 2, 4)", &by_channel),
            npy("|u1", "(2, 2, 4, 3)", &by_pixel),
            npy("|u1", "(6, 2, 4, 1)", &by_channel),
            npy("|u1", "(6, 2, 4)", &by_channel),
        ]);
        for (path, shape) in [(first, [3, 2, 4]), (last, [3, 2, 4]), (grey, [1, 2, 4]), (plain, [1, 2, 4])] {
            let d = Dataset::from_npy("x", &path, None, &[]).unwrap();
            assert_eq!((d.shape(), d.bytes().unwrap()), (shape, &by_channel[..]));
            assert_eq!(d.class_names(), ["class 0"]);
        }
    }

    /// As returned by scikit-learn's `fetch_openml` and Python lists.
    #[test]
    fn whole_numbers_of_any_type_and_rows_of_squares_are_images() {
        let pixels: Vec<u8> = (0..128).collect();
        let f64s: Vec<u8> = pixels.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect();
        let i64s: Vec<u8> = pixels.iter().flat_map(|x| i64::from(*x).to_be_bytes()).collect();
        for contents in [npy("|u1", "(2, 64)", &pixels), npy("<f8", "(2, 64)", &f64s), npy(">i8", "(2, 8, 8)", &i64s)] {
            let (_dir, [path]) = files([contents]);
            let d = Dataset::from_npy("x", &path, None, &[]).unwrap();
            assert_eq!((d.shape(), d.bytes().unwrap()), ([1, 8, 8], &pixels[..]));
        }
    }

    #[test]
    fn labels_are_numbers_or_one_hot_rows_of_any_type() {
        let f32s = |values: [f32; 6]| values.map(f32::to_le_bytes).concat();
        let i64s = |values: &[i64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let images = npy("|u1", "(3, 1, 2)", &counting(6));
        for labels in [
            npy("|u1", "(3,)", &[1, 0, 1]),
            npy("<i8", "(3,)", &i64s(&[1, 0, 1])),
            npy("<i8", "(3, 1)", &i64s(&[1, 0, 1])),
            npy("|u1", "(3, 2)", &[0, 1, 1, 0, 0, 1]),
            npy("|b1", "(3, 2)", &[0, 1, 1, 0, 0, 1]),
            npy("<f4", "(3, 2)", &f32s([0.0, 1.0, 1.0, 0.0, 0.0, 1.0])),
        ] {
            let (_dir, [images, labels]) = files([images.clone(), labels]);
            let d = Dataset::from_npy("x", &images, Some(&labels), &[]).unwrap();
            assert_eq!(d.labels(), [1, 0, 1]);
            assert_eq!(d.class_names(), ["class 0", "class 1"]);
            let d = Dataset::from_npy("x", &images, Some(&labels), &["a", "b", "c"]).unwrap();
            assert_eq!(d.class_counts(), [1, 2, 0]);
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file() {
        let images = npy("|u1", "(2, 1, 2)", &counting(4));
        let with_labels = |labels: Vec<u8>, classes: &[&str]| {
            let (_dir, [images, labels]) = files([images.clone(), labels]);
            Dataset::from_npy("x", &images, Some(&labels), classes)
        };
        let alone = |bytes: Vec<u8>, classes: &[&str]| {
            let (_dir, [path]) = files([bytes]);
            Dataset::from_npy("x", &path, None, classes)
        };
        let nan = f32::NAN.to_le_bytes();
        let f32s = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        for (result, facts) in [
            (alone(npy("<f4", "(1, 1, 1)", &nan), &[]), ["file0.npy", "not finite"]),
            (
                alone(npy("<f4", "(1, 1, 2)", &f32s(&[0.0, 0.5])), &[]),
                ["0 … 0.5 of type f4", "(255 * x).round().astype(np.uint8)"],
            ),
            (alone(npy("<f4", "(1, 1, 2)", &f32s(&[-1.0, 0.5])), &[]), ["-1 … 0.5", "(127.5 * (x + 1)).round()"]),
            (alone(npy("<f4", "(1, 1, 2)", &f32s(&[0.5, 200.0])), &[]), ["0.5 … 200", "(x).round()"]),
            (alone(npy("<f4", "(1, 1, 2)", &f32s(&[-4.0, 300.0])), &[]), ["-4 … 300", "(x - x.min())"]),
            (alone(npy("|u1", "(1, 1, 2)", &[0, 1]), &[]), ["all values are 0 or 1", "(255 * x).astype(np.uint8)"]),
            (alone(npy("|u1", "(1, 3072)", &[9; 3072]), &[]), ["rows of 3072", "x.reshape(-1, 3, 32, 32)"]),
            (alone(npy("|u1", "(1, 2, 2, 4)", &[9; 16]), &[]), ["RGBA", "x[..., :3]"]),
            (alone(npy("|u1", "(1, 4, 2, 2)", &[9; 16]), &[]), ["RGBA", "x[:, :3]"]),
            (alone(npy("|u1", "(2, 2)", &counting(4)), &[]), ["file0.npy", "[2, 2], not images"]),
            (alone(npy("|u1", "()", &[1]), &[]), ["file0.npy", "[], not images"]),
            (alone(npy("|u1", "(1, 2, 2, 2)", &counting(8)), &[]), ["file0.npy", "[1, 2, 2, 2], not images"]),
            (alone(images.clone(), &["a", "b"]), ["file0.npy", "2 class names"]),
            (alone(vec![1; 9], &[]), ["file0.npy", "as a NumPy array"]),
            (with_labels(npy("|u1", "(3,)", &[0; 3]), &[]), ["3 labels in", "for 2 images"]),
            (with_labels(npy("|i1", "(2,)", &[0, 255]), &[]), ["file1.npy", "labels[1] = -1"]),
            (with_labels(npy("<u4", "(2,)", &[255; 8]), &[]), ["file1.npy", "labels[0] = 4294967295"]),
            (with_labels(npy("<f4", "(2,)", &[nan, nan].concat()), &[]), ["file1.npy", "labels[0] = NaN"]),
            (with_labels(npy("|u1", "(2, 2)", &[1, 0, 1, 1]), &[]), ["file1.npy", "labels[1]"]),
            (with_labels(npy("|u1", "(2, 2)", &[1, 0, 0, 0]), &[]), ["file1.npy", "not one-hot"]),
            (with_labels(npy("|u1", "(2, 2)", &[1, 0, 0, 2]), &[]), ["file1.npy", "not one-hot"]),
            (with_labels(npy("|u1", "(2, 20000)", &[0; 40_000]), &[]), ["file1.npy", "at most 10000 classes"]),
            (with_labels(npy("|u1", "(2, 1, 1)", &[0, 0]), &[]), ["file1.npy", "not labels"]),
            (
                with_labels(npy("|u1", "(2,)", &[0, 2]), &["a", "b"]),
                ["file1.npy", "0 … 2, but there are 2 class names"],
            ),
        ] {
            let message = format!("{:#}", result.unwrap_err());
            for fact in facts {
                assert!(message.contains(fact), "no {fact:?} in {message}");
            }
        }
    }
}
