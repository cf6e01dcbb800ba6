//! Animals with many legs or none.

use super::super::Drawing;
use super::super::art::Art;
use super::super::attributes::Attributes;
use super::super::canvas::{Canvas, Dot, Tone};
use super::super::palette::*;
use super::super::pick;
use super::two;
use crate::Rng;

pub(super) fn spider(rng: &mut Rng) -> Drawing {
    let body = pick(rng, &[COAL, BROWN, PURPLE, RED, GREEN, BLUE, STEEL]);
    let (mark, _) = two(rng);
    let rows = [
        "..#.....", ".#..#...", ".#.#....", "..#.#..A", "..#.#.AA", "#..#.#AE", ".#..##AA", "..####BB", "...##BBB",
        ".##.BBBB", "#..#BBBB", "..##BBBB", ".#..BBBB", ".#...BBB", "......BB",
    ];
    let mut canvas = Canvas::centred(&Art::even(&rows), &[('A', body), ('B', body), ('E', [mark[2]; 4])]);
    let count = rng.below(4);
    canvas.speckle(rng, count, body, Dot::of(body, Tone::Dark));
    match rng.below(3) {
        0 => [(7, 10), (8, 10), (7, 11), (8, 11)].iter().for_each(|&(x, y)| canvas.set(x, y, Dot::of(mark, Tone::Mid))),
        1 => [(7, 9), (8, 9), (7, 12), (8, 12)].iter().for_each(|&(x, y)| canvas.set(x, y, Dot::of(mark, Tone::Mid))),
        _ => canvas.speckle(rng, 4, body, Dot::of(mark, Tone::Light)),
    }
    canvas.titled(Attributes::of("spider", body))
}

pub(super) fn crab(rng: &mut Rng) -> Drawing {
    let (shell, _) = two(rng);
    let shell = pick(rng, &[RED, ORANGE, shell]);
    let mouth = pick(rng, &["..AAAAAA", "..AAAAAo", "..AAAAoo"]);
    let eye = pick(rng, &[["..AAAwoA", "..AAAooA"], ["..AAAowA", "..AAAooA"], ["..AAAAoA", "..AAAAoA"]]);
    let claws = pick(
        rng,
        &[
            ["..AAA...", ".AA.....", ".AA.A...", ".AAAA...", "..AA...."],
            [".A..A...", ".A..A...", ".AAAA...", ".AAAA...", "..AA...."],
            [".AAA....", "...AA...", ".A.AA...", ".AAAA...", "..AA...."],
        ],
    );
    let rows = [
        claws[0], claws[1], claws[2], claws[3], claws[4], "..A.AAAA", eye[0], eye[1], "..AAAAAA", mouth, ".#.AAAAA",
        "#.#.#...",
    ];
    let art = Art::even(&rows).squeezed(rng, &[8, 1], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', shell)]);
    let count = rng.below(4);
    canvas.speckle(rng, count, shell, Dot::of(shell, Tone::Light));
    canvas.titled(Attributes::of("crab", shell))
}

pub(super) fn ladybird(rng: &mut Rng) -> Drawing {
    let shell = pick(rng, &VIVID);
    let rows = [
        "....#...", ".....#..", "......BB", ".....BBw", ".....BBB", ".#..AAAA", "..#AAAAA", "...AAAAA", ".#.AAAAA",
        "#.#AAAAA", "...AAAAA", ".##AAAAA", "#...AAAA", ".....AAA",
    ];
    let mut canvas = Canvas::centred(&Art::even(&rows), &[('A', shell), ('B', COAL)]);
    canvas.speckle(rng, 6, shell, Dot::of(COAL, Tone::Dark));
    canvas.titled(Attributes::of("ladybird", shell))
}

pub(super) fn bee(rng: &mut Rng) -> Drawing {
    let body = pick(rng, &[YELLOW, YELLOW, ORANGE, RED]);
    let wing = pick(rng, &[SNOW, SNOW, BLUE]);
    let art = pick(
        rng,
        &[
            [
                "...GG..GG.....",
                "..GGGGGGGG....",
                "..GGGGGGG..#.#",
                "...GGGGGG..#.#",
                "..KKAAKKAAAA..",
                ".KKKAAKKAAAAA.",
                "#KKKAAKKAAAoA.",
                ".KKKAAKKAAAAA.",
                "..KKAAKKAAAA..",
                "....#..#..#...",
            ],
            [
                "..............",
                "GGG..GGG......",
                "GGGGGGGGG..#.#",
                ".GGGGGGGG..#.#",
                "...GGGGAAAAA..",
                "..KKAAKKAAAAA.",
                "#KKKAAKKAAoAA.",
                ".KKKAAKKAAAAA.",
                "..KKAAKKAAA...",
                "...#..#..#....",
            ],
        ],
    );
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', body), ('K', COAL), ('G', wing)]);
    let count = rng.below(4);
    canvas.speckle(rng, count, wing, Dot::of(wing, Tone::Dark));
    canvas.titled(Attributes::of("bee", body).with("wings", wing))
}

pub(super) fn snail(rng: &mut Rng) -> Drawing {
    let (shell, _) = two(rng);
    let body = pick(rng, &[BONE, TAN, GREEN, PINK, STEEL]);
    let art = [
        "...AAAAA......",
        "..AAAAAAA.....",
        ".AAAaaaAAA#..#",
        ".AAaAAAaAA.#.#",
        ".AAaAaAaAA.BB.",
        ".AAaAaaaAABBoB",
        ".AAAaAAAAABBBB",
        "..AAAaaaABBBB.",
        "BBBAAAAABBBB..",
        ".BBBBBBBBBB...",
    ];
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', shell), ('B', body)]);
    let count = rng.below(5);
    canvas.speckle(rng, count, shell, Dot::of(shell, Tone::Light));
    canvas.titled(Attributes::of("snail", body).with("shell", shell))
}
