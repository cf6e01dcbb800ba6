//! The networks are PyTorch's, to 1e-4: `golden/unets.py` wrote down their outputs, losses and gradients.

use anyhow::{Context, Result};
use diffusion_core::candle::{DType, Device, Tensor, Var, safetensors};
use diffusion_core::nn::Checkpoint;
use diffusion_core::ops::backward;
use diffusion_core::rng::Rng;
use diffusion_core::train::{AdamW, AdamWConfig};
use diffusion_core::unet::{
    Architecture, AttentionUNet, Condition, ConditionalUNet, ContextUnet, Network, SimpleUNet, Tokens, UNet,
    UNet2DModel,
};
use std::collections::HashMap;
use std::path::PathBuf;

const TOLERANCE: f32 = 1e-4;
const SAMPLES: usize = 24;
const RATE: f64 = 0.01;

fn golden(file: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
    PathBuf::from(folder).join(file)
}

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load(name: &str) -> Result<Self> {
        let file = golden(&format!("{name}.safetensors"));
        Ok(Self(safetensors::load(file, &Device::Cpu)?))
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        self.0.get(name).with_context(|| format!("{name} is not in the golden file"))
    }

    fn names_after(&self, prefix: &str) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.keys().filter_map(|k| k.strip_prefix(prefix)).collect();
        names.sort_unstable();
        names
    }

    fn whole(&self, name: &str) -> Result<Vec<usize>> {
        let numbers = self.get(name)?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        Ok(numbers.into_iter().map(|n| n as usize).collect())
    }

    fn times(&self, name: &str) -> Result<Vec<f64>> {
        Ok(self.get(name)?.to_dtype(DType::F64)?.to_vec1()?)
    }

    fn condition(&self) -> Result<Condition> {
        Ok(if self.0.contains_key("labels") {
            // The last one stands for any.
            let labels = self.whole("labels")?.into_iter();
            Condition { labels: Some(labels.map(|l| Some(l).filter(|l| *l < 3)).collect()), ..Condition::none() }
        } else if self.0.contains_key("tokens") {
            let rows = self.get("tokens")?.to_dtype(DType::I64)?.to_vec2::<i64>()?;
            let known = |row: Vec<i64>| row.into_iter().filter_map(|id| u32::try_from(id).ok()).collect();
            Condition::tokens(Tokens::new(rows.into_iter().map(known)))
        } else if self.0.contains_key("context") {
            Condition::context(self.get("context")?.clone())
        } else {
            Condition::none()
        })
    }

    fn compare(&self, name: &str, ours: &Tensor) -> Result<()> {
        let theirs = self.get(name)?;
        assert_eq!(ours.dims(), theirs.dims(), "{name}");
        let off = (ours - theirs)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(off < TOLERANCE, "{name}: off by {off:e}");
        Ok(())
    }
}

/// As in unets.py.
fn numbers(k: usize, count: usize, mean: f64, size: f64) -> Vec<f32> {
    (0..count).map(|i| mean + size * (0.37 * (i * i) as f64 + k as f64).sin()).map(|x| x as f32).collect()
}

/// The parameters in the order of their names.
fn sorted(net: &Network) -> Vec<(String, Var)> {
    net.parameters().by_name().into_iter().collect()
}

fn network(architecture: Architecture) -> Result<Network> {
    let net = Network::new(architecture, &mut Rng::new(1), &Device::Cpu)?;
    for (k, (name, var)) in sorted(&net).into_iter().enumerate() {
        let (mean, size) = match var.dims() {
            [_] => (f64::from(u8::from(name.ends_with("weight"))), 0.1),
            dims => (0.0, (dims[1..].iter().product::<usize>() as f64).powf(-0.5)),
        };
        let values = numbers(k, var.elem_count(), mean, size);
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
    }
    Ok(net)
}

/// So many numbers, evenly spread, and the sum of all with weights.
fn sampled(k: usize, gradient: &Tensor) -> Result<Vec<f32>> {
    let flat = gradient.flatten_all()?.to_vec1::<f32>()?;
    let step = |i: usize| i * flat.len() / SAMPLES.min(flat.len());
    let mut found: Vec<f32> = (0..SAMPLES.min(flat.len())).map(|i| flat[step(i)]).collect();
    let weights = numbers(k, flat.len(), 0.0, 1.0);
    let products = flat.iter().zip(weights);
    let sum: f64 = products.map(|(x, w)| f64::from(*x) * f64::from(w)).sum();
    found.push(sum as f32);
    Ok(found)
}

fn is_that_of_pytorch(name: &str, architecture: Architecture) -> Result<()> {
    let golden = Golden::load(name)?;
    let net = network(architecture)?;
    let (x, t, condition) = (golden.get("x")?, golden.times("t")?, golden.condition()?);
    let output = net.forward(x, &t, &condition)?;
    golden.compare("output", &output)?;
    let loss = (&output - golden.get("target")?)?.sqr()?.mean_all()?;
    golden.compare("loss", &loss.reshape(1)?)?;

    let grads = loss.backward()?;
    let ours = sorted(&net);
    let names: Vec<&str> = ours.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, golden.names_after("grads."));
    for (k, (name, var)) in ours.iter().enumerate() {
        let grad = grads.get(var).with_context(|| format!("no gradient: {name}"))?;
        let theirs = golden.get(&format!("grads.{name}"))?.to_vec1::<f32>()?;
        let found = sampled(k, grad)?;
        assert_eq!(found.len(), theirs.len(), "{name}");
        let largest = theirs.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (ours, theirs) in found.iter().zip(&theirs) {
            let off = (ours - theirs).abs();
            assert!(off < TOLERANCE, "{name}: off by {off:e}");
            // Many gradients are not much larger than 1e-4: compare in proportion too.
            assert!(off < 2e-3 * largest + 1e-6, "{name}: off by {off:e} of {largest:e}");
        }
        var.set(&(var.as_detached_tensor() - (grad * RATE)?)?)?;
    }
    for name in golden.names_after("after.") {
        let buffer = net.parameters().get(name).context("no buffer")?;
        golden.compare(&format!("after.{name}"), buffer)?;
    }
    assert_eq!(net.parameters().buffers().count(), golden.names_after("after.").len());
    golden.compare("predicted", &net.predict(x, &t, &condition)?)
}

#[test]
fn simple_unet_of_text() -> Result<()> {
    let net = SimpleUNet { base: 8, tokens: 6, vocabulary: 5, ..Default::default() };
    is_that_of_pytorch("simple_unet_of_text", net.into())
}

#[test]
fn context_unet() -> Result<()> {
    is_that_of_pytorch("context_unet", small().into())
}

fn small() -> ContextUnet {
    ContextUnet { n_feat: 8, ..Default::default() }
}

#[test]
fn conditional_unet() -> Result<()> {
    let net = ConditionalUNet { base: 8, groups: 4, heads: 2, classes: 3, ..Default::default() };
    is_that_of_pytorch("conditional_unet", net.into())
}

#[test]
fn unet_with_and_without_attention_and_classes() -> Result<()> {
    let plain = UNet { base: 8, groups: 4, ..Default::default() };
    is_that_of_pytorch("unet_without_attention", plain.into())?;
    let net = UNet { heads: 2, classes: 3, ..plain };
    is_that_of_pytorch("unet", net.into())
}

#[test]
fn attention_unet() -> Result<()> {
    let net = AttentionUNet { base: 8, groups: 4, heads: 2, classes: 3, ..Default::default() };
    is_that_of_pytorch("attention_unet", net.into())
}

/// Of one whose storages say that they were on a GPU.
#[test]
fn a_pth_file_is_read() -> Result<()> {
    let (golden, file) = (Golden::load("context_unet")?, golden("context_unet.pth"));
    let net = Network::load_pth(small(), &file, &Device::Cpu)?;
    let (x, t, condition) = (golden.get("x")?, golden.times("t")?, golden.condition()?);
    golden.compare("predicted", &net.predict(x, &t, &condition)?)?;
    for name in golden.names_after("after.") {
        let buffer = net.parameters().get(name).context("no buffer")?;
        golden.compare(&format!("after.{name}"), buffer)?;
    }
    Ok(())
}

#[test]
fn a_pth_file_that_does_not_fit_is_named() -> Result<()> {
    let file = golden("context_unet.pth");
    let fails = |net: ContextUnet| {
        let net = Network::load_pth(net, &file, &Device::Cpu);
        net.unwrap_err().to_string()
    };
    let larger = ContextUnet { n_feat: 16, ..small() };
    let free = ContextUnet { n_cfeat: 0, ..small() };
    for (message, wants) in [
        (fails(larger), "init_conv.conv1.0.weight has shape [8, 3, 3, 3] but must have [16, 3, 3, 3]"),
        (fails(free), "unexpected tensor contextembed"),
    ] {
        let named = message.contains("context_unet.pth");
        assert!(named && message.contains(wants), "{message}");
    }
    Ok(())
}

/// Cut off anywhere, or with any part of it replaced: an error with the file's name, or other numbers, but no panic.
#[test]
fn a_damaged_pth_file_is_an_error() -> Result<()> {
    let whole = std::fs::read(golden("context_unet.pth"))?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("damaged.pth");
    let load = |bytes: &[u8]| -> Result<Option<String>> {
        std::fs::write(&path, bytes)?;
        let net = Network::load_pth(small(), &path, &Device::Cpu);
        Ok(net.err().map(|e| e.to_string()))
    };
    for end in (0..whole.len()).step_by(whole.len() / 50) {
        let message = load(&whole[..end])?.context("it was read")?;
        assert!(message.contains("damaged.pth"), "{message}");
    }
    let mut rng = Rng::new(1);
    for _ in 0..200 {
        let mut bytes = whole.clone();
        let at = rng.below(bytes.len());
        bytes[at] = !bytes[at];
        load(&bytes)?;
    }
    let message = load(b"not a zip")?.context("it was read")?;
    assert!(message.contains("it is not an archive"), "{message}");
    Ok(())
}

/// Files of the first version, whose fields had other names.
#[test]
fn weights_of_the_first_version_are_read() -> Result<()> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../weights"));
    for (file, classes, context, low_res) in [("mnist", 10, 0, 0), ("sprites-context", 0, 5, 0), ("mnist-x4", 0, 0, 4)]
    {
        let path = folder.join(format!("{file}.safetensors"));
        let net = Network::load(path, &Device::Cpu)?;
        let known = net.architecture().conditioning();
        let found = (known.classes, known.context, known.low_res);
        assert_eq!(found, (classes, context, low_res), "{file}");
    }
    Ok(())
}

/// Networks of diffusers that were drawn at random: `golden/unet2d.py`.
#[test]
fn unet_2d_model_is_that_of_diffusers() -> Result<()> {
    let file = Checkpoint::load(golden("unet2d.safetensors"))?;
    let all = Golden(file.tensors);
    let mut seen = 0;
    while let Some(config) = file.metadata.get(&format!("config {seen}")) {
        let part = |name: &str| format!("{seen}.{name}");
        let net = network(serde_json::from_str::<UNet2DModel>(config)?.into())?;
        let condition = match all.0.contains_key(&part("labels")) {
            true => Condition::labels(all.whole(&part("labels"))?),
            false => Condition::none(),
        };
        let (x, t) = (all.get(&part("x"))?, all.times(&part("t"))?);
        all.compare(&part("output"), &net.predict(x, &t, &condition)?).with_context(|| config.clone())?;
        if condition != Condition::none() {
            let message = net.predict(x, &t, &Condition::none()).unwrap_err();
            let wants = "give the class of every image";
            assert!(message.to_string().contains(wants), "{message}");
        }
        seen += 1;
    }
    assert_eq!(seen, 12);
    Ok(())
}

/// The weights of every network after two training steps have the same bits on 1, 2, 3 and 8 threads, each in a process of its
/// own. (This test is that process, too.)
#[test]
fn training_is_the_same_on_any_number_of_threads() -> Result<()> {
    const CHILD: &str = "DIFFUSION_TEST_PRINTS_BITS";
    if std::env::var_os(CHILD).is_some() {
        let nets: [(Architecture, usize, usize); 6] = [
            (SimpleUNet { base: 16, ..Default::default() }.into(), 1, 28),
            (SimpleUNet { base: 16, tokens: 40, vocabulary: 5, ..Default::default() }.into(), 1, 28),
            (ContextUnet { n_feat: 16, ..Default::default() }.into(), 3, 16),
            (ConditionalUNet { base: 16, ..Default::default() }.into(), 1, 32),
            (UNet { base: 16, ..Default::default() }.into(), 3, 32),
            (AttentionUNet { base: 16, ..Default::default() }.into(), 3, 32),
        ];
        for (architecture, channels, side) in nets {
            let mut rng = Rng::new(1);
            let net = Network::new(architecture, &mut rng, &Device::Cpu)?;
            let mut adam = AdamW::new(&net.parameters().by_name(), AdamWConfig::default())?;
            let shape = (9, channels, side, side);
            let (xt, eps) = (rng.randn(shape, &Device::Cpu)?, rng.randn(shape, &Device::Cpu)?);
            let condition = match net.architecture().tokens() {
                0 => Condition::none(),
                most => Condition::tokens(Tokens::new((0..9).map(|i| vec![i as u32 % 5; i * most / 8]))),
            };
            let t = [0.0, 3.0, 7.0, 50.0, 100.0, 200.0, 300.0, 400.0, 499.0];
            for _ in 0..2 {
                let loss = (net.forward(&xt, &t, &condition)? - &eps)?.sqr()?.mean_all()?;
                adam.step(&backward(&loss)?)?;
            }
            let mut bits = 0u64;
            for var in net.parameters().by_name().values() {
                for x in var.flatten_all()?.to_vec1::<f32>()? {
                    bits = bits.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(x.to_bits());
                }
            }
            println!("bits {bits:016x}");
        }
        return Ok(());
    }
    let bits = |threads: &str| -> Result<Vec<String>> {
        let name = "unets::training_is_the_same_on_any_number_of_threads";
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.args(["--exact", name, "--nocapture"]).env(CHILD, "1").env("RAYON_NUM_THREADS", threads);
        let out = String::from_utf8(command.output()?.stdout)?;
        let lines: Vec<String> = out.lines().filter_map(|line| Some(line.split_once("bits ")?.1.to_owned())).collect();
        assert_eq!(lines.len(), 6, "{out}");
        Ok(lines)
    };
    let one = bits("1")?;
    for threads in ["2", "3", "8"] {
        assert_eq!(bits(threads)?, one, "on {threads} threads");
    }
    Ok(())
}
