//! Drawing a plot: plotters draws axes and marks; title, legend and caption go around them.

use anyhow::{Context, Result, ensure};
use plotters::chart::ChartBuilder;
use plotters::style::ShapeStyle;

use super::axis::Span;
use super::canvas::{FINE, ZOOM, paint};
use super::frame::Frame;
use super::legend::{self, colour, text_style};
use super::marks::{View, elements};
use super::palette::Rgb;
use super::picture::{CARD, FAINT, INK, PADDING, Picture, SOFT_INK};
use super::plot::{Marks, Plot, SIDES, WIDTH};
use super::text::{Font, LABEL, SMALL, line_height};
use super::{Draw, displayed};

const AXIS: Rgb = [120, 120, 120];
/// The colour of grid lines between the labelled ones on a logarithmic axis.
const VERY_FAINT: Rgb = [232, 232, 232];
const TICK: usize = 4;
/// The space above the axes for half of the highest tick label.
const TOP: usize = 9;
/// The smallest width and height of the area within the axes.
const LEAST: usize = 40;

impl Plot {
    /// Draws the plot in a given size, with or without its legend.
    pub(super) fn drawn(&self, (width, height): (usize, usize), with_legend: bool) -> Result<Picture> {
        if let Some(problem) = &self.problem {
            anyhow::bail!("{problem}");
        }
        ensure!(!self.series.is_empty(), "plot {:?} is empty: add a .line, .scatter or .histogram", self.title);
        ensure!(
            SIDES.contains(&width) && SIDES.contains(&height),
            "plot {:?}: size {width} × {height}; use {} to {} pixels for each",
            self.title,
            SIDES.start(),
            SIDES.end()
        );
        ensure!(
            !(self.equal && (self.x.log || self.y.log)),
            "plot {:?}: equal_axes needs two linear axes; leave out .log_x and .log_y",
            self.title
        );
        draw(self, (width, height), with_legend)
    }

    fn at_its_size(&self) -> Result<Picture> {
        let default = if self.equal { (480, 480) } else { (WIDTH, 400) };
        self.drawn(self.size.unwrap_or(default), true)
    }

    fn shown(&self) -> Result<Picture> {
        to_show(&self.at_its_size()?)
    }
}

/// Prepares plots for display in a notebook: centred on a card of width [`WIDTH`], in few colours.
pub(super) fn to_show(picture: &Picture) -> Result<Picture> {
    let width = picture.width().max(WIDTH * ZOOM);
    let mut card = Picture::new(width, picture.height(), CARD, "choose a smaller .size")?;
    card.paste(picture, ((width - picture.width()) / 2, 0));
    Ok(card.in_few_colours())
}

displayed!(Plot);

impl Draw for Plot {
    fn draw(&self) -> Result<Picture> {
        Ok(self.at_its_size()?.halved())
    }

    fn draw_sharp(&self) -> Result<(Picture, usize)> {
        Ok((self.at_its_size()?.in_few_colours(), ZOOM))
    }
}

/// Draws a validated plot in `width` × `height` nominal pixels. The legend, if any, is placed between title and axes,
/// where it hides no data.
///
/// # Errors
/// The texts are so many or so long that hardly any room is left.
fn draw(plot: &Plot, (width, height): (usize, usize), with_legend: bool) -> Result<Picture> {
    let inside = width - 2 * PADDING;
    let frame = Frame::new((&plot.title, &notes(plot)), (inside, PADDING), ZOOM)?;
    let entries = legend::entries(plot);
    let mut pictures = Vec::new();
    let mut used = frame.height();
    if with_legend && !entries.is_empty() {
        let legend = legend::rows(&entries, inside)?;
        used += legend.height() / ZOOM;
        pictures.push(legend);
    }
    let room = (inside, height.saturating_sub(used));
    let layout = Layout::new(plot, room)?.with_context(|| {
        let problem = "its texts leave no room in";
        let advice = "choose a larger .size or shorter texts";
        format!("plot {:?}: {problem} {width} × {height} pixels; {advice}", plot.title)
    })?;
    pictures.push(layout.draw(plot)?.0);
    frame.around(&pictures, "choose a smaller .size")
}

/// The axes of a plot and the room for them, in nominal pixels.
struct Layout {
    size: (usize, usize),
    left: usize,
    right: usize,
    bottom: usize,
    x: Span,
    y: Span,
    /// The font size of labels, smaller if a label is longer than its axis.
    label_size: f32,
}

impl Layout {
    /// Determines ticks and margins; `None` if there is hardly any room within the axes.
    fn new(plot: &Plot, size: (usize, usize)) -> Result<Option<Self>> {
        let font = Font::new()?;
        let (mut x, mut y) = spans(plot)?;
        let label = |text: &str, gap: usize| match text {
            "" => 0,
            _ => line_height(LABEL) + gap,
        };
        let bottom = 2 * TICK + line_height(SMALL) + label(&plot.x.label, 0);
        let tall = size.1.saturating_sub(bottom + TOP);
        let widest = |span: &Span| {
            let widths = span.ticks.iter().map(|t| font.width(&t.1, SMALL).ceil());
            widths.fold(0.0, f32::max) as usize
        };
        // Ticks and room depend on each other, so they are computed repeatedly until they agree.
        let (mut left, mut right, mut wide) = (0, 2, size.0);
        for round in 0..3 {
            if plot.equal && round > 0 {
                let before = x.clone();
                x.match_scale(wide, &y, tall);
                y.match_scale(tall, &before, wide);
            }
            y.set_ticks((tall / 20).clamp(3, 8));
            left = 2 * TICK + widest(&y) + label(&plot.y.label, 6);
            wide = size.0.saturating_sub(left);
            x.set_ticks((wide / 60).clamp(3, 12));
            let fit = wide / (widest(&x) + 16);
            if x.ticks.len() > fit {
                x.set_ticks(fit);
            }
            // The last label may extend beyond the end of the axis.
            let reach =
                x.ticks.iter().map(|(at, text)| (*at as f32 - 1.0) * wide as f32 + font.width(text, SMALL) / 2.0);
            right = reach.fold(2.0, f32::max).ceil() as usize;
            wide = wide.saturating_sub(right);
        }
        let fits = |text: &str, room: usize| room as f32 / font.width(text, LABEL).max(1.0);
        let shrink = fits(&plot.x.label, wide).min(fits(&plot.y.label, tall)).min(1.0);
        let label_size = LABEL * shrink;
        let enough = tall >= LEAST && wide >= LEAST;
        Ok(enough.then_some(Self { size, left, right, bottom, x, y, label_size }))
    }

    /// Draws the picture, and returns the area within the axes: left, top, right and bottom.
    fn draw(&self, plot: &Plot) -> Result<(Picture, [usize; 4])> {
        let fine = |pixels: usize| FINE as u32 * pixels as u32;
        let line = |ink: Rgb, width| ShapeStyle::from(colour(ink)).stroke_width(width);
        let mut area = [0; 4];
        let picture = paint(self.size, |canvas| {
            let mut chart = ChartBuilder::on(canvas)
                .margin_top(fine(TOP))
                .margin_right(fine(self.right))
                .x_label_area_size(fine(self.bottom))
                .y_label_area_size(fine(self.left))
                .build_cartesian_2d(self.x.clone(), self.y.clone())?;
            chart
                .configure_mesh()
                .x_desc(&plot.x.label)
                .y_desc(&plot.y.label)
                .axis_desc_style(text_style(self.label_size, INK))
                .label_style(text_style(SMALL, SOFT_INK))
                .bold_line_style(line(FAINT, 2))
                .light_line_style(line(VERY_FAINT, 2))
                .axis_style(line(AXIS, FINE as u32))
                .set_all_tick_mark_size(fine(TICK))
                .draw()?;
            let (xs, ys) = chart.plotting_area().get_pixel_range();
            let size = (f64::from(xs.end - xs.start), f64::from(ys.end - ys.start));
            let view = View { x: &self.x, y: &self.y, size };
            for (series, look) in plot.series.iter().zip(legend::looks(plot)) {
                chart.draw_series(elements(&series.marks, &look, &view))?;
            }
            area = [xs.start, ys.start, xs.end, ys.end].map(|v| v as usize * ZOOM / FINE as usize);
            Ok(())
        })?;
        Ok((picture, area))
    }
}

/// The two axes, determined by the marks and the given ranges.
fn spans(plot: &Plot) -> Result<(Span, Span)> {
    let (mut xs, mut ys, mut bars_stand) = (Vec::new(), Vec::new(), false);
    for series in &plot.series {
        match &series.marks {
            Marks::Histogram(bars) => {
                bars_stand = true;
                xs.extend([bars.from, bars.side(bars.heights.len())]);
                ys.extend(&bars.heights);
                ys.push(0.0);
            }
            Marks::Level(y) => ys.push(*y),
            // A point counts only if both of its coordinates have a position.
            marks => {
                let shown = |p: &(f64, f64)| plot.x.shows(p.0) && plot.y.shows(p.1);
                let (x, y): (Vec<f64>, Vec<f64>) = marks.points().into_iter().filter(shown).unzip();
                xs.extend(x);
                ys.extend(y);
            }
        }
    }
    let counts = if bars_stand { &[][..] } else { &xs };
    Ok((plot.x.span("x", &xs, false)?.whole_as(counts), plot.y.span("y", &ys, bars_stand)?))
}

/// The caption, with the number of values that cannot be shown.
fn notes(plot: &Plot) -> String {
    let (mut left_out, log) = (0, plot.x.log || plot.y.log);
    for series in &plot.series {
        left_out += match &series.marks {
            Marks::Histogram(bars) => bars.skipped,
            Marks::Level(y) => usize::from(!plot.y.shows(*y)),
            marks => {
                let points = marks.points().into_iter();
                points.filter(|p| !plot.x.shows(p.0) || !plot.y.shows(p.1)).count()
            }
        };
    }
    let mut notes = Vec::from_iter((!plot.caption.is_empty()).then(|| plot.caption.clone()));
    if left_out > 0 {
        let s = if left_out == 1 { "" } else { "s" };
        let or = if log { " or not above 0" } else { "" };
        notes.push(format!("{left_out} value{s} left out: not finite{or}"));
    }
    notes.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legend::PALETTE;

    /// The area within the axes, and the position of the first colour in it: left, top, right and bottom as fractions.
    fn extent(plot: &Plot) -> Result<[f64; 4]> {
        let layout = Layout::new(plot, (600, 300))?.context("no room")?;
        let (picture, [left, top, right, bottom]) = layout.draw(plot)?;
        let (width, height) = (right - left, bottom - top);
        let size = (picture.width(), picture.height());
        let all = (0..size.1).flat_map(|y| (0..size.0).map(move |x| (x, y)));
        let found: Vec<(f64, f64)> = all
            .filter(|&(x, y)| picture.pixel(x, y) == Some(PALETTE[0]))
            .map(|(x, y)| (x as f64 - left as f64, y as f64 - top as f64))
            .map(|(x, y)| (x / width as f64, y / height as f64))
            .collect();
        let ends = |values: Vec<f64>| {
            let ends = (f64::INFINITY, f64::NEG_INFINITY);
            values.into_iter().fold(ends, |(a, b), v| (a.min(v), b.max(v)))
        };
        let (left, right) = ends(found.iter().map(|p| p.0).collect());
        let (top, bottom) = ends(found.iter().map(|p| p.1).collect());
        Ok([left, top, right, bottom])
    }

    fn near(found: [f64; 4], want: [f64; 4]) {
        let apart = found.iter().zip(want).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f64::max) < 0.01, "{found:?} {want:?}");
    }

    #[test]
    fn marks_are_where_the_axes_say() -> Result<()> {
        let plot = || Plot::new("").x_range(0.0, 4.0).y_range(0.0, 2.0);
        near(extent(&plot().line("", [1.0, 3.0], [1.0, 1.0]))?, [0.25, 0.5, 0.75, 0.5]);
        let bars = plot().histogram("", [1.0, 2.0, 3.0], 2);
        near(extent(&bars)?, [0.25, 0.67, 0.75, 1.0]);
        let arrow = plot().arrows("", [1.0], [1.0], [2.0], [0.0]);
        let [left, _, right, _] = extent(&arrow)?;
        near([left, 0.0, right, 0.0], [0.25, 0.0, 0.75, 0.0]);
        let log = Plot::new("").log_x().x_range(1.0, 1e4).y_range(0.0, 2.0);
        near(extent(&log.line("", [10, 1000], [1, 1]))?, [0.25, 0.5, 0.75, 0.5]);
        Ok(())
    }

    #[test]
    fn what_lies_outside_the_ranges_stays_outside() -> Result<()> {
        let plot = Plot::new("").x("x").y("y").y_range(0.0, 1.0);
        let steep = plot.line("", [0.0, 1.0, 2.0], [-1e30, 1e30, 1e299]);
        let [_, top, _, bottom] = extent(&steep)?;
        near([0.0, top, 0.0, bottom], [0.0, 0.0, 0.0, 1.0]);
        Ok(())
    }

    #[test]
    fn equal_axes_show_a_circle_as_round() -> Result<()> {
        let angles: Vec<f64> = (0..100).map(|i| f64::from(i) * 0.0635).collect();
        let [xs, ys] = [f64::cos, f64::sin].map(|f| angles.iter().map(|a| f(*a)).collect::<Vec<_>>());
        let plot = Plot::new("").equal_axes().line("", &xs, &ys);
        let layout = Layout::new(&plot, (600, 300))?.context("no room")?;
        let area = layout.draw(&plot)?.1.map(|v| v as f64);
        let [left, top, right, bottom] = extent(&plot)?;
        let width = (right - left) * (area[2] - area[0]);
        let height = (bottom - top) * (area[3] - area[1]);
        assert!((width - height).abs() < 6.0, "{width} {height}");
        Ok(())
    }

    #[test]
    fn series_of_one_name_share_colour_and_entry() {
        let (xs, ys) = ([0.0, 1.0], [0.0, 1.0]);
        let plot = Plot::new("").line("a", xs, ys).line("b", xs, ys).scatter("a", xs, ys);
        let plot = plot.line("", xs, ys).line("", xs, ys).level("c", 0.0);
        let colours: Vec<Rgb> = legend::looks(&plot).iter().map(|l| l.colour).collect();
        assert_eq!(colours[..5], [0, 1, 0, 2, 3].map(|i| PALETTE[i]));
        let names: Vec<String> = legend::entries(&plot).into_iter().map(|e| e.0).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn the_caption_says_what_is_missing() {
        let ys = [f64::NAN, -1.0, 0.0, 5.0];
        let plot = Plot::new("").caption("c").line("", 0..4usize, ys).log_y();
        assert_eq!(notes(&plot), "c · 3 values left out: not finite or not above 0");
    }

    #[test]
    fn extreme_values_are_drawn_or_rejected_without_panic() -> Result<()> {
        let strange = [f64::NAN, f64::INFINITY, -1e300, -1.0, 0.0, 5e-324, 1e299, f64::MAX];
        let ones = [1.0; 8];
        for plot in [Plot::new("a").y("y".repeat(300)), Plot::new("b").log_x().log_y(), Plot::new("c").equal_axes()] {
            let plot = plot.size(300, 200).line("l", strange, strange).path("p", strange, ones);
            let plot = plot.scatter("s", ones, strange).arrows("a", strange, ones, strange, strange);
            let plot = plot.histogram("h", [-3.0, -1.0], 4).level("v", -1.0);
            // The eighth series is dashed.
            let same = |plot: Plot, i| plot.line(format!("{i}"), [1.0; 2], [1.0; 2]);
            let plot = (0..4).fold(plot, same);
            plot.clone().to_png()?;
            plot.y_range(1e-300, 1e299).to_png()?;
        }
        let message = |plot: Plot| plot.to_png().unwrap_err().to_string();
        let narrow = message(Plot::new("many words ".repeat(60)).line("", [0.0, 1.0], [0.0, 1.0]).size(200, 150));
        assert!(narrow.contains("200 × 150"), "{narrow}");
        let log = message(Plot::new("p").line("", [1.0, 2.0], [1.0, 2.0]).log_y().equal_axes());
        assert!(log.contains("equal_axes"), "{log}");
        let short = message(Plot::new("p").arrows("f", [1.0], [1.0], [1.0, 2.0], [1.0]));
        assert!(short == "arrows \"f\": 1 x values, but 2 u values", "{short}");
        Ok(())
    }
}
