//! Operations on one image: activations, softmax, pooling and upsampling.

use super::super::launch::{Launch, Real};
use super::super::plan::activation::Pointwise;
use super::super::plan::pool::Pool;
use super::super::plan::softmax::Softmax;
use super::super::plan::upsample::Upsample;
use super::op::{Input, Kernel, address_of, apply, dtype, empty, launch, real, room};
use crate::ops::Activation;
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::{Result, Shape, Tensor, bail};

/// Applies the activation to every element of x.
pub(in crate::ops) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    apply(Unary::Activation(activation), &[x])
}

/// softmax(scale · x) over the last dimension.
pub(in crate::ops) fn softmax(x: &Tensor, scale: f64) -> Result<Tensor> {
    apply(Unary::Softmax(scale as f32), &[x])
}

/// 2× nearest-neighbour upsampling of x (B, C, H, W).
pub(in crate::ops) fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    apply(Unary::Upsample, &[x])
}

/// The maximum of each square.
pub(in crate::ops) fn max_pool2d(x: &Tensor, size: usize) -> Result<Tensor> {
    apply(Unary::Pool { size, mean: false }, &[x])
}

/// The mean of each square.
pub(in crate::ops) fn avg_pool2d(x: &Tensor, size: usize) -> Result<Tensor> {
    apply(Unary::Pool { size, mean: true }, &[x])
}

enum Unary {
    Activation(Activation),
    /// Softmax of this factor times x.
    Softmax(f32),
    Upsample,
    Pool {
        size: usize,
        mean: bool,
    },
}

/// One of the plans, for an x of some shape.
enum Plan {
    Activation(Pointwise),
    Softmax(Softmax),
    Upsample(Upsample),
    Pool(Pool),
}

impl Unary {
    /// The plan, and the shape of the result.
    fn plan(&self, real: Real, dims: &[usize]) -> Result<(Plan, Shape)> {
        let length = dims.iter().product();
        let planes = || match *dims {
            [b, c, height, width] => Ok((b, c, height, width)),
            _ => bail!("{}: images must be (B, C, H, W)", Self::NAME),
        };
        Ok(match *self {
            Self::Activation(activation) => {
                let plan = Pointwise { real, length, activation };
                (Plan::Activation(plan), dims.into())
            }
            Self::Softmax(scale) => {
                let last = dims.last().copied().unwrap_or(1);
                let plan = Softmax { real, rows: length / last.max(1), length: last, scale };
                (Plan::Softmax(plan), dims.into())
            }
            Self::Upsample => {
                let (b, c, height, width) = planes()?;
                let plan = Upsample { real, planes: b * c, height, width };
                (Plan::Upsample(plan), (b, c, 2 * height, 2 * width).into())
            }
            Self::Pool { size, mean } => {
                let (b, c, height, width) = planes()?;
                let plan = Pool { real, planes: b * c, height, width, size, mean };
                (Plan::Pool(plan), (b, c, height / size, width / size).into())
            }
        })
    }
}

impl Plan {
    fn forward(&self, x: u64, y: u64) -> Result<Vec<Launch>> {
        match self {
            Self::Activation(it) => it.forward(x, y),
            Self::Softmax(it) => it.forward(x, y),
            Self::Upsample(it) => it.forward(x, y),
            Self::Pool(it) => it.forward(x, y),
        }
    }

    /// Computes dx from x, y and dy.
    fn backward(&self, [x, y, dy]: [u64; 3], dx: u64) -> Result<Vec<Launch>> {
        match self {
            Self::Activation(it) => it.backward(x, dy, dx),
            Self::Softmax(it) => it.backward(y, dy, dx),
            Self::Upsample(it) => it.backward(dy, dx),
            Self::Pool(it) => it.backward(x, dy, dx),
        }
    }
}

impl Kernel for Unary {
    const NAME: &'static str = "an operation of one image";

    fn forward(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)> {
        let x = &inputs[0];
        let (plan, shape) = self.plan(x.real(), x.dims())?;
        let (storage, y) = room(device, dtype(x.real()), shape.elem_count())?;
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
        let (plan, _) = self.plan(real(x), x.dims())?;
        let (dx, at) = empty(device, x.dtype(), x.shape())?;
        let from = [address_of(x)?, address_of(y)?, address_of(dy)?];
        launch(device, &plan.backward(from, at)?)?;
        Ok(vec![Some(dx)])
    }
}
