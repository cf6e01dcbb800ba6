//! Spells painted from drawings.

use super::super::Drawing;
use super::super::art::Art;
use super::super::attributes::Attributes;
use super::super::canvas::{Canvas, Dot, Tone, positions};
use super::super::palette::*;
use super::super::pick;
use super::{glow, sparks};
use crate::Rng;

pub(super) fn flame(rng: &mut Rng) -> Drawing {
    let [core, middle, rim] = glow(rng);
    let art = pick(
        rng,
        &[
            [
                "......R.......",
                "......RR......",
                ".....RRR...R..",
                "..R..RRRR..R..",
                "..R.RRMRRRRR..",
                ".RRRRMMRRRRR..",
                ".RRRMMMMRMRRR.",
                ".RRMMMMMMMMRR.",
                "RRMMMCCMMMMRR.",
                "RRMMCCCCMMMRR.",
                "RRMMCC3CCMMRR.",
                ".RRMC33CCMRR..",
                "..RMMCCCMMR...",
                "....MMMMM.....",
            ],
            [
                ".......R......",
                "........R.....",
                "....R..RRR....",
                "....RR.RRR....",
                "...RRRRRMRR...",
                "..RRRMRMMRR...",
                "..RRMMMMMMRR..",
                ".RRMMMMCMMRR..",
                ".RRMMCCCMMMRR.",
                ".RMMMCCCCMMRR.",
                ".RMMCC33CCMRR.",
                ".RRMCC33CCMR..",
                "..RRMCCCCMR...",
                "....MMMMM.....",
            ],
        ],
    );
    let mut canvas = Canvas::centred(&Art::new(&art), &[('R', rim), ('M', middle), ('C', core)]);
    sparks(&mut canvas, rng, 10, middle);
    canvas.titled(Attributes::of("flame", rim).with("core", core))
}

pub(super) fn lightning(rng: &mut Rng) -> Drawing {
    let ramp = pick(rng, &[YELLOW, YELLOW, BLUE, PURPLE, TEAL, SNOW, PINK]);
    let art = pick(
        rng,
        &[
            [
                ".....AAAAAA...",
                ".....AAAAA....",
                "....AAAAA.....",
                "....AAAA......",
                "...AAAAAAAA...",
                "...AAAAAAA....",
                "..AAAAAAA.....",
                ".....AAA......",
                "....AAAA......",
                "....AAA.......",
                "...AAA........",
                "...AA.........",
                "..AA..........",
                "..A...........",
            ],
            [
                "AAA...........",
                ".AAAA.........",
                "..AAAAA.......",
                "...AAAAAA.....",
                ".....AAA......",
                "....AAA.......",
                "...AAAAAA.....",
                "....AAAAAAA...",
                "......AAAA....",
                "......AAA.....",
                ".....AAAAAA...",
                "......AAAAAAA.",
                "..........AAAA",
                ".............A",
            ],
            [
                ".......AA.....",
                "......AAA.....",
                ".....AAA......",
                "....AAA.......",
                "...AAAAAAA....",
                "......AAA.....",
                ".....AAA......",
                "....AAA.......",
                "...AAAAAA.....",
                ".....AAA......",
                "....AAA.......",
                "....AA........",
                "...AA.........",
                "...A..........",
            ],
        ],
    );
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', ramp)]);
    sparks(&mut canvas, rng, 14, ramp);
    canvas.titled(Attributes::of("lightning bolt", ramp))
}

pub(super) fn snowflake(rng: &mut Rng) -> Drawing {
    let ramp = pick(rng, &[BLUE, BLUE, TEAL, PURPLE, STEEL, PINK]);
    let art = pick(
        rng,
        &[
            [".......A", "....A..A", ".....A.A", "......AA", ".A.....A", "..A...BB", "...A.BBA", "AAAAABAA"],
            [".......A", ".....AAA", ".......A", ".A.....A", "..AA...A", "..AAA.AA", ".....AAB", "AAAAAABB"],
            ["......A.", ".......A", ".A...A.A", "..A...AA", "...A...A", "....A.BA", "A.A..ABA", ".AAAAAAA"],
        ],
    );
    let half: Vec<&str> = art.iter().chain(art.iter().rev().skip(1)).copied().collect();
    let whole = Art::odd(&half);
    let mut canvas = Canvas::default();
    canvas.paint(0, 0, &whole, &[('A', ramp), ('B', SNOW)]);
    canvas.bare();
    sparks(&mut canvas, rng, 14, ramp);
    canvas.titled(Attributes::of("snowflake", ramp))
}

pub(super) fn arrow(rng: &mut Rng) -> Drawing {
    let ramp = pick(rng, &[YELLOW, YELLOW, SNOW, TEAL, BLUE, PINK, PURPLE, GREEN]);
    let straight = [
        ".........A....",
        ".........AA...",
        "A..A.....A1A..",
        ".AA1A11111111.",
        "..A11111111111",
        ".AA1A11111111.",
        "A..A.....A1A..",
        ".........AA...",
        ".........A....",
    ];
    let diagonal = [
        "......A1111111",
        ".......A111111",
        "........A11111",
        ".........11111",
        "........111A11",
        ".......111..A1",
        "......111....A",
        ".....AAA......",
        ".A..AAA.......",
        ".AAAAA........",
        "..AAA.........",
        ".AAAAAA.......",
        "A...AA........",
        ".....A........",
    ];
    let beam = [
        "..........A...",
        "..........AA..",
        "..........A1A.",
        "aaaAAAA11111A.",
        "..aaAAA1111111",
        "aaaAAAA11111A.",
        "..........A1A.",
        "..........AA..",
        "..........A...",
    ];
    let mut art = match rng.below(4) {
        0 => Art::new(&straight),
        1 => Art::new(&beam),
        _ => Art::new(&diagonal),
    };
    for _ in 0..rng.below(4) {
        art = art.turned();
    }
    let mut canvas = Canvas::centred(&art, &[('A', ramp)]);
    sparks(&mut canvas, rng, 16, ramp);
    canvas.titled(Attributes::of("light arrow", ramp))
}

pub(super) fn rune(rng: &mut Rng) -> Drawing {
    let ramp = pick(rng, &VIVID);
    let glyph = pick(
        rng,
        &[
            ["...A", "...A", "..A.", "..A.", ".A..", "AAAA"],
            ["AAAA", "...A", "...A", "..AA", "...A", "...A"],
            ["A..A", ".A.A", "..AA", "..AA", ".A.A", "A..A"],
            ["..AA", ".A..", "A..A", "A..A", ".A..", "..AA"],
            ["...A", "AAAA", ".A..", "..A.", ".A..", "A..."],
        ],
    );
    let style = rng.below(2);
    let mut canvas = Canvas::default();
    canvas.paint(4, 5, &Art::even(&glyph), &[('A', ramp)]);
    canvas.bare();
    let sparkle = pick(rng, &VIVID);
    sparks(&mut canvas, rng, 10, sparkle);
    for (x, y) in positions() {
        let (fx, fy) = (x as f64 - 7.5, y as f64 - 7.5);
        let r = (fx * fx + fy * fy).sqrt();
        if style == 1 && (x + y) % 3 == 0 {
            continue;
        }
        if (r - 7.0).abs() < 0.55 {
            canvas.set(x, y, Dot::bare(ramp, Tone::Dark));
        } else if (r - 5.9).abs() < 0.5 {
            canvas.set(x, y, Dot::bare(ramp, Tone::Light));
        }
    }
    canvas.titled(Attributes::of("rune circle", ramp))
}

pub(super) fn heal(rng: &mut Rng) -> Drawing {
    let ramp = pick(rng, &[GREEN, GREEN, PINK, YELLOW, TEAL, RED, BLUE]);
    let rows = pick(
        rng,
        &[
            ["...AA", "...AA", "...AA", "AAAAA", "AAAAA", "AAAAA", "AAAAA", "...AA", "...AA", "...AA"],
            [".....", "....A", "....A", "....A", ".AAAA", ".AAAA", "....A", "....A", "....A", "....."],
            [".AA..", "AAAA.", "AAAAA", "AAAAA", "AAAAA", ".AAAA", ".AAAA", "..AAA", "...AA", "....A"],
        ],
    );
    let art = Art::even(&rows).squeezed(rng, &[5], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', ramp)]);
    sparks(&mut canvas, rng, 30, ramp);
    let heart = rows[0] == ".AA..";
    canvas.titled(Attributes::of(if heart { "healing heart" } else { "healing cross" }, ramp))
}

pub(super) fn wave(rng: &mut Rng) -> Drawing {
    let ramp = pick(rng, &[BLUE, BLUE, TEAL, PURPLE, GREEN]);
    let art = [
        "......BBBB....",
        "....BBAAAABB..",
        "...BAAAAAAAAB.",
        "..BAAAaaaAAABB",
        "..BAAaa..aaABB",
        ".BAAAa....aBB.",
        ".BAAa.....BB..",
        ".BAAa.....B...",
        "BAAAa.........",
        "BAAAAa........",
        "BAAAAAa.......",
        "BAAAAAAaa..aaB",
        "AAAAAAAAAAAAAA",
        "AaAAAaAAAaAAAa",
    ];
    let mut canvas = Canvas::centred(&Art::new(&art), &[('A', ramp), ('B', SNOW)]);
    let count = rng.below(5);
    canvas.speckle(rng, count, ramp, Dot::of(ramp, Tone::Light));
    sparks(&mut canvas, rng, 8, ramp);
    canvas.titled(Attributes::of("wave", ramp))
}

pub(super) fn tornado(rng: &mut Rng) -> Drawing {
    let ramp = pick(rng, &[STEEL, SNOW, TEAL, BLUE, PURPLE, GREEN, CRUST]);
    let art = [
        "..AAAAAAAAAA..",
        "AAAAAAAAAAAAAA",
        "aAAAAAAAAAAAAa",
        ".aaaaaaaaaaaa.",
        "..AAAAAAAAAA..",
        "...AAAAAAAAA..",
        "...aaaaaaaa...",
        "....AAAAAAA...",
        ".....AAAAA....",
        ".....aaaaa....",
        "....AAAA......",
        "....aaa.......",
        ".....AA.......",
        "......A.......",
    ];
    let art = Art::new(&art).squeezed(rng, &[11, 8, 5, 4], &[]);
    let mut canvas = Canvas::centred(&art, &[('A', ramp)]);
    sparks(&mut canvas, rng, 20, ramp);
    canvas.titled(Attributes::of("tornado", ramp))
}
