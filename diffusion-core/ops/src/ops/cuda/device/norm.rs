//! Group normalisation.

use super::super::launch::Real;
use super::super::plan::group_norm::{Backward, Forward, GroupNorm as Plan};
use super::op::{Input, Kernel, address_of, apply, dtype, empty, launch, real, room};
use crate::ops::Activation;
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::{DType, Error, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// Group normalisation of x (B, C, …), f32 or bf16, with weight and bias (C,) or (B, C), converted to f32.
pub(in crate::ops) fn group_norm(
    x: &Tensor,
    groups: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let kernel = GroupNorm { groups, eps: eps as f32, activation, stats: OnceLock::new() };
    let (weight, bias) = (weight.to_dtype(DType::F32)?, bias.to_dtype(DType::F32)?);
    apply(kernel, &[x, &weight, &bias])
}

struct GroupNorm {
    groups: usize,
    eps: f32,
    activation: Activation,
    /// The statistics from the forward pass, for the backward pass.
    stats: OnceLock<CudaStorage>,
}

impl GroupNorm {
    fn plan(&self, real: Real, x: &[usize], weight: &[usize]) -> Plan {
        Plan {
            real,
            batch: x[0],
            channels: x[1],
            pixels: x[2..].iter().product(),
            groups: self.groups,
            by_image: weight.len() == 2,
            eps: self.eps,
            activation: self.activation,
        }
    }
}

impl Kernel for GroupNorm {
    const NAME: &'static str = "group_norm";

    fn forward(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)> {
        let [x, weight, bias] = inputs else {
            return wrong_number();
        };
        let shape = Shape::from(x.dims());
        let plan = self.plan(x.real(), x.dims(), weight.dims());
        let (storage, y) = room(device, dtype(x.real()), shape.elem_count())?;
        let (kept, stats) = room(device, DType::F32, plan.stats())?;
        let at = Forward { x: x.address()?, weight: weight.address()?, bias: bias.address()?, y, stats };
        launch(device, &plan.forward(&at)?)?;
        let _ = self.stats.set(kept);
        Ok((storage, shape))
    }

    fn backward(
        &self,
        device: &CudaDevice,
        inputs: &[&Tensor],
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let [x, weight, bias] = inputs else {
            return wrong_number();
        };
        let plan = self.plan(real(x), x.dims(), weight.dims());
        let stats =
            self.stats.get().ok_or_else(|| Error::msg("group_norm: the gradient was requested before the result"))?;
        let stats = super::op::address(stats, &Layout::contiguous(plan.stats()))?;
        let (dx, dx_at) = empty(device, x.dtype(), x.shape())?;
        let (dweight, dweight_at) = empty(device, DType::F32, weight.shape())?;
        let (dbias, dbias_at) = empty(device, DType::F32, bias.shape())?;
        let (_scratch, scratch) = room(device, DType::F32, plan.scratch().max(1))?;
        let at = Backward {
            x: address_of(x)?,
            weight: address_of(weight)?,
            bias: address_of(bias)?,
            stats,
            dy: address_of(dy)?,
            dx: dx_at,
            dweight: dweight_at,
            dbias: dbias_at,
            scratch,
        };
        launch(device, &plan.backward(&at)?)?;
        Ok(vec![x.track_op().then_some(dx), weight.track_op().then_some(dweight), bias.track_op().then_some(dbias)])
    }
}

fn wrong_number<T>() -> Result<T> {
    candle_core::bail!("group_norm: three tensors are needed")
}
