//! A picture of RGB pixels: the form in which everything here is drawn, displayed and saved.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use png::{BitDepth, ColorType, Compression, Filter};

use super::palette::{Palette, Rgb};
use super::{Draw, displayed};

/// The near-white background, which makes a picture readable on light and dark pages.
pub(super) const CARD: Rgb = [251, 251, 251];
/// The colour of titles and axis labels.
pub(super) const INK: Rgb = [34, 34, 34];
/// The colour of captions and tick labels.
pub(super) const SOFT_INK: Rgb = [84, 84, 84];
/// The colour of thin lines around and behind objects.
pub(super) const FAINT: Rgb = [208, 208, 208];
/// The margin around everything.
pub(super) const PADDING: usize = 12;

/// A rendered picture with 8 bits per channel.
///
/// [`Grid`](super::Grid), [`Plot`](super::Plot) and [`Panels`](super::Panels) are rendered to one when they are
/// displayed or saved; [`Draw::draw`] returns it directly.
#[derive(Clone, PartialEq)]
pub struct Picture {
    width: usize,
    height: usize,
    /// Row by row from the top left, three bytes per pixel.
    rgb: Vec<u8>,
}

/// The number of bytes from which on a notebook shows a picture as JPEG if that is much smaller.
const LARGE_PNG: usize = 64 << 10;
/// The largest number of pixels: more than any screen shows, and 192 MB in memory.
const MOST_PIXELS: usize = 64 << 20;

impl Picture {
    /// Creates a picture of one colour. `how_to_shrink` is the advice in the error for a picture that is too large.
    pub(super) fn new(width: usize, height: usize, colour: Rgb, how_to_shrink: &str) -> Result<Self> {
        let pixels = width.checked_mul(height).filter(|&n| n <= MOST_PIXELS);
        let pixels = pixels.with_context(|| {
            format!("the picture would have {width} × {height} pixels, more than {MOST_PIXELS}: {how_to_shrink}")
        })?;
        let rgb = colour.repeat(pixels);
        Ok(Self { width, height, rgb })
    }

    /// Wraps the pixels of a buffer filled by a drawing library.
    pub(super) fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Self {
        debug_assert_eq!(rgb.len(), 3 * width * height);
        Self { width, height, rgb }
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The colour `x` pixels from the left and `y` from the top; `None` outside.
    pub fn pixel(&self, x: usize, y: usize) -> Option<Rgb> {
        (x < self.width && y < self.height).then(|| self.at(3 * (y * self.width + x)))
    }

    fn at(&self, i: usize) -> Rgb {
        [self.rgb[i], self.rgb[i + 1], self.rgb[i + 2]]
    }

    /// All pixels, row by row from the top left, as red, green and blue.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Fills the part of a rectangle that lies on the picture.
    pub(super) fn fill(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), colour: Rgb) {
        let right = (x + width).min(self.width);
        for y in y..(y + height).min(self.height) {
            if x < right {
                let row = &mut self.rgb[3 * (y * self.width + x)..3 * (y * self.width + right)];
                row.chunks_exact_mut(3).for_each(|p| p.copy_from_slice(&colour));
            }
        }
    }

    /// Mixes the fraction `share`, 0 … 1, of `colour` into a pixel. Pixels outside are ignored.
    pub(super) fn blend(&mut self, x: i64, y: i64, colour: Rgb, share: f32) {
        if (0..self.width as i64).contains(&x) && (0..self.height as i64).contains(&y) {
            let i = 3 * (y as usize * self.width + x as usize);
            for (old, new) in self.rgb[i..i + 3].iter_mut().zip(colour) {
                *old = (*old as f32 + (new as f32 - *old as f32) * share).round() as u8;
            }
        }
    }

    /// Copies `other` to (x, y), clipped to the picture.
    pub(super) fn paste(&mut self, other: &Picture, (x, y): (usize, usize)) {
        let width = other.width.min(self.width.saturating_sub(x));
        for row in 0..other.height.min(self.height.saturating_sub(y)) {
            let (from, to) = (3 * row * other.width, 3 * ((y + row) * self.width + x));
            self.rgb[to..to + 3 * width].copy_from_slice(&other.rgb[from..from + 3 * width]);
        }
    }

    /// The picture at half its width and height; a last odd row or column is dropped.
    pub(super) fn halved(&self) -> Self {
        let (width, height) = (self.width / 2, self.height / 2);
        let mut rgb = Vec::with_capacity(3 * width * height);
        for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
            let above = 3 * (2 * y * self.width + 2 * x);
            let below = above + 3 * self.width;
            let four = [above, above + 3, below, below + 3];
            let mean = |c: usize| (four.iter().map(|i| u32::from(self.rgb[i + c])).sum::<u32>() + 2) / 4;
            rgb.extend([mean(0) as u8, mean(1) as u8, mean(2) as u8]);
        }
        Self { width, height, rgb }
    }

    /// The picture in at most 64 colours, which suffices for a plot and makes its PNG file a third smaller.
    pub(super) fn in_few_colours(mut self) -> Self {
        let palette = Palette::of(self.rgb.chunks_exact(3), 64);
        for p in self.rgb.chunks_exact_mut(3) {
            p.copy_from_slice(&palette.colours[palette.index(p) as usize]);
        }
        self
    }

    /// Encodes the picture as PNG: greyscale if possible, indexed if it has at most 256 colours, with the row filter
    /// that gives the smaller file.
    pub(super) fn png(&self) -> Result<Vec<u8>> {
        let pixels = || self.rgb.chunks_exact(3);
        let (kind, bytes, palette) = if pixels().all(|p| p[0] == p[1] && p[1] == p[2]) {
            (ColorType::Grayscale, pixels().map(|p| p[0]).collect(), None)
        } else if let Some(palette) = Palette::exact(pixels()) {
            let bytes = pixels().map(|p| palette.index(p)).collect();
            (ColorType::Indexed, bytes, Some(palette.colours.concat()))
        } else {
            (ColorType::Rgb, self.rgb.clone(), None)
        };
        let encoded = |filter: Filter| -> Result<Vec<u8>> {
            let mut file = Vec::new();
            let mut encoder = png::Encoder::new(&mut file, self.width as u32, self.height as u32);
            encoder.set_color(kind);
            encoder.set_depth(BitDepth::Eight);
            encoder.set_compression(Compression::High);
            encoder.set_filter(filter);
            palette.iter().for_each(|p| encoder.set_palette(p.clone()));
            let mut writer = encoder.write_header()?;
            writer.write_image_data(&bytes)?;
            writer.finish()?;
            Ok(file)
        };
        let context = "the picture cannot be encoded as a PNG";
        let plain = encoded(Filter::NoFilter).context(context)?;
        let filtered = encoded(Filter::Adaptive).context(context)?;
        Ok(if filtered.len() < plain.len() { filtered } else { plain })
    }

    /// Encodes the picture as JPEG in a quality (90, without chroma subsampling) at which photographs show no difference.
    fn jpeg(&self) -> Result<Vec<u8>> {
        let mut file = Vec::new();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 90)
            .encode(&self.rgb, self.width as u32, self.height as u32, image::ExtendedColorType::Rgb8)
            .context("the picture cannot be encoded as a JPEG")?;
        Ok(file)
    }

    /// Encodes the picture for a notebook and gives the MIME type: PNG, or JPEG where that is at most two thirds of a large PNG
    /// file. This is so for grids of photographs, not for plots and enlarged pixels.
    fn for_notebook(&self) -> Result<(&'static str, Vec<u8>)> {
        let png = self.png()?;
        if png.len() > LARGE_PNG && self.width.max(self.height) <= usize::from(u16::MAX) {
            let jpeg = self.jpeg()?;
            if 3 * jpeg.len() <= 2 * png.len() {
                return Ok(("image/jpeg", jpeg));
            }
        }
        Ok(("image/png", png))
    }

    fn shown(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

displayed!(Picture);

impl Draw for Picture {
    fn draw(&self) -> Result<Picture> {
        Ok(self.clone())
    }
}

/// Writes a file, whose name must end in `extension`, and creates its folder.
pub(super) fn write(path: &Path, extension: &str, bytes: &[u8]) -> Result<()> {
    ensure!(
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension)),
        "{}: it is saved as a .{extension} file, so the name must end in .{extension}",
        path.display()
    );
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot create this folder", folder.display()))?;
    }
    std::fs::write(path, bytes).with_context(|| format!("{}: cannot write this file", path.display()))
}

/// Displays a picture below a cell, or prints the error.
pub(super) fn show_picture(what: &str, picture: Result<Picture>) {
    show(what, picture.and_then(|picture| picture.for_notebook()));
}

/// Displays the file, of this MIME type, in base64 below a cell, or prints the error.
pub(super) fn show(what: &str, file: Result<(&str, Vec<u8>)>) {
    use base64::prelude::{BASE64_STANDARD, Engine};
    match file {
        Ok((mime, bytes)) => {
            println!("EVCXR_BEGIN_CONTENT {mime}\n{}\nEVCXR_END_CONTENT", BASE64_STANDARD.encode(bytes))
        }
        Err(error) => eprintln!("This {what} cannot be shown: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The colour type of the PNG file, and its pixels.
    fn decoded(picture: &Picture) -> (ColorType, Vec<u8>) {
        let file = std::io::Cursor::new(picture.png().unwrap());
        let mut decoder = png::Decoder::new(file);
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let kind = reader.info().color_type;
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut bytes).unwrap();
        (kind, bytes)
    }

    #[test]
    fn a_png_holds_the_same_pixels() -> Result<()> {
        let mut picture = Picture::new(7, 5, CARD, "")?;
        picture.fill((2, 1), (100, 2), [10, 10, 10]);
        let grey: Vec<u8> = picture.rgb().iter().copied().step_by(3).collect();
        assert_eq!(decoded(&picture), (ColorType::Grayscale, grey));
        picture.blend(0, 0, [255, 0, 0], 0.5);
        let rgb = picture.rgb().to_vec();
        assert_eq!(decoded(&picture), (ColorType::Indexed, rgb));
        let many: Vec<u8> = (0..300u16).flat_map(|i| [i as u8, (i / 256) as u8, 0]).collect();
        let picture_of_many = Picture::from_rgb(300, 1, many.clone());
        assert_eq!(decoded(&picture_of_many), (ColorType::Rgb, many));
        assert_eq!(picture.pixel(0, 0), Some([253, 126, 126]));
        assert_eq!(picture.pixel(7, 0), None);
        Ok(())
    }

    /// 400 × 400 pixels: smooth shades with fine noise, as in a photograph, each as a square of `k` × `k`.
    fn photograph(k: usize) -> Picture {
        let side = 400;
        let shade = |x: usize, y: usize, c: usize| {
            let (x, y) = (x / k, y / k);
            let noise = (x * 7919 + y * 104_729 + c * 31).wrapping_mul(2_654_435_761) >> 7 & 7;
            (40.0 + 90.0 * (1.0 + ((x + c * 9) as f64 / 25.0).sin() * (y as f64 / 19.0).cos())) as u8 + noise as u8
        };
        let pixels = (0..side * side).flat_map(|i| [0, 1, 2].map(|c| shade(i % side, i / side, c)));
        Picture::from_rgb(side, side, pixels.collect())
    }

    #[test]
    fn a_notebook_shows_photographs_as_jpeg_and_everything_else_as_png() -> Result<()> {
        let photo = photograph(1);
        let (mime, file) = photo.for_notebook()?;
        assert_eq!(mime, "image/jpeg");
        let decoded = image::load_from_memory(&file)?.to_rgb8();
        assert_eq!(decoded.dimensions(), (400, 400));
        let errors = decoded.as_raw().iter().zip(photo.rgb()).map(|(a, b)| f64::from(a.abs_diff(*b)));
        let mean = errors.sum::<f64>() / photo.rgb().len() as f64;
        assert!(mean < 3.0, "mean error {mean}");
        for other in [photograph(5), Picture::new(900, 900, CARD, "")?] {
            let (mime, file) = other.for_notebook()?;
            assert_eq!((mime, &file[1..4]), ("image/png", &b"PNG"[..]));
        }
        Ok(())
    }

    #[test]
    fn pixels_outside_are_ignored() -> Result<()> {
        let mut picture = Picture::new(4, 4, CARD, "")?;
        let other = Picture::new(3, 3, [1, 2, 3], "")?;
        picture.paste(&other, (3, 2));
        picture.paste(&other, (9, 9));
        picture.blend(-1, 2, [0; 3], 1.0);
        picture.fill((9, 0), (3, 3), [0; 3]);
        let painted = picture.rgb().chunks_exact(3).filter(|p| *p != CARD).count();
        assert_eq!((painted, picture.pixel(3, 3)), (2, Some([1, 2, 3])));
        Ok(())
    }

    #[test]
    fn errors_of_files_name_the_path() -> Result<()> {
        let picture = Picture::new(1, 1, CARD, "")?;
        for wrong in ["picture.gif", "picture"] {
            let message = picture.save(wrong).unwrap_err().to_string();
            assert!(message.starts_with(wrong) && message.contains(".png"), "{message}");
        }
        let folder = std::env::temp_dir().join(format!("diffusion-picture-{}", std::process::id()));
        picture.save(folder.join("a/b.PNG"))?;
        let message = format!("{:#}", picture.save(folder.join("a/b.PNG/c.png")).unwrap_err());
        assert!(message.contains("b.PNG"), "{message}");
        Ok(std::fs::remove_dir_all(folder)?)
    }
}
