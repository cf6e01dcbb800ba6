//! The drawing of a plot: the marks within its axes, and title, legend and caption around them.

use anyhow::Result;

use super::axis::Span;
use super::frame::Frame;
use super::legend;
use super::marks::marks;
use super::picture::{CARD, INK, PADDING, Picture, SOFT_INK};
use super::plot::{Marks, Plot, drawable};
use super::text::{Font, SMALL, TITLE, line_height};

/// Whether a plot shows the names of its series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Legend {
    Shown,
    /// Left to whoever puts several plots together.
    Hidden,
}

/// Draws a plot that has been checked.
pub(super) fn draw(plot: &Plot, size: (usize, usize), legend: Legend) -> Result<Picture> {
    let font = Font::new()?;
    let entries = match legend {
        Legend::Shown => legend::entries(plot),
        Legend::Hidden => Vec::new(),
    };
    if entries.is_empty() {
        return Chart::new(plot, &font, size, None)?.finish();
    }
    // Within the axes if it hides nothing there, else below them.
    let mut chart = Chart::new(plot, &font, size, None)?;
    let column = legend::column(&font, &entries)?;
    let room = (column.width(), column.height());
    match legend::free_place(&chart.background, &chart.area, room) {
        Some(place) => {
            chart.area.paste(&column, place);
            chart.finish()
        }
        None => {
            let rows = legend::rows(&font, &entries, size.0 - 2 * PADDING)?;
            Chart::new(plot, &font, size, Some(&rows))?.finish()
        }
    }
}

/// A plot of which all is settled and the marks are drawn.
struct Chart<'a> {
    font: &'a Font,
    size: (usize, usize),
    title: Vec<String>,
    caption: Vec<String>,
    /// The legend, if it is below the axes.
    beneath: Option<&'a Picture>,
    frame: Frame,
    /// What is within the axes, without and with the marks.
    background: Picture,
    area: Picture,
}

impl<'a> Chart<'a> {
    fn new(
        plot: &Plot,
        font: &'a Font,
        size: (usize, usize),
        beneath: Option<&'a Picture>,
    ) -> Result<Self> {
        let spans = spans(plot)?;
        let wrap = |text: &str, height| match text {
            "" => Vec::new(),
            text => font.wrap(text, height, (size.0 - 2 * PADDING) as f32),
        };
        let (title, caption) = (wrap(&plot.title, TITLE), wrap(&notes(plot), SMALL));
        let above = title.len() * line_height(TITLE) + 4;
        let below = caption_height(&caption) + beneath.map_or(0, |b| b.height() + 6);
        let frame = Frame::new(plot, font, spans, size, (above, below))?;
        let background = frame.background()?;
        let area = marks(plot, &background, spans)?;
        Ok(Self {
            font,
            size,
            title,
            caption,
            beneath,
            frame,
            background,
            area,
        })
    }

    fn finish(&self) -> Result<Picture> {
        let (font, frame, (width, height)) = (self.font, &self.frame, self.size);
        let mut picture = Picture::new(width, height, CARD, "choose a smaller .size")?;
        picture.paste(&self.area, (frame.left, frame.top));
        frame.paint(font, &mut picture);

        // The title is centred over the axes as far as it then stays on the picture.
        let half = width as f32 / 2.0;
        let widths = self.title.iter().map(|t| font.width(t, TITLE));
        let room = (half - PADDING as f32 - widths.fold(0.0, f32::max) / 2.0).max(0.0);
        let middle = frame.left as f32 + frame.size.0 as f32 / 2.0;
        let title_at = (middle.clamp(half - room, half + room), PADDING);
        font.centred(&mut picture, &self.title, TITLE, title_at, INK);

        let caption_top = height - PADDING + 4 - self.caption.len() * line_height(SMALL);
        let caption_at = (half, caption_top);
        font.centred(&mut picture, &self.caption, SMALL, caption_at, SOFT_INK);
        if let Some(rows) = self.beneath {
            let top = height - PADDING + 2 - caption_height(&self.caption) - rows.height();
            picture.paste(rows, (PADDING, top));
        }
        Ok(picture)
    }
}

fn caption_height(caption: &[String]) -> usize {
    caption.len() * line_height(SMALL) + 6 * caption.len().min(1)
}

/// The two axes, as far as the marks and the caller's ranges determine them.
fn spans(plot: &Plot) -> Result<(Span, Span)> {
    let (mut xs, mut ys, mut bars_stand) = (Vec::new(), Vec::new(), false);
    for series in &plot.series {
        match &series.marks {
            // A point counts only if both of its numbers have a place.
            Marks::Line(points) | Marks::Scatter(points) => {
                let shown = |p: &&(f64, f64)| plot.x.scale.shows(p.0) && plot.y.scale.shows(p.1);
                for point in points.iter().filter(shown) {
                    xs.push(point.0);
                    ys.push(point.1);
                }
            }
            Marks::Histogram(bars) => {
                bars_stand = true;
                xs.extend([bars.from, bars.side(bars.heights.len())]);
                ys.extend(&bars.heights);
                ys.push(0.0);
            }
            Marks::Level(y) => ys.push(*y),
        }
    }
    let x = plot.x.span("x", xs.into_iter(), false)?;
    let y = plot.y.span("y", ys.into_iter(), bars_stand)?;
    Ok((x, y))
}

/// The caption, and what could not be shown.
fn notes(plot: &Plot) -> String {
    let (mut not_finite, mut not_positive) = (0, 0);
    for series in &plot.series {
        match &series.marks {
            Marks::Line(points) | Marks::Scatter(points) => {
                for &(x, y) in points {
                    let finite = drawable(x) && drawable(y);
                    let shown = plot.x.scale.shows(x) && plot.y.scale.shows(y);
                    not_finite += usize::from(!finite);
                    not_positive += usize::from(finite && !shown);
                }
            }
            Marks::Histogram(bars) => not_finite += bars.skipped,
            Marks::Level(y) => not_positive += usize::from(!plot.y.scale.shows(*y)),
        }
    }
    let mut notes = Vec::from_iter((!plot.caption.is_empty()).then(|| plot.caption.clone()));
    for (count, what) in [
        (not_finite, "not finite"),
        (not_positive, "not above 0, as a logarithmic axis needs"),
    ] {
        match count {
            0 => {}
            1 => notes.push(format!("1 value left out: {what}")),
            n => notes.push(format!("{n} values left out: {what}")),
        }
    }
    notes.join(" · ")
}

#[cfg(test)]
mod tests {
    use crate::show::legend::PALETTE;
    use crate::show::{Draw, Plot};

    use super::*;

    /// Where pixels of a colour are: left, top, right and bottom.
    fn extent(picture: &Picture, colour: [u8; 3]) -> Option<[usize; 4]> {
        let all = (0..picture.height()).flat_map(|y| (0..picture.width()).map(move |x| (x, y)));
        all.filter(|&(x, y)| picture.pixel(x, y) == Some(colour))
            .map(|(x, y)| [x, y, x, y])
            .reduce(|a, b| {
                [
                    a[0].min(b[0]),
                    a[1].min(b[1]),
                    a[2].max(b[2]),
                    a[3].max(b[3]),
                ]
            })
    }

    #[test]
    fn marks_are_where_the_axes_say() -> Result<()> {
        let plot = Plot::new("").x_range(0.0, 4.0).y_range(0.0, 2.0);
        let plot = plot.line("", [1.0, 3.0], [1.0, 1.0]);
        let frame = Frame::new(&plot, &Font::new()?, spans(&plot)?, (640, 400), (4, 0))?;
        let [left, top, right, bottom] = extent(&plot.draw()?, PALETTE[0]).expect("a line");
        let (width, height) = frame.size;
        let near = |a: usize, b: usize| a.abs_diff(b) <= 2;
        assert!(near(left, frame.left + width / 4), "{left}");
        assert!(near(right, frame.left + width * 3 / 4), "{right}");
        assert!(near(top, frame.top + height / 2) && near(bottom, frame.top + height / 2));
        Ok(())
    }

    #[test]
    fn what_lies_outside_the_ranges_stays_outside() -> Result<()> {
        let steep = |plot: Plot| plot.line("", [0.0, 1.0, 2.0], [-1e30, 1e30, 1e299]);
        let plot = steep(Plot::new("title").x("x").y("y")).y_range(0.0, 1.0);
        let [_, top, _, bottom] = extent(&plot.draw()?, PALETTE[0]).expect("a line");
        let frame = Frame::new(&plot, &Font::new()?, spans(&plot)?, (640, 400), (24, 0))?;
        assert_eq!((top, bottom), (frame.top, frame.top + frame.size.1 - 1));
        Ok(())
    }

    #[test]
    fn a_legend_hides_no_data() -> Result<()> {
        let count = |p: &Picture| {
            let pixels = p.rgb().chunks_exact(3);
            pixels.filter(|&p| p == PALETTE[0]).count()
        };
        let plot = |name: &str, ys: [f64; 4]| Plot::new("").line(name, [0.0, 0.0, 1.0, 1.0], ys);
        let sample = 22 * 2;
        // One corner is free: nothing of the line is lost.
        let ys = [0.3, 1.0, 1.0, 0.0];
        let (named, bare) = (plot("a name", ys).draw()?, plot("", ys).draw()?);
        assert_eq!(count(&named), count(&bare) + sample);
        // No place is free: the sample is below the axes.
        let everywhere = |name: &str| Plot::new("").curve(name, 0.0..1.0, |x| (200.0 * x).sin());
        let [_, _, _, bottom] = extent(&everywhere("a name").draw()?, PALETTE[0]).expect("a line");
        let [_, _, _, without] = extent(&everywhere("").draw()?, PALETTE[0]).expect("a line");
        assert!(bottom > without + 10, "{bottom} {without}");
        Ok(())
    }

    #[test]
    fn a_name_has_one_colour_and_one_entry() {
        let (xs, ys) = ([0.0, 1.0], [0.0, 1.0]);
        let plot = Plot::new("")
            .line("a", xs, ys)
            .line("b", xs, ys)
            .scatter("a", xs, ys);
        let plot = plot.line("", xs, ys).line("", xs, ys).level("c", 0.0);
        let colours: Vec<[u8; 3]> = legend::looks(&plot).iter().map(|l| l.colour).collect();
        assert_eq!(colours[..5], [0, 1, 0, 2, 3].map(|i| PALETTE[i]));
        let names: Vec<String> = legend::entries(&plot).into_iter().map(|e| e.0).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn the_caption_says_what_is_missing() {
        let ys = [f64::NAN, -1.0, 0.0, 5.0];
        let plot = Plot::new("").caption("c").line("", 0..4usize, ys).log_y();
        let left_out = "1 value left out: not finite · 2 values left out: not above 0, as a logarithmic axis needs";
        assert_eq!(notes(&plot), format!("c · {left_out}"));
    }

    #[test]
    fn texts_that_leave_no_room_are_an_error() {
        let plot = Plot::new("many words ".repeat(60)).line("", [0.0, 1.0], [0.0, 1.0]);
        let message = plot.size(200, 150).to_png().unwrap_err().to_string();
        assert!(message.contains("200 × 150"), "{message}");
    }
}
