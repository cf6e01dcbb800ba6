//! One image file, as 8-bit pixels of the size that is wanted.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};

/// No file and no decoded image may be larger.
const MAX_BYTES: u64 = 256 << 20;

/// A decoded image: grey, or RGB with the three bytes of each pixel side by side.
pub(super) struct Picture {
    pub(super) grey: bool,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) pixels: Vec<u8>,
}

impl Picture {
    /// Reads a file; the square in its middle, `side` pixels high and wide, if there is a `side`.
    pub(super) fn read(path: &Path, side: Option<usize>) -> Result<Self> {
        let image = decode(path)
            .with_context(|| format!("cannot read the image {}", path.display()))
            .map_err(diffusion_ops::error::whole)?;
        Ok(Self::new(image, side))
    }

    fn new(mut image: DynamicImage, side: Option<usize>) -> Self {
        if side.is_some() {
            let (width, height) = (image.width(), image.height());
            let square = width.min(height);
            let (left, top) = ((width - square) / 2, (height - square) / 2);
            image = image.crop_imm(left, top, square, square);
        }
        let size = side.map_or((image.width(), image.height()), |side| (side as u32, side as u32));
        let grey = !image.color().has_color();
        let flat = on_white(image);
        let resized = imageops::resize(&flat, size.0, size.1, FilterType::Triangle).into_raw();
        let pixels = match grey {
            true => resized.into_iter().step_by(3).collect(),
            false => resized,
        };
        Self { grey, width: size.0 as usize, height: size.1 as usize, pixels }
    }
}

/// Decodes a file of any of the formats; its content decides which, then its name.
fn decode(path: &Path) -> Result<DynamicImage> {
    let limit = MAX_BYTES >> 20;
    let bytes = fs::metadata(path)?.len();
    ensure!(bytes <= MAX_BYTES, "the file has {bytes} bytes, more than {limit} MiB");
    let mut reader = ImageReader::open(path)?.with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    ensure!(width > 0 && height > 0, "it has {width}×{height} pixels");
    ensure!(decoder.total_bytes() <= MAX_BYTES, "it has {width}×{height} pixels: they take more than {limit} MiB");
    // Cameras store how they were held. What cannot be understood there does not spoil the image.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
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
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(name);
        fs::write(&path, bytes)?;
        Picture::read(&path, side)
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

    #[test]
    fn the_middle_of_every_format_is_read() {
        for (name, format) in [
            ("x.png", ImageFormat::Png),
            ("x.jpg", ImageFormat::Jpeg),
            ("x.bmp", ImageFormat::Bmp),
            ("x.gif", ImageFormat::Gif),
            ("x.webp", ImageFormat::WebP),
            // A wrong end of the name does not matter.
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
    fn what_is_transparent_becomes_white() {
        let rgba = RgbaImage::from_vec(3, 1, vec![10, 20, 30, 0, 10, 20, 30, 255, 0, 100, 200, 51]);
        let picture = Picture::new(rgba.unwrap().into(), None);
        assert_eq!(picture.pixels, [255, 255, 255, 10, 20, 30, 204, 224, 244]);
        let grey = GrayAlphaImage::from_vec(2, 1, vec![7, 0, 7, 255]).unwrap();
        let picture = Picture::new(grey.into(), None);
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
    fn an_image_that_unpacks_to_gigabytes_is_refused() {
        // Header of a PNG of 60,000 × 60,000 RGB pixels with a right check sum, and no pixels.
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

    /// Every truncation and many changed bytes: an image or an error that names the file, never a panic.
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
}
