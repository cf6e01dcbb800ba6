//! A batch of images from noise, and the network's share of the time.

use crate::networks::Network;
use anyhow::{Context, Result, bail};
use diffusion_core::candle::{Device, Tensor};
use diffusion_core::prediction::Prediction;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::Sampler;
use diffusion_core::schedule::Schedule;
use std::time::Instant;

pub struct Drawing {
    network: Network,
    noise: Tensor,
    schedule: Schedule,
}

impl Drawing {
    pub fn new(network: Network, batch: usize, width: usize, steps: usize) -> Result<Self> {
        let noise = Rng::new(2).randn(network.shape(batch, width), &Device::Cpu)?;
        let it = Self { network, noise, schedule: Schedule::linear(steps)? };
        // To warm up.
        it.seconds("network 2")?;
        Ok(it)
    }

    /// The seconds of `ddim N` or `ddpm`, or of the network alone asked N times: `network N`.
    pub fn seconds(&self, line: &str) -> Result<f64> {
        let mut words = line.split_whitespace();
        let kind = words.next().context("a line without a word")?;
        let n: usize = words.next().map_or(Ok(0), str::parse)?;
        let predict = |xt: &Tensor, t: &[f64]| self.network.answer(xt, t);
        let draw = |sampler: Sampler| {
            let (schedule, rng) = (&self.schedule, &mut Rng::new(3));
            sampler.sample(predict, schedule, Prediction::Eps, &self.noise, rng)
        };
        let began = Instant::now();
        let _last = match kind {
            "ddim" => draw(Sampler::ddim(n))?,
            "ddpm" => draw(Sampler::ddpm())?,
            "network" => {
                let t = vec![0.0; self.noise.dim(0)?];
                let mut last = self.noise.clone();
                for _ in 0..n {
                    last = self.network.answer(&self.noise, &t)?;
                }
                last
            }
            _ => bail!("{line}: it must be ddim N, ddpm or network N"),
        };
        Ok(began.elapsed().as_secs_f64())
    }
}
