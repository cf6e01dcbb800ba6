//! Inpainting: filling in missing parts of images.

use super::Mask;
use crate::guidance::Guidance;
use crate::level::perturb;
use crate::model::{Model, Predict};
use crate::rng::Rng;
use crate::sampler::{ImageNoise, Noise, Sampler, State, States, Steps};
use anyhow::{Result, ensure};
use candle_core::Tensor;

/// Inpaints the unknown part of images with a network that was not trained for inpainting.
///
/// After every step from t to s, the known part of x_s is replaced by the known image at the level of s, signal_s x_0 +
/// noise_s ε. Both parts then have the right amount of noise, but they need not be consistent, because the new part
/// depends only on the known part of earlier steps. [RePaint](https://arxiv.org/abs/2201.09865) (Lugmayr et al. 2022,
/// algorithm 1 and section 4.2) therefore *resamples*: it takes every group of `jump` steps `resamplings` times, adding
/// noise to the whole image in between.
///
/// ```no_run
/// use diffusion_core::{candle::Device, data::{Dataset, Split}, edit::{Inpaint, Mask, Side}, model::Model, rng::Rng, unet::Condition};
/// let model = Model::load("weights/mnist.safetensors", &Device::Cpu)?;
/// let x0 = Dataset::mnist(Split::Test)?.images(0..8, &Device::Cpu)?;
/// let upper = Mask::half(28, 28, Side::Top)?;
/// let filled = Inpaint::default().fill(&model, &x0, &upper, Condition::none(), &mut Rng::new(1))?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Inpaint {
    /// The sampler of the steps. A stochastic one makes the parts more consistent.
    pub sampler: Sampler,
    /// How often each group of `jump` steps is taken, RePaint's r; 1 means no resampling. Default 5; 10 in the paper.
    pub resamplings: usize,
    /// The number of steps in a group, RePaint's j. Default 5; 10 in the paper, of 250 steps.
    pub jump: usize,
}

impl Default for Inpaint {
    /// DDPM with 50 steps in groups of 5 that are taken 5 times: 250 network evaluations.
    fn default() -> Self {
        Self { sampler: Sampler { steps: Steps::Trailing(50), ..Sampler::ddpm() }, resamplings: 5, jump: 5 }
    }
}

impl Inpaint {
    /// Generates images that equal `x0` where `mask` is known.
    ///
    /// # Shapes
    /// `x0` (B, C, H, W), values in \[−1, 1\]; its unknown part is ignored. The result has the shape of `x0`, and
    /// equals it to the bit where it is known.
    ///
    /// # Errors
    /// See [`Inpaint::states`]; or a step fails.
    pub fn fill(
        &self,
        model: &Model,
        x0: &Tensor,
        mask: &Mask,
        guidance: impl Into<Guidance>,
        rng: &mut Rng,
    ) -> Result<Tensor> {
        let mut last = x0.clone();
        for state in self.states(model, x0, mask, guidance, rng)? {
            last = state?.xs;
        }
        Ok(last)
    }

    /// The steps of [`Inpaint::fill`] as an iterator; each `xs` contains the known part.
    ///
    /// # Shapes
    /// See [`Inpaint::fill`].
    ///
    /// # Errors
    /// `resamplings` or `jump` is 0, or the images do not have the shape of the model or of the mask; or see
    /// [`Model::states`].
    pub fn states<'a>(
        &self,
        model: &'a Model,
        x0: &Tensor,
        mask: &Mask,
        guidance: impl Into<Guidance>,
        rng: &mut Rng,
    ) -> Result<Inpainting<'a>> {
        ensure!(
            self.resamplings > 0 && self.jump > 0,
            "inpaint: resamplings = {} and jump = {} must be at least 1",
            self.resamplings,
            self.jump
        );
        let x0 = super::checked("inpaint", model, x0)?;
        mask.check(&x0)?;
        let steps = ImageNoise::new(rng);
        let known_noise = ImageNoise::new(&rng.split());
        let xt = model.noise(x0.dim(0)?, rng)?;
        let states = model.states_with(&xt, guidance, &self.sampler, steps)?;
        Ok(Inpainting {
            left: states.len().saturating_mul(self.resamplings),
            states,
            x0,
            mask: mask.clone(),
            known_noise,
            inpaint: self.clone(),
            taken: 1,
        })
    }
}

/// An iterator over the steps of inpainting, from [`Inpaint::states`].
pub struct Inpainting<'a> {
    states: States<'a, Predict<'a>, ImageNoise>,
    x0: Tensor,
    mask: Mask,
    known_noise: ImageNoise,
    inpaint: Inpaint,
    /// How often the current group of steps has been taken, including this time.
    taken: usize,
    /// The number of steps left, including repetitions.
    left: usize,
}

impl Inpainting<'_> {
    fn step(&mut self, mut state: State) -> candle_core::Result<State> {
        let known = match state.s {
            Some(_) => {
                let eps = self.known_noise.like(&self.x0)?;
                perturb(&self.x0, &vec![state.next_level; self.x0.dim(0)?], &eps)?
            }
            None => self.x0.clone(),
        };
        state.xs = self.mask.combine(&known, &state.xs)?;
        self.states.replace(&state.xs)?;
        // Groups are counted from the end, so the first may be shorter.
        let jump = self.inpaint.jump;
        if self.states.len().is_multiple_of(jump) {
            if self.taken < self.inpaint.resamplings {
                self.taken += 1;
                self.states.back(jump.min(state.index + 1))?;
            } else {
                self.taken = 1;
            }
        }
        Ok(state)
    }
}

impl Iterator for Inpainting<'_> {
    type Item = candle_core::Result<State>;

    /// Computes the next step; `None` after the last one or after an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let state = self.states.next()?.and_then(|state| self.step(state));
        self.left = match state {
            Ok(_) => self.left - 1,
            Err(_) => 0,
        };
        Some(state)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Inpainting<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::Side;
    use crate::edit::tests::{equal, model, model_of};
    use crate::process::NoiseProcess;
    use crate::schedule::Schedule;
    use candle_core::Device;

    fn filled(inpaint: &Inpaint, seed: u64) -> Result<(Tensor, Tensor)> {
        let model = model()?;
        let x0 = (Tensor::ones((3, 1, 8, 8), candle_core::DType::F32, &Device::Cpu)? * 0.3)?;
        let mask = Mask::half(8, 8, Side::Left)?;
        let condition = model.conditions(3)?;
        let x = inpaint.fill(&model, &x0, &mask, condition, &mut Rng::new(seed))?;
        Ok((x0, x))
    }

    #[test]
    fn known_pixels_are_kept_to_the_bit_and_the_rest_is_new() -> Result<()> {
        for inpaint in [
            Inpaint::default(),
            Inpaint { resamplings: 1, ..Inpaint::default() },
            Inpaint { sampler: Sampler::dpm_solver(7), resamplings: 2, jump: 3 },
        ] {
            let (x0, x) = filled(&inpaint, 1)?;
            assert!(equal(&x.narrow(3, 0, 4)?, &x0.narrow(3, 0, 4)?)?);
            assert!(!equal(&x.narrow(3, 4, 4)?, &x0.narrow(3, 4, 4)?)?);
            assert!(equal(&x, &filled(&inpaint, 1)?.1)?);
            assert!(!equal(&x, &filled(&inpaint, 2)?.1)?);
        }
        Ok(())
    }

    /// The order of the steps is RePaint's: each group is taken r times, and the first may be shorter.
    #[test]
    fn groups_of_steps_are_repeated() -> Result<()> {
        let inpaint = Inpaint { sampler: Sampler::ddim(5), resamplings: 3, jump: 2 };
        let (model, mask, rng) = (model()?, Mask::half(8, 8, Side::Top)?, &mut Rng::new(1));
        let x0 = rng.randn((1, 1, 8, 8), &Device::Cpu)?;
        let condition = model.conditions(1)?;
        let mut states = inpaint.states(&model, &x0, &mask, condition, rng)?;
        assert_eq!(states.len(), 15);
        let mut visited = Vec::new();
        while let Some(state) = states.next() {
            visited.push(state?.index);
            assert_eq!(states.len(), 15 - visited.len());
        }
        assert_eq!(visited, [0, 0, 0, 1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4]);
        drop(states);
        let endless = Inpaint { resamplings: usize::MAX, ..inpaint };
        let condition = model.conditions(1)?;
        let states = endless.states(&model, &x0, &mask, condition, rng)?;
        assert_eq!(states.len(), usize::MAX);
        Ok(())
    }

    /// At every step the known part is the known image with the noise of the level, on every process.
    #[test]
    fn the_known_part_is_noised_to_its_level() -> Result<()> {
        for process in [Schedule::cosine(100)?.into(), NoiseProcess::flow(), NoiseProcess::edm()] {
            let (model, mask, rng) = (model_of(process)?, Mask::half(8, 8, Side::Top)?, &mut Rng::new(1));
            let n = 200;
            let x0 = Tensor::full(0.5f32, (n, 1, 8, 8), &Device::Cpu)?;
            let inpaint = Inpaint { resamplings: 1, ..Inpaint::default() };
            for state in inpaint.states(&model, &x0, &mask, model.conditions(n)?, rng)?.step_by(7) {
                let state = state?;
                let Some(s) = state.s else { break };
                assert_eq!(state.next_level, model.info.process.level(s)?);
                let known = state.xs.narrow(2, 0, 4)?;
                let noise = (known - 0.5 * state.next_level.signal)?;
                let variance = noise.sqr()?.mean_all()?.to_scalar::<f32>()? as f64;
                let wants = state.next_level.noise.powi(2);
                assert!((variance / wants - 1.0).abs() < 0.05, "{s}: {variance} {wants}");
            }
        }
        Ok(())
    }

    #[test]
    fn errors_name_the_bad_value() -> Result<()> {
        let (model, mask, rng) = (model()?, Mask::half(8, 8, Side::Top)?, &mut Rng::new(1));
        let mut message = |inpaint: &Inpaint, shape: (usize, usize, usize, usize), mask: &Mask| {
            let x0 = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu)?;
            let failed = inpaint.fill(&model, &x0, mask, crate::unet::Condition::none(), rng);
            anyhow::Ok(failed.unwrap_err().to_string())
        };
        let inpaint = Inpaint::default();
        let (never, other) = (Inpaint { jump: 0, ..inpaint.clone() }, Mask::half(8, 9, Side::Top)?);
        for (message, wants) in [
            (message(&never, (1, 1, 8, 8), &mask)?, "jump = 0"),
            (message(&inpaint, (1, 3, 8, 8), &mask)?, "shape [1, 3, 8, 8], but the model's are (B, 1, 8, 8)"),
            (message(&inpaint, (0, 1, 8, 8), &mask)?, "shape [0, 1, 8, 8]"),
            (message(&inpaint, (1, 1, 8, 8), &other)?, "this mask is for (B, C, 8, 9)"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
