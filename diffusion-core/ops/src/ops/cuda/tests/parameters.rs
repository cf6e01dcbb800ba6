use super::*;
use crate::ops::cuda::plan::parameters::{Outcome, Parameter, Parameters, Update, chunks};
use crate::optimiser::{AdamWConfig, Update as Step, average_in, sum_of_squares};
use candle_core::{Device, Result, Tensor, Var};

/// More than one chunk, whole ones, single elements, and almost whole packs.
const LENGTHS: [usize; 6] = [20_000, 1, 8192, 7, 8195, 300];

/// θ, m, v and the average of each parameter, as f32 that start `off` elements after a multiple of 16 bytes.
struct Network {
    parts: Vec<[Numbers; 4]>,
    outcome: Memory,
}

/// The inputs of a step.
struct Given<'a> {
    config: AdamWConfig,
    gradients: &'a [Option<Vec<f32>>],
    /// k of each parameter.
    counts: &'a [u64],
    loss: Option<f32>,
    max_norm: f64,
    share: f64,
    decay: f64,
    averaged: bool,
}

impl Network {
    fn new(thetas: &[Vec<f32>], off: usize) -> Self {
        let parts = thetas.iter().map(|theta| {
            let f32s = |values: &[f32]| Numbers::of(Real::F32, values, off);
            let zeros = vec![0.0; theta.len()];
            [f32s(theta), f32s(&zeros), f32s(&zeros), f32s(theta)]
        });
        Self { parts: parts.collect(), outcome: Memory::of_values(&[Outcome::default()], 0) }
    }

    fn step(&self, given: &Given, step: u32, off: usize, run: &dyn Fn(Vec<Launch>)) -> Outcome {
        let gradients: Vec<_> =
            given.gradients.iter().map(|g| g.as_ref().map(|g| Numbers::of(Real::F32, g, off))).collect();
        let AdamWConfig { lr, beta1, beta2, .. } = given.config;
        let left = |beta: f64, k: u64| 1.0 - libm::pow(beta, k as f64);
        let rows = self.parts.iter().zip(&gradients).zip(given.counts);
        let table: Vec<_> = rows
            .map(|(([theta, m, v, average], gradient), k)| Parameter {
                theta: theta.at(),
                gradient: gradient.as_ref().map_or(0, Numbers::at),
                m: m.at(),
                v: v.at(),
                average: if given.averaged { average.at() } else { 0 },
                length: theta.values().len() as u64,
                step_size: (lr / left(beta1, *k)) as f32,
                correction: left(beta2, *k).sqrt() as f32,
            })
            .collect();
        let lengths: Vec<usize> = table.iter().map(|row| row.length as usize).collect();
        let chunks = chunks(&lengths).unwrap();
        let (table, list) = (Memory::of_values(&table, 0), Memory::of_values(&chunks, 0));
        let plan =
            Parameters { parameters: table.at(), chunks: list.at(), count: chunks.len(), outcome: self.outcome.at() };
        let scratch = Memory::new(8 * plan.scratch(), 8);
        let loss = given.loss.map(|loss| Numbers::of(Real::F32, &[loss], 1));
        let loss = loss.as_ref().map_or(0, Numbers::at);
        run(plan.judge(loss, given.max_norm, step, scratch.at()).unwrap());
        run(plan
            .update(&Update {
                share: given.share,
                beta1,
                beta2,
                keep: 1.0 - lr * given.config.weight_decay,
                eps: given.config.eps,
                average_weight: 1.0 - given.decay,
            })
            .unwrap());
        scratch.bytes();
        self.outcome.values()[0]
    }

    fn values(&self) -> Vec<Vec<f32>> {
        let all = self.parts.iter().flatten();
        all.map(Numbers::values).collect()
    }
}

/// Gradients of step `step`; the fourth parameter has one every other step, and the last never.
fn gradients(step: u64, scale: f32) -> Vec<Option<Vec<f32>>> {
    let of = |(i, length): (usize, &usize)| {
        let has = i != 5 && (i != 3 || step % 2 == 1);
        let values = random(100 * step + i as u64, *length);
        has.then(|| values.iter().map(|x| scale * x).collect())
    };
    LENGTHS.iter().enumerate().map(of).collect()
}

/// Five steps with clipping, accumulated batches, weight decay and EMA, identical to the CPU to the bit.
#[test]
fn steps_equal_those_of_the_cpu() -> Result<()> {
    for (off, beta1, averaged) in [(0, 0.9, true), (1, 0.9, true), (0, 0.2, false)] {
        let thetas: Vec<_> = (0..).zip(LENGTHS).map(|(i, n)| random(i, n)).collect();
        let (max_norm, share) = (30.0, 0.5);
        let config = |step: u64| AdamWConfig { lr: 0.01 / step as f64, beta1, ..AdamWConfig::default() };
        // Some are clipped, some not.
        let gradients = |step: u64| gradients(step, if step.is_multiple_of(2) { 1.0 } else { 0.1 });
        let tensor = |x: &[f32]| Tensor::from_slice(x, x.len(), &Device::Cpu);
        // θ, m, v, the average, and the number of updates.
        let mut host = Vec::new();
        for theta in &thetas {
            let theta = tensor(theta)?;
            let zeros = theta.zeros_like()?;
            let vars = [&theta, &zeros, &zeros, &theta].map(Var::from_tensor);
            let [theta, m, v, average] = vars;
            host.push(([theta?, m?, v?, average?], 0));
        }
        let (mut scales, mut decays) = (Vec::new(), Vec::new());
        for step in 1..=5 {
            let gradients = gradients(step);
            let mut squares = 0.0;
            for g in gradients.iter().flatten() {
                squares += sum_of_squares(&tensor(g)?)?;
            }
            let norm = squares.sqrt();
            let scale = (max_norm / (norm + 1e-6)).min(1.0);
            let decay = step as f64 / (9 + step) as f64;
            scales.push((norm, scale));
            decays.push(decay);
            for (([theta, m, v, average], count), g) in host.iter_mut().zip(&gradients) {
                if let Some(g) = g {
                    *count += 1;
                    Step::new(&config(step), *count, scale * share).apply(theta, m, v, &tensor(g)?)?;
                }
                average_in(average, theta, 1.0 - decay)?;
            }
        }
        assert!(scales.iter().any(|s| s.1 == 1.0) && scales.iter().any(|s| s.1 < 1.0));
        let got = twice(&format!("{off} off, {beta1}"), |run| {
            let device = Network::new(&thetas, off);
            let mut counts = [0; LENGTHS.len()];
            for step in 1..=5u64 {
                let gradients = gradients(step);
                for (k, g) in counts.iter_mut().zip(&gradients) {
                    *k += u64::from(g.is_some());
                }
                let given = Given {
                    config: config(step),
                    gradients: &gradients,
                    counts: &counts,
                    loss: Some(0.5),
                    max_norm,
                    share,
                    decay: decays[step as usize - 1],
                    averaged,
                };
                let outcome = device.step(&given, step as u32, off, run);
                let (norm, scale) = scales[step as usize - 1];
                assert!((outcome.norm / norm - 1.0).abs() < 1e-14);
                assert!((outcome.squares / norm.powi(2) - 1.0).abs() < 1e-14);
                assert!((outcome.clip / scale - 1.0).abs() < 1e-14);
                assert_eq!((outcome.step, outcome.failed), (step as u32, 0));
            }
            device.values()
        });
        for (i, ((vars, _), theta)) in host.iter().zip(&thetas).enumerate() {
            let mut want = Vec::new();
            for var in vars {
                want.push(var.to_vec1::<f32>()?);
            }
            if !averaged {
                want[3] = theta.clone();
            }
            for (j, want) in want.iter().enumerate() {
                assert!(got[4 * i + j] == *want, "parameter {i}, {j}, {off} off");
            }
        }
    }
    Ok(())
}

/// If a gradient or a loss is not finite, nothing is changed then or later, and the outcome records the step.
#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    let thetas: Vec<_> = (0..).zip(LENGTHS).map(|(i, n)| random(i, n)).collect();
    for (bad, bad_loss) in
        [(f32::NAN, None), (f32::INFINITY, Some(1.0)), (0.0, Some(f32::NAN)), (0.0, Some(f32::INFINITY))]
    {
        twice("failure", |run| {
            let device = Network::new(&thetas, 0);
            let good = gradients(1, 1.0);
            let mut worse = good.clone();
            worse[4].as_mut().unwrap()[8194] = bad;
            let step = |step: u32, gradients: &[Option<Vec<f32>>], loss: Option<f32>| {
                let given = Given {
                    config: AdamWConfig::default(),
                    gradients,
                    counts: &[u64::from(step); LENGTHS.len()],
                    loss,
                    max_norm: f64::INFINITY,
                    share: 1.0,
                    decay: 0.9,
                    averaged: true,
                };
                device.step(&given, step, 0, run)
            };
            let first = step(1, &good, None);
            assert_eq!((first.step, first.failed, first.clip), (1, 0, 1.0));
            let before = device.values();
            assert!(before[0] != thetas[0]);
            let failed = step(2, &worse, bad_loss);
            assert_eq!((failed.step, failed.failed), (1, 2));
            let later = step(3, &good, None);
            assert_eq!((later.step, later.failed), (1, 2));
            assert!(device.values() == before);
            before
        });
    }
}

#[test]
fn wrong_arguments_are_errors() {
    assert!(chunks(&[]).is_err() && chunks(&[0]).is_err() && chunks(&[1 << 46]).is_err());
    let plan = Parameters { parameters: 0, chunks: 0, count: 1, outcome: 0 };
    for (max_norm, step) in [(0.0, 1), (-1.0, 1), (f64::NAN, 1), (1.0, 0)] {
        assert!(plan.judge(0, max_norm, step, 0).is_err());
    }
}
