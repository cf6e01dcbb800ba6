//! Spells: fire, ice, lightning and light.

mod shape;
mod sign;

use super::canvas::{Canvas, Dot, Tone};
use super::palette::*;
use super::{Kind, pick};
use crate::Rng;

pub(super) const KINDS: &[Kind] = &[
    ("fireball", shape::fireball),
    ("flame", sign::flame),
    ("lightning bolt", sign::lightning),
    ("ice shard", shape::shard),
    ("snowflake", sign::snowflake),
    ("swirl", shape::swirl),
    ("star burst", shape::star),
    ("orb", shape::orb),
    ("poison cloud", shape::cloud),
    ("light arrow", sign::arrow),
    ("rune circle", sign::rune),
    ("heal", sign::heal),
    ("wave", sign::wave),
    ("tornado", sign::tornado),
    ("crescent slash", shape::crescent),
];

/// The ramps for core, middle and rim of a glowing object.
fn glow(rng: &mut Rng) -> [Ramp; 3] {
    pick(
        rng,
        &[
            [YELLOW, ORANGE, RED],
            [YELLOW, ORANGE, RED],
            [SNOW, BLUE, BLUE],
            [SNOW, TEAL, BLUE],
            [PINK, PURPLE, PURPLE],
            [YELLOW, GREEN, GREEN],
            [SNOW, PINK, PURPLE],
            [YELLOW, PINK, RED],
        ],
    )
}

/// Adds up to `count` sparks, at least two pixels away from the object.
fn sparks(canvas: &mut Canvas, rng: &mut Rng, count: usize, ramp: Ramp) {
    for _ in 0..count {
        let (x, y) = (rng.below(16) as i32, rng.below(16) as i32);
        let free = |dx: i32, dy: i32| canvas.get(x + dx, y + dy).is_none();
        if (-1..=1).all(|d| free(d, 0) && free(0, d))
            && [(-2, 0), (2, 0), (0, 2), (0, -2)].iter().all(|&(a, b)| free(a, b))
        {
            let tone = pick(rng, &[Tone::Mid, Tone::Light, Tone::Dark]);
            canvas.set(x, y, Dot::bare(ramp, tone));
        }
    }
}
