//! A small network for points in the plane.

use super::{Architecture, Condition, Conditioning, Denoiser, TimeEmbedding};
use crate::nn::{Builder, Linear};
use crate::ops::{add, silu};
use candle_core::{Result, Tensor};

/// The features of each layer.
const FEATURES: usize = 128;

/// A multilayer perceptron for points (x, y), "images" of two channels and one pixel: four linear layers, with a
/// projection of the time embedding added before the two in the middle. Built in `notebooks/11_score.ipynb`.
///
/// ```
/// use diffusion_core::{candle::Device, rng::Rng, unet::{Condition, Network, PointMlp}};
/// let network = Network::new(PointMlp::architecture(), &mut Rng::new(1), &Device::Cpu)?;
/// let x = Rng::new(2).randn((5, 2, 1, 1), &Device::Cpu)?;
/// assert_eq!(network.predict(&x, &[0.5; 5], &Condition::none())?.dims(), [5, 2, 1, 1]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Debug)]
pub struct PointMlp {
    time: TimeEmbedding,
    first: Linear,
    /// For the features, and for the time embedding.
    hidden: Vec<(Linear, Linear)>,
    last: Linear,
}

impl PointMlp {
    /// The architecture, for [`Training`](crate::train::Training) and [`Network`](super::Network).
    pub fn architecture() -> Architecture {
        let conditioning = Conditioning { channels: 2, ..Default::default() };
        Architecture::custom("point-mlp", conditioning, Self::new)
    }

    fn new(mut build: Builder) -> Result<Self> {
        let time = TimeEmbedding::new(build.at("time"), FEATURES / 2, FEATURES)?;
        let first = Linear::new(build.at("first"), 2, FEATURES)?;
        let mut hidden = Vec::new();
        for i in 0..2 {
            let layer = Linear::new(build.at(format!("hidden{i}")), FEATURES, FEATURES)?;
            hidden.push((layer, Linear::new(build.at(format!("time{i}")), FEATURES, FEATURES)?));
        }
        Ok(Self { time, first, hidden, last: Linear::new(build.at("last"), FEATURES, 2)? })
    }
}

impl Denoiser for PointMlp {
    fn forward(&self, xt: &Tensor, t: &[f64], _: &Condition) -> Result<Tensor> {
        let e = silu(&self.time.forward(t)?)?;
        // Multiplied, so that close points can be told apart.
        let mut x = self.first.forward(&(xt.flatten_from(1)? * 8.0)?)?;
        for (layer, time_layer) in &self.hidden {
            x = layer.forward(&silu(&add(&x, &time_layer.forward(&e)?, 1.0)?)?)?;
        }
        self.last.forward(&silu(&x)?)?.reshape(xt.shape())
    }
}
