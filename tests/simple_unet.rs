//! SimpleUNet is PyTorch's, to 1e-4: `golden/simple_unet.py` wrote down its output, loss, gradients and first steps.

use anyhow::{Context, Result};
use diffusion_core::candle::{DType, Device, Tensor, safetensors};
use diffusion_core::rng::Rng;
use diffusion_core::train::{AdamW, AdamWConfig};
use diffusion_core::unet::{Condition, Network, SimpleUNet};
use std::collections::HashMap;

const TOLERANCE: f32 = 1e-4;

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load() -> Result<Self> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/simple_unet.safetensors");
        Ok(Self(safetensors::load(file, &Device::Cpu)?))
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        self.0.get(name).with_context(|| format!("{name} is not in the golden file"))
    }

    fn starting_with(&self, prefix: &str) -> HashMap<String, Tensor> {
        let rest = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
        self.0.iter().filter_map(rest).collect()
    }

    /// Our network with their weights.
    fn network(&self) -> Result<Network> {
        let config = SimpleUNet { base: 8, ..Default::default() };
        let net = Network::new(config, &mut Rng::new(1), &Device::Cpu)?;
        net.parameters().assign(&self.starting_with("weights."))?;
        Ok(net)
    }

    fn loss(&self, net: &Network) -> Result<(Tensor, Tensor)> {
        let t = self.get("t")?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let output = net.forward(self.get("x")?, &t, &Condition::none())?;
        let loss = (&output - self.get("target")?)?.sqr()?.mean_all()?;
        Ok((output, loss))
    }
}

fn difference(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a - b)?.abs()?.max_all()?.to_scalar()?)
}

#[test]
fn output_loss_and_every_gradient_are_those_of_pytorch() -> Result<()> {
    let golden = Golden::load()?;
    let net = golden.network()?;
    let (output, loss) = golden.loss(&net)?;
    let off = difference(&output, golden.get("output")?)?;
    assert!(off < TOLERANCE, "output: off by {off:e}");
    let off = difference(&loss.reshape(1)?, golden.get("loss")?)?;
    assert!(off < TOLERANCE, "loss: off by {off:e}");

    let grads = loss.backward()?;
    let theirs = golden.starting_with("grads.");
    assert_eq!(theirs.len(), net.parameters().names().count());
    for (name, var) in net.parameters().iter() {
        let grad = grads.get(var).with_context(|| format!("no gradient: {name}"))?;
        let off = difference(grad, &theirs[name])?;
        let largest = theirs[name].abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(off < TOLERANCE, "{name}: off by {off:e}");
        // Many gradients are not much larger than 1e-4: compare in proportion too.
        assert!(off < 1e-3 * largest + 1e-6, "{name}: off by {off:e} of {largest:e}");
        assert!(largest > 0.0, "{name}: no gradient");
    }
    Ok(())
}

#[test]
fn ten_training_steps_have_the_losses_of_pytorch() -> Result<()> {
    let golden = Golden::load()?;
    let net = golden.network()?;
    let config = AdamWConfig { lr: 2e-4, ..AdamWConfig::adam() };
    let mut adam = AdamW::new(&net.parameters().by_name(), config)?;
    let theirs = golden.get("losses")?.to_vec1::<f32>()?;
    assert_eq!(theirs.len(), 10);
    for (step, theirs) in theirs.into_iter().enumerate() {
        let (_, loss) = golden.loss(&net)?;
        adam.step(&loss.backward()?)?;
        let off = (loss.to_scalar::<f32>()? - theirs).abs();
        assert!(off < 1e-3, "step {step}: off by {off:e}");
    }
    Ok(())
}

/// With all threads at work, whoever does which part.
#[test]
fn the_same_training_twice_gives_the_same_bits() -> Result<()> {
    let train = || {
        let golden = Golden::load()?;
        let net = golden.network()?;
        let mut adam = AdamW::new(&net.parameters().by_name(), AdamWConfig::adam())?;
        let mut bits = Vec::new();
        for _ in 0..3 {
            let (_, loss) = golden.loss(&net)?;
            adam.step(&loss.backward()?)?;
            bits.push(loss.to_scalar::<f32>()?.to_bits());
        }
        for (_, var) in net.parameters().iter() {
            bits.extend(var.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits));
        }
        Ok::<_, anyhow::Error>(bits)
    };
    assert!(train()? == train()?, "two trainings from the same start differ");
    Ok(())
}

#[test]
fn a_state_dict_goes_there_and_back() -> Result<()> {
    let golden = Golden::load()?;
    let net = golden.network()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("simple.safetensors");
    net.parameters().save(&path)?;
    let saved = safetensors::load(&path, &Device::Cpu)?;
    let theirs = golden.starting_with("weights.");
    assert_eq!(saved.len(), theirs.len());
    for (name, tensor) in &saved {
        assert_eq!(difference(tensor, &theirs[name])?, 0.0, "{name}");
    }
    let names: Vec<&str> = net.parameters().names().collect();
    assert_eq!(names[0], "time_embedding.linear1.weight");
    assert_eq!(names[names.len() - 1], "conv_out.bias");
    Ok(())
}
