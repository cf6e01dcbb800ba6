//! Tests of single sampler steps.

mod accuracy;
mod famous_bugs;

use super::*;
use crate::level::{Level, perturb};
use crate::rng::Rng;
use crate::schedule::Schedule;
use candle_core::{DType, Device, Var};
use std::cell::RefCell;

const CPU: &Device = &Device::Cpu;

/// Data whose pixels are N(mean, variance), for which everything is known in closed form.
#[derive(Clone, Copy)]
struct Gaussian {
    mean: f64,
    variance: f64,
}

impl Gaussian {
    /// E[x_0 | x_t], the optimal prediction.
    fn x0(self, x: &Tensor, Level { signal: a, noise: s }: Level) -> Result<Tensor> {
        let gain = a * self.variance / (a * a * self.variance + s * s);
        ((x - a * self.mean)? * gain)? + self.mean
    }

    /// The solution of the probability-flow ODE: its number of standard deviations from the mean is constant.
    fn flow(self, x: f64, from: Level, to: Level) -> f64 {
        let deviation = |l: Level| (l.signal.powi(2) * self.variance + l.noise.powi(2)).sqrt();
        let z = (x - from.signal * self.mean) / deviation(from);
        to.signal * self.mean + z * deviation(to)
    }
}

fn plain(solver: Solver, steps: Steps) -> Sampler {
    Sampler { solver, steps, threshold: Threshold::None }
}

const DDIM: Solver = Solver::Ddim { eta: 0.0 };
const DDPM: Solver = Solver::Ddpm { variance: Variance::Posterior };
const BETA: Solver = Solver::Ddpm { variance: Variance::Beta };

fn processes() -> [NoiseProcess; 3] {
    [Schedule::linear(1000).expect("a schedule").into(), NoiseProcess::flow(), NoiseProcess::edm()]
}

fn doubles(x: &Tensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

fn one(x: f64) -> Result<Tensor> {
    Tensor::full(x, (1, 1), CPU)
}

fn mean_and_variance(x: &Tensor) -> Result<(f64, f64)> {
    let x = doubles(x)?;
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let square = |v: &f64| (v - mean) * (v - mean);
    Ok((mean, x.iter().map(square).sum::<f64>() / x.len() as f64))
}

#[test]
fn steps_have_the_spacing_of_their_names() -> Result<()> {
    let schedule = Schedule::linear(1000)?;
    for (steps, first, last) in [
        (Steps::All, &[999.0, 998.0, 997.0][..], 0.0),
        (Steps::Trailing(1), &[999.0], 999.0),
        (Steps::Trailing(50), &[999.0, 979.0, 959.0], 19.0),
        (Steps::Trailing(1000), &[999.0, 998.0], 0.0),
        (Steps::Leading(50), &[980.0, 960.0, 940.0], 0.0),
        (Steps::Leading(300), &[897.0, 894.0], 0.0),
        (Steps::Linspace(1), &[999.0], 999.0),
        (Steps::Linspace(5), &[999.0, 749.0, 500.0, 250.0], 0.0),
        (Steps::Given(vec![700.0, 3.5]), &[700.0, 3.5], 3.5),
        (Steps::given((0..=700u32).rev()), &[700.0, 699.0], 0.0),
    ] {
        let visited = steps.visited(&schedule)?;
        assert_eq!(&visited[..first.len()], first, "{steps:?}");
        assert_eq!(visited.last(), Some(&last), "{steps:?}");
        assert!(visited.windows(2).all(|pair| pair[0] > pair[1]));
    }
    for n in 1..=1000 {
        for steps in [Steps::Trailing(n), Steps::Leading(n), Steps::Linspace(n)] {
            let visited = steps.visited(&schedule)?;
            assert_eq!(visited.len(), n);
            assert!(visited.windows(2).all(|p| p[0] > p[1]), "{steps:?}");
        }
    }
    Ok(())
}

#[test]
fn errors_name_the_bad_value() -> Result<()> {
    let xt = Tensor::zeros((1, 1, 2, 2), DType::F32, CPU)?;
    let fail = |process: NoiseProcess, prediction: Prediction, sampler: Sampler| {
        let predict = |x: &Tensor, _: &[f64]| Ok(x.clone());
        let done = sampler.sample(predict, process, prediction, &xt, &mut Rng::new(0));
        done.unwrap_err().to_string()
    };
    let given = |times: &[f64]| plain(DDIM, Steps::Given(times.to_vec()));
    let ddim = |eta| plain(Solver::Ddim { eta }, Steps::Trailing(5));
    let threshold = Threshold::Dynamic { quantile: 0.0 };
    for (sampler, wants) in [
        (Sampler::ddim(0), "steps = 0 must be in 1 … 1000"),
        (Sampler::ddim(1001), "steps = 1001"),
        (plain(DDIM, Steps::Linspace(1001)), "steps = 1001"),
        (plain(DDIM, Steps::Leading(0)), "steps = 0"),
        (given(&[]), "at least one"),
        (given(&[1000.0, 3.0]), "t = 1000 is outside its range 0 … 999"),
        (given(&[3.0, f64::NAN]), "t = NaN"),
        (given(&[3.0, 4.0]), "4 follows 3"),
        (given(&[3.0, 3.0]), "3 follows 3"),
        (ddim(-0.1), "eta = -0.1"),
        (ddim(f64::NAN), "eta = NaN"),
        (Sampler { threshold, ..Sampler::ddim(5) }, "quantile = 0"),
    ] {
        let message = fail(NoiseProcess::default(), Prediction::Eps, sampler);
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    let (flow, edm) = (NoiseProcess::flow, NoiseProcess::edm);
    let wrong = NoiseProcess::Edm { sigma_min: 1.0, sigma_max: 1.0, rho: 7.0 };
    for (process, prediction, sampler, wants) in [
        (
            flow(),
            Prediction::Velocity,
            Sampler::ddpm(),
            "Steps::All needs time steps, which the flow process does not have",
        ),
        (edm(), Prediction::EDM, plain(DDIM, Steps::Linspace(5)), "use Steps::Trailing(n)"),
        (flow(), Prediction::Eps, Sampler::ddim(5), "use velocity, v or x0"),
        (flow(), Prediction::Velocity, given(&[0.5, 0.0]), "there is no noise at time 0"),
        (edm(), Prediction::EDM, given(&[81.0]), "t = 81 is outside its range 0.002 … 80"),
        (wrong, Prediction::EDM, Sampler::ddim(5), "sigma-max = 1 must be above sigma-min = 1"),
    ] {
        let message = fail(process, prediction, sampler);
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    let predict = |x: &Tensor, _: &[f64]| Ok(x.clone());
    let encoded = Sampler::ddpm().encode(predict, NoiseProcess::default(), Prediction::Eps, &xt);
    assert!(encoded.unwrap_err().to_string().contains("is stochastic and cannot encode"));
    Ok(())
}

#[test]
fn out_of_memory_error_names_the_batch_and_gives_advice() -> Result<()> {
    let full = |_: &Tensor, _: &[f64]| -> Result<Tensor> {
        candle_core::bail!(r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#)
    };
    let (schedule, rng) = (Schedule::cosine(10)?, &mut Rng::new(1));
    let xt = rng.randn((6, 1, 2, 2), CPU)?;
    let states = Sampler::ddim(5).states(full, &schedule, Prediction::Eps, &xt, rng)?;
    let said = states.finish().unwrap_err().to_string();
    assert!(said.contains("out of memory for a batch of 6 images (CUDA_ERROR_OUT_OF_MEMORY)"), "{said}");
    assert!(said.contains("fewer images at a time, for example 3"), "{said}");
    Ok(())
}

/// Many single steps from one x_t: q(x_s | x_t, x̂_0) has the mean and variance of Bayes' rule, on every process.
#[test]
fn a_ddpm_step_draws_from_the_posterior() -> Result<()> {
    let xt = Tensor::full(0.8f64, (1, 1, 200, 200), CPU)?;
    let x0 = Tensor::full(-0.3f64, (1, 1, 200, 200), CPU)?;
    let known = |_: &Tensor, _: &[f64]| Ok(x0.clone());
    for (process, t, s) in
        processes().into_iter().zip([(600.0, 599.0), (0.5, 0.4), (2.0, 1.5)]).map(|(p, (t, s))| (p, t, s))
    {
        let (level, next) = (process.level(t)?, process.level(s)?);
        let exact = level.posterior(next);
        // By Bayes' rule from precisions, without the closed form.
        let (kept, added) = (level.transition_signal(next), level.transition_variance(next));
        let precision = kept * kept / added + 1.0 / next.noise.powi(2);
        assert!((exact.variance * precision - 1.0).abs() < 1e-9);
        let mean = (0.8 * kept / added - 0.3 * next.signal / next.noise.powi(2)) / precision;
        assert!((mean - (0.8 * exact.of_xt - 0.3 * exact.of_x0)).abs() < 1e-9);
        for (solver, want) in [(DDPM, exact.variance), (BETA, added * next.total_variance() / level.total_variance())] {
            let sampler = plain(solver, Steps::Given(vec![t, s]));
            let mut rng = Rng::new(1);
            let mut states = sampler.states(known, &process, Prediction::X0, &xt, &mut rng)?;
            let state = states.next().transpose()?.expect("two steps");
            let (got, spread) = mean_and_variance(&state.xs)?;
            assert!((got - mean).abs() < 5.0 * (want / 4e4).sqrt(), "{process:?}");
            assert!((spread / want - 1.0).abs() < 0.03, "{solver:?}: {spread}, not {want}");
        }
    }
    Ok(())
}

#[test]
fn ddim_with_eta_1_is_ddpm() -> Result<()> {
    let xt = Rng::new(1).randn((2, 3, 4, 4), CPU)?.to_dtype(DType::F64)?;
    let predict = |x: &Tensor, _: &[f64]| x.tanh();
    for process in processes() {
        let go = |solver| {
            let sampler = plain(solver, Steps::Trailing(20));
            sampler.sample(predict, &process, Prediction::V, &xt, &mut Rng::new(2))
        };
        assert_eq!(doubles(&go(Solver::Ddim { eta: 1.0 })?)?, doubles(&go(DDPM)?)?);
    }
    Ok(())
}

#[test]
fn only_stochastic_samplers_draw_noise() -> Result<()> {
    let xt = Rng::new(3).randn((1, 1, 2, 2), CPU)?;
    let eta = Solver::Ddim { eta: 0.1 };
    for process in processes() {
        for (solver, draws) in [(DDIM, 0), (Solver::Heun, 0), (Solver::DpmSolver, 0), (DDPM, 9), (BETA, 9), (eta, 9)] {
            let drawn = RefCell::new(0);
            let mut noise = |x: &Tensor| {
                *drawn.borrow_mut() += 1;
                x.zeros_like()
            };
            let predict = |x: &Tensor, _: &[f64]| Ok(x.clone());
            plain(solver, Steps::Trailing(10)).sample(predict, &process, Prediction::V, &xt, &mut noise)?;
            assert_eq!(*drawn.borrow(), draws, "{solver:?}: the last step draws none");
        }
    }
    Ok(())
}

#[test]
fn a_state_describes_its_step() -> Result<()> {
    let xt = Rng::new(3).randn((2, 1, 4, 4), CPU)?;
    let predict = |x: &Tensor, _: &[f64]| x.tanh();
    for process in processes() {
        let mut rng = Rng::new(4);
        let sampler = Sampler::ddim(7);
        let states = sampler.states(predict, &process, Prediction::V, &xt, &mut rng)?;
        assert_eq!((states.len(), states.path().len()), (7, 7));
        let states = states.collect::<Result<Vec<_>>>()?;
        assert_eq!((states[0].t, states[6].s), (process.range().1, None));
        assert_eq!(states[6].next_level, Level::CLEAN);
        assert_eq!(doubles(&states[0].xt)?, doubles(&xt)?);
        for pair in states.windows(2) {
            assert_eq!((pair[0].s, pair[0].next_level), (Some(pair[1].t), pair[1].level));
            assert_eq!(doubles(&pair[0].xs)?, doubles(&pair[1].xt)?);
        }
        for state in &states {
            // x_t = a x̂_0 + s ε̂, and x̂_0 is in the range of image values.
            assert_eq!(state.level, process.level(state.t)?);
            let whole = perturb(&state.x0_hat, &[state.level; 2], &state.eps_hat)?;
            let apart = (whole - &state.xt)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(apart < 1e-5, "{apart}");
            assert!(state.x0_hat.abs()?.max_all()?.to_scalar::<f32>()? <= 1.0);
        }
        let kept = sampler.states(predict, &process, Prediction::V, &xt, &mut rng)?.every(3)?;
        assert_eq!(kept.iter().map(|s| s.index).collect::<Vec<_>>(), [0, 3, 6]);
        let last = sampler.states(predict, &process, Prediction::V, &xt, &mut rng)?.every(0)?;
        assert_eq!(doubles(&last[0].xs)?, doubles(&states[6].xs)?);
    }
    Ok(())
}

#[test]
fn images_can_be_replaced_and_steps_undone() -> Result<()> {
    let (predict, mut rng) = (|x: &Tensor, _: &[f64]| x.tanh(), Rng::new(4));
    let xt = rng.randn((2, 1, 100, 100), CPU)?;
    for process in processes() {
        let mut states = Sampler::ddim(4).states(predict, &process, Prediction::V, &xt, &mut rng)?;
        states.next().transpose()?;
        states.next().transpose()?;
        assert!(states.back(3).unwrap_err().to_string().contains("3 steps back, since only 2"));
        let ones = xt.ones_like()?;
        states.replace(&ones)?;
        assert!(states.replace(&ones.get(0)?).is_err());
        // q(x_t | x_s) for x_s = 1, from the third time back to the first.
        states.back(2)?;
        let state = states.next().transpose()?.expect("four steps");
        assert_eq!((state.index, state.t), (0, process.range().1));
        let from = process.level(process.steps(4)?[2])?;
        let (mean, variance) = mean_and_variance(&state.xt)?;
        let want = state.level.transition_variance(from);
        assert!((mean - state.level.transition_signal(from)).abs() < 5.0 * (want / 2e4).sqrt());
        assert!((variance / want - 1.0).abs() < 0.05, "{process:?}: {variance} {want}");
    }
    Ok(())
}

#[test]
fn states_keep_no_graph_and_an_error_ends_the_iterator() -> Result<()> {
    let schedule = Schedule::linear(1000)?;
    let weight = Var::new(0.5f32, CPU)?;
    let xt = Rng::new(3).randn((1, 1, 2, 2), CPU)?;
    let mut rng = Rng::new(4);
    for solver in [DDIM, DDPM, Solver::Heun, Solver::DpmSolver] {
        let predict = |x: &Tensor, _: &[f64]| x.broadcast_mul(&weight);
        let sampler = plain(solver, Steps::Trailing(5));
        for state in sampler.states(predict, &schedule, Prediction::Eps, &xt, &mut rng)? {
            let State { xt, x0_hat, eps_hat, xs, .. } = state?;
            for x in [xt, x0_hat, eps_hat, xs] {
                assert!(!x.track_op(), "{solver:?}");
            }
        }
    }
    let predict = |x: &Tensor, t: &[f64]| match t[0] {
        999.0 => Ok(x.clone()),
        _ => bail!("enough"),
    };
    let states = Sampler::ddim(5).states(predict, &schedule, Prediction::Eps, &xt, &mut rng)?;
    let results: Vec<bool> = states.map(|state| state.is_ok()).collect();
    assert_eq!(results, [true, false]);
    Ok(())
}

#[test]
fn thresholds_are_the_papers() -> Result<()> {
    // The 0.5 quantile of |x| is 2 for the first image and below 1 for the second.
    let x = Tensor::new(&[[-4f64, 2.0, 1.0], [0.5, -3.0, 0.1]], CPU)?;
    let dynamic = |quantile| Threshold::Dynamic { quantile }.apply(&x);
    let got = dynamic(0.5)?.expect("changed");
    assert_eq!(doubles(&got)?, [-1.0, 1.0, 0.5, 0.5, -1.0, 0.1]);
    let got = dynamic(0.75)?.expect("changed");
    let want = [-1.0, 2.0 / 3.0, 1.0 / 3.0, 0.5 / 1.75, -1.0, 0.1 / 1.75];
    for (got, want) in doubles(&got)?.iter().zip(want) {
        assert!((got - want).abs() < 1e-12, "{got} {want}");
    }
    // Automatic clipping applies to images with one channel or three.
    for (shape, clipped) in
        [(vec![1, 3, 2, 2], true), (vec![1, 1, 2, 2], true), (vec![1, 4, 2, 2], false), (vec![5, 2], false)]
    {
        let x = Tensor::full(2f64, shape, CPU)?;
        assert_eq!(Threshold::Auto.apply(&x)?.is_some(), clipped, "{:?}", x.dims());
    }
    Ok(())
}

#[test]
fn slerp_follows_the_circle() -> Result<()> {
    let (a, b) = (Tensor::new(&[[1f64, 0.0], [2.0, 0.0]], CPU)?, Tensor::new(&[[0f64, 1.0], [4.0, 0.0]], CPU)?);
    assert_eq!(doubles(&slerp(&a, &b, 0.0)?)?, [1.0, 0.0, 2.0, 0.0]);
    let half = doubles(&slerp(&a, &b, 0.5)?)?;
    let root = 0.5f64.sqrt();
    // The first pair turns; the second is parallel.
    for (got, want) in half.iter().zip([root, root, 3.0, 0.0]) {
        assert!((got - want).abs() < 1e-12, "{half:?}");
    }
    assert!(slerp(&a, &b.t()?.narrow(0, 0, 1)?, 0.5).is_err());
    assert!(slerp(&a, &b, f64::NAN).is_err());
    Ok(())
}
