//! Normal numbers, identical to those of [`Rng`](crate::rng::Rng).

use super::super::launch::{Argument::*, Launch, product};
use crate::rng::RngState;
use candle_core::{Result, bail};

/// Threads of a block, and attempts of a thread.
const THREADS: usize = 256;
const ATTEMPTS: usize = 4;
/// The bytes of the initial state of a draw, at the end of the scratch memory.
const DRAW: usize = 32;

/// A generator in device memory, with this layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::ops) struct Generator {
    pub(in crate::ops) key: [u32; 8],
    pub(in crate::ops) stream: u64,
    /// The position in words; even.
    pub(in crate::ops) position: u64,
    pub(in crate::ops) spare: f64,
    /// 1 if `spare` is the next number.
    pub(in crate::ops) has_spare: u32,
    /// Not 0 if the attempts did not suffice for the requested numbers, which then were not all written: an error in
    /// the plan, or an extremely rare event.
    pub(in crate::ops) failed: u32,
}

impl Generator {
    /// Converts a state of the CPU's generator.
    ///
    /// # Errors
    /// The position exceeds 2⁶⁴ words, or is between the halves of a number.
    pub(in crate::ops) fn new(state: &RngState) -> Result<Self> {
        let position = match u64::try_from(state.position) {
            Ok(position) if position.is_multiple_of(2) => position,
            _ => bail!("normals: a generator at word {} cannot be continued on a GPU", state.position),
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

    /// Converts back for [`Rng::from_state`](crate::rng::Rng::from_state).
    ///
    /// # Errors
    /// The generator has failed.
    pub(in crate::ops) fn state(&self) -> Result<RngState> {
        if self.failed != 0 {
            bail!("normals: too few numbers were generated")
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

/// The operation: generates the next `count` numbers.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Normals {
    pub(in crate::ops) count: usize,
}

impl Normals {
    /// The number of attempts for the pairs. One attempt succeeds with probability π/4; this is the expected number
    /// plus 12 standard deviations, and some more.
    fn attempts(&self) -> usize {
        let pairs = self.count.div_ceil(2) as f64;
        let success = std::f64::consts::FRAC_PI_4;
        let deviation = (pairs * (1.0 - success)).sqrt() / success;
        (pairs / success + 12.0 * deviation).ceil() as usize + 64
    }

    fn blocks(&self) -> usize {
        // The first attempt may start at any word of the first thread.
        (self.attempts() + ATTEMPTS).div_ceil(THREADS * ATTEMPTS)
    }

    /// The bytes of scratch memory, at an address that is a multiple of 8.
    pub(in crate::ops) fn scratch(&self) -> usize {
        // A start of 8 bytes and a count of 4 bytes for each block.
        self.blocks() * 12 + DRAW
    }

    /// Writes `count` f32 to `out`, and updates `generator`, a [`Generator`].
    ///
    /// # Errors
    /// `count` is 0 or too large.
    pub(in crate::ops) fn forward(&self, generator: u64, out: u64, scratch: u64) -> Result<Vec<Launch>> {
        product("normals", &[self.count, 64])?;
        if self.count == 0 {
            bail!("normals: count is 0")
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

    /// [`Normals::forward`] with too few attempts.
    #[cfg(test)]
    pub(in crate::ops::cuda) fn too_few(&self, generator: u64, out: u64, scratch: u64) -> Result<Vec<Launch>> {
        self.launches(self.count / 2, generator, out, scratch)
    }
}
