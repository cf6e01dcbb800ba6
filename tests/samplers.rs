//! The samplers' trajectories equal those of Hugging Face diffusers' schedulers in every state, to 1e-4. `golden/samplers.py`
//! recorded them and says where diffusers departs from its own time steps.

use anyhow::{Context, Result, bail};
use diffusion_core::candle::{self, Device, Tensor, safetensors};
use diffusion_core::prediction::Prediction;
use diffusion_core::sampler::{Sampler, Solver, Steps, Threshold, Variance};
use diffusion_core::schedule::{Betas, Schedule};
use std::collections::HashMap;

fn golden() -> Result<HashMap<String, Tensor>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/samplers.safetensors");
    Ok(safetensors::load(path, &Device::Cpu)?)
}

fn times(golden: &HashMap<String, Tensor>, name: &str) -> Result<Vec<f64>> {
    let times = golden.get(name).context("no such time steps")?;
    Ok(times.to_vec1::<i64>()?.iter().map(|t| *t as f64).collect())
}

/// 0.8 x + 0.3 tanh(2 x − t/1000), the "network" of both sides.
fn predict(x: &Tensor, t: &[f64]) -> candle::Result<Tensor> {
    (x * 0.8)? + (((x * 2.0)? - t[0] / 1000.0)?.tanh()? * 0.3)?
}

#[test]
fn trajectories_equal_those_of_diffusers() -> Result<()> {
    let golden = golden()?;
    let noise = golden.get("noise").context("noise")?;
    let mut compared = 0;
    let mut worst = 0f32;
    for (name, states) in &golden {
        let Some(name) = name.strip_suffix(".states") else {
            continue;
        };
        let [solver, betas, prediction, _, variance, threshold] = name.splitn(6, '.').collect::<Vec<_>>()[..] else {
            bail!("{name}: six words were expected")
        };
        // "0.5" has a dot of its own.
        let (variance, threshold) = match threshold.strip_prefix("5.") {
            Some(rest) => ("0.5", rest),
            None => (variance, threshold),
        };
        let sampler = Sampler {
            solver: match (solver, variance) {
                ("ddim", eta) => Solver::Ddim { eta: eta.parse()? },
                ("dpm", _) => Solver::DpmSolver,
                ("ddpm" | "ddpm50", "posterior") => Solver::Ddpm { variance: Variance::Posterior },
                ("ddpm" | "ddpm50", "beta") => Solver::Ddpm { variance: Variance::Beta },
                _ => bail!("{name}: an unknown solver"),
            },
            steps: Steps::Given(times(&golden, &format!("{name}.times"))?),
            threshold: match threshold {
                "clip" => Threshold::Clip,
                "none" => Threshold::None,
                "dynamic" => Threshold::Dynamic { quantile: 0.8 },
                _ => bail!("{name}: an unknown threshold"),
            },
        };
        let betas = match betas {
            "linear" => Betas::LINEAR,
            _ => Betas::COSINE,
        };
        let prediction = match prediction {
            "eps" => Prediction::Eps,
            "x0" => Prediction::X0,
            _ => Prediction::V,
        };
        let schedule = Schedule::new(if solver == "ddpm50" { 50 } else { 1000 }, betas)?;
        let mut drawn = 0;
        let mut z = |_: &Tensor| {
            drawn += 1;
            noise.get(drawn - 1)
        };
        let states_of_ours = sampler.states(predict, &schedule, prediction, &states.get(0)?, &mut z)?;
        let mut steps = 0;
        for state in states_of_ours {
            let state = state?;
            steps += 1;
            let want = states.get(state.index + 1)?;
            let scale = want.abs()?.max_all()?.to_scalar::<f32>()?.max(1.0);
            let apart = (&state.xs - want)?.abs()?.max_all()?.to_scalar::<f32>()? / scale;
            worst = worst.max(apart);
            assert!(apart < 1e-4, "{name}, t = {}: {apart}", state.t);
        }
        assert_eq!(steps + 1, states.dim(0)?, "{name}");
        compared += 1;
    }
    println!("{compared} trajectories, {worst:e} apart at most");
    assert!(compared > 40, "{compared}");
    Ok(())
}

#[test]
fn the_time_steps_are_those_of_diffusers() -> Result<()> {
    let golden = golden()?;
    let schedule = Schedule::linear(1000)?;
    for n in [2, 7, 10, 25, 50, 300, 999, 1000] {
        for (name, steps) in
            [("leading", Steps::Leading(n)), ("trailing", Steps::Trailing(n)), ("linspace", Steps::Linspace(n))]
        {
            let want = times(&golden, &format!("spacing.{name}.{n}"))?;
            assert_eq!(steps.visited(&schedule)?, want, "{steps:?}");
        }
    }
    Ok(())
}

/// Predictions come with the graph of what they were computed from, and none of it may be kept.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_over_a_thousand_steps() -> Result<()> {
    use diffusion_core::rng::Rng;
    use diffusion_core::unet::{Condition, Network, SimpleUNet};

    fn resident() -> Result<f64> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find(|l| l.starts_with("VmRSS"));
        let mut words = line.context("VmRSS")?.split_whitespace();
        let kilobytes: f64 = words.nth(1).context("a number")?.parse()?;
        Ok(kilobytes / 1e3)
    }
    if !crate::alone("samplers::memory_does_not_grow_over_a_thousand_steps", None)? {
        return Ok(());
    }
    let device = Device::Cpu;
    let net = SimpleUNet { channels: 1, base: 8, ..Default::default() };
    let net = Network::new(net, &mut Rng::new(1), &device)?;
    let noise = Rng::new(2).randn((4, 1, 16, 16), &device)?;
    let predict = |x: &Tensor, t: &[f64]| net.forward(x, t, &Condition::none());
    let (schedule, sampler, mut rng) = (Schedule::linear(1200)?, Sampler::ddpm(), Rng::new(3));
    let (mut before, mut steps) = (0.0, 0);
    for state in sampler.states(predict, &schedule, Prediction::Eps, &noise, &mut rng)? {
        assert!(!state?.xs.track_op());
        steps += 1;
        if steps == 200 {
            before = resident()?;
        }
    }
    let grown = resident()? - before;
    println!("{before:.0} MB, grown by {grown:.1} MB in {} steps", steps - 200);
    assert!(steps == 1200 && grown < 20.0, "{before:.0} MB, grown by {grown:.0} MB");
    Ok(())
}
