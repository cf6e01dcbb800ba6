//! The affine map.

use super::cpu::{linear::Linear, takes};
use super::graph;
use super::half::{half, rounded, wide};
use super::one_per_channel;
use candle_core::{Result, Tensor, bail};

/// The affine map y = x Wᵀ + b.
///
/// # Shapes
/// `x` (…, I), at least one dimension; `weight` (O, I); `bias` (O,); the result is (…, O).
///
/// # Errors
/// The shapes do not match.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::linear};
/// let (x, weight) = (Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?, Tensor::new(&[[3f32, 4.0]], &Device::Cpu)?);
/// assert_eq!(linear(&x, &weight, None)?.to_vec2::<f32>()?, [[11.0]]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "linear";
    let (&[out, c_weight], [rows @ .., c]) = (weight.dims(), x.dims()) else {
        bail!(
            "{OP}: x has shape {:?} and weight {:?}; x must have at least one dimension, weight two",
            x.dims(),
            weight.dims()
        )
    };
    if *c != c_weight || x.elem_count() == 0 || out == 0 {
        bail!(
            "{OP}: x has shape {:?} and weight {:?}; their last dimensions must be equal, and none 0",
            x.dims(),
            weight.dims()
        )
    }
    if let Some(bias) = bias {
        one_per_channel(OP, ("bias", bias), out, ("weight", weight))?;
    }
    if let Some(half) = half(x).filter(|_| !x.device().is_cuda()) {
        return linear(&wide(x)?, &rounded(weight, half)?, bias)?.to_dtype(half);
    }
    match bias {
        Some(bias) if takes(&[x, weight, bias]) => return graph::apply(OP, Linear, [x, weight, bias]),
        None if takes(&[x, weight]) => return graph::apply(OP, Linear, [x, weight]),
        _ => {}
    }
    let x = x.reshape(((), *c))?;
    let y = match bias {
        // The weight in the type of x, so that bf16 goes through cuBLAS directly.
        Some(bias) => x.matmul(&weight.to_dtype(x.dtype())?.t()?)?.broadcast_add(&bias.to_dtype(x.dtype())?)?,
        None => x.matmul(&weight.to_dtype(x.dtype())?.t()?)?,
    };
    y.reshape([rows, &[out]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::compare::compare;
    use crate::ops::gradients::{check, random};

    #[test]
    fn gradients_agree_with_central_differences() -> Result<()> {
        for (x, out) in [(vec![1], 1), (vec![5], 3), (vec![1, 3], 2), (vec![3, 1], 4), (vec![2, 3, 5], 2)] {
            let inner = x[x.len() - 1];
            let inputs = [random(1, x.as_slice())?, random(2, (out, inner))?, random(3, out)?];
            check(&format!("{x:?} → {out}"), &inputs, |x| linear(&x[0], &x[1], Some(&x[2])))?;
            check(&format!("{x:?} → {out}"), &inputs[..2], |x| linear(&x[0], &x[1], None))?;
        }
        let inputs = [random(4, (4, 3, 2))?, random(5, (4, 3))?];
        check("transposed and narrowed", &inputs, |x| linear(&x[0].transpose(0, 2)?.narrow(1, 1, 2)?, &x[1].t()?, None))
    }

    #[test]
    fn kernel_agrees_with_the_composition() -> Result<()> {
        for (x, out) in [
            (vec![1], 1),
            (vec![5], 3),
            (vec![1, 33], 70),
            (vec![3, 1], 4),
            (vec![2, 3, 5], 2),
            (vec![150, 40], 131),
            (vec![2, 300], 200),
        ] {
            let inner = x[x.len() - 1];
            let inputs = [random(1, x.as_slice())?, random(2, (out, inner))?, random(3, out)?];
            let what = format!("{x:?} → {out}");
            compare(&what, &inputs, 2e-6, |x| linear(&x[0], &x[1], Some(&x[2])))?;
            compare(&what, &inputs[..2], 2e-6, |x| linear(&x[0], &x[1], None))?;
        }
        let inputs = [random(4, (4, 3, 4))?, random(5, (4, 4))?];
        compare("transposed, narrowed and twice", &inputs, 2e-6, |x| {
            let (input, weight) = (x[0].transpose(0, 2)?.narrow(1, 1, 2)?, x[1].t()?);
            let bias = x[1].get(0)?;
            linear(&linear(&input, &weight, Some(&bias))?, &weight, None)
        })
    }

    #[test]
    fn errors_name_wrong_shapes() -> Result<()> {
        let (x, weight, bias) = (random(1, (2, 3))?, random(2, (4, 5))?, random(3, 5)?);
        let fail = |r: Result<Tensor>| r.unwrap_err().to_string();
        for (message, wants) in [
            (fail(linear(&x, &weight, None)), "linear: x has shape [2, 3] and weight [4, 5]"),
            (fail(linear(&x, &bias, None)), "linear: x has shape [2, 3] and weight [5]"),
            (
                fail(linear(&weight, &weight, Some(&bias))),
                "linear: bias has shape [5] and weight [4, 5]; bias must have shape [4]",
            ),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
