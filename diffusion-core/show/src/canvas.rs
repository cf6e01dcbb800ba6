//! The drawing surface for plotters: its bitmap backend, with our own text and round line joints.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::{BitMapBackend, DrawingArea, DrawingBackend, IntoDrawingArea};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingErrorKind};

use super::picture::{CARD, Picture};
use super::text::Font;

/// The pixels of a plot per nominal pixel, in each direction.
pub(super) const ZOOM: usize = 2;
/// The pixels that plotters draws per nominal pixel. Averaging `FINE / ZOOM` of them in each direction into a pixel of
/// the plot smooths edges.
pub(super) const FINE: i32 = 4;

pub(super) struct Canvas<'a> {
    bitmap: BitMapBackend<'a>,
    font: Font,
}

pub(super) type Area<'a> = DrawingArea<Canvas<'a>, Shift>;

/// Draws a picture of `width` × `height` nominal pixels with `draw`, in units of `1 / FINE` nominal pixels.
pub(super) fn paint((width, height): (usize, usize), draw: impl FnOnce(&Area) -> Result<()>) -> Result<Picture> {
    let (width, height) = (FINE as usize * width, FINE as usize * height);
    let mut rgb = CARD.repeat(width * height);
    let canvas =
        Canvas { bitmap: BitMapBackend::with_buffer(&mut rgb, (width as u32, height as u32)), font: Font::new()? };
    draw(&canvas.into_drawing_area())?;
    Ok(Picture::from_rgb(width, height, rgb).halved())
}

type Drawn<E> = Result<(), DrawingErrorKind<E>>;
type Failure = <BitMapBackend<'static> as DrawingBackend>::ErrorType;

impl DrawingBackend for Canvas<'_> {
    type ErrorType = Failure;

    fn get_size(&self) -> (u32, u32) {
        self.bitmap.get_size()
    }

    fn ensure_prepared(&mut self) -> Drawn<Failure> {
        self.bitmap.ensure_prepared()
    }

    fn present(&mut self) -> Drawn<Failure> {
        self.bitmap.present()
    }

    fn draw_pixel(&mut self, point: BackendCoord, color: BackendColor) -> Drawn<Failure> {
        self.bitmap.draw_pixel(point, color)
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn<Failure> {
        self.bitmap.draw_line(from, to, style)
    }

    /// Draws each segment separately: the default fills one polygon for the path, with holes where a noisy line crosses
    /// itself.
    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Drawn<Failure> {
        let mut last = None;
        for point in path {
            if let Some(last) = last {
                self.draw_line(last, point, style)?;
            }
            if style.stroke_width() > 4 {
                self.draw_circle(point, style.stroke_width() / 2, &style.color(), true)?;
            }
            last = Some(point);
        }
        Ok(())
    }

    fn draw_text<TStyle: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &TStyle,
        (x, y): BackendCoord,
    ) -> Drawn<Failure> {
        let size = style.size() as f32;
        let line = self.font.line(text, size);
        let left = match style.anchor().h_pos {
            HPos::Left => 0.0,
            HPos::Center => -line.width / 2.0,
            HPos::Right => -line.width,
        };
        let top = match style.anchor().v_pos {
            VPos::Top => 0.0,
            VPos::Center => -0.65 * size,
            VPos::Bottom => -1.3 * size,
        };
        let (transform, color) = (style.transform(), style.color());
        let (width, height) = self.get_size();
        let inside = |x: i32, y: i32| x >= 0 && y >= 0 && x < width as i32 && y < height as i32;
        let mut drawn = Ok(());
        let Self { bitmap, font } = self;
        font.draw(&line, (left, top + 1.01 * size), |dx, dy, share| {
            let (dx, dy) = transform.transform(dx as i32, dy as i32);
            if inside(x + dx, y + dy) && drawn.is_ok() {
                drawn = bitmap.draw_pixel((x + dx, y + dy), color.mix(share.into()));
            }
        });
        drawn
    }

    fn estimate_text_size<TStyle: BackendTextStyle>(
        &self,
        text: &str,
        style: &TStyle,
    ) -> Result<(u32, u32), DrawingErrorKind<Failure>> {
        let size = style.size() as f32;
        let width = self.font.width(text, size).ceil();
        Ok((width as u32, (1.3 * size) as u32))
    }
}
