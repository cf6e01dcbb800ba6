//! Group normalisation of activations, and standardisation of weights.

use super::cpu::norm::{Norm, Over};
use super::cpu::takes;
#[cfg(feature = "cuda")]
use super::cuda;
use super::graph;
use super::half::{half, wide};
use super::{Activation, one_per_channel};
use candle_core::{D, DType, Result, Tensor, bail};

/// Group normalisation ([Wu & He 2018](https://arxiv.org/abs/1803.08494)) followed by `activation`.
///
/// In each image the channels form `groups` groups of neighbours. Over the N elements of each group, x̂ = (x − μ) /
/// √(σ² + `eps`) with σ² = Σ (x − μ)² / N, and y = `activation`(weight · x̂ + bias), with a weight and a bias per
/// channel, or per channel and image, for example from a time embedding.
///
/// # Shapes
/// `x` (B, C, …); `weight` and `bias` both (C,) or both (B, C); the result has the shape of `x`.
///
/// # Errors
/// The shapes do not match, or `groups` does not divide C.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{DType, Device, Tensor}, ops::{Activation, group_norm}, rng::Rng};
/// let x = Rng::new(0).randn((2, 8, 5, 5), &Device::Cpu)?;
/// let (ones, zeros) = (Tensor::ones(8, DType::F32, &Device::Cpu)?, Tensor::zeros(8, DType::F32, &Device::Cpu)?);
/// let y = group_norm(&x, 4, &ones, &zeros, 1e-5, Activation::None)?;
/// assert!(y.narrow(1, 0, 2)?.mean((1, 2, 3))?.abs()?.max(0)?.to_scalar::<f32>()? < 1e-6);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn group_norm(
    x: &Tensor,
    groups: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    const OP: &str = "group_norm";
    let &[batch, channels, ..] = x.dims() else {
        bail!(
            "{OP}: x has shape {:?} and weight {:?}; x must have at least two dimensions, (B, C, …)",
            x.dims(),
            weight.dims()
        )
    };
    if weight.dims() != [batch, channels] || bias.dims() != weight.dims() {
        one_per_channel(OP, ("weight", weight), channels, ("x", x))?;
        one_per_channel(OP, ("bias", bias), channels, ("x", x))?;
    }
    if !channels.is_multiple_of(groups) || x.elem_count() == 0 {
        bail!(
            "{OP}: groups = {groups} does not divide the {channels} channels of x, shape {:?}, into groups of at least one number",
            x.dims()
        )
    }
    #[cfg(feature = "cuda")]
    if cuda::device::takes(x, &[weight, bias]) {
        return cuda::device::group_norm(x, groups, weight, bias, eps, activation);
    }
    if let Some(half) = half(x) {
        return group_norm(&wide(x)?, groups, weight, bias, eps, activation)?.to_dtype(half);
    }
    if takes(&[x, weight, bias]) {
        let (kernel, _) = Norm::new(Over::Groups(groups), eps, activation);
        return graph::apply(OP, kernel, [x, weight, bias]);
    }
    let normal = standardize(&x.reshape((batch, groups, ()))?, eps)?.reshape(x.shape())?;
    let mut per_channel = vec![1; x.rank()];
    (per_channel[0], per_channel[1]) = (weight.elem_count() / channels, channels);
    let y = normal
        .broadcast_mul(&weight.reshape(per_channel.as_slice())?)?
        .broadcast_add(&bias.reshape(per_channel.as_slice())?)?;
    activation.apply(&y)
}

/// Weight standardisation ([Qiao et al. 2019](https://arxiv.org/abs/1903.10520)) of a convolution: (w − μ) / √(σ² +
/// `eps`), with μ and σ² = Σ (w − μ)² / N over the N weights of one output channel.
///
/// An `eps` of 1e-5 is usual in f32.
///
/// # Shapes
/// `weight` (O, …), at least two dimensions; the result has the shape of `weight`.
///
/// # Errors
/// There are fewer dimensions, or one is 0.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::Device, ops::weight_standardize, rng::Rng};
/// let weight = Rng::new(0).randn((4, 3, 3, 3), &Device::Cpu)?;
/// let sums = weight_standardize(&weight, 1e-5)?.sum((1, 2, 3))?;
/// assert!(sums.abs()?.max(0)?.to_scalar::<f32>()? < 1e-5);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn weight_standardize(weight: &Tensor, eps: f64) -> Result<Tensor> {
    if weight.rank() < 2 || weight.elem_count() == 0 {
        bail!(
            "weight_standardize: weight has shape {:?}; it must have at least two dimensions, none of them 0",
            weight.dims()
        )
    }
    #[cfg(feature = "cuda")]
    let on_device = cuda::device::takes(weight, &[]);
    #[cfg(not(feature = "cuda"))]
    let on_device = false;
    if on_device || takes(&[weight]) {
        // Each output channel is treated as an image with one group.
        let one = Tensor::ones(1, DType::F32, weight.device())?;
        let rows = weight.flatten_from(1)?.unsqueeze(1)?;
        return group_norm(&rows, 1, &one, &one.zeros_like()?, eps, Activation::None)?.reshape(weight.shape());
    }
    standardize(&weight.flatten_from(1)?, eps)?.reshape(weight.shape())
}

/// (x − μ) / √(σ² + eps) over the last dimension.
pub(super) fn standardize(x: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::arch::each;
    use crate::ops::cpu::compare::compare;
    use crate::ops::gradients::{check, random};

    const ACTIVATIONS: [Activation; 4] = [Activation::None, Activation::Silu, Activation::Gelu, Activation::Relu];

    #[test]
    fn gradients_agree_with_central_differences() -> Result<()> {
        for (x, groups) in [
            (vec![1, 1, 3, 5], 1),
            (vec![3, 4, 3, 2], 2),
            (vec![1, 3, 2, 1], 3),
            (vec![2, 6, 1, 1], 2),
            (vec![2, 4], 2),
            (vec![2, 2, 7], 1),
        ] {
            let inputs = [((random(1, x.as_slice())? * 2.0)? + 3.0)?, random(2, x[1])?, random(3, x[1])?];
            for activation in ACTIVATIONS {
                check(&format!("{x:?}, {groups} groups, {activation:?}"), &inputs, |x| {
                    group_norm(&x[0], groups, &x[1], &x[2], 1e-5, activation)
                })?;
            }
            let of_images = [inputs[0].clone(), random(6, (x[0], x[1]))?, random(7, (x[0], x[1]))?];
            check(&format!("{x:?}, by image"), &of_images, |x| {
                group_norm(&x[0], groups, &x[1], &x[2], 1e-5, Activation::Silu)
            })?;
        }
        let inputs = [random(4, (3, 2, 5, 4))?, random(5, (2, 2))?];
        check("transposed and narrowed", &inputs, |x| {
            let (weight, bias) = (x[1].t()?.flatten_all()?, x[1].flatten_all()?);
            let x = x[0].transpose(1, 3)?.narrow(2, 1, 3)?;
            group_norm(&x, 2, &weight, &bias, 1e-5, Activation::Silu)
        })
    }

    /// Rows of all lengths around that of a vector, one group shared by the threads and many groups.
    #[test]
    fn kernel_agrees_with_the_composition() -> Result<()> {
        for (x, groups) in [
            (vec![1, 1, 3, 5], 1),
            (vec![3, 4, 3, 2], 2),
            (vec![1, 3, 1, 1], 3),
            (vec![3, 6, 1, 1], 2),
            (vec![2, 4], 2),
            (vec![3, 8, 7, 7], 4),
            (vec![1, 32, 14, 17], 8),
            (vec![2, 5, 65], 1),
            (vec![1, 7, 70, 71], 1),
            (vec![2, 1, 200, 300], 1),
        ] {
            // A group of a single element leaves only rounding errors, times 1/√eps.
            let alone = x[1] / groups * x[2..].iter().product::<usize>() == 1;
            let tolerance = if alone { 5e-5 } else { 1e-5 };
            let inputs = [((random(1, x.as_slice())? * 2.0)? + 3.0)?, random(2, x[1])?, random(3, x[1])?];
            for activation in ACTIVATIONS {
                compare(&format!("{x:?}, {groups} groups, {activation:?}"), &inputs, tolerance, |x| {
                    group_norm(&x[0], groups, &x[1], &x[2], 1e-5, activation)
                })?;
            }
            let of_images = [inputs[0].clone(), random(6, (x[0], x[1]))?, random(7, (x[0], x[1]))?];
            compare(&format!("{x:?}, by image"), &of_images, tolerance, |x| {
                group_norm(&x[0], groups, &x[1], &x[2], 1e-5, Activation::Silu)
            })?;
        }
        let inputs = [random(4, (3, 6, 5, 4))?, random(5, (2, 2))?];
        compare("transposed and narrowed", &inputs, 2e-6, |x| {
            let (weight, bias) = (x[1].t()?.flatten_all()?, x[1].flatten_all()?);
            let x = x[0].transpose(1, 3)?.narrow(2, 1, 3)?;
            let y = group_norm(&x, 2, &weight, &bias, 1e-5, Activation::Silu)?;
            y + group_norm(&x, 1, &bias, &weight, 1e-3, Activation::None)?
        })?;
        for shape in [vec![1, 1, 3, 3], vec![3, 2, 1, 3], vec![40, 9, 3, 3]] {
            let weight = [(random(6, shape.as_slice())? * 0.1)?];
            compare(&format!("weights {shape:?}"), &weight, 2e-6, |w| weight_standardize(&w[0], 1e-5))?;
        }
        compare("transposed weights", &[random(7, (3, 2, 5, 4))?], 2e-6, |w| {
            weight_standardize(&w[0].transpose(0, 3)?, 1e-5)
        })
    }

    /// In one pass, or with a mean rounded to f32, all digits would be lost.
    #[test]
    fn a_small_spread_around_a_large_mean_is_resolved() -> Result<()> {
        let x = [((random(1, (2, 4, 9, 9))? * 1e-2)? + 1000.0)?, random(2, 4)?, random(3, 4)?];
        for activation in ACTIVATIONS {
            compare(&format!("{activation:?}"), &x, 1e-5, |x| group_norm(&x[0], 2, &x[1], &x[2], 1e-9, activation))?;
        }
        Ok(())
    }

    #[test]
    fn gradient_of_weight_standardization_is_correct() -> Result<()> {
        for shape in [vec![1, 1, 3, 3], vec![3, 2, 1, 3], vec![2, 5]] {
            check(&format!("{shape:?}"), &[random(1, shape.as_slice())?], |w| weight_standardize(&w[0], 1e-5))?;
        }
        check("transposed", &[random(2, (3, 2, 2, 4))?], |w| weight_standardize(&w[0].transpose(0, 3)?, 1e-5))
    }

    #[test]
    fn each_group_of_each_image_has_mean_0_and_variance_1() -> Result<()> {
        each(|| {
            let x = ((random(1, (3, 6, 4, 5))? * 4.0)? - 9.0)?;
            let (one, zero) = (random(2, 6)?.ones_like()?, random(2, 6)?.zeros_like()?);
            let y = group_norm(&x, 2, &one, &zero, 0.0, Activation::None)?.reshape((6, 60))?;
            let off = y.mean(1)?.abs()?.max(0)?.to_scalar::<f64>()?;
            let spread = (y.sqr()?.mean(1)? - 1.0)?.abs()?.max(0)?.to_scalar::<f64>()?;
            assert!(off < 1e-12 && spread < 1e-12, "{off} {spread}");
            Ok(())
        })
    }

    /// A group of equal elements is normalised to 0 and has a finite gradient.
    #[test]
    fn equal_elements_give_finite_results() -> Result<()> {
        each(|| {
            let x = candle_core::Var::from_tensor(&random(1, (1, 2, 3, 3))?.ones_like()?)?;
            let (weight, bias) = (random(2, 2)?, random(3, 2)?);
            let y = group_norm(&x, 1, &weight, &bias, 1e-5, Activation::None)?;
            let grads = y.sqr()?.sum_all()?.backward()?;
            let slope = grads.get(&x).unwrap().abs()?.max_all()?.to_scalar::<f64>()?;
            assert!(slope.is_finite(), "{slope}");
            let off = y.broadcast_sub(&bias.reshape((1, 2, 1, 1))?)?.abs()?.max_all()?;
            assert_eq!(off.to_scalar::<f64>()?, 0.0);
            Ok(())
        })
    }

    #[test]
    fn errors_name_wrong_shapes() -> Result<()> {
        let (x, six, four) = (random(1, (2, 6, 4, 4))?, random(2, 6)?, random(3, 4)?);
        let none = Activation::None;
        let fail = |r: Result<Tensor>| r.unwrap_err().to_string();
        for (message, wants) in [
            (
                fail(group_norm(&x, 4, &six, &six, 1e-5, none)),
                "group_norm: groups = 4 does not divide the 6 channels of x, shape [2, 6, 4, 4]",
            ),
            (fail(group_norm(&x, 0, &six, &six, 1e-5, none)), "group_norm: groups = 0"),
            (
                fail(group_norm(&x, 2, &four, &six, 1e-5, none)),
                "group_norm: weight has shape [4] and x [2, 6, 4, 4]; weight must have shape [6]",
            ),
            (fail(group_norm(&x, 2, &six, &four, 1e-5, none)), "group_norm: bias has shape [4] and x [2, 6, 4, 4]"),
            (fail(group_norm(&six, 2, &six, &six, 1e-5, none)), "group_norm: x has shape [6] and weight [6]"),
            (fail(weight_standardize(&six, 1e-5)), "weight_standardize: weight has shape [6]"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
