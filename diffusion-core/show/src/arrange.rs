//! The arrangement of a grid: its number of columns and the scale of its images.

use super::grid::Grid;
use super::picture::PADDING;

/// The largest width of a picture of default size.
pub(super) const WIDTH: usize = 1000;
const HEIGHT: usize = 900;
/// The approximate side of an enlarged image.
const SIDE: usize = 84;
/// The largest number of images that stay in one row if there is room.
const ONE_ROW: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arrangement {
    pub(super) columns: usize,
    pub(super) scale: usize,
}

/// Uses the caller's choices, and otherwise the largest images that keep the picture within its default size.
///
/// `title_width` is the width of a column that titles need, `row_title_width` that of the titles left of the rows.
pub(super) fn arrangement(grid: &Grid, title_width: usize, row_title_width: usize) -> Arrangement {
    let (h, w) = grid.tile_size;
    let count = grid.tiles.len();
    let room = WIDTH - 2 * PADDING - row_title_width.min(WIDTH / 2);
    let with_gap = |pixels: usize| pixels.saturating_add(grid.gap);
    let cell = |scale: usize| with_gap(w.saturating_mul(scale).max(title_width));
    let fit = |scale: usize| (with_gap(room) / cell(scale)).max(1);

    // A few images in one row, more in a block that is wider than high, preferably without gaps in the last row.
    let by_count = |scale: usize| {
        if count <= ONE_ROW.min(fit(scale)) {
            return count;
        }
        let wanted = (count as f64 * 1.7 * h as f64 / w as f64).sqrt().ceil();
        let wanted = (wanted as usize).clamp(1, fit(scale));
        let full = |c: &usize| *c > 0 && count.is_multiple_of(*c);
        (wanted * 3 / 4..=wanted).rev().find(full).unwrap_or(wanted)
    };
    let columns = |scale: usize| match (&grid.rows, grid.columns) {
        (Some(lengths), _) => lengths.iter().copied().max().unwrap_or(1),
        (None, Some(columns)) => columns.min(count),
        (None, None) => by_count(scale),
    };
    let fits = |scale: &usize| {
        let rows = count.div_ceil(columns(*scale));
        let height = rows.saturating_mul(with_gap(h.saturating_mul(*scale)));
        columns(*scale) <= fit(*scale) && (grid.rows.is_some() || height <= HEIGHT)
    };
    let preferred = ((SIDE as f64 / h.max(w) as f64).round() as usize).max(1);
    let largest = || (1..=preferred).rev().find(fits).unwrap_or(1);
    let scale = grid.scale.unwrap_or_else(largest);
    Arrangement { columns: columns(scale), scale }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Draw;
    use candle_core::{DType, Device, Tensor};

    fn grid(n: usize, side: usize) -> Grid {
        let shape = (n, 1, side, side);
        Grid::new(&Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn images_are_enlarged_to_about_the_same_size() {
        for (n, side, columns, scale) in [
            (1, 16, 1, 5),
            (3, 28, 3, 3),
            (10, 28, 10, 3),
            (12, 16, 4, 5),
            (64, 16, 8, 5),
            (200, 28, 16, 2),
            (2, 256, 2, 1),
        ] {
            let want = Arrangement { columns, scale };
            assert_eq!(arrangement(&grid(n, side), 0, 0), want, "{n} of {side}");
        }
        assert_eq!(arrangement(&grid(6, 28).columns(3), 0, 0).columns, 3);
        assert_eq!(arrangement(&grid(6, 28).scale(9), 0, 0).scale, 9);
    }

    #[test]
    fn default_sizes_fit_a_page() -> anyhow::Result<()> {
        for (n, side) in [(1, 16), (3, 28), (10, 28), (12, 16), (64, 32), (200, 28), (500, 16), (7, 256)] {
            let picture = Grid::new(&Tensor::zeros((n, 1, side, side), DType::F32, &Device::Cpu)?)?.draw()?;
            assert!(picture.width() <= WIDTH, "{n} of {side}: {} wide", picture.width());
        }
        Ok(())
    }
}
