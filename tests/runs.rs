//! The folder of a run: it is resumed to the bit, and not by what does not belong to it.

use crate::training::{begin, checkpoints, config, cosine, net, same_end, sprites, steps};
use anyhow::{Context, Result};
use diffusion_core::candle::Device;
use diffusion_core::config::RunConfig;
use diffusion_core::data::{Augmentation, Cache, Dataset, Source, Split};
use diffusion_core::model::Model;
use diffusion_core::nn::Checkpoint;
use diffusion_core::prediction::Prediction;
use diffusion_core::process::NoiseProcess;
use diffusion_core::train::{Existing, Optimiser, State, Training, TrainingConfig};
use diffusion_core::unet::SimpleUNet;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn resumed_is_uninterrupted_to_the_bit() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (whole, broken) = (temp.path().join("whole"), temp.path().join("broken"));
    let mut training = begin(config(), &whole)?;
    assert_eq!(training.total_steps(), 14);
    assert_eq!(steps(&mut training, 100)?.len(), 14);
    assert_eq!(training.state(), State::Done);

    // Given up after steps that no checkpoint has seen, twice; the second time with the newest checkpoint cut off.
    let mut training = begin(config(), &broken)?;
    assert!(training.resumed().is_none());
    steps(&mut training, 8)?;
    drop(training);
    assert_eq!(fs::read_to_string(broken.join("log.jsonl"))?.lines().count(), 8);
    let mut training = begin(config(), &broken)?;
    let resumed = training.resumed().context("a checkpoint")?;
    assert_eq!((resumed.steps, resumed.skipped.len()), (6, 0));
    assert_eq!(training.history().len(), 6);
    steps(&mut training, 4)?;
    drop(training);
    let newest = checkpoints(&broken)?.pop().context("a checkpoint")?;
    assert!(newest.ends_with("step-000000009.safetensors"));
    let bytes = fs::read(&newest)?;
    fs::write(&newest, &bytes[..bytes.len() / 2])?;
    let mut training = begin(config(), &broken)?;
    let resumed = training.resumed().context("a checkpoint")?;
    assert_eq!(resumed.steps, 6);
    assert!(resumed.skipped[0].contains("step-000000009.safetensors: cannot load"), "{resumed:?}");
    steps(&mut training, 100)?;
    same_end(&whole, &broken)?;

    // The best that can be known of it stays, and only as many checkpoints as wanted.
    assert_eq!(checkpoints(&broken)?.len(), 2);
    for name in ["epoch-0001.png", "epoch-0002.png"] {
        let sheet = |folder: &Path| fs::read(folder.join("samples").join(name));
        assert_eq!(sheet(&whole)?, sheet(&broken)?);
    }
    // Once more: there is nothing left to do.
    let mut training = begin(config(), &broken)?;
    assert_eq!(training.history().len(), 14);
    assert!(training.next().is_none());
    assert_eq!(training.state(), State::Done);
    Ok(())
}

#[test]
fn a_run_with_muon_is_resumed_to_the_bit() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (whole, broken) = (temp.path().join("whole"), temp.path().join("broken"));
    let config = || TrainingConfig { optimiser: Optimiser::Muon, ..config() };
    steps(&mut begin(config(), &whole)?, 100)?;
    steps(&mut begin(config(), &broken)?, 8)?;
    assert!(fs::read_to_string(broken.join("config.toml"))?.contains("optimiser = \"muon\""));
    let mut training = begin(config(), &broken)?;
    assert_eq!(training.history().len(), 6);
    steps(&mut training, 100)?;
    same_end(&whole, &broken)?;
    // Not with another optimiser.
    let said = begin(crate::training::config(), &broken).unwrap_err().to_string();
    assert!(said.contains("training.optimiser = \"muon\", and this one none"), "{said}");
    Ok(())
}

#[test]
fn a_loss_that_is_no_number_stops_and_leaves_the_last_good_checkpoint() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let config =
        TrainingConfig { lr: 1e30, warmup: 0, checkpoint_every: 1, clip: f64::INFINITY, sample_every: 0, ..config() };
    let mut training = begin(config, temp.path())?;
    let problem = steps(&mut training, 100).unwrap_err().to_string();
    let done = training.history().len();
    assert!((1..14).contains(&done));
    for wants in [&format!("of step {done} is"), "lr = 1e30", "learning rate is too high", "last good checkpoint is"] {
        assert!(problem.contains(wants), "{problem:?} lacks {wants:?}");
    }
    assert_eq!(training.state(), State::Failed);
    assert!(training.next().is_none());
    let newest = checkpoints(temp.path())?.pop().context("a checkpoint")?;
    assert!(problem.contains(&newest.display().to_string()));
    Checkpoint::load(&newest)?;
    Ok(())
}

#[test]
fn it_stops_when_it_is_asked_to_with_the_model_in_hand() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let mut training = begin(config(), temp.path())?;
    steps(&mut training, 4)?;
    fs::write(temp.path().join("stop"), "")?;
    assert!(training.next().is_none());
    assert_eq!(training.state(), State::Stopped);
    assert_eq!(training.samples(5)?.dims(), &[5, 3, 16, 16]);
    assert!(Model::load(temp.path().join("model.safetensors"), &Device::Cpu).is_ok());
    // An old wish is forgotten; a new one can come from another thread.
    let mut training = begin(config(), temp.path())?;
    assert_eq!(training.resumed().context("a checkpoint")?.steps, 4);
    steps(&mut training, 1)?;
    training.stopper().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(training.next().is_none());
    let report = training.report().to_string();
    assert!(report.starts_with("stopped: 5 of 14 steps in "), "{report}");
    Ok(())
}

#[test]
fn a_folder_is_for_one_run_only() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let mut training = begin(config(), temp.path())?;
    steps(&mut training, 7)?;
    drop(training);
    let fail = |config, net, data: &Dataset| -> Result<String> {
        let training = Training::new(config, net, data, &Device::Cpu)?;
        Ok(training.in_folder(temp.path()).unwrap_err().to_string())
    };
    let sprites = sprites()?;
    let message = fail(TrainingConfig { beta2: 0.5, ..config() }, net(), &sprites)?;
    assert!(message.contains("its run has training.beta2 = 0.999, and this one 0.5; use 0.999"), "{message}");
    let message = fail(config(), SimpleUNet { base: 8, ..net() }, &sprites)?;
    assert!(message.contains("simple-unet.base = 4, and this one 8"), "{message}");
    let message =
        fail(TrainingConfig { process: NoiseProcess::default(), sample_steps: 3, ..config() }, net(), &sprites)?;
    assert!(message.contains("training.process.vp."), "{message}");
    // More epochs, and other sheets of samples, are the same run.
    let longer = TrainingConfig { epochs: 5, samples: 3, ..config() };
    assert_eq!(begin(longer, temp.path())?.resumed().context("a checkpoint")?.steps, 6);
    Ok(())
}

/// Everything that is in a folder, but for the lock.
fn contents(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(contents(&path)?);
        } else if !path.ends_with("lock") {
            all.insert(path.clone(), fs::read(&path)?);
        }
    }
    Ok(all)
}

/// An error leaves all as it was; a word of the user decides.
#[test]
fn a_run_whose_data_has_changed_is_not_lost() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let folder = temp.path();
    let begin = |data: &Dataset, existing| -> Result<Training> {
        Training::new(config(), net(), data, &Device::Cpu)?.in_folder_with(folder, existing)
    };
    steps(&mut begin(&sprites()?, Existing::Resume)?, 7)?;
    let before = contents(folder)?;
    for (data, wants) in [
        (Dataset::sprites(61, 1)?, "it had 60 images and now has 61"),
        (Dataset::sprites(60, 2)?, "images, their order, captions or attributes have changed"),
    ] {
        let said = begin(&data, Existing::Resume).unwrap_err().to_string();
        for wants in [wants, "sprites is not the data", "--new-data", "--start-over"] {
            assert!(said.contains(wants), "{said:?} lacks {wants:?}");
        }
        assert!(contents(folder)? == before);
    }
    let other = Dataset::sprites(61, 1)?;
    let mut goes_on = begin(&other, Existing::NewData)?;
    let resumed = goes_on.resumed().context("a checkpoint")?;
    assert_eq!(
        (resumed.steps, &resumed.changed[..]),
        (6, &["sprites: it had 60 images and now has 61".to_owned()][..])
    );
    assert!(fs::read_to_string(folder.join("changes.txt"))?.starts_with("after 6 steps: sprites: it had"));
    steps(&mut goes_on, 4)?;
    drop(goes_on);
    // Its own checkpoint now is of the new data.
    assert_eq!(begin(&other, Existing::Resume)?.resumed().context("a checkpoint")?.steps, 9);
    let mut over = begin(&sprites()?, Existing::StartOver)?;
    assert!(over.resumed().is_none() && over.history().is_empty() && checkpoints(folder)?.is_empty());
    steps(&mut over, 3)?;
    assert_eq!(checkpoints(folder)?.len(), 1);
    Ok(())
}

/// In `config.toml`, as a reader edits it, or in the cell: of a value that may change the change is noted.
#[test]
fn an_edited_configuration_is_named_or_noted() -> Result<()> {
    let temp = tempfile::tempdir()?;
    steps(&mut begin(config(), temp.path())?, 7)?;
    let path = temp.path().join("config.toml");
    let written = fs::read_to_string(&path)?;
    let edited = |from: &str, to: &str, config: TrainingConfig| -> Result<String> {
        assert!(written.contains(from), "{written}");
        fs::write(&path, written.replace(from, to))?;
        let before = contents(temp.path())?;
        let said = begin(config, temp.path()).unwrap_err().to_string();
        assert!(contents(temp.path())? == before);
        Ok(said)
    };
    for (said, wants) in [
        (
            edited("seed = 42", "seed = 43", TrainingConfig { seed: 43, ..config() })?,
            "training.seed = 42, and this one 43",
        ),
        (
            edited("\"v\"", "\"x0\"", TrainingConfig { prediction: Prediction::X0, ..config() })?,
            "training.prediction = \"v\", and this one \"x0\"",
        ),
        (edited("beta2 = 0.999", "beta2 = [", config())?, "config.toml is damaged"),
    ] {
        assert!(said.contains(wants), "{said:?} lacks {wants:?}");
    }
    fs::write(&path, &written)?;
    let training = begin(TrainingConfig { lr: 5e-4, epochs: 3, ..config() }, temp.path())?;
    let changed = &training.resumed().context("a checkpoint")?.changed;
    assert_eq!(changed[..], ["training.epochs was 2 and is now 3", "training.lr was 0.001 and is now 0.0005"]);
    assert_eq!(fs::read_to_string(temp.path().join("changes.txt"))?.lines().count(), 2);
    // A rate that no step would have is a mistake.
    let done = tempfile::tempdir()?;
    steps(&mut begin(config(), done.path())?, 100)?;
    let said = begin(TrainingConfig { lr: 5e-4, ..config() }, done.path()).unwrap_err().to_string();
    assert!(said.contains("training.lr was 0.001 and is now 0.0005, but no step is left"), "{said}");
    Ok(())
}

/// The checkpoint knows how far it was; the log is repaired, and what it lacks is said.
#[test]
fn a_damaged_log_is_no_lost_step() -> Result<()> {
    let temp = tempfile::tempdir()?;
    steps(&mut begin(config(), temp.path())?, 100)?;
    let log = temp.path().join("log.jsonl");
    let whole = fs::read(&log)?;
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let half = whole[..whole.len() / 2].to_vec();
    let zeros = [&lines[..5].concat()[..], &[0; 300], b"\n", &lines[7..].concat()].concat();
    for (damaged, left) in [(half, None), (zeros, Some(12)), (Vec::new(), Some(0)), (whole.clone(), Some(14))] {
        fs::write(&log, &damaged)?;
        let training = begin(config(), temp.path())?;
        let (known, resumed) = (training.history().len(), training.resumed().context("a checkpoint")?);
        assert!(left.is_none_or(|left| left == known) && resumed.unlogged == 14 - known, "{resumed:?}");
        assert!(training.report().to_string().starts_with("done: 14 of 14 steps"), "{}", training.report());
        assert_eq!(known < 14, resumed.to_string().contains("log.jsonl lacks"));
        // Further steps are entered where they belong.
        assert!(training.history().windows(2).all(|pair| pair[0].index < pair[1].index));
        assert_eq!(fs::read_to_string(&log)?.lines().count(), known);
    }
    fs::remove_file(&log)?;
    let mut longer = begin(TrainingConfig { epochs: 3, ..config() }, temp.path())?;
    assert_eq!(steps(&mut longer, 100)?.len(), 7);
    assert_eq!(longer.epoch_losses().len(), 1);
    Ok(())
}

#[test]
fn checkpoints_none_of_which_can_be_used_are_not_written_over() -> Result<()> {
    let temp = tempfile::tempdir()?;
    steps(&mut begin(config(), temp.path())?, 7)?;
    for path in checkpoints(temp.path())? {
        fs::write(path, "damaged")?;
    }
    let before = contents(temp.path())?;
    let said = begin(config(), temp.path()).unwrap_err().to_string();
    assert!(said.contains("none of its checkpoints can be used (step-000000006.safetensors"), "{said}");
    assert!(contents(temp.path())? == before);
    Ok(())
}

/// Metadata come in no order of their own.
#[test]
fn equal_trainings_write_equal_files() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let run = |name: &str| -> Result<BTreeMap<PathBuf, Vec<u8>>> {
        let folder = temp.path().join(name);
        steps(&mut begin(config(), &folder)?, 100)?;
        let all = contents(&folder)?.into_iter();
        all.map(|(path, bytes)| Ok((path.strip_prefix(&folder)?.to_owned(), bytes))).collect()
    };
    let (a, b) = (run("a")?, run("b")?);
    assert!(a.keys().eq(b.keys()));
    // The log and the checkpoints also hold seconds.
    for name in ["model.safetensors", "config.toml", "samples/epoch-0002.png"] {
        assert!(a[Path::new(name)] == b[Path::new(name)], "{name}");
    }
    Ok(())
}

#[test]
fn a_session_can_end_early_without_changing_the_run() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (whole, parts) = (temp.path().join("whole"), temp.path().join("parts"));
    steps(&mut begin(config(), &whole)?, 100)?;
    let mut training = begin(config(), &parts)?;
    training.stop_after(5);
    assert_eq!(training.run()?.to_string().split(" in ").next(), Some("stopped: 5 of 14 steps"));
    steps(&mut begin(config(), &parts)?, 100)?;
    same_end(&whole, &parts)
}

/// A run of version 0.1, stopped after 8 of 12 steps, goes on as that version went on.
#[test]
fn a_run_of_version_0_1_resumes() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/run-0.1");
    fs::create_dir(temp.path().join("checkpoints"))?;
    for name in ["config.toml", "log.jsonl", "checkpoints/step-000000008.safetensors"] {
        fs::copy(golden.join(name), temp.path().join(name))?;
    }
    let mut run = RunConfig::load(temp.path().join("config.toml"))?;
    run.training.train_steps = 0;
    let data = run.data.load(Split::Train, run.training.seed)?;
    let architecture = run.architecture(&data);
    let training = Training::new(run.training.clone(), architecture, &data, &Device::Cpu)?;
    let mut training = training.source(run.data).in_folder(temp.path())?;
    assert_eq!(training.resumed().context("a checkpoint")?.skipped, [""; 0]);
    assert_eq!(training.history().len(), 8);
    let losses = [0.2853391468524933, 0.2703321874141693, 0.27414727210998535, 0.2681349813938141];
    for (step, want) in training.by_ref().zip(losses) {
        let loss = step?.loss;
        assert!((loss / want - 1.0).abs() < 1e-5, "{loss} {want}");
    }
    assert_eq!(training.history().len(), 12);

    let model = Model::load(golden.join("model.safetensors"), &Device::Cpu)?;
    assert_eq!(model.info.prediction, Prediction::V);
    assert_eq!(model.info.process, cosine());
    assert_eq!(model.info.images_seen, 64);
    Ok(())
}

/// Images that are read from a file train as those in memory, to the bit, and a run can change from one to the other.
#[test]
fn images_in_a_file_train_as_those_in_memory() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let at = |name: &str| temp.path().join(name);
    fs::create_dir(at("photos"))?;
    for i in 0..30u8 {
        let image = image::RgbImage::from_fn(12, 9, |x, y| image::Rgb([8 * i, 20 * x as u8, 25 * y as u8]));
        image.save(at("photos").join(format!("{i}.png")))?;
    }
    let source = Source {
        task: at("photos").to_str().context("a path")?.to_owned(),
        side: Some(8),
        augment: vec![Augmentation::HorizontalFlip],
        ..Source::default()
    };
    let memory = source.load_both(1)?;
    let file = source.load_both_cached(1, &Cache { in_memory: 0, ..Cache::in_folder(temp.path()) })?;
    assert!(memory.0.bytes().is_some() && file.0.bytes().is_none());
    let begin = |(train, held_out): &(Dataset, Dataset), folder: &str| -> Result<Training> {
        let net = SimpleUNet { classes: 1, ..net() };
        let training = Training::new(config(), net, train, &Device::Cpu)?.source(source.clone());
        training.validate_on(held_out.clone())?.in_folder(at(folder))
    };
    let (mut of_memory, mut of_file) = (begin(&memory, "memory")?, begin(&file, "file")?);
    steps(&mut of_memory, 100)?;
    steps(&mut of_file, 100)?;
    same_end(&at("memory"), &at("file"))?;
    assert!(of_memory.validation_loss().is_some());
    assert_eq!(of_memory.validation_loss(), of_file.validation_loss());
    steps(&mut begin(&memory, "both")?, 3)?;
    let mut training = begin(&file, "both")?;
    assert_eq!(training.resumed().context("a checkpoint")?.steps, 3);
    steps(&mut training, 100)?;
    same_end(&at("memory"), &at("both"))
}
