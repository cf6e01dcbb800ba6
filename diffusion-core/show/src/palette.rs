//! Palettes of at most 256 colours, for an indexed PNG or all frames of an animation.

use std::collections::HashMap;

/// Red, green and blue, 0 … 255.
pub type Rgb = [u8; 3];

/// A palette, and the index of each colour of the frames in it.
pub(super) struct Palette {
    pub(super) colours: Vec<Rgb>,
    index: HashMap<Rgb, u8>,
}

/// Colours that share one colour of the palette, with their counts.
struct Box {
    members: Vec<(Rgb, u64)>,
    /// The channel along which they differ most, their mean and their spread there.
    split: (usize, f64, f64),
}

impl Palette {
    /// The colours of `pixels` if there are at most `most` (2 to 256), otherwise that many representative ones.
    pub(super) fn of<'a>(pixels: impl Iterator<Item = &'a [u8]>, most: usize) -> Self {
        let mut members: Vec<(Rgb, u64)> = counts(pixels).into_iter().collect();
        members.sort_unstable();

        // Wu's method: split the box whose colours differ most, at their mean, until there are enough boxes.
        let mut boxes = vec![Box::of(members)];
        while boxes.len() < most {
            let widest = boxes.iter().enumerate().max_by(|a, b| a.1.split.2.total_cmp(&b.1.split.2));
            let Some((i, _)) = widest.filter(|(_, widest)| widest.split.2 > 0.0) else {
                break;
            };
            let (channel, mean, _) = boxes[i].split;
            let (low, high) = std::mem::take(&mut boxes[i].members)
                .into_iter()
                .partition(|(colour, _)| f64::from(colour[channel]) <= mean);
            boxes[i] = Box::of(low);
            boxes.push(Box::of(high));
        }
        let index = boxes.iter().enumerate().flat_map(|(i, b)| b.members.iter().map(move |(c, _)| (*c, i as u8)));
        Self { index: index.collect(), colours: boxes.iter().map(Box::colour).collect() }
    }

    /// The colours of `pixels`, or `None` if there are more than 256.
    pub(super) fn exact<'a>(pixels: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut colours: Vec<Rgb> = counts(pixels).into_keys().collect();
        colours.sort_unstable();
        let index = colours.iter().enumerate().map(|(i, c)| (*c, i as u8));
        let index = index.collect();
        (colours.len() <= 256).then_some(Self { colours, index })
    }

    /// The palette index of a pixel of the frames.
    pub(super) fn index(&self, pixel: &[u8]) -> u8 {
        self.index.get(&[pixel[0], pixel[1], pixel[2]]).copied().unwrap_or(0)
    }
}

/// The count of each colour.
fn counts<'a>(pixels: impl Iterator<Item = &'a [u8]>) -> HashMap<Rgb, u64> {
    let mut counts: HashMap<Rgb, u64> = HashMap::new();
    // Neighbours are mostly equal, and counting is faster than a lookup.
    let (mut last, mut run) = (None, 0);
    for colour in pixels.map(|p| Some([p[0], p[1], p[2]])).chain([None]) {
        if colour != last {
            if let Some(last) = last {
                *counts.entry(last).or_default() += run;
            }
            (last, run) = (colour, 0);
        }
        run += 1;
    }
    counts
}

impl Box {
    fn of(members: Vec<(Rgb, u64)>) -> Self {
        let spread = |channel: usize| {
            let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
            for (colour, count) in &members {
                let (value, count) = (f64::from(colour[channel]), *count as f64);
                n += count;
                sum += count * value;
                squares += count * value * value;
            }
            let mean = if n > 0.0 { sum / n } else { 0.0 };
            (channel, mean, squares - sum * mean)
        };
        let widest = (0..3).map(spread).max_by(|a, b| a.2.total_cmp(&b.2));
        // A single colour has no spread, whatever the rounding gives.
        let split = widest.filter(|_| members.len() > 1).unwrap_or((0, 0.0, 0.0));
        Self { members, split }
    }

    /// The colour of most pixels in the box, for example the background; otherwise the mean.
    fn colour(&self) -> Rgb {
        let all: u64 = self.members.iter().map(|m| m.1).sum();
        match self.members.iter().max_by_key(|m| m.1) {
            Some((colour, count)) if 2 * count >= all => *colour,
            _ => [0, 1, 2].map(|channel| {
                let sum: u64 = self.members.iter().map(|(c, n)| u64::from(c[channel]) * n).sum();
                ((sum + all / 2) / all.max(1)) as u8
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_colours_are_kept_exactly() {
        let pixels: Vec<u8> = (0..256).flat_map(|i| [i as u8, 255 - i as u8, 7]).collect();
        let palette = Palette::of(pixels.chunks_exact(3), 256);
        assert_eq!(palette.colours.len(), 256);
        assert!(pixels.chunks_exact(3).all(|p| palette.colours[palette.index(p) as usize] == p));
    }

    #[test]
    fn many_colours_are_approximated_and_the_background_is_kept() {
        // Fixed pseudo-random numbers: the upper bits of a linear congruential generator.
        let mut state = 4u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let mut pixels: Vec<u8> = (0..30_000).map(|_| random()).collect();
        pixels.extend([251, 251, 251].repeat(20_000));
        let palette = Palette::of(pixels.chunks_exact(3), 128);
        assert_eq!(palette.colours.len(), 128);
        let error = |p: &[u8]| {
            let near = palette.colours[palette.index(p) as usize];
            (0..3).map(|c| (f64::from(near[c]) - f64::from(p[c])).powi(2)).sum::<f64>()
        };
        let mean = pixels.chunks_exact(3).take(10_000).map(error).sum::<f64>() / 10_000.0;
        // 128 cells of a cube with side 256 have side 51 and thus a mean squared error of 3 · 51² / 12 = 650.
        assert!(mean < 800.0, "{mean}");
        assert_eq!(error(&[251, 251, 251]), 0.0);
    }
}
