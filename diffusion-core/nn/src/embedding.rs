//! The embedding layer.

use super::{Builder, Init, Probe};
use candle_core::{Result, Tensor};
use diffusion_ops::ops::embedding;

/// A learned vector for each of N labels: [`embedding`].
#[derive(Clone, Debug)]
pub struct Embedding {
    /// (N, D), initially standard normal.
    pub weight: Tensor,
    probe: Probe,
}

impl Embedding {
    /// Creates `labels` vectors with `width` elements; parameter `weight`.
    ///
    /// # Errors
    /// A size is 0, or the name is taken.
    pub fn new(mut build: Builder, labels: usize, width: usize) -> Result<Self> {
        Ok(Self { probe: build.probe(), weight: build.param("weight", (labels, width), Init::Normal)? })
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// `labels` B numbers in 0 … N−1; the result is (B, D).
    ///
    /// # Errors
    /// See [`embedding`].
    pub fn forward(&self, labels: &[usize]) -> Result<Tensor> {
        let y = embedding(&self.weight, labels)?;
        let kind = || "embedding".to_owned();
        self.probe.saw(kind, &[&self.weight], &y, 0);
        Ok(y)
    }
}
