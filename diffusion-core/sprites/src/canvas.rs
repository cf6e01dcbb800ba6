//! A 16 × 16 canvas that shades and outlines what is painted on it.

use super::art::Art;
use super::attributes::Attributes;
use super::palette::{INK, Ramp, Rgb, WHITE};
use super::{Drawing, SIDE};
use crate::Rng;

const N: i32 = SIDE as i32;

/// The brightness of a pixel within its ramp.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Tone {
    /// Determined at the end by the light from above left.
    Lit,
    Dark,
    Mid,
    Light,
}

/// The border of a pixel next to empty ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Edge {
    /// A dark line.
    Outlined,
    /// No border, for lines of one pixel and sparks.
    Bare,
}

/// A painted pixel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dot {
    ramp: Ramp,
    tone: Tone,
    edge: Edge,
    /// The part that the pixel belongs to. A part is shaded as one body; [`FEATURE`] pixels belong to the surrounding
    /// part.
    part: usize,
}

const FEATURE: usize = 0;
const LINE: usize = 1;

impl Dot {
    /// An outlined pixel with its own tone, part of the surrounding body.
    pub(super) fn of(ramp: Ramp, tone: Tone) -> Self {
        Self { ramp, tone, edge: Edge::Outlined, part: FEATURE }
    }

    pub(super) fn edge(&self) -> Edge {
        self.edge
    }

    /// A pixel without an outline.
    pub(super) fn bare(ramp: Ramp, tone: Tone) -> Self {
        Self { ramp, tone, edge: Edge::Bare, part: LINE }
    }
}

/// Pixels that are not yet shaded or outlined.
#[derive(Clone, Debug, Default)]
pub(super) struct Canvas {
    dots: [[Option<Dot>; SIDE]; SIDE],
    parts: usize,
    /// Whether highlights were painted by hand, so that left and right must not be exchanged.
    one_sided: bool,
}

impl Canvas {
    /// A canvas with a centred drawing.
    pub(super) fn centred(art: &Art, materials: &[(char, Ramp)]) -> Self {
        let mut canvas = Self::default();
        canvas.paint((N - art.width()) / 2, (N - art.height()) / 2, art, materials);
        canvas
    }

    pub(super) fn get(&self, x: i32, y: i32) -> Option<Dot> {
        let inside = (0..N).contains(&x) && (0..N).contains(&y);
        inside.then(|| self.dots[y as usize][x as usize]).flatten()
    }

    /// Sets one pixel; pixels outside the canvas are ignored.
    pub(super) fn set(&mut self, x: i32, y: i32, dot: Dot) {
        if (0..N).contains(&x) && (0..N).contains(&y) {
            self.dots[y as usize][x as usize] = Some(dot);
        }
    }

    /// Paints a drawing with its top left corner at (x, y).
    pub(super) fn paint(&mut self, x: i32, y: i32, art: &Art, materials: &[(char, Ramp)]) {
        for (dx, dy, c) in art.cells() {
            if let Some(dot) = self.dot(c, materials) {
                self.set(x + dx, y + dy, dot);
            }
        }
        self.parts += materials.len();
    }

    /// Paints a drawing in front of what is there, with a dark line between the two.
    pub(super) fn paint_in_front(&mut self, x: i32, y: i32, art: &Art, materials: &[(char, Ramp)]) {
        let ink = Dot { ramp: [INK; 4], tone: Tone::Mid, edge: Edge::Bare, part: LINE };
        for (dx, dy, c) in art.cells() {
            if c.is_ascii_alphanumeric() {
                for (nx, ny) in [(-1, 0), (1, 0), (0, -1), (0, 1)] {
                    let (nx, ny) = (x + dx + nx, y + dy + ny);
                    if self.get(nx, ny).is_some() {
                        self.set(nx, ny, ink);
                    }
                }
            }
        }
        self.paint(x, y, art, materials);
    }

    /// Turns up to `count` lit pixels of a material into `dot`, no two of them adjacent.
    pub(super) fn speckle(&mut self, rng: &mut Rng, count: usize, on: Ramp, dot: Dot) {
        let mut places: Vec<(i32, i32)> =
            positions().filter(|&(x, y)| self.get(x, y).is_some_and(|d| d.ramp == on && d.tone == Tone::Lit)).collect();
        for _ in 0..count {
            if places.is_empty() {
                return;
            }
            let (x, y) = places[rng.below(places.len())];
            self.set(x, y, dot);
            places.retain(|&(px, py)| (px - x).abs() + (py - y).abs() > 1);
        }
    }

    /// The finished drawing of something with these attributes.
    pub(super) fn titled(self, attributes: Attributes) -> Drawing {
        Drawing { canvas: self, attributes }
    }

    /// The number of pixels of a material.
    pub(super) fn count(&self, ramp: Ramp) -> usize {
        self.dots.iter().flatten().flatten().filter(|dot| dot.ramp == ramp).count()
    }

    /// Removes the outline of everything painted so far.
    pub(super) fn bare(&mut self) {
        self.dots.iter_mut().flatten().flatten().for_each(|dot| dot.edge = Edge::Bare);
    }

    /// Declares that highlights were painted by hand: [`Canvas::flip`] then leaves them where the light is.
    pub(super) fn one_sided(mut self) -> Self {
        self.one_sided = true;
        self
    }

    /// Exchanges left and right, unless that would put the light on the wrong side.
    pub(super) fn flip(&mut self) {
        if !self.one_sided {
            self.dots.iter_mut().for_each(|row| row.reverse());
        }
    }

    /// Removes a row; the rows above it move down.
    pub(super) fn drop_row(&mut self, y: usize) {
        self.dots[..=y].rotate_right(1);
        self.dots[0] = [None; SIDE];
    }

    /// Moves the drawing by up to one pixel in each direction, as far as the outline stays on the canvas.
    pub(super) fn wander(&mut self, rng: &mut Rng) {
        let (mut low, mut high) = ([N; 2], [0; 2]);
        for (x, y) in positions() {
            if let Some(dot) = self.get(x, y) {
                let line = i32::from(dot.edge == Edge::Outlined);
                low = [low[0].min(x - line), low[1].min(y - line)];
                high = [high[0].max(x + line), high[1].max(y + line)];
            }
        }
        let mut step = |axis: usize| {
            let (from, to) = ((-low[axis]).clamp(-1, 0), (N - 1 - high[axis]).clamp(0, 1));
            from + rng.below((to - from + 1) as usize) as i32
        };
        let (dx, dy) = (step(0), step(1));
        let before = self.dots;
        for (x, y) in positions() {
            let from = (x - dx, y - dy);
            let inside = (0..N).contains(&from.0) && (0..N).contains(&from.1);
            self.dots[y as usize][x as usize] = inside.then(|| before[from.1 as usize][from.0 as usize]).flatten();
        }
    }

    /// Shades and outlines the drawing, and puts it on white.
    pub(super) fn render(&self, finish: Finish) -> [u8; SIDE * SIDE * 3] {
        let mut pixels = [0; SIDE * SIDE * 3];
        for ((x, y), pixel) in positions().zip(pixels.chunks_exact_mut(3)) {
            pixel.copy_from_slice(&match self.get(x, y) {
                Some(dot) => {
                    dot.ramp[match dot.tone {
                        Tone::Lit => self.lit(x, y, dot.part, finish),
                        Tone::Dark => 1,
                        Tone::Mid => 2,
                        Tone::Light => 3,
                    }]
                }
                None => self.outline(x, y, finish.line),
            });
        }
        pixels
    }

    /// The tone of a lit pixel, from its position between the borders of its part.
    fn lit(&self, x: i32, y: i32, part: usize, finish: Finish) -> usize {
        let run = |dx: i32, dy: i32| {
            let same = |&i: &i32| self.get(x + i * dx, y + i * dy).is_some_and(|d| d.part == part || d.part == FEATURE);
            (1..N).take_while(same).count() as i32
        };
        let (left, right, up, down) = (run(-1, 0), run(1, 0), run(0, -1), run(0, 1));
        let (width, height) = (left + right + 1, up + down + 1);
        // −100 … 100 along each axis, from the side of the light to the far side.
        let depth = 100 * (left - right) / width + 100 * (up - down) / height;
        match depth {
            d if d < finish.light => 3,
            d if d > finish.dark => 1,
            _ => 2,
        }
    }

    fn outline(&self, x: i32, y: i32, line: Line) -> Rgb {
        let beside = [(0, -1), (-1, 0), (1, 0), (0, 1)]
            .into_iter()
            .filter_map(|(dx, dy)| self.get(x + dx, y + dy))
            .find(|dot| dot.edge == Edge::Outlined);
        match (beside, line) {
            (None, _) => WHITE,
            (Some(_), Line::Ink) => INK,
            (Some(dot), Line::Tinted) => dot.ramp[0],
        }
    }

    fn dot(&self, c: u8, materials: &[(char, Ramp)]) -> Option<Dot> {
        let flat = |rgb: Rgb, edge, part| Some(Dot { ramp: [rgb; 4], tone: Tone::Mid, edge, part });
        let of = |k: usize, tone| {
            let part = LINE + 1 + self.parts + k;
            materials.get(k).map(|m| Dot { ramp: m.1, tone, edge: Edge::Outlined, part })
        };
        let named = |c: u8| materials.iter().position(|m| m.0 == c as char);
        match c {
            b'.' => None,
            b'#' => flat(INK, Edge::Bare, LINE),
            b'o' => flat(INK, Edge::Outlined, FEATURE),
            b'w' => flat(WHITE, Edge::Outlined, FEATURE),
            b'1'..=b'9' => of(usize::from(c - b'1'), Tone::Light),
            b'A'..=b'Z' => of(named(c)?, Tone::Lit),
            _ => of(named(c.to_ascii_uppercase())?, Tone::Dark),
        }
    }
}

/// Every (x, y), row by row.
pub(super) fn positions() -> impl Iterator<Item = (i32, i32)> {
    (0..N * N).map(|i| (i % N, i / N))
}

/// The line around a sprite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Line {
    /// Nearly black everywhere.
    Ink,
    /// The darkest tone of what it surrounds.
    Tinted,
}

/// The settings for rendering a canvas.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finish {
    /// The line around the sprite.
    pub(super) line: Line,
    /// Pixels with a depth below this are highlighted, from −200 (towards the light) to 200 (away from it).
    pub(super) light: i32,
    /// Pixels with a depth above this are in the shade.
    pub(super) dark: i32,
}

#[cfg(test)]
mod tests {
    use super::super::palette::{BLUE, RED, SNOW};
    use super::*;

    const FINISH: Finish = Finish { line: Line::Tinted, light: -60, dark: 60 };

    fn at(pixels: &[u8], x: usize, y: usize) -> Rgb {
        let i = (y * SIDE + x) * 3;
        [pixels[i], pixels[i + 1], pixels[i + 2]]
    }

    #[test]
    fn light_comes_from_above_left_and_the_line_runs_around() {
        let square = Art::new(&["AAAAAAAA"; 8]);
        let pixels = Canvas::centred(&square, &[('A', BLUE)]).render(FINISH);
        let diagonal = [3, 4, 7, 11, 12].map(|i| at(&pixels, i, i));
        assert_eq!(diagonal, [WHITE, BLUE[3], BLUE[2], BLUE[1], WHITE]);
        assert_eq!([at(&pixels, 3, 7), at(&pixels, 7, 12), at(&pixels, 2, 7)], [BLUE[0], BLUE[0], WHITE]);
    }

    #[test]
    fn detail_does_not_cut_the_shading_and_thin_lines_have_no_outline() {
        let plain = Canvas::centred(&Art::new(&["AAAAAA"; 6]), &[('A', RED)]).render(FINISH);
        let mut eyed = Canvas::centred(&Art::new(&["AAAAAA"; 6]), &[('A', RED)]);
        eyed.paint(7, 7, &Art::new(&["o"]), &[]);
        eyed.paint(0, 1, &Art::new(&["#"]), &[]);
        let eyed = eyed.render(FINISH);
        let changed: Vec<(i32, i32)> = positions()
            .filter(|&(x, y)| at(&plain, x as usize, y as usize) != at(&eyed, x as usize, y as usize))
            .collect();
        assert_eq!(changed, [(0, 1), (7, 7)]);
    }

    #[test]
    fn a_drawing_in_front_has_a_line_around_it() {
        let mut canvas = Canvas::centred(&Art::new(&["AAAAAAAA"; 8]), &[('A', RED)]);
        canvas.paint_in_front(8, 8, &Art::new(&["B"]), &[('B', SNOW)]);
        let pixels = canvas.render(FINISH);
        assert_eq!([at(&pixels, 7, 8), at(&pixels, 8, 9), at(&pixels, 8, 8)], [INK, INK, SNOW[2]]);
    }
}
