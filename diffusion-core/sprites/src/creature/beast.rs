//! Animals: snakes, dragons, birds and four-legged ones.

use super::super::Drawing;
use super::super::art::Art;
use super::super::attributes::Attributes;
use super::super::canvas::{Canvas, Dot, Tone};
use super::super::palette::*;
use super::super::{chance, pick};
use super::two;
use crate::Rng;

pub(super) fn snake(rng: &mut Rng) -> Drawing {
    let (body, mark) = two(rng);
    let art = pick(
        rng,
        &[
            [
                "...AAAAA......",
                "..AAAAwoA.....",
                "..AAAAAAAA.T..",
                "..AAAAAAATT...",
                "..AAABBB...T..",
                "..AAAB........",
                "...AAAB...AA..",
                "...AAAAB.AAAA.",
                "....AAAAAAABAA",
                ".....AAAAABBAA",
                "..........BAAA",
                ".AAAAAAAAAAAA.",
                "AAAAAAAAAAAA..",
                "AA............",
            ],
            [
                "......AAAA....",
                ".....AAAAAA...",
                ".....AwoAAA...",
                "...TTAAAAAA...",
                ".....BBBAAA...",
                "......BBAAA...",
                "......BAAAA...",
                "..AAAABAAAAA..",
                ".AAAAAAAAAAAA.",
                ".aaaaaaaaaaaa.",
                "AAAAAAAAAAAAAA",
                "AAAAAAAAAAAAAA",
                ".aAAAAAAAAAAa.",
                "..............",
            ],
        ],
    );
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', body), ('B', pick(rng, &[BONE, YELLOW])), ('T', RED)]);
    let count = rng.below(3) * 4;
    canvas.speckle(rng, count, body, Dot::of(mark, Tone::Mid));
    canvas.titled(Attributes::of("snake", body))
}

pub(super) fn dragon(rng: &mut Rng) -> Drawing {
    let (body, wing) = two(rng);
    let art = pick(
        rng,
        &[
            [
                "..........C...",
                ".GG......AAC..",
                ".GGG....AAwoA.",
                ".GgGG...AAAAAA",
                "..GgGG..AAAAAA",
                "..GGgGG.AAA...",
                "...GGgGAABB...",
                "A...GGAAABB...",
                "AA...AAAABB...",
                ".AA.AAAAAABB..",
                "..AAAAAAAABB..",
                "...AAAAAABBB..",
                "....AAA.AAA...",
                "....CAA.CAA...",
            ],
            [
                ".........C.C..",
                "..........AAA.",
                "..G......AwoAA",
                "..GG....AAAAAA",
                ".GGgG...AAA...",
                ".GGgGG.AAAB...",
                ".GgGgGAAABB...",
                ".G.GgAAAABB...",
                "A..GAAAAABB...",
                "AA..AAAAAAB...",
                "CAAAAAAAAAB...",
                "..AAAAAAAA....",
                "....AA..AA....",
                "....AAC.AAC...",
            ],
        ],
    );
    let belly = pick(rng, &[BONE, YELLOW, SNOW, ORANGE]);
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', body), ('B', belly), ('G', wing), ('C', BONE)]);
    let count = rng.below(4);
    canvas.speckle(rng, count, body, Dot::of(body, Tone::Dark));
    if chance(rng, 30) {
        canvas.set(15, 4, Dot::bare(ORANGE, Tone::Mid));
        canvas.set(15, 5, Dot::bare(YELLOW, Tone::Mid));
    }
    canvas.titled(Attributes::of("dragon", body).with("wings", wing))
}

pub(super) fn rat(rng: &mut Rng) -> Drawing {
    let fur = pick(rng, &[STEEL, BROWN, SNOW, TAN, CRUST]);
    let art = pick(
        rng,
        &[
            [
                ".........EE...",
                "N.......EEEE..",
                "N..AAAA.EEEA..",
                "N.AAAAAAAEAAA.",
                "NNAAAAAAAAAoAA",
                ".AAAAAAAAAAAAN",
                ".AAAAAAAAAAAA.",
                ".AAAAAAAAA....",
                "..NN..NN......",
            ],
            [
                "..........E...",
                "....AA...EEE..",
                "...AAAAA.EEAA.",
                "..AAAAAAAAAAA.",
                "..AAAAAAAAAoAA",
                "N.AAAAAAAAAAAN",
                "NNAAAAAAAAA...",
                ".N.AAAAAA.....",
                "...NN.NN......",
            ],
        ],
    );
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', fur), ('E', PINK), ('N', PINK)]);
    let count = rng.below(6);
    let tone = pick(rng, &[Tone::Light, Tone::Dark]);
    canvas.speckle(rng, count, fur, Dot::of(fur, tone));
    canvas.titled(Attributes::of("rat", fur))
}

pub(super) fn wolf(rng: &mut Rng) -> Drawing {
    let (fur, eye) = pick(
        rng,
        &[
            (STEEL, INK),
            (BROWN, INK),
            (COAL, YELLOW[2]),
            (SNOW, INK),
            (TAN, INK),
            (WOOD, YELLOW[2]),
            (RED, INK),
            (BLUE, INK),
        ],
    );
    let belly = pick(rng, &[SNOW, BONE, fur]);
    let art = pick(
        rng,
        &[
            [
                ".........A.A..",
                "AA.......AAA..",
                "AAA.....AAAAA.",
                ".AA.....AAAEA.",
                ".AAA...AAAAABB",
                "..AAAAAAAAABBo",
                "..AAAAAAAAAB..",
                "..AAAAAAAABB..",
                "..AAAAAAABBA..",
                "..AAAABBBAAA..",
                "..AAaa..AAaa..",
                "..AA.aa.AA.aa.",
                "..AA.aa.AA.aa.",
            ],
            [
                ".........A.A..",
                ".........AAA..",
                "........AAAAA.",
                "........AAAEA.",
                ".......AAAAABB",
                ".AAAAAAAAAABBo",
                "AAAAAAAAAAAB..",
                "AAAAAAAAAABB..",
                "AAAAAAAAABBA..",
                "AA.AAABBBAAAA.",
                "AAAAAa..aa.AA.",
                "..AA.aa.a...AA",
                ".AA...aa......",
            ],
        ],
    );
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', fur), ('B', belly), ('E', [eye; 4])]);
    let count = rng.below(6);
    canvas.speckle(rng, count, fur, Dot::of(fur, Tone::Dark));
    canvas.titled(Attributes::of("wolf", fur))
}

pub(super) fn bird(rng: &mut Rng) -> Drawing {
    let (body, wing) = two(rng);
    let art = [
        "........AAA...",
        ".......AAAAA..",
        ".......AAAoAA.",
        ".......AAAAACC",
        "......AAAAAC..",
        "A....AAAABB...",
        "AAAAGGGABBB...",
        ".AAGGGGGBBB...",
        "..AGGGGGBBB...",
        "...AGGGBBB....",
        "....AABBB.....",
        "......#.#.....",
        ".....##.##....",
    ];
    let breast = pick(rng, &[SNOW, BONE, YELLOW, ORANGE]);
    let beak = pick(rng, &[ORANGE, YELLOW, COAL]);
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', body), ('B', breast), ('C', beak), ('G', wing)]);
    let count = rng.below(4);
    canvas.speckle(rng, count, wing, Dot::of(wing, Tone::Dark));
    canvas.titled(Attributes::of("bird", body).with("wings", wing))
}

pub(super) fn owl(rng: &mut Rng) -> Drawing {
    let body = pick(rng, &[BROWN, STEEL, WOOD, SNOW, TAN, PURPLE]);
    let rows = [
        "A.....", "AA..AA", "AAAAAA", "ABBBBA", "ABYYBB", "ABYoBC", "ABBBBC", "AABBAA", "GAABBB", "GGABbB", "GGABBB",
        "GGABbB", ".GAABB", "...C#.",
    ];
    let art = Art::even(&rows).squeezed(rng, &[11, 10], &[]);
    let breast = pick(rng, &[BONE, SNOW, TAN]);
    let mut canvas = Canvas::centred(&art, &[('A', body), ('B', breast), ('C', ORANGE), ('Y', YELLOW), ('G', body)]);
    let count = rng.below(5);
    canvas.speckle(rng, count, body, Dot::of(body, Tone::Dark));
    canvas.titled(Attributes::of("owl", body).with("breast", breast))
}

pub(super) fn frog(rng: &mut Rng) -> Drawing {
    let body = pick(rng, &[GREEN, GREEN, TEAL, YELLOW, BROWN, RED, BLUE]);
    let rows = [
        "..AA...", ".AwwA..", ".AwoAAA", ".AAAAAA", "AAAAAAA", "AAAAAAA", "Aoooooo", ".AABBBB", "..ABBBB", "A.ABBBB",
        "AAABBBB", "AAAABBB", "AAA.AA.",
    ];
    let belly = pick(rng, &[BONE, YELLOW, SNOW]);
    let art = Art::even(&rows).squeezed(rng, &[10, 5, 4], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', body), ('B', belly)]);
    let count = rng.below(6);
    canvas.speckle(rng, count, body, Dot::of(body, Tone::Dark));
    canvas.titled(Attributes::of("frog", body).with("belly", belly))
}

pub(super) fn cat(rng: &mut Rng) -> Drawing {
    let fur = pick(rng, &[COAL, ORANGE, STEEL, SNOW, BROWN, TAN]);
    let art = [
        "..A...A.......",
        "..AA.AA.......",
        "..AAAAA.....AA",
        ".AAAAAAA.....A",
        ".AYAAYAA.....A",
        ".AAANAAA....AA",
        "..AAAAA.....A.",
        "...AAAAAA..AA.",
        "...BBAAAAA.A..",
        "..ABBAAAAAAA..",
        "..ABBAAAAAA...",
        "..AAAAAAAAA...",
        "..AAA.AAAAA...",
    ];
    let eye = pick(rng, &[YELLOW, GREEN, BLUE]);
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', fur), ('B', SNOW), ('Y', [eye[2]; 4]), ('N', PINK)]);
    let count = rng.below(7);
    canvas.speckle(rng, count, fur, Dot::of(fur, Tone::Dark));
    canvas.titled(Attributes::of("cat", fur))
}
