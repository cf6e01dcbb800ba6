//! The normalisation layer.

use super::{Builder, Init};
use crate::ops::{Activation, group_norm};
use candle_core::{Result, Tensor, bail};

/// Group normalisation with a weight and a bias per channel, and then an activation: [`group_norm`].
#[derive(Clone, Debug)]
pub struct GroupNorm {
    /// (C,), at first 1.
    pub weight: Tensor,
    /// (C,), at first 0.
    pub bias: Tensor,
    /// How many groups the channels form.
    pub groups: usize,
    /// What is added to the variance: 1e-5, PyTorch's default.
    pub eps: f64,
    /// What is applied afterwards.
    pub activation: Activation,
}

impl GroupNorm {
    /// For `channels` channels in `groups` groups; parameters `weight` and `bias`.
    ///
    /// # Errors
    /// `groups` does not divide `channels`, one of them is 0, or the names are taken.
    pub fn new(
        mut build: Builder,
        groups: usize,
        channels: usize,
        activation: Activation,
    ) -> Result<Self> {
        if !channels.is_multiple_of(groups) {
            bail!("GroupNorm: groups = {groups} does not divide channels = {channels}")
        }
        Ok(Self {
            weight: build.param("weight", channels, Init::Ones)?,
            bias: build.param("bias", channels, Init::Zeros)?,
            groups,
            eps: 1e-5,
            activation,
        })
    }

    /// # Shapes
    /// `x` (B, C, …); the result is as `x`.
    ///
    /// # Errors
    /// As [`group_norm`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Self {
            weight,
            bias,
            groups,
            eps,
            activation,
        } = self;
        group_norm(x, *groups, weight, bias, *eps, *activation)
    }
}
