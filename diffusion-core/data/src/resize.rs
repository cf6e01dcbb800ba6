//! Resizing images, and converting between channel orders.

use anyhow::{Context, Result, ensure};
use image::GrayImage;
use image::imageops::{self, FilterType};

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

impl Dataset {
    /// Resizes the images to `side` pixels high and wide, for example from 28 to 32 or from 32 to 64.
    ///
    /// # Errors
    /// `side` is 0 or above 1024, the pixels take more than [`MAX_BYTES`], or the values are f32.
    pub fn resize(&self, side: usize, how: Resize) -> Result<Self> {
        check_side(side)?;
        let bytes =
            self.bytes().with_context(|| format!("{} holds f32 values; resize is for 8-bit images only", self.name))?;
        let [channels, height, width] = self.shape;
        check_bytes(self.len(), [channels, side, side])?;
        let filter = match how {
            Resize::Bilinear => FilterType::Triangle,
            Resize::Nearest => FilterType::Nearest,
        };
        let to = side as u32;
        let mut pixels = Vec::with_capacity(self.len() * channels * side * side);
        for plane in bytes.chunks_exact(height * width) {
            let plane = GrayImage::from_raw(width as u32, height as u32, plane.to_vec());
            let plane = plane.context("the plane of a channel")?;
            pixels.extend_from_slice(&imageops::resize(&plane, to, to, filter));
        }
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
