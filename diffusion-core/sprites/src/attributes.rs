//! What a sprite shows, as values of named attributes.

use super::canvas::Canvas;
use super::palette::{Ramp, name};
use super::wardrobe::{Beard, Garment, Hair, Hat, Held, Person};

/// The smallest number of pixels of a garment whose colour is described: of a vest from the side, little is seen.
const FEWEST: usize = 10;

macro_rules! attributes {
    ($count:literal: $($(#[$doc:meta])* $field:ident)*) => {
        /// What a sprite shows: the value of each attribute, in the words of the captions; `None` where a sprite has no
        /// such thing or a caption does not mention it.
        ///
        /// ```
        /// use diffusion_sprites::{Rng, draw};
        /// let food = draw(2, &mut Rng::new(7)).unwrap();
        /// assert!(food.caption.contains(food.attributes.thing));
        /// assert_eq!(food.attributes.held, None);
        /// ```
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct Attributes {
            /// What it is: `knight`, `dragon`, `apple`, `fireball`, …
            pub thing: &'static str,
            $($(#[$doc])* pub $field: Option<&'static str>,)*
        }

        impl Attributes {
            /// The names of the attributes, in the order of [`Attributes::values`].
            pub const NAMES: [&'static str; $count] = ["thing", $(stringify!($field)),*];

            /// The values of all attributes.
            pub fn values(&self) -> [Option<&'static str>; $count] {
                [Some(self.thing), $(self.$field),*]
            }
        }
    };
}

attributes! {
    14:
    /// Where a person looks: `front`, `left` or `right`.
    facing
    /// The main colour, of a person that of the garment unless too little of it is seen.
    colour
    /// A second part of something that is not a person, of more than a few pixels: `wings`, `shell`, `icing`, …
    part
    /// The colour of that part.
    part_colour
    /// `tunic`, `armour`, `robe`, `dress`, `overalls` or `vest`.
    garment
    /// `cap`, `crown`, `helmet`, `hood`, …
    hat
    /// The colour of the hat; crowns and straw hats always have the same.
    hat_colour
    /// `short hair`, `bald head`, `mohawk`, …, unless a hat hides it.
    hair
    /// The colour of the hair, unless a hat hides it, or of the beard.
    hair_colour
    /// `short beard` or `long beard`, unless a shield hides its end.
    beard
    /// The colour of the cape.
    cape
    /// What a person holds: `sword`, `staff`, `spear`, `axe` or `bow`.
    held
    /// The colour of the shield.
    shield
}

/// The combinations of a thing with its colour, or with what it holds, that no sprite of
/// [`Combinations::Seen`](super::Combinations::Seen) shows.
///
/// A model that is trained on the others shows with these whether it composes what it has learned: there are dragons in
/// seven other colours, and many other red things.
pub const HELD_OUT: [(&str, &str); 40] = [
    ("knight", "axe"),
    ("viking", "sword"),
    ("rogue", "teal"),
    ("king", "sword"),
    ("fighter", "staff"),
    ("lady", "blue"),
    ("wizard", "green"),
    ("youth", "orange"),
    ("king", "green"),
    ("villager", "purple"),
    ("slime", "blue"),
    ("snake", "purple"),
    ("dragon", "red"),
    ("eyeball", "blue"),
    ("ghost", "pink"),
    ("crab", "teal"),
    ("mushroom monster", "yellow"),
    ("bird", "orange"),
    ("spider", "green"),
    ("ladybird", "green"),
    ("octopus", "pink"),
    ("frog", "yellow"),
    ("cat", "orange"),
    ("apple", "green"),
    ("pear", "red"),
    ("cherries", "purple"),
    ("grapes", "blue"),
    ("fish", "yellow"),
    ("mushroom", "orange"),
    ("ice cream", "brown"),
    ("doughnut", "purple"),
    ("lightning bolt", "purple"),
    ("snowflake", "teal"),
    ("orb", "yellow"),
    ("poison cloud", "pink"),
    ("light arrow", "pink"),
    ("rune circle", "red"),
    ("healing cross", "blue"),
    ("wave", "purple"),
    ("tornado", "green"),
];

impl Attributes {
    /// Whether the attributes contain a combination of [`HELD_OUT`].
    pub fn are_held_out(&self) -> bool {
        let has = |value| self.colour == Some(value) || self.held == Some(value);
        HELD_OUT.iter().any(|(thing, value)| *thing == self.thing && has(*value))
    }

    /// Something of this colour.
    pub(super) fn of(thing: &'static str, colour: Ramp) -> Self {
        Self { thing, colour: Some(name(colour)), ..Self::default() }
    }

    /// The same with a second part.
    pub(super) fn with(self, part: &'static str, colour: Ramp) -> Self {
        Self { part: Some(part), part_colour: Some(name(colour)), ..self }
    }

    /// The attributes of a person that can be seen on the canvas.
    pub(super) fn of_person(trade: &'static str, who: &Person, facing: &'static str, canvas: &Canvas) -> Self {
        let (garment, cloth) = match who.garment {
            (Garment::Tunic, cloth) => ("tunic", cloth),
            (Garment::Armour, cloth) => ("armour", cloth),
            (Garment::Robe, cloth) => ("robe", cloth),
            (Garment::Dress, cloth) => ("dress", cloth),
            (Garment::Overalls, _) => ("overalls", who.legs),
            (Garment::Vest, cloth) => ("vest", cloth),
        };
        let hat = match who.hat.0 {
            Hat::Bare => None,
            Hat::Pointed => Some("pointed hat"),
            Hat::Helmet => Some("helmet"),
            Hat::Horned => Some("horned helmet"),
            Hat::Hood => Some("hood"),
            Hat::Crown => Some("crown"),
            Hat::Cap => Some("cap"),
            Hat::Straw => Some("straw hat"),
            Hat::Band => Some("headband"),
        };
        let beard = match who.beard {
            _ if facing != "front" && who.shield.is_some() => None,
            Beard::None => None,
            Beard::Short => Some("short beard"),
            Beard::Long => Some("long beard"),
        };
        let hair = match who.hair.0 {
            Hair::Bald => "bald head",
            Hair::Short => "short hair",
            Hair::Spiky => "spiky hair",
            Hair::Long => "long hair",
            Hair::Bob => "bobbed hair",
            Hair::Curly => "curly hair",
            Hair::Mohawk => "mohawk",
            Hair::Bun => "bun",
            Hair::Tails => "pigtails",
        };
        let hair = Some(hair).filter(|_| who.hat.0.covers() == 0);
        Self {
            thing: trade,
            facing: Some(facing),
            colour: (canvas.count(cloth) >= FEWEST).then(|| name(cloth)),
            garment: Some(garment),
            hat,
            hat_colour: hat.filter(|hat| !["crown", "straw hat"].contains(hat)).map(|_| name(who.hat.1)),
            hair,
            hair_colour: hair.filter(|hair| *hair != "bald head").or(beard).map(|_| name(who.hair.1)),
            beard,
            cape: who.cape.map(name),
            held: match who.held.0 {
                Held::Nothing => None,
                Held::Sword => Some("sword"),
                Held::Staff => Some("staff"),
                Held::Spear => Some("spear"),
                Held::Axe => Some("axe"),
                Held::Bow => Some("bow"),
            },
            shield: who.shield.map(name),
            ..Self::default()
        }
    }
}
