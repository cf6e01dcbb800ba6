//! The series of a plot as drawing elements of plotters.

use plotters::element::{Circle, DashedPathElement, DynElement, IntoDynElement, PathElement, Polygon};

use super::axis::Span;
use super::canvas::{Canvas, FINE};
use super::legend::Look;
use super::plot::{Bars, Marks};

/// A position in the plot: 0 … 1 from the left, and from the bottom.
type Place = (f64, f64);
type Element<'a> = DynElement<'static, Canvas<'a>, Place>;

/// The two axes, and the width and height of the area within them, in canvas pixels.
pub(super) struct View<'s> {
    pub(super) x: &'s Span,
    pub(super) y: &'s Span,
    pub(super) size: (f64, f64),
}

/// The drawing elements of a series.
pub(super) fn elements<'a>(marks: &Marks, look: &Look, view: &View) -> Vec<Element<'a>> {
    match marks {
        Marks::Line(points) => view.line(points, look, 2 * FINE as u32),
        Marks::Path(points) => {
            let mut elements = view.line(points, look, FINE as u32);
            elements.extend(view.dots(&points[points.len() - 1..], look));
            elements
        }
        Marks::Scatter(points) => view.dots(points, look),
        Marks::Arrows(arrows) => arrows.iter().flat_map(|a| view.arrow(*a, look)).collect(),
        Marks::Histogram(bars) => view.bars(bars, look),
        Marks::Level(y) => match view.y.place(*y) {
            Some(at) => view.strokes(&[(0.0, at), (1.0, at)], look, 6),
            None => Vec::new(),
        },
    }
}

impl View<'_> {
    fn place(&self, (x, y): (f64, f64)) -> Option<Place> {
        // Far outside, all positions look the same; limiting them keeps the arithmetic of clipping exact.
        let near = |at: f64| at.clamp(-1e6, 1e6);
        Some((near(self.x.place(x)?), near(self.y.place(y)?)))
    }

    /// Joins the points, with gaps at points that have no position or lie outside; an isolated point is a dot.
    fn line<'a>(&self, points: &[(f64, f64)], look: &Look, width: u32) -> Vec<Element<'a>> {
        let places: Vec<_> = points.iter().map(|&p| self.place(p)).collect();
        let mut elements = Vec::new();
        for run in places.split(|place| place.is_none()) {
            let run: Vec<Place> = run.iter().copied().flatten().collect();
            if let [(x, y)] = run[..] {
                let dot = Circle::new((x, y), 13, look.style(1, 1.0).filled());
                elements.extend(clip((x, y), (x, y)).map(|_| dot.into_dyn()));
            }
            elements.extend(self.strokes(&run, look, width));
        }
        elements
    }

    fn strokes<'a>(&self, run: &[Place], look: &Look, width: u32) -> Vec<Element<'a>> {
        let mut paths: Vec<Vec<Place>> = Vec::new();
        for (a, b) in run.windows(2).filter_map(|ends| clip(ends[0], ends[1])) {
            match paths.last_mut() {
                Some(path) if path.last() == Some(&a) => path.push(b),
                _ => paths.push(vec![a, b]),
            }
        }
        // A line that oscillates so much that it fills an area is drawn thin.
        let (across, down) = self.size;
        let length = |ends: &[Place]| ((ends[1].0 - ends[0].0) * across).hypot((ends[1].1 - ends[0].1) * down);
        let length: f64 = paths.iter().flat_map(|path| path.windows(2).map(length)).sum();
        let rough = length > 12.0 * (across + down);
        let style = look.style(if rough { FINE as u32 } else { width }, 1.0);
        let element = |path: Vec<Place>| match look.dash {
            None => PathElement::new(path, style).into_dyn(),
            Some((dash, gap)) => {
                let (dash, gap) = (FINE * dash, FINE * gap);
                DashedPathElement::new(path, dash, gap, style).into_dyn()
            }
        };
        paths.into_iter().map(element).collect()
    }

    fn dots<'a>(&self, points: &[(f64, f64)], look: &Look) -> Vec<Element<'a>> {
        let (radius, opacity) = match points.len() {
            0..=150 => (13, 1.0),
            151..=1500 => (11, 0.6),
            _ => (7, 0.4),
        };
        let style = look.style(1, opacity).filled();
        let places = points.iter().filter_map(|&p| self.place(p));
        let inside = places.filter(|&p| clip(p, p).is_some());
        inside.map(|p| Circle::new(p, radius, style).into_dyn()).collect()
    }

    /// Draws an arrow from (x, y) to (x + u, y + v); short arrows have short heads.
    fn arrow<'a>(&self, [x, y, u, v]: [f64; 4], look: &Look) -> Vec<Element<'a>> {
        let ends = self.place((x, y)).zip(self.place((x + u, y + v)));
        let Some((from, to)) = ends.and_then(|(from, to)| clip(from, to)) else {
            return Vec::new();
        };
        let (right, down) = ((to.0 - from.0) * self.size.0, (from.1 - to.1) * self.size.1);
        let length = right.hypot(down);
        let style = look.style(FINE as u32 * 3 / 2, 1.0);
        if length < 1.0 {
            return vec![Circle::new(from, 4, style.filled()).into_dyn()];
        }
        // From the tip backwards and sideways.
        let head = (0.45 * length).min(7.0 * f64::from(FINE)) / length;
        let corner = |side: f64| {
            let (back, side) = (-head, side * head * 0.45);
            let (x, y) = (back * right - side * down, back * down + side * right);
            (to.0 + x / self.size.0, to.1 - y / self.size.1)
        };
        let tip = Polygon::new(vec![to, corner(1.0), corner(-1.0)], style.filled());
        let shaft = 1.0 - 0.8 * head;
        let end = (from.0 + shaft * (to.0 - from.0), from.1 + shaft * (to.1 - from.1));
        vec![PathElement::new(vec![from, end], style).into_dyn(), tip.into_dyn()]
    }

    fn bars<'a>(&self, bars: &Bars, look: &Look) -> Vec<Element<'a>> {
        let place = |x: f64, y: f64| {
            let (x, y) = (self.x.place(x)?, self.y.place(y).unwrap_or(0.0));
            Some((x.clamp(0.0, 1.0), y.clamp(0.0, 1.0)))
        };
        let sides = (0..bars.heights.len()).map(|i| (bars.side(i), bars.side(i + 1)));
        let tops = sides.zip(&bars.heights);
        let tops = tops.flat_map(|((left, right), &y)| [(left, y), (right, y)]);
        let last = bars.side(bars.heights.len());
        let around = [(bars.from, 0.0)].into_iter().chain(tops).chain([(last, 0.0)]);
        let outline: Vec<Place> = around.filter_map(|(x, y)| place(x, y)).collect();
        vec![
            Polygon::new(outline.clone(), look.style(1, 0.35)).into_dyn(),
            PathElement::new(outline, look.style(FINE as u32, 1.0)).into_dyn(),
        ]
    }
}

/// The part of a segment within the axes, so that plotters need not process the rest.
fn clip(a: Place, b: Place) -> Option<(Place, Place)> {
    let (mut first, mut last) = (0.0f64, 1.0f64);
    for (from, to) in [(a.0, b.0), (a.1, b.1)] {
        // Where the segment crosses 0 and 1, as fractions of its length; a segment parallel to an axis crosses neither.
        let cross = |edge: f64| (edge - from) / (to - from);
        if from == to {
            if !(-1e-9..=1.0 + 1e-9).contains(&from) {
                return None;
            }
            continue;
        }
        first = first.max(cross(0.0).min(cross(1.0)));
        last = last.min(cross(0.0).max(cross(1.0)));
    }
    let at = |share: f64| match share {
        0.0 => a,
        1.0 => b,
        _ => (a.0 + share * (b.0 - a.0), a.1 + share * (b.1 - a.1)),
    };
    (first <= last + 1e-9).then(|| (at(first), at(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_clipped_to_the_axes() {
        let inside = ((0.2, 0.3), (0.7, 0.9));
        assert_eq!(clip(inside.0, inside.1), Some(inside));
        assert_eq!(clip((-1.0, 0.5), (2.0, 0.5)), Some(((0.0, 0.5), (1.0, 0.5))));
        assert_eq!(clip((0.5, -3.0), (0.5, 0.5)), Some(((0.5, 0.0), (0.5, 0.5))));
        assert_eq!(clip((-1.0, 0.5), (0.5, 2.0)), None);
        assert_eq!(clip((1.5, 0.0), (1.5, 1.0)), None);
        assert_eq!(clip((0.5, 0.5), (0.5, 0.5)), Some(((0.5, 0.5), (0.5, 0.5))));
        assert_eq!(clip((2.0, 2.0), (2.0, 2.0)), None);
    }
}
