//! The names of the series with a sample of each: what they look like, and where the box hides the least.

use anyhow::Result;

use super::picture::{CARD, FAINT, INK, Picture, Rgb, SOFT_INK};
use super::plot::{Marks, Plot};
use super::text::{Font, SMALL, Turn, ascent, line_height};

/// The colours of [Okabe and Ito (2008)](https://jfly.uni-koeln.de/color/), which can be told apart with any kind of
/// colour vision, without the yellow, which is too pale for a line.
pub(super) const PALETTE: [Rgb; 7] = [
    [0, 114, 178],
    [213, 94, 0],
    [0, 158, 115],
    [204, 121, 167],
    [230, 159, 0],
    [86, 180, 233],
    [80, 80, 80],
];

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub(super) colour: Rgb,
    pub(super) shape: Shape,
    /// Pixels of line and of gap.
    pub(super) dash: Option<(usize, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape {
    Line,
    Dot,
    Bar,
}

/// A name, and what the series of that name look like.
pub(super) type Entry = (String, Vec<Look>);

/// What every series of a plot looks like, in their order. Series of the same name have the same colour.
pub(super) fn looks(plot: &Plot) -> Vec<Look> {
    let mut coloured: Vec<&str> = Vec::new();
    let mut levels = 0;
    let mut looks = Vec::with_capacity(plot.series.len());
    for series in &plot.series {
        let shape = match series.marks {
            Marks::Level(_) => {
                let (colour, shape) = (SOFT_INK, Shape::Line);
                let dash = Some([(7, 4), (2, 3), (12, 4)][levels % 3]);
                levels += 1;
                looks.push(Look {
                    colour,
                    shape,
                    dash,
                });
                continue;
            }
            Marks::Line(_) => Shape::Line,
            Marks::Scatter(_) => Shape::Dot,
            Marks::Histogram(_) => Shape::Bar,
        };
        let name = series.name.as_str();
        let known = coloured.iter().position(|&n| n == name && !n.is_empty());
        let number = known.unwrap_or(coloured.len());
        if known.is_none() {
            coloured.push(name);
        }
        // The second time round the palette, lines are dashed.
        let dash = (number / PALETTE.len() % 2 == 1).then_some((7, 3));
        let colour = PALETTE[number % PALETTE.len()];
        looks.push(Look {
            colour,
            shape,
            dash,
        });
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

const SWATCH: usize = 22;
const GAP: usize = 6;
const INSIDE: usize = 7;
const BETWEEN: usize = 18;
const SHORTER: &str = "give the series shorter names";

fn entry_width(font: &Font, entry: &Entry) -> usize {
    SWATCH + GAP + font.width(&entry.0, SMALL).ceil() as usize
}

/// A box with one entry below the other, for the inside of a plot.
pub(super) fn column(font: &Font, entries: &[Entry]) -> Result<Picture> {
    let widest = entries.iter().map(|e| entry_width(font, e)).max();
    let width = widest.unwrap_or(0) + 2 * INSIDE;
    let height = entries.len() * line_height(SMALL) + 2 * INSIDE - 4;
    let mut picture = Picture::new(width, height, FAINT, SHORTER)?;
    picture.fill((1, 1), (width - 2, height - 2), CARD);
    for (i, entry) in entries.iter().enumerate() {
        let at = (INSIDE, INSIDE - 2 + i * line_height(SMALL));
        paint(font, &mut picture, at, entry);
    }
    Ok(picture)
}

/// The entries beside each other, in as few even rows as fit into `width` pixels, for below a plot.
pub(super) fn rows(font: &Font, entries: &[Entry], width: usize) -> Result<Picture> {
    let cell = entries
        .iter()
        .map(|e| entry_width(font, e))
        .max()
        .unwrap_or(0)
        + BETWEEN;
    let count = entries.len();
    let length = |row: &[Entry]| {
        row.iter()
            .map(|e| entry_width(font, e) + BETWEEN)
            .sum::<usize>()
    };
    let fits = |per_row: &usize| {
        *per_row == 1
            || entries
                .chunks(*per_row)
                .all(|row| length(row) <= width + BETWEEN)
    };
    let evenly = (1..=count).map(|rows| count.div_ceil(rows));
    let per_row = evenly.into_iter().find(fits).unwrap_or(1);

    let rows = entries.chunks(per_row);
    let mut picture = Picture::new(width, rows.len() * line_height(SMALL), CARD, SHORTER)?;
    // Several rows are set in columns, as a table is.
    let in_columns = rows.len() > 1 && cell * per_row <= width + BETWEEN;
    for (i, row) in rows.enumerate() {
        let used = if in_columns {
            cell * per_row
        } else {
            length(row)
        };
        let mut x = (width + BETWEEN).saturating_sub(used) / 2;
        for entry in row {
            paint(font, &mut picture, (x, i * line_height(SMALL)), entry);
            x += if in_columns {
                cell
            } else {
                entry_width(font, entry) + BETWEEN
            };
        }
    }
    Ok(picture)
}

fn paint(font: &Font, on: &mut Picture, (x, y): (usize, usize), (name, looks): &Entry) {
    looks.iter().for_each(|look| sample(on, (x, y), look));
    let at = ((x + SWATCH + GAP) as f32, y as f32 + ascent(SMALL));
    font.draw(on, &font.line(name, SMALL), at, Turn::Level, INK);
}

/// A piece of line, a dot or a bar in the space before a name.
fn sample(on: &mut Picture, (x, y): (usize, usize), look: &Look) {
    let middle = y + line_height(SMALL) / 2;
    match look.shape {
        Shape::Line => {
            let (dash, gap) = look.dash.unwrap_or((SWATCH, 0));
            for from in (0..SWATCH).step_by(dash + gap) {
                let length = dash.min(SWATCH - from);
                on.fill((x + from, middle - 1), (length, 2), look.colour);
            }
        }
        Shape::Dot => {
            for (dx, dy) in (-5..5).flat_map(|dx| (-5..5).map(move |dy| (dx, dy))) {
                let distance = (dx as f32 + 0.5).hypot(dy as f32 + 0.5);
                let (px, py) = ((x + SWATCH / 2) as i64 + dx, middle as i64 + dy);
                on.blend(px, py, look.colour, (4.0 - distance).clamp(0.0, 1.0));
            }
        }
        Shape::Bar => {
            on.fill((x + 3, middle - 5), (SWATCH - 6, 10), look.colour);
            let pale = look
                .colour
                .map(|c| (f32::from(c) * 0.35 + f32::from(CARD[0]) * 0.65) as u8);
            on.fill((x + 4, middle - 4), (SWATCH - 8, 8), pale);
        }
    }
}

/// Where in a plot's area a box of `size` hides nearly nothing of what was drawn there, `None` if nowhere.
///
/// `background` is the area before anything was drawn.
pub(super) fn free_place(
    background: &Picture,
    drawn: &Picture,
    size: (usize, usize),
) -> Option<(usize, usize)> {
    let margin = 8;
    let right = background.width().checked_sub(size.0 + margin)?;
    let bottom = background.height().checked_sub(size.1 + margin)?;
    if right < margin || bottom < margin || 2 * size.1 > background.height() {
        return None;
    }
    let places = [
        (right, margin),
        (margin, margin),
        (right, bottom),
        (margin, bottom),
        (right, bottom / 2),
        (margin, bottom / 2),
        (right / 2, margin),
        (right / 2, bottom),
    ];
    let hidden = |&(x, y): &(usize, usize)| {
        // A little more than the box, so that nothing touches it.
        let (left, top) = (x.saturating_sub(4), y.saturating_sub(4));
        let rows = (top..y + size.1 + 4).flat_map(|y| (left..x + size.0 + 4).map(move |x| (x, y)));
        rows.filter(|&(x, y)| background.pixel(x, y) != drawn.pixel(x, y))
            .count()
    };
    let best = places.into_iter().min_by_key(hidden)?;
    (hidden(&best) * 100 <= size.0 * size.1).then_some(best)
}
