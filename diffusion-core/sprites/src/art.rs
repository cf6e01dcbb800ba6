//! Drawings made of characters.

use crate::Rng;

/// A drawing in characters, one string a row.
///
/// `.` nothing · `#` a thin dark line · `o` dark and `w` white detail inside a body · an upper-case letter: the
/// material of that name, lit from above left · the lower-case letter: its shade · a digit: the highlight of the first,
/// second, … material.
#[derive(Clone, Debug)]
pub(super) struct Art(Vec<Vec<u8>>);

impl Art {
    /// A drawing from all of its rows.
    pub(super) fn new(rows: &[&str]) -> Self {
        Self(rows.iter().map(|row| row.bytes().collect()).collect())
    }

    /// A symmetric drawing of even width, from its left half.
    pub(super) fn even(half: &[&str]) -> Self {
        Self::mirrored(half, 0)
    }

    /// A symmetric drawing of odd width, from its left half with the middle column.
    pub(super) fn odd(half: &[&str]) -> Self {
        Self::mirrored(half, 1)
    }

    fn mirrored(half: &[&str], shared: usize) -> Self {
        let whole = |row: &&str| row.bytes().chain(row.bytes().rev().skip(shared)).collect();
        Self(half.iter().map(whole).collect())
    }

    /// Removes some of the given rows and columns, each with probability 1/3, for a lower or slimmer variant.
    ///
    /// Both lists are in decreasing order.
    pub(super) fn squeezed(mut self, rng: &mut Rng, rows: &[usize], columns: &[usize]) -> Self {
        for &row in rows {
            if rng.below(3) == 0 {
                self.0.remove(row);
            }
        }
        for &column in columns {
            if rng.below(3) == 0 {
                self.0.iter_mut().for_each(|row| {
                    row.remove(column);
                });
            }
        }
        self
    }

    /// The drawing without the rows above `row`.
    pub(super) fn below(mut self, row: usize) -> Self {
        self.0.iter_mut().take(row).for_each(|r| r.fill(b'.'));
        self
    }

    /// The drawing turned clockwise by a quarter.
    pub(super) fn turned(self) -> Self {
        let column = |x: usize| self.0.iter().rev().map(|row| row[x]).collect();
        Self((0..self.width() as usize).map(column).collect())
    }

    /// The length of the longest row.
    pub(super) fn width(&self) -> i32 {
        self.0.iter().map(Vec::len).max().unwrap_or(0) as i32
    }

    /// The number of rows.
    pub(super) fn height(&self) -> i32 {
        self.0.len() as i32
    }

    /// Every character with its column and row.
    pub(super) fn cells(&self) -> impl Iterator<Item = (i32, i32, u8)> {
        let row = |(y, row): (usize, &'_ Vec<u8>)| {
            let y = y as i32;
            row.clone().into_iter().enumerate().map(move |(x, c)| (x as i32, y, c))
        };
        self.0.iter().enumerate().flat_map(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(art: &Art) -> Vec<&str> {
        art.0.iter().map(|row| std::str::from_utf8(row).unwrap()).collect()
    }

    #[test]
    fn halves_are_mirrored_and_drawings_turned() {
        assert_eq!(rows(&Art::even(&[".Ab"])), [".AbbA."]);
        assert_eq!(rows(&Art::odd(&[".Ab"])), [".AbA."]);
        assert_eq!(rows(&Art::new(&["AB", "CD", "EF"]).turned()), ["ECA", "FDB"]);
        assert_eq!(rows(&Art::new(&["AB", "CD"]).below(1)), ["..", "CD"]);
    }

    #[test]
    fn squeezing_takes_out_only_what_is_named() {
        let art = Art::new(&["ABC", "DEF", "GHI"]);
        let mut rng = Rng::new(1);
        let mut seen: Vec<Vec<String>> = Vec::new();
        for _ in 0..100 {
            let squeezed = art.clone().squeezed(&mut rng, &[1], &[2]);
            let squeezed: Vec<String> = rows(&squeezed).iter().map(|r| r.to_string()).collect();
            if !seen.contains(&squeezed) {
                seen.push(squeezed);
            }
        }
        seen.sort();
        assert_eq!(seen, [vec!["AB", "DE", "GH"], vec!["AB", "GH"], vec!["ABC", "DEF", "GHI"], vec!["ABC", "GHI"]]);
    }
}
