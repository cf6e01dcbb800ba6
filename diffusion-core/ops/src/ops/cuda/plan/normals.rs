//! Normal numbers, those of [`Rng`](crate::rng::Rng) and no others.

use super::super::launch::{Argument::*, Launch, product};
use crate::rng::RngState;
use candle_core::{Result, bail};

/// Threads of a block, and the attempts of a thread.
const THREADS: usize = 256;
const ATTEMPTS: usize = 4;
/// Bytes of what a draw begins with, at the end of the scratch.
const DRAW: usize = 32;

/// A generator in device memory, in this layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::ops) struct Generator {
    pub(in crate::ops) key: [u32; 8],
    pub(in crate::ops) stream: u64,
    /// In words; even.
    pub(in crate::ops) position: u64,
    pub(in crate::ops) spare: f64,
    /// 1 if `spare` is the next number.
    pub(in crate::ops) has_spare: u32,
    /// Not 0 if once there were too few attempts for the numbers asked for, which then were not all written: a fault of the
    /// plan, or a miracle.
    pub(in crate::ops) failed: u32,
}

impl Generator {
    /// Where `state` is.
    ///
    /// # Errors
    /// It has come to 2⁶⁴ words, or is between the halves of a number.
    pub(in crate::ops) fn new(state: &RngState) -> Result<Self> {
        let position = match u64::try_from(state.position) {
            Ok(position) if position.is_multiple_of(2) => position,
            _ => bail!("normals: a generator at word {} cannot go on on a GPU", state.position),
        };
        let (words, _) = state.key.as_chunks::<4>();
        let mut key = [0; 8];
        for (to, from) in key.iter_mut().zip(words) {
            *to = u32::from_le_bytes(*from);
        }
        Ok(Self {
            key,
            stream: state.stream,
            position,
            spare: state.spare.unwrap_or(0.0),
            has_spare: state.spare.is_some().into(),
            failed: 0,
        })
    }

    /// For [`Rng::from_state`](crate::rng::Rng::from_state).
    ///
    /// # Errors
    /// The generator has failed.
    pub(in crate::ops) fn state(&self) -> Result<RngState> {
        if self.failed != 0 {
            bail!("normals: too few numbers were made")
        }
        let mut key = [0; 32];
        for (to, from) in key.chunks_exact_mut(4).zip(self.key) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        Ok(RngState {
            key,
            stream: self.stream,
            position: self.position.into(),
            spare: (self.has_spare != 0).then_some(self.spare),
        })
    }
}

/// The operation: the next `count` numbers.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Normals {
    pub(in crate::ops) count: usize,
}

impl Normals {
    /// How many attempts are made for the pairs. One succeeds with probability π/4; the mean number for the pairs, 12 of its
    /// standard deviations more, and some.
    fn attempts(&self) -> usize {
        let pairs = self.count.div_ceil(2) as f64;
        let success = std::f64::consts::FRAC_PI_4;
        let deviation = (pairs * (1.0 - success)).sqrt() / success;
        (pairs / success + 12.0 * deviation).ceil() as usize + 64
    }

    fn blocks(&self) -> usize {
        // The first attempt may begin anywhere in the first thread's words.
        (self.attempts() + ATTEMPTS).div_ceil(THREADS * ATTEMPTS)
    }

    /// How many bytes of scratch it needs, at an address that is a multiple of 8.
    pub(in crate::ops) fn scratch(&self) -> usize {
        // A start, of 8 bytes, and a count, of 4, for each block.
        self.blocks() * 12 + DRAW
    }

    /// Writes `count` f32 to `out`, and to `generator`, a [`Generator`], where it is after that.
    ///
    /// # Errors
    /// `count` is 0 or too large.
    pub(in crate::ops) fn forward(&self, generator: u64, out: u64, scratch: u64) -> Result<Vec<Launch>> {
        product("normals", &[self.count, 64])?;
        if self.count == 0 {
            bail!("normals: none is asked for")
        }
        self.launches(self.attempts(), generator, out, scratch)
    }

    fn launches(&self, attempts: usize, generator: u64, out: u64, scratch: u64) -> Result<Vec<Launch>> {
        let blocks = self.blocks();
        let (draw, starts) = (scratch, scratch + DRAW as u64);
        let counts = starts + 8 * blocks as u64;
        let (planned, count) = (U64(attempts as u64), U64(self.count as u64));
        let threads = THREADS as u32;
        Ok(vec![
            Launch::new("normals_count", (blocks, 1), threads, vec![Pointer(counts), Pointer(generator), planned])?,
            Launch::new(
                "normals_scan",
                (1, 1),
                1024.min(blocks.next_multiple_of(32)) as u32,
                vec![Pointer(starts), Pointer(draw), Pointer(counts), U32(blocks as u32), Pointer(generator), count],
            )?,
            Launch::new(
                "normals_write",
                (blocks, 1),
                threads,
                vec![Pointer(out), Pointer(starts), Pointer(draw), Pointer(generator), planned, count],
            )?,
        ])
    }

    /// As [`Normals::forward`] with so few attempts that they do not suffice.
    #[cfg(test)]
    pub(in crate::ops::cuda) fn too_few(&self, generator: u64, out: u64, scratch: u64) -> Result<Vec<Launch>> {
        self.launches(self.count / 2, generator, out, scratch)
    }
}
