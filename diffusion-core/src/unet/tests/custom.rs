//! Tests of a network defined outside of diffusion-core, with layers of diffusion-core and of candle-nn.

use super::*;
use crate::config::RunConfig;
use crate::nn::{Builder, Conv2d, Linear};
use crate::ops::{Activation, Geometry, silu};
use candle_nn::Module;

#[derive(Debug)]
struct Tiny {
    time: TimeEmbedding,
    labels: ConditionEmbedding,
    first: Conv2d,
    project: Linear,
    attention: CrossAttention,
    words: crate::nn::Embedding,
    last: candle_nn::Conv2d,
}

const KNOWN: Conditioning = Conditioning { channels: 2, classes: 3, context: 2, low_res: 0, tokens: 4, vocabulary: 5 };

impl Tiny {
    fn new(mut b: Builder) -> Result<Self> {
        let same = candle_nn::Conv2dConfig { padding: 1, ..Default::default() };
        Ok(Self {
            time: TimeEmbedding::new(b.at("time"), 4, 8)?,
            labels: ConditionEmbedding::new(&mut b, KNOWN, 8)?,
            first: Conv2d::new(b.at("first"), 2, 4, 3, Geometry::same(3))?,
            project: Linear::new(b.at("project"), 8, 4)?,
            attention: CrossAttention::new(b.at("attention"), 4, 3, 2, 2)?,
            words: crate::nn::Embedding::new(b.at("words"), 5, 3)?,
            last: candle_nn::conv2d(4, 2, 3, same, b.var_builder().pp("last"))?,
        })
    }
}

impl Denoiser for Tiny {
    fn forward(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        let e = self.labels.add(&self.time.forward(t)?, condition)?;
        let bias = self.project.forward(&Activation::Silu.apply(&e)?)?;
        let bias = bias.broadcast_add(&self.first.bias)?;
        let mut x = silu(&self.first.forward_with_bias(xt, &bias)?)?;
        if let Some(tokens) = &condition.tokens {
            let ids = tokens.ids(4, xt.device())?.flatten_all()?.to_vec1::<u32>()?;
            let ids: Vec<usize> = ids.into_iter().map(|id| id as usize).collect();
            let words = self.words.forward(&ids)?.reshape((t.len(), 4, 3))?;
            let mask = tokens.mask(4, xt.device())?;
            x = self.attention.forward(&x, &words, &mask)?;
        }
        self.last.forward(&x)
    }
}

fn tiny() -> Architecture {
    Architecture::custom("tiny-unet", KNOWN, Tiny::new)
}

fn condition() -> Condition {
    let context = Tensor::new(&[[1f32, 0.5], [0.0, 2.0]], &Device::Cpu).unwrap();
    Condition::labels([2, 0]).and(Condition::context(context)).and(Condition::tokens(Tokens::new([vec![1, 4], vec![]])))
}

#[test]
fn a_custom_network_trains_and_is_restored_to_the_bit() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("tiny.safetensors");
    let build = |seed| Network::new(tiny(), &mut Rng::new(seed), &Device::Cpu);
    let (net, twin) = (build(1)?, build(1)?);
    let (x, eps) = (random(1, (2, 2, 6, 6))?.to_dtype(DType::F32)?, random(2, (2, 2, 6, 6))?.to_dtype(DType::F32)?);
    let t = [0.25, 700.5];
    let predict = |net: &Network| numbers(&net.predict(&x, &t, &condition())?);
    assert_eq!(predict(&net)?, predict(&twin)?, "the same seed");
    assert_ne!(predict(&net)?, predict(&build(2)?)?);

    let mut adam = AdamW::new(&net.parameters().by_name(), AdamWConfig::adam())?;
    let mut losses = Vec::new();
    for _ in 0..20 {
        let loss = (net.forward(&x, &t, &condition())? - &eps)?.sqr()?.mean_all()?;
        let gradients = loss.backward()?;
        for (name, var) in net.parameters().iter() {
            assert!(gradients.get(var).is_some(), "{name}");
        }
        adam.step(&gradients)?;
        losses.push(loss.to_scalar::<f32>()?);
    }
    assert!(losses[19] < losses[0], "{losses:?}");

    net.save(&path)?;
    let loaded = Network::load_with(&path, tiny(), &Device::Cpu)?;
    assert_eq!(predict(&loaded)?, predict(&net)?);
    let other = Architecture::custom("other", KNOWN, Tiny::new);
    let fewer = Conditioning { classes: 2, ..KNOWN };
    let fewer = Architecture::custom("tiny-unet", fewer, Tiny::new);
    let fails = |net: anyhow::Result<Network>| net.unwrap_err().to_string();
    for (message, wants) in [
        (
            fails(Network::load(&path, &Device::Cpu)),
            "it holds the network \"tiny-unet\", which is defined outside of diffusion-core; load it with \
             Network::load_with(path, &architecture, &device)",
        ),
        (
            fails(Network::load_with(&path, other, &Device::Cpu)),
            "it holds the network Custom(Custom { name: \"tiny-unet\"",
        ),
        (fails(Network::load_with(&path, &fewer, &Device::Cpu)), "classes: 3"),
    ] {
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    Ok(())
}

/// A run's file can only hold the name and the conditioning.
#[test]
fn a_run_records_the_name() -> anyhow::Result<()> {
    let run = RunConfig { network: tiny(), ..Default::default() };
    let text = run.to_toml()?;
    assert!(text.contains("[network.custom]\nname = \"tiny-unet\"\nchannels = 2\nclasses = 3\n"), "{text}");
    let read = RunConfig::from_toml(&text)?;
    assert_eq!((&read, read.to_toml()?), (&run, text));
    let message = Network::new(read.network, &mut Rng::new(1), &Device::Cpu).unwrap_err();
    let wants = "\"tiny-unet\" was defined outside of diffusion-core, and its code is not available here";
    assert!(message.to_string().contains(wants), "{message}");
    Ok(())
}

/// Checks the output's shape, the image channels, the times and the condition.
#[test]
fn arguments_and_output_are_checked() -> Result<()> {
    #[derive(Debug)]
    struct Halves;
    impl Denoiser for Halves {
        fn forward(&self, xt: &Tensor, _: &[f64], _: &Condition) -> Result<Tensor> {
            xt.narrow(3, 0, xt.dim(3)? / 2)
        }
    }
    let halves = Architecture::custom("halves", Conditioning::default(), |_| Ok(Halves));
    let net = Network::new(halves, &mut Rng::new(1), &Device::Cpu)?;
    let x = |channels| Tensor::zeros((1, channels, 4, 4), DType::F32, &Device::Cpu);
    let none = Condition::none();
    for (failed, wants) in [
        (net.predict(&x(1)?, &[0.0], &none), "halves: the output has shape [1, 1, 4, 2] and xt [1, 1, 4, 4]"),
        (net.predict(&x(2)?, &[0.0], &none), "the network is for images with 1 channels"),
        (net.predict(&x(1)?, &[f64::INFINITY], &none), "halves: t = inf must be a finite number"),
        (net.forward(&x(1)?, &[0.0], &Condition::labels([0])), "since it is unconditional"),
    ] {
        let message = failed.unwrap_err().to_string();
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    let nameless = Architecture::custom("", Conditioning::default(), |_| Ok(Halves));
    assert!(Network::new(nameless, &mut Rng::new(1), &Device::Cpu).is_err());
    Ok(())
}
