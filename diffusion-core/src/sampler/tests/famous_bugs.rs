//! Tests against the well-known bugs of samplers.

use super::*;

/// With strided steps, s is the next time in the list, not t − 1; otherwise hardly any noise is removed.
#[test]
fn the_previous_step_is_the_next_of_the_list() -> Result<()> {
    let (x0, eps) = (one(0.5)?, one(1.5)?);
    let known = |_: &Tensor, _: &[f64]| Ok(x0.clone());
    for (process, times) in processes().into_iter().zip([[999.0, 400.0, 399.0], [1.0, 0.4, 0.39], [80.0, 0.3, 0.2]]) {
        let xt = perturb(&x0, &[process.noisiest()], &eps)?;
        let sampler = plain(DDIM, Steps::Given(times.to_vec()));
        let mut rng = Rng::new(0);
        for state in sampler.states(known, &process, Prediction::X0, &xt, &mut rng)? {
            let state = state?;
            let level = state.s.map_or(Ok(Level::CLEAN), |s| process.level(s))?;
            let want = perturb(&x0, &[level], &eps)?;
            assert!((doubles(&state.xs)?[0] - doubles(&want)?[0]).abs() < 1e-12);
        }
    }
    Ok(())
}

/// The last step ends at the clean image, not at the cleanest time; otherwise noise remains in the image.
#[test]
fn the_last_step_leaves_no_noise() -> Result<()> {
    let (x0, noise) = (one(0.5)?, one(2.0)?);
    for process in processes() {
        for solver in [DDIM, DDPM, BETA, Solver::Heun, Solver::DpmSolver] {
            let known = |_: &Tensor, _: &[f64]| Ok(x0.clone());
            let sampler = plain(solver, Steps::Trailing(3));
            let x = sampler.sample(known, &process, Prediction::X0, &noise, &mut Rng::new(0))?;
            assert_eq!(doubles(&x)?, [0.5], "{solver:?}");
        }
    }
    Ok(())
}

/// ε̂ is recomputed from the clipped x̂_0; otherwise x_s keeps noise that is inconsistent with it.
#[test]
fn the_noise_is_recomputed_after_clipping() -> Result<()> {
    let schedule = Schedule::linear(1000)?;
    let xt = Tensor::full(3f64, (1, 1, 1, 1), CPU)?;
    let zero = |x: &Tensor, _: &[f64]| x.zeros_like();
    let mut rng = Rng::new(0);
    let mut states = Sampler::ddim(2).states(zero, &schedule, Prediction::Eps, &xt, &mut rng)?;
    let state = states.next().transpose()?.expect("two steps");
    let a = schedule.alpha_bar(999);
    assert_eq!(doubles(&state.x0_hat)?, [1.0]);
    let want = (3.0 - a.sqrt()) / (1.0 - a).sqrt();
    assert!((doubles(&state.eps_hat)?[0] - want).abs() < 1e-12);
    Ok(())
}

/// With strided steps the variance is that of the whole stride; with β_t of a single step the images are too smooth.
#[test]
fn the_variance_is_that_of_the_stride() -> Result<()> {
    let schedule = Schedule::linear(1000)?;
    let data = Gaussian { mean: 0.0, variance: 0.25 };
    let best = |x: &Tensor, t: &[f64]| data.x0(x, schedule.level(t[0] as usize));
    let mut rng = Rng::new(5);
    let noise = rng.randn((1, 1, 100, 100), CPU)?;
    let x = plain(DDPM, Steps::Trailing(100)).sample(best, &schedule, Prediction::X0, &noise, &mut rng)?;
    let (_, variance) = mean_and_variance(&x)?;
    // With 100 steps 0.88 of the variance is left; with β_t of a single step, 0.11.
    assert!((variance / 0.25 - 0.88).abs() < 0.05, "{variance}");
    Ok(())
}

/// If x_T still contains signal, sampling starts from a distribution the network has not seen, and the mean is wrong.
#[test]
fn too_much_terminal_signal_is_warned_of() -> Result<()> {
    let short = Schedule::linear(100)?;
    assert!(short.warning().is_some());
    let data = Gaussian { mean: 0.5, variance: 0.01 };
    let mean_after = |schedule: &Schedule| -> Result<f64> {
        let best = |x: &Tensor, t: &[f64]| data.x0(x, schedule.level(t[0] as usize));
        let mut rng = Rng::new(6);
        let noise = rng.randn((1, 1, 50, 50), CPU)?;
        let x = plain(DDIM, Steps::All).sample(best, schedule, Prediction::X0, &noise, &mut rng)?;
        Ok(mean_and_variance(&x)?.0)
    };
    let (bad, good) = (mean_after(&short)?, mean_after(&Schedule::linear(1000)?)?);
    assert!((good - 0.5).abs() < 0.01, "{good}");
    assert!((bad - 0.5).abs() > 0.03, "{bad}");
    Ok(())
}
