use super::*;
use crate::diffusion::posterior;
use crate::rng::Rng;
use candle_core::{DType, Device, Var};
use std::cell::RefCell;

const CPU: &Device = &Device::Cpu;

/// Images whose pixels are N(μ, s²): all is known in closed form.
#[derive(Clone, Copy)]
struct Gaussian {
    mean: f64,
    variance: f64,
}

impl Gaussian {
    /// E[x_0 | x_t], the best a network can say.
    fn x0(self, schedule: &Schedule, xt: &Tensor, t: usize) -> Result<Tensor> {
        let a = schedule.alpha_bar(t);
        let gain = a.sqrt() * self.variance / (a * self.variance + 1.0 - a);
        ((xt - a.sqrt() * self.mean)? * gain)? + self.mean
    }

    /// Where the probability flow takes x from one ᾱ to another: the number of standard deviations from the mean stays.
    fn flow(self, x: f64, from: f64, to: f64) -> f64 {
        let deviation = |a: f64| (a * self.variance + 1.0 - a).sqrt();
        let z = (x - from.sqrt() * self.mean) / deviation(from);
        to.sqrt() * self.mean + z * deviation(to)
    }
}

fn plain(solver: Solver, steps: Steps) -> Sampler {
    Sampler {
        solver,
        steps,
        threshold: Threshold::None,
    }
}

const DDIM: Solver = Solver::Ddim { eta: 0.0 };
const DDPM: Solver = Solver::Ddpm {
    variance: Variance::Posterior,
};

fn doubles(x: &Tensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

fn mean_and_variance(x: &Tensor) -> Result<(f64, f64)> {
    let x = doubles(x)?;
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let square = |v: &f64| (v - mean) * (v - mean);
    Ok((mean, x.iter().map(square).sum::<f64>() / x.len() as f64))
}

/// The slope of the straight line through the points, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (x, y) = points
        .iter()
        .fold((0.0, 0.0), |s, p| (s.0 + p.0 / n, s.1 + p.1 / n));
    let products = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>();
    products / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}

#[test]
fn steps_are_spread_as_their_names_say() -> Result<()> {
    let schedule = Schedule::linear(1000)?;
    for (steps, first, last) in [
        (Steps::All, &[999, 998, 997][..], 0),
        (Steps::Trailing(1), &[999], 999),
        (Steps::Trailing(50), &[999, 979, 959], 19),
        (Steps::Trailing(1000), &[999, 998], 0),
        (Steps::Leading(50), &[980, 960, 940], 0),
        (Steps::Leading(300), &[897, 894], 0),
        (Steps::Linspace(1), &[999], 999),
        (Steps::Linspace(5), &[999, 749, 500, 250], 0),
        (Steps::Given(vec![700, 3]), &[700, 3], 3),
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
fn what_does_not_fit_is_named() -> Result<()> {
    let schedule = Schedule::linear(1000)?;
    let xt = Tensor::zeros((1, 1, 2, 2), DType::F32, CPU)?;
    let fail = |sampler: Sampler| {
        let predict = |x: &Tensor, _: &[usize]| Ok(x.clone());
        let done = sampler.sample(predict, &schedule, Param::Eps, &xt, &mut Rng::new(0));
        done.unwrap_err().to_string()
    };
    let given = |times: &[usize]| plain(DDIM, Steps::Given(times.to_vec()));
    let ddim = |eta| plain(Solver::Ddim { eta }, Steps::Trailing(5));
    let dynamic = |quantile| Sampler {
        threshold: Threshold::Dynamic { quantile },
        ..Sampler::ddim(5)
    };
    for (sampler, wants) in [
        (Sampler::ddim(0), "steps = 0 must be in 1 … 1000"),
        (Sampler::ddim(1001), "steps = 1001"),
        (plain(DDIM, Steps::Linspace(1001)), "steps = 1001"),
        (given(&[]), "at least one"),
        (given(&[1000, 3]), "time step 1000 was given"),
        (given(&[3, 4]), "4 was given after 3"),
        (given(&[3, 3]), "3 was given after 3"),
        (ddim(-0.1), "eta = -0.1"),
        (ddim(f64::NAN), "eta = NaN"),
        (dynamic(0.0), "quantile = 0"),
    ] {
        let message = fail(sampler);
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    let predict = |x: &Tensor, _: &[usize]| Ok(x.clone());
    let encoded = Sampler::ddpm().encode(predict, &schedule, Param::Eps, &xt);
    assert!(encoded.unwrap_err().to_string().contains("no way back"));
    Ok(())
}

#[test]
fn a_full_memory_names_the_images_and_what_to_try() -> Result<()> {
    let full = |_: &Tensor, _: &[usize]| -> Result<Tensor> {
        candle_core::bail!(r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#)
    };
    let (schedule, rng) = (Schedule::cosine(10)?, &mut Rng::new(1));
    let xt = rng.randn((6, 1, 2, 2), CPU)?;
    let states = Sampler::ddim(5).states(full, &schedule, Param::Eps, &xt, rng)?;
    let said = states.finish().unwrap_err().to_string();
    assert!(
        said.contains("no memory left for a batch of 6 images (CUDA_ERROR_OUT_OF_MEMORY)"),
        "{said}"
    );
    assert!(said.contains("fewer images at a time, 3 say"), "{said}");
    Ok(())
}

#[test]
fn gaussian_data_comes_out_with_its_mean_and_variance() -> Result<()> {
    let schedule = Schedule::linear(1000)?;
    let data = Gaussian {
        mean: 0.3,
        variance: 0.25,
    };
    let mut rng = Rng::new(3);
    let noise = rng.randn((1, 1, 100, 100), CPU)?;
    let best = |xt: &Tensor, t: &[usize]| data.x0(&schedule, xt, t[0]);
    let large = Solver::Ddpm {
        variance: Variance::Beta,
    };
    for (solver, steps) in [
        (DDIM, Steps::All),
        (Solver::Ddim { eta: 0.5 }, Steps::All),
        (DDPM, Steps::All),
        (large, Steps::All),
        (Solver::Heun, Steps::Trailing(50)),
        (Solver::DpmSolver, Steps::Trailing(50)),
    ] {
        let x = plain(solver, steps).sample(best, &schedule, Param::X0, &noise, &mut rng)?;
        let (mean, variance) = mean_and_variance(&x)?;
        assert!((mean - 0.3).abs() < 0.02, "{solver:?}: mean {mean}");
        assert!(
            (variance / 0.25 - 1.0).abs() < 0.05,
            "{solver:?}: variance {variance}"
        );
    }
    Ok(())
}

/// Data of two images: what comes out is one of the two, each as often as it should.
#[test]
fn finite_data_comes_out_as_it_is() -> Result<()> {
    let schedule = Schedule::cosine(1000)?;
    // −0.5 with weight 1/4 and 0.5 with weight 3/4; E[x_0 | x_t] is known.
    let best = |xt: &Tensor, t: &[usize]| {
        let a = schedule.alpha_bar(t[0]);
        let log_odds = ((xt * (a.sqrt() / (1.0 - a)))? + 3f64.ln())?;
        // (odds·0.5 − 0.5)/(odds + 1)
        (log_odds * 0.5)?.tanh()? * 0.5
    };
    let mut rng = Rng::new(8);
    let noise = rng.randn((1, 1, 100, 100), CPU)?;
    for (sampler, tolerance) in [
        (Sampler::ddpm(), 0.02),
        (Sampler::ddim(200), 0.02),
        (Sampler::heun(50), 0.02),
        (Sampler::dpm_solver(50), 0.02),
    ] {
        let x = doubles(&sampler.sample(best, &schedule, Param::X0, &noise, &mut rng)?)?;
        let near = |x: &&f64| (x.abs() - 0.5).abs() < 0.05;
        let share = |k: usize| k as f64 / x.len() as f64;
        let hits = share(x.iter().filter(near).count());
        assert!(hits > 0.97, "{sampler:?}: {hits} of the pixels are data");
        let high = share(x.iter().filter(|x| **x > 0.0).count());
        assert!((high - 0.75).abs() < tolerance, "{sampler:?}: {high}");
    }
    Ok(())
}

/// One step from one x_t, many times: q(x_s | x_t, x̂_0) has the mean and variance of equations 6 and 7.
#[test]
fn a_ddpm_step_draws_from_the_posterior() -> Result<()> {
    let schedule = Schedule::linear(100)?;
    let xt = Tensor::full(0.8f64, (1, 1, 200, 200), CPU)?;
    let x0 = Tensor::full(-0.3f64, (1, 1, 200, 200), CPU)?;
    for (variance, want) in [
        (Variance::Posterior, None),
        (Variance::Beta, Some(schedule.beta(60))),
    ] {
        let sampler = plain(Solver::Ddpm { variance }, Steps::Given(vec![60, 59]));
        let known = |_: &Tensor, _: &[usize]| Ok(x0.clone());
        let mut rng = Rng::new(1);
        let mut states = sampler.states(known, &schedule, Param::X0, &xt, &mut rng)?;
        let state = states.next().transpose()?.expect("two steps");
        let (mean, spread) = mean_and_variance(&state.xs)?;
        let exact = posterior(&schedule, &x0, &xt, &[60])?;
        let want = want.unwrap_or(exact.variance[0]);
        assert!((mean - doubles(&exact.mean)?[0]).abs() < 5.0 * (want / 4e4).sqrt());
        assert!(
            (spread / want - 1.0).abs() < 0.03,
            "{variance:?}: {spread}, not {want}"
        );
    }
    Ok(())
}

#[test]
fn ddim_with_eta_1_is_ddpm() -> Result<()> {
    let schedule = Schedule::linear(1000)?;
    let xt = Rng::new(1).randn((2, 3, 4, 4), CPU)?.to_dtype(DType::F64)?;
    let predict = |x: &Tensor, _: &[usize]| x.tanh();
    for steps in [Steps::Trailing(20), Steps::Leading(30)] {
        let go = |solver| {
            let sampler = plain(solver, steps.clone());
            sampler.sample(predict, &schedule, Param::V, &xt, &mut Rng::new(2))
        };
        let (a, b) = (go(Solver::Ddim { eta: 1.0 })?, go(DDPM)?);
        assert_eq!(doubles(&a)?, doubles(&b)?);
    }
    Ok(())
}

#[test]
fn only_samplers_with_eta_draw_noise() -> Result<()> {
    let schedule = Schedule::cosine(100)?;
    let xt = Rng::new(3).randn((1, 1, 2, 2), CPU)?;
    let steps = Steps::Trailing(10);
    for (solver, draws) in [
        (DDIM, 0),
        (Solver::Heun, 0),
        (Solver::DpmSolver, 0),
        (DDPM, 9),
        (Solver::Ddim { eta: 0.1 }, 9),
    ] {
        let drawn = RefCell::new(0);
        let mut noise = |x: &Tensor| {
            *drawn.borrow_mut() += 1;
            x.zeros_like()
        };
        let predict = |x: &Tensor, _: &[usize]| Ok(x.clone());
        plain(solver, steps.clone()).sample(predict, &schedule, Param::Eps, &xt, &mut noise)?;
        assert_eq!(
            *drawn.borrow(),
            draws,
            "{solver:?}: the last step draws none"
        );
    }
    Ok(())
}

/// log-error over log-steps is a straight line whose slope is the order: 1 for DDIM, 2 for the others.
#[test]
fn the_order_of_convergence_is_as_promised() -> Result<()> {
    let schedule = Schedule::cosine(160_000)?;
    let data = Gaussian {
        mean: 0.4,
        variance: 0.09,
    };
    let (from, to) = (128_000, 48_000);
    let best = |xt: &Tensor, t: &[usize]| data.x0(&schedule, xt, t[0]);
    let alpha_bar = |t| schedule.alpha_bar(t);
    let want = data.flow(1.2, alpha_bar(from), alpha_bar(to));
    for (solver, order) in [(DDIM, 1.0), (Solver::Heun, 2.0), (Solver::DpmSolver, 2.0)] {
        let mut points = Vec::new();
        for n in [16, 32, 64, 128] {
            let times = (0..=n).map(|i| from - i * (from - to) / n).collect();
            let sampler = plain(solver, Steps::Given(times));
            let x = Tensor::full(1.2f64, (1, 1), CPU)?;
            let mut rng = Rng::new(0);
            let states = sampler.states(best, &schedule, Param::X0, &x, &mut rng)?;
            let last = states.last().transpose()?.expect("n steps");
            assert_eq!(last.t, to);
            let error = (doubles(&last.xt)?[0] - want).abs();
            points.push(((n as f64).ln(), error.ln()));
        }
        let got = -slope(&points);
        assert!((got - order).abs() < 0.05, "{solver:?}: order {got}");
    }
    Ok(())
}

/// To the clean image, from noise, through spacings that are in use: each solver of order 2 is nearer than DDIM.
#[test]
fn solvers_of_second_order_need_fewer_steps() -> Result<()> {
    let schedule = Schedule::cosine(1000)?;
    let data = Gaussian {
        mean: 0.4,
        variance: 0.5,
    };
    let best = |xt: &Tensor, t: &[usize]| data.x0(&schedule, xt, t[0]);
    let x = Tensor::full(1.2f64, (1, 1), CPU)?;
    let want = data.flow(1.2, schedule.alpha_bar(999), 1.0);
    let error = |sampler: Sampler| -> Result<f64> {
        let sampler = Sampler {
            threshold: Threshold::None,
            ..sampler
        };
        let x = sampler.sample(best, &schedule, Param::X0, &x, &mut Rng::new(0))?;
        Ok((doubles(&x)?[0] - want).abs())
    };
    let ddim = error(Sampler::ddim(20))?;
    assert!(error(Sampler::heun(20))? < 0.3 * ddim);
    assert!(error(Sampler::dpm_solver(20))? < 0.3 * ddim);
    Ok(())
}

#[test]
fn encoding_goes_back_to_the_noise() -> Result<()> {
    let schedule = Schedule::cosine(1000)?;
    let data = Gaussian {
        mean: 0.4,
        variance: 0.09,
    };
    let best = |xt: &Tensor, t: &[usize]| data.x0(&schedule, xt, t[0]);
    let xt = Rng::new(3).randn((1, 1, 8, 8), CPU)?.to_dtype(DType::F64)?;
    for (solver, n, tolerance) in [
        (DDIM, 1000, 0.02),
        (Solver::Heun, 100, 0.02),
        (Solver::DpmSolver, 100, 0.03),
    ] {
        let sampler = plain(solver, Steps::Trailing(n));
        let x0 = sampler.sample(best, &schedule, Param::X0, &xt, &mut Rng::new(0))?;
        let back = sampler.encode(best, &schedule, Param::X0, &x0)?;
        let apart = (back - &xt)?.abs()?.max_all()?.to_scalar::<f64>()?;
        assert!(apart < tolerance, "{solver:?}: {apart}");
    }
    Ok(())
}

#[test]
fn a_state_says_what_happened() -> Result<()> {
    let schedule = Schedule::linear(1000)?;
    let xt = Rng::new(3).randn((2, 1, 4, 4), CPU)?;
    let predict = |x: &Tensor, _: &[usize]| x.tanh();
    let mut rng = Rng::new(4);
    let states = Sampler::ddim(7).states(predict, &schedule, Param::Eps, &xt, &mut rng)?;
    assert_eq!((states.len(), states.path().len()), (7, 7));
    let states = states.collect::<Result<Vec<_>>>()?;
    assert_eq!((states[0].t, states[6].s), (999, None));
    assert_eq!(doubles(&states[0].xt)?, doubles(&xt)?);
    for pair in states.windows(2) {
        assert_eq!(pair[0].s, Some(pair[1].t));
        assert_eq!(doubles(&pair[0].xs)?, doubles(&pair[1].xt)?);
    }
    for state in &states {
        // x_t = √ᾱ x̂_0 + √(1−ᾱ) ε̂, and x̂_0 is where images are.
        let a = schedule.alpha_bar(state.t);
        let whole = ((&state.x0_hat * a.sqrt())? + (&state.eps_hat * (1.0 - a).sqrt())?)?;
        let apart = (whole - &state.xt)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(apart < 1e-5, "{apart}");
        assert!(state.x0_hat.abs()?.max_all()?.to_scalar::<f32>()? <= 1.0);
    }
    let kept = Sampler::ddim(7)
        .states(predict, &schedule, Param::Eps, &xt, &mut rng)?
        .every(3)?;
    assert_eq!(kept.iter().map(|s| s.index).collect::<Vec<_>>(), [0, 3, 6]);
    let last = Sampler::ddim(7)
        .states(predict, &schedule, Param::Eps, &xt, &mut rng)?
        .every(0)?;
    assert_eq!(doubles(&last[0].xs)?, doubles(&states[6].xs)?);
    Ok(())
}

#[test]
fn images_can_be_put_in_the_place_of_the_others() -> Result<()> {
    let schedule = Schedule::linear(1000)?;
    let xt = Rng::new(3).randn((2, 1, 4, 4), CPU)?;
    let predict = |x: &Tensor, _: &[usize]| x.tanh();
    let mut rng = Rng::new(4);
    let mut states = Sampler::ddim(2).states(predict, &schedule, Param::Eps, &xt, &mut rng)?;
    states.next().transpose()?;
    let ones = xt.ones_like()?;
    states.replace(&ones)?;
    assert!(states.replace(&ones.get(0)?).is_err());
    let state = states.next().transpose()?.expect("two steps");
    assert_eq!(doubles(&state.xt)?, doubles(&ones)?);
    Ok(())
}

#[test]
fn no_graph_is_kept_and_an_error_ends_it() -> Result<()> {
    let schedule = Schedule::linear(1000)?;
    let weight = Var::new(0.5f32, CPU)?;
    let xt = Rng::new(3).randn((1, 1, 2, 2), CPU)?;
    let mut rng = Rng::new(4);
    for solver in [DDIM, DDPM, Solver::Heun, Solver::DpmSolver] {
        let predict = |x: &Tensor, _: &[usize]| x.broadcast_mul(&weight);
        let sampler = plain(solver, Steps::Trailing(5));
        for state in sampler.states(predict, &schedule, Param::Eps, &xt, &mut rng)? {
            let State {
                xt,
                x0_hat,
                eps_hat,
                xs,
                ..
            } = state?;
            for x in [xt, x0_hat, eps_hat, xs] {
                assert!(!x.track_op(), "{solver:?}");
            }
        }
    }
    let predict = |x: &Tensor, t: &[usize]| match t[0] {
        999 => Ok(x.clone()),
        _ => bail!("enough"),
    };
    let states = Sampler::ddim(5).states(predict, &schedule, Param::Eps, &xt, &mut rng)?;
    let results: Vec<bool> = states.map(|state| state.is_ok()).collect();
    assert_eq!(results, [true, false]);
    Ok(())
}

#[test]
fn dynamic_thresholds_are_the_papers() -> Result<()> {
    // The 0.5 quantile of |x| is 2 for the first image, and below 1 for the second.
    let x = Tensor::new(&[[-4f64, 2.0, 1.0], [0.5, -3.0, 0.1]], CPU)?;
    let dynamic = |quantile| Threshold::Dynamic { quantile }.apply(&x);
    let got = dynamic(0.5)?.expect("changed");
    assert_eq!(doubles(&got)?, [-1.0, 1.0, 0.5, 0.5, -1.0, 0.1]);
    let got = dynamic(0.75)?.expect("changed");
    let want = [-1.0, 2.0 / 3.0, 1.0 / 3.0, 0.5 / 1.75, -1.0, 0.1 / 1.75];
    for (got, want) in doubles(&got)?.iter().zip(want) {
        assert!((got - want).abs() < 1e-12, "{got} {want}");
    }
    Ok(())
}

#[test]
fn slerp_goes_round_and_ends_where_it_should() -> Result<()> {
    let (a, b) = (
        Tensor::new(&[[1f64, 0.0], [2.0, 0.0]], CPU)?,
        Tensor::new(&[[0f64, 1.0], [4.0, 0.0]], CPU)?,
    );
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

/// The bugs that samplers are known for, one by one.
mod famous_bugs {
    use super::*;

    /// On a strided sequence s is the next of the list, not t − 1: else nearly no noise is taken away.
    #[test]
    fn the_previous_step_is_the_next_of_the_list() -> Result<()> {
        let schedule = Schedule::linear(1000)?;
        let x0 = Tensor::full(0.5f64, (1, 1), CPU)?;
        let eps = Tensor::full(1.5f64, (1, 1), CPU)?;
        let known = |_: &Tensor, _: &[usize]| Ok(x0.clone());
        let xt = crate::diffusion::q_sample(&schedule, &x0, &[999], &eps)?;
        let sampler = plain(DDIM, Steps::Given(vec![999, 400, 399]));
        let mut rng = Rng::new(0);
        let states = sampler.states(known, &schedule, Param::X0, &xt, &mut rng)?;
        for state in states {
            let state = state?;
            let want = match state.s {
                Some(s) => crate::diffusion::q_sample(&schedule, &x0, &[s], &eps)?,
                None => x0.clone(),
            };
            assert!((doubles(&state.xs)?[0] - doubles(&want)?[0]).abs() < 1e-12);
        }
        Ok(())
    }

    /// The last step goes to ᾱ = 1, not to ᾱ_0: else noise is left in the image.
    #[test]
    fn the_last_step_leaves_no_noise() -> Result<()> {
        let schedule = Schedule::linear(10)?;
        let x0 = Tensor::full(0.5f64, (1, 1), CPU)?;
        for solver in [DDIM, DDPM, Solver::Heun, Solver::DpmSolver] {
            let known = |_: &Tensor, _: &[usize]| Ok(x0.clone());
            let sampler = plain(solver, Steps::Trailing(3));
            let noise = Tensor::full(2f64, (1, 1), CPU)?;
            let x = sampler.sample(known, &schedule, Param::X0, &noise, &mut Rng::new(0))?;
            assert_eq!(doubles(&x)?, [0.5], "{solver:?}");
        }
        Ok(())
    }

    /// ε̂ goes with the clipped x̂_0; with the old one x_s would keep noise that no image explains.
    #[test]
    fn the_noise_is_computed_anew_after_clipping() -> Result<()> {
        let schedule = Schedule::linear(1000)?;
        let xt = Tensor::full(3f64, (1, 1), CPU)?;
        let zero = |x: &Tensor, _: &[usize]| x.zeros_like();
        let mut rng = Rng::new(0);
        let mut states = Sampler::ddim(2).states(zero, &schedule, Param::Eps, &xt, &mut rng)?;
        let state = states.next().transpose()?.expect("two steps");
        let a = schedule.alpha_bar(999);
        assert_eq!(doubles(&state.x0_hat)?, [1.0]);
        let want = (3.0 - a.sqrt()) / (1.0 - a).sqrt();
        assert!((doubles(&state.eps_hat)?[0] - want).abs() < 1e-12);
        Ok(())
    }

    /// On strides the variance is that of the whole stride; with β_t of a single step images come out too smooth.
    #[test]
    fn the_variance_is_that_of_the_stride() -> Result<()> {
        let schedule = Schedule::linear(1000)?;
        let data = Gaussian {
            mean: 0.0,
            variance: 0.25,
        };
        let best = |xt: &Tensor, t: &[usize]| data.x0(&schedule, xt, t[0]);
        let mut rng = Rng::new(5);
        let noise = rng.randn((1, 1, 100, 100), CPU)?;
        let sampler = plain(DDPM, Steps::Trailing(100));
        let x = sampler.sample(best, &schedule, Param::X0, &noise, &mut rng)?;
        let (_, variance) = mean_and_variance(&x)?;
        // Of 100 steps 0.88 of it is left, of β_t of a single step 0.11.
        assert!((variance / 0.25 - 0.88).abs() < 0.05, "{variance}");
        Ok(())
    }

    /// If x_T is not yet noise, sampling from noise starts where no data is: the mean is lost. The schedule warns.
    #[test]
    fn too_short_a_process_is_warned_of() -> Result<()> {
        let short = Schedule::linear(100)?;
        assert!(short.warning().is_some());
        let data = Gaussian {
            mean: 0.5,
            variance: 0.01,
        };
        let mean_after = |schedule: &Schedule| -> Result<f64> {
            let best = |xt: &Tensor, t: &[usize]| data.x0(schedule, xt, t[0]);
            let mut rng = Rng::new(6);
            let noise = rng.randn((1, 1, 50, 50), CPU)?;
            let x = plain(DDIM, Steps::All).sample(best, schedule, Param::X0, &noise, &mut rng)?;
            Ok(mean_and_variance(&x)?.0)
        };
        let (bad, good) = (mean_after(&short)?, mean_after(&Schedule::linear(1000)?)?);
        assert!((good - 0.5).abs() < 0.01, "{good}");
        assert!((bad - 0.5).abs() > 0.03, "{bad}");
        Ok(())
    }
}
