//! Image-to-image sampling: new images from given ones.

use crate::guidance::Guidance;
use crate::level::perturb;
use crate::model::{Model, Predict};
use crate::rng::Rng;
use crate::sampler::{ImageNoise, Sampler, States, Steps};
use anyhow::{Result, ensure};
use candle_core::Tensor;

/// Adds noise to images and samples from that noise level: coarse structure is kept, finer detail is resampled
/// ([SDEdit, Meng et al. 2022](https://arxiv.org/abs/2108.01073), algorithm 1).
///
/// `strength` is the fraction of the sampler's steps that are taken, at least the last one: 0.3 retouches, 0.6 keeps
/// the outline, and 1 starts at the sampler's first step, where almost nothing of the image is left.
///
/// # Shapes
/// `x0` (B, C, H, W), in \[−1, 1\]; the result has the shape of `x0`.
///
/// # Errors
/// `strength` is not in (0, 1\], the images do not have the model's shape, or see [`Model::states`].
///
/// ```no_run
/// use diffusion_core::{candle::Device, data::Dataset, edit::image_to_image, model::Model, rng::Rng, sampler::Sampler};
/// let model = Model::load("weights/sprites-context.safetensors", &Device::Cpu)?;
/// let x0 = Dataset::sprites(5, 9)?.images(0..5, &Device::Cpu)?;
/// let again = image_to_image(&model, &x0, 0.6, model.conditions(5)?, &Sampler::ddim(50), &mut Rng::new(1))?;
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn image_to_image(
    model: &Model,
    x0: &Tensor,
    strength: f64,
    guidance: impl Into<Guidance>,
    sampler: &Sampler,
    rng: &mut Rng,
) -> Result<Tensor> {
    Ok(image_to_image_states(model, x0, strength, guidance, sampler, rng)?.finish()?)
}

/// The steps of [`image_to_image`] as an iterator.
///
/// # Shapes
/// See [`image_to_image`].
///
/// # Errors
/// See [`image_to_image`].
pub fn image_to_image_states<'a>(
    model: &'a Model,
    x0: &Tensor,
    strength: f64,
    guidance: impl Into<Guidance>,
    sampler: &Sampler,
    rng: &mut Rng,
) -> Result<States<'a, Predict<'a>, ImageNoise>> {
    ensure!(
        strength > 0.0 && strength <= 1.0,
        "image to image: strength = {strength} is a fraction of the steps and must be in (0, 1]"
    );
    let x0 = super::checked("image to image", model, x0)?;
    let process = &model.info.process;
    let mut path = sampler.steps.visited(process)?;
    let n = (strength * path.len() as f64).round().max(1.0) as usize;
    path.drain(..path.len() - n);
    let steps = ImageNoise::new(rng);
    let eps = rng.randn_like(&x0)?;
    let xt = perturb(&x0, &vec![process.level(path[0])?; x0.dim(0)?], &eps)?;
    let sampler = Sampler { steps: Steps::Given(path), ..sampler.clone() };
    model.states_with(&xt, guidance, &sampler, steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::tests::{equal, model, model_of};
    use crate::process::NoiseProcess;
    use crate::schedule::Schedule;
    use candle_core::{DType, Device};

    #[test]
    fn lower_strength_keeps_more_of_the_image() -> Result<()> {
        let (model, sampler) = (model()?, Sampler::ddim(20));
        let x0 = Rng::new(5).randn((4, 1, 8, 8), &Device::Cpu)?.clamp(-1.0, 1.0)?;
        let away = |strength: f64| {
            let condition = model.conditions(4)?;
            let x = image_to_image(&model, &x0, strength, condition, &sampler, &mut Rng::new(1))?;
            let away = (x - &x0)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
            anyhow::Ok(away)
        };
        let (little, half, all) = (away(0.01)?, away(0.5)?, away(1.0)?);
        assert!(little < 0.02 && little < half && half < all, "{little} {half} {all}");
        Ok(())
    }

    /// With all steps it is sampling from noise that hides the image, on every process.
    #[test]
    fn full_strength_takes_all_steps_of_the_sampler() -> Result<()> {
        for process in [Schedule::cosine(100)?.into(), NoiseProcess::flow(), NoiseProcess::edm()] {
            let (model, sampler) = (model_of(process)?, Sampler::ddim(5));
            let x0 = Tensor::ones((2, 1, 8, 8), DType::F32, &Device::Cpu)?;
            let condition = model.conditions(2)?;
            let ours = image_to_image(&model, &x0, 1.0, &condition, &sampler, &mut Rng::new(1))?;
            let mut rng = Rng::new(1);
            let xt = perturb(&x0, &[model.info.process.noisiest(); 2], &rng.randn_like(&x0)?)?;
            assert!(equal(&ours, &model.states(&xt, &condition, &sampler, &mut rng)?.finish()?)?);
        }
        Ok(())
    }

    #[test]
    fn errors_name_the_bad_value() -> Result<()> {
        let (model, sampler, rng) = (model()?, Sampler::ddim(5), &mut Rng::new(1));
        let x0 = Tensor::zeros((1, 1, 8, 9), DType::F32, &Device::Cpu)?;
        for (strength, wants) in [(0.0, "strength = 0 "), (f64::NAN, "NaN"), (1.5, "1.5"), (0.5, "[1, 1, 8, 9]")] {
            let failed = image_to_image(&model, &x0, strength, model.conditions(1)?, &sampler, rng);
            let message = failed.unwrap_err().to_string();
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
