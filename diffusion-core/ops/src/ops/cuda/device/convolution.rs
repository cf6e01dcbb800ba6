//! Convolutions and transposed convolutions by cuDNN, with a bias that a kernel adds.

use super::super::launch::Real;
use super::super::plan::bias::Bias;
use super::cudnn::{Arithmetic, Convolution as Problem};
use super::op::{Input, Kernel, address_of, apply, dtype, empty, launch, real, room};
use crate::device::tf32;
use crate::ops::Geometry;
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::{DType, Result, Shape, Tensor, bail};

/// Convolution of x (B, C, H, W) with weight (O, C, K, L) to `out` rows and columns; the bias is (O,), (B, O) or none.
pub(in crate::ops) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Geometry,
    out: (usize, usize),
) -> Result<Tensor> {
    Convolution::apply(false, x, weight, bias, geometry, out)
}

/// Transposed convolution of x (B, C, H, W) with weight (C, O, K, L) to `out` rows and columns.
pub(in crate::ops) fn conv_transpose2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Geometry,
    out: (usize, usize),
) -> Result<Tensor> {
    Convolution::apply(true, x, weight, bias, geometry, out)
}

struct Convolution {
    /// Computes x from y instead of y from x.
    transposed: bool,
    geometry: Geometry,
    out: (usize, usize),
    /// Determined when the result is computed, and the same for the gradients.
    tf32: bool,
}

impl Convolution {
    fn apply(
        transposed: bool,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        geometry: Geometry,
        out: (usize, usize),
    ) -> Result<Tensor> {
        let kernel = Self { transposed, geometry, out, tf32: tf32() };
        let weight = weight.to_dtype(x.dtype())?;
        match bias {
            Some(bias) => apply(kernel, &[x, &weight, &bias.to_dtype(DType::F32)?]),
            None => apply(kernel, &[x, &weight]),
        }
    }

    /// The problem and the shape of the result for the shapes of an image and a weight.
    fn problem(&self, real: Real, x: &[usize], weight: &[usize]) -> Result<(Problem, [usize; 4])> {
        let (&[b, c, h, w], &[first, second, k, l]) = (x, weight) else {
            bail!("{}: images and weights must have four dimensions", Self::NAME)
        };
        let (given, weight, (height, width)) = ([b, c, h, w], [first, second, k, l], self.out);
        let result = [b, if self.transposed { second } else { first }, height, width];
        let (x, y) = if self.transposed { (result, given) } else { (given, result) };
        let arithmetic = match real {
            Real::F32 if self.tf32 => Arithmetic::Tf32,
            Real::F32 => Arithmetic::F32,
            Real::Bf16 => Arithmetic::Bf16,
        };
        let Geometry { stride, padding } = self.geometry;
        let problem = Problem { arithmetic, x, weight, y, stride, padding };
        Ok((problem, result))
    }

    fn bias(real: Real, [batch, channels, height, width]: [usize; 4], bias: &[usize]) -> Bias {
        Bias { real, batch, channels, pixels: height * width, by_image: bias.len() == 2 }
    }
}

impl Kernel for Convolution {
    const NAME: &'static str = "convolution";

    fn forward(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let (problem, shape) = self.problem(x.real(), x.dims(), weight.dims())?;
        let (storage, y) = room(device, dtype(x.real()), shape.iter().product())?;
        let (x_at, weight_at) = (x.address()?, weight.address()?);
        if self.transposed {
            problem.input_gradient(device, weight_at, x_at, y)?;
        } else {
            problem.forward(device, x_at, weight_at, y)?;
        }
        if let Some(bias) = inputs.get(2) {
            let plan = Self::bias(x.real(), shape, bias.dims());
            launch(device, &plan.forward(y, bias.address()?)?)?;
        }
        Ok((storage, Shape::from(shape.as_slice())))
    }

    fn backward(
        &self,
        device: &CudaDevice,
        inputs: &[&Tensor],
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (inputs[0], inputs[1]);
        let (problem, shape) = self.problem(real(x), x.dims(), weight.dims())?;
        let (x_at, weight_at, dy_at) = (address_of(x)?, address_of(weight)?, address_of(dy)?);
        let mut gradients = Vec::with_capacity(3);
        gradients.push(if x.track_op() {
            let (dx, at) = empty(device, x.dtype(), x.shape())?;
            if self.transposed {
                problem.forward(device, dy_at, weight_at, at)?;
            } else {
                problem.input_gradient(device, weight_at, dy_at, at)?;
            }
            Some(dx)
        } else {
            None
        });
        gradients.push(if weight.track_op() {
            let (dweight, at) = empty(device, weight.dtype(), weight.shape())?;
            let (image, answer) = if self.transposed { (dy_at, x_at) } else { (x_at, dy_at) };
            problem.weight_gradient(device, image, answer, at)?;
            Some(dweight)
        } else {
            None
        });
        if let Some(bias) = inputs.get(2) {
            gradients.push(if bias.track_op() {
                let plan = Self::bias(real(x), shape, bias.dims());
                let (dbias, at) = empty(device, DType::F32, bias.shape())?;
                let (_scratch, scratch) = room(device, DType::F32, plan.scratch().max(1))?;
                launch(device, &plan.backward(dy_at, at, scratch)?)?;
                Some(dbias)
            } else {
                None
            });
        }
        Ok(gradients)
    }
}
