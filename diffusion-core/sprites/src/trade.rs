//! The appearance and clothes of the people of each trade.

use super::palette::*;
use super::wardrobe::{Beard, Garment, Hair, Hat, Held, Person};
use super::{chance, pick};
use crate::Rng;

/// The people of all trades, drawn by a function of (trade, &Person, &mut Rng).
macro_rules! kinds {
    ($draw:ident: $($trade:ident)*) => {
        &[$((stringify!($trade), |rng| {
            $draw(stringify!($trade), &trade::$trade(rng), rng)
        })),*]
    };
}
pub(super) use kinds;

const CLOTH: [Ramp; 11] = [RED, ORANGE, YELLOW, GREEN, TEAL, BLUE, PURPLE, PINK, BROWN, STEEL, SNOW];
const ANY_HAIR: [Hair; 8] =
    [Hair::Short, Hair::Spiky, Hair::Long, Hair::Bob, Hair::Curly, Hair::Mohawk, Hair::Bun, Hair::Tails];

/// A person without a trade, in distinguishable colours.
fn somebody(rng: &mut Rng) -> Person {
    let skin = pick(rng, &[FAIR, FAIR, TAN, BROWN, DARK]);
    // Brown clothes on brown skin could not be distinguished.
    let earth: &[Ramp] = if skin == FAIR { &[] } else { &[BROWN, WOOD, TAN] };
    let hair = other(rng, &[BROWN, WOOD, COAL, COAL, YELLOW, ORANGE, RED, STEEL, SNOW], earth);
    let cloth = other(rng, &CLOTH, &[earth, &[hair]].concat());
    let trim = other(rng, &[BROWN, YELLOW, SNOW, WOOD, COAL, TEAL], &[earth, &[cloth]].concat());
    let legs = other(rng, &[BROWN, BLUE, STEEL, COAL, GREEN, TAN], &[earth, &[cloth]].concat());
    Person {
        skin,
        hair: (pick(rng, &ANY_HAIR), hair),
        beard: Beard::None,
        hat: (Hat::Bare, BROWN),
        garment: (Garment::Tunic, cloth),
        trim,
        legs,
        boots: other(rng, &[WOOD, BROWN, COAL, RED], &[skin, legs]),
        cape: None,
        held: (Held::Nothing, BROWN),
        shield: None,
    }
}

/// One of `choices` that is not in `taken`.
fn other(rng: &mut Rng, choices: &[Ramp], taken: &[Ramp]) -> Ramp {
    let left: Vec<Ramp> = choices.iter().copied().filter(|ramp| !taken.contains(ramp)).collect();
    pick(rng, &left)
}

fn beard(rng: &mut Rng) -> Beard {
    pick(rng, &[Beard::None, Beard::None, Beard::Short, Beard::Long])
}

pub(super) fn villager(rng: &mut Rng) -> Person {
    let garment = pick(rng, &[Garment::Tunic, Garment::Vest, Garment::Overalls, Garment::Tunic]);
    let base = somebody(rng);
    let bearded = matches!(base.hair.0, Hair::Short | Hair::Spiky | Hair::Curly);
    Person { garment: (garment, base.garment.1), beard: if bearded { beard(rng) } else { Beard::None }, ..base }
}

pub(super) fn knight(rng: &mut Rng) -> Person {
    let metal = pick(rng, &[STEEL, STEEL, SNOW, YELLOW, CRUST]);
    let cloth = pick(rng, &VIVID);
    let base = somebody(rng);
    Person {
        hat: (pick(rng, &[Hat::Helmet, Hat::Helmet, Hat::Bare]), metal),
        garment: (Garment::Armour, metal),
        trim: cloth,
        legs: metal,
        boots: pick(rng, &[metal, WOOD]),
        cape: chance(rng, 40).then_some(cloth),
        held: (pick(rng, &[Held::Sword, Held::Sword, Held::Spear, Held::Axe]), STEEL),
        shield: chance(rng, 60).then_some(cloth),
        ..base
    }
}

pub(super) fn wizard(rng: &mut Rng) -> Person {
    let cloth = pick(rng, &[PURPLE, BLUE, RED, GREEN, TEAL, COAL, PINK, SNOW]);
    let base = somebody(rng);
    Person {
        hat: (Hat::Pointed, cloth),
        hair: (pick(rng, &[Hair::Long, Hair::Bob, Hair::Short]), base.hair.1),
        beard: beard(rng),
        garment: (Garment::Robe, cloth),
        trim: pick(rng, &[YELLOW, SNOW, ORANGE, TEAL]),
        held: (Held::Staff, pick(rng, &VIVID)),
        ..base
    }
}

pub(super) fn lady(rng: &mut Rng) -> Person {
    let base = somebody(rng);
    Person {
        hair: (pick(rng, &[Hair::Long, Hair::Long, Hair::Tails, Hair::Bun, Hair::Curly]), base.hair.1),
        hat: (pick(rng, &[Hat::Crown, Hat::Band, Hat::Bare]), YELLOW),
        garment: (Garment::Dress, pick(rng, &VIVID)),
        trim: pick(rng, &[SNOW, YELLOW, PINK]),
        ..base
    }
}

pub(super) fn king(rng: &mut Rng) -> Person {
    let cloth = pick(rng, &[RED, PURPLE, BLUE, GREEN]);
    let base = somebody(rng);
    Person {
        hat: (Hat::Crown, YELLOW),
        hair: (pick(rng, &[Hair::Short, Hair::Bob, Hair::Curly]), base.hair.1),
        beard: pick(rng, &[Beard::Short, Beard::Long]),
        garment: (Garment::Robe, cloth),
        trim: pick(rng, &[YELLOW, SNOW]),
        cape: Some(pick(rng, &[RED, PURPLE, BLUE, SNOW])),
        held: (pick(rng, &[Held::Nothing, Held::Staff, Held::Sword]), YELLOW),
        ..base
    }
}

pub(super) fn viking(rng: &mut Rng) -> Person {
    let base = somebody(rng);
    Person {
        hat: (Hat::Horned, pick(rng, &[STEEL, BROWN, YELLOW])),
        hair: (pick(rng, &[Hair::Short, Hair::Bob]), pick(rng, &[ORANGE, YELLOW, COAL, RED, SNOW])),
        beard: pick(rng, &[Beard::Short, Beard::Long, Beard::Long]),
        garment: (Garment::Vest, base.garment.1),
        held: (pick(rng, &[Held::Axe, Held::Axe, Held::Sword, Held::Spear]), STEEL),
        shield: chance(rng, 50).then_some(pick(rng, &CLOTH)),
        ..base
    }
}

pub(super) fn rogue(rng: &mut Rng) -> Person {
    let cloth = pick(rng, &[GREEN, COAL, BROWN, PURPLE, RED, TEAL, STEEL]);
    let base = somebody(rng);
    Person {
        hat: (Hat::Hood, cloth),
        garment: (pick(rng, &[Garment::Tunic, Garment::Robe]), cloth),
        cape: chance(rng, 50).then_some(cloth),
        held: (pick(rng, &[Held::Bow, Held::Bow, Held::Sword, Held::Nothing]), BROWN),
        ..base
    }
}

pub(super) fn farmer(rng: &mut Rng) -> Person {
    let base = somebody(rng);
    Person {
        hat: (pick(rng, &[Hat::Straw, Hat::Straw, Hat::Cap]), pick(rng, &[YELLOW, CRUST])),
        hair: (pick(rng, &[Hair::Short, Hair::Bob, Hair::Long]), base.hair.1),
        garment: (Garment::Overalls, base.garment.1),
        legs: pick(rng, &[BLUE, BROWN, GREEN, STEEL]),
        held: (pick(rng, &[Held::Nothing, Held::Nothing, Held::Spear]), STEEL),
        ..base
    }
}

pub(super) fn fighter(rng: &mut Rng) -> Person {
    let base = somebody(rng);
    Person {
        hat: (Hat::Band, pick(rng, &VIVID)),
        hair: (pick(rng, &[Hair::Spiky, Hair::Short, Hair::Long, Hair::Bun, Hair::Mohawk, Hair::Bald]), base.hair.1),
        beard: beard(rng),
        garment: (Garment::Vest, pick(rng, &[SNOW, RED, BLUE, ORANGE, BROWN])),
        trim: COAL,
        held: (pick(rng, &[Held::Nothing, Held::Staff, Held::Sword]), STEEL),
        ..base
    }
}

pub(super) fn youth(rng: &mut Rng) -> Person {
    let base = somebody(rng);
    Person {
        hat: (Hat::Cap, pick(rng, &VIVID)),
        hair: (pick(rng, &[Hair::Short, Hair::Bob, Hair::Long, Hair::Tails]), base.hair.1),
        garment: (pick(rng, &[Garment::Tunic, Garment::Overalls]), pick(rng, &VIVID)),
        ..base
    }
}
