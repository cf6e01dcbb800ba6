//! Between the resolutions of an image.

use super::super::launch::{Launch, Real};
use super::super::plan::pool::Pool;
use super::super::plan::upsample::Upsample;
use super::op::{Input, Kernel, address_of, apply, dtype, empty, launch, real, room};
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::{Result, Shape, Tensor, bail};

/// Each pixel of x (B, C, H, W) four times.
pub(in crate::ops) fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    apply(Planes::Upsample, &[x])
}

/// The largest number of each square.
pub(in crate::ops) fn max_pool2d(x: &Tensor, size: usize) -> Result<Tensor> {
    apply(Planes::Pool { size, mean: false }, &[x])
}

/// The mean of each square.
pub(in crate::ops) fn avg_pool2d(x: &Tensor, size: usize) -> Result<Tensor> {
    apply(Planes::Pool { size, mean: true }, &[x])
}

enum Planes {
    Upsample,
    Pool { size: usize, mean: bool },
}

/// One of the two plans, for an image of some shape.
enum Plan {
    Upsample(Upsample),
    Pool(Pool),
}

impl Planes {
    fn plan(&self, real: Real, dims: &[usize]) -> Result<Plan> {
        let &[b, c, height, width] = dims else {
            bail!("{}: takes images, (B, C, H, W)", Self::NAME)
        };
        let planes = b * c;
        Ok(match *self {
            Self::Upsample => Plan::Upsample(Upsample {
                real,
                planes,
                height,
                width,
            }),
            Self::Pool { size, mean } => Plan::Pool(Pool {
                real,
                planes,
                height,
                width,
                size,
                mean,
            }),
        })
    }
}

impl Plan {
    /// Height and width of the result.
    fn size(&self) -> (usize, usize) {
        match self {
            Self::Upsample(it) => (2 * it.height, 2 * it.width),
            Self::Pool(it) => (it.height / it.size, it.width / it.size),
        }
    }

    fn forward(&self, x: u64, y: u64) -> Result<Vec<Launch>> {
        match self {
            Self::Upsample(it) => it.forward(x, y),
            Self::Pool(it) => it.forward(x, y),
        }
    }

    fn backward(&self, x: u64, dy: u64, dx: u64) -> Result<Vec<Launch>> {
        match self {
            Self::Upsample(it) => it.backward(dy, dx),
            Self::Pool(it) => it.backward(x, dy, dx),
        }
    }
}

impl Kernel for Planes {
    const NAME: &'static str = "planes";

    fn forward(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)> {
        let x = &inputs[0];
        let plan = self.plan(x.real(), x.dims())?;
        let (height, width) = plan.size();
        let shape = Shape::from((x.dims()[0], x.dims()[1], height, width));
        let (storage, y) = room(device, dtype(x.real()), shape.elem_count())?;
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
        let plan = self.plan(real(x), x.dims())?;
        let (dx, dx_at) = empty(device, x.dtype(), x.shape())?;
        launch(
            device,
            &plan.backward(address_of(x)?, address_of(dy)?, dx_at)?,
        )?;
        Ok(vec![Some(dx)])
    }
}
