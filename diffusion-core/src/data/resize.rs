//! Images of another size, and the two orders in which the numbers of an image are kept.

use anyhow::{Context, Result, ensure};
use image::imageops::{self, FilterType};
use image::{GrayImage, RgbImage};

use super::{Dataset, MAX_BYTES};

/// The largest side of a resized image in pixels.
pub(super) const MAX_SIDE: usize = 1024;

/// How [`Dataset::resize`] fills in between pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Weighted means of the neighbours: for photographs and handwriting.
    Bilinear,
    /// The nearest pixel: keeps the hard edges of pixel art.
    Nearest,
}

impl Dataset {
    /// The same images `side` pixels high and wide: 28 → 32 or 32 → 64, say.
    ///
    /// # Errors
    /// `side` = 0 or above 1024; more than [`MAX_BYTES`] of pixels.
    pub fn resize(&self, side: usize, how: Resize) -> Result<Self> {
        check_side(side)?;
        let [channels, height, width] = self.shape;
        check_bytes(self.len(), [channels, side, side])?;
        let filter = match how {
            Resize::Bilinear => FilterType::Triangle,
            Resize::Nearest => FilterType::Nearest,
        };
        let (from, to) = ((width as u32, height as u32), side as u32);
        let mut pixels = Vec::with_capacity(self.len() * channels * side * side);
        for image in self.pixels.chunks_exact(channels * height * width) {
            if channels == 1 {
                let image =
                    GrayImage::from_raw(from.0, from.1, image.to_vec()).context("a grey image")?;
                pixels.extend(imageops::resize(&image, to, to, filter).into_raw());
            } else {
                let interleaved = to_channels_last(image, channels, height * width);
                let image =
                    RgbImage::from_raw(from.0, from.1, interleaved).context("an RGB image")?;
                let resized = imageops::resize(&image, to, to, filter).into_raw();
                pixels.extend(to_channels_first(&resized, channels, side * side));
            }
        }
        Ok(Self {
            pixels: pixels.into(),
            shape: [channels, side, side],
            ..self.clone()
        })
    }
}

/// Whether images can be `side` pixels high and wide.
pub(super) fn check_side(side: usize) -> Result<()> {
    ensure!(
        (1..=MAX_SIDE).contains(&side),
        "side = {side}: 1 … {MAX_SIDE} pixels are possible"
    );
    Ok(())
}

/// Whether `n` images of (C, H, W) can be kept.
pub(super) fn check_bytes(n: usize, [channels, height, width]: [usize; 3]) -> Result<()> {
    let bytes = [n, channels, height, width]
        .iter()
        .try_fold(1u64, |product, &d| product.checked_mul(d as u64));
    ensure!(
        bytes.is_some_and(|bytes| bytes <= MAX_BYTES),
        "{n} images of {channels}×{height}×{width} take more than {} GiB; make them smaller or fewer",
        MAX_BYTES >> 30
    );
    Ok(())
}

/// Images with the channels of each pixel side by side, as images with one plane of pixels for each channel.
pub(super) fn to_channels_first(interleaved: &[u8], channels: usize, area: usize) -> Vec<u8> {
    let images = interleaved.chunks_exact(channels * area);
    images
        .flat_map(|image| {
            (0..channels).flat_map(move |c| (0..area).map(move |i| image[i * channels + c]))
        })
        .collect()
}

fn to_channels_last(planes: &[u8], channels: usize, area: usize) -> Vec<u8> {
    (0..area)
        .flat_map(|i| (0..channels).map(move |c| planes[c * area + i]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_computer_has_are_errors() {
        let message = check_bytes(usize::MAX, [3, 1024, 1024]).unwrap_err();
        assert!(message.to_string().contains("more than 8 GiB"), "{message}");
        assert!(check_bytes(60_000, [1, 1024, 1024]).is_err());
        assert!(check_bytes(8192, [1, 1024, 1024]).is_ok());
        assert!(check_bytes(8193, [1, 1024, 1024]).is_err());
    }

    #[test]
    fn resizing_keeps_flat_images_flat_and_channels_apart() -> Result<()> {
        let pixels = [10u8, 20, 30].iter().flat_map(|p| [*p; 6]).collect();
        let flat = Dataset::new("flat", pixels, [3, 2, 3], vec![0], &["a"])?;
        for how in [Resize::Bilinear, Resize::Nearest] {
            let large = flat.resize(8, how)?;
            assert_eq!(large.shape(), [3, 8, 8]);
            let want: Vec<u8> = [10u8, 20, 30].iter().flat_map(|p| [*p; 64]).collect();
            assert_eq!(&large.pixels[..], want);
        }
        let tiny = Dataset::new("tiny", vec![0, 255, 51, 204], [1, 2, 2], vec![0], &["a"])?;
        let doubled = tiny.resize(4, Resize::Nearest)?;
        assert_eq!(doubled.pixels[..8], [0, 0, 255, 255, 0, 0, 255, 255]);
        Ok(())
    }
}
