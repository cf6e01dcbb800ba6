//! From noise to images: the reverse process, step by step.
//!
//! A step goes from x_t to x_s, s < t, by one formula ([Song et al. 2021](https://arxiv.org/abs/2010.02502), equation 12):
//!
//! x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s−σ²) ε̂ + σ z, with σ = η √((1−ᾱ_s)/(1−ᾱ_t)) √(1−ᾱ_t/ᾱ_s) and z ~ N(0, I).
//!
//! η = 0 is DDIM, which draws no noise, η = 1 the original's DDPM with variance β̃. The last step goes to ᾱ = 1, the clean
//! image.

use crate::diffusion::Param;
use crate::rng::Rng;
use crate::schedule::Schedule;
use candle_core::{Result, Tensor, bail};

/// How to go from noise to images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// How many steps, 1 … T. They are spread equally over the time steps and begin at the last (*trailing*).
    pub steps: usize,
    /// η in \[0, 1\]: 0 is DDIM, 1 DDPM.
    pub eta: f64,
    /// Whether x̂_0 is kept within \[−1, 1\], where images are, and ε̂ computed anew from that.
    pub clip: bool,
}

impl Default for Sampler {
    /// DDIM in 50 steps, with clipping.
    fn default() -> Self {
        Self {
            steps: 50,
            eta: 0.0,
            clip: true,
        }
    }
}

impl Sampler {
    /// The images that the reverse process makes of the noise `xt`.
    ///
    /// `predict` answers to a batch at a time step of each image, in the sense of `param`; noise for η > 0 is drawn from
    /// `rng`. Nothing is kept of one step in the next but the images.
    ///
    /// # Shapes
    /// `xt` (B, C, H, W), standard normal; the result is as `xt`, nominally in \[−1, 1\].
    ///
    /// # Errors
    /// `steps` is not in 1 … T or `eta` not in \[0, 1\], or `predict` fails.
    ///
    /// ```
    /// use diffusion_core::{candle::Device, diffusion::Param, rng::Rng, sampler::Sampler, schedule::Schedule};
    /// // Where all images are 0, the best answer is ε̂ = x_t/√(1−ᾱ_t), and sampling finds the image.
    /// let (schedule, mut rng) = (Schedule::linear(1000)?, Rng::new(0));
    /// let xt = rng.randn((2, 1, 4, 4), &Device::Cpu)?;
    /// let best = |xt: &_, t: &[usize]| -> diffusion_core::candle::Result<_> {
    ///     xt / (1.0 - schedule.alpha_bar(t[0])).sqrt()
    /// };
    /// let x0 = Sampler::default().sample(best, &schedule, Param::Eps, &xt, &mut rng)?;
    /// assert!(x0.abs()?.max_all()?.to_scalar::<f32>()? < 1e-4);
    /// # Ok::<(), diffusion_core::candle::Error>(())
    /// ```
    pub fn sample(
        &self,
        mut predict: impl FnMut(&Tensor, &[usize]) -> Result<Tensor>,
        schedule: &Schedule,
        param: Param,
        xt: &Tensor,
        rng: &mut Rng,
    ) -> Result<Tensor> {
        let visited = self.visited(schedule)?;
        let mut x = xt.detach();
        for (i, &t) in visited.iter().enumerate() {
            let times = vec![t; x.dim(0)?];
            let answer = predict(&x, &times)?.detach();
            let mut x0 = param.x0(schedule, &x, &times, &answer)?;
            let eps = if self.clip {
                x0 = x0.clamp(-1f64, 1f64)?;
                Param::X0.eps(schedule, &x, &times, &x0)?
            } else {
                param.eps(schedule, &x, &times, &answer)?
            };
            let (now, next) = (
                schedule.alpha_bar(t),
                visited.get(i + 1).map_or(1.0, |s| schedule.alpha_bar(*s)),
            );
            let sigma = self.eta * ((1.0 - next) / (1.0 - now) * (1.0 - now / next)).sqrt();
            let rest = (1.0 - next - sigma * sigma).max(0.0).sqrt();
            x = ((x0 * next.sqrt())? + (eps * rest)?)?;
            if sigma > 0.0 {
                x = (&x + (rng.randn_like(&x)? * sigma)?)?;
            }
            x = x.detach();
        }
        Ok(x)
    }

    /// The time steps in the order in which they are visited, from T−1 down.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn visited(&self, schedule: &Schedule) -> Result<Vec<usize>> {
        let (n, steps) = (self.steps, schedule.steps());
        if !(1..=steps).contains(&n) {
            bail!("sampler: steps = {n} must be in 1 … {steps}, the time steps of the schedule")
        }
        if !(0.0..=1.0).contains(&self.eta) {
            bail!("sampler: eta = {} must be in [0, 1]", self.eta)
        }
        // Whole numbers, so that rounding cannot visit a step twice.
        Ok((0..n).map(|i| (n - i) * steps / n - 1).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_steps_begin_at_the_last_and_are_equally_spaced() -> Result<()> {
        let schedule = Schedule::linear(1000)?;
        let visited = |steps| {
            let sampler = Sampler {
                steps,
                ..Default::default()
            };
            sampler.visited(&schedule)
        };
        assert_eq!(visited(4)?, [999, 749, 499, 249]);
        assert_eq!(visited(3)?, [999, 665, 332]);
        assert_eq!(visited(1000)?, (0..1000).rev().collect::<Vec<_>>());
        for steps in [0, 1001] {
            let message = visited(steps).unwrap_err().to_string();
            assert!(
                message.contains(&format!("steps = {steps} must be in 1 … 1000")),
                "{message}"
            );
        }
        Ok(())
    }

    /// Data that is N(0, s²) in every pixel has the best answer in closed form; sampling must give that variance back.
    #[test]
    fn gaussian_data_comes_out_with_its_variance() -> Result<()> {
        let (schedule, s2) = (Schedule::linear(1000)?, 0.25);
        let mut rng = Rng::new(3);
        let noise = rng.randn((1, 1, 100, 100), &Device::Cpu)?;
        let best = |xt: &Tensor, t: &[usize]| {
            let a = schedule.alpha_bar(t[0]);
            xt * ((1.0 - a).sqrt() / (a * s2 + 1.0 - a))
        };
        for eta in [0.0, 0.5, 1.0] {
            let sampler = Sampler {
                steps: 1000,
                eta,
                clip: false,
            };
            let x = sampler.sample(best, &schedule, Param::Eps, &noise, &mut rng)?;
            let variance = f64::from(x.sqr()?.mean_all()?.to_scalar::<f32>()?);
            assert!(
                (variance / s2 - 1.0).abs() < 0.05,
                "eta = {eta}: {variance}"
            );
        }
        Ok(())
    }

    #[test]
    fn ddim_draws_no_noise_and_ddpm_does() -> Result<()> {
        let schedule = Schedule::cosine(100)?;
        let noise = Rng::new(3).randn((1, 1, 2, 2), &Device::Cpu)?;
        for (eta, draws) in [(0.0, false), (1.0, true)] {
            let mut rng = Rng::new(4);
            let sampler = Sampler {
                steps: 10,
                eta,
                clip: true,
            };
            sampler.sample(
                |x, _| Ok(x.clone()),
                &schedule,
                Param::Eps,
                &noise,
                &mut rng,
            )?;
            assert_eq!(rng != Rng::new(4), draws);
        }
        Ok(())
    }
}
