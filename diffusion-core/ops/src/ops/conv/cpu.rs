//! Which algorithm on the CPU, and the convolutions as operations of candle's graph.

use super::winograd::{Gradients, Wanted};
use super::{lowered, winograd};
use crate::ops::cpu::{read, slice, stored};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

/// From as many pixels of y on, over all images, Winograd's algorithm pays for its transforms.
const WINOGRAD_FROM: usize = 256;
/// With as many input channels.
const WINOGRAD_CHANNELS: usize = 4;

/// A convolution, its transpose, or one of an image with every pixel doubled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Convolution {
    Winograd(winograd::Problem),
    Lowered(lowered::Problem),
    /// The transpose of this problem: from its y to its x.
    Transposed(lowered::Problem),
}

impl Convolution {
    /// The faster one.
    pub(super) fn new(problem: lowered::Problem) -> Self {
        let lowered::Problem { batch, inputs, outputs, image: (height, width), padding, .. } = problem;
        let fits = problem.kernel == (3, 3) && problem.stride == 1;
        let pays = batch * problem.out.0 * problem.out.1 >= WINOGRAD_FROM && inputs >= WINOGRAD_CHANNELS;
        if fits && pays {
            Self::Winograd(winograd::Problem { batch, inputs, outputs, height, width, padding, doubled: false })
        } else {
            Self::Lowered(problem)
        }
    }

    /// y of `x`, `weight` and `bias`; the last may be `None`.
    pub(super) fn apply(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (x, weight) = (x.contiguous()?, weight.contiguous()?);
        match bias {
            Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, self),
            None => x.apply_op2(&weight, self),
        }
    }

    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> (CpuStorage, Shape) {
        match self {
            Self::Winograd(problem) => {
                let (height, width) = problem.out_size();
                let y = winograd::forward(*problem, x, weight, bias);
                stored(y, (problem.batch, problem.outputs, height, width))
            }
            Self::Lowered(problem) => {
                let y = lowered::forward(problem, x, weight, bias);
                stored(y, (problem.batch, problem.outputs, problem.out.0, problem.out.1))
            }
            Self::Transposed(problem) => {
                let y = lowered::input_gradient(problem, weight, x, bias);
                stored(y, (problem.batch, problem.inputs, problem.image.0, problem.image.1))
            }
        }
    }

    fn backward(&self, x: &[f32], weight: &[f32], dy: &[f32], wanted: Wanted) -> Gradients {
        match self {
            Self::Winograd(problem) => winograd::backward(*problem, x, weight, dy, wanted),
            Self::Lowered(problem) => lowered::backward(problem, x, weight, dy, wanted),
            Self::Transposed(problem) => lowered::backward_of_transpose(problem, x, weight, dy, wanted),
        }
    }

    /// The gradients as tensors, with that of the bias summed up as its shape says.
    fn gradients(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        dy: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let wanted = Wanted { x: x.track_op(), weight: weight.track_op(), bias: bias.is_some_and(Tensor::track_op) };
        let gradients = read([x, weight, dy], |[x, weight, dy]| self.backward(x, weight, dy, wanted))?;
        let tensor = |wanted: bool, values: Vec<f32>, of: &Tensor| {
            wanted.then(|| Tensor::from_vec(values, of.shape(), of.device())).transpose()
        };
        let dbias = match bias {
            Some(bias) if wanted.bias => {
                let channels = bias.dims()[bias.rank() - 1];
                let values = match bias.rank() {
                    1 => sum_rows(&gradients.bias, channels),
                    _ => gradients.bias,
                };
                tensor(true, values, bias)?
            }
            _ => None,
        };
        Ok([tensor(wanted.x, gradients.x, x)?, tensor(wanted.weight, gradients.weight, weight)?, dbias])
    }
}

/// The sum of all rows of `width` numbers.
fn sum_rows(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
    }
    sums
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "convolution without bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(self.forward(slice(x, x_layout)?, slice(weight, weight_layout)?, &[]))
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, weight, _] = self.gradients(x, weight, None, dy)?;
        Ok((x, weight))
    }
}

impl CustomOp3 for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(self.forward(slice(x, x_layout)?, slice(weight, weight_layout)?, slice(bias, bias_layout)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, weight, bias] = self.gradients(x, weight, Some(bias), dy)?;
        Ok((x, weight, bias))
    }
}
