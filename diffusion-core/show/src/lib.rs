//! Images, plots and animations that display themselves in a notebook and save to a file.
//!
//! The last expression of a cell is displayed below it: a [`Grid`] of images, a [`Plot`], several plots in [`Panels`],
//! a [`Gif`], or several pictures under a [`Slider`]. Each can also be saved or converted to the bytes of its file. All have a
//! near-white background, so they are readable on light and dark pages. [`Live`] is a page that follows a training run while
//! its cell is busy.
//!
//! Plots are drawn at twice their nominal size, which keeps them sharp on HiDPI screens; a notebook scales them to its
//! column. Grids and GIFs have one pixel per nominal pixel, so image pixels stay crisp.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use diffusion_core::show::{Grid, Plot};
//! let x = Tensor::randn(0f32, 1.0, (8, 3, 16, 16), &Device::Cpu)?;
//! let grid = Grid::new(&x)?.columns(4).caption("Gaussian noise");
//! assert_eq!(&grid.to_png()?[1..4], b"PNG");
//!
//! let t: Vec<f64> = (0..=100).map(|i| i as f64 / 100.0).collect();
//! let alpha_bar: Vec<f64> = t.iter().map(|t| 1.0 - t).collect();
//! let plot = Plot::new("Remaining signal").x("t / T").y("ᾱ_t").line("linear", &t, &alpha_bar);
//! assert_eq!(&plot.to_png()?[1..4], b"PNG");
//! # Ok::<(), anyhow::Error>(())
//! ```

mod arrange;
mod axis;
mod canvas;
mod chart;
mod delta;
mod formula;
mod frame;
mod gif;
mod grid;
mod legend;
mod live;
mod marks;
mod palette;
mod panels;
mod picture;
mod plot;
pub mod progress;
mod shades;
mod sheet;
mod slider;
mod text;
mod values;

pub use gif::{Gif, Loop};
pub use grid::{Grid, Range};
pub use live::{Live, LiveState, Phase, thin};
pub use palette::Rgb;
pub use panels::Panels;
pub use picture::Picture;
pub use plot::Plot;
pub use slider::Slider;
pub use values::{Number, Values};

/// A type that can be drawn as a frame of a [`Gif`] or a [`Slider`].
pub trait Draw {
    /// Draws the picture at its nominal size.
    ///
    /// # Errors
    /// The arguments of the builder methods are inconsistent; the message names the argument and its value.
    fn draw(&self) -> anyhow::Result<Picture>;

    /// Draws the picture for a HiDPI screen, and says how many of its pixels make one of nominal size.
    ///
    /// # Errors
    /// As for [`Self::draw`].
    fn draw_sharp(&self) -> anyhow::Result<(Picture, usize)> {
        Ok((self.draw()?, 1))
    }
}

/// Implements the outputs of a displayable type, as inherent methods so that a notebook need not import a trait.
///
/// `displayed!(Type)` expects a method `shown(&self) -> Result<Picture>`.
macro_rules! displayed {
    ($type:ident) => {
        displayed!(Debug for $type);

        impl $type {
            /// The bytes of a PNG file.
            ///
            /// # Errors
            /// The arguments of the builder methods are inconsistent; the message names the argument and its value.
            pub fn to_png(&self) -> anyhow::Result<Vec<u8>> {
                self.shown().and_then(|picture| picture.png()).map_err($crate::whole)
            }
            displayed!(save $type, to_png, "png");

            /// Displays it below a notebook cell; evcxr calls this for the cell's last expression. Large grids of
            /// photographs are displayed as JPEG, everything else as PNG.
            pub fn evcxr_display(&self) {
                $crate::picture::show_picture(stringify!($type), self.shown().map_err($crate::whole))
            }
        }
    };
    (save $type:ident, $bytes:ident, $extension:literal) => {
        #[doc = concat!("Saves a .", $extension, " file and creates missing folders.")]
        ///
        /// # Errors
        #[doc = concat!("A name that does not end in .", $extension, ", a file that cannot be written, or any error of \
            [`Self::", stringify!($bytes), "`].")]
        pub fn save(&self, path: impl AsRef<std::path::Path>) -> anyhow::Result<()> {
            $crate::picture::write(path.as_ref(), $extension, &self.$bytes()?).map_err($crate::whole)
        }
    };
    (Debug for $type:ident) => {
        /// evcxr uses this if the last expression moves a variable of its cell, so it explains what to do.
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($type), ": a cell shows it as its last expression, unless that expression \
                    moves a variable; use &variable or variable.clone()"))
            }
        }
    };
}
use displayed;

/// Joins an error and its causes in one line, since a notebook shows the outermost message only. The backtrace that
/// candle adds if `RUST_BACKTRACE` is set is removed.
fn whole(error: anyhow::Error) -> anyhow::Error {
    use candle_core::Error::{Context, WithBacktrace, WithPath};
    fn plain(error: &candle_core::Error) -> String {
        match error {
            WithBacktrace { inner, .. } => plain(inner),
            Context { inner, context } => format!("{context}\n{}", plain(inner)),
            WithPath { inner, path } => format!("path: {path:?} {}", plain(inner)),
            other => other.to_string(),
        }
    }
    let reasons = error.chain().map(|reason| {
        let of_candle = reason.downcast_ref::<candle_core::Error>();
        of_candle.map_or_else(|| reason.to_string(), plain)
    });
    anyhow::Error::msg(reasons.collect::<Vec<_>>().join(": "))
}
