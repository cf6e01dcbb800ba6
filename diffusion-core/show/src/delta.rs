//! The difference between consecutive frames of an animation.

use gif::Frame;

/// The smaller of two frames that turn one picture into the next (both given by colour indices): the rectangle of all
/// changes, with all its pixels or with only the changed ones and the others transparent.
pub(super) fn smallest(before: &[u8], after: &[u8], width: usize, transparent: u8, delay: u16) -> Frame<'static> {
    let [left, top, right, bottom] = changed(before, after, width);
    let inside = |picture: &[u8]| -> Vec<u8> {
        let rows = picture.chunks_exact(width).take(bottom).skip(top);
        rows.flat_map(|row| &row[left..right]).copied().collect()
    };
    let encoded = |pixels: Vec<u8>, transparent: Option<u8>| {
        let mut frame = Frame {
            delay,
            transparent,
            left: left as u16,
            top: top as u16,
            width: (right - left) as u16,
            height: (bottom - top) as u16,
            buffer: pixels.into(),
            ..Frame::default()
        };
        frame.make_lzw_pre_encoded();
        frame
    };
    let after = inside(after);
    if before.is_empty() {
        return encoded(after, None);
    }
    let pairs = inside(before).into_iter().zip(&after);
    let changes = pairs.map(|(old, &new)| if old == new { transparent } else { new }).collect();
    let (changes, all) = (encoded(changes, Some(transparent)), encoded(after, None));
    if changes.buffer.len() < all.buffer.len() { changes } else { all }
}

/// The smallest rectangle that contains all changes, as left, top, right, bottom; one pixel if there are none.
fn changed(before: &[u8], after: &[u8], width: usize) -> [usize; 4] {
    let height = after.len() / width;
    if before.len() != after.len() {
        return [0, 0, width, height];
    }
    let rows = before.chunks_exact(width).zip(after.chunks_exact(width)).enumerate();
    let changes = rows.filter_map(|(y, (before, after))| {
        let differs = |&x: &usize| before[x] != after[x];
        Some((y, (0..width).find(differs)?, (0..width).rev().find(differs)?))
    });
    changes
        .map(|(y, left, right)| [left, y, right + 1, y + 1])
        .reduce(|a, b| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])])
        .unwrap_or([0, 0, 1, 1])
}
