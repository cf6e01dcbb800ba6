//! The random source of the sprites.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A seeded source of whole numbers, the same on every machine.
///
/// The bits are those of ChaCha with 8 rounds, as in `diffusion_core::rng::Rng`, so that a seed names the same sprites in both.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// A source whose numbers are determined by `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A source with the same seed and numbers of its own, independent of those of `self` and of other streams.
    ///
    /// It depends on the seed and on `stream` (from 1 on), not on how much has been drawn from `self`.
    pub fn fork(&self, stream: u64) -> Self {
        let mut bits = ChaCha8Rng::from_seed(self.0.get_seed());
        bits.set_stream(stream);
        Self(bits)
    }

    /// An integer in 0 … n−1, each equally likely. `n` = 0 gives 0.
    pub fn below(&mut self, n: usize) -> usize {
        // Lemire's multiplication (https://arxiv.org/abs/1805.10941) with rejection of the uneven rest.
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
