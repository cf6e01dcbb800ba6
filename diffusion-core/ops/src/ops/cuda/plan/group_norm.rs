//! Group normalisation with an activation.

use super::super::launch::{Argument::*, Launch, Real, aligned, check, product};
use super::{bias::column_sums, number};
use crate::ops::Activation;
use candle_core::{Result, bail};

/// The operation on x (B, C, pixels), with a weight and a bias for each channel.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct GroupNorm {
    pub(in crate::ops) real: Real,
    /// B
    pub(in crate::ops) batch: usize,
    /// C
    pub(in crate::ops) channels: usize,
    pub(in crate::ops) pixels: usize,
    pub(in crate::ops) groups: usize,
    /// Whether weight and bias are (B, C) rather than (C,).
    pub(in crate::ops) by_image: bool,
    pub(in crate::ops) eps: f32,
    pub(in crate::ops) activation: Activation,
}

/// The addresses of a forward pass.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Forward {
    pub(in crate::ops) x: u64,
    /// f32, as everything except x, y and their gradients.
    pub(in crate::ops) weight: u64,
    pub(in crate::ops) bias: u64,
    pub(in crate::ops) y: u64,
    /// Output: [`GroupNorm::stats`] elements for the backward pass.
    pub(in crate::ops) stats: u64,
}

/// The addresses of a backward pass.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Backward {
    pub(in crate::ops) x: u64,
    pub(in crate::ops) weight: u64,
    pub(in crate::ops) bias: u64,
    pub(in crate::ops) stats: u64,
    pub(in crate::ops) dy: u64,
    pub(in crate::ops) dx: u64,
    /// Output: f32 in the shape of weight.
    pub(in crate::ops) dweight: u64,
    pub(in crate::ops) dbias: u64,
    /// [`GroupNorm::scratch`] f32 elements.
    pub(in crate::ops) scratch: u64,
}

impl GroupNorm {
    /// The f32 elements of the statistics: for each group of each image the rounded mean, the rest of the mean, and
    /// 1/σ.
    pub(in crate::ops) fn stats(&self) -> usize {
        3 * self.batch * self.groups
    }

    /// The f32 scratch elements that the backward pass needs.
    pub(in crate::ops) fn scratch(&self) -> usize {
        match self.by_image {
            true => 0,
            false => 2 * self.batch * self.channels,
        }
    }

    /// # Errors
    /// A dimension is 0, the groups do not divide the channels, or a group has 2³¹ elements.
    pub(in crate::ops) fn forward(&self, at: &Forward) -> Result<Vec<Launch>> {
        let size = self.check()?;
        let wide = size.is_multiple_of(self.real.width()) && aligned(&[at.x, at.y]);
        let packs = size / if wide { self.real.width() } else { 1 };
        Ok(vec![Launch::new(
            self.real.pick("group_norm_f32", "group_norm_bf16"),
            (self.batch * self.groups, 1),
            // Several packs per thread for large groups, so that a barrier pays off.
            threads(packs.div_ceil(2), 512),
            vec![
                Pointer(at.y),
                Pointer(at.stats),
                Pointer(at.x),
                Pointer(at.weight),
                Pointer(at.bias),
                U32((self.channels / self.groups) as u32),
                U32(self.pixels as u32),
                U32(self.period() as u32),
                F32(self.eps),
                U32(number(self.activation)),
                U32(wide.into()),
            ],
        )?])
    }

    /// # Errors
    /// See [`GroupNorm::forward`].
    pub(in crate::ops) fn backward(&self, at: &Backward) -> Result<Vec<Launch>> {
        let size = self.check()?;
        // Packs of four elements that start and end with a channel.
        let wide = self.pixels.is_multiple_of(4) && aligned(&[at.x, at.dy, at.dx]);
        let packs = if wide { 4 } else { 1 };
        let rows = self.batch * self.channels;
        let (of_weight, of_bias) = match self.by_image {
            true => (at.dweight, at.dbias),
            false => (at.scratch, at.scratch + 4 * rows as u64),
        };
        let threads = threads((size / packs).div_ceil(2), 512);
        // As many threads per channel as leave some for the other channels, each with a few packs.
        let team = (self.pixels / packs).div_ceil(2).next_power_of_two();
        let most = 1 << threads.ilog2();
        let team = (team as u32).clamp(1, most);
        let threads = threads / team.max(32) * team.max(32);
        let mut launches = vec![Launch::new(
            self.real.pick("group_norm_back_f32", "group_norm_back_bf16"),
            (self.batch * self.groups, 1),
            threads,
            vec![
                Pointer(at.dx),
                Pointer(of_weight),
                Pointer(of_bias),
                Pointer(at.x),
                Pointer(at.dy),
                Pointer(at.stats),
                Pointer(at.weight),
                Pointer(at.bias),
                U32((self.channels / self.groups) as u32),
                U32(self.pixels as u32),
                U32(self.period() as u32),
                U32(team),
                U32(number(self.activation)),
                U32(wide.into()),
            ],
        )?];
        if !self.by_image {
            launches.push(column_sums(
                (self.batch, self.channels),
                (at.dweight, of_weight),
                Some((at.dbias, of_bias)),
            )?);
        }
        Ok(launches)
    }

    /// The number of channels, over all images, after which the weights repeat.
    fn period(&self) -> usize {
        match self.by_image {
            true => self.batch * self.channels,
            false => self.channels,
        }
    }

    /// The size of a group.
    fn check(&self) -> Result<usize> {
        const OP: &str = "group_norm";
        let Self { batch, channels, pixels, groups, .. } = *self;
        check(OP, &[("batch", batch), ("channels", channels), ("pixels", pixels), ("groups", groups)])?;
        if !channels.is_multiple_of(groups) {
            bail!("{OP}: {groups} groups do not divide {channels} channels")
        }
        let size = product(OP, &[channels / groups, pixels])?;
        product(OP, &[batch, groups, size])?;
        check(OP, &[("numbers of a group", size), ("channels of all images", product(OP, &[batch, channels])?)])?;
        Ok(size)
    }
}

/// Whole warps for `work` packs of elements: at least four if there is work for them, at most `most`.
fn threads(work: usize, most: u32) -> u32 {
    work.min(most as usize).next_multiple_of(32) as u32
}
