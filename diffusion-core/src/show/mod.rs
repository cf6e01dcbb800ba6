//! Pictures, plots and animations that display themselves in a notebook and save to a file.
//!
//! The last expression of a cell is shown below it: a [`Grid`] of images, a [`Plot`], several in [`Panels`], a [`Gif`].
//! Each also gives the bytes of its file and saves it. They have a nearly white background of their own, so that they can
//! be read on a light and on a dark page. [`Live`] is a page that follows a training while its cell is running.
//!
//! ```
//! use diffusion_core::{candle::Device, rng::Rng, show::{Grid, Plot}};
//! let x = Rng::new(1).randn((8, 3, 16, 16), &Device::Cpu)?;
//! let grid = Grid::new(&x)?.columns(4).caption("pure noise");
//! assert_eq!(&grid.to_png()?[1..4], b"PNG");
//!
//! let t: Vec<f64> = (0..=100).map(|i| i as f64 / 100.0).collect();
//! let alpha_bar: Vec<f64> = t.iter().map(|t| 1.0 - t).collect();
//! let plot = Plot::new("Signal that is left").x("t / T").y("ᾱ_t").line("linear", &t, &alpha_bar);
//! assert_eq!(&plot.to_png()?[1..4], b"PNG");
//! # Ok::<(), anyhow::Error>(())
//! ```

mod arrange;
mod axis;
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
mod shades;
mod sheet;
mod text;
mod values;

pub use gif::{Gif, Loop};
pub use grid::{Grid, Range};
pub use live::{Live, LiveState, Phase, thin};
pub use panels::Panels;
pub use picture::{Picture, Rgb};
pub use plot::Plot;
pub use values::{Number, Values};

/// What can be rendered: anything that a frame of a [`Gif`] can be made of.
pub trait Draw {
    /// Renders the picture.
    ///
    /// # Errors
    /// What the builder methods were given does not fit together; the message names the argument and its value.
    fn draw(&self) -> anyhow::Result<Picture>;
}

/// The three ways out of a type that can be drawn. They are inherent methods, so that a notebook need not import a trait.
macro_rules! displayed {
    ($type:ident) => {
        displayed!(Debug for $type);

        impl $type {
            /// The bytes of a PNG file.
            ///
            /// # Errors
            /// What the builder methods were given does not fit together; the message names the argument and its value.
            pub fn to_png(&self) -> anyhow::Result<Vec<u8>> {
                self.draw().and_then(|picture| picture.png()).map_err($crate::whole)
            }
            displayed!($type, to_png, "png", "image/png");
        }
    };
    ($type:ident, $bytes:ident, $extension:literal, $mime:literal) => {
        #[doc = concat!("Saves a .", $extension, " file; folders that are missing are made.")]
        ///
        /// # Errors
        #[doc = concat!("A name that does not end in .", $extension, ", a file that cannot be written, or what [`Self::",
            stringify!($bytes), "`] says.")]
        pub fn save(&self, path: impl AsRef<std::path::Path>) -> anyhow::Result<()> {
            $crate::show::picture::write(path.as_ref(), $extension, &self.$bytes()?).map_err($crate::whole)
        }

        /// Shows it below a notebook cell; evcxr calls this for the cell's last expression.
        pub fn evcxr_display(&self) {
            $crate::show::picture::show(stringify!($type), $mime, self.$bytes())
        }
    };
    (Debug for $type:ident) => {
        /// What evcxr falls back on when the last expression moves a variable of its cell: so it says what to do.
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($type), ": shows itself as the last expression of a cell, unless that \
                    expression moves a variable; pass &variable or variable.clone()"))
            }
        }
    };
}
use displayed;
