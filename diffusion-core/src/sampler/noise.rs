//! Sources of the noise z in a sampler's steps.

use crate::rng::Rng;
use candle_core::{Result, Tensor};
use std::ops::{Deref, DerefMut};

/// A source of the noise z: a [`Rng`], or a function that returns a tensor like its argument, for example to replay
/// noise.
pub trait Noise {
    /// Standard normal noise with the shape, type and device of `x`.
    ///
    /// # Errors
    /// The device is out of memory.
    fn like(&mut self, x: &Tensor) -> Result<Tensor>;
}

impl Noise for Rng {
    fn like(&mut self, x: &Tensor) -> Result<Tensor> {
        self.randn_like(x)
    }
}

impl<F: FnMut(&Tensor) -> Result<Tensor>> Noise for F {
    fn like(&mut self, x: &Tensor) -> Result<Tensor> {
        self(x)
    }
}

/// Sampler noise with a separate random stream for each image: the noise of image i depends only on the generator and
/// on i, not on the other images of the batch.
///
/// ```
/// use diffusion_core::{candle::{Device, Tensor}, rng::Rng, sampler::{ImageNoise, Noise}};
/// let rng = Rng::new(1);
/// let images = |n: usize| Tensor::zeros((n, 1, 2, 2), diffusion_core::candle::DType::F32, &Device::Cpu);
/// let five = ImageNoise::new(&rng).like(&images(5)?)?;
/// let last_two = ImageNoise::new(&rng).skip(3).like(&images(2)?)?;
/// assert_eq!(five.narrow(0, 3, 2)?.flatten_all()?.to_vec1::<f32>()?, last_two.flatten_all()?.to_vec1::<f32>()?);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ImageNoise {
    root: Rng,
    /// The index of the first image.
    first: u64,
    streams: Vec<Rng>,
}

impl ImageNoise {
    /// The noise that belongs to the generator's current state, which is left unchanged. Call it before drawing x_T;
    /// otherwise the noise depends on how many images x_T was drawn for.
    pub fn new(rng: &Rng) -> Self {
        Self { root: rng.split(), first: 0, streams: Vec::new() }
    }

    /// The same noise from its first step on, for the images from index `first` on: the next batch.
    pub fn skip(&self, first: usize) -> Self {
        Self { root: self.root.clone(), first: first as u64, streams: Vec::new() }
    }
}

impl Noise for ImageNoise {
    fn like(&mut self, x: &Tensor) -> Result<Tensor> {
        let n = x.dim(0)?;
        for i in self.streams.len()..n {
            self.streams.push(self.root.fork(self.first + i as u64 + 1));
        }
        let size = x.elem_count() / n.max(1);
        let mut values = Vec::with_capacity(x.elem_count());
        for stream in &mut self.streams[..n] {
            values.extend((0..size).map(|_| stream.normal() as f32));
        }
        Tensor::from_vec(values, x.shape(), x.device())?.to_dtype(x.dtype())
    }
}

/// A borrowed or owned source of noise.
pub(crate) enum Source<'a, N> {
    Lent(&'a mut N),
    Kept(N),
}

impl<N> Deref for Source<'_, N> {
    type Target = N;
    fn deref(&self) -> &N {
        match self {
            Self::Lent(noise) => noise,
            Self::Kept(noise) => noise,
        }
    }
}

impl<N> DerefMut for Source<'_, N> {
    fn deref_mut(&mut self) -> &mut N {
        match self {
            Self::Lent(noise) => noise,
            Self::Kept(noise) => noise,
        }
    }
}
