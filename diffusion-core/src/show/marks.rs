//! Lines, dots and bars within the axes of a plot, drawn by plotters.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::element::{Circle, Drawable, PathElement, PointCollection, Rectangle};
use plotters::prelude::{BitMapBackend, DrawingArea, IntoDrawingArea};
use plotters::style::{Color, RGBColor, ShapeStyle};

use super::axis::Span;
use super::legend::{self, Look};
use super::picture::Picture;
use super::plot::{Bars, Marks, Plot};

/// How many times finer than the picture the marks are drawn, in each direction: their edges become smooth.
const FINE: usize = 3;

/// Draws all series over the background, a picture of the area within the axes.
pub(super) fn marks(plot: &Plot, background: &Picture, (x, y): (Span, Span)) -> Result<Picture> {
    let (width, height) = (background.width(), background.height());
    let (fine_width, fine_height) = (FINE * width, FINE * height);
    let mut fine = Vec::with_capacity(3 * fine_width * fine_height);
    for row in background.rgb().chunks_exact(3 * width) {
        let row: Vec<u8> = row.chunks_exact(3).flat_map(|p| p.repeat(FINE)).collect();
        (0..FINE).for_each(|_| fine.extend_from_slice(&row));
    }
    let size = (fine_width as u32, fine_height as u32);
    let canvas = Canvas {
        area: BitMapBackend::with_buffer(&mut fine, size).into_drawing_area(),
        x,
        y,
        width: fine_width as f64,
        height: fine_height as f64,
    };
    for (series, look) in plot.series.iter().zip(legend::looks(plot)) {
        match &series.marks {
            Marks::Line(points) => canvas.lines(&canvas.runs(points), &look, 6),
            Marks::Scatter(points) => canvas.dots(&canvas.runs(points), &look),
            Marks::Histogram(bars) => canvas.bars(bars, &look),
            Marks::Level(level) => canvas.level(*level, &look),
        }?;
    }
    drop(canvas);
    let mean = |x: usize, y: usize, channel: usize| {
        let at =
            |i: usize| 3 * ((FINE * y + i / FINE) * fine_width + FINE * x + i % FINE) + channel;
        let sum: usize = (0..FINE * FINE).map(|i| fine[at(i)] as usize).sum();
        ((sum + FINE * FINE / 2) / (FINE * FINE)) as u8
    };
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let rgb = pixels.flat_map(|(x, y)| [mean(x, y, 0), mean(x, y, 1), mean(x, y, 2)]);
    Ok(Picture::from_rgb(width, height, rgb.collect()))
}

/// The fine picture, with places in pixels from its top left.
struct Canvas<'a> {
    area: DrawingArea<BitMapBackend<'a>, Shift>,
    x: Span,
    y: Span,
    width: f64,
    height: f64,
}

/// From the left and from the top.
type Point = [f64; 2];

/// How far outside the picture things are still drawn, so that their edges do not show.
const MARGIN: f64 = 40.0;

impl Canvas<'_> {
    /// The place of an x: the middle of the pixel that a grid line there would have.
    fn across(&self, x: f64) -> Option<f64> {
        Some(middle(self.x.place(x)?, self.width)).filter(|x| x.abs() < 1e100)
    }

    fn down(&self, y: f64) -> Option<f64> {
        Some(self.height - middle(self.y.place(y)?, self.height)).filter(|y| y.abs() < 1e100)
    }

    /// The places of points, in runs of those that have one.
    fn runs(&self, points: &[(f64, f64)]) -> Vec<Vec<Point>> {
        let places: Vec<Option<Point>> = points
            .iter()
            .map(|&(x, y)| Some([self.across(x)?, self.down(y)?]))
            .collect();
        let runs = places.split(|p| p.is_none()).filter(|run| !run.is_empty());
        runs.map(|run| run.iter().copied().flatten().collect())
            .collect()
    }

    fn lines(&self, runs: &[Vec<Point>], look: &Look, width: u32) -> Result<()> {
        for run in runs {
            let run = thinned(run);
            let segments = run
                .windows(2)
                .filter_map(|ends| self.clip(ends[0], ends[1]));
            let segments: Vec<(Point, Point)> = segments.collect();
            // A line that goes up and down so much that it fills an area is drawn as thin as can be.
            let length: f64 = segments.iter().map(|&(a, b)| distance(a, b)).sum();
            let rough = length > 12.0 * (self.width + self.height);
            let width = if rough { FINE as u32 } else { width };
            let style = style(look, 1.0).stroke_width(width);
            if let Some(dash) = look.dash {
                for (a, b) in dashes(&segments, dash) {
                    self.draw(PathElement::new(vec![rounded(a), rounded(b)], style))?;
                }
                continue;
            }
            for (a, b) in segments {
                self.draw(PathElement::new(vec![rounded(a), rounded(b)], style))?;
                // Round joints and ends.
                self.draw(Circle::new(rounded(a), width / 2, style.filled()))?;
                self.draw(Circle::new(rounded(b), width / 2, style.filled()))?;
            }
            if let [alone] = run[..] {
                self.dots(&[vec![alone]], look)?;
            }
        }
        Ok(())
    }

    fn dots(&self, runs: &[Vec<Point>], look: &Look) -> Result<()> {
        let (radius, opacity) = match runs.iter().map(Vec::len).sum() {
            0..=150 => (10, 0.9),
            151..=1500 => (8, 0.6),
            _ => (5, 0.4),
        };
        let style = style(look, opacity).filled();
        for &at in runs
            .iter()
            .flatten()
            .filter(|&&p| self.clip(p, p).is_some())
        {
            self.draw(Circle::new(rounded(at), radius, style))?;
        }
        Ok(())
    }

    fn bars(&self, bars: &Bars, look: &Look) -> Result<()> {
        let floor = self.down(0.0).unwrap_or(self.height);
        let mut outline: Vec<Point> = Vec::new();
        for (i, &height) in bars.heights.iter().enumerate() {
            let sides = (self.across(bars.side(i)), self.across(bars.side(i + 1)));
            let (Some(left), Some(right)) = sides else {
                continue;
            };
            let top = self.down(height).unwrap_or(floor);
            if outline.is_empty() {
                outline.push([left, floor]);
            }
            outline.extend([[left, top], [right, top]]);
            let corners = [[left, top], [right, floor]].map(|p| rounded(self.limit(p)));
            self.draw(Rectangle::new(corners, style(look, 0.35).filled()))?;
        }
        if let Some(&[right, _]) = outline.last() {
            outline.push([right, floor]);
        }
        self.lines(&[outline], look, 4)
    }

    fn level(&self, level: f64, look: &Look) -> Result<()> {
        match self.down(level) {
            Some(y) => self.lines(&[vec![[0.0, y], [self.width, y]]], look, 5),
            None => Ok(()),
        }
    }

    fn draw<E>(&self, element: E) -> Result<()>
    where
        for<'e> &'e E: PointCollection<'e, (i32, i32)>,
        E: for<'b> Drawable<BitMapBackend<'b>>,
    {
        let drawn = self.area.draw(&element);
        drawn.map_err(|error| anyhow!("drawing the plot: {error}"))
    }

    /// The part of a segment in or near the picture, so that plotters need not walk through the rest.
    fn clip(&self, mut a: Point, mut b: Point) -> Option<(Point, Point)> {
        let sides = [
            (0, -MARGIN, 1.0),
            (0, self.width + MARGIN, -1.0),
            (1, -MARGIN, 1.0),
            (1, self.height + MARGIN, -1.0),
        ];
        for (axis, limit, sign) in sides {
            let inside = |p: Point| (p[axis] - limit) * sign;
            if inside(a) < 0.0 && inside(b) < 0.0 {
                return None;
            }
            let other = 1 - axis;
            let crossing = |out: Point, at: Point| {
                let share = (limit - at[axis]) / (out[axis] - at[axis]);
                let mut point = [limit; 2];
                point[other] = at[other] + share * (out[other] - at[other]);
                point
            };
            if inside(a) < 0.0 {
                a = crossing(a, b);
            } else if inside(b) < 0.0 {
                b = crossing(b, a);
            }
        }
        Some((a, b))
    }

    /// The nearest place in or near the picture.
    fn limit(&self, [x, y]: Point) -> Point {
        [
            x.clamp(-MARGIN, self.width + MARGIN),
            y.clamp(-MARGIN, self.height + MARGIN),
        ]
    }
}

/// The middle of a pixel of the picture, in fine pixels: the first at 0 and the last at 1 of the way.
fn middle(at: f64, length: f64) -> f64 {
    let pixel = FINE as f64;
    at * (length - pixel) + pixel / 2.0
}

fn distance(a: Point, b: Point) -> f64 {
    (b[0] - a[0]).hypot(b[1] - a[1])
}

fn style(look: &Look, opacity: f64) -> ShapeStyle {
    let [r, g, b] = look.colour;
    RGBColor(r, g, b).mix(opacity).into()
}

fn rounded([x, y]: Point) -> (i32, i32) {
    (x.round() as i32, y.round() as i32)
}

/// Of many points in the same column of pixels, only the first, lowest, highest and last: they look the same.
fn thinned(run: &[Point]) -> Vec<Point> {
    let mut out = Vec::new();
    for column in run.chunk_by(|a, b| a[0].round() == b[0].round()) {
        if column.len() <= 4 {
            out.extend_from_slice(column);
            continue;
        }
        let by_height = |&a: &usize, &b: &usize| column[a][1].total_cmp(&column[b][1]);
        let lowest = (0..column.len()).min_by(by_height).unwrap_or(0);
        let highest = (0..column.len()).max_by(by_height).unwrap_or(0);
        let mut kept = [0, lowest, highest, column.len() - 1];
        kept.sort_unstable();
        out.extend(kept.map(|i| column[i]));
    }
    out
}

/// Cuts a line into dashes of `dash` and gaps of `gap` pixels of the picture.
fn dashes(segments: &[(Point, Point)], (dash, gap): (usize, usize)) -> Vec<(Point, Point)> {
    let (dash, period) = ((dash * FINE) as f64, ((dash + gap) * FINE) as f64);
    let (mut out, mut phase) = (Vec::new(), 0.0);
    for &(a, b) in segments {
        let length = distance(a, b);
        let point = |along: f64| [0, 1].map(|i| a[i] + (b[i] - a[i]) * along / length);
        let mut start = -phase;
        while start < length {
            let (from, to) = (start.max(0.0), (start + dash).min(length));
            if from < to {
                out.push((point(from), point(to)));
            }
            start += period;
        }
        phase = (phase + length) % period;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_go_on_around_corners() {
        let corner = [([0.0, 0.0], [10.0, 0.0]), ([10.0, 0.0], [10.0, 20.0])];
        let [first, second, third] = dashes(&corner, (5, 1))[..] else {
            panic!("three dashes");
        };
        assert_eq!(first, ([0.0, 0.0], [10.0, 0.0]));
        assert_eq!(second, ([10.0, 0.0], [10.0, 5.0]));
        assert_eq!(third, ([10.0, 8.0], [10.0, 20.0]));
    }

    #[test]
    fn thinning_keeps_ends_and_extremes_of_a_column() {
        let run: Vec<Point> = [3.0, 9.0, 4.0, -7.0, 5.0, 2.0].map(|y| [8.2, y]).into();
        let kept: Vec<f64> = thinned(&run).into_iter().map(|p| p[1]).collect();
        assert_eq!(kept, [3.0, 9.0, -7.0, 2.0]);
    }
}
