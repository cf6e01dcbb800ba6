//! The networks by name, the crate's own and the same in stock candle, and the steps that are timed.

use crate::{Side, stock};
use anyhow::{Context, Result};
use diffusion_core::candle::{self, DType, Device, Tensor, Var, backprop::GradStore};
use diffusion_core::candle_nn::{self, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use diffusion_core::ops::backward;
use diffusion_core::rng::Rng;
use diffusion_core::train::{AdamW, AdamWConfig};
use diffusion_core::unet::{
    Architecture, AttentionUNet, Condition, ConditionalUNet, ContextUnet, Network as Unet, SimpleUNet, UNet,
};
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

pub type Parameters = BTreeMap<String, Var>;
type Forward = Box<dyn Fn(&Tensor, &[f64]) -> candle::Result<Tensor>>;

/// A network that can be timed.
struct Entry {
    name: &'static str,
    channels: usize,
    /// The heights and widths that it is timed with, the usual one first.
    sides: &'static [usize],
    ours: fn(usize) -> Architecture,
    candle: Option<fn(usize, VarBuilder) -> candle::Result<Forward>>,
}

const NETWORKS: &[Entry] = &[
    Entry {
        name: "simple_unet",
        channels: 1,
        sides: &[28, 16, 32, 64],
        ours: |base| {
            let net = SimpleUNet { base, ..Default::default() };
            net.into()
        },
        candle: Some(|base, vb| {
            let net = stock::SimpleUNet::new(base, vb)?;
            Ok(Box::new(move |xt, t| net.forward(xt, t)))
        }),
    },
    Entry {
        name: "context_unet",
        channels: 3,
        sides: &[16],
        ours: |n_feat| {
            let net = ContextUnet { n_feat, ..Default::default() };
            net.into()
        },
        candle: None,
    },
    Entry {
        name: "conditional_unet",
        channels: 1,
        sides: &[32, 16],
        ours: |base| {
            let net = ConditionalUNet { base, ..Default::default() };
            net.into()
        },
        candle: None,
    },
    Entry {
        name: "unet",
        channels: 3,
        sides: &[32, 16, 64],
        ours: |base| {
            let net = UNet { base, ..Default::default() };
            net.into()
        },
        candle: None,
    },
    Entry {
        name: "attention_unet",
        channels: 3,
        sides: &[64, 16, 32],
        ours: |base| {
            let net = AttentionUNet { base, ..Default::default() };
            net.into()
        },
        candle: None,
    },
];

/// The names of the networks that each side has, and the sizes of their images, as JSON.
pub fn about() -> String {
    let names = |has: fn(&Entry) -> bool| -> Vec<&str> {
        let entries = NETWORKS.iter().filter(|entry| has(entry));
        entries.map(|entry| entry.name).collect()
    };
    let (ours, candle) = (names(|_| true), names(|entry| entry.candle.is_some()));
    let sides: Vec<String> = NETWORKS.iter().map(|entry| format!("{:?}: {:?}", entry.name, entry.sides)).collect();
    let sides = sides.join(", ");
    format!("{{\"ours\": {ours:?}, \"candle\": {candle:?}, \"sides\": {{{sides}}}}}")
}

/// Whether a network is built to be trained, or to answer only.
#[derive(Clone, Copy, PartialEq)]
pub enum Purpose {
    Train,
    Denoise,
}

pub struct Network {
    channels: usize,
    pub parameters: Parameters,
    forward: Forward,
}

impl Network {
    pub fn new(side: Side, name: &str, base: usize, purpose: Purpose) -> Result<Self> {
        let names = || NETWORKS.iter().map(|entry| entry.name).collect::<Vec<_>>();
        let entry = NETWORKS
            .iter()
            .find(|entry| entry.name == name)
            .with_context(|| format!("there is no network {name}; choose from {}", names().join(", ")))?;
        let (parameters, forward) = match side {
            Side::Ours => in_ours((entry.ours)(base), purpose)?,
            Side::Candle => {
                let build = entry.candle.with_context(|| format!("{name} is not written in stock candle"))?;
                in_candle(build, base, purpose)?
            }
        };
        Ok(Self { channels: entry.channels, parameters, forward })
    }
}

impl Network {
    /// (B, C, side, side)
    pub fn shape(&self, batch: usize, side: usize) -> (usize, usize, usize, usize) {
        (batch, self.channels, side, side)
    }

    pub fn answer(&self, xt: &Tensor, t: &[f64]) -> candle::Result<Tensor> {
        (self.forward)(xt, t)
    }
}

fn in_ours(architecture: Architecture, purpose: Purpose) -> Result<(Parameters, Forward)> {
    let net = Unet::new(architecture, &mut Rng::new(1), &Device::Cpu)?;
    let parameters = net.parameters().by_name();
    let answer = move |xt: &Tensor, t: &[f64]| match purpose {
        Purpose::Train => net.forward(xt, t, &Condition::none()),
        Purpose::Denoise => net.predict(xt, t, &Condition::none()),
    };
    Ok((parameters, Box::new(answer)))
}

/// With variables to train; to answer only, with plain tensors, as from a file, of which candle keeps no graph.
fn in_candle(
    build: fn(usize, VarBuilder) -> candle::Result<Forward>,
    base: usize,
    purpose: Purpose,
) -> Result<(Parameters, Forward)> {
    let (map, dtype, device) = (VarMap::new(), DType::F32, &Device::Cpu);
    let forward = build(base, VarBuilder::from_varmap(&map, dtype, device))?;
    let parameters: Parameters = {
        let data = map.data().lock().expect("no thread has panicked");
        data.iter().map(|(n, v)| (n.clone(), v.clone())).collect()
    };
    if purpose == Purpose::Train {
        return Ok((parameters, forward));
    }
    let fixed: HashMap<String, Tensor> =
        parameters.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
    let forward = build(base, VarBuilder::from_tensors(fixed, dtype, device))?;
    Ok((parameters, forward))
}

/// Adam with a learning rate of 1e-3 and without weight decay.
pub enum Adam {
    Ours(AdamW),
    Candle(candle_nn::AdamW),
}

impl Adam {
    pub fn new(side: Side, parameters: &Parameters) -> Result<Self> {
        Ok(match side {
            Side::Ours => Self::Ours(AdamW::new(parameters, AdamWConfig::adam())?),
            Side::Candle => {
                let config = ParamsAdamW { weight_decay: 0.0, ..Default::default() };
                let vars = parameters.values().cloned().collect();
                Self::Candle(candle_nn::AdamW::new(vars, config)?)
            }
        })
    }

    pub fn step(&mut self, grads: &GradStore) -> candle::Result<()> {
        match self {
            Self::Ours(adam) => adam.step(grads),
            Self::Candle(adam) => adam.step(grads),
        }
    }
}

/// A network with a batch of noisy images, their time steps and what it should answer.
pub struct Step {
    network: Network,
    adam: Option<Adam>,
    xt: Tensor,
    t: Vec<f64>,
    target: Tensor,
}

impl Step {
    pub fn new(side: Side, network: Network, purpose: Purpose, batch: usize, width: usize) -> Result<Self> {
        let mut rng = Rng::new(2);
        let shape = network.shape(batch, width);
        Ok(Self {
            adam: match purpose {
                Purpose::Train => Some(Adam::new(side, &network.parameters)?),
                Purpose::Denoise => None,
            },
            network,
            xt: rng.randn(shape, &Device::Cpu)?,
            t: rng.timesteps(batch, 1000)?.into_iter().map(|t| t as f64).collect(),
            target: rng.randn(shape, &Device::Cpu)?,
        })
    }

    /// A training step: forward, mean squared error, backward, Adam. Else a denoising step: forward.
    pub fn run(&mut self) -> Result<Tensor> {
        let answer = (self.network.forward)(&self.xt, &self.t)?;
        let Some(adam) = &mut self.adam else {
            return Ok(answer);
        };
        let loss = (answer - &self.target)?.sqr()?.mean_all()?;
        adam.step(&backward(&loss)?)?;
        Ok(loss)
    }

    /// A training step; returns the seconds that Adam took of it.
    pub fn run_in_parts(&mut self) -> Result<f64> {
        let answer = (self.network.forward)(&self.xt, &self.t)?;
        let loss = (answer - &self.target)?.sqr()?.mean_all()?;
        let grads = backward(&loss)?;
        let began = Instant::now();
        if let Some(adam) = &mut self.adam {
            adam.step(&grads)?;
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

/// What a small network with given weights answers, and its losses in five steps of training, as JSON: the same on every
/// side.
pub fn check(side: Side, name: &str, width: usize) -> Result<String> {
    let network = Network::new(side, name, 16, Purpose::Train)?;
    for (k, (name, var)) in network.parameters.iter().enumerate() {
        let dims = var.dims();
        // A norm's weights are near 1; the others keep the size of the numbers.
        let (mean, size) = match dims {
            [_] if name.ends_with("weight") => (1.0, 0.1),
            [_] => (0.0, 0.1),
            [_, inputs @ ..] => (0.0, (inputs.iter().product::<usize>() as f64).powf(-0.5)),
            [] => (0.0, 1.0),
        };
        let values = numbers(k, var.elem_count(), mean, size);
        var.set(&Tensor::from_vec(values, dims, &Device::Cpu)?)?;
    }
    let mut step = Step::new(side, network, Purpose::Train, 2, width)?;
    let images = |k| {
        let values = numbers(k, step.xt.elem_count(), 0.0, 1.0);
        Tensor::from_vec(values, step.xt.shape(), &Device::Cpu)
    };
    (step.xt, step.target) = (images(1000)?, images(1001)?);
    step.t = vec![3.0, 700.0];
    let answer = (step.network.forward)(&step.xt, &step.t)?;
    let answer = answer.flatten_all()?.to_vec1::<f32>()?;
    let loss = |_| Ok(step.run()?.to_scalar::<f32>()?);
    let losses = (0..5).map(loss).collect::<Result<Vec<f32>>>()?;
    Ok(format!("{{\"answer\": {answer:?}, \"losses\": {losses:?}}}"))
}

/// Numbers that look random, and are the same in another language.
fn numbers(k: usize, count: usize, mean: f64, size: f64) -> Vec<f32> {
    (0..count).map(|i| mean + size * (0.37 * (i * i) as f64 + k as f64).sin()).map(|x| x as f32).collect()
}
