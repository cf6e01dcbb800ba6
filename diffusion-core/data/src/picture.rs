//! Reading and writing image files.

use crate::resize::{Fit, check_side, to_channels_first};

use std::fs;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

/// The largest size of a file and of a decoded image.
const MAX_BYTES: u64 = 256 << 20;

/// Reads an image file and brings it to the shape (C, H, W), with C = 1 for greyscale or 3 for RGB, as a tensor
/// (1, C, H, W) in \[−1, 1\].
///
/// # Errors
/// The file cannot be read or decoded, or C is neither 1 nor 3: the message names it.
pub fn read_image(path: impl AsRef<Path>, [channels, height, width]: [usize; 3], fit: Fit) -> Result<Tensor> {
    let path = path.as_ref();
    ensure!([1, 3].contains(&channels), "{}: an image has 1 or 3 channels, but {channels} are wanted", path.display());
    check_side(height)?;
    check_side(width)?;
    let pixels = Picture::read(path, Some((width, height)), fit)?.planes(channels);
    let bytes = Tensor::from_vec(pixels, (1, channels, height, width), &Device::Cpu)?;
    Ok(bytes.to_dtype(DType::F32)?.affine(2.0 / 255.0, -1.0)?)
}

/// Writes an image (C, H, W) or (1, C, H, W) as a PNG file of W×H pixels, greyscale if C = 1 and RGB if C = 3; values
/// beyond −1 … 1 are clipped.
///
/// # Errors
/// The shape is another one, or the file cannot be written: the message names it.
pub fn write_image(image: &Tensor, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let (channels, height, width) = match *image.dims() {
        [c, h, w] | [1, c, h, w] if [1, 3].contains(&c) => (c, h, w),
        _ => bail!("{}: shape {:?} is not that of one greyscale or RGB image", path.display(), image.dims()),
    };
    let image = image.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.reshape((channels, height, width))?;
    let values = image.permute((1, 2, 0))?.flatten_all()?.to_vec1::<f32>()?;
    let bytes = values.iter().map(|value| ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8).collect();
    let (w, h) = (width as u32, height as u32);
    let image = match channels {
        1 => GrayImage::from_raw(w, h, bytes).map(DynamicImage::from),
        _ => RgbImage::from_raw(w, h, bytes).map(DynamicImage::from),
    };
    let image = image.context("the pixels of an image")?;
    image.save_with_format(path, ImageFormat::Png).with_context(|| format!("cannot write {}", path.display()))
}

/// A decoded image: greyscale, or RGB with interleaved channels.
pub(crate) struct Picture {
    pub(crate) grey: bool,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) pixels: Vec<u8>,
}

impl Picture {
    /// Reads a file; with a size (width, height), brought to it.
    pub(crate) fn read(path: &Path, size: Option<(usize, usize)>, fit: Fit) -> Result<Self> {
        Ok(Self::new(of_file(path, decode(path))?, size, fit))
    }

    /// The width and height of a file's picture, from its header.
    pub(crate) fn size(path: &Path) -> Result<(usize, usize)> {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        let size = || {
            let contents = contents(path)?;
            let (decoder, orientation) = decoder(path, &contents)?;
            let (width, height) = decoder.dimensions();
            Ok(match orientation {
                Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => (height as usize, width as usize),
                _ => (width as usize, height as usize),
            })
        };
        of_file(path, size())
    }

    fn new(image: DynamicImage, size: Option<(usize, usize)>, fit: Fit) -> Self {
        let grey = !image.color().has_color();
        let flat = on_white(image);
        let (width, height) = size.unwrap_or((flat.width() as usize, flat.height() as usize));
        let resized = fit.apply(&flat, width as u32, height as u32).into_raw();
        let pixels = match grey {
            true => resized.into_iter().step_by(3).collect(),
            false => resized,
        };
        Self { grey, width, height, pixels }
    }

    /// The pixels as `channels` planes: colours as their luma if there is one plane, grey repeated if there are three.
    pub(crate) fn planes(self, channels: usize) -> Vec<u8> {
        let Self { grey, width, height, pixels } = self;
        match (grey, channels) {
            (true, _) => pixels.repeat(channels),
            (false, 1) => {
                let rgb = RgbImage::from_raw(width as u32, height as u32, pixels).unwrap_or_default();
                DynamicImage::from(rgb).into_luma8().into_raw()
            }
            (false, _) => to_channels_first(&pixels, 3, width * height),
        }
    }
}

/// Names the file in an error.
fn of_file<T>(path: &Path, result: Result<T>) -> Result<T> {
    result.with_context(|| format!("cannot read the image {}", path.display())).map_err(diffusion_ops::error::whole)
}

fn decode(path: &Path) -> Result<DynamicImage> {
    let contents = contents(path)?;
    let (decoder, orientation) = decoder(path, &contents)?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::metadata(path)?.len();
    ensure!(bytes <= MAX_BYTES, "the file has {bytes} bytes, more than {} MiB", MAX_BYTES >> 20);
    let contents = fs::read(path)?;
    check_contents(&contents)?;
    Ok(contents)
}

/// Reads the header of a file of any supported format, determined by its content, then by its name.
fn decoder<'a>(path: &Path, contents: &'a [u8]) -> Result<(impl ImageDecoder + 'a, Orientation)> {
    let mut reader = ImageReader::new(Cursor::new(contents));
    if let Ok(format) = ImageFormat::from_path(path) {
        reader.set_format(format);
    }
    let mut reader = reader.with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    ensure!(width > 0 && height > 0, "it has {width}×{height} pixels");
    let limit = MAX_BYTES >> 20;
    ensure!(decoder.total_bytes() <= MAX_BYTES, "it has {width}×{height} pixels: they take more than {limit} MiB");
    // Cameras record the orientation. An unknown one is ignored.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((decoder, orientation))
}

/// Detects files that only have the extension of an image, and truncated JPEGs, whose missing part the decoder fills
/// with grey.
fn check_contents(contents: &[u8]) -> Result<()> {
    ensure!(!contents.is_empty(), "the file is empty");
    let start = contents[..contents.len().min(64)].trim_ascii_start();
    let box_is = |brands: &[&[u8]]| {
        contents.get(4..8) == Some(b"ftyp") && brands.contains(&&contents[8..contents.len().min(12)])
    };
    let what = if box_is(&[b"heic", b"heix", b"hevc", b"mif1", b"msf1"]) {
        "a HEIC photograph, which is not supported; convert it, for example with `magick mogrify -format jpg *.heic`"
    } else if box_is(&[b"avif", b"avis"]) {
        "an AVIF image, which is not supported; convert it, for example with `magick mogrify -format png *.avif`"
    } else if start.starts_with(b"version https://git-lfs") {
        "a Git LFS pointer, not the image itself; fetch the image with `git lfs pull`"
    } else if start.first() == Some(&b'<') && !start.starts_with(b"<svg") {
        "a web page, perhaps an error message downloaded in place of the image"
    } else if start.starts_with(b"<svg") {
        "an SVG drawing, which is not supported; save it as PNG"
    } else if start.is_ascii() && !start.iter().any(u8::is_ascii_control) {
        "text, not an image"
    } else if contents.starts_with(&JPEG) && !is_whole_jpeg(contents) {
        bail!("the file is truncated; copy or download it again")
    } else {
        return Ok(());
    };
    bail!("the file is {what}")
}

/// The first bytes of a JPEG.
const JPEG: [u8; 3] = [0xff, 0xd8, 0xff];

/// Whether the end marker comes after the last scan ([ITU-T T.81](https://www.w3.org/Graphics/JPEG/itu-t81.pdf), annex
/// B). Segments are skipped by their lengths, since an embedded preview has its own end marker.
fn is_whole_jpeg(contents: &[u8]) -> bool {
    let mut at = 2;
    while let [byte, marker, rest @ ..] = contents.get(at..).unwrap_or_default() {
        at += match (byte, marker) {
            (0xff, 0xd9) => return true,
            // Fill bytes, stuffed bytes in a scan, restart markers, and stand-alone markers.
            (0xff, 0xff) => 1,
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => 2,
            (0xff, _) => match rest {
                [high, low, ..] => 2 + usize::from(u16::from_be_bytes([*high, *low])),
                _ => return false,
            },
            // Within a scan.
            _ => 1,
        };
    }
    false
}

/// The image as RGB, with transparent pixels blended with white.
fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    let mut flat = RgbImage::new(image.width(), image.height());
    for (to, from) in flat.pixels_mut().zip(image.pixels()) {
        let [red, green, blue, alpha] = from.0.map(u32::from);
        let blend = |value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        to.0 = [red, green, blue].map(blend);
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayAlphaImage, ImageBuffer, ImageFormat, Luma, Rgb, RgbaImage};
    use std::io::Cursor;

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn read(name: &str, bytes: &[u8], side: Option<usize>) -> Result<Picture> {
        let size = side.map(|side| (side, side));
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(name);
        fs::write(&path, bytes)?;
        Picture::read(&path, size, Fit::Crop)
    }

    /// Red at the left, green in the middle, blue at the right: 2 + 4 + 2 columns, 4 rows.
    fn flag() -> DynamicImage {
        RgbImage::from_fn(8, 4, |x, _| match x {
            0..2 => Rgb([255, 0, 0]),
            2..6 => Rgb([0, 255, 0]),
            _ => Rgb([0, 0, 255]),
        })
        .into()
    }

    /// The image crate fills the missing part of a JPEG; the other decoders report it.
    #[test]
    fn a_truncated_file_is_an_error() -> Result<()> {
        let noise = RgbImage::from_fn(64, 48, |x, y| Rgb([(x * 7 + y * 13) as u8, (x * y) as u8, (x ^ y) as u8]));
        for (name, format) in [
            ("x.png", ImageFormat::Png),
            ("x.jpg", ImageFormat::Jpeg),
            ("x.bmp", ImageFormat::Bmp),
            ("x.gif", ImageFormat::Gif),
            ("x.webp", ImageFormat::WebP),
        ] {
            let whole = encoded(&noise.clone().into(), format);
            read(name, &whole, Some(8))?;
            for part in [whole.len() / 4, whole.len() / 2, whole.len() * 9 / 10] {
                let message = read(name, &whole[..part], Some(8)).map(drop).unwrap_err().to_string();
                assert!(message.contains(name), "{message}");
            }
        }
        // An embedded preview with its own end marker, and bytes after the end, do not matter.
        let whole = encoded(&noise.into(), ImageFormat::Jpeg);
        let mut previewed = whole[..2].to_vec();
        previewed.extend([0xff, 0xe1, 0, 6, 0xff, 0xd9, 0xff, 0xd9]);
        previewed.extend(&whole[2..]);
        read("x.jpg", &[&previewed[..], b"and more"].concat(), None)?;
        assert!(read("x.jpg", &previewed[..previewed.len() / 2], None).is_err());
        // A progressive one (a ramp of grey, written by Pillow) has several scans, each of which may be the last that is there.
        let progressive = include_bytes!("../../../tests/golden/progressive.jpg");
        read("x.jpg", progressive, None)?;
        for end in 0..progressive.len() {
            assert!(read("x.jpg", &progressive[..end], None).is_err(), "cut off after {end} bytes");
        }
        Ok(())
    }

    #[test]
    fn errors_say_what_a_file_with_an_image_extension_really_is() {
        for (contents, wants) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0"[..], "a HEIC photograph"),
            (b"\0\0\0\x18ftypavif\0\0\0\0", "an AVIF image"),
            (b"\n<!DOCTYPE html><html>", "a web page"),
            (b"<svg xmlns=", "an SVG drawing"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
            (b"not an image at all", "text"),
            (b"", "empty"),
        ] {
            let message = read("x.jpg", contents, None).map(drop).unwrap_err().to_string();
            assert!(message.contains(wants) && message.contains("x.jpg"), "{message}");
        }
    }

    #[test]
    fn the_central_square_of_every_format_is_read() {
        for (name, format) in [
            ("x.png", ImageFormat::Png),
            ("x.jpg", ImageFormat::Jpeg),
            ("x.bmp", ImageFormat::Bmp),
            ("x.gif", ImageFormat::Gif),
            ("x.webp", ImageFormat::WebP),
            // A wrong file extension does not matter.
            ("x.jpg", ImageFormat::Png),
        ] {
            let bytes = encoded(&flag(), format);
            let whole = read(name, &bytes, None).unwrap();
            assert_eq!((whole.width, whole.height, whole.grey), (8, 4, false));
            assert!(whole.pixels[0] > 200, "{name}: {:?}", &whole.pixels[..3]);
            // JPEG blurs colours over two pixels.
            let small = read(name, &bytes, Some(2)).unwrap();
            assert_eq!((small.width, small.height), (2, 2));
            for pixel in small.pixels.chunks(3) {
                let is_green = pixel[0] < 70 && pixel[1] > 180 && pixel[2] < 70;
                assert!(is_green, "{name} as {format:?}: {pixel:?}");
            }
        }
    }

    #[test]
    fn transparent_pixels_become_white() {
        let rgba = RgbaImage::from_vec(3, 1, vec![10, 20, 30, 0, 10, 20, 30, 255, 0, 100, 200, 51]);
        let picture = Picture::new(rgba.unwrap().into(), None, Fit::Crop);
        assert_eq!(picture.pixels, [255, 255, 255, 10, 20, 30, 204, 224, 244]);
        let grey = GrayAlphaImage::from_vec(2, 1, vec![7, 0, 7, 255]).unwrap();
        let picture = Picture::new(grey.into(), None, Fit::Crop);
        assert_eq!((picture.grey, picture.pixels), (true, vec![255, 7]));
    }

    #[test]
    fn sixteen_bits_become_eight() {
        let deep = ImageBuffer::<Luma<u16>, _>::from_pixel(2, 2, Luma([65_535]));
        let bytes = encoded(&deep.into(), ImageFormat::Png);
        let picture = read("x.png", &bytes, None).unwrap();
        assert_eq!((picture.grey, picture.pixels), (true, vec![255; 4]));
    }

    #[test]
    fn an_image_that_unpacks_to_gigabytes_is_rejected() {
        // The header of a PNG of 60,000 × 60,000 RGB pixels with a correct checksum, but no pixels.
        let mut header = b"IHDR\x00\x00\xea\x60\x00\x00\xea\x60\x08\x02\x00\x00\x00".to_vec();
        let mut crc = flate2::Crc::new();
        crc.update(&header);
        header.extend(crc.sum().to_be_bytes());
        let mut png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d".to_vec();
        png.extend(header);
        png.extend(b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e");
        let message = read("bomb.png", &png, Some(8)).map(drop).unwrap_err().to_string();
        assert!(message.contains("bomb.png"), "{message}");
        assert!(message.contains("60000×60000") || message.contains("imit"), "{message}");
    }

    /// Every truncation and many changed bytes give an image or an error that names the file, never a panic.
    #[test]
    fn no_damage_panics() {
        let formats = ["png", "jpeg", "bmp", "gif", "webp"];
        for (format, end) in formats.map(|end| (ImageFormat::from_extension(end).unwrap(), end)) {
            let good = encoded(&flag(), format);
            let name = format!("damaged.{end}");
            let check = |bytes: &[u8]| match read(&name, bytes, Some(2)) {
                Ok(picture) => assert_eq!(picture.pixels.len(), if picture.grey { 4 } else { 12 }),
                Err(error) => assert!(error.to_string().contains(&name), "{error}"),
            };
            for len in (0..good.len()).step_by(3) {
                check(&good[..len]);
            }
            for at in 0..good.len() {
                let mut bytes = good.clone();
                bytes[at] ^= [0x01, 0x10, 0x80, 0xff][at % 4];
                check(&bytes);
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.png");
        for channels in [1, 3] {
            let bytes: Vec<u8> = (0..channels * 12).map(|i| (i * 7) as u8).collect();
            let image = Tensor::new(bytes, &Device::Cpu)?.reshape((1, channels, 3, 4))?;
            let image = image.to_dtype(DType::F32)?.affine(2.0 / 255.0, -1.0)?;
            write_image(&image, &path)?;
            let again = read_image(&path, [channels, 3, 4], Fit::Crop)?;
            assert_eq!(again.flatten_all()?.to_vec1::<f32>()?, image.flatten_all()?.to_vec1::<f32>()?);
            // Grey as three channels, and colours as their luma.
            assert_eq!(read_image(&path, [4 - channels, 3, 4], Fit::Crop)?.dims(), [1, 4 - channels, 3, 4]);
        }
        let message = read_image(&path, [2, 3, 4], Fit::Crop).unwrap_err().to_string();
        assert!(message.contains("x.png") && message.contains("2 are wanted"), "{message}");
        let image = Tensor::zeros((2, 3, 4, 4), DType::F32, &Device::Cpu)?;
        let message = write_image(&image, &path).unwrap_err().to_string();
        assert!(message.contains("[2, 3, 4, 4] is not that of one"), "{message}");
        Ok(())
    }
}
