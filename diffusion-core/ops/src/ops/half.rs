//! 16-bit numbers: bf16 and f16.
//!
//! 16-bit activations are used in a network whose parameters stay f32. Operands of products are rounded to 16 bits;
//! sums, means and variances are f32. This is what a GPU's tensor cores do, and what PyTorch calls autocast. Where
//! there is no 16-bit kernel, as on the CPU, the same is computed in f32 with rounded values.

use candle_core::{DType, Result, Tensor};

/// The type of `x` if it is a 16-bit type.
pub(super) fn half(x: &Tensor) -> Option<DType> {
    matches!(x.dtype(), DType::BF16 | DType::F16).then(|| x.dtype())
}

/// `x` converted to f32.
pub(super) fn wide(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)
}

/// `x` in f32, rounded to the values of `half`.
pub(super) fn rounded(x: &Tensor, half: DType) -> Result<Tensor> {
    wide(&x.to_dtype(half)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::arch::each;
    use crate::ops::gradients::random;
    use crate::ops::{
        Activation, Geometry, attention, batch_norm, conv_transpose2d, conv2d, gelu, group_norm, linear, relu, silu,
        upsample_nearest2x_conv2d,
    };
    use candle_core::{Device, Var};

    /// bf16 has 8 bits of precision, a relative spacing of 2⁻⁸.
    const ULP: f64 = 1.0 / 256.0;

    fn f64s(x: &Tensor) -> Result<Vec<f64>> {
        x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
    }

    /// The values and gradients of `f` in bf16 against f64, for inputs that bf16 represents exactly.
    fn close(
        what: &str,
        images: &[Tensor],
        parameters: &[Tensor],
        f: impl Fn(&[Tensor], &[Tensor]) -> Result<Tensor>,
    ) -> Result<()> {
        let run = |image: DType, parameter: DType| -> Result<Vec<Vec<f64>>> {
            let vars = |xs: &[Tensor], dtype: DType| -> Result<Vec<Var>> {
                let var = |x: &Tensor| Var::from_tensor(&rounded(x, DType::BF16)?.to_dtype(dtype)?);
                xs.iter().map(var).collect()
            };
            let (x, w) = (vars(images, image)?, vars(parameters, parameter)?);
            let tensors = |v: &[Var]| v.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>();
            let y = f(&tensors(&x), &tensors(&w))?;
            assert_eq!(y.dtype(), image, "{what}");
            let weights = random(99, y.shape())?;
            let weights = rounded(&weights, DType::BF16)?.to_dtype(y.dtype())?;
            let grads = (&y * weights)?.to_dtype(DType::F64)?.sum_all()?.backward()?;
            let mut all = vec![f64s(&y)?];
            for v in x.iter().chain(&w) {
                let grad = grads.get(v).expect(what);
                assert_eq!((grad.dtype(), grad.dims()), (v.dtype(), v.dims()), "{what}");
                all.push(f64s(grad)?);
            }
            Ok(all)
        };
        let got = run(DType::BF16, DType::F32)?;
        let want = run(DType::F64, DType::F64)?;
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let size = (want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt();
            for (got, want) in got.iter().zip(want) {
                let allowed = 4.0 * ULP * (want.abs() + size);
                assert!((got - want).abs() <= allowed, "{what}, {i}: {got}, {want}");
            }
        }
        Ok(())
    }

    #[test]
    fn bf16_agrees_with_f64_up_to_rounding() -> Result<()> {
        each(|| {
            let (x, w) = (random(1, (2, 4, 6, 6))?, random(2, (8, 4, 3, 3))?);
            let (b8, b4, of_images) = (random(3, 8)?, random(4, 4)?, random(5, (2, 8))?);
            let same = Geometry::same(3);
            let x = &[x][..];
            for bias in [&b8, &of_images] {
                close("conv2d", x, &[w.clone(), bias.clone()], |x, w| conv2d(&x[0], &w[0], Some(&w[1]), same))?;
            }
            close("enlarged", x, &[w.clone(), b8.clone()], |x, w| {
                upsample_nearest2x_conv2d(&x[0], &w[0], Some(&w[1]), same)
            })?;
            let turned = random(6, (4, 8, 2, 2))?;
            close("transposed", x, &[turned, b8.clone()], |x, w| {
                let geometry = Geometry { stride: 2, padding: 0 };
                conv_transpose2d(&x[0], &w[0], Some(&w[1]), geometry)
            })?;
            for activation in [Activation::None, Activation::Silu, Activation::Gelu] {
                close("group norm", x, &[b4.clone(), random(7, 4)?], |x, w| {
                    group_norm(&x[0], 2, &w[0], &w[1], 1e-5, activation)
                })?;
            }
            close("batch norm", x, &[b4.clone(), random(7, 4)?], |x, w| {
                Ok(batch_norm(&x[0], &w[0], &w[1], 1e-5, Activation::Gelu)?.0)
            })?;
            for f in [silu, gelu, relu] {
                close("activation", x, &[], |x, _| f(&x[0]))?;
            }
            let rows = [random(8, (3, 5, 4))?];
            close("linear", &rows, &[random(9, (8, 4))?, b8], |x, w| linear(&x[0], &w[0], Some(&w[1])))?;
            let qkv = [random(10, (2, 5, 8))?, random(11, (2, 3, 8))?, random(12, (2, 3, 8))?];
            close("attention", &qkv, &[], |x, _| attention(&x[0], &x[1], &x[2], 2))
        })
    }

    /// bf16 cannot represent 1000 + small numbers, but their mean is computed in f32.
    #[test]
    fn means_are_computed_in_f32() -> Result<()> {
        each(|| {
            let x = Tensor::new(&[256f32, 258.0], &Device::Cpu)?.repeat((1, 500))?;
            let x = x.reshape((1, 1, 10, 100))?.to_dtype(DType::BF16)?;
            let (one, zero) = (Tensor::ones(1, DType::F32, &Device::Cpu)?, Tensor::zeros(1, DType::F32, &Device::Cpu)?);
            let y = f64s(&group_norm(&x, 1, &one, &zero, 1e-5, Activation::None)?)?;
            assert!(y.iter().all(|y| (y.abs() - 1.0).abs() < ULP), "{y:?}");
            Ok(())
        })
    }
}
