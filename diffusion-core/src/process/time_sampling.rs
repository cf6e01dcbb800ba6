//! How training draws the times of a batch.

use super::NoiseProcess;
use crate::rng::Rng;
use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

/// The distribution of the times in a training batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum TimeSampling {
    /// Independent and uniform: over the time steps, over u before flow's shift, or over EDM's ρ-spaced grid.
    #[default]
    Uniform,
    /// Stratified: one uniform draw in each of B equal parts of the range, in random order. The loss varies less
    /// between batches
    /// ([Kingma et al. 2021](https://arxiv.org/abs/2107.00630), appendix I.1).
    Stratified,
    /// Logit-normal: ln(noise/signal) ~ N(`mean`, `std`²), which draws intermediate noise levels most often.
    ///
    /// For flow this is the logit-normal t of Stable Diffusion 3
    /// ([Esser et al. 2024](https://arxiv.org/abs/2403.03206), equation 19), before the shift; for EDM the log-normal σ
    /// of [Karras et al. 2022](https://arxiv.org/abs/2206.00364) (mean −1.2, std 1.2), clipped to the range of σ. The
    /// discrete process takes the time step with the nearest level.
    LogitNormal {
        /// The mean of ln(noise/signal); 0 by default.
        #[serde(default)]
        mean: f64,
        /// Its standard deviation, positive; 1 by default.
        #[serde(default = "one")]
        std: f64,
    },
}

fn one() -> f64 {
    1.0
}

impl TimeSampling {
    /// Checks that every field is in its range.
    ///
    /// # Errors
    /// A field is out of range: the message names it and its value.
    pub fn check(self) -> Result<()> {
        let Self::LogitNormal { mean, std } = self else {
            return Ok(());
        };
        if !mean.is_finite() {
            bail!("time sampling: mean = {mean} must be a number, the mean of ln(noise/signal)")
        }
        if !(std > 0.0 && std.is_finite()) {
            bail!("time sampling: std = {std} must be positive, the standard deviation of ln(noise/signal)")
        }
        Ok(())
    }
}

impl NoiseProcess {
    /// Draws `n` times for a training batch.
    ///
    /// # Errors
    /// A field of the process or of `sampling` is out of range.
    ///
    /// ```
    /// use diffusion_core::{process::{NoiseProcess, TimeSampling}, rng::Rng};
    /// let t = NoiseProcess::flow().draw(4, TimeSampling::Stratified, &mut Rng::new(1))?;
    /// assert!(t.iter().all(|t| *t > 0.0 && *t <= 1.0));
    /// # Ok::<(), diffusion_core::candle::Error>(())
    /// ```
    pub fn draw(&self, n: usize, sampling: TimeSampling, rng: &mut Rng) -> Result<Vec<f64>> {
        self.check()?;
        sampling.check()?;
        Ok(match (self, sampling) {
            (Self::Vp(schedule), TimeSampling::Uniform) => {
                let t = rng.timesteps(n, schedule.timesteps())?;
                t.into_iter().map(|t| t as f64).collect()
            }
            // 1 − u, so that every image has some noise.
            (_, TimeSampling::Uniform) => (0..n).map(|_| self.quantile(1.0 - rng.uniform())).collect(),
            (_, TimeSampling::Stratified) => {
                let offset = rng.uniform();
                let order = rng.permutation(n);
                let u = order.into_iter().map(|i| (i as f64 + offset) / n as f64);
                match self {
                    Self::Vp(schedule) => {
                        let all = schedule.timesteps();
                        u.map(|u| ((u * all as f64) as usize).min(all - 1) as f64).collect()
                    }
                    _ => u.map(|u| self.quantile(1.0 - u)).collect(),
                }
            }
            (_, TimeSampling::LogitNormal { mean, std }) => {
                let mut time = || self.time_at(mean + std * rng.normal());
                match self {
                    // Before the shift.
                    Self::Flow { .. } => (0..n).map(|_| self.quantile(time().max(1e-9))).collect(),
                    _ => (0..n).map(|_| time()).collect(),
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;

    fn mean_and_std(x: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
        let n = x.clone().count() as f64;
        let mean = x.clone().sum::<f64>() / n;
        (mean, (x.map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    fn processes() -> [NoiseProcess; 3] {
        [NoiseProcess::default(), NoiseProcess::flow(), NoiseProcess::edm()]
    }

    #[test]
    fn stratified_draws_have_one_in_each_part_and_are_uniform() -> Result<()> {
        let (mut rng, ten) = (Rng::new(1), NoiseProcess::from(Schedule::linear(10)?));
        let mut counts = [0; 10];
        for _ in 0..2000 {
            let mut t = ten.draw(5, TimeSampling::Stratified, &mut rng)?;
            t.iter().for_each(|t| counts[*t as usize] += 1);
            t.sort_unstable_by(f64::total_cmp);
            assert!(t.iter().enumerate().all(|(i, t)| (*t / 2.0) as usize == i), "{t:?}");
        }
        assert!(counts.iter().all(|n| (900..1100).contains(n)), "{counts:?}");
        let mut t = NoiseProcess::flow().draw(5, TimeSampling::Stratified, &mut rng)?;
        t.sort_unstable_by(f64::total_cmp);
        assert!(t.iter().enumerate().all(|(i, t)| (*t * 5.0).ceil() as usize == i + 1), "{t:?}");
        Ok(())
    }

    /// Pinned values: a change here changes every training run on the discrete process.
    #[test]
    fn draws_of_the_discrete_process_are_unchanged() -> Result<()> {
        let process = NoiseProcess::default();
        let draw = |sampling| process.draw(5, sampling, &mut Rng::new(3));
        let uniform: Vec<f64> = Rng::new(3).timesteps(5, 1000)?.iter().map(|t| *t as f64).collect();
        assert_eq!(draw(TimeSampling::Uniform)?, uniform);
        assert_eq!(draw(TimeSampling::Stratified)?, [524.0, 724.0, 924.0, 324.0, 124.0]);
        Ok(())
    }

    #[test]
    fn uniform_draws_fill_the_range() -> Result<()> {
        for process in processes() {
            let t = process.draw(20_000, TimeSampling::Uniform, &mut Rng::new(4))?;
            // The position of each between cleanest and noisiest.
            let u = t.iter().map(|t| match process {
                NoiseProcess::Vp(_) => t / 999.0,
                NoiseProcess::Flow { .. } => *t,
                NoiseProcess::Edm { sigma_min, sigma_max, rho } => {
                    let root = |s: f64| s.powf(1.0 / rho);
                    (root(*t) - root(sigma_min)) / (root(sigma_max) - root(sigma_min))
                }
            });
            let (mean, std) = mean_and_std(u.clone());
            assert!((mean - 0.5).abs() < 0.01 && (std - 1.0 / 12f64.sqrt()).abs() < 0.01, "{mean} {std}");
            assert!(u.clone().fold(1.0, f64::min) < 0.002 && u.fold(0.0, f64::max) > 0.998);
            process.levels(&t)?;
        }
        let shifted = NoiseProcess::Flow { shift: 3.0 };
        let t = shifted.draw(20_000, TimeSampling::Uniform, &mut Rng::new(4))?;
        let (mean, _) = mean_and_std(t.iter().map(|t| t / (3.0 - 2.0 * t)));
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        Ok(())
    }

    /// ln(noise/signal) has the requested mean and deviation, on every process.
    #[test]
    fn logit_normal_draws_are_normal_in_the_log_ratio() -> Result<()> {
        let sampling = TimeSampling::LogitNormal { mean: -0.4, std: 0.8 };
        for process in processes() {
            let t = process.draw(20_000, sampling, &mut Rng::new(5))?;
            let levels = process.levels(&t)?;
            let (mean, std) = mean_and_std(levels.iter().map(|l| -l.lambda()));
            assert!((mean + 0.4).abs() < 0.02 && (std - 0.8).abs() < 0.02, "{process:?}: {mean} {std}");
        }
        let ends = TimeSampling::LogitNormal { mean: 0.0, std: 1e3 };
        for process in processes() {
            process.levels(&process.draw(100, ends, &mut Rng::new(6))?)?;
        }
        Ok(())
    }

    #[test]
    fn errors_name_the_bad_value() {
        for (mean, std, wants) in
            [(f64::NAN, 1.0, "mean = NaN"), (0.0, 0.0, "std = 0"), (0.0, f64::INFINITY, "std = inf")]
        {
            let sampling = TimeSampling::LogitNormal { mean, std };
            let message = NoiseProcess::flow().draw(1, sampling, &mut Rng::new(0)).unwrap_err().to_string();
            assert!(message.contains(wants), "{message}");
        }
        let named: TimeSampling = crate::choice::parse_choice("logit-normal").expect("a name");
        assert_eq!(named, TimeSampling::LogitNormal { mean: 0.0, std: 1.0 });
    }
}
