//! People seen from the front.

use super::art::Art;
use super::attributes::Attributes;
use super::canvas::Canvas;
use super::palette::*;
use super::wardrobe::{Beard, Garment, Hair, Hat, Held, Person};
use super::{Drawing, Kind, chance, pick, trade};
use crate::Rng;

pub(super) const KINDS: &[Kind] = trade::kinds!(
    front: villager knight wizard lady king viking rogue farmer fighter youth
);

fn front(trade: &'static str, who: &Person, rng: &mut Rng) -> Drawing {
    let mut canvas = Canvas::default();
    let materials = who.materials(rng);
    if let Some(cape) = who.cape {
        canvas.paint(
            0,
            8,
            &Art::even(&["....PPPP", "...PPPPP", "..PPPPPP", "..PPPPPP", "..PPPPPP", "..PPPPPP", "..PPPPPP"]),
            &[('P', cape)],
        );
    }
    canvas.paint(0, 8, &Art::even(clothes(who.garment.0)), &materials);
    // How many rows this person is shorter than the tallest.
    let y = i32::from(chance(rng, 30));
    if y > 0 {
        canvas.drop_row(pick(rng, &[11, 13]));
    }
    let face = pick(
        rng,
        &[
            ["....SSSS", "....SSSS", "....SSoS", "....SSoS", ".....SSS"],
            ["....SSSS", "....SSSS", "....SSSS", "....SSoS", ".....SSS"],
            ["....SSSS", "....SSSS", "....SSoS", "....SSoS", ".....SSs"],
            ["....SSSS", "....SSSS", "....SoSS", "....SoSS", ".....SSs"],
        ],
    );
    canvas.paint(0, y + 3, &Art::even(&face), &materials);
    beard(&mut canvas, who.beard, y, &materials);
    hair(&mut canvas, who, y, &materials);
    hat(&mut canvas, who.hat.0, y, &materials);
    hold(&mut canvas, who, y, &materials);
    let attributes = Attributes::of_person(trade, who, "front", &canvas);
    canvas.titled(attributes)
}

fn clothes(garment: Garment) -> &'static [&'static str] {
    match garment {
        Garment::Tunic => &[".....CCC", "...CCCCC", "...C#CCC", "...S#CCC", ".....TTT", ".....LL.", "....BBB."],
        Garment::Armour => &[".....CCC", "..CCcCCC", "..CC#CTT", "...S#CTT", ".....ccc", ".....LL.", "....BBB."],
        Garment::Robe => &[".....CCT", "...CCCCT", "...C#CCT", "...S#CCT", "....CTTT", "....CCCT", "...TTTTT"],
        Garment::Dress => &[".....SSS", "...CCCCC", "...S#CCC", "...S.TTT", "....CCCC", "...CCCCC", "...TTTTT"],
        Garment::Overalls => &[".....CLC", "...CCCLC", "...C#LLL", "...S#LLL", ".....LLL", ".....LL.", "....BBB."],
        Garment::Vest => &[".....CSS", "...SCCSS", "...S#CCS", "...S#CCC", ".....TTT", ".....LL.", "....BBB."],
    }
}

fn beard(canvas: &mut Canvas, beard: Beard, y: i32, materials: &[(char, Ramp)]) {
    let rows: &[&str] = match beard {
        Beard::None => return,
        Beard::Short => &["....H...", "....HHHH", ".....HHH"],
        Beard::Long => &["....H...", "....HHHH", ".....HHH", ".....HHH", "......HH"],
    };
    canvas.paint(0, y + 6, &Art::even(rows), materials);
}

fn hair(canvas: &mut Canvas, who: &Person, y: i32, materials: &[(char, Ramp)]) {
    let rows: &[&str] = match who.hair.0 {
        Hair::Bald => &[".....SSS", "....SSSS", "....SSSS"],
        Hair::Short => &[".....HHH", "....HHHH", "....HHHH", "....HH.H", "....H..."],
        Hair::Spiky => &["....H.HH", "...HHHHH", "....HHHH", "...HHHHH", "....H..."],
        Hair::Long => &[
            ".....HHH", "....HHHH", "...HHHHH", "...HHHH.", "...HH...", "...HH...", "...HH...", "...HH...", "...H....",
        ],
        Hair::Bob => &[".....HHH", "....HHHH", "...HHHHH", "...HHHHH", "...HH...", "...HH...", "...H...."],
        Hair::Curly => &["....HHHH", "..HHHHHH", "..HHHHHH", "..HHHHHH", "..HHH...", "..HHH...", "...HH..."],
        Hair::Mohawk => &["......HH", "......HH", "....SSHH", "....SSSH"],
        Hair::Bun => &["......HH", ".....HHH", "....HHHH", "....HHHH", "....HH..", "....H..."],
        Hair::Tails => {
            &[".....HHH", "....HHHH", "..H.HHHH", ".HH#HHH.", ".HH#H...", ".HH.....", ".HH.....", "..H....."]
        }
    };
    canvas.paint(0, y + 1, &Art::even(rows).below(who.hat.0.covers()), materials);
}

fn hat(canvas: &mut Canvas, hat: Hat, y: i32, materials: &[(char, Ramp)]) {
    let rows: &[&str] = match hat {
        Hat::Bare => return,
        Hat::Pointed => &[".......K", "......KK", ".....KKK", "....TTTT", "..KKKKKK"],
        Hat::Helmet => {
            &[".....KKT", "....KKKT", "....KKKT", "....KKKK", "....k###", "....KKK#", "....KKK#", ".....KK#"]
        }
        Hat::Horned => &["..D..KKK", "..D.KKKK", "..DDKKKK", "...DKKKK", "....kkkk"],
        Hat::Hood => &[".....KKK", "....KKKK", "...KKKKK", "...KKKkk", "...KK...", "...KK...", "...KK...", "....KK.."],
        Hat::Crown => &["....K..K", "....KK.K", "....KKKT"],
        Hat::Cap => &[".....KKK", "....KKKK", "....KKKK", "....kkkk", "...KKKKK"],
        Hat::Straw => &[".....KKK", "....KKKK", "....TTTT", ".KKKKKKK"],
        Hat::Band => &["........", "........", "........", "....KKKK"],
    };
    canvas.paint(0, y + 1, &Art::even(rows), materials);
}

fn hold(canvas: &mut Canvas, who: &Person, y: i32, materials: &[(char, Ramp)]) {
    let tool: &[&str] = match who.held.0 {
        Held::Nothing => &[],
        Held::Sword => &[".M.", ".M.", ".M.", ".M.", ".M.", ".M.", "TTT", ".N."],
        Held::Staff => &[".M.", "MMM", ".M.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N."],
        Held::Spear => &[".M.", ".M.", "MMM", ".N.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N.", ".N."],
        Held::Axe => &["MNM", "MNM", "MNM", ".N.", ".N.", ".N.", ".N.", ".N."],
        Held::Bow => &["N..", ".N.", "..N", "..N", "..N", ".N.", "N.."],
    };
    let top = match who.held.0 {
        Held::Staff | Held::Spear => 4,
        Held::Bow => y + 7,
        _ => y + 4,
    };
    canvas.paint_in_front(12, top, &Art::new(tool), materials);
    if let Some(shield) = who.shield {
        canvas.paint_in_front(
            1,
            y + 9,
            &Art::new(&["AAAA", "ABBA", "ABBA", "ABBA", ".AA."]),
            &[('A', STEEL), ('B', shield)],
        );
    }
}
