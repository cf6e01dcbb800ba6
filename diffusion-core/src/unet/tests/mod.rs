//! Tests that apply to every network.

mod custom;
mod wrong;

use super::*;
use crate::device::Precision;
use crate::nn::Checkpoint;
use crate::nn::gradients::random;
use crate::rng::Rng;
use crate::train::{AdamW, AdamWConfig};
use candle_core::{DType, Device, Result, Tensor, Var};

/// A small network of one kind, with its properties.
struct Kind {
    architecture: Architecture,
    /// The height and width of a small image.
    side: usize,
    condition: Condition,
    /// A network of default size, and its number of parameters.
    full: (Architecture, usize),
}

fn architecture(name: &str, fields: &str) -> Architecture {
    serde_json::from_str(&format!("{{\"{name}\":{{{fields}}}}}")).unwrap()
}

fn kinds() -> Vec<Kind> {
    let labels = Condition { labels: Some(vec![Some(1), None]), ..Condition::none() };
    let context = Tensor::new(&[[1f64, 0.0, 0.5], [0.0, 0.2, 0.0]], &Device::Cpu).unwrap();
    let context = Condition::context(context);
    let both = labels.clone().and(context.clone());
    let kind = |name, side, condition: &Condition, small, full, count| Kind {
        architecture: architecture(name, small),
        side,
        condition: condition.clone(),
        full: (architecture(name, full), count),
    };
    let small = r#""base":4,"groups":2,"classes":3,"heads":2"#;
    let patches = r#""base":4,"groups":2,"classes":3,"heads":2,"patch":2"#;
    let unet = r#""channels":1,"base":8,"groups":4,"heads":2,"classes":3"#;
    let unet_of_context = r#""base":4,"groups":2,"context":3"#;
    let of_diffusers = r#""block_out_channels":[4,4,8],"norm_num_groups":2,"attention_head_dim":4,"num_class_embeds":4,"null_class":true"#;
    let simple = r#""base":4,"groups":2,"classes":3,"context":3"#;
    let text = labels.clone().and(Condition::tokens(Tokens::new([vec![1, 0], vec![2]])));
    let of_text = r#""base":4,"groups":2,"classes":3,"tokens":3,"vocabulary":4"#;
    let n_feat = r#""channels":2,"n_feat":8,"n_cfeat":3"#;
    vec![
        kind("simple-unet", 8, &both, simple, "", 2_620_545),
        kind("simple-unet", 8, &text, of_text, r#""tokens":20,"vocabulary":100"#, 3_010_305),
        kind("context-unet", 16, &context, n_feat, "", 1_480_771),
        kind("conditional-unet", 16, &labels, small, "", 49_351_809),
        kind("unet", 8, &labels, unet, r#""heads":4,"classes":10"#, 9_452_419),
        kind("unet", 16, &context, unet_of_context, "", 8_002_691),
        kind("attention-unet", 16, &labels, small, "", 8_432_579),
        kind("attention-unet", 16, &labels, patches, r#""patch":4,"classes":10"#, 7_384_496),
        kind("unet-2d-model", 8, &labels, of_diffusers, "", 2_736_099),
    ]
}

impl Kind {
    fn name(&self) -> &str {
        self.architecture.name()
    }

    /// With a last layer that is not zero, so that the other layers have gradients.
    fn network(&self, seed: u64, dtype: DType) -> Result<Network> {
        let architecture = self.architecture.clone();
        let net = Network::with_dtype(architecture, &mut Rng::new(seed), dtype, &Device::Cpu)?;
        let last = ["conv_out.weight", "out.3.weight"].iter().find_map(|name| net.parameters().get(name));
        let last = last.expect("the last layer has another name");
        assert_eq!(last.abs()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?, 0.0);
        last.set(&(random(seed, last.shape())? * 0.3)?.to_dtype(dtype)?)?;
        Ok(net)
    }

    fn images(&self, batch: usize, seed: u64, dtype: DType) -> Result<Tensor> {
        let shape = (batch, self.architecture.channels(), self.side, self.side);
        random(seed, shape)?.to_dtype(dtype)
    }

    /// Whether in training an image's output depends on the rest of the batch.
    fn mixes(&self) -> bool {
        self.name() == "context-unet"
    }

    /// Some biases have no effect: batch norm removes the mean, and softmax ignores a constant added to all scores of a
    /// query.
    fn idle(&self, parameter: &str) -> bool {
        let before_norm = [".conv1.0.bias", ".conv2.0.bias"];
        parameter.ends_with(".to_k.bias") || self.mixes() && before_norm.iter().any(|end| parameter.ends_with(end))
    }
}

fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

fn off(a: &Tensor, b: &Tensor) -> Result<f64> {
    (a - b)?.abs()?.max_all()?.to_dtype(DType::F64)?.to_scalar()
}

#[test]
fn every_architecture_is_tested_and_has_its_name() {
    let all = kinds();
    let mut names: Vec<&str> = all.iter().map(Kind::name).collect();
    names.dedup();
    assert_eq!(names, Architecture::NAMES);
    for kind in kinds() {
        let text = serde_json::to_string(&kind.architecture).unwrap();
        assert!(text.starts_with(&format!("{{\"{}\":{{", kind.name())), "{text}");
        let back: Architecture = serde_json::from_str(&text).unwrap();
        assert_eq!(back, kind.architecture);
        let typo = text.replacen("channels", "chanels", 1);
        let message = serde_json::from_str::<Architecture>(&typo).unwrap_err();
        assert!(message.to_string().contains("chanels`, expected"), "{message}");
    }
}

#[test]
fn parameter_counts_are_as_documented() -> Result<()> {
    for kind in kinds() {
        let (full, count) = kind.full;
        let net = Network::new(full, &mut Rng::new(0), &Device::Cpu)?;
        assert_eq!(net.parameters().count(), count, "{}", net.architecture().name());
        let side = net.architecture().usual_side();
        let summary = net.summary(side, side)?;
        // Includes labels and contexts.
        assert_eq!(summary.parameters(), count);
        assert!(summary.multiply_adds() > 100_000_000);
        assert!(summary.to_string().contains(net.architecture().name()));
    }
    Ok(())
}

/// Counted by hand: a 3×3 convolution, attention over 16 pixels with 16 channels, a transposed convolution.
#[test]
fn the_summary_counts_multiply_adds() -> Result<()> {
    for (name, kind, shape, products) in [
        ("down.0.block1.conv1", "conv 3×3", [4, 16, 16], 4 * 9 * 4 * 256),
        ("down.2.attention", "attention 2", [16, 4, 4], 2 * 16 * 16 * 16),
        ("up.0.upsample", "transposed 4×4", [32, 2, 2], 32 * 32 * 16),
    ] {
        let net = kinds().swap_remove(3).network(1, DType::F32)?;
        let summary = net.summary(16, 16)?;
        let mut rows = summary.rows().iter();
        let row = rows.find(|row| row.name == name && row.kind == kind);
        let row = row.unwrap_or_else(|| panic!("{name} is not in\n{summary}"));
        assert_eq!((row.shape.as_slice(), row.multiply_adds), (&shape[..], products as u64), "{name}");
    }
    Ok(())
}

#[test]
fn the_output_has_the_shape_of_the_input() -> Result<()> {
    for kind in kinds() {
        let net = kind.network(1, DType::F32)?;
        for batch in [1, 3] {
            let x = kind.images(batch, 2, DType::F32)?;
            let output = net.forward(&x, &vec![7.0; batch], &Condition::none())?;
            assert_eq!(output.dims(), x.dims(), "{}", kind.name());
        }
        let x = kind.images(2, 2, DType::F32)?;
        let (conditional, free) =
            (net.predict(&x, &[7.0, 8.0], &kind.condition)?, net.predict(&x, &[7.0, 8.0], &Condition::none())?);
        assert!(off(&conditional, &free)? > 1e-6, "{} ignores its condition", kind.name());
    }
    Ok(())
}

/// Also after the parameters have changed, and without a graph.
#[test]
fn predict_is_forward_without_gradients() -> Result<()> {
    for kind in kinds() {
        let (net, other) = (kind.network(1, DType::F32)?, kind.network(2, DType::F32)?);
        let x = kind.images(2, 3, DType::F32)?;
        net.parameters().assign(&other.parameters().values()?)?;
        let predict = |net: &Network| net.predict(&x, &[1.0, 2.0], &kind.condition);
        let (predicted, theirs) = (predict(&net)?, predict(&other)?);
        assert_eq!(numbers(&predicted)?, numbers(&theirs)?, "{}", kind.name());
        let forward = net.forward(&x, &[1.0, 2.0], &kind.condition)?;
        assert!(forward.track_op() && !predicted.track_op());
        if !kind.mixes() {
            assert_eq!(numbers(&forward)?, numbers(&predicted)?, "{}", kind.name());
        }
    }
    Ok(())
}

/// In bf16 the output and the gradients equal those in f32 up to rounding; parameters, output and gradients stay f32.
#[test]
fn bf16_changes_little() -> Result<()> {
    for kind in kinds() {
        let mut net = kind.network(1, DType::F32)?;
        let (x, eps) = (kind.images(2, 3, DType::F32)?, kind.images(2, 4, DType::F32)?);
        let run = |net: &Network| -> Result<Vec<Tensor>> {
            let output = net.forward(&x, &[10.0, 700.0], &kind.condition)?;
            let grads = (&output - &eps)?.sqr()?.mean_all()?.backward()?;
            let mut all = vec![output];
            for (name, var) in net.parameters().by_name() {
                let grad = grads.get(&var);
                all.push(grad.unwrap_or_else(|| panic!("{name}")).clone());
            }
            Ok(all)
        };
        let want = run(&net)?;
        net.set_precision(Precision::Bf16);
        let (mut largest, mut of) = (0f64, 0f64);
        for (i, (got, want)) in run(&net)?.iter().zip(&want).enumerate() {
            assert_eq!(got.dtype(), DType::F32, "{}", kind.name());
            let size = |x: &Tensor| -> Result<f64> { Ok(numbers(x)?.iter().map(|x| x * x).sum::<f64>()) };
            let (error, size) = (size(&(got - want)?)?, size(want)?);
            if i == 0 {
                let off = (error / size).sqrt();
                assert!(off > 1e-6 && off < 2e-2, "{}: {off}", kind.name());
            } else {
                (largest, of) = (largest + error, of + size);
            }
        }
        let off = (largest / of).sqrt();
        // A batch norm over few elements amplifies the differences of nearly equal numbers, and the maximum of four
        // pixels can change.
        let jumps = kind.mixes() || kind.name() == "unet";
        let most = if jumps { 0.3 } else { 6e-2 };
        assert!(off > 1e-6 && off < most, "{}: gradients {off}", kind.name());
        net.set_precision(Precision::Tf32);
        assert_eq!(numbers(&run(&net)?[0])?, numbers(&want[0])?, "{}", kind.name());
    }
    Ok(())
}

/// The output for an image does not depend on the rest of the batch, but on its own time step.
#[test]
fn images_of_a_batch_do_not_mix() -> Result<()> {
    for kind in kinds() {
        let net = kind.network(1, DType::F64)?;
        let x = kind.images(3, 2, DType::F64)?;
        let predict = |x: &Tensor, t: &[f64]| net.predict(x, t, &Condition::none());
        let together = predict(&x, &[3.0, 500.0, 999.0])?.narrow(0, 1, 1)?;
        let x = x.narrow(0, 1, 1)?;
        let (alone, earlier) = (predict(&x, &[500.0])?, predict(&x, &[499.0])?);
        assert!(off(&together, &alone)? < 1e-12, "{}", kind.name());
        assert!(off(&alone, &earlier)? > 1e-7, "{}", kind.name());
    }
    Ok(())
}

#[test]
fn every_parameter_gets_a_gradient() -> Result<()> {
    for kind in kinds() {
        let net = kind.network(1, DType::F32)?;
        let (x, eps) = (kind.images(2, 3, DType::F32)?, kind.images(2, 4, DType::F32)?);
        let output = net.forward(&x, &[10.0, 700.0], &kind.condition)?;
        let grads = (output - eps)?.sqr()?.mean_all()?.backward()?;
        for (name, var) in net.parameters().iter() {
            let grad = grads.get(var).map(|g| g.abs()?.max_all()?.to_scalar::<f32>());
            let largest = grad.transpose()?.unwrap_or(f32::NAN);
            let least = if kind.idle(name) { -1.0 } else { 1e-9 };
            assert!(largest > least && largest.is_finite(), "{}: {name}: {largest}", kind.name());
        }
    }
    Ok(())
}

/// In f64, through the whole network: the gradient of the input, and that of all parameters along a random direction.
#[test]
fn gradients_agree_with_central_differences() -> Result<()> {
    // If a ReLU or a maximum switches within a step, the difference is wrong; a shorter step avoids it.
    const STEPS: [f64; 3] = [1e-5, 1e-6, 1e-7];
    for kind in kinds() {
        let net = kind.network(4, DType::F64)?;
        let x = Var::from_tensor(&kind.images(2, 5, DType::F64)?)?;
        let weights = random(6, x.shape())?;
        let loss = |x: &Tensor| (net.forward(x, &[5.0, 900.0], &kind.condition)? * &weights)?.sum_all();
        let grads = loss(&x)?.backward()?;
        let slope = |direction: &Tensor, grad: &Tensor| (direction * grad)?.sum_all()?.to_scalar::<f64>();
        let check = |moved: &dyn Fn(f64) -> Result<f64>, want: f64| {
            let mut found = Vec::new();
            for step in STEPS {
                found.push((moved(step)? - moved(-step)?) / (2.0 * step));
            }
            let close = |got: &f64| (got - want).abs() < 2e-6 * (1.0 + want.abs());
            assert!(found.iter().any(close), "{}: {found:?} {want}", kind.name());
            Ok::<_, candle_core::Error>(())
        };

        let direction = random(7, x.shape())?;
        let moved = |by: f64| loss(&(x.as_tensor() + (&direction * by)?)?)?.to_scalar::<f64>();
        check(&moved, slope(&direction, grads.get(&x).unwrap())?)?;

        let mut want = 0.0;
        let mut steps = Vec::new();
        for (i, (_, var)) in net.parameters().iter().enumerate() {
            let direction = (random(100 + i as u64, var.shape())? * 0.1)?;
            want += slope(&direction, grads.get(var).unwrap())?;
            steps.push((var, var.as_detached_tensor().copy()?, direction));
        }
        let moved = |by: f64| {
            for (var, at, direction) in &steps {
                var.set(&(at + (direction * by)?)?)?;
            }
            loss(&x)?.to_scalar::<f64>()
        };
        check(&moved, want)?;
    }
    Ok(())
}

#[test]
fn one_batch_is_overfitted() -> Result<()> {
    for kind in kinds() {
        let net = kind.network(1, DType::F32)?;
        let (x, eps) = (kind.images(2, 8, DType::F32)?, kind.images(2, 9, DType::F32)?);
        let config = AdamWConfig { lr: 1e-2, ..AdamWConfig::adam() };
        let mut adam = AdamW::new(&net.parameters().by_name(), config)?;
        let mut losses = vec![f32::INFINITY];
        while losses.len() < 500 && losses[losses.len() - 1] > 0.3 {
            let output = net.forward(&x, &[10.0, 700.0], &kind.condition)?;
            let loss = (output - &eps)?.sqr()?.mean_all()?;
            adam.step(&loss.backward()?)?;
            losses.push(loss.to_scalar::<f32>()?);
        }
        let (first, last) = (losses[1], losses[losses.len() - 1]);
        assert!(first > 0.8, "{}: {first}", kind.name());
        assert!(last <= 0.3, "{}: {first} {last}", kind.name());
    }
    Ok(())
}

/// From the file alone, also after training has changed the running statistics.
#[test]
fn a_saved_network_is_restored_to_the_bit() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for kind in kinds() {
        let path = folder.path().join("net.safetensors");
        let net = kind.network(1, DType::F32)?;
        let x = kind.images(2, 3, DType::F32)?;
        net.forward(&x, &[1.0, 2.0], &kind.condition)?;
        net.save(&path)?;
        let loaded = Network::load(&path, &Device::Cpu)?;
        assert_eq!(loaded.architecture(), net.architecture());
        for ((name, ours), (other, theirs)) in net.parameters().all().zip(loaded.parameters().all()) {
            assert_eq!((name, numbers(ours)?), (other, numbers(theirs)?));
        }
        let predict = |net: &Network| numbers(&net.predict(&x, &[1.0, 2.0], &kind.condition)?);
        assert_eq!(predict(&net)?, predict(&loaded)?, "{}", kind.name());

        let mut file = Checkpoint::load(&path)?;
        let first = file.tensors.keys().min().cloned().unwrap();
        let tensor = file.tensors.remove(&first).unwrap();
        let message = Network::from_checkpoint(&file, &Device::Cpu).unwrap_err();
        assert!(message.to_string().contains(&format!("missing: {first}")));
        let wrong = tensor.flatten_all()?.narrow(0, 0, 1)?;
        file.tensors.insert(first.clone(), wrong);
        let message = Network::from_checkpoint(&file, &Device::Cpu).unwrap_err();
        let wants = format!("{first} has shape [1] but must have {:?}", tensor.dims());
        assert!(message.to_string().contains(&wants), "{message}");
    }
    Ok(())
}
