//! The built-in images: any number of 16 × 16 pixel-art sprites, drawn procedurally from a seed.
//!
//! There are five classes, each with a dozen or more kinds. Colours, details, proportions, light, position and
//! direction vary, so hardly any two of 10,000 images are equal. Nothing is loaded or downloaded.
//!
//! Every image has [`Attributes`], which say what was drawn, and a caption, an English phrase such as "a red dragon with
//! blue wings" in one of several phrasings. A few combinations of attributes are [held out](HELD_OUT), to measure whether
//! a model that has not seen them composes them.

mod art;
mod attributes;
mod canvas;
mod caption;
mod creature;
mod food;
mod palette;
mod person;
mod profile;
mod rng;
mod spell;
mod trade;
mod wardrobe;

pub use attributes::{Attributes, HELD_OUT};
pub use rng::Rng;

use canvas::{Canvas, Finish, Line};
use std::collections::HashSet;

/// The width and the height of a sprite in pixels.
pub const SIDE: usize = 16;

/// The names of the classes 0 … 4.
pub const CLASSES: [&str; 5] = ["person from the front", "creature", "food", "spell", "person from the side"];

/// The size of a sprite in bytes: red, green and blue for each pixel.
pub const BYTES: usize = SIDE * SIDE * 3;

/// A kind of object within a class: its name, and the function that draws one.
type Kind = (&'static str, fn(&mut Rng) -> Drawing);

/// A drawing before shading and outlining, and what it shows.
struct Drawing {
    canvas: Canvas,
    attributes: Attributes,
}

/// The kinds of each class.
const KINDS: [&[Kind]; 5] = [person::KINDS, creature::KINDS, food::KINDS, spell::KINDS, profile::KINDS];

/// A sprite and its caption.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sprite {
    /// Red, green and blue bytes (0 … 255) in rows from the top, on white.
    pub pixels: [u8; BYTES],
    /// What it shows.
    pub attributes: Attributes,
    /// An English description in lower case, of all attributes or of some.
    pub caption: String,
    /// The attributes that the caption mentions.
    pub mentioned: Attributes,
}

/// A set of sprites with their classes and captions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sprites {
    /// Red, green and blue bytes in rows from the top, 768 bytes for each sprite.
    pub pixels: Vec<u8>,
    /// The class of each sprite, an index into [`CLASSES`].
    pub labels: Vec<u32>,
    /// What each sprite shows.
    pub attributes: Vec<Attributes>,
    /// The caption of each sprite.
    pub captions: Vec<String>,
    /// The attributes that each caption mentions.
    pub mentioned: Vec<Attributes>,
}

impl Sprites {
    /// The sprites whose image is not among `others`.
    pub fn without(&self, others: &Self) -> Self {
        let known: HashSet<&[u8]> = others.pixels.chunks_exact(BYTES).collect();
        let image = |i: usize| &self.pixels[i * BYTES..][..BYTES];
        let kept: Vec<usize> = (0..self.labels.len()).filter(|i| !known.contains(image(*i))).collect();
        Self {
            pixels: kept.iter().flat_map(|i| image(*i)).copied().collect(),
            labels: kept.iter().map(|i| self.labels[*i]).collect(),
            attributes: kept.iter().map(|i| self.attributes[*i]).collect(),
            captions: kept.iter().map(|i| self.captions[*i].clone()).collect(),
            mentioned: kept.iter().map(|i| self.mentioned[*i]).collect(),
        }
    }
}

/// Which combinations of attributes are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Combinations {
    /// All combinations.
    #[default]
    All,
    /// Those that are not [held out](HELD_OUT): for training.
    Seen,
    /// Held-out combinations that the caption mentions: for testing.
    HeldOut,
}

impl Combinations {
    fn contain(self, sprite: &Sprite) -> bool {
        match self {
            Self::All => true,
            Self::Seen => !sprite.attributes.are_held_out(),
            Self::HeldOut => sprite.mentioned.are_held_out(),
        }
    }
}

/// Draws a sprite of a class; `None` for a class above 4.
///
/// ```
/// use diffusion_sprites::{Rng, draw};
/// let apple_or_other_food = draw(2, &mut Rng::new(7)).unwrap();
/// assert_eq!(apple_or_other_food.pixels.len(), 16 * 16 * 3);
/// assert!(!apple_or_other_food.caption.is_empty());
/// assert!(draw(5, &mut Rng::new(7)).is_none());
/// ```
pub fn draw(class: usize, rng: &mut Rng) -> Option<Sprite> {
    KINDS.get(class).map(|kinds| one_of(kinds, rng))
}

/// Draws `n` sprites.
///
/// Sprite i has class i mod 5 and depends only on `seed` and i: the first 100 are the same for any `n`, and every
/// prefix is class-balanced to within one.
///
/// ```
/// let sprites = diffusion_sprites::generate(7, 42);
/// assert_eq!(sprites.pixels.len(), 7 * 16 * 16 * 3);
/// assert_eq!(sprites.labels, [0, 1, 2, 3, 4, 0, 1]);
/// assert_eq!(sprites.captions.len(), 7);
/// ```
pub fn generate(n: usize, seed: u64) -> Sprites {
    generate_of(Combinations::All, n, seed)
}

/// [`generate`] for some combinations: a sprite of another combination is drawn again from the same random stream.
///
/// ```
/// use diffusion_sprites::{Combinations, generate_of};
/// let held_out = generate_of(Combinations::HeldOut, 10, 1);
/// assert!(held_out.mentioned.iter().all(|mentioned| mentioned.are_held_out()));
/// assert!(generate_of(Combinations::Seen, 10, 1).attributes.iter().all(|it| !it.are_held_out()));
/// ```
pub fn generate_of(combinations: Combinations, n: usize, seed: u64) -> Sprites {
    let rng = Rng::new(seed);
    let mut sprites = Sprites {
        pixels: Vec::with_capacity(n * BYTES),
        labels: Vec::with_capacity(n),
        attributes: Vec::with_capacity(n),
        captions: Vec::with_capacity(n),
        mentioned: Vec::with_capacity(n),
    };
    for i in 0..n {
        let (class, mut rng) = (i % KINDS.len(), rng.fork(i as u64 + 1));
        let mut sprite = one_of(KINDS[class], &mut rng);
        while !combinations.contain(&sprite) {
            sprite = one_of(KINDS[class], &mut rng);
        }
        sprites.pixels.extend(sprite.pixels);
        sprites.labels.push(class as u32);
        sprites.attributes.push(sprite.attributes);
        sprites.captions.push(sprite.caption);
        sprites.mentioned.push(sprite.mentioned);
    }
    sprites
}

fn one_of(kinds: &[Kind], rng: &mut Rng) -> Sprite {
    let (_, kind) = pick(rng, kinds);
    let (pixels, attributes) = finish(kind(rng), rng);
    let (caption, mentioned) = caption::caption(&attributes, rng);
    Sprite { pixels, attributes, caption, mentioned }
}

/// Varies direction, position, light and outline, in the same way for every kind.
fn finish(drawing: Drawing, rng: &mut Rng) -> ([u8; BYTES], Attributes) {
    let Drawing { mut canvas, mut attributes } = drawing;
    if chance(rng, 50) {
        canvas.flip();
        // People are drawn looking ahead or to the right.
        attributes.facing = attributes.facing.map(|facing| if facing == "right" { "left" } else { facing });
    }
    canvas.wander(rng);
    let pixels = canvas.render(Finish {
        line: pick(rng, &[Line::Ink, Line::Tinted]),
        light: -60 - 10 * rng.below(4) as i32,
        dark: 40 + 15 * rng.below(4) as i32,
    });
    (pixels, attributes)
}

/// One of `choices`, with equal probability.
fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.below(choices.len())]
}

/// True with a probability of `percent` %.
fn chance(rng: &mut Rng, percent: usize) -> bool {
    rng.below(100) < percent
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash FNV-1a.
    fn hash(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    }

    fn is_white(pixel: &[u8]) -> bool {
        pixel == palette::WHITE
    }

    /// Pinned: a change here changes the data that every model is trained on.
    #[test]
    fn sprites_are_the_same_on_every_platform() {
        // 100 sprites do not show every template; 2,000 do.
        let pixels = generate(2_000, 42).pixels;
        assert_eq!(hash(&pixels[..100 * BYTES]), 6_513_876_099_924_004_877);
        assert_eq!(hash(&pixels), 17_260_500_678_902_191_926);
    }

    #[test]
    fn a_sprite_depends_on_seed_and_index_alone() {
        let (few, many) = (generate(33, 5), generate(120, 5));
        assert_eq!(few.pixels[..], many.pixels[..few.pixels.len()]);
        assert_eq!(few.labels[..], many.labels[..33]);
        assert_eq!(few.captions[..], many.captions[..33]);
        assert_ne!(generate(33, 6).pixels, few.pixels);
        let alone = draw(2, &mut Rng::new(5).fork(8)).unwrap();
        assert_eq!(alone.pixels[..], many.pixels[7 * BYTES..8 * BYTES]);
        assert_eq!((alone.caption, alone.attributes), (many.captions[7].clone(), many.attributes[7]));
    }

    #[test]
    fn sprites_without_others_have_other_images() {
        let (few, many) = (generate(33, 5), generate(120, 5));
        let rest = many.without(&few);
        assert_eq!(rest.labels.len(), rest.captions.len());
        assert!((85..=87).contains(&rest.labels.len()), "{}", rest.labels.len());
        let last = |it: &Sprites| (it.attributes.last().copied(), it.pixels[it.pixels.len() - BYTES..].to_vec());
        assert_eq!(last(&rest), last(&many));
        assert!(many.without(&many).labels.is_empty());
    }

    #[test]
    fn any_prefix_has_as_many_of_each_class() {
        let Sprites { pixels, labels, .. } = generate(503, 1);
        assert_eq!(pixels.len(), 503 * BYTES);
        for n in [5, 99, 503] {
            let count = |class| labels[..n].iter().filter(|&&l| l == class).count();
            let counts: Vec<usize> = (0..5).map(count).collect();
            assert!(counts.iter().all(|c| c.abs_diff(n / 5) <= 1), "{counts:?}");
        }
    }

    #[test]
    fn hardly_any_two_of_a_class_are_the_same() {
        for class in 0..CLASSES.len() {
            let root = Rng::new(11);
            let distinct: HashSet<_> = (1..=10_000).map(|i| draw(class, &mut root.fork(i)).unwrap().pixels).collect();
            assert!(distinct.len() > 9_900, "class {class}: {}", distinct.len());
        }
    }

    #[test]
    fn every_kind_stands_out_from_a_white_background() {
        let on_border = |i: usize| matches!(i % SIDE, 0 | 15) || matches!(i / SIDE, 0 | 15);
        for (class, kinds) in KINDS.iter().enumerate() {
            for (name, kind) in kinds.iter() {
                for stream in 1..=200 {
                    let rng = &mut Rng::new(class as u64).fork(stream);
                    let (sprite, _) = finish(kind(rng), rng);
                    let white = |i: &usize| is_white(&sprite[i * 3..i * 3 + 3]);
                    let ink = SIDE * SIDE - (0..SIDE * SIDE).filter(white).count();
                    assert!((26..=217).contains(&ink), "{name} {stream}: {ink} of 256 pixels");
                    let free = (0..SIDE * SIDE).filter(|&i| on_border(i)).filter(white).count();
                    assert!(free >= 20, "{name} {stream}: {free} of 60 pixels at the border");
                }
            }
        }
    }

    #[test]
    fn all_colours_are_of_the_palette() {
        let ramps = [
            palette::COAL,
            palette::STEEL,
            palette::SNOW,
            palette::BROWN,
            palette::WOOD,
            palette::CRUST,
            palette::BONE,
            palette::FAIR,
            palette::TAN,
            palette::DARK,
        ];
        let palette: HashSet<_> = ramps.iter().chain(&palette::VIVID).flatten().copied().collect();
        assert_eq!(palette.len(), 40 + 1);
        let pixels = generate(2_000, 3).pixels;
        let used: HashSet<_> = pixels.chunks(3).map(|p| [p[0], p[1], p[2]]).collect();
        assert_eq!(used, palette);
    }

    #[test]
    fn direction_and_position_vary_and_nothing_is_cut_off() {
        let stick = art::Art::new(&["A....", "A....", "AAAAA"]);
        let canvas = Canvas::centred(&stick, &[('A', palette::RED)]);
        let mut rng = Rng::new(4);
        let mut places = HashSet::new();
        for _ in 0..500 {
            let drawing = Drawing { canvas: canvas.clone(), attributes: Attributes::default() };
            let (sprite, _) = finish(drawing, &mut rng);
            let ink: Vec<usize> = (0..SIDE * SIDE).filter(|&i| !is_white(&sprite[i * 3..i * 3 + 3])).collect();
            assert_eq!(ink.len(), 7 + 15);
            places.insert(ink);
        }
        assert_eq!(places.len(), 2 * 3 * 3);
    }

    #[test]
    fn attributes_name_what_was_drawn() {
        for (class, kinds) in KINDS.iter().enumerate() {
            for (name, kind) in kinds.iter() {
                for stream in 1..=100 {
                    let it = kind(&mut Rng::new(class as u64).fork(stream)).attributes;
                    let other = ["bread slice", "ice cluster"].contains(&it.thing);
                    assert!(other || it.thing.contains(name), "{name}: {it:?}");
                    assert!(!it.values().contains(&Some("colourful")), "{it:?}");
                    assert_eq!(it.facing.is_some(), class == 0 || class == 4);
                }
            }
        }
    }

    /// The word of a caption for what has its own word as an attribute.
    fn stem(word: &str) -> &str {
        match word {
            "winged" => "wings",
            "legged" => "legs",
            "tentacled" => "tentacles",
            "finned" => "fins",
            "shelled" => "shell",
            "cored" => "core",
            "edged" => "edge",
            "armoured" => "armour",
            "robed" => "robe",
            "ahead" | "viewer" => "front",
            other => other,
        }
    }

    #[test]
    fn captions_say_exactly_what_they_are_said_to_mention() {
        let Sprites { captions, attributes, mentioned, .. } = generate(5_000, 42);
        let grammar = "a an and with in that is are has have wearing holding seen from the facing looking side view \
                       cape caped shield";
        let grammar: HashSet<&str> = grammar.split_whitespace().collect();
        for ((caption, it), said) in captions.iter().zip(&attributes).zip(&mentioned) {
            let plain = |c: char| c.is_ascii_lowercase() || " ,-".contains(c);
            assert!(caption.chars().all(plain), "{caption:?}");
            let words: HashSet<&str> = caption.split([' ', ',', '-']).filter(|w| !w.is_empty()).map(stem).collect();
            let values: HashSet<&str> = said.values().into_iter().flatten().flat_map(|v| v.split(' ')).collect();
            assert!(words.is_superset(&values), "{caption:?} lacks a word of {said:?}");
            let more: Vec<_> = words.difference(&values).filter(|word| !grammar.contains(*word)).collect();
            assert!(more.is_empty(), "{caption:?} has {more:?}, not in {said:?}");
            for (has, says) in it.values().into_iter().zip(said.values()) {
                assert!(says.is_none() || says == has, "{caption:?}: {said:?} of {it:?}");
            }
        }
        let distinct: HashSet<_> = captions.iter().collect();
        assert!(distinct.len() > 2_500, "{}", distinct.len());
    }

    /// Every pair occurs where all are drawn, never among the seen ones, and its two words do so in other pairs.
    #[test]
    fn held_out_combinations_are_never_seen_but_their_words_are() {
        let pair_of = |it: &Attributes| -> Vec<(&'static str, &'static str)> {
            it.colour.iter().chain(&it.held).map(|value| (it.thing, *value)).collect()
        };
        let pairs = |sprites: &[Attributes]| -> HashSet<(&'static str, &'static str)> {
            sprites.iter().flat_map(pair_of).collect()
        };
        let seen = generate_of(Combinations::Seen, 10_000, 1);
        let (all, of_seen) = (pairs(&generate(10_000, 1).attributes), pairs(&seen.mentioned));
        for (thing, value) in HELD_OUT {
            assert!(all.contains(&(thing, value)), "{thing}, {value} does not exist");
            assert!(!pairs(&seen.attributes).contains(&(thing, value)), "{thing}, {value} is not held out");
            assert!(of_seen.iter().filter(|pair| pair.0 == thing).count() >= 2, "{thing}");
            assert!(of_seen.iter().any(|pair| pair.1 == value), "{value}");
        }
        let held_out = generate_of(Combinations::HeldOut, 5_000, 1);
        let shown = pairs(&held_out.mentioned);
        assert!(HELD_OUT.iter().all(|pair| shown.contains(pair)));
        // A caption without the pair would be no test.
        let about_it = |it: &Attributes| pair_of(it).iter().any(|pair| HELD_OUT.contains(pair));
        assert!(held_out.mentioned.iter().all(about_it));
        assert_eq!(held_out.labels[..7], [0, 1, 2, 3, 4, 0, 1]);
        // Where nothing had to be drawn again, the sprites are those of `generate`.
        let plain = generate(100, 1);
        let same = (0..100).filter(|i| plain.attributes[*i] == seen.attributes[*i]).count();
        assert!((70..100).contains(&same), "{same}");
    }
}
