//! The loop of the reverse process, as an iterator.

use super::{Noise, Sampler, Solver, Source, Threshold, Variance};
use crate::device::{out_of_memory, too_little};
use crate::level::Level;
use crate::prediction::Prediction;
use candle_core::{DType, Error, Result, Tensor, bail};

/// One step of the reverse process: its start, the prediction there, and its end.
///
/// # Shapes
/// All tensors have the shape of the noise that sampling started from.
#[derive(Clone, Debug)]
pub struct State {
    /// The index of the step, from 0.
    pub index: usize,
    /// The time t at the start of the step.
    pub t: f64,
    /// The time s at the end of the step; `None` for the clean image.
    pub s: Option<f64>,
    /// The noise level of `xt`.
    pub level: Level,
    /// The noise level of `xs`.
    pub next_level: Level,
    /// x_t, the noisy images at the start of the step.
    pub xt: Tensor,
    /// x̂_0, the predicted clean image, after the [`Threshold`].
    pub x0_hat: Tensor,
    /// ε̂, the predicted noise, x_t = signal·x̂_0 + noise·ε̂.
    pub eps_hat: Tensor,
    /// x_s, the images at the end of the step; the result after the last step.
    pub xs: Tensor,
}

impl State {
    /// The part of the state that belongs to `len` images from index `start` on.
    ///
    /// # Errors
    /// There are fewer images.
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

/// Chooses `n` states of a trajectory with about the same change between each and the next.
///
/// `moves[i]` is the distance by which something, usually x̂_0, moves from state i to state i+1. The first state is
/// always chosen, and the last if anything moves. If one move exceeds 1/(n−1) of the sum, fewer states are chosen.
///
/// ```
/// use diffusion_core::sampler::key_frames;
/// // Nearly all change happens between the third and the fifth state.
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

/// A time with its level.
type Point = (f64, Level);

/// An iterator over the steps of a reverse process, from [`Sampler::states`].
///
/// Each step is computed when the iterator is advanced. The states keep no graph for gradients.
pub struct States<'a, P, N> {
    solver: Solver,
    threshold: Threshold,
    predict: P,
    prediction: Prediction,
    noise: Source<'a, N>,
    /// The times at which the network is evaluated, in order.
    path: Vec<f64>,
    /// Their levels.
    levels: Vec<Level>,
    /// The time at the end of the last step; `None` for the clean image.
    end: Option<Point>,
    index: usize,
    x: Tensor,
    /// The level of `x`.
    level: Level,
    /// x̂_0 of the previous step, and its level.
    before: Option<(Tensor, Level)>,
    /// The index of the first step that is not checked yet, and Σ x_s for each step since: not finite if any number is
    /// not.
    sums: (usize, Vec<Tensor>),
}

/// A prediction as a clean image and noise.
struct Estimate {
    x0: Tensor,
    eps: Tensor,
}

/// The noise of a step: σ in the formula of the mean, and the factor of z.
#[derive(Clone, Copy)]
struct Sigma {
    sigma: f64,
    drawn: f64,
}

impl Sigma {
    const ZERO: Self = Self { sigma: 0.0, drawn: 0.0 };
}

/// The path of a trajectory, for [`States::new`].
pub(super) struct Path {
    pub(super) times: Vec<f64>,
    pub(super) levels: Vec<Level>,
    pub(super) end: Option<Point>,
}

impl<'a, P, N> States<'a, P, N>
where
    P: FnMut(&Tensor, &[f64]) -> Result<Tensor>,
    N: Noise,
{
    pub(super) fn new(
        sampler: &Sampler,
        predict: P,
        prediction: Prediction,
        noise: Source<'a, N>,
        path: Path,
        x: &Tensor,
    ) -> Self {
        Self {
            solver: sampler.solver,
            threshold: sampler.threshold.resolved(x),
            predict,
            prediction,
            noise,
            path: path.times,
            level: path.levels.first().copied().unwrap_or(Level::CLEAN),
            levels: path.levels,
            end: path.end,
            index: 0,
            x: x.detach(),
            before: None,
            sums: (0, Vec::new()),
        }
    }

    /// Takes all remaining steps and returns the images.
    ///
    /// # Errors
    /// The first error of a step.
    pub fn finish(mut self) -> Result<Tensor> {
        for state in &mut self {
            state?;
        }
        Ok(self.x)
    }

    /// Takes all remaining steps and keeps the first state, every `k`-th state after it, and the last; `k` = 0 keeps
    /// only the last.
    ///
    /// # Errors
    /// The first error of a step.
    pub fn every(mut self, k: usize) -> Result<Vec<State>> {
        let last = self.path.len().saturating_sub(1);
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

    /// Replaces the result of the last step; the next step starts from `xs`.
    ///
    /// # Errors
    /// `xs` does not have the shape of the trajectory's images.
    pub fn replace(&mut self, xs: &Tensor) -> Result<()> {
        if xs.dims() != self.x.dims() {
            bail!("sampler: images of shape {:?} cannot replace those of shape {:?}", xs.dims(), self.x.dims())
        }
        self.x = xs.detach();
        Ok(())
    }

    /// Goes back `k` steps by adding noise to the current images, x_t ~ q(x_t | x_s) = N(signal_t/signal_s x_s,
    /// σ²(t|s)). Sampling continues from there.
    ///
    /// This is *resampling* as in [RePaint](https://arxiv.org/abs/2201.09865) (section 4.2), which makes the parts of
    /// an inpainted image consistent.
    ///
    /// # Errors
    /// Fewer than `k` steps have been taken.
    pub fn back(&mut self, k: usize) -> Result<()> {
        if k > self.index {
            bail!("sampler: cannot go {k} steps back, since only {} were taken", self.index)
        }
        let to = self.index - k;
        let Some(there) = self.levels.get(to).copied().filter(|_| k > 0) else {
            return Ok(());
        };
        let z = self.noise.like(&self.x)?;
        let deviation = there.transition_variance(self.level).sqrt();
        self.x = ((&self.x * there.transition_signal(self.level))? + (z * deviation)?)?;
        (self.index, self.level, self.before) = (to, there, None);
        Ok(())
    }

    /// The times at which the network is evaluated, in order.
    pub fn path(&self) -> &[f64] {
        &self.path
    }

    fn step(&mut self, (t, level): Point) -> Result<State> {
        let at = self.index + 1;
        let to = self.path.get(at).zip(self.levels.get(at)).map(|(s, level)| (*s, *level)).or(self.end);
        let (s, next) = (to.map(|(s, _)| s), to.map_or(Level::CLEAN, |(_, level)| level));
        let xt = self.x.clone();
        let Estimate { x0, eps } = self.estimate(&xt, t, level)?;
        let xs = match (self.solver, to) {
            (Solver::Ddim { eta }, _) => {
                let sigma = eta * level.posterior(next).variance.sqrt();
                self.go(&x0, &eps, next, Sigma { sigma, drawn: sigma })?
            }
            (Solver::Ddpm { variance }, _) => {
                let sigma = level.posterior(next).variance.sqrt();
                let drawn = match variance {
                    Variance::Posterior => sigma,
                    // The last step, to the clean image, draws no noise.
                    Variance::Beta if s.is_none() => 0.0,
                    Variance::Beta => {
                        let ratio = next.total_variance() / level.total_variance();
                        (level.transition_variance(next) * ratio).sqrt()
                    }
                };
                self.go(&x0, &eps, next, Sigma { sigma, drawn })?
            }
            (Solver::Consistency, _) => self.go(&x0, &eps, next, Sigma { sigma: next.noise, drawn: next.noise })?,
            (Solver::Heun, Some((s, next))) => {
                let trial = self.go(&x0, &eps, next, Sigma::ZERO)?;
                let there = self.estimate(&trial, s, next)?.x0;
                let mean = ((&x0 + there)? * 0.5)?;
                let eps = noise_of(&xt, level, &mean)?;
                self.go(&mean, &eps, next, Sigma::ZERO)?
            }
            (Solver::DpmSolver, Some(_)) if self.before.is_some() => {
                let line = self.extrapolated(&x0, level, next)?;
                let eps = noise_of(&xt, level, &line)?;
                self.go(&line, &eps, next, Sigma::ZERO)?
            }
            (Solver::Heun | Solver::DpmSolver, _) => self.go(&x0, &eps, next, Sigma::ZERO)?,
        };
        if self.solver == Solver::DpmSolver {
            self.before = Some((x0.clone(), level));
        }
        (self.x, self.level) = (xs.detach(), next);
        let (index, xs) = (self.index, self.x.clone());
        Ok(State { index, t, s, level, next_level: next, xt, x0_hat: x0, eps_hat: eps, xs })
    }

    /// Fails with the first step after which a number is not finite. The CPU checks after each step; a GPU, for which a
    /// check means waiting, checks at the end.
    fn check_finite(&mut self, index: usize) -> Result<()> {
        let (first, sums) = &mut self.sums;
        if sums.is_empty() {
            *first = index;
        }
        sums.push(self.x.to_dtype(DType::F32)?.sum_all()?);
        if !self.x.device().is_cpu() && index + 1 < self.path.len() {
            return Ok(());
        }
        let sums = std::mem::take(sums);
        let sums = Tensor::stack(&sums, 0)?.to_vec1::<f32>()?;
        match sums.iter().position(|sum| !sum.is_finite()) {
            None => Ok(()),
            Some(at) => bail!(
                "sampler: after step {} of {} (t = {}) the images contain NaN or infinity. Check x_T, the condition \
                 and the guidance scale; with --precision bf16 try f32",
                *first + at + 1,
                self.path.len(),
                self.path[*first + at]
            ),
        }
    }

    /// x_s = signal_s x̂_0 + √(noise_s² − σ²) ε̂ + σ' z, where σ' = σ except for [`Variance::Beta`].
    fn go(&mut self, x0: &Tensor, eps: &Tensor, next: Level, Sigma { sigma, drawn }: Sigma) -> Result<Tensor> {
        let rest = (next.noise * next.noise - sigma * sigma).max(0.0).sqrt();
        let xs = ((x0 * next.signal)? + (eps * rest)?)?;
        if drawn > 0.0 {
            let z = self.noise.like(&xs)?;
            return xs + (z * drawn)?;
        }
        Ok(xs)
    }

    fn estimate(&mut self, x: &Tensor, t: f64, level: Level) -> Result<Estimate> {
        let n = x.dim(0)?;
        let c_in = self.prediction.scalings(level).c_in;
        let input = if c_in == 1.0 { x.clone() } else { (x * c_in)? };
        let output = (self.predict)(&input, &vec![t; n])?.detach();
        let levels = vec![level; n];
        let x0 = self.prediction.x0(x, &levels, &output)?;
        Ok(match self.threshold.apply(&x0)? {
            Some(x0) => Estimate { eps: noise_of(x, level, &x0)?, x0 },
            None => Estimate { x0, eps: self.prediction.eps(x, &levels, &output)? },
        })
    }

    /// x̂_0 at the midpoint of the next interval of λ, linearly extrapolated from the last two predictions.
    fn extrapolated(&self, x0: &Tensor, level: Level, next: Level) -> Result<Tensor> {
        let Some((x0_before, before)) = &self.before else {
            return Ok(x0.clone());
        };
        let step = next.lambda() - level.lambda();
        let weight = 0.5 * step / (level.lambda() - before.lambda());
        // λ is infinite where there is no signal, as at the start of flow: use a first-order step.
        if !weight.is_finite() || weight == 0.0 {
            return Ok(x0.clone());
        }
        (x0 * (1.0 + weight))? - (x0_before * weight)?
    }

    /// Adds advice to an out-of-memory error.
    fn explained(&self, error: Error) -> Error {
        let Some(name) = out_of_memory(&error) else {
            return error;
        };
        let n = self.x.dims().first().copied().unwrap_or(1);
        let wanted = format!("a batch of {n} images");
        let advice = match n {
            0 | 1 => "use a smaller network or smaller images".to_owned(),
            _ => format!(
                "sample fewer images at a time, for example {}: --batch on the command line, at_once of \
                 Model::sample_in_batches",
                n / 2
            ),
        };
        Error::Msg(format!("sampler: {}", too_little(name, &wanted, &advice)))
    }
}

/// ε̂ = (x − signal·x̂_0)/noise.
fn noise_of(x: &Tensor, level: Level, x0: &Tensor) -> Result<Tensor> {
    Prediction::X0.eps(x, &vec![level; x.dim(0)?], x0)
}

impl<P, N> Iterator for States<'_, P, N>
where
    P: FnMut(&Tensor, &[f64]) -> Result<Tensor>,
    N: Noise,
{
    type Item = Result<State>;

    /// Computes the next step; `None` after the last one or after an error.
    fn next(&mut self) -> Option<Result<State>> {
        let point = (*self.path.get(self.index)?, *self.levels.get(self.index)?);
        let state = self.step(point).and_then(|state| self.check_finite(state.index).map(|()| state));
        let state = state.map_err(|e| self.explained(e));
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
    P: FnMut(&Tensor, &[f64]) -> Result<Tensor>,
    N: Noise,
{
}
