//! Prepared food and drink, and fish.

use super::super::Drawing;
use super::super::art::Art;
use super::super::attributes::Attributes;
use super::super::canvas::{Canvas, Dot, Tone};
use super::super::palette::*;
use super::super::{chance, pick};
use crate::Rng;

pub(super) fn loaf(rng: &mut Rng) -> Drawing {
    let crust = pick(rng, &[CRUST, BROWN, ORANGE]);
    let art = pick(
        rng,
        &[
            [
                "..............",
                "...AAAAAAAA...",
                ".AAAAAAAAAAAA.",
                "AAA3AAA3AAA3AA",
                "AA3aAA3aAA3aAA",
                "A3aAA3aAA3aAAA",
                "AAAAAAAAAAAAAA",
                "AAAAAAAAAAAAAA",
                ".AAAAAAAAAAAA.",
                "..............",
            ],
            [
                "...AAA..AAAA..",
                "..AAAAAAAAAAA.",
                "..ABBBBBBBBAA.",
                "..ABBBBBBBBAA.",
                "...ABBBBBBBA..",
                "...ABBBBBBBA..",
                "...ABBBBBBBA..",
                "...ABBBBBBBA..",
                "...ABBBBBBBA..",
                "...AAAAAAAAA..",
            ],
        ],
    );
    let slice = art[2].contains('B');
    let art = Art::new(&art).squeezed(rng, &[7, 6], &[8, 4]);
    let mut canvas = Canvas::centred(&art, &[('A', crust), ('B', BONE), ('C', BONE)]);
    let count = rng.below(6);
    let on = pick(rng, &[crust, BONE]);
    canvas.speckle(rng, count, on, Dot::of(on, Tone::Dark));
    canvas.titled(Attributes::of(if slice { "bread slice" } else { "bread loaf" }, crust))
}

pub(super) fn cheese(rng: &mut Rng) -> Drawing {
    let rind = pick(rng, &[YELLOW, YELLOW, ORANGE, BONE]);
    let art = [
        "........AAA...",
        "......AAAAAA..",
        "....AAAAAAAAA.",
        "..AAAAAAAAAAAA",
        "AAAAAAAAAAAAAA",
        "BBBBBBBBBBBBBB",
        "BBBBBBBBBBBBBB",
        "BBBBBBBBBBBBBB",
        "BBBBBBBBBBBBBB",
        "BBBBBBBBBBBBBB",
        "BBBBBBBBBBBBBB",
    ];
    let art = Art::new(&art).squeezed(rng, &[9, 8], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', rind), ('B', rind)]);
    for (x, y) in [(2, 8), (9, 9), (5, 9), (12, 8)] {
        let (x, y) = (x + rng.below(2) as i32, y + rng.below(2) as i32);
        let hole = pick(rng, &[["bb", "bb"], ["b.", ".."], ["bb", ".."]]);
        canvas.paint(x, y, &Art::new(&hole), &[('B', rind)]);
    }
    canvas.titled(Attributes::of("cheese wedge", rind))
}

pub(super) fn drumstick(rng: &mut Rng) -> Drawing {
    let meat = pick(rng, &[CRUST, BROWN, ORANGE]);
    let art = [
        "......AAAAA...",
        "....AAAAAAAA..",
        "...AAAAAAAAAA.",
        "...AAAAAAAAAA.",
        "...AAAAAAAAAA.",
        "...AAAAAAAAAA.",
        "...AAAAAAAAA..",
        "....AAAAAAAA..",
        "....AAAAAAA...",
        "...BBAAAA.....",
        "BBBB..........",
        "BBB...........",
        ".BB...........",
    ];
    let art = Art::new(&art).squeezed(rng, &[5, 4], &[7, 6]);
    let mut canvas = Canvas::centred(&art, &[('A', meat), ('B', BONE)]);
    let count = rng.below(6);
    canvas.speckle(rng, count, meat, Dot::of(meat, Tone::Dark));
    canvas.titled(Attributes::of("drumstick", meat))
}

pub(super) fn fish(rng: &mut Rng) -> Drawing {
    let skin = pick(rng, &[BLUE, STEEL, TEAL, ORANGE, RED, YELLOW, PINK, GREEN]);
    let art = [
        "......CCC.....",
        "....CCCC.....C",
        "...AAAAAA...CC",
        "..AAAAAAAA.CCC",
        ".AwoAaAaAAACC.",
        "AAooAaAaAaAAC.",
        "AAAAAaAaAaAAC.",
        ".oAAaAaAAAACC.",
        "..BBBBBBBB.CCC",
        "...BBBBBB...CC",
        ".....CC......C",
    ];
    let fin = pick(rng, &[skin, ORANGE, RED, YELLOW]);
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', skin), ('B', SNOW), ('C', fin)]);
    let count = rng.below(6);
    canvas.speckle(rng, count, skin, Dot::of(skin, Tone::Light));
    canvas.titled(Attributes::of("fish", skin).with("fins", fin))
}

pub(super) fn cake(rng: &mut Rng) -> Drawing {
    let icing = pick(rng, &[PINK, SNOW, BROWN, GREEN, PURPLE, YELLOW]);
    let sponge = pick(rng, &[CRUST, YELLOW, BROWN, BONE]);
    let art = [
        "......CC......",
        "......CwC.....",
        ".....ACCCAA...",
        "...AAAAAAAAAA.",
        ".AAAAAAAAAAAAA",
        "AAAAAAAAAAAAAA",
        "AABAABBABABBAA",
        "BBBBBBBBBBBBBB",
        "AAAAAAAAAAAAAA",
        "BBBBBBBBBBBBBB",
        "BBBBBBBBBBBBBB",
        "BBBBBBBBBBBBBB",
    ];
    let art = Art::new(&art).squeezed(rng, &[10, 9, 8], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', icing), ('B', sponge), ('C', RED)]);
    let count = rng.below(6);
    let crumb = pick(rng, &VIVID);
    canvas.speckle(rng, count, icing, Dot::of(crumb, Tone::Light));
    canvas.titled(Attributes::of("cake", sponge).with("icing", icing))
}

pub(super) fn pie(rng: &mut Rng) -> Drawing {
    let filling = pick(rng, &[RED, PURPLE, BLUE, ORANGE, GREEN]);
    let tin = pick(rng, &[STEEL, SNOW, RED, BLUE, TEAL]);
    let top = pick(
        rng,
        &[
            ["....CCC", "..CCCCC", ".CCFCCF", "CCFCCFC", "CCCCCCC"],
            ["....CCC", "..CFFCF", ".CFCCFC", "CFFCFFC", "CCCCCCC"],
            ["....CCC", "..CCCFC", ".CCFCFC", "CCCFCCC", "CFCCCCC"],
        ],
    );
    let rows = [top[0], top[1], top[2], top[3], top[4], "11c11c1", "CC.CC.C", ".tTtTtT", "..tTtTt"];
    let mut canvas = Canvas::centred(&Art::even(&rows), &[('C', CRUST), ('T', tin), ('F', filling)]);
    let count = rng.below(5);
    canvas.speckle(rng, count, CRUST, Dot::of(BONE, Tone::Light));
    canvas.titled(Attributes::of("pie", filling).with("tin", tin))
}

pub(super) fn egg(rng: &mut Rng) -> Drawing {
    let yolk = pick(rng, &[YELLOW, ORANGE]);
    let white = pick(
        rng,
        &[
            [
                "....AAAAA.....",
                "..AAAAAAAAA...",
                ".AAAAAAAAAAA..",
                ".AAAAAAAAAAAA.",
                "AAAAAAAAAAAAA.",
                "AAAAAAAAAAAAAA",
                "AAAAAAAAAAAAAA",
                "AAAAAAAAAAAAAA",
                ".AAAAAAAAAAAA.",
                ".AAAAAAAAAAA..",
                "...AAAAAAAAA..",
                "....AAA.AAA...",
            ],
            [
                "...AAAA.......",
                "..AAAAAAAAAA..",
                "..AAAAAAAAAAA.",
                ".AAAAAAAAAAAAA",
                ".AAAAAAAAAAAAA",
                "AAAAAAAAAAAAAA",
                "AAAAAAAAAAAAA.",
                ".AAAAAAAAAAAA.",
                "..AAAAAAAAAA..",
                "..AAAAAAAAAA..",
                "...AAAA.AAAA..",
                ".........AA...",
            ],
        ],
    );
    let mut canvas = Canvas::centred(&Art::new(&white).squeezed(rng, &[7, 4], &[]), &[('A', SNOW)]);
    let (x, y) = (5 + rng.below(3) as i32, 5 + rng.below(2) as i32);
    let count = rng.below(4);
    canvas.speckle(rng, count, SNOW, Dot::of(SNOW, Tone::Light));
    canvas.paint(x, y, &Art::new(&[".YYY.", "YwYYY", "YYYYY", "YYYYY", ".YYY."]), &[('Y', yolk)]);
    canvas.titled(Attributes::of("fried egg", SNOW).with("yolk", yolk))
}

pub(super) fn pizza(rng: &mut Rng) -> Drawing {
    let rows = [
        ".CCCCCCCCCCCC.",
        "CCCCCCCCCCCCCC",
        "CAAAAAAAAAAAAC",
        ".AAAAAAAAAAAA.",
        ".AAAAAAAAAAAA.",
        "..AAAAAAAAAA..",
        "..AAAAAAAAAA..",
        "...AAAAAAAA...",
        "...AAAAAAAA...",
        "....AAAAAA....",
        "....AAAAAA....",
        ".....AAAA.....",
        ".....AAA......",
        "......A.......",
    ];
    let cheese = pick(rng, &[YELLOW, YELLOW, ORANGE, BONE]);
    let mut canvas = Canvas::centred(&Art::new(&rows), &[('A', cheese), ('C', CRUST)]);
    let slice = Art::new(&["AA", "Aa"]);
    let topping = pick(rng, &[RED, RED, WOOD, PURPLE]);
    for (x, y) in [(4, 4), (9, 4), (6, 7), (8, 10), (5, 10), (11, 4)].into_iter().take(3 + rng.below(3)) {
        let x = x - rng.below(2) as i32;
        canvas.paint(x, y + rng.below(2) as i32, &slice, &[('A', topping)]);
    }
    canvas.speckle(rng, 3, cheese, Dot::of(GREEN, Tone::Mid));
    canvas.titled(Attributes::of("pizza slice", cheese).with("topping", topping))
}

pub(super) fn ice_cream(rng: &mut Rng) -> Drawing {
    let (one, two) =
        (pick(rng, &[PINK, SNOW, BONE, BROWN, GREEN, TEAL]), pick(rng, &[PINK, SNOW, BONE, BROWN, YELLOW, PURPLE]));
    let rows = [
        "...AAA", "..AAAA", ".AAAAA", ".AAAAA", ".BBBBB", "BBBBBB", "BBBBBB", ".BB.BB", ".CcCCc", "..cCCc", "..CcCC",
        "...CcC", "...cCC", "....CC",
    ];
    let art = Art::even(&rows).squeezed(rng, &[10, 5], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', one), ('B', two), ('C', CRUST)]);
    let count = rng.below(6);
    let sprinkle = pick(rng, &VIVID);
    canvas.speckle(rng, count, one, Dot::of(sprinkle, Tone::Mid));
    canvas.titled(Attributes::of("ice cream", one).with("scoop", two))
}

pub(super) fn bottle(rng: &mut Rng) -> Drawing {
    let (glass, drink) = (pick(rng, &[SNOW, BLUE, GREEN]), pick(rng, &VIVID));
    let rows = [
        ".....TT", ".....TT", "....SSS", ".....SS", ".....SS", "....SSS", "...SSSS", "..SSSSS", "..DDDDD", "..DwDDD",
        "..DDDDD", "..DDDDD", "...DDDD",
    ];
    let mut canvas = Canvas::centred(&Art::even(&rows), &[('S', glass), ('D', drink), ('T', BROWN)]);
    canvas.speckle(rng, 3, drink, Dot::of(drink, Tone::Light));
    if chance(rng, 50) {
        canvas.drop_row(6);
    }
    canvas.titled(Attributes::of("bottle", glass).with("drink", drink))
}

pub(super) fn doughnut(rng: &mut Rng) -> Drawing {
    let icing = pick(rng, &[PINK, BROWN, SNOW, PURPLE, TEAL, YELLOW]);
    let rows = [
        "....AAA", "..AAAAA", ".AAAAAA", "AAAAAAA", "AAAAA..", "AAAA...", "AAAAA..", "ABAAAAA", "BBABAAA", ".BBBBAB",
        "..BBBBB", "....BBB",
    ];
    let mut canvas = Canvas::centred(&Art::even(&rows), &[('A', icing), ('B', CRUST)]);
    for _ in 0..6 {
        let colour = pick(rng, &VIVID);
        canvas.speckle(rng, 1, icing, Dot::of(colour, Tone::Mid));
    }
    canvas.titled(Attributes::of("doughnut", icing))
}

pub(super) fn burger(rng: &mut Rng) -> Drawing {
    let rows = [
        "...AAAA", ".AAAAAA", "AAAAAAA", "AAAAAAA", "LLLLLLL", "lLLlLLL", "YYYYYYY", "MMYYMMM", "MMMMMMM", "BBBBBBB",
        ".BBBBBB",
    ];
    let mut canvas =
        Canvas::centred(&Art::even(&rows), &[('A', CRUST), ('B', TAN), ('L', GREEN), ('Y', YELLOW), ('M', WOOD)]);
    canvas.speckle(rng, 4, CRUST, Dot::of(BONE, Tone::Light));
    canvas.titled(Attributes::of("burger", CRUST))
}
