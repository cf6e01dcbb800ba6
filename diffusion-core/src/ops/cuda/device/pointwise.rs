//! Activations, and softmax.

use super::super::launch::Real;
use super::super::plan::activation::Pointwise as PointwisePlan;
use super::super::plan::softmax::Softmax as SoftmaxPlan;
use super::op::{Input, Kernel, address_of, apply, dtype, empty, launch, real, room};
use crate::ops::Activation;
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::{Result, Shape, Tensor};

/// The activation of every number of x.
pub(in crate::ops) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    apply(Pointwise(activation), &[x])
}

/// softmax(scale · x) over the last dimension.
pub(in crate::ops) fn softmax(x: &Tensor, scale: f64) -> Result<Tensor> {
    apply(
        Softmax {
            scale: scale as f32,
        },
        &[x],
    )
}

struct Pointwise(Activation);

impl Pointwise {
    fn plan(&self, real: Real, length: usize) -> PointwisePlan {
        PointwisePlan {
            real,
            length,
            activation: self.0,
        }
    }
}

impl Kernel for Pointwise {
    const NAME: &'static str = "activation";

    fn forward(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)> {
        let x = &inputs[0];
        let shape = Shape::from(x.dims());
        let (storage, y) = room(device, dtype(x.real()), shape.elem_count())?;
        let plan = self.plan(x.real(), shape.elem_count());
        launch(device, &plan.forward(x.address()?, y)?)?;
        Ok((storage, shape))
    }

    fn backward(
        &self,
        device: &CudaDevice,
        inputs: &[&Tensor],
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let x = inputs[0];
        let (dx, dx_at) = empty(device, x.dtype(), x.shape())?;
        let plan = self.plan(real(x), x.elem_count());
        launch(
            device,
            &plan.backward(address_of(x)?, address_of(dy)?, dx_at)?,
        )?;
        Ok(vec![Some(dx)])
    }
}

struct Softmax {
    scale: f32,
}

impl Softmax {
    fn plan(&self, real: Real, dims: &[usize]) -> SoftmaxPlan {
        let length = dims.last().copied().unwrap_or(1);
        SoftmaxPlan {
            real,
            rows: dims.iter().product::<usize>() / length.max(1),
            length,
            scale: self.scale,
        }
    }
}

impl Kernel for Softmax {
    const NAME: &'static str = "softmax";

    fn forward(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)> {
        let x = &inputs[0];
        let shape = Shape::from(x.dims());
        let (storage, y) = room(device, dtype(x.real()), shape.elem_count())?;
        let plan = self.plan(x.real(), x.dims());
        launch(device, &plan.forward(x.address()?, y)?)?;
        Ok((storage, shape))
    }

    fn backward(
        &self,
        device: &CudaDevice,
        inputs: &[&Tensor],
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let x = inputs[0];
        let (dx, dx_at) = empty(device, x.dtype(), x.shape())?;
        let plan = self.plan(real(x), x.dims());
        launch(
            device,
            &plan.backward(address_of(y)?, address_of(dy)?, dx_at)?,
        )?;
        Ok(vec![Some(dx)])
    }
}
