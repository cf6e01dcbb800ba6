//! The values of all images of a data set, in memory or in a file.

use std::sync::Arc;

use anyhow::Result;

use super::cache::PixelFile;

/// The values of all images, (N, C, H, W). `size` below is the number of values of an image.
#[derive(Clone)]
pub(super) enum Pixels {
    /// 0 … 255, which represent −1 … 1.
    U8(Arc<[u8]>),
    F32(Arc<[f32]>),
    /// As [`Pixels::U8`], in a file that may be larger than memory: the images in these places of the file.
    File(Arc<PixelFile>, Arc<[usize]>),
}

impl Pixels {
    /// The number of values.
    pub(super) fn len(&self, size: usize) -> usize {
        match self {
            Self::U8(pixels) => pixels.len(),
            Self::F32(values) => values.len(),
            Self::File(_, places) => places.len() * size,
        }
    }

    /// The values of these images as f32: 8-bit pixels in \[−1, 1\], others unchanged.
    pub(super) fn values(&self, indices: &[usize], size: usize) -> Result<Vec<f32>> {
        if let Self::F32(values) = self {
            return Ok(gather(values, indices, size));
        }
        let mut values = Vec::with_capacity(indices.len() * size);
        self.each(indices.iter().copied(), size, |image| {
            values.extend(image.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0));
        })?;
        Ok(values)
    }

    /// Passes the pixels of these images to `use_image`, one image at a time. There are none if the values are f32.
    pub(super) fn each(
        &self,
        indices: impl IntoIterator<Item = usize>,
        size: usize,
        mut use_image: impl FnMut(&[u8]),
    ) -> Result<()> {
        match self {
            Self::F32(_) => {}
            Self::U8(pixels) => indices.into_iter().for_each(|i| use_image(&pixels[i * size..][..size])),
            Self::File(file, places) => {
                let mut image = vec![0; size];
                for i in indices {
                    file.read(places[i], &mut image)?;
                    use_image(&image);
                }
            }
        }
        Ok(())
    }

    /// The values of these images alone. Those in a file stay there.
    pub(super) fn select(&self, indices: &[usize], size: usize) -> Self {
        match self {
            Self::U8(pixels) => Self::U8(gather(pixels, indices, size).into()),
            Self::F32(values) => Self::F32(gather(values, indices, size).into()),
            Self::File(file, places) => Self::File(file.clone(), gather(places, indices, 1).into()),
        }
    }
}

/// Collects the values of these images, `size` for each.
pub(super) fn gather<T: Clone>(values: &[T], indices: &[usize], size: usize) -> Vec<T> {
    let mut gathered = Vec::with_capacity(indices.len() * size);
    for i in indices {
        gathered.extend_from_slice(&values[i * size..][..size]);
    }
    gathered
}
