//! Consistency distillation: the student learns the ends of the teacher's trajectories, and a run resumes to the bit.

use anyhow::{Context, Result};
use diffusion_core::candle::{Device, Tensor};
use diffusion_core::data::Dataset;
use diffusion_core::guidance::Guidance;
use diffusion_core::model::Model;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::Sampler;
use diffusion_core::train::{Consistency, ConsistencyConfig, Training, TrainingConfig};
use diffusion_core::unet::{Condition, Network, SimpleUNet};
use std::path::Path;

fn teacher() -> Result<Model> {
    Model::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/sprites-epochs-31.safetensors"), &Device::Cpu)
}

pub(crate) fn training(config: TrainingConfig, settings: ConsistencyConfig) -> Result<Training<Consistency>> {
    let teacher = teacher()?;
    let config = TrainingConfig {
        process: teacher.info.process.clone(),
        prediction: teacher.info.prediction,
        sample_every: 0,
        ..config
    };
    let sprites = Dataset::sprites(64, 1)?;
    let student = Consistency::with_teacher(&config, settings, teacher, &sprites)?;
    Training::with_objective(config, student, &sprites)
}

fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    Ok((a - b)?.sqr()?.mean_all()?.sqrt()?.to_scalar::<f32>()?.into())
}

/// One evaluation of the student comes closer to what 16 guided steps of the teacher reach from the same noise than one
/// evaluation of the teacher, and two are samples of their own.
#[test]
fn one_step_approaches_the_end_of_the_teachers_trajectory() -> Result<()> {
    let (teacher, n) = (teacher()?, 20);
    let config = TrainingConfig { epochs: 30, batch: 32, lr: 5e-4, ema: 0.9, ..Default::default() };
    let settings = ConsistencyConfig { guidance: 2.0, first_steps: 2, last_steps: 4, ..Default::default() };
    let mut training = training(config, settings)?;
    training.run()?;
    let student = training.into_model()?;
    let condition = Condition::labels((0..n).map(|i| i % 5));
    let noise = student.noise(n, &mut Rng::new(3))?;
    let draw = |model: &Model, guidance: f64, sampler: Sampler| {
        let guidance = Guidance::new(condition.clone(), guidance);
        Ok::<_, anyhow::Error>(model.states(&noise, guidance, &sampler, &mut Rng::new(4))?.finish()?)
    };
    let end = draw(&teacher, 2.0, Sampler::ddim(16))?;
    let before = distance(&draw(&teacher, 1.0, Sampler::consistency(1))?, &end)?;
    let after = distance(&draw(&student, 1.0, Sampler::consistency(1))?, &end)?;
    assert!(after < 0.9 * before, "{before} before, {after} after");
    // The second step adds fresh noise, so the images differ from the first ones and depend on it.
    let two = draw(&student, 1.0, Sampler::consistency(2))?;
    assert!(distance(&two, &draw(&student, 1.0, Sampler::consistency(1))?)? > 0.05);
    assert_eq!(two.dims(), [n, 3, 16, 16]);
    Ok(())
}

#[test]
fn a_resumed_distillation_is_uninterrupted_to_the_bit() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let begin = |folder: &Path| {
        let config = TrainingConfig { epochs: 4, batch: 32, checkpoint_every: 1, keep: 9, ..Default::default() };
        let settings = ConsistencyConfig { target_ema: 0.9, first_steps: 2, last_steps: 4, ..Default::default() };
        training(config, settings)?.in_folder(folder)
    };
    let (whole, broken) = (temp.path().join("whole"), temp.path().join("broken"));
    begin(&whole)?.run()?;
    let mut first = begin(&broken)?;
    for step in first.by_ref().take(5) {
        step?;
    }
    drop(first);
    let mut second = begin(&broken)?;
    assert_eq!(second.resumed().context("a checkpoint")?.steps, 5);
    second.run()?;
    let [a, b] = [&whole, &broken].map(|folder| std::fs::read(folder.join("model.safetensors")));
    assert!(a? == b?, "the models differ");
    let model = Model::load(whole.join("model.safetensors"), &Device::Cpu)?;
    assert!(model.info.consistency);
    assert_eq!(model.info.sampler(), Sampler::consistency(2));
    // Only the configuration that it was begun with resumes it.
    let config = TrainingConfig { epochs: 4, batch: 32, checkpoint_every: 1, keep: 9, ..Default::default() };
    let other = ConsistencyConfig { target_ema: 0.5, first_steps: 2, last_steps: 4, ..Default::default() };
    let message = training(config, other)?.in_folder(&whole).unwrap_err().to_string();
    assert!(message.contains("target_ema"), "{message}");
    Ok(())
}

#[test]
fn what_a_teacher_cannot_teach_is_named() -> Result<()> {
    let sprites = Dataset::sprites(64, 1)?;
    let message = |config: TrainingConfig, teacher: Model, data: &Dataset| {
        Consistency::with_teacher(&config, ConsistencyConfig::default(), teacher, data).unwrap_err().to_string()
    };
    let fitting = || -> Result<TrainingConfig> {
        let info = teacher()?.info;
        Ok(TrainingConfig { process: info.process, prediction: info.prediction, ..Default::default() })
    };
    let said = message(
        TrainingConfig { process: diffusion_core::process::NoiseProcess::flow(), ..fitting()? },
        teacher()?,
        &sprites,
    );
    assert!(said.contains("has the process flow") && said.contains("teacher.info"), "{said}");
    let mut student = teacher()?;
    student.info.consistency = true;
    let said = message(fitting()?, student, &sprites);
    assert!(said.contains("already is a consistency model"), "{said}");
    let small = sprites.resize(8, diffusion_core::data::Resize::Bilinear)?;
    let said = message(fitting()?, teacher()?, &small);
    assert!(said.contains("[3, 16, 16]") && said.contains("[3, 8, 8]"), "{said}");
    // Its context has the attributes of other data.
    let net = SimpleUNet { channels: 3, base: 4, groups: 2, context: 2, ..Default::default() };
    let mut of_attributes = teacher()?;
    of_attributes.network = Network::new(net, &mut Rng::new(1), &Device::Cpu)?;
    of_attributes.info.context = vec!["round".to_owned(), "red".to_owned()];
    let others = sprites.clone().with_attributes(vec![1.0; 128], &["red", "round"])?;
    let said = message(fitting()?, of_attributes.copy()?, &others);
    assert!(said.contains("the attributes (round, red), but sprites has (red, round)"), "{said}");
    let said = message(fitting()?, of_attributes, &sprites);
    assert!(said.contains("the network has context = 2, but sprites has 5 classes: set context = 5"), "{said}");
    let config = fitting()?;
    let said = Consistency::new(&config, ConsistencyConfig::default(), &sprites, &Device::Cpu).unwrap_err().to_string();
    assert!(said.contains("no teacher is named"), "{said}");
    Ok(())
}
