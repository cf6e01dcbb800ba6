//! The random source of the sprites.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A seeded source of random integers, the same on every platform.
///
/// The bits are those of ChaCha with 8 rounds, as in `diffusion_core::rng::Rng`, so a seed gives the same sprites in
/// both.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// Creates a source whose numbers are determined by `seed`.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Creates a source with the same seed and another stream, whose numbers are independent of those of other streams.
    ///
    /// It depends on the seed and on `stream` (from 1 on), but not on the numbers drawn from `self`.
    pub fn fork(&self, stream: u64) -> Self {
        let mut bits = ChaCha8Rng::from_seed(self.0.get_seed());
        bits.set_stream(stream);
        Self(bits)
    }

    /// A uniform integer in 0 … n−1; `n` = 0 gives 0.
    pub fn below(&mut self, n: usize) -> usize {
        // Lemire's multiplication (https://arxiv.org/abs/1805.10941), rejecting the remainder that would cause a bias.
        let n = n.max(1) as u64;
        let reject_below = n.wrapping_neg() % n;
        loop {
            let wide = u128::from(self.0.next_u64()) * u128::from(n);
            if wide as u64 >= reject_below {
                return (wide >> 64) as usize;
            }
        }
    }
}
