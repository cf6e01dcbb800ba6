//! The 40 colours of the sprites besides white, in ramps from outline to highlight.

/// A colour: red, green, blue.
pub(super) type Rgb = [u8; 3];

/// Four tones of one material: outline, shade, base and highlight.
pub(super) type Ramp = [Rgb; 4];

/// The background, and the glint in an eye.
pub(super) const WHITE: Rgb = [255, 255, 255];
/// Outlines, eyes and everything else that is nearly black.
pub(super) const INK: Rgb = hex(0x1b1726);

const UMBER: Rgb = hex(0x6b3f22);
const SAND: Rgb = hex(0xd6a468);
const CREAM: Rgb = hex(0xfcf0d2);
const WINE: Rgb = hex(0x5a1529);
const NAVY: Rgb = hex(0x1c2560);

pub(super) const COAL: Ramp = [INK, INK, hex(0x3b3f52), hex(0x6b7388)];
pub(super) const STEEL: Ramp = [hex(0x3b3f52), hex(0x6b7388), hex(0xa3adbd), hex(0xdbe3ec)];
pub(super) const SNOW: Ramp = [hex(0x6b7388), hex(0xa3adbd), hex(0xdbe3ec), WHITE];
pub(super) const RED: Ramp = [WINE, hex(0xa8243a), hex(0xe0423c), hex(0xf98a6e)];
pub(super) const ORANGE: Ramp = [UMBER, hex(0xc9541a), hex(0xf08c2a), hex(0xfcc35a)];
pub(super) const YELLOW: Ramp = [UMBER, hex(0xd08a1c), hex(0xf5c731), hex(0xfdf09a)];
pub(super) const GREEN: Ramp = [hex(0x173f33), hex(0x23753a), hex(0x4fb043), hex(0xa6e066)];
pub(super) const TEAL: Ramp = [NAVY, hex(0x16787f), hex(0x2fb8a6), hex(0x8df0d0)];
pub(super) const BLUE: Ramp = [NAVY, hex(0x2a4fb0), hex(0x4590e8), hex(0x9bd8fa)];
pub(super) const PURPLE: Ramp = [hex(0x34195c), hex(0x6a31a0), hex(0x9f5fd6), hex(0xd9b0f5)];
pub(super) const PINK: Ramp = [WINE, hex(0xb53a78), hex(0xec6f9f), hex(0xfbb9cc)];
pub(super) const BROWN: Ramp = [hex(0x3a2016), UMBER, hex(0xa26a3a), SAND];
pub(super) const WOOD: Ramp = [INK, hex(0x3a2016), UMBER, hex(0xa26a3a)];
pub(super) const CRUST: Ramp = [UMBER, hex(0xa26a3a), SAND, hex(0xfcc35a)];
pub(super) const BONE: Ramp = [UMBER, SAND, CREAM, WHITE];
pub(super) const FAIR: Ramp = [UMBER, SAND, hex(0xf7cfa8), CREAM];
pub(super) const TAN: Ramp = [hex(0x3a2016), hex(0xa26a3a), SAND, hex(0xf7cfa8)];
pub(super) const DARK: Ramp = [hex(0x3a2016), UMBER, hex(0x8a5530), hex(0xa26a3a)];

/// Ramps for cloth, scales and magic.
pub(super) const VIVID: [Ramp; 8] = [RED, ORANGE, YELLOW, GREEN, TEAL, BLUE, PURPLE, PINK];

/// The English name of a ramp.
pub(super) fn name(ramp: Ramp) -> &'static str {
    let names = [
        (COAL, "black"),
        (STEEL, "grey"),
        (SNOW, "white"),
        (RED, "red"),
        (ORANGE, "orange"),
        (YELLOW, "yellow"),
        (GREEN, "green"),
        (TEAL, "teal"),
        (BLUE, "blue"),
        (PURPLE, "purple"),
        (PINK, "pink"),
        (BROWN, "brown"),
        (WOOD, "dark brown"),
        (CRUST, "golden"),
        (BONE, "cream"),
        (FAIR, "fair"),
        (TAN, "tan"),
        (DARK, "dark"),
    ];
    let found = names.into_iter().find(|(of, _)| *of == ramp);
    found.map_or("colourful", |(_, name)| name)
}

const fn hex(rgb: u32) -> Rgb {
    let [_, r, g, b] = rgb.to_be_bytes();
    [r, g, b]
}
