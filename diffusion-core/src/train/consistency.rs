//! The training objective of consistency models, which jump from any noise level to the clean image.

use super::{
    Diffusion, Ema, EmaConfig, ModelObjective, Noise, Objective, StepInfo, TrainingBatch, TrainingConfig, Warmup,
};
use crate::data::Dataset;
use crate::guidance::Guidance;
use crate::level::{Level, combine, perturb, scaled};
use crate::model::{Model, ModelInfo};
use crate::nn::Parameters;
use crate::prediction::Prediction;
use crate::rng::Rng;
use crate::sampler::Sampler;
use crate::unet::{Condition, Network};
use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Steps of the sampler that shows the progress of training.
const SHOWN_STEPS: usize = 2;

/// The settings of [`Consistency`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsistencyConfig {
    /// The teacher's model file; empty if the teacher is passed as a [`Model`].
    pub teacher: PathBuf,
    /// w, the guidance scale of the teacher, which the student has built in; 1 for none.
    pub guidance: f64,
    /// N at the start: the number of steps into which the teacher's trajectory is divided.
    pub first_steps: usize,
    /// N at the end: `first_steps` times a power of 2.
    pub last_steps: usize,
    /// The decay μ of the exponential moving average of the student's weights that computes the target, 0.95 by default;
    /// 0 for the weights themselves. Without it the errors of single training steps go into the targets
    /// (`notebooks/13_few_steps.ipynb`, section 4).
    pub target_ema: f64,
}

impl Default for ConsistencyConfig {
    fn default() -> Self {
        Self { teacher: PathBuf::new(), guidance: 1.0, first_steps: 4, last_steps: 32, target_ema: 0.95 }
    }
}

impl ConsistencyConfig {
    /// Checks that every field is in its range.
    ///
    /// # Errors
    /// A field is out of range: the message names it and its value.
    pub fn check(&self) -> Result<()> {
        let Self { guidance, first_steps, last_steps, target_ema, .. } = *self;
        ensure!(guidance.is_finite(), "consistency: guidance = {guidance} must be a number, 1 for no guidance");
        ensure!(first_steps > 0, "consistency: first_steps = 0 must be at least 1");
        ensure!(
            last_steps.is_multiple_of(first_steps) && (last_steps / first_steps).is_power_of_two(),
            "consistency: last_steps = {last_steps} must be first_steps = {first_steps} times a power of 2, such as {}",
            first_steps.saturating_mul(8)
        );
        ensure!((0.0..1.0).contains(&target_ema), "consistency: target_ema = {target_ema} must be in [0, 1)");
        Ok(())
    }

    /// N after the fraction `done` of the training: it doubles from `first_steps` to `last_steps`, for equally long.
    fn steps_at(&self, done: f64) -> usize {
        let stages = (self.last_steps / self.first_steps).ilog2() + 1;
        let stage = ((done * f64::from(stages)) as u32).min(stages - 1);
        self.first_steps << stage
    }
}

/// Consistency distillation: a trained model, the teacher, becomes a student f that maps every point of a trajectory of
/// the probability-flow ODE to its end, the clean image ([Song et al. 2023](https://arxiv.org/abs/2303.01469),
/// algorithm 2).
///
/// The student starts as a copy of the teacher. For neighbouring times r < t of a grid of N steps, one DDIM step of the
/// teacher leads from x_t to x_r on the same trajectory, so both must have the same end:
///
/// L = ‖f(x_t, t) − f⁻(x_r, r)‖, with f the predicted clean image x̂_0 and f⁻ the same without gradient.
///
/// Where r is the clean image, f⁻ is x_r itself; from there the values spread to higher noise. The norm is the
/// pseudo-Huber norm √(‖d‖² + c²) − c with c = 0.00054 √(CHW)
/// ([Song & Dhariwal 2024](https://arxiv.org/abs/2310.14189), section 3.3), divided by √(CHW). N doubles during
/// training: a coarse grid has a large error but spreads fast
/// ([Geng et al. 2024](https://arxiv.org/abs/2406.14548)). The teacher's guidance becomes part of the student, which is
/// sampled without guidance by [`Sampler::consistency`]. Built from scratch in `notebooks/13_few_steps.ipynb`.
///
/// ```
/// use diffusion_core::{data::Dataset, model::{Model, ModelInfo}, rng::Rng, sampler::Sampler, unet::{Condition, SimpleUNet}};
/// use diffusion_core::train::{Consistency, ConsistencyConfig, Training, TrainingConfig};
/// # use diffusion_core::{candle::Device, unet::Network};
/// let sprites = Dataset::sprites(32, 1)?;
/// # let network = Network::new(SimpleUNet { channels: 3, base: 8, classes: 5, ..Default::default() }, &mut Rng::new(1), &Device::Cpu)?;
/// # let teacher = Model::new(network, ModelInfo::new([3, 16, 16]));
/// let process = teacher.info.process.clone();
/// let config = TrainingConfig { process, prediction: teacher.info.prediction, epochs: 1, batch: 16, ..Default::default() };
/// let settings = ConsistencyConfig { guidance: 1.5, ..Default::default() };
/// let student = Consistency::with_teacher(&config, settings, teacher, &sprites)?;
/// let mut training = Training::with_objective(config, student, &sprites)?;
/// training.run()?;
/// let fast = training.into_model()?;
/// let images = fast.sample(4, Condition::labels([0; 4]), &Sampler::consistency(2), &mut Rng::new(1))?;
/// assert_eq!(images.dims(), [4, 3, 16, 16]);
/// # Ok::<(), diffusion_core::anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Consistency {
    student: Diffusion,
    teacher: Model,
    settings: ConsistencyConfig,
    /// The average that computes the target, if it is not the student itself.
    target: Option<Ema>,
    /// N in the current step.
    n: usize,
    /// The times t and r of all images of the step; r is `None` for the clean image.
    drawn: Vec<(f64, Option<f64>)>,
}

impl Consistency {
    /// Loads the teacher from the file that `settings` names.
    ///
    /// # Errors
    /// The file is not a model; or see [`Consistency::with_teacher`].
    pub fn new(config: &TrainingConfig, settings: ConsistencyConfig, data: &Dataset, device: &Device) -> Result<Self> {
        ensure!(
            !settings.teacher.as_os_str().is_empty(),
            "consistency: no teacher is named; set teacher to a trained model such as weights/mnist.safetensors"
        );
        let teacher = Model::load(&settings.teacher, device).context("consistency: the teacher")?;
        Self::with_teacher(config, settings, teacher, data)
    }

    /// Creates a student as a copy of `teacher`, to be trained on the images of `data`.
    ///
    /// # Errors
    /// A value of `config` or `settings` is out of range; `config` has another noise process or prediction type than
    /// the teacher; the teacher does not fit the data, already is a consistency model, or cannot be guided.
    pub fn with_teacher(
        config: &TrainingConfig,
        settings: ConsistencyConfig,
        mut teacher: Model,
        data: &Dataset,
    ) -> Result<Self> {
        settings.check()?;
        let ModelInfo { process, prediction, shape, consistency, .. } = &teacher.info;
        ensure!(
            !consistency,
            "consistency: the teacher already is a consistency model; name the model it was trained from"
        );
        ensure!(
            *process == config.process && *prediction == config.prediction,
            "consistency: the configuration has the process {} with {:?}-prediction, but the teacher {process} with \
             {prediction:?}-prediction; set process and prediction to those of teacher.info",
            config.process,
            config.prediction
        );
        ensure!(
            *shape == data.shape(),
            "consistency: the teacher's images have shape {shape:?}, but those of {} {:?}; name its training data",
            data.name(),
            data.shape()
        );
        process.steps(settings.last_steps).context("consistency: last_steps")?;
        let conditioning = teacher.network.architecture().conditioning();
        ensure!(
            settings.guidance == 1.0 || conditioning.is_guidable(),
            "consistency: guidance = {}, but the teacher is an unconditional model; set guidance = 1",
            settings.guidance
        );
        teacher.network.set_precision(config.precision);
        let mut student = teacher.copy()?;
        student.info.consistency = true;
        let target = match settings.target_ema {
            0.0 => None,
            decay => Some(Ema::new(&student.network.parameters().by_name(), EmaConfig { decay, warmup: Warmup::Off })?),
        };
        let student = Diffusion::with_model(config, student, data, Sampler::consistency(SHOWN_STEPS))?;
        Ok(Self { n: settings.first_steps, student, teacher, settings, target, drawn: Vec::new() })
    }

    /// Draws times t and r for `images` images, stratified: each step of the grid equally often.
    fn draw(&self, images: usize, rng: &mut Rng) -> Result<Vec<(f64, Option<f64>)>> {
        let n = self.n;
        let times = self.teacher.info.process.steps(n)?;
        let offset = rng.uniform();
        let order = rng.permutation(images).into_iter();
        let at = order.map(|i| (((i as f64 + offset) / images as f64 * n as f64) as usize).min(n - 1));
        Ok(at.map(|i| (times[i], times.get(i + 1).copied())).collect())
    }

    /// The loss for given times and noise.
    fn loss_of(
        &mut self,
        batch: &TrainingBatch,
        drawn: &[(f64, Option<f64>)],
        eps: &Tensor,
        network: fn(&Network, &Tensor, &[f64], &Condition) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor> {
        let x0 = batch.images();
        let (t, r): (Vec<f64>, Vec<Option<f64>>) = drawn.iter().copied().unzip();
        let process = self.teacher.info.process.clone();
        let levels = process.levels(&t)?;
        let level = |r: &Option<f64>| r.map_or(Ok(Level::CLEAN), |r| process.level(r));
        let to = r.iter().map(level).collect::<candle_core::Result<Vec<_>>>()?;
        let condition = self.student.condition(batch)?;
        let xt = perturb(x0, &levels, eps)?;
        let xr = self.teacher_step(&xt, (&t, &levels), &to, condition.clone())?;
        let target = self.target(&xr, &r, &condition)?;
        let times: Vec<f64> = t.iter().map(|t| process.network_time(*t)).collect();
        // Not clipped: a clipped value has no gradient.
        let prediction = self.teacher.info.prediction;
        let c_in = levels.iter().map(|level| prediction.scalings(*level).c_in).collect();
        let input = scaled(&xt, c_in)?.unwrap_or_else(|| xt.clone());
        let output = network(&self.student.model().network, &input, &times, &condition)?;
        let x0_hat = prediction.x0(&xt, &levels, &output)?;
        let numbers = x0.elem_count() as f64 / batch.len() as f64;
        let c = 0.00054 * numbers.sqrt();
        let squares = (x0_hat - target)?.sqr()?.flatten_from(1)?.sum(1)?;
        Ok((((squares + c * c)?.sqrt()? - c)? / numbers.sqrt())?.mean_all()?)
    }

    /// One guided DDIM step of the teacher from `xt` to the levels `to`.
    fn teacher_step(
        &self,
        xt: &Tensor,
        (t, from): (&[f64], &[Level]),
        to: &[Level],
        condition: Condition,
    ) -> Result<Tensor> {
        let guidance = Guidance::new(condition, self.settings.guidance);
        let x0_hat = self.x0_hat(xt, from, |input| self.teacher.predict(input, t, &guidance))?;
        let eps_hat = Prediction::X0.eps(xt, from, &x0_hat)?;
        Ok(perturb(&x0_hat, to, &eps_hat)?)
    }

    /// The predicted clean image of a network, clipped to the range of images.
    fn x0_hat(
        &self,
        xt: &Tensor,
        levels: &[Level],
        network: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor> {
        let ModelInfo { prediction, images, .. } = self.teacher.info;
        let c_in = levels.iter().map(|level| prediction.scalings(*level).c_in).collect();
        let input = scaled(xt, c_in)?.unwrap_or_else(|| xt.clone());
        let x0_hat = prediction.x0(xt, levels, &network(&input)?)?;
        Ok(if images { x0_hat.clamp(-1f32, 1f32)? } else { x0_hat })
    }

    /// f⁻(x_r, r): the student's jump, without gradient; x_r itself where it is the clean image.
    fn target(&mut self, xr: &Tensor, r: &[Option<f64>], condition: &Condition) -> Result<Tensor> {
        let mut average = self.target.take();
        let process = &self.teacher.info.process;
        let times: Vec<f64> = r.iter().map(|r| r.unwrap_or(process.cleanest_noisy_time())).collect();
        let levels = process.levels(&times)?;
        let network_times: Vec<f64> = times.iter().map(|t| process.network_time(*t)).collect();
        let jump = || {
            let network = &self.student.model().network;
            self.x0_hat(xr, &levels, |input| network.predict(input, &network_times, condition))
        };
        let jumped = match &mut average {
            Some(average) => average.averaged(jump)?,
            None => jump(),
        };
        self.target = average;
        let choice = |r: &Option<f64>| if r.is_some() { (1.0, 0.0) } else { (0.0, 1.0) };
        Ok(combine("target", ("jump", &jumped?), ("xr", xr), r, choice)?.detach())
    }
}

impl Objective for Consistency {
    fn parameters(&self) -> &Parameters {
        self.student.parameters()
    }

    fn begin_step(&mut self, step: StepInfo, rng: &mut Rng) -> Result<()> {
        if let Some(average) = self.target.as_mut().filter(|_| step.index > 0) {
            average.update()?;
        }
        self.n = self.settings.steps_at(step.index as f64 / step.total.max(1) as f64);
        self.drawn = self.draw(step.images, rng)?;
        Ok(())
    }

    fn loss(&mut self, batch: &TrainingBatch, noise: &mut Noise) -> Result<Tensor> {
        let eps = noise.randn_like(batch.images())?;
        let drawn = self.drawn[batch.within()].to_vec();
        self.loss_of(batch, &drawn, &eps, Network::forward)
    }

    /// With N of the last step, so that it can be compared with the training loss. It jumps with it when N doubles.
    fn validation_loss(&mut self, batch: &TrainingBatch, rng: &mut Rng) -> Result<Option<f64>> {
        let drawn = self.draw(batch.len(), rng)?;
        let eps = rng.randn_like(batch.images())?;
        let loss = self.loss_of(batch, &drawn, &eps, Network::predict)?;
        Ok(Some(f64::from(loss.to_scalar::<f32>()?)))
    }

    fn samples(
        &self,
        n: usize,
        data: &Dataset,
        rng: &mut Rng,
        watch: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Option<Tensor>> {
        self.student.samples(n, data, rng, watch)
    }

    fn sample_columns(&self) -> usize {
        self.student.sample_columns()
    }

    /// The teacher's weights and the average that computes the target.
    fn state(&self) -> Result<HashMap<String, Tensor>> {
        let named = |prefix: &'static str| move |(name, tensor): (String, Tensor)| (format!("{prefix}{name}"), tensor);
        let mut state: HashMap<_, _> =
            self.teacher.network.parameters().values()?.into_iter().map(named(TEACHER)).collect();
        if let Some(average) = &self.target {
            state.extend(average.state()?.into_iter().map(named(TARGET)));
        }
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let part = |prefix: &str| -> HashMap<String, Tensor> {
            let stripped =
                |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
            state.iter().filter_map(stripped).collect()
        };
        self.teacher.network.parameters().assign(&part(TEACHER)).context("the teacher")?;
        match &mut self.target {
            Some(average) => Ok(average.load_state(&part(TARGET))?),
            None => Ok(()),
        }
    }

    fn describe(&self) -> Result<toml::Table> {
        let mut table = self.student.describe()?;
        let settings = toml::Value::try_from(&self.settings)?;
        let objective = toml::Table::from_iter([("consistency".to_owned(), settings)]);
        table.insert("objective".to_owned(), objective.into());
        Ok(table)
    }

    fn metadata(&self) -> Result<HashMap<String, String>> {
        self.student.metadata()
    }

    fn save(&self, path: &Path, images_seen: u64) -> Result<()> {
        self.student.save(path, images_seen)
    }
}

impl ModelObjective for Consistency {
    fn model(&self) -> &Model {
        self.student.model()
    }

    fn into_model(self) -> Model {
        self.student.into_model()
    }
}

/// The prefixes of names in a checkpoint's state.
const TEACHER: &str = "teacher.";
const TARGET: &str = "target.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_doubles_for_equally_long() {
        let config = ConsistencyConfig::default();
        let steps = [0.0, 0.24, 0.25, 0.5, 0.75, 1.0].map(|done| config.steps_at(done));
        assert_eq!(steps, [4, 4, 8, 16, 32, 32]);
        config.check().unwrap();
    }

    #[test]
    fn errors_name_the_value_out_of_range() {
        let config = ConsistencyConfig::default;
        for (config, wants) in [
            (ConsistencyConfig { guidance: f64::NAN, ..config() }, "guidance = NaN"),
            (ConsistencyConfig { first_steps: 0, ..config() }, "first_steps = 0"),
            (ConsistencyConfig { last_steps: 12, ..config() }, "last_steps = 12"),
            (ConsistencyConfig { last_steps: 0, ..config() }, "last_steps = 0"),
            (ConsistencyConfig { target_ema: 1.0, ..config() }, "target_ema = 1"),
        ] {
            let message = config.check().unwrap_err().to_string();
            assert!(message.contains(wants), "{message}");
        }
    }
}
