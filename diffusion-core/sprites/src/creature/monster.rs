//! Creatures of the night.

use super::super::Drawing;
use super::super::art::Art;
use super::super::attributes::Attributes;
use super::super::canvas::{Canvas, Dot, Tone};
use super::super::palette::*;
use super::super::{chance, pick};
use super::two;
use crate::Rng;

pub(super) fn slime(rng: &mut Rng) -> Drawing {
    let body = pick(rng, &VIVID);
    let eyes = pick(
        rng,
        &[["AAowAA", "AAooAA"], ["AAAAAo", "AAAAAo"], ["AAAwoA", "AAAooA"], ["AAAooA", "AAAAoA"], ["AAAAoA", "AAAAoA"]],
    );
    let mouth = pick(rng, &["AAAAAA", "AAAAAo", "AAAAoA", "AAAAoo"]);
    let top = pick(rng, &["......", ".....A", "....AA"]);
    let rows =
        [top, "....AA", "..AAAA", ".AAAAA", ".A1AAA", eyes[0], eyes[1], "AAAAAA", mouth, "AAAAAA", "AAAAAA", ".AAAAA"];
    let art = Art::even(&rows).squeezed(rng, &[10, 7, 3], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', body)]);
    canvas.speckle(rng, 3, body, Dot::of(body, Tone::Light));
    canvas.titled(Attributes::of("slime", body))
}

pub(super) fn bat(rng: &mut Rng) -> Drawing {
    let (eye, _) = two(rng);
    let (body, wing) = pick(
        rng,
        &[
            (COAL, PURPLE),
            (PURPLE, PINK),
            (WOOD, BROWN),
            (COAL, STEEL),
            (COAL, RED),
            (PURPLE, BLUE),
            (COAL, TEAL),
            (BROWN, ORANGE),
        ],
    );
    let wings = pick(
        rng,
        &[
            [
                "........", "......A.", ".B....AA", ".BB..AAA", ".BBB.AAA", ".BBBBAEA", ".BBBBAAA", ".BbBBAwA",
                ".B.bB.AA", "....B..A",
            ],
            [
                "......A.", "...B..AA", "..BBB.AA", ".BBBBAAA", ".BbBBAEA", ".BB.BAAA", ".B..bAwA", ".B...AAA",
                "......A.", "......A.",
            ],
            [
                "......A.", "......AA", ".....AAA", ".....AEA", ".BBBBAAA", ".BBBBAwA", ".BbBBAAA", ".BbBbAAA",
                ".B.b..AA", ".B...A..",
            ],
        ],
    );
    let art = Art::even(&wings).squeezed(rng, &[2], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', body), ('B', wing), ('E', [eye[3]; 4])]);
    let count = rng.below(6);
    canvas.speckle(rng, count, wing, Dot::of(wing, Tone::Dark));
    canvas.titled(Attributes::of("bat", body).with("wings", wing))
}

pub(super) fn ghost(rng: &mut Rng) -> Drawing {
    let body = pick(rng, &[SNOW, SNOW, BONE, BLUE, PURPLE, PINK, TEAL, GREEN]);
    let eyes = pick(rng, &[["AAAoAA", "AAAoAA"], ["AAAooA", "AAAooA"], ["AAooAA", "AAowAA"], ["AAAAoA", "AAAAoA"]]);
    let mouth = pick(rng, &["AAAAAA", "AAAAAo", "AAAAoo", "AAAAAo"]);
    let hem = pick(rng, &[["AAA.AA", "A....A"], ["AA.AA.", "A..A.."], [".AA.AA", "..A..A"]]);
    let rows = [
        "....AA", "..AAAA", ".AAAAA", ".AAAAA", eyes[0], eyes[1], "AAAAAA", mouth, "AAAAAA", "AAAAAA", "AAAAAA",
        hem[0], hem[1],
    ];
    let art = Art::even(&rows).squeezed(rng, &[9, 8, 3], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', body)]);
    let arm = 7 + rng.below(2) as i32;
    if chance(rng, 60) {
        canvas.paint(1, arm, &Art::new(&["A............A"]), &[('A', body)]);
    }
    canvas.titled(Attributes::of("ghost", body))
}

pub(super) fn eyeball(rng: &mut Rng) -> Drawing {
    let (iris, rim) = two(rng);
    let art = pick(
        rng,
        &[
            [
                ".....AA", "...AAAA", "..AAAAA", ".AAAAII", ".AAAIIi", ".AAIwoo", ".AAIIoo", ".AAIIoo", ".AAAIIi",
                "..AAAII", "...AAAA", "..TTTTT", ".TT.TT.", ".T..T..",
            ],
            [
                "G......", "GG.....", "GGGLLLL", "gGLLLLL", "GgLLAII", "G.LAIIi", "..AAIIo", "..AAIIo", "..AAIIo",
                "..AAAII", "...AAAA", "....AAA", ".......", ".......",
            ],
            [
                "T.....T", "TT..T.T", ".TT.TTT", "..TTTTT", ".TTTAAA", ".TTAAII", ".TAAIII", ".TAAIIo", ".TAAIIo",
                ".TTAIIo", ".TTTAII", "..TTTAA", "...TTTT", ".......",
            ],
        ],
    );
    let mut canvas = Canvas::centred(&Art::even(&art), &[('A', SNOW), ('I', iris), ('T', rim), ('G', rim), ('L', rim)]);
    let count = rng.below(4);
    canvas.speckle(rng, count, SNOW, Dot::of(RED, Tone::Light));
    let part = match art[0] {
        ".....AA" => "legs",
        "G......" => "wings",
        _ => "tentacles",
    };
    canvas.titled(Attributes::of("eyeball", iris).with(part, rim))
}

pub(super) fn myconid(rng: &mut Rng) -> Drawing {
    let (cap, spot) = two(rng);
    let spot = pick(rng, &[SNOW, BONE, spot]);
    let stem = pick(rng, &[BONE, FAIR, SNOW, TAN]);
    let rows = [
        "....AAA", "..AAAAA", ".AAAAAA", "AAAAAAA", "AAAAAAA", "AAAAAAA", "..bbbbb", "...BBBB", "...BoBB", "...BoBB",
        "..BBBBo", "...BBBB", "...CC..",
    ];
    let art = Art::even(&rows).squeezed(rng, &[11, 4, 3], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', cap), ('B', stem), ('C', WOOD)]);
    canvas.speckle(rng, 6, cap, Dot::of(spot, Tone::Light));
    canvas.titled(Attributes::of("mushroom monster", cap))
}

pub(super) fn skull(rng: &mut Rng) -> Drawing {
    let bone = pick(rng, &[SNOW, BONE, STEEL]);
    let light = pick(rng, &VIVID);
    let eye = if chance(rng, 40) { light[2] } else { INK };
    let sockets = pick(
        rng,
        &[["AAooAAA", "AoEoAAA", "AoooAAo"], ["AoooAAA", "AoEoAAA", "AAooAAo"], ["AAoooAA", "AAoEoAA", "AAooAAo"]],
    );
    let jaw = pick(
        rng,
        &[
            ["..AAAAA", "..AoAoA", "..AoAoA", "...AAAA"],
            ["..aaaaa", "..AoAoA", "..aaaaa", "..AAAAA"],
            ["..AAAAA", "..AoAoA", "...aaaa", "...AAAA"],
        ],
    );
    let rows = [
        "...AAAA", ".AAAAAA", ".AAAAAA", "AAAAAAA", sockets[0], sockets[1], sockets[2], "AAoAAAA", ".AAAAAA", jaw[0],
        jaw[1], jaw[2], jaw[3],
    ];
    let art = Art::even(&rows).squeezed(rng, &[8, 2], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', bone), ('E', [eye; 4])]);
    let count = rng.below(4);
    canvas.speckle(rng, count, bone, Dot::of(bone, Tone::Dark));
    canvas.titled(Attributes::of("skull", bone))
}

pub(super) fn octopus(rng: &mut Rng) -> Drawing {
    let body = pick(rng, &VIVID);
    let rows = [
        "....AAA", "..AAAAA", ".AAAAAA", ".AAAAAA", ".AAAAAA", ".AAwoAA", ".AAooAA", "..AAAAA", "..AAAAo", "A.AAAAA",
        "AAAAAAA", ".AAA.AA", "...A.A.", ".AA..AA",
    ];
    let rows = if chance(rng, 40) { rows.map(|r| if r == ".AA..AA" { "AA..AA." } else { r }) } else { rows };
    let art = Art::even(&rows).squeezed(rng, &[9, 3, 2], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', body)]);
    let count = rng.below(5);
    let tone = pick(rng, &[Tone::Light, Tone::Dark]);
    canvas.speckle(rng, count, body, Dot::of(body, tone));
    canvas.titled(Attributes::of("octopus", body))
}
