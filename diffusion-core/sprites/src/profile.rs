//! People seen from the side, walking to the right.

use super::art::Art;
use super::attributes::Attributes;
use super::canvas::Canvas;
use super::palette::*;
use super::wardrobe::{Beard, Garment, Hair, Hat, Held, Person};
use super::{Drawing, Kind, chance, pick, trade};
use crate::Rng;

pub(super) const KINDS: &[Kind] = trade::kinds!(
    side: villager knight wizard lady king viking rogue farmer fighter youth
);

fn side(trade: &'static str, who: &Person, rng: &mut Rng) -> Drawing {
    let mut canvas = Canvas::default();
    let materials = who.materials(rng);
    if let Some(cape) = who.cape {
        let rows = pick(
            rng,
            &[
                ["....PPPP", "...PPPP.", "..PPPPP.", "..PPPP..", ".PPPPP..", ".PPPP..."],
                ["....PPPP", "...PPPP.", "...PPPP.", "..PPPPP.", "..PPPP..", "..PPPP.."],
            ],
        );
        canvas.paint(0, 8, &Art::new(&rows), &[('P', cape)]);
    }
    let skirt = matches!(who.garment.0, Garment::Robe | Garment::Dress);
    let legs = if skirt {
        pick(
            rng,
            &[
                ["....CCCCCC.", "...TTTTTTT.", "....BB.BB.."],
                ["....CCCCCC.", "...TTTTTTT.", "...BB...BB."],
                ["....CCCCCC.", "...CCCCCCC.", "...TTTTTTT."],
            ],
        )
    } else {
        pick(
            rng,
            &[
                [".....LLLL..", "....LLLLL..", "...BBB.BBB."],
                [".....LLLL..", ".....LLL...", ".....BBBB.."],
                [".....LLLL..", "...BLL.LL..", "...B...BBB."],
                [".....LLLL..", ".....LLLL..", "....BB.BBB."],
            ],
        )
    };
    canvas.paint(0, 12, &Art::new(&legs), &materials);
    canvas.paint(0, 8, &Art::new(torso(who.garment.0)), &materials);
    // How many rows this person is shorter than the tallest.
    let y = i32::from(chance(rng, 30));
    if y > 0 {
        canvas.drop_row(12);
    }
    let eye = pick(rng, &[["....SSSSoS..", "....SSSSoSS."], ["....SSSSSS..", "....SSSSoSS."]]);
    let head = ["....SSSSSS..", "....SSSSSS..", eye[0], eye[1], ".....SSSSS.."];
    canvas.paint(0, y + 3, &Art::new(&head), &materials);
    let beard: &[&str] = match who.beard {
        Beard::None => &[],
        Beard::Short => &["......H.....", "......HHHHH.", ".......HHH.."],
        Beard::Long => &["......H.....", "......HHHHH.", ".......HHHH.", "........HHH.", ".........H.."],
    };
    canvas.paint(0, y + 6, &Art::new(beard), &materials);
    canvas.paint(0, y + 1, &Art::new(hair(who.hair.0)).below(who.hat.0.covers()), &materials);
    let hat_art = Art::new(hat(who.hat.0));
    match who.hat.0 {
        Hat::Helmet => canvas.paint_in_front(0, y + 1, &hat_art, &materials),
        _ => canvas.paint(0, y + 1, &hat_art, &materials),
    }
    let sleeve = match who.garment.0 {
        Garment::Vest => ('A', who.skin),
        _ => ('A', who.garment.1),
    };
    let reach = who.held.0 != Held::Nothing || chance(rng, 40);
    if reach {
        tool(&mut canvas, who, y, &materials);
        canvas.paint(6, y + 9, &Art::new(&["aa...", "aaaSS"]), &[('S', who.skin), sleeve]);
    } else {
        canvas.paint(6, y + 9, &Art::new(&["aa.", "aa.", ".SS"]), &[('S', who.skin), sleeve]);
    }
    if let Some(shield) = who.shield {
        canvas.paint_in_front(
            8,
            y + 8,
            &Art::new(&[".AA", "ABB", "ABB", "ABB", ".AA"]),
            &[('A', STEEL), ('B', shield)],
        );
    }
    let attributes = Attributes::of_person(trade, who, "right", &canvas);
    canvas.titled(attributes)
}

fn torso(garment: Garment) -> &'static [&'static str] {
    match garment {
        Garment::Tunic => &[".....CCCC..", ".....CCCC..", ".....CCCC..", ".....TTTT..", ".....CCCCC."],
        Garment::Armour => &[".....CCTT..", ".....CCTT..", ".....CCTT..", ".....TTTT.."],
        Garment::Robe => &[".....CCCC..", ".....CCCC..", ".....CCCC..", "....TTTTT.."],
        Garment::Dress => &[".....SSSS..", ".....CCCC..", ".....CCCC..", ".....TTTT.."],
        Garment::Overalls => &[".....CCCC..", ".....CLCC..", ".....LLLL..", ".....LLLL.."],
        Garment::Vest => &[".....CCCS..", ".....CCCS..", ".....CCCS..", ".....TTTT.."],
    }
}

fn hair(hair: Hair) -> &'static [&'static str] {
    match hair {
        Hair::Bald => &[".....SSSS...", "....SSSSSS.."],
        Hair::Short => {
            &[".....HHHHH..", "....HHHHHHH.", "....HHHHH...", "....HHH.....", "....HH......", "....HS......"]
        }
        Hair::Spiky => {
            &["...H.HH.HH..", "....HHHHHHH.", "..HHHHHHH...", "....HHH.....", "...HHH......", "....H......."]
        }
        Hair::Long => &[
            ".....HHHHH..",
            "....HHHHHHH.",
            "...HHHHHH...",
            "...HHHHH....",
            "...HHHH.....",
            "...HHHH.....",
            "...HHHH.....",
            "...HHH......",
            "...HHH......",
            "....H.......",
        ],
        Hair::Bob => &[
            ".....HHHHH..",
            "....HHHHHHH.",
            "...HHHHHHH..",
            "...HHHHH....",
            "...HHHH.....",
            "...HHHH.....",
            "....HH......",
        ],
        Hair::Curly => &[
            "....HHHHHH..",
            "...HHHHHHHH.",
            "..HHHHHHHHH.",
            "..HHHHHH....",
            "..HHHHH.....",
            "..HHHH......",
            "...HHH......",
        ],
        Hair::Mohawk => &[".....HHHHH..", "...HHHHHHH..", "...HHSSSSS..", "...HSSSS....", "...H........"],
        Hair::Bun => &["..HH.HHHHH..", ".HHHHHHHHHH.", ".HHHHHHHH...", "..H.HHH.....", "....HH......", "....H......."],
        Hair::Tails => &[
            ".....HHHHH..",
            "....HHHHHHH.",
            "..H#HHHHH...",
            ".HHTHHH.....",
            ".HH.HH......",
            ".HH.........",
            ".HH.........",
            "..H.........",
        ],
    }
}

fn hat(hat: Hat) -> &'static [&'static str] {
    match hat {
        Hat::Bare => &[],
        Hat::Pointed => &["...KKK......", ".....KKK....", ".....KKKK...", "....TTTTTT..", "..KKKKKKKKK."],
        Hat::Helmet => &[
            "....TKKKK...",
            "...TKKKKKK..",
            "...TKKKKKKK.",
            "...TKKKKKKK.",
            "....KKK####.",
            "....KKKKkkk.",
            "....KKKKK#k.",
            ".....KKKKK..",
        ],
        Hat::Horned => &["...D.KKK.D..", "...DKKKKKD..", "...DDKKKDD..", "....KKKKKK..", "....kkkkkkk."],
        Hat::Hood => &[
            "....KKKKK...",
            "...KKKKKKK..",
            "..KKKKKKKK..",
            "...KKKKk....",
            "...KKKK.....",
            "...KKKK.....",
            "...KKKK.....",
            "....KKK.....",
        ],
        Hat::Crown => &["....K.KK.K..", "....KKKKKK..", "....KTKKTK.."],
        Hat::Cap => &[".....KKKK...", "....KKKKKK..", "....KKKKKK..", "....KKKKKKKK"],
        Hat::Straw => &[".....KKKK...", "....KKKKKK..", "....TTTTTT..", "..KKKKKKKKKK"],
        Hat::Band => &["............", "............", "............", "..KKKKKKKK..", "...K........"],
    }
}

fn tool(canvas: &mut Canvas, who: &Person, y: i32, materials: &[(char, Ramp)]) {
    let (x, top, rows): (i32, i32, &[&str]) = match who.held.0 {
        Held::Nothing => return,
        Held::Sword => (11, 3, &["...M", "...M", "..MM", "..M.", ".MM.", "TM..", ".T..", "N..."]),
        Held::Staff => {
            (11, 2, &[".M.", "MMM", ".M.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N."])
        }
        Held::Spear => {
            (11, 2, &[".M.", ".M.", "MMM", ".N.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N."])
        }
        Held::Axe => (11, 4, &[".NMM", ".NMM", ".NMM", ".N..", ".N..", ".N..", ".N..", ".N.."]),
        Held::Bow => (11, 6, &[".N..", "..N.", "...N", "...N", "...N", "...N", "..N.", ".N.."]),
    };
    let on_the_ground = matches!(who.held.0, Held::Staff | Held::Spear);
    let top = if on_the_ground { top } else { y + top };
    canvas.paint_in_front(x, top, &Art::new(rows), materials);
}
