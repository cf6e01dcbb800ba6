//! The loss on held-out images: when it is measured, of which weights, and that nothing else changes with it.

use crate::training::{bits, checkpoints, config, net, sprites, steps};
use anyhow::{Context, Result};
use diffusion_core::candle::Device;
use diffusion_core::data::{Dataset, Resize};
use diffusion_core::prediction::Prediction;
use diffusion_core::process::{NoiseProcess, TimeSampling};
use diffusion_core::schedule::Schedule;
use diffusion_core::show::Live;
use diffusion_core::train::{ConsistencyConfig, State, Step, Training, TrainingConfig, Weighting};
use diffusion_core::unet::{Architecture, ContextUnet};
use std::fs;
use std::path::Path;

fn held_out() -> Result<Dataset> {
    Dataset::sprites(20, 9)
}

/// Measured every five steps, unless something else is wanted.
fn begin(config: TrainingConfig, folder: &Path) -> Result<Training> {
    let config = TrainingConfig { validate_every: config.validate_every.or(Some(5)), sample_every: 0, ..config };
    let training = Training::new(config, net(), &sprites()?, &Device::Cpu)?;
    training.validate_on(held_out()?)?.in_folder(folder)
}

/// The steps with a validation loss, and its bits.
fn measured(steps: &[Step]) -> Vec<(usize, u64)> {
    steps.iter().filter_map(|step| Some((step.index, step.validation_loss?.to_bits()))).collect()
}

fn log(folder: &Path) -> Result<Vec<Step>> {
    let text = fs::read_to_string(folder.join("log.jsonl"))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// With batch norms, whose running statistics an evaluation in training mode would change.
#[test]
fn a_training_has_the_same_bits_with_and_without_it() -> Result<()> {
    let temp = tempfile::tempdir()?;
    for (name, network) in [
        ("group", Architecture::from(net())),
        ("batch", ContextUnet { n_feat: 8, timesteps: 100, ..Default::default() }.into()),
    ] {
        let run = |folder: &str, every: Option<usize>| -> Result<Training> {
            let config = TrainingConfig { validate_every: every, ..config() };
            let mut training = Training::new(config, network.clone(), &sprites()?, &Device::Cpu)?;
            if every.is_some() {
                training = training.validate_on(held_out()?)?;
            }
            let mut training = training.in_folder(temp.path().join(format!("{name}-{folder}")))?;
            steps(&mut training, 100)?;
            Ok(training)
        };
        let (with, without) = (run("with", Some(3))?, run("without", None)?);
        let at = |training: &Training| training.folder().map(Path::to_owned).context("a folder");
        let state = |training: &Training| bits(&checkpoints(&at(training)?)?.pop().context("a checkpoint")?);
        assert!(state(&with)? == state(&without)?, "{name}: the states differ");
        let losses =
            |training: &Training| training.history().iter().map(|step| step.loss.to_bits()).collect::<Vec<_>>();
        assert_eq!(losses(&with), losses(&without));
        // Every three steps, and at the end.
        let indices: Vec<usize> = measured(with.history()).iter().map(|(index, _)| *index).collect();
        assert_eq!(indices, [2, 5, 8, 11, 13]);
        assert_eq!(measured(&log(&at(&with)?)?), measured(with.history()));
        assert_eq!((without.validation_loss(), without.validate_every()), (None, 0));
        assert!(!fs::read_to_string(at(&without)?.join("log.jsonl"))?.contains("validation"));
    }
    Ok(())
}

#[test]
fn a_resumed_training_measures_the_same_values() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (whole, broken) = (temp.path().join("whole"), temp.path().join("broken"));
    let mut training = begin(config(), &whole)?;
    let report = training.run()?.to_string();
    let last = training.validation_loss().context("a loss")?;
    assert!(report.contains(&format!(", validation loss {last:.4}")), "{report}");

    // Given up after 11 steps, of which the last two have no checkpoint; then stopped between two measurements.
    steps(&mut begin(config(), &broken)?, 11)?;
    let mut training = begin(config(), &broken)?;
    assert_eq!(training.resumed().context("a checkpoint")?.steps, 9);
    assert_eq!(training.validation_loss(), training.history()[4].validation_loss);
    training.stop_after(12);
    assert_eq!(training.run()?.state, State::Stopped);
    drop(training);
    let mut training = begin(config(), &broken)?;
    assert!(training.validation_loss().is_some());
    training.run()?;
    assert_eq!(measured(&log(&whole)?).len(), 3);
    assert_eq!(measured(&log(&whole)?), measured(&log(&broken)?));

    // Another interval is the same run.
    let mut training = begin(TrainingConfig { epochs: 3, validate_every: Some(0), ..config() }, &broken)?;
    assert_eq!(training.resumed().context("a checkpoint")?.steps, 14);
    steps(&mut training, 100)?;
    assert_eq!(measured(training.history()), measured(&log(&whole)?));
    let wrong = Training::new(config(), net(), &sprites()?, &Device::Cpu)?;
    let wrong = wrong.validate_on(held_out()?.resize(8, Resize::Nearest)?);
    assert!(wrong.unwrap_err().to_string().contains("[3, 8, 8]"));
    Ok(())
}

/// Raw weights do not depend on the EMA, and 13 of 14 steps are behind them.
#[test]
fn the_weights_are_the_raw_ones() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let run = |name: &str, ema: f64| -> Result<Vec<(usize, u64)>> {
        let mut training = begin(TrainingConfig { ema, ..config() }, &temp.path().join(name))?;
        steps(&mut training, 100)?;
        Ok(measured(training.history()))
    };
    assert_eq!(run("averaged", 0.9)?, run("raw", 0.0)?);
    Ok(())
}

/// Without progress, on the training images themselves, it is the mean training loss but for chance.
#[test]
fn it_has_the_expected_value_of_the_training_loss() -> Result<()> {
    let data = Dataset::sprites(256, 1)?;
    let cosine = NoiseProcess::from(Schedule::cosine(1000)?);
    let low_noise = TimeSampling::LogitNormal { mean: -1.2, std: 0.8 };
    let min_snr = Weighting::MinSnr { gamma: 5.0 };
    for (process, times, prediction, weighting) in [
        (cosine.clone(), TimeSampling::Uniform, Prediction::V, min_snr),
        (cosine, low_noise, Prediction::V, min_snr),
        (NoiseProcess::flow(), low_noise, Prediction::Velocity, min_snr),
    ] {
        let config = TrainingConfig {
            process,
            times,
            prediction,
            weighting,
            batch: 64,
            epochs: 5,
            lr: 0.0,
            validate_every: Some(20),
            ..Default::default()
        };
        let mut training = Training::new(config, net(), &data, &Device::Cpu)?.validate_on(data.clone())?;
        let losses: Vec<f64> = steps(&mut training, 100)?.iter().map(|step| step.loss).collect();
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        let loss = training.validation_loss().context("a loss")?;
        println!("{times:?} {prediction:?}: {mean} {loss}");
        assert!((loss / mean - 1.0).abs() < 0.1, "{times:?} {prediction:?}: {loss}, but {mean} in training");
    }
    Ok(())
}

#[test]
fn a_distillation_measures_its_own_loss_and_stays_the_same() -> Result<()> {
    let run = |validate_every: Option<usize>, lr: f64| -> Result<Vec<Step>> {
        let config = TrainingConfig { epochs: 2, batch: 32, lr, validate_every, ..Default::default() };
        let settings = ConsistencyConfig { first_steps: 2, last_steps: 4, ..Default::default() };
        let mut training = crate::consistency::training(config, settings)?;
        if validate_every.is_some() {
            training = training.validate_on(Dataset::sprites(64, 1)?)?;
        }
        training.run()?;
        Ok(training.history().to_vec())
    };
    let losses = |steps: &[Step]| steps.iter().map(|step| step.loss.to_bits()).collect::<Vec<_>>();
    assert_eq!(losses(&run(Some(2), 5e-4)?), losses(&run(None, 5e-4)?));
    // Without progress, in each half with its own number of steps N: on the training images, as in training.
    let history = run(Some(2), 0.0)?;
    for half in history.chunks(2) {
        let mean = half.iter().map(|step| step.loss).sum::<f64>() / 2.0;
        let loss = half[1].validation_loss.context("a loss")?;
        println!("{mean} {loss}");
        assert!((loss / mean - 1.0).abs() < 0.1, "{loss}, but {mean} in training");
    }
    Ok(())
}

#[test]
fn the_live_page_and_the_loss_curve_show_it() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let _page = Live::new(temp.path())?;
    let mut training = begin(config(), temp.path())?;
    let shown = |training: &Training| training.loss_curve().to_png();
    steps(&mut training, 4)?;
    let plain = shown(&training)?;
    steps(&mut training, 1)?;
    let first = training.validation_loss().context("a loss")?;
    steps(&mut training, 100)?;
    let state: serde_json::Value = serde_json::from_slice(&fs::read(temp.path().join("live.json"))?)?;
    let points = state["validation"].as_array().context("points")?;
    assert_eq!((points.len(), &points[0]), (3, &serde_json::json!([5, first])));
    // The same losses in training, without a measurement.
    let mut without = Training::new(config(), net(), &sprites()?, &Device::Cpu)?;
    steps(&mut without, 4)?;
    assert!(shown(&without)? == plain);
    steps(&mut without, 100)?;
    assert!(shown(&without)? != shown(&training)?);
    Ok(())
}
