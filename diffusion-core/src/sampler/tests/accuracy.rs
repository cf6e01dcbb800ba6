//! Tests of the samplers' results: distributions, orders of convergence, and pinned trajectories.

use super::*;
use std::collections::HashMap;

/// The optimal prediction of x_0 for a network whose input is scaled by c_in.
fn best<'a>(
    process: &'a NoiseProcess,
    x0: impl Fn(&Tensor, Level) -> Result<Tensor> + Copy + 'a,
) -> impl Fn(&Tensor, &[f64]) -> Result<Tensor> + Copy + 'a {
    move |input: &Tensor, t: &[f64]| {
        let level = process.level(t[0])?;
        x0(&(input / Prediction::X0.scalings(level).c_in)?, level)
    }
}

/// For Gaussian data every step is linear in x and z, so one batch gives the mean and variance of the result exactly:
/// image 0 starts at the prior's mean, image 1 at one standard deviation, and image k+2 receives z = 1 in its k-th step
/// only.
fn end_distribution(sampler: &Sampler, process: &NoiseProcess, data: Gaussian) -> Result<(f64, f64)> {
    let n = sampler.steps.visited(process)?.len();
    let unit = |at: usize, value: f64| -> Result<Tensor> {
        let values = (0..n + 2).map(|i| if i == at { value } else { 0.0 }).collect();
        Tensor::from_vec(values, (n + 2, 1), CPU)
    };
    let best = best(process, |x, level| data.x0(x, level));
    let mut step = 1;
    let mut noise = |_: &Tensor| {
        step += 1;
        unit(step, 1.0)
    };
    let xt = unit(1, process.prior_std())?;
    let x = doubles(&sampler.sample(best, process, Prediction::X0, &xt, &mut noise)?)?;
    Ok((x[0], x[1..].iter().map(|v| (v - x[0]).powi(2)).sum()))
}

#[test]
fn gaussian_data_comes_out_with_its_mean_and_variance() -> Result<()> {
    let data = Gaussian { mean: 0.3, variance: 0.25 };
    let more = [Schedule::cosine(1000)?.into(), NoiseProcess::Flow { shift: 3.0 }];
    for process in processes().into_iter().chain(more) {
        for (solver, n) in [
            (DDIM, 500),
            (Solver::Ddim { eta: 0.5 }, 1000),
            (DDPM, 1000),
            (BETA, 1000),
            (Solver::Heun, 100),
            (Solver::DpmSolver, 100),
        ] {
            let (mean, variance) = end_distribution(&plain(solver, Steps::Trailing(n)), &process, data)?;
            assert!((mean - 0.3).abs() < 0.01, "{process}, {solver:?}: mean {mean}");
            assert!((variance / 0.25 - 1.0).abs() < 0.03, "{process}, {solver:?}: variance {variance}");
        }
    }
    Ok(())
}

/// Data of two images: every sample is one of the two, with the right frequencies.
#[test]
fn finite_data_is_reproduced() -> Result<()> {
    let mut rng = Rng::new(8);
    let noise = rng.randn((1, 1, 60, 60), CPU)?;
    for process in [Schedule::cosine(1000)?.into(), NoiseProcess::flow(), NoiseProcess::edm()] {
        // −0.5 with weight 1/4 and 0.5 with weight 3/4, for which E[x_0 | x_t] is known.
        let best = best(&process, |x, Level { signal, noise }| {
            let log_odds = ((x * (signal / noise.powi(2)))? + 3f64.ln())?;
            // (odds·0.5 − 0.5)/(odds + 1)
            (log_odds * 0.5)?.tanh()? * 0.5
        });
        for (solver, n) in [(DDPM, 500), (DDIM, 200), (Solver::Heun, 50), (Solver::DpmSolver, 50)] {
            let sampler = plain(solver, Steps::Trailing(n));
            let xt = (&noise * process.prior_std())?;
            let x = doubles(&sampler.sample(best, &process, Prediction::X0, &xt, &mut rng)?)?;
            let near = |x: &&f64| (x.abs() - 0.5).abs() < 0.05;
            let share = |k: usize| k as f64 / x.len() as f64;
            let hits = share(x.iter().filter(near).count());
            assert!(hits > 0.97, "{process}, {solver:?}: {hits} of the pixels are data");
            let high = share(x.iter().filter(|x| **x > 0.0).count());
            assert!((high - 0.75).abs() < 0.03, "{process}, {solver:?}: {high}");
        }
    }
    Ok(())
}

/// The trajectory does not depend on the network's prediction type.
#[test]
fn prediction_types_give_the_same_trajectory() -> Result<()> {
    let data = Gaussian { mean: 0.4, variance: 0.3 };
    let predictions = [Prediction::V, Prediction::Velocity, Prediction::EDM, Prediction::Eps];
    for process in processes() {
        let xt = (Rng::new(3).randn((1, 1, 2, 2), CPU)?.to_dtype(DType::F64)? * process.prior_std())?;
        for solver in [DDPM, Solver::Heun, Solver::DpmSolver] {
            let go = |prediction: Prediction| -> Result<Vec<f64>> {
                // F from x̂_0 = c_skip x + c_out F(c_in x).
                let predict = |input: &Tensor, t: &[f64]| {
                    let level = process.level(t[0])?;
                    let row = prediction.scalings(level);
                    let x = (input / row.c_in)?;
                    (data.x0(&x, level)? - (&x * row.c_skip)?)? / row.c_out
                };
                let sampler = plain(solver, Steps::Trailing(10));
                doubles(&sampler.sample(predict, &process, prediction, &xt, &mut Rng::new(1))?)
            };
            let want = go(Prediction::X0)?;
            for prediction in predictions.into_iter().filter(|p| p.check(&process).is_ok()) {
                for (got, want) in go(prediction)?.into_iter().zip(&want) {
                    assert!((got - want).abs() < 1e-9, "{process}, {prediction:?}: {got} {want}");
                }
            }
        }
    }
    Ok(())
}

/// The slope of the least-squares line through the points.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |s, p| (s.0 + p.0 / n, s.1 + p.1 / n));
    let products = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>();
    products / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}

/// The log of the error against the log of the number of steps has the order as its slope: 1 for DDIM (Euler's method),
/// 2 for the others. Flow starts without any signal.
#[test]
fn the_order_of_convergence_is_as_promised() -> Result<()> {
    let data = Gaussian { mean: 0.4, variance: 0.09 };
    for (process, from, to) in [
        (NoiseProcess::from(Schedule::cosine(1000)?), 800.0, 300.0),
        (NoiseProcess::flow(), 1.0, 0.3),
        (NoiseProcess::edm(), 4.0, 0.2),
    ] {
        let best = best(&process, |x, level| data.x0(x, level));
        let start = 1.2 * process.level(from)?.noise;
        let want = data.flow(start, process.level(from)?, process.level(to)?);
        for (solver, order) in [(DDIM, 1.0), (Solver::Heun, 2.0), (Solver::DpmSolver, 2.0)] {
            let mut points = Vec::new();
            for n in [32, 64, 128, 256] {
                let share = |i: usize| i as f64 / n as f64;
                let at = |i: usize| match process {
                    NoiseProcess::Edm { .. } => from * (to / from).powf(share(i)),
                    _ => from + share(i) * (to - from),
                };
                let times = (0..=n).map(at).collect();
                let sampler = plain(solver, Steps::Given(times));
                let mut rng = Rng::new(0);
                let states = sampler.states(best, &process, Prediction::X0, &one(start)?, &mut rng)?;
                let last = states.last().transpose()?.expect("n steps");
                points.push(((n as f64).ln(), (doubles(&last.xt)?[0] - want).abs().ln()));
            }
            let got = -slope(&points);
            assert!((got - order).abs() < 0.1, "{process}, {solver:?}: order {got}");
        }
    }
    Ok(())
}

/// From noise to the clean image on the process's own grid, each second-order solver is more accurate than DDIM.
#[test]
fn solvers_of_second_order_need_fewer_steps() -> Result<()> {
    let data = Gaussian { mean: 0.4, variance: 0.5 };
    for process in [Schedule::cosine(1000)?.into(), NoiseProcess::flow(), NoiseProcess::edm()] {
        let best = best(&process, |x, level| data.x0(x, level));
        let start = 1.2 * process.prior_std();
        let want = data.flow(start, process.noisiest(), Level::CLEAN);
        let error = |sampler: Sampler| -> Result<f64> {
            let x = sampler.sample(best, &process, Prediction::X0, &one(start)?, &mut Rng::new(0))?;
            Ok((doubles(&x)?[0] - want).abs())
        };
        let ddim = error(Sampler::ddim(20))?;
        for sampler in [Sampler::heun(20), Sampler::dpm_solver(20)] {
            let second = error(sampler)?;
            assert!(second < 0.4 * ddim, "{process}: {second} {ddim}");
        }
    }
    Ok(())
}

#[test]
fn encoding_finds_the_noise() -> Result<()> {
    let data = Gaussian { mean: 0.4, variance: 0.09 };
    for process in [Schedule::cosine(1000)?.into(), NoiseProcess::flow(), NoiseProcess::edm()] {
        let best = best(&process, |x, level| data.x0(x, level));
        let noise = Rng::new(3).randn((1, 1, 8, 8), CPU)?.to_dtype(DType::F64)?;
        let xt = (&noise * process.prior_std())?;
        for (solver, n) in [(DDIM, 1000), (Solver::Heun, 100), (Solver::DpmSolver, 100)] {
            let sampler = plain(solver, Steps::Trailing(n));
            let x0 = sampler.sample(best, &process, Prediction::X0, &xt, &mut Rng::new(0))?;
            let encoded = sampler.encode(best, &process, Prediction::X0, &x0)?;
            let apart = ((encoded - &xt)? / process.prior_std())?.abs()?.max_all()?.to_scalar::<f64>()?;
            assert!(apart < 0.03, "{process}, {solver:?}: {apart}");
        }
    }
    Ok(())
}

/// `golden/sampler_states.safetensors` holds trajectories from the first version of these samplers: x_s, x̂_0 and ε̂ of
/// each step, with the last two of the first four steps resampled, and encoded noise.
#[test]
fn trajectories_of_the_discrete_process_are_unchanged() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/sampler_states.safetensors");
    let golden: HashMap<String, Tensor> = candle_core::safetensors::load(path, CPU)?;
    let xt = Rng::new(1).randn((1, 1, 1, 2), CPU)?.to_dtype(DType::F64)?;
    let same = |name: &str, got: &Tensor| -> Result<()> {
        for (got, want) in doubles(got)?.into_iter().zip(doubles(&golden[name])?) {
            assert!((got - want).abs() < 1e-6, "{name}: {got} {want}");
        }
        Ok(())
    };
    let data = Gaussian { mean: 0.3, variance: 0.2 };
    let mut compared = 0;
    for (name, schedule, threshold, steps) in [
        ("linear", Schedule::linear(1000)?, Threshold::None, Steps::Trailing(6)),
        ("cosine", Schedule::cosine(1000)?, Threshold::Clip, Steps::Linspace(6)),
    ] {
        for (kind, prediction) in [("eps", Prediction::Eps), ("x0", Prediction::X0), ("v", Prediction::V)] {
            let predict = |x: &Tensor, t: &[f64]| {
                let a = schedule.alpha_bar(t[0] as usize);
                let x0 = data.x0(x, schedule.level(t[0] as usize))?;
                match prediction {
                    Prediction::Eps => (x - x0 * a.sqrt())? / (1.0 - a).sqrt(),
                    Prediction::X0 => Ok(x0),
                    _ => ((x * a.sqrt())? - x0)? / (1.0 - a).sqrt(),
                }
            };
            for (of, solver) in [
                ("ddim", DDIM),
                ("ddim-eta", Solver::Ddim { eta: 0.5 }),
                ("ddpm", DDPM),
                ("ddpm-beta", BETA),
                ("heun", Solver::Heun),
                ("dpm", Solver::DpmSolver),
            ] {
                let (sampler, name) =
                    (Sampler { solver, steps: steps.clone(), threshold }, format!("{name}.{kind}.{of}"));
                let mut rng = Rng::new(2);
                let mut states = sampler.states(predict, &schedule, prediction, &xt, &mut rng)?;
                let mut rows = Vec::new();
                while let Some(state) = states.next() {
                    let state = state?;
                    rows.push(Tensor::cat(&[&state.xs, &state.x0_hat, &state.eps_hat], 0)?);
                    if rows.len() == 4 {
                        states.back(2)?;
                    }
                }
                assert_eq!(rows.len(), golden[&name].dim(0)?);
                same(&name, &Tensor::stack(&rows, 0)?)?;
                compared += 1;
                let name = format!("{name}.encoded");
                if golden.contains_key(&name) {
                    let x0 = xt.clamp(-1.0, 1.0)?;
                    same(&name, &sampler.encode(predict, &schedule, prediction, &x0)?)?;
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, golden.len());
    Ok(())
}
