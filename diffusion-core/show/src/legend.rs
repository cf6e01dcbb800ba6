//! The legend: the names of the series, with a sample of each.

use anyhow::Result;
use plotters::element::{Circle, PathElement, Rectangle};
use plotters::style::{Color, IntoFont, IntoTextStyle, RGBColor, ShapeStyle, TextStyle};

use super::canvas::{Area, FINE, paint};
use super::palette::Rgb;
use super::picture::{INK, Picture, SOFT_INK};
use super::plot::{Marks, Plot};
use super::text::{Font, SMALL, line_height};

/// The palette of [Okabe and Ito (2008)](https://jfly.uni-koeln.de/color/), which is distinguishable with any kind of
/// colour vision, without the yellow, which is too pale for a line.
pub(super) const PALETTE: [Rgb; 7] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [80, 80, 80]];

/// The style of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub(super) colour: Rgb,
    shape: Shape,
    /// The lengths of dash and gap in nominal pixels.
    pub(super) dash: Option<(i32, i32)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Line,
    Dot,
    Bar,
}

/// A name, and the styles of the series with that name.
pub(super) type Entry = (String, Vec<Look>);

const SWATCH: usize = 22;
const GAP: usize = 6;
/// The space between the entries of a row.
const BETWEEN: usize = 18;

impl Look {
    /// The style of a line `width` canvas pixels wide, with an opacity of 0 … 1.
    pub(super) fn style(&self, width: u32, opacity: f64) -> ShapeStyle {
        ShapeStyle::from(colour(self.colour).mix(opacity)).stroke_width(width)
    }
}

pub(super) fn colour([r, g, b]: Rgb) -> RGBColor {
    RGBColor(r, g, b)
}

/// The style of text with `size` nominal pixels per em.
pub(super) fn text_style(size: f32, ink: Rgb) -> TextStyle<'static> {
    let font = ("sans-serif", f64::from(size) * f64::from(FINE)).into_font();
    font.color(&colour(ink)).into_text_style(&(0u32, 0u32))
}

/// The styles of all series of a plot, in order. Series with the same name have the same colour.
pub(super) fn looks(plot: &Plot) -> Vec<Look> {
    let (mut names, mut levels): (Vec<&str>, usize) = (Vec::new(), 0);
    let mut looks = Vec::with_capacity(plot.series.len());
    for series in &plot.series {
        let shape = match series.marks {
            Marks::Scatter(_) => Shape::Dot,
            Marks::Histogram(_) => Shape::Bar,
            _ => Shape::Line,
        };
        if let Marks::Level(_) = series.marks {
            let dash = Some([(7, 4), (2, 3), (12, 4)][levels % 3]);
            levels += 1;
            looks.push(Look { colour: SOFT_INK, shape, dash });
            continue;
        }
        let name = series.name.as_str();
        let known = names.iter().position(|n| *n == name && !name.is_empty());
        let number = known.unwrap_or(names.len());
        if known.is_none() {
            names.push(name);
        }
        // After one round of the palette, lines are dashed.
        let dash = (number / PALETTE.len() % 2 == 1).then_some((7, 3));
        looks.push(Look { colour: PALETTE[number % PALETTE.len()], shape, dash });
    }
    looks
}

/// The names of the series, each once.
pub(super) fn entries(plot: &Plot) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (series, look) in plot.series.iter().zip(looks(plot)) {
        match entries.iter_mut().find(|(name, _)| *name == series.name) {
            Some((_, looks)) => looks.push(look),
            None => entries.push((series.name.clone(), vec![look])),
        }
    }
    entries.retain(|(name, _)| !name.is_empty());
    entries
}

/// Draws the entries side by side, in as few even rows as fit into `width` nominal pixels.
pub(super) fn rows(entries: &[Entry], width: usize) -> Result<Picture> {
    let font = Font::new()?;
    let entry_width = |e: &Entry| SWATCH + GAP + font.width(&e.0, SMALL).ceil() as usize;
    let length = |row: &[Entry]| row.iter().map(|e| entry_width(e) + BETWEEN).sum::<usize>() - BETWEEN;
    let fits = |per_row: &usize| entries.chunks(*per_row).all(|row| length(row) <= width);
    let evenly = (1..=entries.len()).map(|rows| entries.len().div_ceil(rows));
    let per_row = evenly.into_iter().find(fits).unwrap_or(1);
    let height = entries.len().div_ceil(per_row) * line_height(SMALL) + 6;
    paint((width, height), |area| {
        for (i, row) in entries.chunks(per_row).enumerate() {
            let mut x = width.saturating_sub(length(row)) / 2;
            for e in row {
                draw(area, e, (x as i32, (i * line_height(SMALL)) as i32))?;
                x += entry_width(e) + BETWEEN;
            }
        }
        Ok(())
    })
}

/// Draws a piece of line, a dot or a bar, and a name.
fn draw(area: &Area, (name, looks): &Entry, (x, top): (i32, i32)) -> Result<()> {
    let (swatch, middle) = (SWATCH as i32, top + line_height(SMALL) as i32 / 2);
    let at = |x: i32, y: i32| (FINE * x, FINE * y);
    for look in looks {
        match look.shape {
            Shape::Line => {
                let (dash, gap) = look.dash.unwrap_or((swatch, 0));
                for from in (0..swatch).step_by((dash + gap) as usize) {
                    let to = (from + dash).min(swatch);
                    let ends = vec![at(x + from, middle), at(x + to, middle)];
                    area.draw(&PathElement::new(ends, look.style(2 * FINE as u32, 1.0)))?;
                }
            }
            Shape::Dot => {
                let style = look.style(1, 1.0).filled();
                area.draw(&Circle::new(at(x + swatch / 2, middle), 15, style))?;
            }
            Shape::Bar => {
                let corners = [at(x + 3, middle - 5), at(x + swatch - 3, middle + 5)];
                area.draw(&Rectangle::new(corners, look.style(1, 0.35).filled()))?;
                area.draw(&Rectangle::new(corners, look.style(FINE as u32, 1.0)))?;
            }
        }
    }
    area.draw_text(name, &text_style(SMALL, INK), at(x + swatch + GAP as i32, top))?;
    Ok(())
}
