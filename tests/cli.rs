//! The command line as a user calls it.

use anyhow::{Context, Result, ensure};
use diffusion_core::nn::Contents;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn diffusion(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diffusion"));
    command.args(arguments).current_dir(folder);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What it printed on both streams.
fn words(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn fails(arguments: &[&str], folder: &Path) -> Result<String> {
    let output = diffusion(arguments, folder).output()?;
    ensure!(
        !output.status.success(),
        "{arguments:?} succeeded: {}",
        words(&output)
    );
    ensure!(
        output.status.code() != Some(101),
        "it panicked: {}",
        words(&output)
    );
    Ok(words(&output))
}

const CONFIG: &str = "
[data]
images = 64

[network.simple-unet]
base = 4
groups = 2

[training]
epochs = 4
batch = 8
checkpoint_every = 1
sample_every = 0
";

fn file(path: &Path) -> Result<BTreeMap<String, Vec<f32>>> {
    let tensors = Contents::load(path)?.tensors;
    tensors
        .iter()
        .map(|(name, x)| Ok((name.clone(), x.flatten_all()?.to_vec1()?)))
        .collect()
}

/// Waits until the run has a checkpoint of so many steps.
fn until_step(child: &mut Child, folder: &Path, steps: usize) -> Result<()> {
    let log = folder.join("log.jsonl");
    let began = Instant::now();
    while fs::read_to_string(&log).unwrap_or_default().lines().count() < steps {
        ensure!(
            began.elapsed() < Duration::from_secs(120),
            "no step {steps}"
        );
        ensure!(child.try_wait()?.is_none(), "it ended before step {steps}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Killed without warning, twice, and taken up again by another process: the same model to the bit.
#[cfg(unix)]
#[test]
fn a_killed_training_goes_on_to_the_bit() -> Result<()> {
    let temp = tempfile::tempdir()?;
    fs::write(temp.path().join("run.toml"), CONFIG)?;
    let whole = [
        "train", "--config", "run.toml", "--device", "cpu", "--out", "whole",
    ];
    let output = diffusion(&whole, temp.path()).output()?;
    ensure!(output.status.success(), words(&output));
    assert!(
        words(&output).contains("done: 32 of 32 steps"),
        "{}",
        words(&output)
    );

    let killed = [
        "train", "--config", "run.toml", "--device", "cpu", "--out", "killed",
    ];
    let mut child = diffusion(&killed, temp.path()).spawn()?;
    until_step(&mut child, &temp.path().join("killed"), 5)?;
    child.kill()?;
    child.wait()?;
    let resume = ["train", "--resume", "killed", "--device", "cpu"];
    let mut child = diffusion(&resume, temp.path()).spawn()?;
    until_step(&mut child, &temp.path().join("killed"), 14)?;
    child.kill()?;
    child.wait()?;
    let output = diffusion(&resume, temp.path()).output()?;
    ensure!(output.status.success(), words(&output));
    assert!(
        words(&output).contains("going on after "),
        "{}",
        words(&output)
    );
    let model = |name: &str| file(&temp.path().join(name).join("model.safetensors"));
    assert!(model("whole")? == model("killed")?);
    Ok(())
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_says_how_to_go_on() -> Result<()> {
    let temp = tempfile::tempdir()?;
    fs::write(
        temp.path().join("run.toml"),
        CONFIG.replace("epochs = 4", "epochs = 4000"),
    )?;
    let train = ["train", "--config", "run.toml", "--device", "cpu"];
    let mut child = diffusion(&train, temp.path()).spawn()?;
    let folder = temp.path().join("runs").join("sprites");
    until_step(&mut child, &folder, 3)?;
    let pid = child.id().to_string();
    ensure!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()?
            .success()
    );
    let output = child.wait_with_output()?;
    let said = words(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    for wants in [
        "saving a checkpoint",
        "stopped: ",
        "diffusion train --resume runs/sprites",
    ] {
        assert!(said.contains(wants), "{said:?} lacks {wants:?}");
    }
    assert!(folder.join("model.safetensors").is_file());
    Ok(())
}

#[test]
fn flags_go_before_the_file() -> Result<()> {
    let temp = tempfile::tempdir()?;
    fs::write(temp.path().join("run.toml"), CONFIG)?;
    let train = [
        "train",
        "--config",
        "run.toml",
        "--epochs",
        "1",
        "--max-steps",
        "2",
        "--seed",
        "7",
        "--betas",
        "cosine",
        "--condition",
        "context",
        "--side",
        "8",
        "--out",
        "x",
    ];
    let output = diffusion(&train, temp.path()).output()?;
    ensure!(output.status.success(), words(&output));
    let config = fs::read_to_string(temp.path().join("x/config.toml"))?;
    for wants in [
        "seed = 7",
        "epochs = 1",
        "max_steps = 2",
        "[training.betas.cosine]",
        "context = 5",
        "classes = 0",
        "side = 8",
        "images = 64",
    ] {
        assert!(config.contains(wants), "{config} lacks {wants:?}");
    }
    Ok(())
}

#[test]
fn mistakes_are_named_and_what_would_be_right() -> Result<()> {
    let temp = tempfile::tempdir()?;
    fs::write(
        temp.path().join("bad.toml"),
        "[training]\nbatch = 8\nlearning_rate = 1\n",
    )?;
    fs::create_dir(temp.path().join("empty"))?;
    for (arguments, wants) in [
        (
            &["train", "--config", "bad.toml"][..],
            &["bad.toml", "line 3", "learning_rate", "lr"][..],
        ),
        (&["train", "--config", "none.toml"], &["none.toml"]),
        (&["train", "--task", "mnits"], &["mnits", "fashion-mnist"]),
        (
            &["train", "--model", "resnet"],
            &["--model", "resnet", "simple-unet"],
        ),
        (
            &["train", "--betas", "cosin"],
            &["--betas", "cosin", "cosine"],
        ),
        (&["train", "--batch", "0"], &["batch = 0"]),
        (&["train", "--images", "10"], &["batch", "10"]),
        (
            &["train", "--device", "tpu"],
            &["tpu", "auto, cpu, cuda or metal"],
        ),
        (&["train", "--device", "cuda"], &["CUDA"]),
        (
            &["train", "--resume", "empty"],
            &["--resume empty", "no folder of a run"],
        ),
        (&["train", "--minutes", "0"], &["--minutes 0"]),
        (&["train", "--minutes", "1e300"], &["--minutes 1"]),
        (
            &["summary", "--model", "resnet"],
            &["resnet", "simple-unet"],
        ),
        (
            &["summary", "--side", "30"],
            &["--side 30", "divisible by 4"],
        ),
        (&["data", "fetch", "imagenet"], &["imagenet", "cifar10"]),
    ] {
        let said = fails(arguments, temp.path())?;
        for want in wants {
            assert!(
                said.contains(want),
                "{arguments:?}: {said:?} lacks {want:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_summary_adds_up() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let output = diffusion(&["summary", "--model", "simple-unet"], temp.path()).output()?;
    let said = words(&output);
    let last = said.lines().last().context("a line")?;
    assert!(last.contains("2,620,545"), "{said}");
    assert!(
        said.contains("down2.conv1") && said.contains("128×14×14"),
        "{said}"
    );
    Ok(())
}
