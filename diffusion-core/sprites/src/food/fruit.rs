//! Fruit and mushrooms.

use super::super::Drawing;
use super::super::art::Art;
use super::super::attributes::Attributes;
use super::super::canvas::{Canvas, Dot, Tone};
use super::super::palette::*;
use super::super::{chance, pick};
use crate::Rng;

pub(super) fn apple(rng: &mut Rng) -> Drawing {
    let skin = pick(rng, &[RED, RED, GREEN, YELLOW]);
    let art = [
        "......T..LL..",
        "......T.LLL..",
        "..AAA.TLLA...",
        ".AAAAATAAAAA.",
        "AAAAAAAAAAAAA",
        "AAwAAAAAAAAAA",
        "AwwAAAAAAAAAA",
        "AwAAAAAAAAAAA",
        "AAAAAAAAAAAAA",
        "AAAAAAAAAAAAA",
        ".AAAAAAAAAAA.",
        "..AAAAAAAAA..",
        "...AAA.AAA...",
    ];
    let art = Art::new(&art).squeezed(rng, &[9, 7], &[10, 2]);
    let mut canvas = Canvas::centred(&art, &[('A', skin), ('T', WOOD), ('L', GREEN)]);
    let blush = pick(rng, &[skin, RED, ORANGE]);
    let count = rng.below(5);
    canvas.speckle(rng, count, skin, Dot::of(blush, Tone::Light));
    canvas.one_sided().titled(Attributes::of("apple", skin))
}

pub(super) fn pear(rng: &mut Rng) -> Drawing {
    let skin = pick(rng, &[GREEN, YELLOW, CRUST, RED]);
    let art = [
        ".....TLL...",
        ".....TLLL..",
        "....AT.....",
        "...AAAA....",
        "...AAAAA...",
        "...AAAAA...",
        "..AAAAAA...",
        "..AAAAAAA..",
        ".AAwAAAAAA.",
        "AAwAAAAAAAA",
        "AAwAAAAAAAA",
        "AAAAAAAAAAA",
        ".AAAAAAAAA.",
        "..AAAAAAA..",
    ];
    let art = Art::new(&art).squeezed(rng, &[11, 8, 5], &[8, 3]);
    let mut canvas = Canvas::centred(&art, &[('A', skin), ('T', WOOD), ('L', GREEN)]);
    let count = rng.below(5);
    canvas.speckle(rng, count, skin, Dot::of(skin, Tone::Dark));
    canvas.one_sided().titled(Attributes::of("pear", skin))
}

pub(super) fn cherries(rng: &mut Rng) -> Drawing {
    let skin = pick(rng, &[RED, RED, PINK, PURPLE, YELLOW]);
    let art = [
        ".......TTLL...",
        "......TTLLLL..",
        ".....#TLLLL...",
        "....#..#......",
        "....#..#......",
        "...#....#.....",
        "..A#AA..#.....",
        ".AAAAAA.AAAA..",
        "AAwAAAAAAAAAA.",
        "AwAAAABBBBBBBB",
        "AAAAABBwBBBBBB",
        ".AAAABwBBBBBBB",
        "..AAABBBBBBBBB",
        "......BBBBBBB.",
    ];
    let art = Art::new(&art).squeezed(rng, &[5, 3], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', skin), ('B', skin), ('T', WOOD), ('L', GREEN)]);
    let count = rng.below(4);
    canvas.speckle(rng, count, skin, Dot::of(skin, Tone::Light));
    canvas.one_sided().titled(Attributes::of("cherries", skin))
}

pub(super) fn carrot(rng: &mut Rng) -> Drawing {
    let root = pick(rng, &[ORANGE, ORANGE, ORANGE, PURPLE, YELLOW]);
    let art = [
        ".........L..L.",
        "......L..L.LL.",
        "......LL.LLL..",
        ".......LLLL.LL",
        "......AALLLLL.",
        ".....AAAALL...",
        "....AAAAAALLL.",
        "....AaaAAA....",
        "...AAAAAA.....",
        "..AAAAaa......",
        "..AaaAA.......",
        ".AAAAA........",
        ".AAA..........",
        "AA............",
    ];
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', root), ('L', GREEN)]);
    canvas.speckle(rng, 4, root, Dot::of(root, Tone::Dark));
    canvas.titled(Attributes::of("carrot", root))
}

pub(super) fn mushroom(rng: &mut Rng) -> Drawing {
    let cap = pick(rng, &[RED, BROWN, CRUST, BONE, PURPLE, ORANGE, WOOD]);
    let rows = [
        "....AAA", "..AAAAA", ".AAAAAA", "AAAAAAA", "AAAAAAA", "AAAAAAA", ".bbbbbb", "....BBB", "....BBB", "....BBB",
        "...BBBB", "...BBBB", "....BBB",
    ];
    let art = Art::even(&rows).squeezed(rng, &[8, 4, 3], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', cap), ('B', BONE)]);
    let count = rng.below(7);
    canvas.speckle(rng, count, cap, Dot::of(BONE, Tone::Light));
    canvas.titled(Attributes::of("mushroom", cap))
}

pub(super) fn grapes(rng: &mut Rng) -> Drawing {
    let skin = pick(rng, &[PURPLE, GREEN, RED, BLUE]);
    let mut canvas = Canvas::default();
    canvas.paint(
        5,
        2,
        &Art::new(&if chance(rng, 50) {
            ["..TT.", "..T..", "LLTLL", "LLLL."]
        } else {
            [".TT..", "..T..", ".LTLL", "LLLLL"]
        }),
        &[('T', WOOD), ('L', GREEN)],
    );
    let berry = Art::new(&["1AA", "AAa", "Aa."]);
    let bunch = pick(
        rng,
        &[
            [(6, 12), (4, 9), (8, 9), (2, 6), (10, 6), (6, 6)],
            [(7, 12), (4, 10), (9, 9), (2, 7), (10, 6), (6, 6)],
            [(5, 12), (3, 9), (8, 10), (2, 6), (10, 7), (6, 6)],
        ],
    );
    for (x, y) in bunch {
        canvas.paint_in_front(x, y, &berry, &[('A', skin)]);
    }
    let count = rng.below(6);
    canvas.speckle(rng, count, skin, Dot::of(skin, Tone::Light));
    canvas.one_sided().titled(Attributes::of("grapes", skin))
}

pub(super) fn banana(rng: &mut Rng) -> Drawing {
    let skin = pick(rng, &[YELLOW, YELLOW, YELLOW, GREEN]);
    let art = [
        "..........TT..",
        "..........TA..",
        "..........AA..",
        ".........AAA..",
        ".........AAAA.",
        "........AAAAA.",
        "........AAAAA.",
        ".......AAAAAA.",
        "......AAAAAA..",
        "....AAAAAAAA..",
        "TAAAAAAAAAA...",
        "AAAAAAAAAA....",
        ".AAAAAAAA.....",
        "...AAAA.......",
    ];
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', skin), ('T', WOOD)]);
    let count = rng.below(8);
    let spot = pick(rng, &[BROWN, skin]);
    canvas.speckle(rng, count, skin, Dot::of(spot, Tone::Dark));
    canvas.titled(Attributes::of("banana", skin))
}

pub(super) fn watermelon(rng: &mut Rng) -> Drawing {
    let flesh = pick(rng, &[RED, RED, PINK, YELLOW, ORANGE]);
    let art = [
        "..............",
        "RRRRRRRRRRRRRR",
        "GwRRRRRRRRRRwG",
        "GwRRRRRRRRRRwG",
        "GwRRRRRRRRRRwG",
        ".GwRRRRRRRRwG.",
        ".GwwRRRRRRwwG.",
        "..GGwwRRwwGG..",
        "....GGGGGG....",
        "..............",
    ];
    let art = Art::new(&art).squeezed(rng, &[4], &[]);
    let mut canvas = Canvas::centred(&art, &[('R', flesh), ('G', GREEN)]);
    canvas.speckle(rng, 6, flesh, Dot::of(COAL, Tone::Dark));
    canvas.titled(Attributes::of("watermelon slice", flesh))
}

pub(super) fn strawberry(rng: &mut Rng) -> Drawing {
    let rows = [
        ".....LT", "..LLLLT", ".LLLLLL", "AALLALL", "AAAAAAL", "AAAAAAA", "AAAAAAA", "AAAAAAA", ".AAAAAA", ".AAAAAA",
        "..AAAAA", "...AAAA", ".....AA",
    ];
    let skin = pick(rng, &[RED, RED, PINK]);
    let art = Art::odd(&rows).squeezed(rng, &[8, 6], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', skin), ('L', GREEN), ('T', GREEN)]);
    canvas.speckle(rng, 10, skin, Dot::of(YELLOW, Tone::Light));
    canvas.titled(Attributes::of("strawberry", skin))
}
