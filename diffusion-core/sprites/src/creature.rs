//! Creatures: beasts, bugs and monsters.

mod beast;
mod bug;
mod monster;

use super::palette::{Ramp, VIVID};
use super::{Kind, pick};
use crate::Rng;

pub(super) const KINDS: &[Kind] = &[
    ("slime", monster::slime),
    ("bat", monster::bat),
    ("spider", bug::spider),
    ("snake", beast::snake),
    ("ghost", monster::ghost),
    ("dragon", beast::dragon),
    ("eyeball", monster::eyeball),
    ("rat", beast::rat),
    ("wolf", beast::wolf),
    ("crab", bug::crab),
    ("mushroom monster", monster::myconid),
    ("skull", monster::skull),
    ("bird", beast::bird),
    ("owl", beast::owl),
    ("ladybird", bug::ladybird),
    ("octopus", monster::octopus),
    ("frog", beast::frog),
    ("cat", beast::cat),
    ("bee", bug::bee),
    ("snail", bug::snail),
];

/// Two different vivid colour ramps.
fn two(rng: &mut Rng) -> (Ramp, Ramp) {
    let first = pick(rng, &VIVID);
    loop {
        let second = pick(rng, &VIVID);
        if second != first {
            return (first, second);
        }
    }
}
