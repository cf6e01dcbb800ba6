//! Lines of text in Noto Sans, with Greek letters, accents, and the sub- and superscripts of formulas.
//!
//! plotters' own text drawing ignores the side bearings of glyphs, misplaces accents and does not support subscripts.
//! So this module lays text out, and `canvas.rs` passes the result to plotters.

use ab_glyph::{Font as _, FontRef, GlyphId, PxScale};
use anyhow::{Context, Result};

use super::formula::{Level, is_accent, runs};
use super::palette::Rgb;
use super::picture::Picture;

/// Font sizes in nominal pixels per em.
pub(super) const TITLE: f32 = 15.0;
pub(super) const LABEL: f32 = 13.0;
pub(super) const SMALL: f32 = 12.0;

/// The line height of text of `size`, in whole pixels.
pub(super) fn line_height(size: f32) -> usize {
    (size * 1.3).ceil() as usize
}

/// The distance from the top of a line to its baseline.
pub(super) fn ascent(size: f32) -> f32 {
    (size * 1.03).round()
}

/// The typeface. It borrows the font embedded in the program, so creating one costs microseconds.
pub(super) struct Font {
    face: FontRef<'static>,
    units_per_em: f32,
}

/// A line of text after layout.
pub(super) struct Line {
    /// Glyph, x and y of its origin (y upwards from the baseline), pixels per em.
    glyphs: Vec<(GlyphId, f32, f32, f32)>,
    pub(super) width: f32,
}

impl Font {
    pub(super) fn new() -> Result<Self> {
        let face = FontRef::try_from_slice(ttf_noto_sans::REGULAR).context("the built-in font")?;
        let units_per_em = face.units_per_em().unwrap_or(1000.0);
        Ok(Self { face, units_per_em })
    }

    /// Lays out one line, including its formulas: see [`runs`].
    pub(super) fn line(&self, text: &str, size: f32) -> Line {
        let mut line = Line { glyphs: Vec::new(), width: 0.0 };
        for (level, run) in runs(text) {
            let (em, rise) = match level {
                Level::Base => (size, 0.0),
                Level::Sub => (size * 0.74, -size * 0.18),
                Level::Super => (size * 0.74, size * 0.38),
            };
            self.run(&run, em, rise, &mut line);
        }
        line
    }

    fn run(&self, text: &str, em: f32, rise: f32, line: &mut Line) {
        let unit = em / self.units_per_em;
        let mut previous: Option<(GlyphId, f32)> = None;
        for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
            let glyph = self.face.glyph_id(c);
            if let (true, Some((base, x))) = (is_accent(c), previous) {
                let (dx, dy) = self.accent(base, glyph);
                let at = (glyph, x + dx * unit, rise + dy * unit, em);
                line.glyphs.push(at);
                continue;
            }
            if let Some((left, _)) = previous {
                line.width += self.face.kern_unscaled(left, glyph) * unit;
            }
            line.glyphs.push((glyph, line.width, rise, em));
            previous = Some((glyph, line.width));
            line.width += self.face.h_advance_unscaled(glyph) * unit;
        }
    }

    /// The position of a combining accent relative to its letter, in font units: centred, and above tall letters.
    fn accent(&self, letter: GlyphId, accent: GlyphId) -> (f32, f32) {
        let outlines = (self.face.outline(letter), self.face.outline(accent));
        let (Some(below), Some(mark)) = outlines else {
            return (0.0, 0.0);
        };
        let (below, mark) = (below.bounds, mark.bounds);
        // Here y points upwards, with `min` at the top.
        let gap = self.units_per_em * 0.06;
        ((below.min.x + below.max.x - mark.min.x - mark.max.x) / 2.0, (below.min.y + gap - mark.max.y).max(0.0))
    }

    /// The width of `text` in pixels.
    pub(super) fn width(&self, text: &str, size: f32) -> f32 {
        self.line(text, size).width
    }

    /// Breaks `text` at line feeds and, in lines wider than `width` pixels, between words; wider words are broken, too.
    /// An empty text has no lines.
    pub(super) fn wrap(&self, text: &str, size: f32, width: f32) -> Vec<String> {
        let mut lines = Vec::new();
        let paragraphs = text.split('\n').filter(|_| !text.is_empty());
        for paragraph in paragraphs {
            let mut line = String::new();
            for word in paragraph.split(' ') {
                let longer = match line.as_str() {
                    "" => word.to_string(),
                    line => format!("{line} {word}"),
                };
                if self.width(&longer, size) <= width {
                    line = longer;
                    continue;
                }
                if !line.is_empty() {
                    lines.push(std::mem::take(&mut line));
                }
                for c in word.chars() {
                    line.push(c);
                    if self.width(&line, size) > width && line.chars().count() > 1 {
                        line.pop();
                        lines.push(std::mem::replace(&mut line, c.to_string()));
                    }
                }
            }
            lines.push(line);
        }
        lines
    }

    /// Calls `put` with the position and the coverage, 0 … 1, of every pixel of a line. `x` is its left end, `y` its
    /// baseline.
    pub(super) fn draw(&self, line: &Line, (x, y): (f32, f32), mut put: impl FnMut(i64, i64, f32)) {
        for &(glyph, right, up, em) in &line.glyphs {
            let scale = PxScale::from(em * self.face.height_unscaled() / self.units_per_em);
            // Only x has subpixel positions: letters stand on their baseline.
            let glyph = glyph.with_scale_and_position(scale, ab_glyph::point(x + right, (y - up).round()));
            if let Some(outline) = self.face.outline_glyph(glyph) {
                let corner = outline.px_bounds().min;
                let (left, top) = (corner.x as i64, corner.y as i64);
                // Thin strokes look paler than they are: darken them a little.
                outline.draw(|x, y, coverage| {
                    let coverage = coverage.clamp(0.0, 1.0).powf(0.8);
                    put(left + i64::from(x), top + i64::from(y), coverage);
                });
            }
        }
    }

    /// Draws a line onto a picture.
    pub(super) fn write(&self, on: &mut Picture, line: &Line, at: (f32, f32), ink: Rgb) {
        self.draw(line, at, |x, y, share| on.blend(x, y, ink, share));
    }

    /// Draws lines of text, each centred on `x`, with the first line's top at `top`.
    pub(super) fn centred(&self, on: &mut Picture, lines: &[String], size: f32, (x, top): (f32, usize), ink: Rgb) {
        for (i, text) in lines.iter().enumerate() {
            let line = self.line(text, size);
            let y = (top + i * line_height(size)) as f32 + ascent(size);
            self.write(on, &line, ((x - line.width / 2.0).round(), y), ink);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{CARD, INK};

    #[test]
    fn lines_are_broken_between_words_where_possible() -> Result<()> {
        let font = Font::new()?;
        let room = font.width("nearest neighbour", SMALL) + 0.5;
        let lines = font.wrap("nearest neighbour of\nx", SMALL, room);
        assert_eq!(lines, ["nearest neighbour", "of", "x"]);
        let word = "W".repeat(40);
        let lines = font.wrap(&format!("a {word}"), SMALL, 100.0);
        assert_eq!(lines.concat(), format!("a{word}"));
        assert!(lines.iter().all(|l| font.width(l, SMALL) <= 100.0));
        // If there is no room for a letter, each letter gets a line.
        assert_eq!(font.wrap("abc", SMALL, 1.0), ["a", "b", "c"]);
        Ok(())
    }

    #[test]
    fn an_accent_is_centred_over_its_letter() -> Result<()> {
        let font = Font::new()?;
        let extent = |text: &str, from: usize, to: usize| -> Result<[usize; 2]> {
            let mut picture = Picture::new(100, 100, CARD, "")?;
            font.write(&mut picture, &font.line(text, 50.0), (30.0, 80.0), INK);
            let dark = |&x: &usize| (from..to).any(|y| picture.pixel(x, y) != Some(CARD));
            let columns: Vec<usize> = (0..100).filter(dark).collect();
            Ok([columns[0], columns[columns.len() - 1]])
        };
        // Without an accent an x is 27 pixels high at this size, so only the accent is above that.
        let (letter, hat) = (extent("x", 0, 100)?, extent("x\u{302}", 0, 51)?);
        let (letter, hat) = (letter[0] + letter[1], hat[0] + hat[1]);
        assert!(letter.abs_diff(hat) <= 2, "{letter} {hat}");
        assert_eq!(font.width("x\u{302}", 50.0), font.width("x", 50.0));
        Ok(())
    }
}
