//! Convolutions on the CPU: the choice of the algorithm, and the operations of candle's graph.

use super::winograd::{Gradients, Wanted};
use super::{lowered, winograd};
use crate::ops::graph::{self, Gradient, Kernel};
use candle_core::{Result, Shape, Tensor};
use std::sync::Arc;

/// The number of 4×4 tiles of y, over all images, from which Winograd's algorithm outweighs transforming the filters.
const WINOGRAD_FROM: usize = 28;
/// The number of input channels from which it does.
const WINOGRAD_CHANNELS: usize = 4;

/// A convolution, a transposed convolution, or a convolution of a 2× upsampled image.
#[derive(Clone, Copy, Debug)]
pub(super) enum Convolution {
    Winograd(winograd::Problem),
    Lowered(lowered::Problem),
    /// The transpose of this problem, from its y to its x.
    Transposed(lowered::Problem),
}

impl Convolution {
    /// Chooses the faster algorithm.
    pub(super) fn new(problem: lowered::Problem) -> Self {
        let lowered::Problem { batch, inputs, outputs, image: (height, width), padding, .. } = problem;
        let fits = problem.kernel == (3, 3) && problem.stride == 1;
        let tiles = batch * problem.out.0.div_ceil(4) * problem.out.1.div_ceil(4);
        let pays = tiles >= WINOGRAD_FROM && inputs >= WINOGRAD_CHANNELS;
        if fits && pays {
            Self::Winograd(winograd::Problem { batch, inputs, outputs, height, width, padding, doubled: false })
        } else {
            Self::Lowered(problem)
        }
    }

    /// Computes y from `x`, `weight` and an optional `bias`.
    pub(super) fn apply(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match bias {
            Some(bias) => graph::apply("convolution", self, [x, weight, bias]),
            None => graph::apply("convolution without bias", self, [x, weight]),
        }
    }

    fn run(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> (Vec<f32>, Shape) {
        match self {
            Self::Winograd(problem) => {
                let (height, width) = problem.out_size();
                let y = winograd::forward(*problem, x, weight, bias);
                (y, (problem.batch, problem.outputs, height, width).into())
            }
            Self::Lowered(problem) => {
                let y = lowered::forward(problem, x, weight, bias);
                (y, (problem.batch, problem.outputs, problem.out.0, problem.out.1).into())
            }
            Self::Transposed(problem) => {
                let y = lowered::input_gradient(problem, weight, x, bias);
                (y, (problem.batch, problem.inputs, problem.image.0, problem.image.1).into())
            }
        }
    }

    /// The gradient of the bias is computed for each image.
    fn gradients(&self, x: &[f32], weight: &[f32], dy: &[f32], wanted: Wanted) -> Gradients {
        match self {
            Self::Winograd(problem) => winograd::backward(*problem, x, weight, dy, wanted),
            Self::Lowered(problem) => lowered::backward(problem, x, weight, dy, wanted),
            Self::Transposed(problem) => lowered::backward_of_transpose(problem, x, weight, dy, wanted),
        }
    }
}

/// The sum of all rows of `width` elements.
fn sum_rows(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
    }
    sums
}

impl Kernel<2> for Convolution {
    fn forward(&self, [x, weight]: [&[f32]; 2], _: [&Shape; 2]) -> (Vec<f32>, Shape) {
        self.run(x, weight, &[])
    }

    fn backward(
        &self,
        [x, weight]: [&[f32]; 2],
        _: [&Shape; 2],
        dy: Gradient,
        wanted: [bool; 2],
    ) -> [Option<Gradient>; 2] {
        let [of_x, of_weight] = wanted;
        let gradients = self.gradients(x, weight, &dy, Wanted { x: of_x, weight: of_weight, bias: false });
        [of_x.then(|| Arc::new(gradients.x)), of_weight.then(|| Arc::new(gradients.weight))]
    }
}

impl Kernel<3> for Convolution {
    fn forward(&self, [x, weight, bias]: [&[f32]; 3], _: [&Shape; 3]) -> (Vec<f32>, Shape) {
        self.run(x, weight, bias)
    }

    fn backward(
        &self,
        [x, weight, bias]: [&[f32]; 3],
        shapes: [&Shape; 3],
        dy: Gradient,
        wanted: [bool; 3],
    ) -> [Option<Gradient>; 3] {
        let [of_x, of_weight, of_bias] = wanted;
        let gradients = self.gradients(x, weight, &dy, Wanted { x: of_x, weight: of_weight, bias: of_bias });
        let of_images = gradients.bias;
        let bias_gradient = || match shapes[2].rank() {
            1 => sum_rows(&of_images, bias.len()),
            _ => of_images,
        };
        [
            of_x.then(|| Arc::new(gradients.x)),
            of_weight.then(|| Arc::new(gradients.weight)),
            of_bias.then(|| Arc::new(bias_gradient())),
        ]
    }
}
