//! Drawing a grid: the layout of its tiles and titles.

use anyhow::{Result, ensure};

use super::arrange::{WIDTH, arrangement};
use super::frame::Frame;
use super::grid::{Grid, Tile};
use super::palette::Rgb;
use super::picture::{CARD, INK, PADDING, Picture};
use super::shades::Shades;
use super::text::{Font, LABEL, SMALL, TITLE, ascent, line_height};
use super::{Draw, displayed};

/// The outline of tiles, which makes white ones visible.
const OUTLINE: Rgb = [205, 205, 205];
/// The largest width that titles can give to their column before they are broken into lines, with and without room.
const TITLE_WIDTHS: [f32; 2] = [140.0, 72.0];
/// The largest width for a single word before it is broken.
const WORD_WIDTH: f32 = 160.0;
const ROW_TITLE_WIDTH: f32 = 200.0;
/// Minimum widths of a picture with longer texts; few, so that the frames of an animation have one size.
const TEXT_WIDTHS: [usize; 2] = [180, 360];

displayed!(Grid);

impl Grid {
    fn shown(&self) -> Result<Picture> {
        self.draw()
    }
}

impl Draw for Grid {
    fn draw(&self) -> Result<Picture> {
        draw(self)
    }
}

fn draw(grid: &Grid) -> Result<Picture> {
    let font = Font::new()?;
    let sheet = Sheet::new(grid, &font)?;
    let shades = Shades::of(grid);
    let notes = shades.notes(&grid.caption);

    let texts = [(&grid.title, TITLE), (&notes, SMALL)].map(|(text, size)| font.width(text, size));
    let texts = texts[0].max(texts[1]).ceil() as usize;
    let wider = TEXT_WIDTHS.into_iter().find(|&width| width >= texts);
    let block = sheet.width();
    let inside = if texts <= block { block } else { block.max(wider.unwrap_or(TEXT_WIDTHS[1])) };
    let smaller = "use a smaller .scale or .gap, or fewer images";
    let frame = Frame::new((&grid.title, &notes), (inside, PADDING), 1)?;
    let space = Picture::new(block, sheet.height(), CARD, smaller)?;
    let mut picture = frame.around(&[space], smaller)?;
    let corner = ((picture.width() - block) / 2, frame.above());
    sheet.paint(&font, &shades, &mut picture, corner);
    Ok(picture)
}

/// The layout, in pixels from the top left of the block of tiles and titles.
struct Sheet<'a> {
    grid: &'a Grid,
    scale: usize,
    /// The height and width of an enlarged tile.
    tile: (usize, usize),
    /// The width of a column: that of a tile, or of a wider title.
    cell: usize,
    columns: usize,
    /// The index of the first tile of each row, and the end.
    starts: Vec<usize>,
    /// The titles of tiles, rows and columns, broken into lines.
    titles: Vec<Vec<String>>,
    row_titles: Vec<Vec<String>>,
    column_titles: Vec<Vec<String>>,
    /// The room for row titles, including the gap.
    row_title_width: usize,
}

impl<'a> Sheet<'a> {
    fn new(grid: &'a Grid, font: &Font) -> Result<Self> {
        ensure!(grid.scale != Some(0), "scale = 0; use at least 1");
        ensure!(grid.columns != Some(0), "columns = 0; use at least 1");
        ensure!(
            grid.rows.is_none() || grid.columns.is_none(),
            "columns: the tensors given to Grid::rows decide how many columns there are"
        );
        let count = grid.tiles.len();
        expect("titles", &grid.titles, count, "image")?;

        let lines = |titles: &Option<Vec<String>>, width: f32, size: f32| -> Vec<Vec<String>> {
            let titles = titles.iter().flatten();
            titles.map(|t| font.wrap(t, size, width)).collect()
        };
        let row_titles = lines(&grid.row_titles, ROW_TITLE_WIDTH, LABEL);
        let widths = row_titles.iter().flatten().map(|l| font.width(l, LABEL));
        let row_title_width = match row_titles.is_empty() {
            true => 0,
            false => widths.fold(0.0, f32::max).ceil() as usize + 8,
        };

        // One-line titles may widen columns if this makes neither columns fewer nor images smaller.
        let [wide, narrow] = TITLE_WIDTHS.map(|most| {
            let width = title_width(grid, font, most);
            (width, arrangement(grid, width, row_title_width))
        });
        let column = wide.0.saturating_add(grid.gap);
        let fits = wide.1.columns.saturating_mul(column) <= WIDTH - 2 * PADDING;
        let (title_width, arranged) = if fits && wide.1 == narrow.1 { wide } else { narrow };

        let starts: Vec<usize> = match &grid.rows {
            Some(lengths) => {
                let ends = lengths.iter().scan(0, |end, n| {
                    *end += n;
                    Some(*end)
                });
                [0].into_iter().chain(ends).collect()
            }
            None => (0..count).step_by(arranged.columns).chain([count]).collect(),
        };
        expect("row_titles", &grid.row_titles, starts.len() - 1, "row")?;
        expect("column_titles", &grid.column_titles, arranged.columns, "column")?;
        let tile = (grid.tile_size.0.saturating_mul(arranged.scale), grid.tile_size.1.saturating_mul(arranged.scale));
        let cell = tile.1.max(title_width);
        Ok(Self {
            grid,
            scale: arranged.scale,
            tile,
            cell,
            columns: arranged.columns,
            starts,
            titles: lines(&grid.titles, cell as f32, SMALL),
            column_titles: lines(&grid.column_titles, cell as f32, SMALL),
            row_titles,
            row_title_width,
        })
    }

    fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    fn width(&self) -> usize {
        let cells = self.columns.saturating_mul(self.cell);
        let gaps = (self.columns - 1).saturating_mul(self.grid.gap);
        cells.saturating_add(gaps).saturating_add(self.row_title_width)
    }

    fn height(&self) -> usize {
        let gaps = (self.rows() - 1).saturating_mul(self.grid.gap);
        let start = lines_height(&self.column_titles).saturating_add(gaps);
        (0..self.rows()).fold(start, |sum, row| {
            let tiles = self.title_height(row).saturating_add(self.row_height(row));
            sum.saturating_add(tiles)
        })
    }

    /// The room for the tile titles of a row.
    fn title_height(&self, row: usize) -> usize {
        if self.titles.is_empty() {
            return 0;
        }
        let height = lines_height(&self.titles[self.starts[row]..self.starts[row + 1]]);
        // Closer to their tiles than to those of the row above.
        height + if row > 0 { 5 } else { 0 }
    }

    /// The height of the tiles of a row, or of its title if that is higher.
    fn row_height(&self, row: usize) -> usize {
        let title = self.row_titles.get(row).map_or(0, Vec::len);
        self.tile.0.max(title * line_height(LABEL))
    }

    fn paint(&self, font: &Font, shades: &Shades, on: &mut Picture, corner: (usize, usize)) {
        let first = corner.0 + self.row_title_width;
        let left = |column: usize| first + column * (self.cell + self.grid.gap);
        let middle = |column: usize| left(column) as f32 + self.cell as f32 / 2.0;
        let mut top = corner.1 + lines_height(&self.column_titles);
        // Titles stand directly above what they belong to.
        let title_top = |title: &[String], below: usize| below - 4 - title.len() * line_height(SMALL);
        for (column, title) in self.column_titles.iter().enumerate() {
            font.centred(on, title, SMALL, (middle(column), title_top(title, top)), INK);
        }
        for row in 0..self.rows() {
            top += self.title_height(row);
            let tiles_top = top + (self.row_height(row) - self.tile.0) / 2;
            for (column, i) in (self.starts[row]..self.starts[row + 1]).enumerate() {
                if let Some(title) = self.titles.get(i) {
                    let at = (middle(column), title_top(title, tiles_top));
                    font.centred(on, title, SMALL, at, INK);
                }
                let x = left(column) + (self.cell - self.tile.1) / 2;
                self.paint_tile(&self.grid.tiles[i], shades, on, (x, tiles_top));
            }
            if let Some(title) = self.row_titles.get(row) {
                let room = self.row_height(row) - title.len() * line_height(LABEL);
                for (i, text) in title.iter().enumerate() {
                    let line = font.line(text, LABEL);
                    let x = ((first - 8) as f32 - line.width).round();
                    let y = (top + room / 2 + i * line_height(LABEL)) as f32 + ascent(LABEL);
                    font.write(on, &line, (x, y), INK);
                }
            }
            top += self.row_height(row) + self.grid.gap;
        }
    }

    fn paint_tile(&self, tile: &Tile, shades: &Shades, on: &mut Picture, at: (usize, usize)) {
        let (h, w) = self.grid.tile_size;
        if self.grid.gap >= 3 {
            let around = (self.tile.1 + 2, self.tile.0 + 2);
            on.fill((at.0 - 1, at.1 - 1), around, OUTLINE);
        }
        for (i, (y, x)) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))).enumerate() {
            let corner = (at.0 + x * self.scale, at.1 + y * self.scale);
            on.fill(corner, (self.scale, self.scale), shades.colour(tile, i, h * w));
        }
    }
}

fn expect(what: &str, titles: &Option<Vec<String>>, n: usize, of: &str) -> Result<()> {
    let given = titles.as_ref().map_or(n, Vec::len);
    let s = if n == 1 { "" } else { "s" };
    ensure!(given == n, "{what}: {given} given for {n} {of}{s}");
    Ok(())
}

/// The column width that the titles above tiles and columns need, if lines may have `most` pixels.
fn title_width(grid: &Grid, font: &Font, most: f32) -> usize {
    let all = grid.titles.iter().chain(&grid.column_titles).flatten();
    let widths = all.map(|title| {
        let words = title.split([' ', '\n']).map(|word| font.width(word, SMALL));
        let word = words.fold(0.0, f32::max).min(WORD_WIDTH);
        font.width(title, SMALL).min(most).max(word)
    });
    widths.fold(0.0, f32::max).ceil() as usize
}

fn lines_height(titles: &[Vec<String>]) -> usize {
    let most = titles.iter().map(Vec::len).max().unwrap_or(0);
    most * line_height(SMALL) + 4 * most.min(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Draw;
    use candle_core::{DType, Device, Tensor};

    fn ramp(shape: &[usize]) -> Tensor {
        let n = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..n).map(|i| i as f32 / (n - 1) as f32 * 2.0 - 1.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn message(grid: candle_core::Result<Grid>) -> String {
        match grid {
            Ok(grid) => grid.to_png().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn tiles_are_at_their_positions() -> anyhow::Result<()> {
        // Six images of 2 × 2 in two rows of three, ×5, 4 pixels apart.
        let x = ramp(&[6, 1, 2, 2]);
        let picture = Grid::new(&x)?.columns(3).scale(5).draw()?;
        assert_eq!((picture.width(), picture.height()), (24 + 3 * 10 + 2 * 4, 24 + 2 * 10 + 4));
        for (i, value) in x.flatten_all()?.to_vec1::<f32>()?.into_iter().enumerate() {
            let (tile, y, x) = (i / 4, i / 2 % 2, i % 2);
            let (left, top) = (12 + tile % 3 * 14 + x * 5, 12 + tile / 3 * 14 + y * 5);
            let shade = ((value + 1.0) * 127.5).round() as u8;
            for (dx, dy) in [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)] {
                assert_eq!(picture.pixel(left + dx, top + dy), Some([shade; 3]), "tile {tile} ({x}, {y})");
            }
        }
        assert_eq!((picture.pixel(24, 24), picture.pixel(2, 2)), (Some(CARD), Some(CARD)));
        Ok(())
    }

    #[test]
    fn rows_may_differ_in_length_and_colour() -> anyhow::Result<()> {
        let rows = [ramp(&[3, 3, 4, 4]), ramp(&[2, 1, 4, 4])];
        let picture = Grid::rows(&rows)?.scale(2).draw()?;
        assert_eq!((picture.width(), picture.height()), (24 + 3 * 8 + 2 * 4, 24 + 2 * 8 + 4));
        assert_eq!(picture.pixel(12 + 2 * 12 + 4, 12 + 12 + 4), Some(CARD));
        assert_eq!(message(Grid::rows(&rows).map(|g| g.row_titles(["a"]))), "row_titles: 1 given for 2 rows");
        assert_eq!(message(Grid::rows(&rows).map(|g| g.column_titles(0..4))), "column_titles: 4 given for 3 columns");
        assert!(message(Grid::rows(&[ramp(&[1, 4, 4]), ramp(&[1, 4, 5])])).contains("rows[1]: images of 4 × 5"));
        assert!(message(Grid::rows(&[])).contains("rows"));
        Ok(())
    }

    #[test]
    fn errors_name_the_argument_and_the_numbers() {
        assert!(message(Grid::new(&ramp(&[4, 4]))).contains("images: shape [4, 4]"));
        assert!(message(Grid::new(&ramp(&[2, 4, 8, 8]))).contains("images: 4 channels in shape [2, 4, 8, 8]"));
        let none = Tensor::zeros((0, 1, 8, 8), DType::F32, &Device::Cpu).unwrap();
        assert!(message(Grid::new(&none)).contains("images: shape [0, 1, 8, 8] holds no pixels"));
        let bytes = Tensor::zeros((1, 8, 8), DType::U8, &Device::Cpu).unwrap();
        assert!(message(Grid::new(&bytes)).contains("images: type U8"));
        let grid = || Grid::new(&ramp(&[6, 1, 4, 4])).unwrap();
        assert_eq!(message(Ok(grid().titles(["a", "b"]))), "titles: 2 given for 6 images");
        assert!(message(Ok(grid().scale(0))).contains("scale = 0"));
        assert!(message(Ok(grid().columns(0))).contains("columns = 0"));
        assert!(message(Ok(grid().scale(1 << 40))).contains("smaller .scale"));
        assert!(message(Ok(grid().gap(usize::MAX))).contains("pixels, more than"));
    }

    #[test]
    fn titles_keep_apart() -> anyhow::Result<()> {
        // Wide titles over narrow tiles: the background between the cells is free from top to bottom.
        let titles = ["a title of many words", "unbreakableunbreakableunbreakable", "short"];
        let grid = Grid::new(&ramp(&[3, 1, 8, 8]))?.scale(2).gap(9).titles(titles);
        let (picture, cell) = (grid.draw()?, Sheet::new(&grid, &Font::new()?)?.cell);
        for (x, y) in (0..2)
            .flat_map(|c| (2..7).map(move |dx| 12 + (c + 1) * cell + c * 9 + dx))
            .flat_map(|x| (0..picture.height()).map(move |y| (x, y)))
        {
            assert_eq!(picture.pixel(x, y), Some(CARD), "({x}, {y})");
        }
        Ok(())
    }
}
