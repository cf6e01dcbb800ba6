//! `diffusion train` as a user calls it: killed, interrupted, started twice, and with images of one's own.

use crate::{CONFIG, diffusion, fails, words};
use anyhow::{Context, Result, ensure};
use diffusion_core::rng::Rng;
use diffusion_core::train::Step;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Waits until the run has a checkpoint of so many steps.
fn until_step(child: &mut Child, folder: &Path, steps: usize) -> Result<()> {
    let log = folder.join("log.jsonl");
    let began = Instant::now();
    while fs::read_to_string(&log).unwrap_or_default().lines().count() < steps {
        ensure!(began.elapsed() < Duration::from_secs(120), "no step {steps}");
        ensure!(child.try_wait()?.is_none(), "it ended before step {steps}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Killed without warning at random moments, also while a checkpoint is written, and resumed each time: the same model and the same
/// log, to the bit, as if nothing had happened. `DIFFUSION_KILLS` says how often.
#[cfg(unix)]
#[test]
fn a_killed_training_goes_on_to_the_bit() -> Result<()> {
    let kills: usize = std::env::var("DIFFUSION_KILLS").ok().map_or(Ok(6), |n| n.parse())?;
    let temp = tempfile::tempdir()?;
    let config = CONFIG.replace("epochs = 4", &format!("epochs = {}", 8 * kills));
    fs::write(temp.path().join("run.toml"), config)?;
    let command = |name: &str| {
        let train = ["train", "--config", "run.toml", "--device", "cpu", "--out", name];
        diffusion(&train, temp.path())
    };
    let output = command("whole").output()?;
    ensure!(output.status.success(), words(&output));
    let mut rng = Rng::new(kills as u64);
    let (mut killed, mut ended) = (0, false);
    while killed < kills && !ended {
        let mut child = command("killed").spawn()?;
        std::thread::sleep(Duration::from_millis(20 + rng.below(400) as u64));
        child.kill()?;
        ended = child.wait()?.success();
        killed += 1;
    }
    let output = command("killed").output()?;
    ensure!(output.status.success(), words(&output));
    println!("killed {killed} times; {}", words(&output));
    let at = |name: &str, file: &str| temp.path().join(name).join(file);
    assert!(fs::read(at("whole", "model.safetensors"))? == fs::read(at("killed", "model.safetensors"))?);
    let losses = |name: &str| -> Result<Vec<(usize, u64)>> {
        let log = fs::read_to_string(at(name, "log.jsonl"))?;
        log.lines()
            .map(|line| {
                let step: Step = serde_json::from_str(line)?;
                Ok((step.index, step.loss.to_bits()))
            })
            .collect()
    };
    assert_eq!(losses("whole")?, losses("killed")?);
    Ok(())
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_says_how_to_go_on() -> Result<()> {
    let temp = tempfile::tempdir()?;
    fs::write(temp.path().join("run.toml"), CONFIG.replace("epochs = 4", "epochs = 4000"))?;
    let train = ["train", "--config", "run.toml", "--device", "cpu"];
    let mut child = diffusion(&train, temp.path()).spawn()?;
    let folder = temp.path().join("runs").join("sprites");
    until_step(&mut child, &folder, 3)?;
    let pid = child.id().to_string();
    ensure!(Command::new("kill").args(["-INT", &pid]).status()?.success());
    let output = child.wait_with_output()?;
    let said = words(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    for wants in ["saving a checkpoint", "stopped: ", "diffusion train --resume runs/sprites"] {
        assert!(said.contains(wants), "{said:?} lacks {wants:?}");
    }
    assert!(folder.join("model.safetensors").is_file());
    Ok(())
}

/// Two programs would write over each other's files.
#[test]
fn a_folder_in_use_is_refused_to_a_second_program() -> Result<()> {
    let temp = tempfile::tempdir()?;
    fs::write(temp.path().join("run.toml"), CONFIG.replace("epochs = 4", "epochs = 4000"))?;
    let train = ["train", "--config", "run.toml", "--device", "cpu", "--out", "run"];
    let mut child = diffusion(&train, temp.path()).spawn()?;
    until_step(&mut child, &temp.path().join("run"), 3)?;
    let said = fails(&train, temp.path())?;
    assert!(said.contains(&format!("process {} is training in it", child.id())), "{said}");
    // Whoever is killed holds nothing.
    child.kill()?;
    child.wait()?;
    let output =
        diffusion(&["train", "--resume", "run", "--train-steps", "3", "--device", "cpu"], temp.path()).output()?;
    ensure!(output.status.success(), words(&output));
    Ok(())
}

/// A folder of one's own from training to measures, and resumed from elsewhere.
#[test]
fn a_folder_of_ones_own_is_trained_on_and_measured() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let at = temp.path().join("my work");
    for i in 0..100u8 {
        let class = at.join(format!("my photos/{}", ["cats, old", "dogs"][usize::from(i % 2)]));
        fs::create_dir_all(&class)?;
        let image = image::RgbImage::from_fn(24, 21, |x, y| image::Rgb([2 * i, (x * 9) as u8, (y * 11) as u8]));
        image.save(class.join(format!("{i}.png")))?;
    }
    let run = |folder: &Path, arguments: &[&str]| -> Result<String> {
        let output = diffusion(arguments, folder).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", words(&output));
        Ok(words(&output))
    };
    fs::write(at.join("run.toml"), CONFIG)?;
    let train = ["train", "--config", "run.toml", "--task", "my photos", "--device", "cpu"];
    let said = fails(&train, &at)?;
    assert!(said.contains("the image is 21×24") && said.contains("--side 20"), "{said}");
    let said = run(&at, &[&train[..], &["--side", "16", "--epochs", "1"]].concat())?;
    assert!(said.contains("held out: 10 images; validation loss every 40 steps"), "{said}");
    assert!(said.contains("s, mean loss over the last 50 steps") && said.contains(", validation loss "), "{said}");
    let resume = ["train", "--resume", "my work/runs/my photos", "--epochs", "2", "--device", "cpu"];
    let said = run(temp.path(), &resume)?;
    assert!(said.contains("changed: training.epochs was 1 and is now 2") && said.contains("done: 22 of 22"), "{said}");
    // The data has changed: nothing is touched.
    let extra = at.join("my photos/dogs/extra.png");
    fs::copy(at.join("my photos/dogs/1.png"), &extra)?;
    let said = fails(&resume, temp.path())?;
    assert!(said.contains("it had 90 images and now has 91"), "{said}");
    fs::remove_file(extra)?;

    let inside = fails(&["train", "--task", ".", "--side", "16", "--device", "cpu"], &at.join("my photos"))?;
    assert!(inside.contains("inside the folder of training images"), "{inside}");

    // What each message says is done.
    let evaluate = ["evaluate", "--checkpoint", "runs/my photos/model.safetensors", "--n", "12", "--steps", "2"];
    let said = fails(&evaluate, &at)?;
    let command = said.split('`').nth(1).context("a command")?;
    let command: Vec<&str> = command
        .split('\'')
        .flat_map(|part| {
            if part.starts_with(' ') || part.starts_with("cargo") { part.split(' ').collect() } else { vec![part] }
        })
        .filter(|part| !part.is_empty())
        .collect();
    let said = run(&at, &[&command[2..], &["--device", "cpu", "--epochs", "2"]].concat())?;
    assert!(said.contains("test accuracy"), "{said}");
    let said = run(&at, &evaluate)?;
    assert!(said.contains("Fréchet distance"), "{said}");
    let said = run(
        &at,
        &["sample", "--checkpoint", "runs/my photos/model.safetensors", "--class", "cats, old", "--steps", "2"],
    )?;
    assert!(said.contains("1 image, classes cats, old"), "{said}");
    let said =
        run(&at, &["sample", "--checkpoint", "runs/my photos/model.safetensors", "--class", "1, 0", "--steps", "2"])?;
    assert!(said.contains("2 images, classes dogs, cats, old"), "{said}");
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
        "--train-steps",
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
        "train_steps = 2",
        "[training.process.vp.betas.cosine]",
        "context = 5",
        "classes = 0",
        "side = 8",
        "images = 64",
    ] {
        assert!(config.contains(wants), "{config} lacks {wants:?}");
    }
    Ok(())
}

/// The advice in each message, followed, works.
#[test]
fn advice_that_is_followed_works() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let at = |name: &str| temp.path().join(name);
    let run = |arguments: &[&str]| -> Result<String> {
        let output = diffusion(arguments, temp.path()).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", words(&output));
        Ok(words(&output))
    };
    // What fails, what is then said, and what is done in its place.
    let advised = |arguments: &[&str], advice: &str, then: &[&str]| -> Result<()> {
        let said = fails(arguments, temp.path())?;
        assert!(said.contains(advice), "{arguments:?}: {said:?} lacks {advice:?}");
        run(then)?;
        Ok(())
    };
    fs::write(at("run.toml"), CONFIG)?;
    let train = ["train", "--config", "run.toml", "--train-steps", "9", "--device", "cpu", "--out"];
    let and = |out: &'static str, more: &[&'static str]| [&train[..], &[out], more].concat();

    run(&and("a", &[]))?;
    fs::write(at("run.toml"), CONFIG.replace("epochs = 4", "epochs = 4\nprediction = \"v\""))?;
    advised(&and("a", &[]), "use another folder", &and("b", &[]))?;
    advised(&and("a", &[]), "--start-over", &and("a", &["--start-over"]))?;

    fs::write(at("run.toml"), CONFIG)?;
    advised(
        &and("d", &["--images", "20", "--batch", "30"]),
        "use a smaller batch (--batch)",
        &and("d", &["--images", "20", "--batch", "10"]),
    )?;

    fs::create_dir_all(at("photos"))?;
    for (i, (width, height)) in
        [(20, 24), (24, 20), (30, 30), (30, 30), (30, 30), (30, 30), (30, 30)].into_iter().enumerate()
    {
        let image =
            image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8, 30 * i as u8]));
        image.save(at("photos").join(format!("{i}.png")))?;
    }
    let photos =
        |out: &'static str, more: &[&'static str]| and(out, &[&["--task", "photos", "--batch", "1"], more].concat());
    advised(&photos("e", &[]), "--side 64", &photos("e", &["--side", "16"]))?;
    fs::write(at("photos/bad.png"), "no picture")?;
    advised(&photos("f", &["--side", "16"]), "--skip-bad", &photos("f", &["--side", "16", "--skip-bad"]))?;
    fs::remove_file(at("photos/bad.png"))?;
    advised(
        &photos("photos/run", &["--side", "16"]),
        "choose another folder with --out",
        &photos("g", &["--side", "16"]),
    )?;
    fs::remove_file(at("photos/3.png"))?;
    let more = photos("g", &["--side", "16", "--epochs", "9"]);
    advised(&more, "--new-data", &[&more[..], &["--new-data"]].concat())?;

    let export = ["export", "--run", "b", "--samples", "1", "--out", "m.safetensors"];
    advised(
        &[&export[..], &["--epochs", "7"]].concat(),
        "these epochs, counted from 0: 0",
        &[&export[..], &["--epochs", "0"]].concat(),
    )?;
    let diffusers = ["--diffusers", "folder"];
    let said = fails(&[&export[..], &diffusers].concat(), temp.path())?;
    assert!(said.contains("--model unet-2d-model"), "{said}");
    run(&[
        "train",
        "--model",
        "unet-2d-model",
        "--images",
        "8",
        "--train-steps",
        "1",
        "--sample-every",
        "0",
        "--out",
        "h",
    ])?;
    run(&["export", "--run", "h", "--samples", "1", "--out", "h.safetensors", "--diffusers", "folder"])?;
    run(&["sample", "--checkpoint", "folder", "--steps", "1"])?;
    Ok(())
}
