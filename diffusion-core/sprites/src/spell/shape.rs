//! Spells whose pixels are computed by formulas, at any angle.

use super::super::Drawing;
use super::super::art::Art;
use super::super::attributes::Attributes;
use super::super::canvas::{Canvas, Dot, Edge, Tone, positions};
use super::super::palette::*;
use super::super::{chance, pick};
use super::{glow, sparks};
use crate::Rng;

pub(super) fn fireball(rng: &mut Rng) -> Drawing {
    let [core, middle, rim] = glow(rng);
    let (dx, dy) = direction(rng);
    let radius = 3.2 + 0.4 * rng.below(4) as f64;
    let length = 9.0 + rng.below(3) as f64;
    let phase = rng.below(4) as f64;
    let mut canvas = field(|x, y| {
        let (x, y) = (x - dx * (6.4 - radius), y - dy * (6.4 - radius));
        let (back, across) = (-(x * dx + y * dy), (x * dy - y * dx).abs());
        let flicker = 1.0 + 0.18 * libm::sin(1.6 * back + phase * 1.57);
        let q = if back < 0.0 {
            (back * back + across * across).sqrt() / radius
        } else {
            across / (radius * (1.0 - back / length).max(0.0).sqrt() * flicker).max(0.01) + 0.35 * back / length
        };
        match q {
            q if q < 0.35 => Some(Dot::of(core, Tone::Light)),
            q if q < 0.6 => Some(Dot::of(core, Tone::Mid)),
            q if q < 0.85 => Some(Dot::of(middle, Tone::Mid)),
            q if q < 1.05 => Some(Dot::of(rim, Tone::Dark)),
            _ => None,
        }
    });
    sparks(&mut canvas, rng, 12, middle);
    canvas.titled(Attributes::of("fireball", rim).with("core", core))
}

pub(super) fn shard(rng: &mut Rng) -> Drawing {
    let ramp = pick(rng, &[BLUE, BLUE, TEAL, PURPLE, PINK, GREEN]);
    if chance(rng, 40) {
        let art = [
            "......1A......",
            ".....1AAa.....",
            ".....1AAa.....",
            "..1..1AAa..a..",
            ".1Aa.1AAa.1Aa.",
            ".1Aa#1AAa#1Aa.",
            ".1Aa#1AAa#1Aa.",
            "..1Aa1AAa1Aa..",
            "..1Aa1AAa1Aa..",
            "...1a1AAa1a...",
            "...11a1aa1a...",
            "....1aaaaa....",
        ];
        let art = Art::new(&art).squeezed(rng, &[8, 6, 2], &[]);
        let mut canvas = Canvas::centred(&art, &[('A', ramp)]);
        sparks(&mut canvas, rng, 14, ramp);
        return canvas.one_sided().titled(Attributes::of("ice cluster", ramp));
    }
    let (dx, dy) = direction(rng);
    let width = 3.0 + 0.4 * rng.below(4) as f64;
    let waist = 0.7 * rng.below(4) as f64;
    let mut canvas = field(|x, y| {
        let (along, across) = (x * dx + y * dy, x * dy - y * dx);
        let reach = if along > waist { (6.9 - along) / (6.9 - waist) } else { (along + 6.9) / (waist + 6.9) };
        (across.abs() < width * reach).then(|| {
            // Each of the four facets faces one way along the shard and one way across.
            let (ahead, aside) = ((along - waist).signum(), across.signum());
            let away = ahead * (dx + dy) + aside * (dy - dx);
            Dot::of(
                ramp,
                match away {
                    a if a < -0.8 => Tone::Light,
                    a if a > 0.8 => Tone::Dark,
                    _ => Tone::Mid,
                },
            )
        })
    });
    sparks(&mut canvas, rng, 14, ramp);
    canvas.one_sided().titled(Attributes::of("ice shard", ramp))
}

pub(super) fn swirl(rng: &mut Rng) -> Drawing {
    let [core, middle, rim] = glow(rng);
    let arms = 1.0 + rng.below(2) as f64;
    let turn = rng.below(12) as f64 * std::f64::consts::PI / 6.0;
    let pitch = if arms > 1.5 { 9.0 } else { 4.8 };
    let size = 6.0 + 0.45 * rng.below(3) as f64;
    let mut canvas = field(|x, y| {
        let r = (x * x + y * y).sqrt();
        let angle = libm::atan2(y, x) + turn;
        let phase = (arms * angle / (2.0 * std::f64::consts::PI) - r * arms / pitch).rem_euclid(1.0);
        if r < 1.2 {
            return Some(Dot::of(core, Tone::Light));
        }
        let on = phase < 0.48;
        (r < size && on).then(|| {
            if r < 3.5 {
                Dot::of(core, Tone::Mid)
            } else if phase < 0.24 {
                Dot::of(middle, Tone::Light)
            } else {
                Dot::of(rim, Tone::Mid)
            }
        })
    });
    sparks(&mut canvas, rng, 6, middle);
    canvas.titled(Attributes::of("swirl", rim).with("core", core))
}

pub(super) fn star(rng: &mut Rng) -> Drawing {
    let [core, middle, rim] = glow(rng);
    let points = 4.0 + rng.below(5) as f64;
    let turn = rng.below(8) as f64 * std::f64::consts::PI / 4.0 / points;
    let (inner, outer) = (2.2 + 0.4 * rng.below(3) as f64, 6.2 + 0.4 * rng.below(3) as f64);
    let mut canvas = field(|x, y| {
        let r = (x * x + y * y).sqrt();
        let sector = ((libm::atan2(y, x) + turn) * points / (2.0 * std::f64::consts::PI)).rem_euclid(1.0);
        let to_ray = (sector - 0.5).abs() * 2.0;
        let reach = outer + (inner - outer) * (1.0 - to_ray).sqrt();
        match r / reach {
            q if r < 1.6 || q < 0.3 => Some(Dot::of(core, Tone::Light)),
            q if q < 0.6 => Some(Dot::of(core, Tone::Mid)),
            q if q < 0.85 => Some(Dot::of(middle, Tone::Mid)),
            q if q < 1.0 => Some(Dot::of(rim, Tone::Mid)),
            _ => None,
        }
    });
    sparks(&mut canvas, rng, 8, middle);
    canvas.titled(Attributes::of("star burst", rim).with("core", core))
}

pub(super) fn orb(rng: &mut Rng) -> Drawing {
    let ramp = pick(rng, &VIVID);
    let radius = 3.4 + 0.5 * rng.below(4) as f64;
    let ring = radius + 1.9;
    let style = rng.below(3);
    let mut canvas = field(|x, y| {
        let r = (x * x + y * y).sqrt();
        let near =
            ((x + 0.35 * radius) * (x + 0.35 * radius) + (y + 0.35 * radius) * (y + 0.35 * radius)).sqrt() / radius;
        if r < radius {
            return Some(match near {
                q if q < 0.28 => Dot::of(SNOW, Tone::Light),
                q if q < 0.6 => Dot::of(ramp, Tone::Light),
                q if q < 1.0 => Dot::of(ramp, Tone::Mid),
                _ => Dot::of(ramp, Tone::Dark),
            });
        }
        let band = (r - ring).abs() < 0.5;
        let shown = match style {
            0 => band,
            1 => band && (x * y).abs() > 4.0,
            _ => band && (x.abs() < 1.0 || y.abs() < 1.0 || (x.abs() - y.abs()).abs() < 1.0),
        };
        shown.then(|| Dot::bare(ramp, Tone::Light))
    });
    sparks(&mut canvas, rng, 6, ramp);
    canvas.one_sided().titled(Attributes::of("orb", ramp))
}

pub(super) fn cloud(rng: &mut Rng) -> Drawing {
    let ramp = pick(rng, &[GREEN, GREEN, PURPLE, TEAL, STEEL, YELLOW, PINK]);
    let puffs: Vec<(f64, f64, f64)> =
        [(-1.6, -1.8, 3.0), (2.2, -1.2, 2.8), (-4.0, 1.6, 2.5), (4.2, 1.8, 2.3), (-0.2, 2.0, 2.7)]
            .iter()
            .map(|&(x, y, r)| {
                (
                    x + rng.below(3) as f64 * 0.5 - 0.5,
                    y + rng.below(3) as f64 * 0.5 - 0.5,
                    r + rng.below(3) as f64 * 0.3,
                )
            })
            .collect();
    let mut canvas = field(|x, y| {
        let depth = |p: &(f64, f64, f64)| ((x - p.0) * (x - p.0) + (y - p.1) * (y - p.1)).sqrt() / p.2;
        let front = puffs.iter().rev().find(|p| depth(p) < 1.0)?;
        let near =
            ((x - front.0 + 1.2) * (x - front.0 + 1.2) + (y - front.1 + 1.2) * (y - front.1 + 1.2)).sqrt() / front.2;
        Some(Dot::of(
            ramp,
            match near {
                q if q < 0.5 => Tone::Light,
                q if q < 1.0 => Tone::Mid,
                _ => Tone::Dark,
            },
        ))
    });
    if chance(rng, 35) {
        canvas.paint(5, 6, &Art::even(&["oo.", "oo.", "...", "o.o"]), &[]);
    }
    sparks(&mut canvas, rng, 20, ramp);
    canvas.one_sided().titled(Attributes::of("poison cloud", ramp))
}

pub(super) fn crescent(rng: &mut Rng) -> Drawing {
    let [core, middle, rim] = glow(rng);
    let (dx, dy) = direction(rng);
    let bite = 2.6 + 0.4 * rng.below(4) as f64;
    let mut canvas = field(|x, y| {
        let r = (x * x + y * y).sqrt();
        let (cx, cy) = (x + dx * bite, y + dy * bite);
        let hole = (cx * cx + cy * cy).sqrt();
        (r < 6.9 && hole > 5.6).then(|| match 6.9 - r {
            d if d < 1.0 => Dot::of(core, Tone::Light),
            d if d < 2.2 => Dot::of(middle, Tone::Mid),
            _ => Dot::of(rim, Tone::Dark),
        })
    });
    sparks(&mut canvas, rng, 10, middle);
    canvas.titled(Attributes::of("crescent slash", rim).with("edge", core))
}

/// A direction, one of 16 around the circle.
fn direction(rng: &mut Rng) -> (f64, f64) {
    let angle = rng.below(16) as f64 * std::f64::consts::PI / 8.0;
    (libm::cos(angle), libm::sin(angle))
}

/// Paints `dot` for each pixel, given the position of its centre relative to that of the canvas.
fn field(mut dot: impl FnMut(f64, f64) -> Option<Dot>) -> Canvas {
    let mut canvas = Canvas::default();
    for (x, y) in positions() {
        let inside = (1..15).contains(&x) && (1..15).contains(&y);
        if let Some(dot) = dot(x as f64 - 7.5, y as f64 - 7.5).filter(|d| inside || d.edge() == Edge::Bare) {
            canvas.set(x, y, dot);
        }
    }
    canvas
}
