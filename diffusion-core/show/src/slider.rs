//! A slider over pictures that were drawn beforehand.

use std::path::Path;

use anyhow::{Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine};

use super::gif::one_size;
use super::live::escaped;
use super::{Draw, displayed, picture};

/// Pictures under one slider: the reader moves it, and the page shows the picture of that value.
///
/// All pictures are part of the output, so it needs no running kernel and no network, and it is as large as all of them
/// together. Where scripts do not run (on GitHub, in a notebook that JupyterLab does not trust), the first picture is shown
/// with its value. The arrow keys move a slider that has the focus; screen readers read its name and value.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use diffusion_core::show::{Grid, Slider};
/// let x0 = Tensor::zeros((1, 1, 8, 8), candle_core::DType::F32, &Device::Cpu)?;
/// let mut frames = Vec::new();
/// for sigma in [0.0, 0.5, 1.0] {
///     frames.push((format!("{sigma:.1}"), Grid::new(&(&x0 + x0.randn_like(0.0, sigma)?)?)?));
/// }
/// let slider = Slider::new("standard deviation of the noise", frames)?.start(1);
/// assert!(slider.to_html().contains("0.5"));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct Slider {
    name: String,
    /// The value of each frame, as text, and its PNG file.
    frames: Vec<(String, Vec<u8>)>,
    /// The nominal size of all frames, in pixels.
    size: (usize, usize),
    start: usize,
    caption: String,
}

displayed!(Debug for Slider);

const PAGE: &str = include_str!("slider/page.html");

impl Slider {
    /// A slider called `name` over pairs of a value and what to show for it: grids, plots, panels or pictures.
    ///
    /// # Errors
    /// A frame that cannot be drawn or is not as large as the first, or fewer than two frames; the message says which.
    pub fn new<T: ToString, D: Draw>(
        name: impl Into<String>,
        frames: impl IntoIterator<Item = (T, D)>,
    ) -> Result<Self> {
        let (values, drawings): (Vec<T>, Vec<D>) = frames.into_iter().unzip();
        ensure!(values.len() > 1, "a slider needs at least two frames, not {}", values.len());
        let mut zoom = 1;
        let pictures = drawings.iter().map(|drawing| {
            let (picture, pixels) = drawing.draw_sharp()?;
            zoom = pixels;
            Ok(picture)
        });
        let pictures = one_size(pictures).map_err(crate::whole)?;
        let size = (pictures[0].width() / zoom, pictures[0].height() / zoom);
        let mut frames = Vec::new();
        for (value, picture) in values.iter().zip(&pictures) {
            frames.push((value.to_string(), picture.png()?));
        }
        Ok(Self { name: name.into(), frames, size, start: 0, caption: String::new() })
    }

    /// Which frame is shown first, counted from 0; a number beyond the last means the last. Default: 0.
    pub fn start(mut self, frame: usize) -> Self {
        self.start = frame.min(self.frames.len() - 1);
        self
    }

    /// A line of text below the picture.
    pub fn caption(mut self, text: impl Into<String>) -> Self {
        self.caption = text.into();
        self
    }

    /// The HTML that is shown below the cell: one element, with its own script.
    pub fn to_html(&self) -> String {
        let frames = self.frames.iter().map(|(value, png)| (value, BASE64_STANDARD.encode(png)));
        let frames = serde_json::to_string(&frames.collect::<Vec<_>>()).unwrap_or_default(); // strings always can be
        let (value, png) = &self.frames[self.start];
        let caption = match self.caption.as_str() {
            "" => String::new(),
            text => format!("\n<p style=\"margin: 0 12px\">{}</p>", escaped(text)),
        };
        // What readers wrote comes last, so that it cannot hold one of these names.
        PAGE.replace("@WIDTH@", &self.size.0.to_string())
            .replace("@HEIGHT@", &self.size.1.to_string())
            .replace("@START@", &self.start.to_string())
            .replace("@PNG@", &BASE64_STANDARD.encode(png))
            .replace("@FRAMES@", &frames.replace('<', "\\u003c"))
            .replace("@VALUE@", &escaped(value))
            .replace("@NAME@", &escaped(&self.name))
            .replace("@CAPTION@", &caption)
    }

    /// Saves the slider as an .html file of its own and creates missing folders.
    ///
    /// # Errors
    /// A name that does not end in .html, or a file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let page = format!("<!DOCTYPE html>\n<meta charset=\"utf-8\">\n{}", self.to_html());
        picture::write(path.as_ref(), "html", page.as_bytes()).map_err(crate::whole)
    }

    /// Shows it below a notebook cell; evcxr calls this for the cell's last expression.
    pub fn evcxr_display(&self) {
        println!("EVCXR_BEGIN_CONTENT text/html\n{}\nEVCXR_END_CONTENT", self.to_html());
        // For what renders a notebook without HTML, a PDF for instance.
        picture::show("Slider", Ok(("image/png", self.frames[self.start].1.clone())));
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::{Grid, Plot};

    fn grid(side: usize) -> Grid {
        Grid::new(&Tensor::zeros((1, 1, side, side), DType::F32, &Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn the_page_holds_every_frame_and_shows_the_chosen_one() -> Result<()> {
        let frames = [1.0, 2.0, 3.0].map(|y| (format!("y = {y}"), Plot::new("").line("", [0.0, 1.0], [0.0, y])));
        let slider = Slider::new("slope", frames)?.start(7).caption("three lines");
        let html = slider.to_html();
        for (value, png) in &slider.frames {
            let png = BASE64_STANDARD.encode(png);
            assert!(html.contains(&format!("[\"{value}\",\"{png}\"]")));
        }
        let last = BASE64_STANDARD.encode(&slider.frames[2].1);
        assert!(html.contains(&format!("src=\"data:image/png;base64,{last}\"")));
        assert!(html.contains("<figcaption>slope: y = 3</figcaption>") && html.contains("three lines"));
        assert!(!html.contains('@'), "a name that nothing was put in for");
        // Plots are drawn at twice their nominal size.
        let width = |png: &[u8]| u32::from_be_bytes(png[16..20].try_into().unwrap()) as usize;
        assert_eq!(width(&slider.frames[0].1), 2 * slider.size.0);
        Ok(())
    }

    #[test]
    fn text_cannot_leave_its_place() -> Result<()> {
        let hostile = "</script><b>\"@VALUE@";
        let html = Slider::new(hostile, [(hostile, grid(4)), ("b", grid(4))])?.caption(hostile).to_html();
        assert_eq!(html.matches("</script>").count(), 1, "its own");
        assert!(!html.contains("<b>"));
        Ok(())
    }

    #[test]
    fn frames_that_cannot_be_are_named() {
        let error = |frames: Vec<(usize, Grid)>| Slider::new("t", frames).unwrap_err().to_string();
        assert_eq!(error(vec![(0, grid(4))]), "a slider needs at least two frames, not 1");
        let sizes = error(vec![(0, grid(4)), (1, grid(5))]);
        assert!(sizes.starts_with("frame 1 is ") && sizes.ends_with("all must have the same size"), "{sizes}");
    }
}
