//! Several plots side by side and in rows, in one picture.

use std::borrow::Borrow;

use anyhow::{Result, ensure};

use super::canvas::ZOOM;
use super::chart::to_show;
use super::frame::Frame;
use super::picture::{CARD, PADDING, Picture};
use super::plot::WIDTH;
use super::{Draw, Plot, displayed, legend};

/// Several plots in one picture. If all have the same series, one legend is shown below.
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

impl Panels {
    /// Arranges plots in reading order, `columns` of them in a row.
    pub fn new(columns: usize, plots: impl IntoIterator<Item = impl Borrow<Plot>>) -> Self {
        let plots = plots.into_iter().map(|plot| plot.borrow().clone());
        Self { plots: plots.collect(), columns, title: String::new(), caption: String::new(), size: None }
    }

    /// Sets a line above all plots.
    pub fn title(mut self, text: impl Into<String>) -> Self {
        self.title = text.into();
        self
    }

    /// Sets a line below all plots.
    pub fn caption(mut self, text: impl Into<String>) -> Self {
        self.caption = text.into();
        self
    }

    /// Sets the width and height of each plot in nominal pixels. By default a row of plots is 960 pixels wide, or each
    /// plot has its own [`Plot::size`].
    pub fn size(mut self, width: usize, height: usize) -> Self {
        self.size = Some((width, height));
        self
    }

    fn at_its_size(&self) -> Result<Picture> {
        let count = self.plots.len();
        ensure!(count > 0, "panels: there are no plots");
        ensure!(self.columns > 0, "panels: columns = 0; use at least 1");
        let columns = self.columns.min(count);
        let width = (WIDTH / columns).max(180);

        let entries = legend::entries(&self.plots[0]);
        let same = |plot: &Plot| legend::entries(plot) == entries;
        let common = count > 1 && !entries.is_empty() && self.plots.iter().all(same);
        let draw = |plot: &Plot| {
            let height = if plot.equal { width } else { (width * 7 / 10).clamp(210, 400) };
            plot.drawn(self.size.or(plot.size).unwrap_or((width, height)), !common)
        };
        let pictures: Vec<Picture> = self.plots.iter().map(draw).collect::<Result<_>>()?;

        // For plots of different sizes, each column is as wide and each row as high as its largest plot.
        let column = |c: usize| pictures.iter().skip(c).step_by(columns).map(Picture::width);
        let widths = (0..columns).map(|c| column(c).max().unwrap_or(0));
        let widths: Vec<usize> = widths.collect();
        let highest = |row: &[Picture]| row.iter().map(Picture::height).max().unwrap_or(0);
        let heights: Vec<usize> = pictures.chunks(columns).map(highest).collect();

        let (width, height) = (widths.iter().sum(), heights.iter().sum());
        let smaller = "use fewer or smaller plots";
        let mut all = Picture::new(width, height, CARD, smaller)?;
        for (i, plot) in pictures.iter().enumerate() {
            let (row, column) = (i / columns, i % columns);
            let at = (widths[..column].iter().sum(), heights[..row].iter().sum());
            all.paste(plot, at);
        }
        let mut content = vec![all];
        if common {
            content.push(legend::rows(&entries, width / ZOOM - 2 * PADDING)?);
        }
        let texts = (self.title.as_str(), self.caption.as_str());
        Frame::new(texts, (width / ZOOM, 0), ZOOM)?.around(&content, smaller)
    }

    fn shown(&self) -> Result<Picture> {
        to_show(&self.at_its_size()?)
    }
}

displayed!(Panels);

impl Draw for Panels {
    fn draw(&self) -> Result<Picture> {
        Ok(self.at_its_size()?.halved())
    }

    fn draw_sharp(&self) -> Result<(Picture, usize)> {
        Ok((self.at_its_size()?.in_few_colours(), ZOOM))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_stand_in_reading_order() -> Result<()> {
        let plot = |i: usize| {
            let ys = [0.0, i as f64];
            let plot = Plot::new("").line(["a", "b", "c"][i], [0.0, 1.0], ys);
            plot.size(200 + 10 * i, 150)
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
        let message = |panels: Panels| panels.to_png().unwrap_err().to_string();
        let fine = Plot::new("").line("fine", [0.0, 1.0], [0.0, 1.0]);
        let broken = message(Panels::new(1, [fine.clone(), Plot::new("empty one")]));
        assert!(broken.contains("empty one"), "{broken}");
        assert!(message(Panels::new(0, [fine])).contains("columns = 0"));
    }
}
