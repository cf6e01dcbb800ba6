//! Pooling: one value for each square of pixels.

use super::cpu::{planes::Planes, takes};
#[cfg(feature = "cuda")]
use super::cuda;
use super::{four, graph};
use candle_core::{Result, Tensor, bail};

/// Max pooling: the maximum of each `size`×`size` square.
///
/// The gradient goes to the maximum. Of several equal maxima, the first in row order gets it, as in PyTorch (on the
/// CPU; on a GPU, one of them). For f32 on the CPU, NaN counts as the maximum, also as in PyTorch.
///
/// # Shapes
/// `x` (B, C, H, W); the result is (B, C, ⌊H / `size`⌋, ⌊W / `size`⌋); remaining rows and columns are ignored.
///
/// # Errors
/// The shapes do not match, `size` is 0, or the image is smaller than a square.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::max_pool2d};
/// let x = Tensor::arange(0f32, 16.0, &Device::Cpu)?.reshape((1, 1, 4, 4))?;
/// assert_eq!(max_pool2d(&x, 2)?.flatten_all()?.to_vec1::<f32>()?, [5.0, 7.0, 13.0, 15.0]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn max_pool2d(x: &Tensor, size: usize) -> Result<Tensor> {
    check_squares("max_pool2d", x, size)?;
    #[cfg(feature = "cuda")]
    if cuda::device::takes(x, &[]) {
        return cuda::device::max_pool2d(x, size);
    }
    if takes(&[x]) {
        return graph::apply("max_pool2d", Planes::MaxPool(size), [x]);
    }
    // candle's max pooling has a gradient too small by size², and its `max` counts ties several times; the gradient of
    // `gather` is correct.
    let squares = squares(x, size)?;
    let first_maximum = squares.argmax_keepdim(4)?;
    squares.gather(&first_maximum, 4)?.squeeze(4)
}

/// Average pooling: the mean of each `size`×`size` square.
///
/// # Shapes
/// `x` (B, C, H, W); the result is (B, C, ⌊H / `size`⌋, ⌊W / `size`⌋); remaining rows and columns are ignored.
///
/// # Errors
/// The shapes do not match, `size` is 0, or the image is smaller than a square.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::avg_pool2d};
/// let x = Tensor::arange(0f32, 16.0, &Device::Cpu)?.reshape((1, 1, 4, 4))?;
/// assert_eq!(avg_pool2d(&x, 2)?.flatten_all()?.to_vec1::<f32>()?, [2.5, 4.5, 10.5, 12.5]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn avg_pool2d(x: &Tensor, size: usize) -> Result<Tensor> {
    check_squares("avg_pool2d", x, size)?;
    #[cfg(feature = "cuda")]
    if cuda::device::takes(x, &[]) {
        return cuda::device::avg_pool2d(x, size);
    }
    if takes(&[x]) {
        return graph::apply("avg_pool2d", Planes::AvgPool(size), [x]);
    }
    // candle's gradient is wrong if rows or columns remain.
    squares(x, size)?.mean(4)
}

fn check_squares(op: &str, x: &Tensor, size: usize) -> Result<()> {
    let (_, _, h, w) = four(op, "x", x)?;
    if size == 0 || h < size || w < size {
        bail!("{op}: x has shape {:?} and size is {size}, but the image has no window of [{size}, {size}]", x.dims())
    }
    Ok(())
}

/// The elements of each square, contiguous: (B, C, H / size, W / size, size²).
fn squares(x: &Tensor, size: usize) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let (rows, columns) = (h / size, w / size);
    x.narrow(2, 0, rows * size)?
        .narrow(3, 0, columns * size)?
        .reshape((b, c, rows, size, columns, size))?
        .transpose(3, 4)?
        .reshape((b, c, rows, columns, size * size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::arch::each;
    use crate::ops::cpu::compare::compare;
    use crate::ops::gradients::{check, random};
    use candle_core::{Device, Var};

    #[test]
    fn gradients_agree_with_central_differences() -> Result<()> {
        for (shape, size) in [
            ([1, 1, 2, 2], 2),
            ([3, 2, 4, 6], 2),
            ([1, 3, 5, 7], 2),
            ([2, 1, 7, 7], 4),
            ([1, 2, 3, 6], 3),
            ([2, 1, 3, 2], 1),
        ] {
            let x = [random(1, shape.as_slice())?];
            check(&format!("max {shape:?} by {size}"), &x, |x| max_pool2d(&x[0], size))?;
            check(&format!("mean {shape:?} by {size}"), &x, |x| avg_pool2d(&x[0], size))?;
        }
        let x = [random(2, (2, 5, 4, 3))?];
        for pool in [max_pool2d, avg_pool2d] {
            check("transposed and narrowed", &x, |x| pool(&x[0].transpose(1, 3)?.narrow(2, 1, 3)?, 2))?;
        }
        Ok(())
    }

    /// After a ReLU whole squares are 0; the gradient must not be counted four times.
    #[test]
    fn of_equal_numbers_the_first_gets_the_gradient() -> Result<()> {
        each(|| {
            let x = [[0f32, 0.0, 1.0, 2.0], [0.0, 0.0, 2.0, 2.0]];
            let x = Var::from_tensor(&Tensor::new(&x, &Device::Cpu)?.reshape((1, 1, 2, 4))?)?;
            let grads = max_pool2d(&x, 2)?.sum_all()?.backward()?;
            let slopes = grads.get(&x).unwrap().reshape((2, 4))?.to_vec2::<f32>()?;
            assert_eq!(slopes, [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]);
            Ok(())
        })
    }

    #[test]
    fn kernels_agree_with_the_compositions() -> Result<()> {
        for (shape, size) in [
            ([1, 1, 2, 2], 2),
            ([1, 3, 5, 7], 2),
            ([2, 1, 7, 7], 4),
            ([1, 2, 3, 6], 3),
            ([2, 1, 3, 2], 1),
            ([3, 40, 28, 29], 2),
        ] {
            let x = [random(1, shape.as_slice())?];
            for pool in [max_pool2d, avg_pool2d] {
                compare(&format!("{shape:?} by {size}"), &x, 1e-6, |x| pool(&x[0], size))?;
                // Many equal numbers.
                compare(&format!("{shape:?} by {size}"), &x, 1e-6, |x| pool(&x[0].relu()?, size))?;
            }
        }
        let x = [random(2, (2, 7, 6, 3))?];
        for pool in [max_pool2d, avg_pool2d] {
            compare("transposed, narrowed and twice", &x, 1e-6, |x| {
                let x = x[0].transpose(1, 3)?.narrow(2, 1, 4)?;
                pool(&x, 2)? + pool(&x, 2)?.sqr()?
            })?;
        }
        Ok(())
    }

    #[test]
    fn nan_counts_as_the_maximum() -> Result<()> {
        each(|| {
            let x = [[1f32, f32::NAN, 1.0, 2.0], [9.0, 0.0, -1.0, 3.0]];
            let x = Var::from_tensor(&Tensor::new(&x, &Device::Cpu)?.reshape((1, 1, 2, 4))?)?;
            let y = max_pool2d(&x, 2)?;
            let values = y.flatten_all()?.to_vec1::<f32>()?;
            assert!(values[0].is_nan() && values[1] == 3.0, "{values:?}");
            let grads = y.backward()?;
            let slopes = grads.get(&x).unwrap().reshape((2, 4))?.to_vec2::<f32>()?;
            assert_eq!(slopes, [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]);
            Ok(())
        })
    }

    #[test]
    fn errors_name_wrong_shapes() -> Result<()> {
        let x = random(1, (2, 3, 4, 5))?;
        for (op, pool) in
            [("max_pool2d", max_pool2d as fn(&Tensor, usize) -> Result<Tensor>), ("avg_pool2d", avg_pool2d)]
        {
            for (x, size, wants) in [
                (&x, 5, "x has shape [2, 3, 4, 5] and size is 5"),
                (&x, 0, "size is 0"),
                (&x.get(0)?, 2, "x has shape [3, 4, 5]"),
            ] {
                let message = pool(x, size).unwrap_err().to_string();
                assert!(message.contains(wants) && message.starts_with(op), "{message:?} lacks {wants:?}");
            }
        }
        Ok(())
    }
}
