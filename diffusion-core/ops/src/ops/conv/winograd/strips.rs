//! Splitting the rows of tiles into units of work.

use super::{Plan, TILES, threads};
use std::ops::Range;

/// Some rows of tiles of one image.
#[derive(Clone)]
pub(super) struct Strip {
    pub(super) image: usize,
    pub(super) rows: Range<usize>,
}

/// The strips of a unit of work, from the rows of tiles of all images.
pub(super) fn strips(rows_per_image: usize, range: Range<usize>) -> Vec<Strip> {
    let mut strips = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let image = at / rows_per_image;
        let end = range.end.min((image + 1) * rows_per_image);
        let rows = at - image * rows_per_image..end - image * rows_per_image;
        strips.push(Strip { image, rows });
        at = end;
    }
    strips
}

/// The number of rows of tiles in a unit of work: about [`TILES`] tiles, but at least one unit for each thread.
pub(super) fn rows_per_unit<const N: usize, const M: usize>(plan: &Plan<N, M>) -> usize {
    let rows = plan.problem.batch * plan.tiles_h;
    (TILES / plan.tiles_w).clamp(1, rows.div_ceil(threads()))
}
