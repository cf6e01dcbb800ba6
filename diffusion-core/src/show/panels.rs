//! Several plots beside and below each other in one picture.

use std::borrow::Borrow;

use anyhow::{Result, ensure};

use super::chart::Legend;
use super::picture::{CARD, INK, PADDING, Picture, SOFT_INK};
use super::text::{Font, SMALL, TITLE, line_height};
use super::{Draw, Plot, displayed, legend};

/// Several plots in one picture. Where all have the same series, their legend is shown once, below.
///
/// ```
/// use diffusion_core::show::{Panels, Plot};
/// let plots = [1.0, 2.0].map(|k| Plot::new(format!("k = {k}")).curve("", 0.0..1.0, |x| x.powf(k)));
/// let panels = Panels::new(2, plots).caption("powers of x");
/// assert_eq!(&panels.to_png()?[1..4], b"PNG");
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct Panels {
    plots: Vec<Plot>,
    columns: usize,
    title: String,
    caption: String,
    size: Option<(usize, usize)>,
}

/// The width that the default sizes fill.
const WIDTH: usize = 1000;

impl Panels {
    /// Plots in reading order, `columns` of them in a row.
    pub fn new(columns: usize, plots: impl IntoIterator<Item = impl Borrow<Plot>>) -> Self {
        Self {
            plots: plots
                .into_iter()
                .map(|plot| plot.borrow().clone())
                .collect(),
            columns,
            title: String::new(),
            caption: String::new(),
            size: None,
        }
    }

    /// A line above all plots.
    pub fn title(mut self, text: impl Into<String>) -> Self {
        self.title = text.into();
        self
    }

    /// A line below all plots.
    pub fn caption(mut self, text: impl Into<String>) -> Self {
        self.caption = text.into();
        self
    }

    /// Width and height of each plot in pixels. By default a row of plots is about 1000 pixels wide, or each plot as large
    /// as its own [`Plot::size`].
    pub fn size(mut self, width: usize, height: usize) -> Self {
        self.size = Some((width, height));
        self
    }
}

displayed!(Panels);

impl Draw for Panels {
    fn draw(&self) -> Result<Picture> {
        let count = self.plots.len();
        ensure!(count > 0, "panels: there are no plots");
        ensure!(self.columns > 0, "panels: columns = 0; use at least 1");
        let columns = self.columns.min(count);
        let width = (WIDTH / columns).clamp(190, 560);
        let default = (width, (width * 3 / 4).max(210));

        let entries = legend::entries(&self.plots[0]);
        let common = count > 1
            && !entries.is_empty()
            && self.plots.iter().all(|p| legend::entries(p) == entries);
        let legend = if common {
            Legend::Hidden
        } else {
            Legend::Shown
        };
        let mut pictures = Vec::with_capacity(count);
        for plot in &self.plots {
            pictures.push(plot.drawn(self.size.or(plot.size).unwrap_or(default), legend)?);
        }

        // Plots of different sizes: each column as wide and each row as high as its largest.
        let widths: Vec<usize> = (0..columns)
            .map(|c| {
                pictures
                    .iter()
                    .skip(c)
                    .step_by(columns)
                    .map(Picture::width)
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let heights: Vec<usize> = pictures
            .chunks(columns)
            .map(|row| row.iter().map(Picture::height).max().unwrap_or(0))
            .collect();
        let width: usize = widths.iter().sum();

        let font = Font::new()?;
        let inside = (width - 2 * PADDING) as f32;
        let lines = |text: &str, size| {
            if text.is_empty() {
                Vec::new()
            } else {
                font.wrap(text, size, inside)
            }
        };
        let (title, caption) = (lines(&self.title, TITLE), lines(&self.caption, SMALL));
        let names = if common {
            Some(legend::rows(&font, &entries, width - 2 * PADDING)?)
        } else {
            None
        };
        let above = if title.is_empty() {
            0
        } else {
            PADDING + title.len() * line_height(TITLE) - 2
        };
        let plots_height: usize = heights.iter().sum();
        let names_height = names.as_ref().map_or(0, |n| n.height() + 8);
        let caption_height = if caption.is_empty() {
            0
        } else {
            caption.len() * line_height(SMALL) + 8
        };
        let height = above + plots_height + names_height + caption_height;

        let mut picture = Picture::new(width, height, CARD, "use fewer or smaller plots")?;
        font.centred(
            &mut picture,
            &title,
            TITLE,
            (width as f32 / 2.0, PADDING),
            INK,
        );
        for (i, plot) in pictures.iter().enumerate() {
            let (row, column) = (i / columns, i % columns);
            let x = widths[..column].iter().sum::<usize>();
            let y = above + heights[..row].iter().sum::<usize>();
            picture.paste(plot, (x, y));
        }
        if let Some(names) = names {
            picture.paste(&names, (PADDING, above + plots_height));
        }
        let caption_top = above + plots_height + names_height;
        font.centred(
            &mut picture,
            &caption,
            SMALL,
            (width as f32 / 2.0, caption_top),
            SOFT_INK,
        );
        Ok(picture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_stand_in_reading_order() -> Result<()> {
        let plot = |i: usize| {
            Plot::new("")
                .line(["a", "b", "c"][i], [0.0, 1.0], [0.0, i as f64])
                .size(200 + 10 * i, 150)
        };
        let panels = Panels::new(2, (0..3).map(plot)).draw()?;
        assert_eq!((panels.width(), panels.height()), (220 + 210, 300));
        let third = plot(2).draw()?;
        for (x, y) in (0..third.width()).flat_map(|x| (0..third.height()).map(move |y| (x, y))) {
            assert_eq!(panels.pixel(x, 150 + y), third.pixel(x, y));
        }
        Ok(())
    }

    #[test]
    fn an_error_in_one_plot_is_that_of_the_panels() {
        let plots = [
            Plot::new("").line("fine", [0.0, 1.0], [0.0, 1.0]),
            Plot::new("empty one"),
        ];
        let message = Panels::new(1, plots).to_png().unwrap_err().to_string();
        assert!(message.contains("empty one"), "{message}");
        let message = Panels::new(0, [Plot::new("")])
            .to_png()
            .unwrap_err()
            .to_string();
        assert!(message.contains("columns = 0"), "{message}");
    }
}
