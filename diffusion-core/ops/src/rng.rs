//! Seeded random numbers: the same on every run, operating system and processor.
//!
//! candle cannot seed its CPU generator, so all random numbers of diffusion-core come from an [`Rng`] that the caller
//! passes in: noise, batches, time steps, initial weights, built-in images. The bits are those of ChaCha with 8 rounds
//! ([Bernstein 2008](https://cr.yp.to/chacha/chacha-20080128.pdf)); logarithms are computed in software, because the
//! last digit of the built-in ones differs between platforms.

use candle_core::{Device, Result, Shape, Tensor, bail};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A seeded generator of uniform and normal numbers, random tensors, and permutations.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::Device, rng::Rng};
/// let a = Rng::new(7).randn((2, 3), &Device::Cpu)?;
/// let b = Rng::new(7).randn((2, 3), &Device::Cpu)?;
/// assert_eq!(a.to_vec2::<f32>()?, b.to_vec2::<f32>()?);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rng {
    bits: ChaCha8Rng,
    /// The second number of the last pair from the polar method.
    spare: Option<f64>,
}

/// The complete state of a generator, from [`Rng::state`], for [`Rng::from_state`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RngState {
    /// The 256-bit key.
    pub key: [u8; 32],
    /// The stream: 0 for [`Rng::new`], otherwise the argument of [`Rng::fork`].
    pub stream: u64,
    /// The number of 32-bit words drawn so far.
    pub position: u128,
    /// A normal number that has been generated but not returned yet.
    pub spare: Option<f64>,
}

impl Rng {
    /// Creates a generator whose numbers are determined by `seed`.
    pub fn new(seed: u64) -> Self {
        Self { bits: ChaCha8Rng::seed_from_u64(seed), spare: None }
    }

    /// Creates a generator with the same seed and another stream, whose numbers are independent of those of other
    /// streams.
    ///
    /// It depends on the seed and on `stream` (from 1 on), but not on the numbers drawn from `self`: image 12 of a set
    /// is the same whichever images were drawn before it.
    pub fn fork(&self, stream: u64) -> Self {
        let mut bits = ChaCha8Rng::from_seed(self.bits.get_seed());
        bits.set_stream(stream);
        Self { bits, spare: None }
    }

    /// Creates an independent generator, seeded with the next number of this one, without drawing that number.
    pub fn split(&self) -> Self {
        Self::new(self.bits.clone().next_u64())
    }

    /// The state from which [`Rng::from_state`] continues.
    pub fn state(&self) -> RngState {
        RngState {
            key: self.bits.get_seed(),
            stream: self.bits.get_stream(),
            position: self.bits.get_word_pos(),
            spare: self.spare,
        }
    }

    /// Restores a generator from [`Rng::state`]; it continues with the same numbers.
    pub fn from_state(state: RngState) -> Self {
        let mut bits = ChaCha8Rng::from_seed(state.key);
        bits.set_stream(state.stream);
        bits.set_word_pos(state.position);
        Self { bits, spare: state.spare }
    }

    /// A uniform number in [0, 1), with all 53 bits of an f64.
    pub fn uniform(&mut self) -> f64 {
        (self.bits.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A uniform integer in 0 … n−1; `n` = 0 gives 0.
    pub fn below(&mut self, n: usize) -> usize {
        // Lemire's multiplication (https://arxiv.org/abs/1805.10941), rejecting the remainder that would cause a bias.
        let n = n.max(1) as u64;
        let reject_below = n.wrapping_neg() % n;
        loop {
            let wide = self.bits.next_u64() as u128 * n as u128;
            if wide as u64 >= reject_below {
                return (wide >> 64) as usize;
            }
        }
    }

    /// A standard normal number, by Marsaglia's polar method.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (u, v) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let s = u * u + v * v;
            if s > 0.0 && s < 1.0 {
                let scale = (-2.0 * libm::log(s) / s).sqrt();
                self.spare = Some(v * scale);
                return u * scale;
            }
        }
    }

    /// A tensor of independent standard normal f32 numbers.
    ///
    /// # Shapes
    /// `shape`, any rank. It is filled in row-major order on the CPU and then copied to `device`, so that every device
    /// gets the same numbers.
    pub fn randn(&mut self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count()).map(|_| self.normal() as f32).collect();
        Tensor::from_vec(values, shape, device)
    }

    /// Standard normal numbers with the shape and device of `like`: `eps` for a batch of images.
    pub fn randn_like(&mut self, like: &Tensor) -> Result<Tensor> {
        self.randn(like.shape(), like.device())?.to_dtype(like.dtype())
    }

    /// `n` uniform time steps in 0 … `steps`−1: the random t of a training batch.
    ///
    /// # Errors
    /// `steps` = 0.
    pub fn timesteps(&mut self, n: usize, steps: usize) -> Result<Vec<usize>> {
        if steps == 0 {
            bail!("steps = 0: there is no time step to draw; use at least 1")
        }
        Ok((0..n).map(|_| self.below(steps)).collect())
    }

    /// A random permutation of 0 … n−1 (Fisher–Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pinned values: a change here changes every seeded result of the notebooks.
    #[test]
    fn numbers_are_the_same_on_every_platform() {
        let mut rng = Rng::new(42);
        let normals: Vec<f64> = (0..4).map(|_| rng.normal()).collect();
        let integers: Vec<usize> = (0..6).map(|_| rng.below(1000)).collect();
        assert_eq!(
            (normals, integers, rng.permutation(6)),
            (
                vec![0.12793483831474636, 0.31669663200296094, -1.095928063849364, 1.925649042090921],
                vec![288, 149, 308, 803, 771, 238],
                vec![0, 2, 1, 5, 4, 3]
            )
        );
    }

    #[test]
    fn normal_numbers_have_the_moments_of_a_gaussian() -> Result<()> {
        let x = Rng::new(1).randn(200_000, &Device::Cpu)?.to_vec1::<f32>()?;
        let moment = |k: i32| x.iter().map(|&v| (v as f64).powi(k)).sum::<f64>() / x.len() as f64;
        for (k, want, tolerance) in [(1, 0.0, 0.01), (2, 1.0, 0.015), (3, 0.0, 0.04), (4, 3.0, 0.1)] {
            assert!((moment(k) - want).abs() < tolerance, "moment {k}: {}", moment(k));
        }
        Ok(())
    }

    #[test]
    fn integers_are_uniform_and_permutations_complete() {
        let mut rng = Rng::new(3);
        let mut counts = [0usize; 7];
        (0..70_000).for_each(|_| counts[rng.below(7)] += 1);
        assert!(counts.iter().all(|c| c.abs_diff(10_000) < 400), "{counts:?}");
        let mut order = rng.permutation(1000);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_fork_depends_on_seed_and_stream_alone() {
        let mut rng = Rng::new(5);
        let before: Vec<f64> = (0..9)
            .map({
                let mut f = rng.fork(12);
                move |_| f.normal()
            })
            .collect();
        rng.normal();
        let after: Vec<f64> = (0..9)
            .map({
                let mut f = rng.fork(12);
                move |_| f.normal()
            })
            .collect();
        assert_eq!(before, after);
        assert_ne!(rng.fork(1).normal(), rng.fork(2).normal());
    }

    #[test]
    fn a_saved_state_goes_on_with_the_same_numbers() {
        let mut rng = Rng::new(9).fork(4);
        for _ in 0..1001 {
            rng.normal();
        }
        let mut again = Rng::from_state(rng.state());
        assert_eq!(rng, again);
        assert!((0..1000).all(|_| rng.normal() == again.normal()));
    }

    #[test]
    fn no_time_step_is_an_error() {
        let message = Rng::new(0).timesteps(4, 0).unwrap_err().to_string();
        assert!(message.contains("steps = 0"), "{message}");
    }
}
