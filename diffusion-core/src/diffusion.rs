//! The forward process and the posterior of DDPM, in its notation with integer time steps.
//!
//! Symbols: `x0` is a clean image, `xt` the noisy image at time step t, `eps` (ε) the Gaussian noise in it, and ᾱ_t is
//! from the [`Schedule`]. Images are (B, C, H, W) with values nominally in \[−1, 1\]; `t` has one entry for each image.
//! [`level`] has the same functions for any noise process.
//!
//! Built from scratch in `notebooks/01_forward.ipynb`.

use crate::level::{self, Level, check_batch, combine};
use crate::schedule::Schedule;
use candle_core::{Result, Tensor};

/// Samples from q(x_t | x_0) in one step: x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε
/// ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), equation 4).
///
/// # Shapes
/// `x0` and `eps` (B, C, H, W), or any rank with B first; `t` B entries in 0 … T−1; the result has the shape of `x0`.
///
/// # Errors
/// `eps` does not have the shape of `x0`, `t` does not have one entry for each image, or an entry is outside 0 … T−1.
///
/// ```
/// use diffusion_core::{candle::Device, diffusion::q_sample, rng::Rng, schedule::Schedule};
/// let (schedule, mut rng) = (Schedule::linear(1000)?, Rng::new(0));
/// let x0 = rng.randn((2, 1, 28, 28), &Device::Cpu)?;
/// let eps = rng.randn_like(&x0)?;
/// let xt = q_sample(&schedule, &x0, &[0, 999], &eps)?;
/// assert_eq!(xt.dims(), &[2, 1, 28, 28]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn q_sample(schedule: &Schedule, x0: &Tensor, t: &[usize], eps: &Tensor) -> Result<Tensor> {
    let levels = levels("q_sample", schedule, ("x0", x0), t)?;
    combine("q_sample", ("x0", x0), ("eps", eps), &levels, |l| (l.signal, l.noise))
}

/// The mean and variance of the posterior q(x_{t−1} | x_t, x_0), from [`posterior`].
#[derive(Clone, Debug)]
pub struct Posterior {
    /// μ̃_t, with the shape of the images.
    pub mean: Tensor,
    /// β̃_t = (1−ᾱ_{t−1})/(1−ᾱ_t) β_t, one for each image; 0 at t = 0.
    pub variance: Vec<f64>,
}

/// The posterior q(x_{t−1} | x_t, x_0): one step back, given the clean image
/// ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), equations 6 and 7).
///
/// μ̃ = √ᾱ_{t−1} β_t/(1−ᾱ_t) x_0 + √α_t (1−ᾱ_{t−1})/(1−ᾱ_t) x_t. At t = 0 the mean is x_0 and the variance 0.
///
/// # Shapes
/// `x0` and `xt` (B, C, H, W), or any rank with B first; `t` B entries in 0 … T−1.
///
/// # Errors
/// See [`q_sample`].
pub fn posterior(schedule: &Schedule, x0: &Tensor, xt: &Tensor, t: &[usize]) -> Result<Posterior> {
    let levels = levels("posterior", schedule, ("x0", x0), t)?;
    let step = |(level, t): (Level, &usize)| -> level::Posterior {
        level.posterior(Level::from_alpha_bar(schedule.alpha_bar_before(*t)))
    };
    let steps: Vec<_> = levels.into_iter().zip(t).map(step).collect();
    let mean = combine("posterior", ("x0", x0), ("xt", xt), &steps, |p| (p.of_x0, p.of_xt))?;
    Ok(Posterior { mean, variance: steps.iter().map(|p| p.variance).collect() })
}

fn levels(op: &str, schedule: &Schedule, images: (&str, &Tensor), t: &[usize]) -> Result<Vec<Level>> {
    check_batch(op, "t", t.len(), images)?;
    schedule.levels(t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use candle_core::{DType, Device};

    const T: [usize; 5] = [0, 1, 250, 700, 999];

    fn batch(rng: &mut Rng) -> Result<Tensor> {
        rng.randn((5, 3, 4, 4), &Device::Cpu)?.to_dtype(DType::F64)
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> Result<f64> {
        (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()
    }

    #[test]
    fn q_sample_is_equation_4_image_by_image() -> Result<()> {
        let (s, mut rng) = (Schedule::linear(1000)?, Rng::new(1));
        let (x0, eps) = (batch(&mut rng)?, batch(&mut rng)?);
        let xt = q_sample(&s, &x0, &T, &eps)?;
        for (i, t) in T.into_iter().enumerate() {
            let want = (x0.get(i)?.affine(s.alpha_bar(t).sqrt(), 0.0)?
                + eps.get(i)?.affine((1.0 - s.alpha_bar(t)).sqrt(), 0.0)?)?;
            assert!(largest_difference(&xt.get(i)?, &want)? < 1e-15);
        }
        Ok(())
    }

    /// Bayes' rule for Gaussians, from q(x_t | x_{t−1}) and q(x_{t−1} | x_0), without the paper's closed form.
    #[test]
    fn the_posterior_is_bayes_rule() -> Result<()> {
        let (s, mut rng) = (Schedule::cosine(1000)?, Rng::new(3));
        let (x0, xt) = (batch(&mut rng)?, batch(&mut rng)?);
        let p = posterior(&s, &x0, &xt, &T)?;
        for (i, t) in T.into_iter().enumerate().skip(1) {
            let (beta, before) = (s.beta(t), s.alpha_bar(t - 1));
            let precision = (1.0 - beta) / beta + 1.0 / (1.0 - before);
            assert!((p.variance[i] * precision - 1.0).abs() < 1e-9, "t = {t}");
            let want = ((xt.get(i)? * ((1.0 - beta).sqrt() / beta / precision))?
                + (x0.get(i)? * (before.sqrt() / (1.0 - before) / precision))?)?;
            assert!(largest_difference(&p.mean.get(i)?, &want)? < 1e-9, "t = {t}");
        }
        assert_eq!(p.variance[0], 0.0);
        assert!(largest_difference(&p.mean.get(0)?, &x0.get(0)?)? < 1e-12, "the last step ends at x0");
        Ok(())
    }

    /// A thousand single steps give the same distribution as the closed form.
    #[test]
    fn single_steps_add_up_to_the_closed_form() -> Result<()> {
        let (s, mut rng) = (Schedule::linear(1000)?, Rng::new(4));
        let x0 = Tensor::full(0.7, (1, 1, 100, 100), &Device::Cpu)?;
        let mut x = x0.clone();
        for t in 0..400 {
            let eps = rng.randn_like(&x)?;
            x = ((x * (1.0 - s.beta(t)).sqrt())? + (eps * s.beta(t).sqrt())?)?;
        }
        let mean = x.mean_all()?.to_scalar::<f64>()?;
        let variance = (x - mean)?.sqr()?.mean_all()?.to_scalar::<f64>()?;
        assert!((mean - 0.7 * s.alpha_bar(399).sqrt()).abs() < 0.04, "{mean}");
        assert!((variance - (1.0 - s.alpha_bar(399))).abs() < 0.04, "{variance}");
        Ok(())
    }

    #[test]
    fn errors_name_the_wrong_argument() -> Result<()> {
        let (s, mut rng) = (Schedule::linear(10)?, Rng::new(5));
        let x = rng.randn((2, 1, 4, 4), &Device::Cpu)?;
        let wide = rng.randn((2, 1, 4, 5), &Device::Cpu)?;
        let fail = |r: Result<Tensor>| r.unwrap_err().to_string();
        for (message, wants) in [
            (
                fail(q_sample(&s, &x, &[1], &x)),
                "q_sample: t has 1 entries, but x0 of shape [2, 1, 4, 4] holds 2 images",
            ),
            (fail(q_sample(&s, &x, &[1, 10], &x)), "t[1] = 10 is out of range; the schedule has the steps 0 … 9"),
            (fail(q_sample(&s, &x, &[1, 2], &wide)), "x0 has shape [2, 1, 4, 4] and eps [2, 1, 4, 5]"),
            (posterior(&s, &x, &wide, &[1, 2]).unwrap_err().to_string(), "posterior: x0"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
