//! Our operations have PyTorch's values and gradients, to 1e-4: `golden/ops.py` wrote them down.

use anyhow::{Context, Result, ensure};
use diffusion_core::candle::{self, DType, Device, Tensor, Var, safetensors};
use diffusion_core::ops::*;
use std::collections::HashMap;

const TOLERANCE: f32 = 1e-4;

struct Golden {
    tensors: HashMap<String, Tensor>,
    compared: usize,
}

impl Golden {
    fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).with_context(|| format!("{name} is not in the golden file"))
    }

    fn compare(&mut self, name: &str, ours: &Tensor) -> Result<()> {
        let theirs = self.get(name)?;
        ensure!(ours.dims() == theirs.dims(), "{name}: {:?} instead of {:?}", ours.dims(), theirs.dims());
        let off = (ours - theirs)?.abs()?.max_all()?.to_scalar::<f32>()?;
        ensure!(off < TOLERANCE, "{name}: off by {off:e}");
        self.compared += 1;
        Ok(())
    }

    fn case(&mut self, case: &str, inputs: &[&str], f: impl Fn(&[Tensor]) -> candle::Result<Tensor>) -> Result<()> {
        let vars = inputs
            .iter()
            .map(|name| Ok(Var::from_tensor(self.get(&format!("{case}.in.{name}"))?)?))
            .collect::<Result<Vec<_>>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let out = f(&tensors)?;
        self.compare(&format!("{case}.out"), &out)?;
        let weights = self.get(&format!("{case}.weights"))?;
        let grads = (out * weights)?.sum_all()?.backward()?;
        for (name, var) in inputs.iter().zip(&vars) {
            let name = format!("{case}.grad.{name}");
            let grad = grads.get(var).with_context(|| format!("no {name}"))?;
            self.compare(&name, grad)?;
        }
        Ok(())
    }
}

#[test]
fn operations_have_the_values_and_gradients_of_pytorch() -> Result<()> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/ops.safetensors");
    let mut golden = Golden { tensors: safetensors::load(file, &Device::Cpu)?, compared: 0 };
    let affine = ["x", "weight", "bias"];
    let (same, plain) = (Geometry::same(3), Geometry::default());
    for (case, geometry) in [("conv2d", same), ("conv2d_strided", same.stride(2)), ("conv2d_1x1", plain)] {
        golden.case(case, &affine, |x| conv2d(&x[0], &x[1], Some(&x[2]), geometry))?;
    }
    for (case, geometry) in [("conv_transpose2d", plain.stride(2)), ("conv_transpose2d_padded", same.stride(2))] {
        golden.case(case, &affine, |x| conv_transpose2d(&x[0], &x[1], Some(&x[2]), geometry))?;
    }
    for (case, groups, activation) in [("group_norm", 3, Activation::None), ("group_norm_silu", 2, Activation::Silu)] {
        golden.case(case, &affine, |x| group_norm(&x[0], groups, &x[1], &x[2], 1e-5, activation))?;
    }
    golden.case("upsample_nearest2x", &["x"], |x| upsample_nearest2x(&x[0]))?;
    golden.case("upsample_bilinear2x", &["x"], |x| upsample_bilinear2x(&x[0]))?;
    golden.case("max_pool2d", &["x"], |x| max_pool2d(&x[0], 2))?;
    golden.case("max_pool2d_ties", &["x"], |x| max_pool2d(&x[0], 3))?;
    golden.case("avg_pool2d", &["x"], |x| avg_pool2d(&x[0], 2))?;
    golden.case("attention", &["q", "k", "v"], |x| attention(&x[0], &x[1], &x[2], 2))?;
    golden.case("weight_standardize", &["weight"], |x| weight_standardize(&x[0], 1e-5))?;
    golden.case("silu", &["x"], |x| silu(&x[0]))?;
    golden.case("gelu", &["x"], |x| gelu(&x[0]))?;
    golden.case("linear", &affine, |x| linear(&x[0], &x[1], Some(&x[2])))?;
    let ids = golden.get("embedding.in.ids")?.to_dtype(DType::U32)?;
    let ids: Vec<usize> = ids.to_vec1::<u32>()?.iter().map(|i| *i as usize).collect();
    golden.case("embedding", &["table"], |x| embedding(&x[0], &ids))?;

    let to_compare = |name: &&String| name.ends_with(".out") || name.contains(".grad.");
    assert_eq!(golden.compared, golden.tensors.keys().filter(to_compare).count());
    Ok(())
}
