//! Captions: the sentences of a small grammar that describe a sprite.

use super::attributes::Attributes;
use super::chance;
use crate::Rng;

/// The number of phrasings of the same attributes.
const PHRASINGS: usize = 4;

/// Describes a sprite in one of several phrasings; also returns the attributes that the caption mentions.
pub(super) fn caption(it: &Attributes, rng: &mut Rng) -> (String, Attributes) {
    let said = mentioned(it, rng);
    (phrase(&said, rng.below(PHRASINGS)), said)
}

/// All attributes, or with probability 1/2 about half of them.
fn mentioned(it: &Attributes, rng: &mut Rng) -> Attributes {
    let mut said = *it;
    if chance(rng, 50) {
        return said;
    }
    for value in [
        &mut said.facing,
        &mut said.colour,
        &mut said.part,
        &mut said.part_colour,
        &mut said.garment,
        &mut said.hat,
        &mut said.hat_colour,
        &mut said.hair,
        &mut said.hair_colour,
        &mut said.beard,
        &mut said.cape,
        &mut said.held,
        &mut said.shield,
    ] {
        *value = value.filter(|_| chance(rng, 50));
    }
    // A colour needs a noun.
    said.colour = said.colour.filter(|_| said.garment.is_some() || it.garment.is_none());
    said.part_colour = said.part_colour.filter(|_| said.part.is_some());
    said.hat_colour = said.hat_colour.filter(|_| said.hat.is_some());
    let haired = said.beard.is_some() || said.hair.is_some_and(|hair| hair != "bald head");
    said.hair_colour = said.hair_colour.filter(|_| haired);
    said
}

/// A caption that mentions exactly these attributes.
fn phrase(it: &Attributes, phrasing: usize) -> String {
    let is_person = it.facing.or(it.garment).or(it.hat).or(it.hair).or(it.beard).or(it.cape).or(it.held).or(it.shield);
    match is_person {
        Some(_) => person(it, phrasing),
        None => object(it, phrasing),
    }
}

/// `a red dragon with blue wings`, `a dragon that is red and has blue wings`, `a blue-winged red dragon`,
/// `dragon, red, blue wings`.
fn object(it: &Attributes, phrasing: usize) -> String {
    let part = it.part.map(|part| coloured(it.part_colour, part));
    match (phrasing, part) {
        (1, part) => {
            let (is, has) = if is_plural(it.thing) { ("are", "have") } else { ("is", "has") };
            let is = it.colour.map(|colour| format!("{is} {colour}"));
            let has = part.map(|part| format!("{has} {}", a(&part)));
            let that: Vec<String> = is.into_iter().chain(has).collect();
            after(&a(it.thing), " that ", &that)
        }
        (2, Some(part)) if let Some(adjective) = adjective(&part) => {
            a(&format!("{adjective} {}", coloured(it.colour, it.thing)))
        }
        (3, part) => {
            let tags = [it.thing].into_iter().chain(it.colour).map(str::to_owned);
            tags.chain(part).collect::<Vec<_>>().join(", ")
        }
        (_, part) => {
            let part: Vec<String> = part.iter().map(|part| a(part)).collect();
            after(&a(&coloured(it.colour, it.thing)), " with ", &part)
        }
    }
}

/// `blue-winged` for `blue wings`; `None` for parts that make no adjective.
fn adjective(part: &str) -> Option<String> {
    let (before, noun) = part.rsplit_once(' ').map_or(("", part), |(colour, noun)| (colour, noun));
    let ending = match noun {
        "wings" => "winged",
        "legs" => "legged",
        "tentacles" => "tentacled",
        "fins" => "finned",
        "shell" => "shelled",
        "core" => "cored",
        "edge" => "edged",
        _ => return None,
    };
    Some(compound(before, ending))
}

fn compound(colour: &str, ending: &str) -> String {
    if colour.is_empty() { ending.to_owned() } else { format!("{}-{ending}", colour.replace(' ', "-")) }
}

/// `a knight in grey armour with a red cape and an axe, seen from the front`,
/// `a knight wearing grey armour and a red cape, holding an axe, facing the viewer`,
/// `a grey-armoured, red-caped knight holding an axe, looking ahead`,
/// `knight, grey armour, red cape, axe, front view`.
fn person(it: &Attributes, phrasing: usize) -> String {
    let mut rest = *it;
    let mut adjectives = Vec::new();
    if phrasing == 2 {
        let colour = rest.colour.unwrap_or_default();
        let made = match rest.garment {
            Some("armour") => Some("armoured"),
            Some("robe") => Some("robed"),
            _ => None,
        };
        if let Some(made) = made {
            adjectives.push(compound(colour, made));
            (rest.garment, rest.colour) = (None, None);
        }
        adjectives.extend(rest.cape.take().map(|colour| compound(colour, "caped")));
    }
    let garment = rest.garment.map(|garment| coloured(rest.colour, garment));
    let hat = rest.hat.map(|hat| coloured(rest.hat_colour, hat));
    let hair = rest.hair.map(|hair| of_hair(rest.hair_colour, hair));
    let beard = rest.beard.map(|beard| of_hair(rest.hair_colour, beard));
    let cape = rest.cape.map(|colour| coloured(Some(colour), "cape"));
    let held = rest.held.map(str::to_owned);
    let shield = rest.shield.map(|colour| coloured(Some(colour), "shield"));
    let nouns = |of: &[&Option<String>]| -> Vec<String> { of.iter().copied().flatten().map(|noun| a(noun)).collect() };
    let ahead = it.facing == Some("front");
    let side = it.facing.unwrap_or_default();
    let facing = |front: &str, aside: &str| match it.facing {
        None => String::new(),
        Some(_) if ahead => format!(", {front}"),
        Some(_) => format!(", {aside} {side}"),
    };
    match phrasing {
        1 => {
            let worn = after("", "wearing ", &nouns(&[&garment, &hat, &cape]));
            let features = after("", "with ", &nouns(&[&hair, &beard]));
            let held = after("", "holding ", &nouns(&[&held, &shield]));
            let clauses: Vec<String> = [worn, features, held].into_iter().filter(|it| !it.is_empty()).collect();
            let person = match &clauses[..] {
                [] => a(it.thing),
                clauses => format!("{} {}", a(it.thing), clauses.join(", ")),
            };
            person + &facing("facing the viewer", "facing")
        }
        2 => {
            let person = match &adjectives[..] {
                [] => a(it.thing),
                some => a(&format!("{} {}", some.join(", "), it.thing)),
            };
            let person = after(&person, " in ", &nouns(&[&garment]));
            let features = nouns(&[&hat, &hair, &beard]);
            let link = if features.is_empty() { " holding " } else { ", holding " };
            let person = after(&person, " with ", &features);
            after(&person, link, &nouns(&[&held, &shield])) + &facing("looking ahead", "looking")
        }
        3 => {
            let tags = [&garment, &hat, &hair, &beard, &cape, &held, &shield].into_iter().flatten();
            let tags = tags.fold(it.thing.to_owned(), |all, tag| all + ", " + tag);
            match ahead {
                true => tags + ", front view",
                false => tags + &facing("", "side view,"),
            }
        }
        _ => {
            let person = after(&a(it.thing), " in ", &nouns(&[&garment]));
            let rest = nouns(&[&hat, &hair, &beard, &cape, &held, &shield]);
            after(&person, " with ", &rest) + &facing("seen from the front", "seen from the side, facing")
        }
    }
}

/// `short brown hair` for `short hair`, `a brown mohawk` for `mohawk`.
fn of_hair(colour: Option<&str>, noun: &str) -> String {
    match (colour, noun.split_once(' ')) {
        (Some(_), Some(("bald", _))) => noun.to_owned(),
        (Some(colour), Some((length, noun))) => format!("{length} {colour} {noun}"),
        _ => coloured(colour, noun),
    }
}

/// A noun with its colour: `red apple`.
fn coloured(colour: Option<&str>, noun: &str) -> String {
    colour.map_or_else(|| noun.to_owned(), |colour| format!("{colour} {noun}"))
}

/// Adds the indefinite article, except to plurals and substances.
fn a(words: &str) -> String {
    let noun = words.rsplit(' ').next().unwrap_or(words);
    if is_plural(noun) || ["armour", "hair", "icing", "topping"].contains(&noun) {
        return words.to_owned();
    }
    let article = if words.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {words}")
}

fn is_plural(noun: &str) -> bool {
    noun.ends_with('s') && !noun.ends_with("ss") && noun != "octopus"
}

/// Appends a list: `a knight` and ` with ` give `a knight with one, two and three`; nothing if there is nothing to list.
fn after(words: &str, link: &str, things: &[String]) -> String {
    match things {
        [] => words.to_owned(),
        [one] => format!("{words}{link}{one}"),
        [most @ .., last] => format!("{words}{link}{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const KNIGHT: Attributes = Attributes {
        thing: "knight",
        facing: Some("front"),
        colour: Some("grey"),
        part: None,
        part_colour: None,
        garment: Some("armour"),
        hat: None,
        hat_colour: None,
        hair: Some("short hair"),
        hair_colour: Some("brown"),
        beard: Some("long beard"),
        cape: Some("red"),
        held: Some("axe"),
        shield: None,
    };

    fn all(it: &Attributes) -> [String; PHRASINGS] {
        [0, 1, 2, 3].map(|phrasing| phrase(it, phrasing))
    }

    #[test]
    fn people_are_described_in_four_ways() {
        assert_eq!(
            all(&KNIGHT),
            [
                "a knight in grey armour with short brown hair, a long brown beard, a red cape and an axe, seen from the front",
                "a knight wearing grey armour and a red cape, with short brown hair and a long brown beard, holding an axe, facing \
                 the viewer",
                "a grey-armoured, red-caped knight with short brown hair and a long brown beard, holding an axe, looking ahead",
                "knight, grey armour, short brown hair, long brown beard, red cape, axe, front view",
            ]
        );
        let aside = Attributes { thing: "king", facing: Some("left"), hat: Some("crown"), ..Default::default() };
        assert_eq!(
            all(&aside),
            [
                "a king with a crown, seen from the side, facing left",
                "a king wearing a crown, facing left",
                "a king with a crown, looking left",
                "king, crown, side view, left",
            ]
        );
        let axe = Attributes { thing: "viking", held: Some("axe"), ..Default::default() };
        assert_eq!(
            all(&axe),
            ["a viking with an axe", "a viking holding an axe", "a viking holding an axe", "viking, axe"]
        );
    }

    #[test]
    fn things_are_described_in_four_ways() {
        let colours = Attributes { colour: Some("orange"), part_colour: Some("dark brown"), ..Default::default() };
        assert_eq!(
            all(&Attributes { thing: "dragon", part: Some("wings"), ..colours }),
            [
                "an orange dragon with dark brown wings",
                "a dragon that is orange and has dark brown wings",
                "a dark-brown-winged orange dragon",
                "dragon, orange, dark brown wings",
            ]
        );
        let tin = Attributes { thing: "pie", part: Some("tin"), part_colour: None, ..colours };
        assert_eq!(phrase(&tin, 2), "an orange pie with a tin");
        let grapes = Attributes { thing: "grapes", part_colour: None, ..colours };
        assert_eq!(all(&grapes)[..2], ["orange grapes", "grapes that are orange"]);
        let thing = Attributes { thing: "octopus", ..Default::default() };
        assert_eq!(all(&thing), ["an octopus", "an octopus", "an octopus", "octopus"]);
    }

    #[test]
    fn every_phrasing_occurs_and_some_captions_mention_everything() {
        let mut rng = Rng::new(1);
        let captions: Vec<(String, Attributes)> = (0..200).map(|_| caption(&KNIGHT, &mut rng)).collect();
        let whole: HashSet<&String> =
            captions.iter().filter(|(_, said)| *said == KNIGHT).map(|(words, _)| words).collect();
        assert_eq!(whole, all(&KNIGHT).iter().collect());
        let count = |it: &Attributes| it.values().iter().flatten().count();
        let mentions: HashSet<usize> = captions.iter().map(|(_, said)| count(said)).collect();
        assert!(mentions.len() > 4, "{mentions:?}");
    }
}
