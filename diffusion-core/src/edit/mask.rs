//! Masks, which mark the known pixels of an image.

use crate::rng::Rng;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;
use std::path::Path;

/// A mask of the known pixels of an H×W image; inpainting fills the others.
///
/// ```
/// use diffusion_core::{candle::Device, edit::{Mask, Side}, rng::Rng};
/// assert_eq!(Mask::half(28, 28, Side::Left)?.known_share(), 0.5);
/// let hole = Mask::rectangle(28, 28, 8..20, 8..20)?;
/// assert_eq!(hole.known_share(), 1.0 - 144.0 / 784.0);
/// let strokes = Mask::strokes(28, 28, 0.3, &mut Rng::new(1))?;
/// assert!((strokes.known_share() - 0.7).abs() < 0.1);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    height: usize,
    width: usize,
    /// Row by row, true where the pixel is known.
    known: Vec<bool>,
}

/// A half of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Columns 0 … W/2−1.
    Left,
    /// The other columns.
    Right,
    /// Rows 0 … H/2−1.
    Top,
    /// The other rows.
    Bottom,
}

/// The largest height and width.
pub(super) const MAX_SIDE: usize = 16_384;

impl Mask {
    /// Creates a mask from a function of row and column that returns whether a pixel is known.
    ///
    /// # Errors
    /// The height or width is not in 1 … 16384.
    pub fn new(height: usize, width: usize, mut known: impl FnMut(usize, usize) -> bool) -> Result<Self> {
        ensure!(
            (1..=MAX_SIDE).contains(&height) && (1..=MAX_SIDE).contains(&width),
            "mask: height and width = {height}×{width} must be in 1 … {MAX_SIDE}"
        );
        let known = (0..height * width).map(|i| known(i / width, i % width));
        let known = known.collect();
        Ok(Self { height, width, known })
    }

    /// A mask in which all pixels are known except a rectangle.
    ///
    /// # Errors
    /// See [`Mask::new`]; or the rows or columns are empty or outside the image.
    pub fn rectangle(height: usize, width: usize, rows: Range<usize>, columns: Range<usize>) -> Result<Self> {
        for (name, range, size) in [("rows", &rows, height), ("columns", &columns, width)] {
            ensure!(
                range.start < range.end && range.end <= size,
                "mask: {name} = {}..{} must be a non-empty range within 0..{size}",
                range.start,
                range.end
            );
        }
        Self::new(height, width, |y, x| !(rows.contains(&y) && columns.contains(&x)))
    }

    /// A mask in which one half is known.
    ///
    /// # Errors
    /// See [`Mask::new`].
    pub fn half(height: usize, width: usize, known: Side) -> Result<Self> {
        Self::new(height, width, |y, x| match known {
            Side::Left => x < width / 2,
            Side::Right => x >= width / 2,
            Side::Top => y < height / 2,
            Side::Bottom => y >= height / 2,
        })
    }

    /// A mask of stripes: `thickness` known rows, as many unknown rows, and so on.
    ///
    /// # Errors
    /// See [`Mask::new`]; or `thickness` = 0.
    pub fn stripes(height: usize, width: usize, thickness: usize) -> Result<Self> {
        ensure!(thickness > 0, "mask: thickness = 0 must be at least 1");
        Self::new(height, width, |y, _| (y / thickness).is_multiple_of(2))
    }

    /// A random mask in which every pixel is unknown with probability `unknown`.
    ///
    /// # Errors
    /// See [`Mask::new`]; or `unknown` is not in 0 … 1.
    pub fn random(height: usize, width: usize, unknown: f64, rng: &mut Rng) -> Result<Self> {
        share(unknown)?;
        Self::new(height, width, |_, _| rng.uniform() >= unknown)
    }

    /// A mask of irregular strokes, as of a thick pen on a random walk, that leaves about the fraction `unknown`
    /// unknown.
    ///
    /// # Errors
    /// See [`Mask::random`].
    pub fn strokes(height: usize, width: usize, unknown: f64, rng: &mut Rng) -> Result<Self> {
        share(unknown)?;
        let mut it = Self::new(height, width, |_, _| true)?;
        let (size, radius) = (height.min(width) as f64, (height.min(width) as f64 / 16.0).max(0.5));
        while it.known_share() > 1.0 - unknown {
            let (mut y, mut x) = (rng.uniform() * height as f64, rng.uniform() * width as f64);
            let mut heading = rng.uniform() * std::f64::consts::TAU;
            for _ in 0..(size / radius) as usize {
                it.dab(y, x, radius);
                if it.known_share() <= 1.0 - unknown {
                    break;
                }
                heading += 0.5 * rng.normal();
                (y, x) = (y + radius * heading.sin(), x + radius * heading.cos());
            }
        }
        Ok(it)
    }

    /// Makes a disc of pixels unknown.
    fn dab(&mut self, y: f64, x: f64, radius: f64) {
        for (i, known) in self.known.iter_mut().enumerate() {
            let (row, column) = ((i / self.width) as f64, (i % self.width) as f64);
            *known &= (row - y).powi(2) + (column - x).powi(2) > radius * radius;
        }
    }

    /// Reads a mask from an image file of any size; pixels darker than mid-grey are unknown.
    ///
    /// # Errors
    /// The file cannot be read or is not an image, or see [`Mask::new`]; the message names it.
    pub fn from_file(path: impl AsRef<Path>, height: usize, width: usize) -> Result<Self> {
        let path = path.as_ref();
        let picture = image::open(path)
            .with_context(|| format!("mask: cannot use {} as an image", path.display()))
            .map_err(crate::whole)?;
        let it = Self::new(height, width, |_, _| true)?;
        let size = (width as u32, height as u32);
        let picture =
            image::imageops::resize(&picture.to_luma8(), size.0, size.1, image::imageops::FilterType::Triangle);
        let known = picture.pixels().map(|p| p.0[0] >= 128).collect();
        Ok(Self { known, ..it })
    }

    /// The inverted mask, with known and unknown pixels swapped.
    pub fn inverted(&self) -> Self {
        Self { known: self.known.iter().map(|known| !known).collect(), ..*self }
    }

    /// The fraction of known pixels, 0 … 1.
    pub fn known_share(&self) -> f64 {
        let known = self.known.iter().filter(|known| **known).count();
        known as f64 / self.known.len() as f64
    }

    /// The mask as a tensor: 1 for a known pixel, 0 for an unknown one.
    ///
    /// # Shapes
    /// (1, 1, H, W), f32.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn to_tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        let shape = (1, 1, self.height, self.width);
        let known: Vec<u8> = self.known.iter().map(|known| u8::from(*known)).collect();
        Tensor::from_vec(known, shape, device)?.to_dtype(DType::F32)
    }

    /// Combines two images: known pixels from `known`, the others from `other`, to the bit.
    ///
    /// # Shapes
    /// `known` and `other` are (B, C, H, W), as is the result.
    ///
    /// # Errors
    /// The images differ in shape, or do not have the height and width of the mask.
    pub fn combine(&self, known: &Tensor, other: &Tensor) -> candle_core::Result<Tensor> {
        self.check(known)?;
        let mask = self.to_tensor(known.device())?.ne(0f32)?;
        mask.broadcast_as(known.shape())?.where_cond(known, other)
    }

    /// Sets all unknown pixels of images to `value`.
    ///
    /// # Shapes
    /// `x` and the result are (B, C, H, W); `value` is in \[−1, 1\].
    ///
    /// # Errors
    /// The images do not have the height and width of the mask.
    pub fn erase(&self, x: &Tensor, value: f64) -> candle_core::Result<Tensor> {
        self.combine(x, &x.zeros_like()?.affine(1.0, value)?)
    }

    pub(super) fn check(&self, x: &Tensor) -> candle_core::Result<()> {
        let (height, width) = (self.height, self.width);
        match x.dims() {
            [_, _, h, w] if (*h, *w) == (height, width) => Ok(()),
            other => candle_core::bail!(
                "mask: the images have shape {other:?}, but this mask is for (B, C, {height}, {width})"
            ),
        }
    }
}

fn share(unknown: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&unknown) {
        bail!("mask: unknown = {unknown} is a fraction of the pixels and must be in 0 … 1")
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(mask: &Mask) -> Vec<String> {
        let row = |row: &[bool]| row.iter().map(|k| if *k { '#' } else { '.' }).collect();
        mask.known.chunks(mask.width).map(row).collect()
    }

    #[test]
    fn masks_have_the_documented_shapes() -> Result<()> {
        assert_eq!(rows(&Mask::half(2, 4, Side::Left)?), ["##..", "##.."]);
        assert_eq!(rows(&Mask::half(2, 4, Side::Right)?), ["..##", "..##"]);
        assert_eq!(rows(&Mask::half(2, 3, Side::Top)?), ["###", "..."]);
        assert_eq!(Mask::half(3, 5, Side::Bottom)?, Mask::half(3, 5, Side::Top)?.inverted());
        assert_eq!(rows(&Mask::rectangle(3, 4, 1..2, 1..4)?), ["####", "#...", "####"]);
        assert_eq!(rows(&Mask::stripes(5, 1, 2)?), ["#", "#", ".", ".", "#"]);
        let mask = Mask::random(50, 50, 0.3, &mut Rng::new(1))?;
        assert!((mask.known_share() - 0.7).abs() < 0.03, "{mask:?}");
        assert_eq!(Mask::random(9, 9, 0.0, &mut Rng::new(1))?.known_share(), 1.0);
        assert_eq!(Mask::random(9, 9, 1.0, &mut Rng::new(1))?.known_share(), 0.0);
        Ok(())
    }

    /// Strokes are connected: the neighbours of an unknown pixel are mostly unknown, which is rare in a random mask.
    #[test]
    fn strokes_are_strokes() -> Result<()> {
        let mask = Mask::strokes(32, 32, 0.25, &mut Rng::new(1))?;
        let share = 1.0 - mask.known_share();
        assert!((0.25..0.3).contains(&share), "{share}");
        assert_ne!(mask, Mask::strokes(32, 32, 0.25, &mut Rng::new(2))?);
        let pairs = mask.known.windows(2).filter(|pair| !pair[0]);
        let (same, all) = pairs.fold((0, 0), |(same, all), pair| (same + usize::from(!pair[1]), all + 1));
        assert!(same * 10 > all * 7, "{same} of {all}\n{:#?}", rows(&mask));
        assert_eq!(Mask::strokes(8, 8, 1.0, &mut Rng::new(1))?.known_share(), 0.0);
        Ok(())
    }

    #[test]
    fn known_pixels_stay_to_the_bit() -> Result<()> {
        let (device, mut rng) = (Device::Cpu, Rng::new(1));
        let (a, b) = (rng.randn((2, 3, 4, 4), &device)?, rng.randn((2, 3, 4, 4), &device)?);
        let mask = Mask::half(4, 4, Side::Left)?;
        let both = mask.combine(&a, &b)?;
        let numbers = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        let ((a, b), both) = ((numbers(&a)?, numbers(&b)?), numbers(&both)?);
        for (i, x) in both.iter().enumerate() {
            assert_eq!(*x, if i % 4 < 2 { a[i] } else { b[i] });
        }
        let erased = mask.erase(&Tensor::zeros((1, 1, 4, 4), DType::F32, &device)?, -1.0)?;
        assert_eq!(numbers(&erased)?[..4], [0.0, 0.0, -1.0, -1.0]);
        assert_eq!(mask.to_tensor(&device)?.dims(), [1, 1, 4, 4]);
        Ok(())
    }

    #[test]
    fn a_picture_makes_a_mask() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("mask.png");
        let picture = image::GrayImage::from_fn(20, 10, |x, _| image::Luma([if x < 10 { 255 } else { 0 }]));
        picture.save(&path)?;
        assert_eq!(Mask::from_file(&path, 4, 4)?, Mask::half(4, 4, Side::Left)?);
        std::fs::write(&path, "no picture")?;
        let message = Mask::from_file(&path, 4, 4).unwrap_err().to_string();
        assert!(message.contains("mask.png as an image"), "{message}");
        Ok(())
    }

    #[test]
    fn invalid_arguments_are_named() -> Result<()> {
        let rng = &mut Rng::new(1);
        let message = |mask: Result<Mask>| mask.unwrap_err().to_string();
        assert!(message(Mask::half(0, 4, Side::Left)).contains("height and width = 0×4"));
        assert!(message(Mask::rectangle(4, 4, 2..2, 0..4)).contains("rows = 2..2"));
        assert!(message(Mask::rectangle(4, 4, 0..4, 0..5)).contains("columns = 0..5"));
        assert!(message(Mask::stripes(4, 4, 0)).contains("thickness = 0"));
        assert!(message(Mask::random(4, 4, 1.5, rng)).contains("unknown = 1.5"));
        assert!(message(Mask::strokes(4, 4, f64::NAN, rng)).contains("unknown = NaN"));
        let x = Tensor::zeros((1, 1, 4, 5), DType::F32, &Device::Cpu)?;
        let message = Mask::half(4, 4, Side::Left)?.erase(&x, 0.0).unwrap_err();
        assert!(message.to_string().contains("[1, 1, 4, 5]"), "{message}");
        Ok(())
    }
}
