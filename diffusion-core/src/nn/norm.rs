//! The normalisation layer.

use super::{Builder, Init, Probe};
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
    probe: Probe,
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
            probe: build.probe(),
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
            probe,
        } = self;
        let y = group_norm(x, *groups, weight, bias, *eps, *activation)?;
        let kind = || format!("group norm {groups}");
        probe.saw(kind, &[weight, bias], &y, 1);
        Ok(y)
    }
}
