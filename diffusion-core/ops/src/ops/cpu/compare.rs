//! Compares the kernels with compositions of candle operations, for the tests.

use super::arch::each;
use crate::ops::gradients::random;
use candle_core::{DType, Result, Tensor, Var};

/// Asserts that `f` of `inputs` in f32, and its gradients, equal those of `f` in f64 up to `tolerance` times the
/// largest element (at least 1), and that they are identical to the bit when repeated.
///
/// This is repeated with all instruction sets that the machine has ([`each`]).
///
/// `f` must use its kernel for f32 and the composition for f64. The loss also uses each input directly, and the
/// gradient that reaches `f` is contiguous once and transposed once.
pub(in crate::ops) fn compare(
    what: &str,
    inputs: &[Tensor],
    tolerance: f64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let run = |dtype: DType, turned: bool| {
        let rounded = |x: &Tensor| x.to_dtype(DType::F32)?.to_dtype(dtype);
        let var = |x: &Tensor| Var::from_tensor(&rounded(x)?);
        let vars = inputs.iter().map(var).collect::<Result<Vec<_>>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let out = f(&tensors)?;
        let weights = rounded(&random(300, out.shape())?)?;
        let last = out.rank().saturating_sub(1);
        let mut loss = match turned {
            true => (out.transpose(0, last)? * weights.transpose(0, last)?)?.sum_all()?,
            false => (&out * weights)?.sum_all()?,
        };
        for x in &tensors {
            loss = (loss + (x.sqr()? * 0.1)?.sum_all()?)?;
        }
        let grads = loss.backward()?;
        let mut results = vec![out];
        for var in &vars {
            results.push(grads.get(var).unwrap().clone());
        }
        Ok::<_, candle_core::Error>(results)
    };
    let want = [run(DType::F64, false)?, run(DType::F64, true)?];
    let compared = |turned: bool| {
        let (ours, again) = (run(DType::F32, turned)?, run(DType::F32, turned)?);
        for (i, (ours, want)) in ours.iter().zip(&want[usize::from(turned)]).enumerate() {
            let which = match i {
                0 => "the result".to_string(),
                _ => format!("the gradient of input {}", i - 1),
            };
            assert_eq!(ours.dims(), want.dims(), "{what}: {which}");
            assert_eq!(ours.dtype(), DType::F32, "{what}: {which}");
            let bits = |x: &Tensor| {
                let numbers = x.flatten_all()?.to_vec1::<f32>()?;
                Ok::<_, candle_core::Error>(numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            assert_eq!(bits(ours)?, bits(&again[i])?, "{what}: {which}, again");
            let most = want.abs()?.max_all()?.to_scalar::<f64>()?;
            let off = (ours.to_dtype(DType::F64)? - want)?.abs()?.max_all()?;
            let off = off.to_scalar::<f64>()? / most.max(1.0);
            assert!(off <= tolerance, "{what}: {which} is off by {off:e} of {most}");
        }
        Ok(())
    };
    each(|| [false, true].into_iter().try_for_each(compared))
}
