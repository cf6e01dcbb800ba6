//! The loop of the reverse process, as an iterator.

use super::{Noise, Sampler, Solver, Threshold, Variance};
use crate::device::{out_of_memory, too_little};
use crate::diffusion::Param;
use crate::schedule::Schedule;
use candle_core::{Error, Result, Tensor};

/// One step of the reverse process: where it was, what the network took it for, and where it went.
///
/// # Shapes
/// All tensors are as the noise that sampling began with.
#[derive(Clone, Debug)]
pub struct State {
    /// How many steps were done before.
    pub index: usize,
    /// The time step t.
    pub t: usize,
    /// The time step s that it went to; `None` for the clean image.
    pub s: Option<usize>,
    /// x_t.
    pub xt: Tensor,
    /// x̂_0, the clean image as the network sees it in x_t, after the [`Threshold`](super::Threshold).
    pub x0_hat: Tensor,
    /// ε̂, the noise that is then in x_t.
    pub eps_hat: Tensor,
    /// x_s; after the last step the image.
    pub xs: Tensor,
}

impl State {
    /// Of `len` images from image `start` on.
    ///
    /// # Errors
    /// There are fewer.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        let part = |x: &Tensor| x.narrow(0, start, len);
        Ok(Self {
            xt: part(&self.xt)?,
            x0_hat: part(&self.x0_hat)?,
            eps_hat: part(&self.eps_hat)?,
            xs: part(&self.xs)?,
            ..*self
        })
    }
}

/// Which of the states to show of a sampler's: `n` such that as much moves from each to the next. `moves` says how far
/// something, x̂_0 mostly, moves from each state to the following one. The first is always among them and the last, if anything
/// moves; where one move is larger than the share of a frame there are fewer.
///
/// ```
/// use diffusion_core::sampler::key_frames;
/// // Nearly all happens between the third state and the fourth, and from there to the fifth.
/// assert_eq!(key_frames(&[0.1, 0.1, 2.0, 1.8, 0.0, 0.0], 3), [0, 3, 4]);
/// ```
pub fn key_frames(moves: &[f64], n: usize) -> Vec<usize> {
    let whole: f64 = moves.iter().sum();
    let (mut picks, mut gone) = (vec![0], 0.0);
    for (i, by) in moves.iter().enumerate() {
        gone += by;
        let wanted = whole * picks.len() as f64 / n.saturating_sub(1).max(1) as f64;
        if whole > 0.0 && picks.len() < n && gone >= wanted * (1.0 - 1e-9) {
            picks.push(i + 1);
        }
    }
    picks
}

/// The states of a reverse process: [`Sampler::states`](super::Sampler::states).
///
/// Each step is computed when it is asked for. None keeps a graph for gradients.
pub struct States<'a, P, N> {
    solver: Solver,
    threshold: Threshold,
    predict: P,
    schedule: Schedule,
    param: Param,
    noise: &'a mut N,
    /// The time steps at which the network is asked, in turn.
    path: Vec<usize>,
    /// Where the last step goes: to a time step, or to the clean image.
    end: Option<usize>,
    index: usize,
    x: Tensor,
    /// ᾱ of `x`.
    level: f64,
    /// x̂_0 of the step before, and its time step.
    before: Option<(Tensor, usize)>,
}

/// What the network says to some x_t.
struct Estimate {
    x0: Tensor,
    eps: Tensor,
}

impl<'a, P, N> States<'a, P, N>
where
    P: FnMut(&Tensor, &[usize]) -> Result<Tensor>,
    N: Noise,
{
    #[expect(clippy::too_many_arguments, reason = "private; all are the loop's own")]
    pub(super) fn new(
        sampler: &Sampler,
        predict: P,
        schedule: &Schedule,
        param: Param,
        noise: &'a mut N,
        path: Vec<usize>,
        end: Option<usize>,
        x: &Tensor,
    ) -> Self {
        let level = path.first().map_or(1.0, |t| schedule.alpha_bar(*t));
        Self {
            solver: sampler.solver,
            threshold: sampler.threshold,
            predict,
            schedule: schedule.clone(),
            param,
            noise,
            path,
            end,
            index: 0,
            x: x.detach(),
            level,
            before: None,
        }
    }

    /// The steps from here on.
    ///
    /// # Errors
    /// The first error of a step.
    pub fn finish(mut self) -> Result<Tensor> {
        for state in &mut self {
            state?;
        }
        Ok(self.x)
    }

    /// Goes to the end and keeps the first state, every `k`-th after it, and the last; `k` = 0 keeps the last alone.
    ///
    /// # Errors
    /// The first error of a step.
    pub fn every(mut self, k: usize) -> Result<Vec<State>> {
        let last = self.path.len() - 1;
        let wanted = |i: usize| i == last || i.checked_rem(k) == Some(0);
        let mut kept = Vec::new();
        for state in &mut self {
            let state = state?;
            if wanted(state.index) {
                kept.push(state);
            }
        }
        Ok(kept)
    }

    /// Puts other images in the place of the last step's result: what comes next goes on from them.
    ///
    /// # Errors
    /// They are not of the shape of the others.
    pub fn replace(&mut self, xs: &Tensor) -> Result<()> {
        if xs.dims() != self.x.dims() {
            candle_core::bail!(
                "sampler: images of shape {:?} cannot take the place of {:?}",
                xs.dims(),
                self.x.dims()
            )
        }
        self.x = xs.detach();
        Ok(())
    }

    /// Takes the last `k` steps back: adds the noise to their result that they took away, from q(x_t given x_s) = N(√(ᾱ_t/ᾱ_s)
    /// x_s, 1−ᾱ_t/ᾱ_s), and goes on from where they began. They will come out differently; that is how
    /// [RePaint](https://arxiv.org/abs/2201.09865) (section 4.2) makes parts of an image fit together.
    ///
    /// # Errors
    /// Fewer than `k` steps were done.
    pub fn back(&mut self, k: usize) -> Result<()> {
        if k > self.index {
            candle_core::bail!("sampler: {k} steps back, but {} were done", self.index)
        }
        let to = self.index - k;
        let Some(t) = self.path.get(to) else {
            return Ok(());
        };
        let there = self.schedule.alpha_bar(*t);
        let share = (there / self.level).min(1.0);
        let z = self.noise.like(&self.x)?;
        self.x = ((&self.x * share.sqrt())? + (z * (1.0 - share).sqrt())?)?;
        (self.index, self.level, self.before) = (to, there, None);
        Ok(())
    }

    /// The time steps at which the network is asked, in turn.
    pub fn path(&self) -> &[usize] {
        &self.path
    }

    fn step(&mut self, t: usize) -> Result<State> {
        let s = self.path.get(self.index + 1).copied().or(self.end);
        let xt = self.x.clone();
        let Estimate { x0, eps } = self.estimate(&xt, t)?;
        let (alpha_bar, next) = (self.alpha_bar(Some(t)), self.alpha_bar(s));
        // 0 on the way back to noise, where ᾱ falls.
        let share = (1.0 - alpha_bar / next).max(0.0);
        let sigma = ((1.0 - next) / (1.0 - alpha_bar) * share).sqrt();
        let xs = match (self.solver, s) {
            (Solver::Ddim { eta }, _) => self.go(&x0, &eps, next, eta * sigma, eta * sigma)?,
            (Solver::Ddpm { variance }, s) => {
                let drawn = match variance {
                    Variance::Posterior => sigma,
                    Variance::Beta if s.is_none() => 0.0,
                    Variance::Beta => share.sqrt(),
                };
                self.go(&x0, &eps, next, sigma, drawn)?
            }
            (Solver::Heun, Some(s)) => {
                let trial = self.go(&x0, &eps, next, 0.0, 0.0)?;
                let there = self.estimate(&trial, s)?.x0;
                let mean = ((&x0 + there)? * 0.5)?;
                let eps = self.eps(&xt, t, &mean)?;
                self.go(&mean, &eps, next, 0.0, 0.0)?
            }
            (Solver::DpmSolver, Some(_)) if self.before.is_some() => {
                let line = self.prolonged(&x0, t, next)?;
                let eps = self.eps(&xt, t, &line)?;
                self.go(&line, &eps, next, 0.0, 0.0)?
            }
            (Solver::Heun | Solver::DpmSolver, _) => self.go(&x0, &eps, next, 0.0, 0.0)?,
        };
        if self.solver == Solver::DpmSolver {
            self.before = Some((x0.clone(), t));
        }
        (self.x, self.level) = (xs.detach(), next);
        Ok(State {
            index: self.index,
            t,
            s,
            xt,
            x0_hat: x0,
            eps_hat: eps,
            xs: self.x.clone(),
        })
    }

    /// √ᾱ_s x̂_0 + √(1−ᾱ_s−σ²) ε̂ + σ' z, where σ' = σ but for the original's variance.
    fn go(
        &mut self,
        x0: &Tensor,
        eps: &Tensor,
        next: f64,
        sigma: f64,
        drawn: f64,
    ) -> Result<Tensor> {
        let rest = (1.0 - next - sigma * sigma).max(0.0).sqrt();
        let xs = ((x0 * next.sqrt())? + (eps * rest)?)?;
        if drawn > 0.0 {
            let z = self.noise.like(&xs)?;
            return xs + (z * drawn)?;
        }
        Ok(xs)
    }

    fn estimate(&mut self, x: &Tensor, t: usize) -> Result<Estimate> {
        let times = vec![t; x.dim(0)?];
        let answer = (self.predict)(x, &times)?.detach();
        let x0 = self.param.x0(&self.schedule, x, &times, &answer)?;
        Ok(match self.threshold.apply(&x0)? {
            Some(x0) => Estimate {
                eps: self.eps(x, t, &x0)?,
                x0,
            },
            None => Estimate {
                x0,
                eps: self.param.eps(&self.schedule, x, &times, &answer)?,
            },
        })
    }

    /// ε̂ where x̂_0 is given.
    fn eps(&self, x: &Tensor, t: usize, x0: &Tensor) -> Result<Tensor> {
        Param::X0.eps(&self.schedule, x, &vec![t; x.dim(0)?], x0)
    }

    /// x̂_0 in the middle of the next interval of λ, on the line through the last two answers.
    fn prolonged(&self, x0: &Tensor, t: usize, next: f64) -> Result<Tensor> {
        let Some((x0_before, t_before)) = &self.before else {
            return Ok(x0.clone());
        };
        let lambda = |alpha_bar: f64| 0.5 * (alpha_bar / (1.0 - alpha_bar)).ln();
        let now = lambda(self.alpha_bar(Some(t)));
        let r = (now - lambda(self.alpha_bar(Some(*t_before)))) / (lambda(next) - now);
        (x0 * (1.0 + 0.5 / r))? - (x0_before * (0.5 / r))?
    }

    fn alpha_bar(&self, t: Option<usize>) -> f64 {
        t.map_or(1.0, |t| self.schedule.alpha_bar(t))
    }

    /// What can be done about it, if the device's memory is full.
    fn explained(&self, error: Error) -> Error {
        let Some(name) = out_of_memory(&error) else {
            return error;
        };
        let n = self.x.dims().first().copied().unwrap_or(1);
        let wanted = format!("a batch of {n} images");
        let advice = match n {
            0 | 1 => "a smaller network or smaller images might fit".to_owned(),
            _ => format!(
                "draw fewer images at a time, {} say: --batch on the command line, at_once of Model::sample_in_batches",
                n / 2
            ),
        };
        Error::Msg(format!("sampler: {}", too_little(name, &wanted, &advice)))
    }
}

impl<P, N> Iterator for States<'_, P, N>
where
    P: FnMut(&Tensor, &[usize]) -> Result<Tensor>,
    N: Noise,
{
    type Item = Result<State>;

    /// The next step; nothing after an error.
    fn next(&mut self) -> Option<Result<State>> {
        let t = *self.path.get(self.index)?;
        let state = self.step(t).map_err(|e| self.explained(e));
        self.index = match state {
            Ok(_) => self.index + 1,
            Err(_) => self.path.len(),
        };
        Some(state)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.path.len() - self.index;
        (left, Some(left))
    }
}

impl<P, N> ExactSizeIterator for States<'_, P, N>
where
    P: FnMut(&Tensor, &[usize]) -> Result<Tensor>,
    N: Noise,
{
}
