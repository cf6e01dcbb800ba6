//! `diffusion check`: compares the results of a device with those of the CPU.

use anyhow::{Context, Result};
use diffusion_core::candle::{self, DType, Device, Tensor, Var};
use diffusion_core::data::Dataset;
use diffusion_core::device::Precision;
use diffusion_core::ops::{
    Activation, Geometry, attention, avg_pool2d, batch_norm, concat_channels, conv_transpose2d, conv2d, gelu,
    group_norm, linear, max_pool2d, relu, silu, upsample_bilinear2x, upsample_nearest2x, upsample_nearest2x_conv2d,
    weight_standardize,
};
use diffusion_core::rng::Rng;
use diffusion_core::sampler::Sampler;
use diffusion_core::train::{Training, TrainingConfig};
use diffusion_core::unet::{Condition, Network, SimpleUNet};
use std::fmt;

/// One comparison of a device with the CPU.
#[derive(Clone, Debug)]
pub struct Check {
    /// The name of the computation.
    pub name: String,
    /// The root mean square of the differences relative to that of the reference: the largest for the result and for each
    /// gradient.
    pub error: f64,
    /// The largest error that is allowed.
    pub tolerance: f64,
}

impl Check {
    /// Whether the error is within the tolerance.
    pub fn held(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// `conv2d 3×3   1.2e-7 ≤ 1e-3`
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.held() { "≤" } else { "> (WRONG)" };
        let Self { name, error, tolerance } = self;
        write!(f, "{name:38} {error:8.1e} {sign} {tolerance:.0e}")
    }
}

/// Runs every operation, a network, a short training and a sampler on `device` and compares them with the CPU: values and
/// gradients with results in f64, the training with one in f32. Calls `report` after each comparison. Takes a minute or two.
///
/// The tolerance is 1e-3; with tf32 and bf16 it is 2e-2, and 6e-2 for samples in bf16, which need ten evaluations of the network.
///
/// # Errors
/// An operation fails on the device: the message names it.
pub fn check(device: &Device, precision: Precision, mut report: impl FnMut(&Check)) -> Result<()> {
    let tolerance = if precision == Precision::F32 { 1e-3 } else { 2e-2 };
    for case in cases() {
        let error = case.error(device, precision).context(case.name)?;
        report(&Check { name: case.name.to_owned(), error, tolerance });
    }
    let drawn = if precision == Precision::Bf16 { 6e-2 } else { tolerance };
    for (name, error, tolerance) in [
        ("SimpleUNet, prediction and gradients", network(device, precision), tolerance),
        ("SimpleUNet, 20 training steps", training(device, precision), tolerance),
        ("SimpleUNet, 10 sampling steps", samples(device, precision), drawn),
        ("the same training twice, differing bits", twice(device, precision), 0.0),
    ] {
        report(&Check { name: name.to_owned(), error: error.context(name)?, tolerance });
    }
    Ok(())
}

/// An operation, with the shapes of its images and parameters.
struct Case {
    name: &'static str,
    images: Vec<Vec<usize>>,
    parameters: Vec<Vec<usize>>,
    f: fn(&[Tensor], &[Tensor]) -> candle::Result<Tensor>,
}

fn cases() -> Vec<Case> {
    type F = fn(&[Tensor], &[Tensor]) -> candle::Result<Tensor>;
    let case = |name, images: &[&[usize]], parameters: &[&[usize]], f: F| Case {
        name,
        images: images.iter().map(|it| it.to_vec()).collect(),
        parameters: parameters.iter().map(|it| it.to_vec()).collect(),
        f,
    };
    const X: &[usize] = &[3, 16, 14, 14];
    const ODD: &[usize] = &[2, 5, 7, 9];
    const SAME: Geometry = Geometry { stride: 1, padding: 1 };
    vec![
        case("conv2d 3×3", &[X], &[&[24, 16, 3, 3], &[24]], |x, w| conv2d(&x[0], &w[0], Some(&w[1]), SAME)),
        case("conv2d 3×3, one bias per image", &[ODD], &[&[6, 5, 3, 3], &[2, 6]], |x, w| {
            conv2d(&x[0], &w[0], Some(&w[1]), SAME)
        }),
        case("conv2d 3×3, stride 2", &[X], &[&[16, 16, 3, 3]], |x, w| conv2d(&x[0], &w[0], None, SAME.stride(2))),
        case("conv2d 1×1", &[ODD], &[&[8, 5, 1, 1], &[8]], |x, w| {
            conv2d(&x[0], &w[0], Some(&w[1]), Geometry::same(1))
        }),
        case("conv2d 7×7", &[X], &[&[8, 16, 7, 7]], |x, w| conv2d(&x[0], &w[0], None, Geometry::same(7))),
        case("conv2d 4×4, stride 4", &[&[2, 3, 16, 12]], &[&[8, 3, 4, 4]], |x, w| {
            let geometry = Geometry { stride: 4, padding: 0 };
            conv2d(&x[0], &w[0], None, geometry)
        }),
        case("conv_transpose2d 2×2", &[X], &[&[16, 8, 2, 2], &[8]], |x, w| {
            let geometry = Geometry { stride: 2, padding: 0 };
            conv_transpose2d(&x[0], &w[0], Some(&w[1]), geometry)
        }),
        case("conv_transpose2d 4×4, padding 1", &[ODD], &[&[5, 4, 4, 4]], |x, w| {
            let geometry = Geometry { stride: 2, padding: 1 };
            conv_transpose2d(&x[0], &w[0], None, geometry)
        }),
        case("upsampled conv2d 3×3", &[X], &[&[8, 16, 3, 3], &[8]], |x, w| {
            upsample_nearest2x_conv2d(&x[0], &w[0], Some(&w[1]), SAME)
        }),
        case("group_norm", &[X], &[&[16], &[16]], |x, w| group_norm(&x[0], 4, &w[0], &w[1], 1e-5, Activation::None)),
        case("group_norm, silu, odd sizes", &[ODD], &[&[5], &[5]], |x, w| {
            group_norm(&x[0], 5, &w[0], &w[1], 1e-5, Activation::Silu)
        }),
        case("group_norm, one weight per image", &[X], &[&[3, 16], &[3, 16]], |x, w| {
            group_norm(&x[0], 8, &w[0], &w[1], 1e-5, Activation::Gelu)
        }),
        case("group_norm, large groups", &[&[2, 8, 64, 64]], &[&[8], &[8]], |x, w| {
            group_norm(&x[0], 1, &w[0], &w[1], 1e-5, Activation::Relu)
        }),
        case(
            "batch_norm",
            &[X],
            &[&[16], &[16]],
            |x, w| Ok(batch_norm(&x[0], &w[0], &w[1], 1e-5, Activation::Gelu)?.0),
        ),
        case("weight_standardize", &[], &[&[8, 4, 3, 3]], |_, w| weight_standardize(&w[0], 1e-5)),
        case("silu", &[ODD], &[], |x, _| silu(&x[0])),
        case("gelu", &[ODD], &[], |x, _| gelu(&x[0])),
        case("relu", &[ODD], &[], |x, _| relu(&x[0])),
        case("upsample_nearest2x", &[ODD], &[], |x, _| upsample_nearest2x(&x[0])),
        case("upsample_bilinear2x", &[ODD], &[], |x, _| upsample_bilinear2x(&x[0])),
        case("max_pool2d", &[ODD], &[], |x, _| max_pool2d(&x[0], 2)),
        case("avg_pool2d", &[ODD], &[], |x, _| avg_pool2d(&x[0], 3)),
        case("concat_channels", &[X, &[3, 4, 14, 14]], &[], |x, _| concat_channels(&x[0], &x[1])),
        case("linear", &[&[6, 33]], &[&[20, 33], &[20]], |x, w| linear(&x[0], &w[0], Some(&w[1]))),
        case("attention", &[&[2, 49, 32], &[2, 49, 32], &[2, 49, 32]], &[], |x, _| attention(&x[0], &x[1], &x[2], 4)),
        case("attention over few positions", &[&[2, 5, 8], &[2, 3, 8], &[2, 3, 8]], &[], |x, _| {
            attention(&x[0], &x[1], &x[2], 1)
        }),
    ]
}

impl Case {
    fn error(&self, device: &Device, precision: Precision) -> Result<f64> {
        let kind = precision.dtype().unwrap_or(DType::F32);
        let got = self.run(device, kind, (kind, DType::F32), precision)?;
        let right = self.run(&Device::Cpu, kind, (DType::F64, DType::F64), Precision::F32)?;
        largest(&got, &right)
    }

    /// The result and all gradients, for inputs that are exact in `kind`.
    fn run(
        &self,
        device: &Device,
        kind: DType,
        (images, parameters): (DType, DType),
        precision: Precision,
    ) -> Result<Vec<Vec<f64>>> {
        let mut rng = Rng::new(42);
        let mut vars = |shapes: &[Vec<usize>], dtype| -> Result<Vec<Var>> {
            let var = |shape: &Vec<usize>| {
                let x = rng.randn(shape.as_slice(), &Device::Cpu)?.to_dtype(kind)?;
                Ok(Var::from_tensor(&x.to_dtype(dtype)?.to_device(device)?)?)
            };
            shapes.iter().map(var).collect()
        };
        let (x, w) = (vars(&self.images, images)?, vars(&self.parameters, parameters)?);
        let tensors = |vars: &[Var]| vars.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>();
        let y = precision.within(|| (self.f)(&tensors(&x), &tensors(&w)))?;
        let slope = Rng::new(7).randn(y.shape(), &Device::Cpu)?.to_dtype(kind)?;
        let slope = slope.to_dtype(y.dtype())?.to_device(device)?;
        let grads = (&y * slope)?.sum_all()?.backward()?;
        let mut all = vec![numbers(&y)?];
        for var in x.iter().chain(&w) {
            all.push(numbers(grads.get(var).context("a gradient is missing")?)?);
        }
        Ok(all)
    }
}

/// The error of a network's prediction and of the gradient of all its parameters together.
fn network(device: &Device, precision: Precision) -> Result<f64> {
    let run = |dtype: DType, device: &Device, precision| -> Result<Vec<Vec<f64>>> {
        let (mut rng, net) = (Rng::new(1), small());
        let mut net = Network::with_dtype(net, &mut rng, dtype, device)?;
        net.set_precision(precision);
        wake(&net)?;
        let mut rng = Rng::new(2);
        let mut images = || rng.randn((2, 1, 28, 28), &Device::Cpu)?.to_dtype(dtype)?.to_device(device);
        let (xt, eps) = (images()?, images()?);
        let prediction = net.forward(&xt, &[10.0, 700.0], &Condition::none())?;
        let grads = (&prediction - &eps)?.sqr()?.mean_all()?.backward()?;
        let mut all = vec![numbers(&prediction)?, Vec::new()];
        for var in net.parameters().by_name().values() {
            all[1].extend(numbers(grads.get(var).context("a gradient is missing")?)?);
        }
        Ok(all)
    };
    let got = run(DType::F32, device, precision)?;
    largest(&got, &run(DType::F64, &Device::Cpu, Precision::F32)?)
}

/// The error of the losses of a training.
fn training(device: &Device, precision: Precision) -> Result<f64> {
    let (losses, _) = trained(device, precision)?;
    let (right, _) = trained(&Device::Cpu, Precision::F32)?;
    largest(&[losses], &[right])
}

/// 0 if two equal trainings give the same bits, otherwise 1.
fn twice(device: &Device, precision: Precision) -> Result<f64> {
    let same = trained(device, precision)? == trained(device, precision)?;
    Ok(if same { 0.0 } else { 1.0 })
}

/// The losses of a short training, and its weights.
fn trained(device: &Device, precision: Precision) -> Result<(Vec<f64>, Vec<f64>)> {
    let config = TrainingConfig {
        epochs: 10,
        batch: 4,
        accumulate: 2,
        lr: 1e-3,
        sample_every: 0,
        precision,
        train_steps: 20,
        ..Default::default()
    };
    let net = SimpleUNet { channels: 3, base: 8, ..Default::default() };
    let mut training = Training::new(config, net, &Dataset::sprites(32, 1)?, device)?;
    let losses = training.by_ref().map(|step| Ok(step?.loss)).collect::<Result<_>>()?;
    let mut weights = Vec::new();
    for var in training.network().parameters().by_name().values() {
        weights.extend(numbers(var)?);
    }
    Ok((losses, weights))
}

/// The error of images sampled from the same weights and the same noise.
fn samples(device: &Device, precision: Precision) -> Result<f64> {
    let config = TrainingConfig { batch: 16, ..Default::default() };
    let data = Dataset::sprites(16, 1)?;
    let run = |device: &Device, precision: Precision| -> Result<Vec<f64>> {
        let net = SimpleUNet { channels: 3, base: 16, ..Default::default() };
        let mut model = Training::new(config.clone(), net, &data, device)?.into_model()?;
        model.network.set_precision(precision);
        wake(&model.network)?;
        let mut rng = Rng::new(3);
        numbers(&model.sample(4, Condition::none(), &Sampler::ddim(10), &mut rng)?)
    };
    largest(&[run(device, precision)?], &[run(&Device::Cpu, Precision::F32)?])
}

fn small() -> SimpleUNet {
    SimpleUNet { base: 16, ..Default::default() }
}

/// Sets the last layer, which is initialised with zeros, to random weights, so that the other layers have an effect.
fn wake(net: &Network) -> Result<()> {
    let last = net.parameters().get("conv_out.weight").context("the last layer")?;
    let weights = (Rng::new(4).randn(last.shape(), &Device::Cpu)? * 0.1)?;
    last.set(&weights.to_dtype(last.dtype())?.to_device(net.device())?)?;
    Ok(())
}

fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    let x = x.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    Ok(x.flatten_all()?.to_vec1()?)
}

/// The largest relative error of several lists of numbers.
fn largest(got: &[Vec<f64>], right: &[Vec<f64>]) -> Result<f64> {
    let error = |(got, right): (&Vec<f64>, &Vec<f64>)| {
        let squares = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let off = squares(&mut got.iter().zip(right).map(|(a, b)| a - b));
        let size = squares(&mut right.iter().copied());
        // NaN counts as wrong.
        if got.len() == right.len() && off.is_finite() { off / size.max(f64::MIN_POSITIVE) } else { f64::INFINITY }
    };
    anyhow::ensure!(got.len() == right.len(), "there are {} results instead of {}", got.len(), right.len());
    Ok(got.iter().zip(right).map(error).fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_right_in_every_precision() -> Result<()> {
        for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
            let mut checks = Vec::new();
            check(&Device::Cpu, precision, |it| checks.push(it.clone()))?;
            assert_eq!(checks.len(), cases().len() + 4);
            for it in checks {
                println!("{precision:?}: {it}");
                assert!(it.held(), "{precision:?}: {it}");
                // The reference is a different computation.
                assert!(it.error > 0.0 || !it.name.starts_with("conv"), "{it}");
            }
        }
        Ok(())
    }

    #[test]
    fn wrong_numbers_are_found() -> Result<()> {
        let case = Case {
            name: "a gradient that is twice too large",
            images: vec![vec![2, 3]],
            parameters: vec![],
            f: |x, _| match x[0].dtype() {
                DType::F64 => Ok(x[0].clone()),
                _ => x[0].affine(2.0, 0.0)? - x[0].detach(),
            },
        };
        assert!((case.error(&Device::Cpu, Precision::F32)? - 1.0).abs() < 1e-6);
        assert_eq!(largest(&[vec![f64::NAN]], &[vec![1.0]])?, f64::INFINITY);
        assert!(largest(&[vec![1.0]], &[]).is_err());
        Ok(())
    }
}
