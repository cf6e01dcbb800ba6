//! The mapping from image values to shades of grey or colour.

use super::grid::{Grid, Range, Tile};
use super::palette::Rgb;

/// The colour of pixels that are not finite.
pub(super) const MAGENTA: Rgb = [255, 0, 255];

/// The mapping from values to shades.
pub(super) struct Shades {
    low: f32,
    high: f32,
    stretched: bool,
    /// The number of pixels that are not finite, and the number of pixels.
    not_finite: (usize, usize),
}

impl Shades {
    pub(super) fn of(grid: &Grid) -> Self {
        let stretched = grid.range == Range::Stretch;
        let finite = grid.tiles.iter().flat_map(|t| &t.values).copied().filter(|v| v.is_finite());
        let (low, high) = match stretched {
            true => finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v))),
            false => (-1.0, 1.0),
        };
        let pixels = grid.tile_size.0 * grid.tile_size.1;
        let broken = |tile: &Tile| (0..pixels).filter(|&i| !tile.pixel(i, pixels).all(f32::is_finite)).count();
        let not_finite = (grid.tiles.iter().map(broken).sum(), pixels * grid.tiles.len());
        Self { low, high, stretched, not_finite }
    }

    pub(super) fn colour(&self, tile: &Tile, pixel: usize, pixels: usize) -> Rgb {
        if !tile.pixel(pixel, pixels).all(f32::is_finite) {
            return MAGENTA;
        }
        let mut shades = tile.pixel(pixel, pixels).map(|v| self.shade(v));
        let red = shades.next().unwrap_or(0);
        [red, shades.next().unwrap_or(red), shades.next().unwrap_or(red)]
    }

    pub(super) fn shade(&self, v: f32) -> u8 {
        // In f64, where the difference of two f32 cannot overflow.
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let share = if high > low { (f64::from(v) - low) / (high - low) } else { 0.5 };
        (share * 255.0).round().clamp(0.0, 255.0) as u8
    }

    /// The caption, with notes on what the picture does not show by itself.
    pub(super) fn notes(&self, caption: &str) -> String {
        let mut notes = Vec::from_iter((!caption.is_empty()).then(|| caption.to_string()));
        if self.stretched && self.low <= self.high {
            let [low, high] = [self.low, self.high].map(short);
            notes.push(format!("stretched from [{low}, {high}]"));
        }
        match self.not_finite {
            (0, _) => {}
            (1, of) => notes.push(format!("1 of {of} pixels is NaN or infinite (magenta)")),
            (n, of) => notes.push(format!("{n} of {of} pixels are NaN or infinite (magenta)")),
        }
        notes.join(" · ")
    }
}

impl Tile {
    /// The channels of one pixel.
    fn pixel(&self, i: usize, pixels: usize) -> impl Iterator<Item = f32> {
        (0..self.channels).map(move |c| self.values[c * pixels + i])
    }
}

/// Formats a number with about three significant digits.
fn short(v: f32) -> String {
    let text = match v.abs() {
        0.01..1e4 | 0.0 => format!("{v:.2}"),
        _ => format!("{v:.2e}"),
    };
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Draw;
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn channels_are_red_green_and_blue_in_every_type() -> anyhow::Result<()> {
        let x = Tensor::from_vec(vec![-1f32, 0.0, 1.0], (3, 1, 1), &Device::Cpu)?;
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
            let picture = Grid::new(&x.to_dtype(dtype)?)?.scale(1).draw()?;
            assert_eq!(picture.pixel(12, 12), Some([0, 128, 255]), "{dtype:?}");
        }
        Ok(())
    }

    #[test]
    fn clamp_and_stretch() -> anyhow::Result<()> {
        let x = Tensor::new(&[[[-3f32, -1.0, 0.0, 1.0, 5.0]]], &Device::Cpu)?;
        let shades = |range| -> anyhow::Result<Vec<u8>> {
            let picture = Grid::new(&x)?.scale(20).range(range).draw()?;
            let left = (picture.width() - 100) / 2;
            Ok((0..5).filter_map(|i| picture.pixel(left + 20 * i + 10, 20)).map(|p| p[0]).collect())
        };
        assert_eq!(shades(Range::Clamp)?, [0, 0, 128, 255, 255]);
        assert_eq!(shades(Range::Stretch)?, [0, 64, 96, 128, 255]);
        let notes = Shades::of(&Grid::new(&x)?.range(Range::Stretch)).notes("x");
        assert_eq!(notes, "x · stretched from [−3.00, 5.00]");
        let flat = Grid::new(&Tensor::full(0.3f32, (1, 2, 2), &Device::Cpu)?)?.range(Range::Stretch);
        assert_eq!(Shades::of(&flat).shade(0.3), 128);
        Ok(())
    }

    #[test]
    fn pixels_that_are_not_finite_are_magenta_and_counted() -> anyhow::Result<()> {
        let x = Tensor::new(&[[[f32::NAN, 0.0], [f32::INFINITY, 1.0]]], &Device::Cpu)?;
        let grid = Grid::new(&x)?.scale(50);
        let picture = grid.draw()?;
        let left = (picture.width() - 100) / 2;
        let at = |x: usize, y: usize| picture.pixel(left + 25 + 50 * x, 37 + 50 * y);
        assert_eq!((at(0, 0), at(0, 1)), (Some(MAGENTA), Some(MAGENTA)));
        assert_eq!((at(1, 0), at(1, 1)), (Some([128; 3]), Some([255; 3])));
        assert_eq!(Shades::of(&grid).notes(""), "2 of 4 pixels are NaN or infinite (magenta)");
        Ok(())
    }
}
