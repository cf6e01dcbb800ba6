//! Animations: a sequence of pictures as a GIF.

use ::gif::{Encoder, Repeat};
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

use super::delta;
use super::palette::Palette;
use super::{Draw, Grid, Picture, displayed, picture};

/// An animated GIF of pictures of one size.
///
/// All frames share at most 255 colours: the pictures' own if there are no more, otherwise similar ones.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use diffusion_core::show::Gif;
/// let noise = || Tensor::randn(0f32, 1.0, (2, 1, 8, 8), &Device::Cpu);
/// let states = [noise()?, noise()?];
/// let gif = Gif::of(&states, |i, grid| grid.caption(format!("step {i}")))?.delay_ms(50).hold_last_ms(1000);
/// assert_eq!(&gif.to_gif()?[..6], b"GIF89a");
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct Gif {
    frames: Vec<Picture>,
    delay_ms: u32,
    first_ms: Option<u32>,
    last_ms: Option<u32>,
    looped: Loop,
    colours: usize,
}

/// How often an animation is played.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Loop {
    /// Repeats forever.
    #[default]
    Forever,
    /// Once; then the last frame stays.
    Once,
    /// This many times, at least once; then the last frame stays.
    Times(u16),
}

displayed!(Debug for Gif);

impl Gif {
    /// Creates an animation of grids, plots, panels or pictures, each shown for 100 ms.
    ///
    /// # Errors
    /// A frame cannot be drawn or differs in size from the first, or there are no frames; the message says which.
    pub fn new<D: Draw>(frames: impl IntoIterator<Item = D>) -> Result<Self> {
        let pictures = frames.into_iter().map(|frame| frame.draw());
        let pictures = one_size(pictures).map_err(crate::whole)?;
        ensure!(!pictures.is_empty(), "an animation needs at least one frame");
        Ok(Self { frames: pictures, delay_ms: 100, first_ms: None, last_ms: None, looped: Loop::Forever, colours: 256 })
    }

    /// Creates an animation with one [`Grid`] per tensor, for example for the states of a sampler. `finish` can modify
    /// the grid of frame i, for example to add a caption; `|_, grid| grid` leaves it unchanged.
    ///
    /// # Shapes
    /// Each (N, C, H, W) or (C, H, W) as for [`Grid::new`], all the same.
    ///
    /// # Errors
    /// See [`Grid::new`] and [`Gif::new`].
    pub fn of(states: &[Tensor], finish: impl Fn(usize, Grid) -> Grid) -> Result<Self> {
        let grid = |(i, x)| {
            Grid::new(x).map(|grid| finish(i, grid)).with_context(|| format!("frame {i}")).map_err(crate::whole)
        };
        let grids: Result<Vec<Grid>> = states.iter().enumerate().map(grid).collect();
        Self::new(grids?)
    }

    /// Sets how long each frame is shown, in steps of 10 ms; at most 655 s. Browsers show no frame for less than 20 ms.
    pub fn delay_ms(mut self, ms: u32) -> Self {
        self.delay_ms = ms;
        self
    }

    /// Sets how long the first frame is shown, if different from the others.
    pub fn hold_first_ms(mut self, ms: u32) -> Self {
        self.first_ms = Some(ms);
        self
    }

    /// Sets how long the last frame is shown, if different from the others, to leave time to look at the result.
    pub fn hold_last_ms(mut self, ms: u32) -> Self {
        self.last_ms = Some(ms);
        self
    }

    /// Sets how often the animation is played. Default: forever.
    pub fn looped(mut self, looped: Loop) -> Self {
        self.looped = looped;
        self
    }

    /// Sets the largest number of colours, 4 to 256 (the default); one of them means "unchanged". Fewer colours make
    /// smaller files: 32 about halve them, mostly because more of a picture stays unchanged.
    pub fn colors(mut self, n: usize) -> Self {
        self.colours = n;
        self
    }

    /// The bytes of a GIF file.
    ///
    /// # Errors
    /// `colors` is outside 4 … 256, or frames exceed the format's 65535 pixels in width or height.
    pub fn to_gif(&self) -> Result<Vec<u8>> {
        ensure!((4..=256).contains(&self.colours), "colors = {}; use 4 to 256", self.colours);
        let (width, height) = (self.frames[0].width(), self.frames[0].height());
        let side =
            |n: usize| u16::try_from(n).with_context(|| format!("{width} × {height} pixels are too many for a GIF"));
        let pixels = self.frames.iter().flat_map(|f| f.rgb().chunks_exact(3));
        let palette = Palette::of(pixels, self.colours - 1);
        let transparent = palette.colours.len() as u8;
        let table = [&palette.colours[..], &[[255; 3]]].concat();

        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, side(width)?, side(height)?, table.as_flattened())?;
        encoder.set_repeat(match self.looped {
            Loop::Forever => Repeat::Infinite,
            Loop::Once => Repeat::Finite(0),
            Loop::Times(n) => Repeat::Finite(n.saturating_sub(1)),
        })?;
        let mut before: Vec<u8> = Vec::new();
        for (i, picture) in self.frames.iter().enumerate() {
            let indices: Vec<u8> = (picture.rgb().chunks_exact(3)).map(|p| palette.index(p)).collect();
            let delay = self.delay(i);
            encoder.write_lzw_pre_encoded_frame(&delta::smallest(&before, &indices, width, transparent, delay))?;
            before = indices;
        }
        drop(encoder);
        Ok(bytes)
    }

    /// The delay in the format's unit of 10 ms.
    fn delay(&self, frame: usize) -> u16 {
        let (first, last) = (frame == 0, frame + 1 == self.frames.len());
        let held = self.last_ms.filter(|_| last).or(self.first_ms.filter(|_| first));
        (held.unwrap_or(self.delay_ms).saturating_add(5) / 10).clamp(2, u16::MAX.into()) as u16
    }
}

impl Gif {
    displayed!(save Gif, to_gif, "gif");

    /// Displays it below a notebook cell; evcxr calls this for the cell's last expression.
    pub fn evcxr_display(&self) {
        picture::show("Gif", self.to_gif().map(|file| ("image/gif", file)))
    }
}

/// The frames of an animation or a slider, which must all have the size of the first.
pub(super) fn one_size(frames: impl Iterator<Item = Result<Picture>>) -> Result<Vec<Picture>> {
    let mut pictures: Vec<Picture> = Vec::new();
    for (i, frame) in frames.enumerate() {
        let picture = frame.with_context(|| format!("frame {i}"))?;
        let (width, height) = (picture.width(), picture.height());
        let (first_width, first_height) = pictures.first().map_or((width, height), |p| (p.width(), p.height()));
        ensure!(
            (width, height) == (first_width, first_height),
            "frame {i} is {width} × {height} pixels, but frame 0 is {first_width} × {first_height}; all must have the same size"
        );
        pictures.push(picture);
    }
    Ok(pictures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn states(n: usize, channels: usize) -> Vec<Tensor> {
        let noise = |_| Tensor::randn(0f32, 1.0, (2, channels, 6, 6), &Device::Cpu);
        (0..n).map(|i| noise(i).unwrap()).collect()
    }

    /// The frames as a viewer shows them, their delays and the loop.
    fn decoded(bytes: &[u8]) -> (Vec<Vec<u8>>, Vec<u16>, Repeat) {
        let mut decoder = ::gif::DecodeOptions::new().read_info(bytes).unwrap();
        let palette = decoder.global_palette().unwrap().to_vec();
        let (width, height) = (decoder.width() as usize, decoder.height() as usize);
        let mut canvas = vec![0; 3 * width * height];
        let (mut frames, mut delays) = (Vec::new(), Vec::new());
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            for (i, &index) in frame.buffer.iter().enumerate() {
                let (x, y) =
                    (i % frame.width as usize + frame.left as usize, i / frame.width as usize + frame.top as usize);
                let at = 3 * (y * width + x);
                if Some(index) == frame.transparent {
                    continue;
                }
                canvas[at..at + 3].copy_from_slice(&palette[3 * index as usize..3 * index as usize + 3]);
            }
            frames.push(canvas.clone());
            delays.push(frame.delay);
        }
        (frames, delays, decoder.repeat())
    }

    #[test]
    fn a_decoder_sees_the_frames() -> Result<()> {
        let mut states = states(4, 1);
        states[2] = states[1].clone();
        let gif = Gif::of(&states, |i, grid| grid.caption(format!("step {i}")))?
            .delay_ms(40)
            .hold_first_ms(500)
            .hold_last_ms(2000);
        let (frames, delays, repeat) = decoded(&gif.to_gif()?);
        assert_eq!((delays, repeat), (vec![50, 4, 4, 200], Repeat::Infinite));
        for (seen, want) in frames.iter().zip(&gif.frames) {
            assert_eq!(seen, want.rgb());
        }
        Ok(())
    }

    #[test]
    fn frames_that_do_not_change_still_count() -> Result<()> {
        let state = states(1, 3).remove(0);
        let (frames, delays, _) = decoded(&Gif::new([Grid::new(&state)?, Grid::new(&state)?])?.to_gif()?);
        assert_eq!((frames.len(), delays), (2, vec![10, 10]));
        assert_eq!(frames[0], frames[1]);
        Ok(())
    }

    #[test]
    fn loops_are_counted_as_in_viewers() -> Result<()> {
        let gif = Gif::of(&states(2, 1), |_, grid| grid)?;
        for (looped, repeat) in
            [(Loop::Forever, Repeat::Infinite), (Loop::Once, Repeat::Finite(0)), (Loop::Times(3), Repeat::Finite(2))]
        {
            assert_eq!(decoded(&gif.clone().looped(looped).to_gif()?).2, repeat, "{looped:?}");
        }
        Ok(())
    }

    #[test]
    fn errors_name_the_frame_and_the_sizes() -> Result<()> {
        let [a, b] = [3, 4].map(|side| Tensor::zeros((1, side, side), candle_core::DType::F32, &Device::Cpu).unwrap());
        let grids = [Grid::new(&a)?.scale(2), Grid::new(&b)?.scale(2)];
        let message = format!("{:#}", Gif::new(grids.clone()).unwrap_err());
        assert!(message.starts_with("frame 1 is 32 × 32 pixels, but frame 0 is 30 × 30"), "{message}");
        let message = format!("{:#}", Gif::new([grids[0].clone().titles(["a", "b"])]).unwrap_err());
        assert_eq!(message, "frame 0: titles: 2 given for 1 image");
        assert!(Gif::new(Vec::<Grid>::new()).is_err());
        let message = Gif::new([grids[0].clone()])?.colors(1000).to_gif().unwrap_err().to_string();
        assert!(message.contains("colors = 1000"), "{message}");
        Ok(())
    }

    #[test]
    fn it_can_only_be_saved_as_a_gif() -> Result<()> {
        let gif = Gif::of(&states(2, 1), |_, grid| grid)?;
        let message = gif.save("movie.png").unwrap_err().to_string();
        assert!(message.contains("movie.png") && message.contains(".gif"), "{message}");
        let folder = std::env::temp_dir().join(format!("diffusion-gif-{}", std::process::id()));
        let path = folder.join("in a new folder").join("movie.gif");
        gif.save(&path)?;
        assert_eq!(std::fs::read(&path)?, gif.to_gif()?);
        Ok(std::fs::remove_dir_all(folder)?)
    }
}
