//! What is wrong in candle 0.11.1 on the CPU and what we go around. Each test asserts today's wrong behaviour: one that
//! fails after an update of candle says what has been mended and what of ours can become simpler.

use diffusion_core::candle::{Device, Result, Tensor, Var, backprop::GradStore};
use diffusion_core::candle_nn::ops;

fn var(shape: &[usize]) -> Result<Var> {
    let n = shape.iter().product::<usize>();
    Var::from_tensor(&Tensor::arange(0f32, n as f32, &Device::Cpu)?.reshape(shape)?)
}

fn slopes(grads: &GradStore, x: &Var) -> Result<Vec<f32>> {
    grads.get(x).unwrap().flatten_all()?.to_vec1()
}

#[test]
fn the_gradient_of_max_pool2d_is_four_times_too_small() -> Result<()> {
    let x = var(&[1, 1, 2, 2])?;
    let grads = x.max_pool2d(2)?.sum_all()?.backward()?;
    assert_eq!(
        slopes(&grads, &x)?,
        [0.0, 0.0, 0.0, 0.25],
        "candle has mended max_pool2d (right is 0, 0, 0, 1): ops::max_pool2d can call it, if the gradient of equal \
         numbers goes to the first of them"
    );
    Ok(())
}

#[test]
fn the_gradient_of_max_counts_equal_numbers_several_times() -> Result<()> {
    let x = Var::from_tensor(&Tensor::ones(3, diffusion_core::candle::DType::F32, &Device::Cpu)?)?;
    let grads = x.max(0)?.backward()?;
    assert_eq!(
        slopes(&grads, &x)?,
        [1.0, 1.0, 1.0],
        "candle has mended max (the sum of the gradient must be 1): ops::max_pool2d can use it in place of gather"
    );
    Ok(())
}

#[test]
fn the_gradient_of_avg_pool2d_is_wrong_where_rows_are_left_over() -> Result<()> {
    let x = var(&[1, 1, 3, 3])?;
    let grads = x.avg_pool2d(2)?.sum_all()?.backward()?;
    assert_eq!(
        slopes(&grads, &x)?,
        [0.25; 9],
        "candle has mended avg_pool2d (the last row and column must get 0): ops::avg_pool2d can call it"
    );
    Ok(())
}

#[test]
fn fused_operations_have_no_gradient() -> Result<()> {
    let (x, weight, bias) = (var(&[2, 3])?, var(&[3])?, var(&[3])?);
    for (name, y) in [
        ("softmax_last_dim", ops::softmax_last_dim(&x)?),
        ("layer_norm", ops::layer_norm(&x, &weight, &bias, 1e-5)?),
        ("rms_norm", ops::rms_norm(&x, &weight, 1e-5)?),
    ] {
        let grads = y.sqr()?.sum_all()?.backward()?;
        assert!(
            grads.get(&x).is_none(),
            "candle's {name} has a gradient now: if it is right, ops may call it (softmax_last_dim in attention)"
        );
    }
    Ok(())
}

#[test]
fn the_gradient_of_upsample_nearest2d_overwrites() -> Result<()> {
    let x = var(&[1, 1, 1, 2])?;
    let loss = (x.upsample_nearest2d(2, 4)?.sum_all()? + x.sum_all()?)?;
    assert_eq!(
        slopes(&loss.backward()?, &x)?,
        [4.0, 4.0],
        "candle has mended upsample_nearest2d (right is 4 + 1 = 5): ops::upsample_nearest2x can call it"
    );
    Ok(())
}

#[test]
fn upsample_bilinear2d_has_no_gradient() -> Result<()> {
    let x = var(&[1, 1, 2, 2])?;
    let loss = x.upsample_bilinear2d(4, 4, false)?.sum_all()?;
    assert!(
        loss.backward().is_err(),
        "candle's upsample_bilinear2d has a gradient now: if it is right, ops::upsample_bilinear2x can call it"
    );
    Ok(())
}

/// Its backward pass takes the surplus of rows for that of columns.
#[test]
fn strided_conv2d_has_no_gradient_where_rows_or_columns_alone_are_left_over() -> Result<()> {
    let (x, weight) = (var(&[1, 1, 4, 5])?, var(&[1, 1, 3, 3])?);
    let loss = x.conv2d(&weight, 1, 2, 1, 1)?.sum_all()?;
    assert!(
        loss.backward().is_err(),
        "candle's conv2d has a gradient for every size now: ops::conv2d need not pad and cut by itself"
    );
    Ok(())
}

#[test]
fn the_gradient_of_gelu_erf_has_six_digits() -> Result<()> {
    let x = Var::new(1f64, &Device::Cpu)?;
    let grads = x.gelu_erf()?.backward()?;
    let off = (grads.get(&x).unwrap().to_scalar::<f64>()? - 1.083_315_470_587_683_7).abs();
    assert!(
        (1e-9..1e-5).contains(&off),
        "candle's gelu_erf has a gradient with an error of {off:e} now: if that is below 1e-9, ops::gelu can call it"
    );
    Ok(())
}

#[test]
fn the_cpu_cannot_be_seeded() {
    assert!(
        Device::Cpu.set_seed(1).is_err(),
        "candle's CPU generator can be seeded now; rng::Rng is still needed, since its numbers are the same on every device"
    );
}
