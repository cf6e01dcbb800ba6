//! Training as a whole: it learns, it stops, it goes on to the bit, and what is wrong is said.

use anyhow::{Context, Result};
use diffusion_core::candle::{Device, Tensor};
use diffusion_core::config::RunConfig;
use diffusion_core::data::Dataset;
use diffusion_core::model::Model;
use diffusion_core::nn::Checkpoint;
use diffusion_core::ops::avg_pool2d;
use diffusion_core::prediction::Prediction;
use diffusion_core::process::{NoiseProcess, TimeSampling};
use diffusion_core::schedule::Schedule;
use diffusion_core::show::Live;
use diffusion_core::train::{Decay, Loss, State, Step, Training, TrainingConfig, Weighting};
use diffusion_core::unet::SimpleUNet;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn sprites() -> Result<Dataset> {
    Dataset::sprites(60, 1)
}

pub(crate) fn net() -> SimpleUNet {
    SimpleUNet { channels: 3, base: 4, groups: 2, classes: 5, ..Default::default() }
}

pub(crate) fn cosine() -> NoiseProcess {
    let schedule = Schedule::cosine(100);
    schedule.map(Into::into).unwrap_or_default()
}

/// Every choice that has a state or draws random numbers; 7 steps an epoch.
pub(crate) fn config() -> TrainingConfig {
    TrainingConfig {
        epochs: 2,
        batch: 4,
        accumulate: 2,
        process: cosine(),
        prediction: Prediction::V,
        loss: Loss::Huber { delta: 1.0 },
        weighting: Weighting::MinSnr { gamma: 5.0 },
        times: TimeSampling::Stratified,
        stages: 3,
        lr: 1e-3,
        warmup: 3,
        decay: Decay::Cosine { floor: 0.1 },
        weight_decay: 0.01,
        clip: 0.5,
        ema: 0.9,
        condition_dropout: 0.3,
        checkpoint_every: 3,
        keep: 2,
        sample_every: 1,
        samples: 5,
        sample_steps: 3,
        sample_share: 1.0,
        ..Default::default()
    }
}

pub(crate) fn begin(config: TrainingConfig, folder: &Path) -> Result<Training> {
    Training::new(config, net(), &sprites()?, &Device::Cpu)?.in_folder(folder)
}

pub(crate) fn steps(training: &mut Training, n: usize) -> Result<Vec<Step>> {
    training.take(n).collect()
}

/// The bits of every tensor in a file, by name.
pub(crate) fn bits(path: &Path) -> Result<BTreeMap<String, Vec<u64>>> {
    let numbers = |x: &Tensor| -> Result<Vec<u64>> {
        let x = x.flatten_all()?;
        Ok(match x.to_vec1::<f32>() {
            Ok(x) => x.iter().map(|x| x.to_bits().into()).collect(),
            Err(_) => x.to_vec1::<i64>()?.iter().map(|x| *x as u64).collect(),
        })
    };
    let tensors = Checkpoint::load(path)?.tensors;
    tensors.iter().map(|(n, x)| Ok((n.clone(), numbers(x)?))).collect()
}

pub(crate) fn checkpoints(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder.join("checkpoints"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    found.sort();
    Ok(found)
}

/// What is left in two folders at the end of equal trainings.
pub(crate) fn same_end(a: &Path, b: &Path) -> Result<()> {
    let newest = |folder: &Path| checkpoints(folder)?.pop().context("a checkpoint");
    let (x, y) = (newest(a)?, newest(b)?);
    assert_eq!(x.file_name(), y.file_name());
    let (x, y) = (bits(&x)?, bits(&y)?);
    for part in ["network.conv_in.weight", "ema.conv_in.weight.average", "adam.conv_in.weight.exp_avg_sq"] {
        assert!(x[part].iter().any(|bits| *bits != 0), "{part}");
    }
    assert!(x == y, "checkpoints differ");
    let model = |folder: &Path| bits(&folder.join("model.safetensors"));
    assert!(model(a)? == model(b)?, "models differ");
    // The log is the same but for the seconds.
    let log = |folder: &Path| -> Result<Vec<(usize, u64, u64)>> {
        let text = fs::read_to_string(folder.join("log.jsonl"))?;
        text.lines()
            .map(|line| {
                let step: Step = serde_json::from_str(line)?;
                Ok((step.index, step.loss.to_bits(), step.grad_norm.to_bits()))
            })
            .collect()
    };
    assert_eq!(log(a)?, log(b)?);
    Ok(())
}

#[test]
fn the_model_of_the_folder_has_the_averaged_weights() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let mut training = begin(config(), temp.path())?;
    steps(&mut training, 100)?;
    let model = Model::load(temp.path().join("model.safetensors"), &Device::Cpu)?;
    assert_eq!(model.info.images_seen, 14 * 8);
    assert_eq!(model.info.classes.len(), 5);
    let (mine, averaged) = (
        bits(&checkpoints(temp.path())?.pop().context("a checkpoint")?)?,
        bits(&temp.path().join("model.safetensors"))?,
    );
    for (name, values) in &averaged {
        assert_eq!(values, &mine[&format!("ema.{name}.average")]);
        assert_ne!(values, &mine[&format!("network.{name}")], "{name}");
    }
    let again = bits_of(&training.into_model()?)?;
    assert_eq!(again, averaged);
    Ok(())
}

fn bits_of(model: &Model) -> Result<BTreeMap<String, Vec<u64>>> {
    let temp = tempfile::tempdir()?;
    let path = temp.path().join("m.safetensors");
    model.save(&path)?;
    bits(&path)
}

/// Many small batches make the step of one large one, but for rounding.
#[test]
fn accumulated_gradients_are_those_of_the_large_batch() -> Result<()> {
    let first = |batch, accumulate| -> Result<Step> {
        let config = TrainingConfig { batch, accumulate, stages: 1, ..config() };
        let mut training = Training::new(config, net(), &sprites()?, &Device::Cpu)?;
        // The last layer begins at 0; after two steps every layer counts.
        let steps = steps(&mut training, 3)?;
        Ok(steps[2])
    };
    let (large, small) = (first(12, 1)?, first(3, 4)?);
    assert!((large.loss - small.loss).abs() < 1e-5 * large.loss, "{large:?} {small:?}");
    assert!((large.grad_norm - small.grad_norm).abs() < 1e-4 * large.grad_norm, "{large:?} {small:?}");
    Ok(())
}

#[test]
fn every_process_prediction_and_loss_learns() -> Result<()> {
    let sprites = sprites()?;
    let flow = NoiseProcess::Flow { shift: 1.0 };
    let edm = NoiseProcess::edm();
    let logit_normal = |mean, std| TimeSampling::LogitNormal { mean, std };
    let edm_row = Prediction::Edm { sigma_data: 0.5 };
    for (process, times, prediction, loss, share) in [
        (cosine(), TimeSampling::Stratified, Prediction::Eps, Loss::Mse, 0.6),
        (cosine(), TimeSampling::Stratified, Prediction::X0, Loss::L1, 0.6),
        (cosine(), TimeSampling::Uniform, Prediction::V, Loss::Huber { delta: 0.5 }, 0.75),
        (flow, logit_normal(0.0, 1.0), Prediction::Velocity, Loss::Mse, 0.75),
        (edm, logit_normal(-1.2, 1.2), edm_row, Loss::Mse, 0.75),
    ] {
        let config = TrainingConfig {
            epochs: 40,
            batch: 8,
            accumulate: 1,
            process: process.clone(),
            times,
            prediction,
            loss,
            weighting: Weighting::Uniform,
            stages: 1,
            lr: 5e-3,
            clip: 1.0,
            sample_every: 0,
            ..config()
        };
        let mut training = Training::new(config, SimpleUNet { base: 8, ..net() }, &sprites, &Device::Cpu)?;
        steps(&mut training, usize::MAX)?;
        let losses = training.epoch_losses();
        let (before, after) = (losses[0], losses[35..].iter().sum::<f64>() / 5.0);
        assert!(after < share * before, "{process:?}, {prediction:?}, {loss:?}: {before} {after}");
    }
    Ok(())
}

/// Grids of samples take a share of the time, and do not keep it from stopping.
#[test]
fn samples_take_a_share_of_the_time() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let slow = TrainingConfig { sample_steps: 100, samples: 64, sample_share: 0.01, ..config() };
    let mut training = begin(slow.clone(), temp.path())?;
    let report = training.run()?;
    assert_eq!(report.state, State::Done);
    assert!(!temp.path().join("samples").exists());
    // A stop that is requested while samples are drawn, by the training's own thread here, ends them.
    let other = tempfile::tempdir()?;
    let mut training = begin(TrainingConfig { sample_share: 1.0, ..slow }, other.path())?;
    let stop = training.stopper();
    let began = std::time::Instant::now();
    let watcher = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(1));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(training.run()?.state, State::Stopped);
    watcher.join().map_err(|_| anyhow::anyhow!("the watcher"))?;
    assert!(began.elapsed().as_secs() < 60);
    Ok(())
}

#[test]
fn what_does_not_fit_the_data_is_named() -> Result<()> {
    let sprites = sprites()?;
    let fail = |config, net| {
        let problem = Training::new(config, net, &sprites, &Device::Cpu).unwrap_err();
        problem.to_string()
    };
    for (message, wants) in [
        (fail(config(), SimpleUNet { channels: 1, ..net() }), "set channels = 3"),
        (fail(config(), SimpleUNet { classes: 10, ..net() }), "set classes = 5, or 0 for none"),
        (fail(TrainingConfig { batch: 31, ..config() }, net()), "batch × accumulate = 62 images, but sprites has 60"),
        (fail(TrainingConfig { batch: usize::MAX, ..config() }, net()), "but sprites has 60"),
    ] {
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    Ok(())
}

#[test]
fn a_context_is_learned_and_the_configuration_of_a_run_says_so() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let context = SimpleUNet { classes: 0, context: 5, ..net() };
    let mut training = Training::new(config(), context, &sprites()?, &Device::Cpu)?.in_folder(temp.path())?;
    steps(&mut training, 2)?;
    let run = RunConfig::load(temp.path().join("config.toml"))?;
    assert_eq!(run.network, context.into());
    assert_eq!(run.architecture(&sprites()?), context.into());
    assert_eq!(run.training, config());
    Ok(())
}

/// As many steps as fit, and the learning rate has fallen when they end: unless the machine stood still meanwhile, so it may
/// try again.
#[test]
fn it_ends_within_a_time() -> Result<()> {
    let config = TrainingConfig { epochs: 1_000_000, stages: 1, decay: Decay::Cosine { floor: 0.0 }, ..config() };
    let mut last = f64::INFINITY;
    for _ in 0..5 {
        let mut training = Training::new(config.clone(), net(), &sprites()?, &Device::Cpu)?;
        training.end_within(std::time::Duration::from_secs(2));
        let steps = steps(&mut training, usize::MAX)?;
        assert_eq!(training.state(), State::Done);
        assert_eq!(training.total_steps(), steps.len());
        last = last.min(steps[steps.len() - 1].lr);
        if last < 0.2e-3 {
            return Ok(());
        }
    }
    panic!("the learning rate was {last} at the end")
}

/// A page that was shown before is told how it goes, and how it ended; without one there is no file.
#[test]
fn the_live_page_is_told() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let told =
        || -> Result<serde_json::Value> { Ok(serde_json::from_slice(&fs::read(temp.path().join("live.json"))?)?) };
    let mut training = begin(config(), temp.path())?;
    steps(&mut training, 2)?;
    drop(training);
    assert!(told().is_err());

    let _page = Live::new(temp.path())?;
    let token = told()?["token"].clone();
    let mut training = begin(config(), temp.path())?;
    steps(&mut training, 1)?;
    let now = told()?;
    assert_eq!((&now["token"], &now["state"]), (&token, &"running".into()));
    assert_eq!((&now["step"], &now["steps"]), (&1.into(), &14.into()));
    steps(&mut training, 100)?;
    let end = told()?;
    assert_eq!((&end["state"], &end["step"]), (&"done".into(), &14.into()));
    assert_eq!(end["samples"], "samples/epoch-0002.png");
    assert_eq!(end["samples_title"], "Samples after epoch 2");
    assert_eq!(end["curve"].as_array().map(Vec::len), Some(14));
    Ok(())
}

/// A network that is shown the image reduced learns from what it is shown, and its samples follow it.
#[test]
fn a_network_learns_to_enlarge() -> Result<()> {
    let config = TrainingConfig {
        epochs: 60,
        batch: 10,
        lr: 3e-3,
        condition_dropout: 0.0,
        ema: 0.0,
        sample_every: 0,
        ..Default::default()
    };
    let net = SimpleUNet { base: 8, classes: 0, low_res: 4, ..net() };
    let data = sprites()?;
    let mut training = Training::new(config, net, &data, &Device::Cpu)?;
    steps(&mut training, 1000)?;
    let samples = training.samples(20)?;
    let x0 = data.images(0..20, &Device::Cpu)?;
    let off = |samples: &Tensor| -> Result<f32> {
        let apart = (avg_pool2d(samples, 4)? - avg_pool2d(&x0, 4)?)?;
        Ok(apart.sqr()?.mean_all()?.to_scalar()?)
    };
    let others = Tensor::cat(&[samples.narrow(0, 1, 19)?, samples.narrow(0, 0, 1)?], 0)?;
    let (right, wrong) = (off(&samples)?, off(&others)?);
    assert!(right < 0.5 * wrong, "{right} {wrong}");
    Ok(())
}

/// The process must not grow from step to step.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_over_a_thousand_steps() -> Result<()> {
    fn resident() -> Result<f64> {
        let status = fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find(|l| l.starts_with("VmRSS")).context("VmRSS")?;
        let kilobytes: f64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
        Ok(kilobytes / 1e3)
    }
    if !crate::alone("training::memory_does_not_grow_over_a_thousand_steps", None)? {
        return Ok(());
    }
    let config = TrainingConfig { epochs: 300, sample_every: 0, ..config() };
    let mut training = Training::new(config, net(), &sprites()?, &Device::Cpu)?;
    steps(&mut training, 200)?;
    let before = resident()?;
    steps(&mut training, 1000)?;
    let grown = resident()? - before;
    // A graph that is kept would take some 500 kB a step.
    println!("{before:.0} MB, grown by {grown:.1} MB");
    assert!(grown < 60.0, "{before:.0} MB, grown by {grown:.0} MB");
    Ok(())
}
