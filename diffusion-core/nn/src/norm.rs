//! The group normalisation layer.

use super::{Builder, Init, Probe};
use candle_core::{Result, Tensor, bail};
use diffusion_ops::ops::{Activation, group_norm};

/// Group normalisation with a weight and a bias per channel, followed by an activation: [`group_norm`].
#[derive(Clone, Debug)]
pub struct GroupNorm {
    /// (C,), initially 1.
    pub weight: Tensor,
    /// (C,), initially 0.
    pub bias: Tensor,
    /// The number of groups.
    pub groups: usize,
    /// The ε added to the variance: 1e-5, PyTorch's default.
    pub eps: f64,
    /// The activation after the normalisation.
    pub activation: Activation,
    probe: Probe,
}

impl GroupNorm {
    /// Creates a layer for `channels` channels in `groups` groups; parameters `weight` and `bias`.
    ///
    /// # Errors
    /// `groups` does not divide `channels`, one of them is 0, or the names are taken.
    pub fn new(mut build: Builder, groups: usize, channels: usize, activation: Activation) -> Result<Self> {
        if !channels.is_multiple_of(groups) {
            bail!("GroupNorm: groups = {groups} does not divide channels = {channels}")
        }
        Ok(Self {
            probe: build.probe(),
            weight: build.param("weight", channels, Init::Ones)?,
            bias: build.param("bias", channels, Init::Zeros)?,
            groups,
            eps: 1e-5,
            activation,
        })
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// `x` (B, C, …); the result has the shape of `x`.
    ///
    /// # Errors
    /// See [`group_norm`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.affine(x, &self.weight, &self.bias)
    }

    /// Applies the layer with a `scale` and a `shift` for each image before the activation: norm(x) · (1 + `scale`) +
    /// `shift`
    /// ([Dhariwal & Nichol 2021](https://arxiv.org/abs/2105.05233), "adaptive group normalization").
    ///
    /// # Shapes
    /// `x` (B, C, …); `scale` and `shift` (B, C); the result has the shape of `x`.
    ///
    /// # Errors
    /// See [`group_norm`].
    pub fn forward_scaled(&self, x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
        let scale = (scale + 1.0)?;
        let weight = scale.broadcast_mul(&self.weight)?;
        let bias = (scale.broadcast_mul(&self.bias)? + shift)?;
        self.affine(x, &weight, &bias)
    }

    fn affine(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let y = group_norm(x, self.groups, weight, bias, self.eps, self.activation)?;
        let kind = || format!("group norm {}", self.groups);
        self.probe.saw(kind, &[&self.weight, &self.bias], &y, 1);
        Ok(y)
    }
}
