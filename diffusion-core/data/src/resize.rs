//! Resizing images, and converting between channel orders.

use anyhow::{Result, ensure};
use image::imageops::{self, FilterType};
use image::{GrayImage, Rgb, RgbImage};
use serde::{Deserialize, Serialize};

use super::{Dataset, MAX_BYTES, Pixels};
use diffusion_ops::device::available_memory;

/// The largest side of a resized image in pixels.
pub(super) const MAX_SIDE: usize = 1024;

/// The interpolation of [`Dataset::resize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// A weighted mean of neighbouring pixels, for photographs and handwriting.
    Bilinear,
    /// The nearest pixel, which keeps the hard edges of pixel art.
    Nearest,
}

/// How a picture with other proportions is brought to the size of the images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// The whole height or width, whichever is shorter, and as much of the other around the centre.
    #[default]
    Crop,
    /// The whole picture in the centre, with white at two sides.
    Pad,
    /// The whole picture with changed proportions.
    Stretch,
}

impl Fit {
    /// The picture in this size, each pixel a weighted mean of neighbouring ones.
    pub(super) fn apply(self, picture: &RgbImage, width: u32, height: u32) -> RgbImage {
        let resize = |picture: &RgbImage, width, height| imageops::resize(picture, width, height, FilterType::Triangle);
        let (w, h) = (u64::from(picture.width()), u64::from(picture.height()));
        // The largest part with the proportions width : height, and the largest size with the proportions w : h.
        let part =
            |whole: u64, other: u64, a: u32, b: u32| whole.min((other * u64::from(a) / u64::from(b)).max(1)) as u32;
        match self {
            Self::Stretch => resize(picture, width, height),
            Self::Crop => {
                let (inner_w, inner_h) = (part(w, h, width, height), part(h, w, height, width));
                let (x, y) = ((w as u32 - inner_w) / 2, (h as u32 - inner_h) / 2);
                resize(&imageops::crop_imm(picture, x, y, inner_w, inner_h).to_image(), width, height)
            }
            Self::Pad => {
                let scaled = |side: u32, other: u32, a: u64, b: u64| {
                    u64::from(side).min((u64::from(other) * a).div_ceil(b)) as u32
                };
                let inner = resize(picture, scaled(width, height, w, h), scaled(height, width, h, w));
                let mut padded = RgbImage::from_pixel(width, height, Rgb([255; 3]));
                let (x, y) = ((width - inner.width()) / 2, (height - inner.height()) / 2);
                imageops::replace(&mut padded, &inner, x.into(), y.into());
                padded
            }
        }
    }
}

impl Dataset {
    /// Resizes the images to `side` pixels high and wide, for example from 28 to 32 or from 32 to 64.
    ///
    /// # Errors
    /// `side` is 0 or above 1024, the pixels take more than [`MAX_BYTES`], the values are f32, or the file of a cache
    /// cannot be read.
    pub fn resize(&self, side: usize, how: Resize) -> Result<Self> {
        check_side(side)?;
        ensure!(self.is_8_bit(), "{} holds f32 values; resize is for 8-bit images only", self.name);
        let [channels, height, width] = self.shape;
        check_bytes(self.len(), [channels, side, side])?;
        let filter = match how {
            Resize::Bilinear => FilterType::Triangle,
            Resize::Nearest => FilterType::Nearest,
        };
        let to = side as u32;
        let mut pixels = Vec::with_capacity(self.len() * channels * side * side);
        self.pixels.each(0..self.len(), channels * height * width, |image| {
            for plane in image.chunks_exact(height * width) {
                let plane = GrayImage::from_raw(width as u32, height as u32, plane.to_vec()).unwrap_or_default();
                pixels.extend_from_slice(&imageops::resize(&plane, to, to, filter));
            }
        })?;
        Ok(Self { pixels: Pixels::U8(pixels.into()), shape: [channels, side, side], ..self.clone() })
    }
}

/// Checks that images can be `side` pixels high and wide.
pub(super) fn check_side(side: usize) -> Result<()> {
    ensure!((1..=MAX_SIDE).contains(&side), "side = {side} must be in 1 … {MAX_SIDE} pixels");
    Ok(())
}

/// Checks that `n` images of (C, H, W) fit into memory.
pub(super) fn check_bytes(n: usize, [channels, height, width]: [usize; 3]) -> Result<()> {
    let bytes = [n, channels, height, width].iter().try_fold(1u64, |product, &d| product.checked_mul(d as u64));
    ensure!(
        bytes.is_some_and(|bytes| bytes <= MAX_BYTES),
        "{n} images of {channels}×{height}×{width} take more than {} GiB; use smaller or fewer images",
        MAX_BYTES >> 30
    );
    if let (Some(bytes), Some(free)) = (bytes, available_memory()) {
        ensure!(
            bytes <= free,
            "{n} images of {channels}×{height}×{width} take {:.1} GB, but only {:.1} GB of memory are free; use \
             smaller (--side) or fewer images",
            bytes as f64 / 1e9,
            free as f64 / 1e9
        );
    }
    Ok(())
}

/// Converts interleaved channels to one plane of pixels per channel.
pub(super) fn to_channels_first(interleaved: &[u8], channels: usize, area: usize) -> Vec<u8> {
    let images = interleaved.chunks_exact(channels * area);
    images.flat_map(|image| (0..channels).flat_map(move |c| (0..area).map(move |i| image[i * channels + c]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    #[test]
    fn impossible_sizes_are_errors() {
        let message = check_bytes(usize::MAX, [3, 1024, 1024]).unwrap_err();
        assert!(message.to_string().contains("more than 8 GiB"), "{message}");
        assert!(check_bytes(60_000, [1, 1024, 1024]).is_err());
        assert!(check_bytes(8192, [1, 1024, 1024]).is_ok());
        assert!(check_bytes(8193, [1, 1024, 1024]).is_err());
    }

    /// A red, a green and a blue column of 4×4 pixels each.
    #[test]
    fn pictures_are_cropped_padded_or_stretched() {
        let flag = RgbImage::from_fn(12, 4, |x, _| Rgb([0, 1, 2].map(|c| if x / 4 == c { 255 } else { 0 })));
        let row = |fit: Fit, width, height, y| -> Vec<[u8; 3]> {
            let image = fit.apply(&flag, width, height);
            assert_eq!(image.dimensions(), (width, height));
            (0..width).map(|x| image.get_pixel(x, y).0).collect()
        };
        let [red, green, blue, white] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255; 3]];
        assert_eq!(row(Fit::Crop, 4, 4, 2), [green; 4]);
        assert_eq!(row(Fit::Crop, 12, 4, 2), [[red; 4], [green; 4], [blue; 4]].concat());
        assert_eq!(row(Fit::Crop, 12, 2, 0)[4..8], [green; 4]);
        assert_eq!(
            [0, 3, 4, 7, 8, 11].map(|y| row(Fit::Pad, 12, 12, y)[5]),
            [white, white, green, green, white, white]
        );
        assert_eq!([0, 1, 6, 11].map(|x| row(Fit::Stretch, 12, 12, 11)[x]), [red, red, green, blue]);
        // Extreme proportions leave at least one pixel.
        let line = RgbImage::from_pixel(1, 1000, Rgb([9; 3]));
        for fit in [Fit::Crop, Fit::Pad, Fit::Stretch] {
            assert_eq!(fit.apply(&line, 8, 8).get_pixel(3, 4).0, [9; 3], "{fit:?}");
            assert_eq!(fit.apply(&flag, 1, 1024).dimensions(), (1, 1024));
        }
    }

    #[test]
    fn channels_are_resized_as_those_of_an_rgb_image() -> Result<()> {
        let pixels: Vec<u8> = (0..4 * 3 * 30).map(|i| (i * i * 7 + i * 31) as u8).collect();
        let d = Dataset::from_u8("x", pixels.clone(), [3, 5, 6], vec![0; 4], &["a"])?;
        for (how, filter) in [(Resize::Bilinear, FilterType::Triangle), (Resize::Nearest, FilterType::Nearest)] {
            let mut want = Vec::new();
            for image in pixels.chunks(90) {
                let rgb = RgbImage::from_fn(6, 5, |x, y| {
                    let i = (6 * y + x) as usize;
                    Rgb([image[i], image[30 + i], image[60 + i]])
                });
                let resized = imageops::resize(&rgb, 8, 8, filter);
                want.extend(to_channels_first(&resized, 3, 64));
            }
            let resized = d.resize(8, how)?;
            assert_eq!((resized.shape(), resized.bytes()), ([3, 8, 8], Some(&want[..])));
        }
        Ok(())
    }
}
