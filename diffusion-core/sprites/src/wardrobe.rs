//! The attributes of a person: hair, hats, clothes and held objects.

use super::palette::{BONE, BROWN, CRUST, Ramp, WOOD};
use super::pick;
use crate::Rng;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Hair {
    Bald,
    Short,
    Spiky,
    Long,
    Bob,
    Curly,
    Mohawk,
    Bun,
    Tails,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Hat {
    Bare,
    Pointed,
    Helmet,
    Horned,
    Hood,
    Crown,
    Cap,
    Straw,
    Band,
}

impl Hat {
    /// The number of rows of hair that it hides, from the top.
    pub(super) fn covers(self) -> usize {
        match self {
            Hat::Bare | Hat::Band => 0,
            Hat::Crown => 2,
            Hat::Straw | Hat::Cap => 4,
            Hat::Pointed | Hat::Horned => 5,
            Hat::Helmet | Hat::Hood => usize::MAX,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Garment {
    Tunic,
    Armour,
    Robe,
    Dress,
    Overalls,
    Vest,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Held {
    Nothing,
    Sword,
    Staff,
    Spear,
    Axe,
    Bow,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Beard {
    None,
    Short,
    Long,
}

/// The attributes of a person.
#[derive(Clone, Copy, Debug)]
pub(super) struct Person {
    pub(super) skin: Ramp,
    pub(super) hair: (Hair, Ramp),
    pub(super) beard: Beard,
    pub(super) hat: (Hat, Ramp),
    pub(super) garment: (Garment, Ramp),
    pub(super) trim: Ramp,
    pub(super) legs: Ramp,
    pub(super) boots: Ramp,
    pub(super) cape: Option<Ramp>,
    pub(super) held: (Held, Ramp),
    pub(super) shield: Option<Ramp>,
}

impl Person {
    /// The colours for the letters of the templates.
    pub(super) fn materials(&self, rng: &mut Rng) -> [(char, Ramp); 10] {
        [
            ('S', self.skin),
            ('H', self.hair.1),
            ('C', self.garment.1),
            ('T', self.trim),
            ('L', self.legs),
            ('B', self.boots),
            ('K', self.hat.1),
            ('D', BONE),
            ('M', self.held.1),
            ('N', pick(rng, &[BROWN, CRUST, WOOD])),
        ]
    }
}
