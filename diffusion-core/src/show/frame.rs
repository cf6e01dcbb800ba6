//! The axes of a plot: its margins, grid, ticks and their texts.

use anyhow::{Result, anyhow};

use super::axis::{Span, Tick};
use super::picture::{CARD, FAINT, INK, PADDING, Picture, SOFT_INK};
use super::plot::Plot;
use super::text::{Font, LABEL, SMALL, Turn, ascent, line_height};

/// Where the area within the axes is, and what is written along it.
pub(super) struct Frame {
    pub(super) left: usize,
    pub(super) top: usize,
    /// Width and height of the area within the axes.
    pub(super) size: (usize, usize),
    x: Span,
    y: Span,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    x_label: Vec<String>,
    y_label: Vec<String>,
}

const AXIS: [u8; 3] = [120, 120, 120];
/// Between labelled grid lines of a logarithmic axis.
const VERY_FAINT: [u8; 3] = [240, 240, 240];
const TICK: usize = 4;
const TICK_GAP: usize = 3;

impl Frame {
    /// Settles the margins of a picture of `width` × `height` with that much room `above` and `below` for other things.
    /// The ticks depend on the room, and the room on the width of the ticks' texts.
    ///
    /// # Errors
    /// So many or so long texts that hardly any room is left.
    pub(super) fn new(
        plot: &Plot,
        font: &Font,
        (x, y): (Span, Span),
        (width, height): (usize, usize),
        (above, below): (usize, usize),
    ) -> Result<Self> {
        let room = |pixels: Option<usize>| {
            pixels.filter(|&pixels| pixels >= 40).ok_or_else(|| {
                anyhow!(
                    "plot {:?}: its texts leave no room in {width} × {height} pixels; choose a larger .size or shorter texts",
                    plot.title
                )
            })
        };
        let label = |text: &str, room: usize| match text {
            "" => Vec::new(),
            text => font.wrap(text, LABEL, room as f32),
        };
        let thickness =
            |label: &[String]| label.len() * line_height(LABEL) + 2 * label.len().min(1);

        let x_label = label(&plot.x.label, width - 2 * PADDING);
        let top = PADDING + above.max(4);
        let ticks_below = TICK + TICK_GAP + line_height(SMALL);
        let bottom = PADDING + below + thickness(&x_label) + ticks_below - 4;
        let area_height = room(height.checked_sub(top + bottom))?;
        let y_label = label(&plot.y.label, area_height);
        let y_ticks = most_ticks(y, (area_height / 56).clamp(4, 10), |ticks| {
            ticks.len() * line_height(SMALL) <= area_height
        });

        let widest = |ticks: &[Tick]| {
            let widths = ticks.iter().map(|t| font.width(&t.text, SMALL));
            widths.fold(0.0, f32::max).ceil() as usize
        };
        let left = PADDING + thickness(&y_label) + widest(&y_ticks) + TICK + TICK_GAP;
        let full = room(width.checked_sub(left + PADDING))?;
        let x_ticks = most_ticks(x, (full / 88).clamp(4, 12), |ticks| {
            ticks.len() * (widest(ticks) + 12) <= full
        });
        // The last text may reach over the end of the axis.
        let reach = x_ticks.iter().map(|t| {
            let end = t.at as f32 * full as f32 + font.width(&t.text, SMALL) / 2.0;
            (end - full as f32 - 6.0).max(0.0).ceil() as usize
        });
        let area_width = room(full.checked_sub(reach.max().unwrap_or(0)))?;
        Ok(Self {
            left,
            top,
            size: (area_width, area_height),
            x,
            y,
            x_ticks,
            y_ticks,
            x_label,
            y_label,
        })
    }

    /// The area within the axes with its grid.
    pub(super) fn background(&self) -> Result<Picture> {
        let (width, height) = self.size;
        let mut area = Picture::new(width, height, CARD, "choose a smaller .size")?;
        let at = |ticks: &[Tick]| ticks.iter().map(|t| t.at).collect::<Vec<_>>();
        for (colour, xs, ys) in [
            (VERY_FAINT, self.x.minor(), self.y.minor()),
            (FAINT, at(&self.x_ticks), at(&self.y_ticks)),
        ] {
            for at in xs {
                area.fill((pixel(at, width), 0), (1, height), colour);
            }
            for at in ys {
                area.fill((0, height - 1 - pixel(at, height)), (width, 1), colour);
            }
        }
        Ok(area)
    }

    /// Draws the axes with ticks, numbers and labels around the area.
    pub(super) fn paint(&self, font: &Font, on: &mut Picture) {
        let (left, top, (width, height)) = (self.left, self.top, self.size);
        on.fill((left - 1, top), (1, height + 1), AXIS);
        on.fill((left - 1, top + height), (width + 1, 1), AXIS);
        for tick in &self.x_ticks {
            let x = left + pixel(tick.at, width);
            on.fill((x, top + height), (1, TICK), AXIS);
            let at = (x as f32 + 0.5, top + height + TICK + TICK_GAP - 2);
            font.centred(on, std::slice::from_ref(&tick.text), SMALL, at, SOFT_INK);
        }
        for tick in &self.y_ticks {
            let y = top + height - 1 - pixel(tick.at, height);
            on.fill((left - 1 - TICK, y), (TICK, 1), AXIS);
            let line = font.line(&tick.text, SMALL);
            let right = (left - 1 - TICK - TICK_GAP) as f32;
            let at = (right - line.width, y as f32 + SMALL * 0.37);
            font.draw(on, &line, at, Turn::Level, SOFT_INK);
        }
        let middle = left as f32 + width as f32 / 2.0;
        let below = top + height + TICK + TICK_GAP - 1 + line_height(SMALL);
        font.centred(on, &self.x_label, LABEL, (middle, below), INK);
        for (i, text) in self.y_label.iter().enumerate() {
            let line = font.line(text, LABEL);
            let base = (PADDING - 3 + i * line_height(LABEL)) as f32 + ascent(LABEL);
            let start = top as f32 + height as f32 / 2.0 + line.width / 2.0;
            font.draw(on, &line, (base, start), Turn::Up, INK);
        }
    }
}

/// As many ticks up to about `count` as fit.
fn most_ticks(span: Span, count: usize, fit: impl Fn(&[Tick]) -> bool) -> Vec<Tick> {
    let tries = (1..=count).rev().map(|count| span.ticks(count));
    let mut tries = tries.skip_while(|ticks| !fit(ticks));
    tries.next().unwrap_or_default()
}

/// The pixel of a place on an axis of `length` pixels.
fn pixel(at: f64, length: usize) -> usize {
    let last = (length - 1) as f64;
    (at * last).round().clamp(0.0, last) as usize
}
