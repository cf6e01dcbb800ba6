//! Captions of the sprites.

use super::palette::{Ramp, name};
use super::wardrobe::{Beard, Garment, Hair, Hat, Held, Person};

/// Adds the indefinite article to `words`.
pub(super) fn a(words: &str) -> String {
    let article = if words.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {words}")
}

/// A noun with its colour: `a red apple`.
pub(super) fn coloured(colour: Ramp, noun: &str) -> String {
    a(&format!("{} {noun}", name(colour)))
}

/// Describes a person with clothes and belongings: `a knight in grey armour with a sword and a red shield`.
pub(super) fn person(trade: &str, who: &Person, view: &str) -> String {
    let (garment, colour) = who.garment;
    let garment = match garment {
        Garment::Tunic => coloured(colour, "tunic"),
        Garment::Armour => format!("{} armour", name(colour)),
        Garment::Robe => coloured(colour, "robe"),
        Garment::Dress => coloured(colour, "dress"),
        Garment::Overalls => format!("{} overalls", name(who.legs)),
        Garment::Vest => coloured(colour, "vest"),
    };
    let mut with = Vec::new();
    let (hat, colour) = who.hat;
    match hat {
        Hat::Bare => with.push(hair(who.hair)),
        Hat::Band => with.extend([hair(who.hair), coloured(colour, "headband")]),
        Hat::Pointed => with.push(coloured(colour, "pointed hat")),
        Hat::Helmet => with.push(coloured(colour, "helmet")),
        Hat::Horned => with.push(coloured(colour, "horned helmet")),
        Hat::Hood => with.push(coloured(colour, "hood")),
        Hat::Crown => with.push("a crown".to_owned()),
        Hat::Cap => with.push(coloured(colour, "cap")),
        Hat::Straw => with.push("a straw hat".to_owned()),
    }
    match who.beard {
        Beard::None => {}
        Beard::Short => with.push(coloured(who.hair.1, "beard")),
        Beard::Long => with.push(format!("a long {} beard", name(who.hair.1))),
    }
    with.extend(who.cape.map(|colour| coloured(colour, "cape")));
    match who.held.0 {
        Held::Nothing => {}
        Held::Sword => with.push("a sword".to_owned()),
        Held::Staff => with.push("a staff".to_owned()),
        Held::Spear => with.push("a spear".to_owned()),
        Held::Axe => with.push("an axe".to_owned()),
        Held::Bow => with.push("a bow".to_owned()),
    }
    with.extend(who.shield.map(|colour| coloured(colour, "shield")));
    let person = a(trade);
    format!("{person} in {garment} with {}, {view}", list(&with))
}

fn hair((hair, colour): (Hair, Ramp)) -> String {
    let colour = name(colour);
    match hair {
        Hair::Bald => "a bald head".to_owned(),
        Hair::Short => format!("short {colour} hair"),
        Hair::Spiky => format!("spiky {colour} hair"),
        Hair::Long => format!("long {colour} hair"),
        Hair::Bob => format!("bobbed {colour} hair"),
        Hair::Curly => format!("curly {colour} hair"),
        Hair::Mohawk => a(&format!("{colour} mohawk")),
        Hair::Bun => format!("{colour} hair in a bun"),
        Hair::Tails => format!("{colour} pigtails"),
    }
}

/// Joins words: `one, two and three`.
fn list(things: &[String]) -> String {
    match things {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::palette::{BLUE, ORANGE, RED, STEEL};
    use super::super::{Rng, trade};
    use super::*;

    #[test]
    fn the_article_fits_the_word() {
        assert_eq!(coloured(RED, "apple"), "a red apple");
        assert_eq!(coloured(ORANGE, "carrot"), "an orange carrot");
    }

    #[test]
    fn a_person_is_described_by_clothes_and_belongings() {
        let knight = Person {
            hat: (Hat::Helmet, STEEL),
            garment: (Garment::Armour, STEEL),
            cape: None,
            held: (Held::Sword, STEEL),
            shield: Some(BLUE),
            ..trade::knight(&mut Rng::new(1))
        };
        assert_eq!(
            person("knight", &knight, "seen from the front"),
            "a knight in grey armour with a grey helmet, a sword and a blue shield, seen from the front"
        );
    }
}
