//! Activation functions: SiLU, GELU, ReLU.

use super::cpu::{activation::Pointwise, takes};
#[cfg(feature = "cuda")]
use super::cuda;
use super::graph;
use super::half::{half, wide};
use candle_core::{Result, Tensor};
use std::f64::consts::FRAC_1_SQRT_2;

/// An optional activation, applied element by element at the end of an operation in the same pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// No activation: the identity.
    #[default]
    None,
    /// [`silu`].
    Silu,
    /// [`gelu`].
    Gelu,
    /// [`relu`].
    Relu,
}

impl Activation {
    /// Applies the activation to every element of `x`.
    ///
    /// # Shapes
    /// Any; the result has the shape of `x`.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x.clone()),
            Self::Silu => silu(x),
            Self::Gelu => gelu(x),
            Self::Relu => relu(x),
        }
    }
}

/// SiLU: x · σ(x) with σ(x) = 1/(1 + e^−x), also called swish
/// ([Ramachandran et al. 2017](https://arxiv.org/abs/1710.05941)).
///
/// # Shapes
/// Any; the result has the shape of `x`.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::silu};
/// let y = silu(&Tensor::new(&[-100f32, 0.0, 1.0, 100.0], &Device::Cpu)?)?;
/// assert_eq!(y.to_vec1::<f32>()?, [0.0, 0.0, 0.7310586, 100.0]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if takes(&[x]) {
        return graph::apply("silu", Pointwise(Activation::Silu), [x]);
    }
    #[cfg(feature = "cuda")]
    if cuda::device::takes(x, &[]) {
        return cuda::device::activate(x, Activation::Silu);
    }
    if let Some(half) = half(x) {
        return silu(&wide(x)?)?.to_dtype(half);
    }
    x.silu()
}

/// GELU: x · Φ(x) = x/2 · (1 + erf(x/√2)), exact as in PyTorch's default, not the tanh approximation
/// ([Hendrycks & Gimpel 2016](https://arxiv.org/abs/1606.08415)).
///
/// # Shapes
/// Any; the result has the shape of `x`.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::gelu};
/// let y = gelu(&Tensor::new(&[-1f64, 0.0, 1.0], &Device::Cpu)?)?.to_vec1::<f64>()?;
/// assert!((y[0] + 0.15865525393145707).abs() < 1e-12 && (y[2] - 0.8413447460685429).abs() < 1e-12);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if takes(&[x]) {
        return graph::apply("gelu", Pointwise(Activation::Gelu), [x]);
    }
    #[cfg(feature = "cuda")]
    if cuda::device::takes(x, &[]) {
        return cuda::device::activate(x, Activation::Gelu);
    }
    if let Some(half) = half(x) {
        return gelu(&wide(x)?)?.to_dtype(half);
    }
    // From erf, because the gradient of candle's `gelu_erf` uses constants with six digits.
    (x * 0.5)? * ((x * FRAC_1_SQRT_2)?.erf()? + 1.0)?
}

/// ReLU: max(x, 0). As in PyTorch, its gradient at 0 is 0, and NaN stays NaN.
///
/// # Shapes
/// Any; the result has the shape of `x`.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::relu};
/// let y = relu(&Tensor::new(&[-1f32, 0.0, 2.0], &Device::Cpu)?)?;
/// assert_eq!(y.to_vec1::<f32>()?, [0.0, 0.0, 2.0]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn relu(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::device::takes(x, &[]) {
        return cuda::device::activate(x, Activation::Relu);
    }
    if takes(&[x]) {
        return graph::apply("relu", Pointwise(Activation::Relu), [x]);
    }
    // candle's `relu` has gradient 1 at 0.
    x.le(0.0)?.where_cond(&x.zeros_like()?, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::arch::each;
    use crate::ops::cpu::compare::compare;
    use crate::ops::gradients::{check, random};
    use candle_core::{DType, Device, Var};

    #[test]
    fn gradients_agree_with_central_differences() -> Result<()> {
        for shape in [vec![1], vec![7], vec![3, 1, 5, 2]] {
            let x = (random(1, shape.as_slice())? * 2.0)?;
            check("silu", std::slice::from_ref(&x), |x| silu(&x[0]))?;
            check("gelu", std::slice::from_ref(&x), |x| gelu(&x[0]))?;
            check("relu", std::slice::from_ref(&x), |x| relu(&x[0]))?;
        }
        let x = random(2, (3, 1, 5, 2))?;
        check("silu of a transposed", std::slice::from_ref(&x), |x| silu(&x[0].transpose(0, 3)?))?;
        check("gelu of a part", &[x], |x| gelu(&x[0].narrow(2, 1, 3)?))
    }

    #[test]
    fn kernels_agree_with_the_compositions() -> Result<()> {
        for f in [silu, gelu, relu] {
            for shape in [vec![1], vec![7], vec![3, 1, 5, 2], vec![16, 17], vec![3, 40_001]] {
                let x = [(random(1, shape.as_slice())? * 3.0)?];
                compare(&format!("{shape:?}"), &x, 1e-6, |x| f(&x[0]))?;
            }
            let x = [random(2, (3, 6, 5, 2))?];
            compare("transposed, narrowed and twice", &x, 1e-6, |x| {
                f(&x[0].transpose(0, 3)?.narrow(1, 1, 4)?)? * f(&x[0].transpose(0, 3)?.narrow(1, 2, 4)?)?
            })?;
        }
        Ok(())
    }

    #[test]
    fn values_and_gradients_are_finite_for_large_x() -> Result<()> {
        each(|| {
            let far = Tensor::new(&[-1e4f32, -200.0, -90.0, 90.0, 200.0, 1e4], &Device::Cpu)?;
            for f in [silu, gelu, relu] {
                let x = Var::from_tensor(&far)?;
                let y = f(&x)?;
                let grads = y.backward()?;
                let slope = grads.get(&x).unwrap().to_vec1::<f32>()?;
                let close = |got: f32, want: f32| (got - want).abs() < 1e-6;
                for (i, (y, slope)) in y.to_vec1::<f32>()?.into_iter().zip(slope).enumerate() {
                    let (value, one) = if i < 3 { (0.0, 0.0) } else { (far.get(i)?.to_scalar()?, 1.0) };
                    assert!(close(y, value) && close(slope, one), "{i}: {y}, {slope}");
                }
            }
            Ok(())
        })
    }

    #[test]
    fn none_is_the_input() -> Result<()> {
        each(|| {
            let x = random(3, (2, 2))?.to_dtype(DType::F32)?;
            assert_eq!(Activation::None.apply(&x)?.to_vec2::<f32>()?, x.to_vec2::<f32>()?);
            for (activation, f) in [
                (Activation::Silu, silu as fn(&Tensor) -> Result<Tensor>),
                (Activation::Gelu, gelu),
                (Activation::Relu, relu),
            ] {
                let (ours, theirs) = (activation.apply(&x)?, f(&x)?);
                assert_eq!(ours.to_vec2::<f32>()?, theirs.to_vec2::<f32>()?);
            }
            Ok(())
        })
    }

    #[test]
    fn relu_keeps_nan_and_is_flat_at_0() -> Result<()> {
        each(|| {
            let x = Var::new(&[f32::NAN, -1.0, 0.0, 3.0], &Device::Cpu)?;
            let y = relu(&x)?;
            let values = y.to_vec1::<f32>()?;
            assert!(values[0].is_nan() && values[1..] == [0.0, 0.0, 3.0], "{values:?}");
            let grads = y.backward()?;
            assert_eq!(grads.get(&x).unwrap().to_vec1::<f32>()?[1..], [0.0, 0.0, 1.0]);
            Ok(())
        })
    }
}
