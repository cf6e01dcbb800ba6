//! The title and the caption around pictures.

use anyhow::Result;

use super::picture::{CARD, INK, PADDING, Picture, SOFT_INK};
use super::text::{Font, SMALL, TITLE, line_height};

/// A title above and a caption below a picture, broken into lines. Lengths are in nominal pixels.
pub(super) struct Frame {
    font: Font,
    title: Vec<String>,
    caption: Vec<String>,
    inside: usize,
    margin: usize,
    /// Pixels per nominal pixel.
    zoom: usize,
}

impl Frame {
    /// Creates the frame for content `inside` pixels wide, with a `margin` around it.
    pub(super) fn new((title, caption): (&str, &str), (inside, margin): (usize, usize), zoom: usize) -> Result<Self> {
        let font = Font::new()?;
        let room = (inside.saturating_add(2 * margin) - 2 * PADDING) as f32;
        let title = font.wrap(title, TITLE, room);
        let caption = font.wrap(caption, SMALL, room);
        Ok(Self { font, title, caption, inside, margin, zoom })
    }

    /// The height above the content.
    pub(super) fn above(&self) -> usize {
        match self.title.len() {
            0 => self.margin,
            n => PADDING + n * line_height(TITLE) + 6,
        }
    }

    fn below(&self) -> usize {
        match self.caption.len() {
            0 => self.margin,
            n => PADDING + n * line_height(SMALL) + 6,
        }
    }

    /// The height that the frame adds to its content.
    pub(super) fn height(&self) -> usize {
        self.above() + self.below()
    }

    /// Frames the pictures, stacked vertically. `smaller` is the advice in the error for a picture that is too large.
    pub(super) fn around(&self, pictures: &[Picture], smaller: &str) -> Result<Picture> {
        let (zoom, font) = (self.zoom, &self.font);
        let width = self.inside.saturating_add(2 * self.margin).saturating_mul(zoom);
        let content: usize = pictures.iter().map(Picture::height).sum();
        let height = content.saturating_add(self.height() * zoom);
        let mut on = Picture::new(width, height, CARD, smaller)?;
        let middle = width as f32 / 2.0;
        let (top, size) = ((PADDING - 2) * zoom, TITLE * zoom as f32);
        font.centred(&mut on, &self.title, size, (middle, top), INK);
        let mut top = self.above() * zoom;
        for picture in pictures {
            on.paste(picture, ((width - picture.width()) / 2, top));
            top += picture.height();
        }
        let (top, size) = (top + 8 * zoom, SMALL * zoom as f32);
        font.centred(&mut on, &self.caption, size, (middle, top), SOFT_INK);
        Ok(on)
    }
}
