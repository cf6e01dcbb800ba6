//! Gradient clipping by the norm over all parameters.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Var, bail};
use diffusion_ops::optimiser::sum_of_squares;
use std::collections::BTreeMap;

/// The norm of the gradient and the factor that clips it, from [`clip_grad_norm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// ‖g‖, the L2 norm of all gradients together, before clipping; infinite or NaN if one of their elements is.
    pub norm: f64,
    /// The factor for [`AdamW::step_scaled`](super::AdamW::step_scaled), in (0, 1]. It is NaN if the norm is not
    /// finite; `step_scaled` rejects that, so check `norm` first to skip the step.
    pub scale: f64,
}

/// Computes the factor min(1, max_norm / (‖g‖ + 10⁻⁶)) that clips the gradient of all parameters to norm `max_norm`
/// ([Pascanu et al. 2013](https://arxiv.org/abs/1211.5063), Algorithm 1, with PyTorch's 10⁻⁶).
///
/// The gradients are not changed: the optimiser applies the factor as it reads them. The squares are summed in f64 (on
/// Metal, which lacks f64, in f32 within a parameter), in an order that does not depend on the number of threads.
/// Parameters without a gradient count as zero.
///
/// `max_norm` is positive; with infinity the norm is measured only.
///
/// # Errors
/// `max_norm` is not positive, or a gradient is neither f32 nor f64.
///
/// ```
/// use diffusion_core::{candle::{Device, Var}, train::clip_grad_norm};
/// use std::collections::BTreeMap;
/// let w = Var::new(&[3f32, 4.0], &Device::Cpu)?;
/// let grads = (w.sqr()?.sum_all()? / 2.0)?.backward()?;
/// let clip = clip_grad_norm(&BTreeMap::from([("w".to_string(), w)]), &grads, 1.0)?;
/// assert_eq!(clip.norm, 5.0);
/// assert!((clip.scale - 0.2).abs() < 1e-6);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn clip_grad_norm(params: &BTreeMap<String, Var>, grads: &GradStore, max_norm: f64) -> Result<Clip> {
    if max_norm.is_nan() || max_norm <= 0.0 {
        bail!("clip_grad_norm: max_norm = {max_norm} must be positive")
    }
    let mut sum = 0.0;
    for (name, var) in params {
        if let Some(grad) = grads.get(var) {
            if !matches!(grad.dtype(), DType::F32 | DType::F64) {
                bail!("clip_grad_norm: the gradient of {name} is of type {:?}; it must be F32 or F64", grad.dtype())
            }
            sum += sum_of_squares(grad)?;
        }
    }
    let norm = sum.sqrt();
    let scale = if norm.is_finite() { (max_norm / (norm + 1e-6)).min(1.0) } else { f64::NAN };
    Ok(Clip { norm, scale })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use diffusion_ops::rng::Rng;

    /// Parameters whose gradients are the given tensors.
    fn with_grads(grads: Vec<Tensor>) -> Result<(BTreeMap<String, Var>, GradStore)> {
        let (mut params, mut store) = (BTreeMap::new(), GradStore::default());
        for (i, grad) in grads.into_iter().enumerate() {
            let var = Var::zeros(grad.shape(), grad.dtype(), &Device::Cpu)?;
            store.insert(&var, grad);
            params.insert(format!("p{i}"), var);
        }
        Ok((params, store))
    }

    #[test]
    fn the_norm_is_that_of_all_gradients_together() -> Result<()> {
        let mut rng = Rng::new(1);
        let long = rng.randn((3, (1 << 15) + 5), &Device::Cpu)?;
        let grads = vec![long.clone(), long.t()?, long.narrow(1, 7, 100)?.to_dtype(DType::F64)?];
        let squares = |x: &Tensor| -> Result<f64> {
            let x = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
            Ok(x.iter().map(|x| x * x).sum())
        };
        let want = grads.iter().map(squares).sum::<Result<f64>>()?.sqrt();
        let (mut params, grads) = with_grads(grads)?;
        let unused = Var::zeros(3, DType::F32, &Device::Cpu)?;
        params.insert("unused".to_string(), unused);
        let clip = clip_grad_norm(&params, &grads, 2.0)?;
        assert!((clip.norm / want - 1.0).abs() < 1e-12, "{clip:?}, {want}");
        assert_eq!(clip.scale, 2.0 / (clip.norm + 1e-6));
        let wide = clip_grad_norm(&params, &grads, f64::INFINITY)?;
        assert_eq!((wide.norm, wide.scale), (clip.norm, 1.0));
        Ok(())
    }

    /// The square of 1e30 overflows f32.
    #[test]
    fn large_gradients_do_not_overflow_and_infinite_ones_are_reported() -> Result<()> {
        let grads = |x: f32| with_grads(vec![Tensor::new(&[3.0 * x, 4.0 * x], &Device::Cpu)?]);
        let (params, large) = grads(1e30)?;
        let clip = clip_grad_norm(&params, &large, 1.0)?;
        assert!((clip.norm / 5e30 - 1.0).abs() < 1e-6, "{clip:?}");
        for x in [f32::INFINITY, f32::NAN] {
            let (params, broken) = grads(x)?;
            let clip = clip_grad_norm(&params, &broken, 1.0)?;
            assert!(!clip.norm.is_finite() && clip.scale.is_nan(), "{clip:?}");
            assert_eq!(clip.norm.is_nan(), x.is_nan());
        }
        Ok(())
    }

    #[test]
    fn errors_name_the_wrong_argument() -> Result<()> {
        let (params, grads) = with_grads(vec![Tensor::new(&[1u32], &Device::Cpu)?])?;
        for max_norm in [0.0, -1.0, f64::NAN] {
            let error = clip_grad_norm(&params, &grads, max_norm).unwrap_err();
            let want = format!("max_norm = {max_norm} must be positive");
            assert!(error.to_string().contains(&want), "{error}");
        }
        let error = clip_grad_norm(&params, &grads, 1.0).unwrap_err().to_string();
        assert!(error.contains("gradient of p0") && error.contains("U32"), "{error}");
        Ok(())
    }
}
