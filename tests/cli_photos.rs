//! `diffusion train` on photographs of one's own: decoded once, and not all in memory.

use crate::{CONFIG, diffusion, fails, succeeds, words};
use anyhow::{Context, Result, ensure};
use image::{Rgb, RgbImage};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Pictures of different sizes.
fn photographs(folder: &Path, n: usize) -> Result<()> {
    fs::create_dir_all(folder)?;
    for i in 0..n {
        let (width, height) = (20 + i as u32 % 3, 18);
        let image = RgbImage::from_fn(width, height, |x, y| Rgb([(9 * i) as u8, 12 * x as u8, 14 * y as u8]));
        image.save(folder.join(format!("{i}.png")))?;
    }
    Ok(())
}

/// Replaces the content of the pictures without changing what identifies them, so that they cannot be decoded any more.
pub(crate) fn garble(pictures: &[PathBuf]) -> Result<()> {
    for path in pictures {
        let about = fs::metadata(path)?;
        fs::write(path, vec![7; about.len() as usize])?;
        File::options().write(true).open(path)?.set_modified(about.modified()?)?;
    }
    Ok(())
}

pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// Decoded once: a run that is resumed reads no picture again and goes on to the bit, unless its cache is damaged.
#[test]
fn a_resumed_run_does_not_decode_again() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (folder, at) = (temp.path(), |name: &str| temp.path().join(name));
    let run = |arguments: &str| succeeds(&format!("train {arguments} --device cpu"), folder);
    fs::write(at("run.toml"), CONFIG)?;
    photographs(&at("photos"), 40)?;
    let train = "--config run.toml --task photos --side 16";
    run(&format!("{train} --out whole"))?;
    run(&format!("{train} --out parts --epochs 1"))?;
    assert!(at("parts/images.cache").is_file());
    // Another configuration is refused before anything is decoded.
    let cache = fs::read(at("parts/images.cache"))?;
    let other = ["train", "--config", "run.toml", "--task", "photos", "--side", "8", "--out", "parts"];
    let said = fails(&other, folder)?;
    assert!(said.contains("its run has data.side = 16, and this one 8") && !said.contains("decoded again"), "{said}");
    assert!(fs::read(at("parts/images.cache"))? == cache);
    photographs(&at("other"), 40)?;
    let other = ["train", "--config", "run.toml", "--task", "other", "--side", "16", "--out", "parts"];
    let said = fails(&other, folder)?;
    assert!(said.contains("its classes were photos and are now other") && said.contains("it is kept"), "{said}");
    assert!(fs::read(at("parts/images.cache"))? == cache);

    let copies = at("elsewhere/photos");
    fs::create_dir_all(&copies)?;
    for path in files(&at("photos"))? {
        let copy = copies.join(path.file_name().context("a name")?);
        fs::copy(&path, &copy)?;
        File::options().write(true).open(&copy)?.set_modified(fs::metadata(&path)?.modified()?)?;
    }
    garble(&files(&at("photos"))?)?;
    run("--resume parts --epochs 2")?;
    // Its pictures have moved.
    fs::remove_dir_all(at("photos"))?;
    let said = fails(&["train", "--resume", "parts", "--epochs", "3"], folder)?;
    let advice = "train --config parts/config.toml --task NEW_PATH --out parts";
    assert!(said.contains("photos is not there") && said.contains(advice), "{said}");
    let moved = advice.replace("train", "").replace("NEW_PATH", "elsewhere/photos");
    let said = run(&format!("{moved} --epochs 3"))?;
    assert!(said.contains("changed: data.task was") && !said.contains("decoded again"), "{said}");
    // Its cache is damaged.
    fs::write(at("parts/images.cache"), &cache[..cache.len() - 7])?;
    let said = run("--resume parts --epochs 4")?;
    assert!(said.contains("images.cache: it is truncated") && said.contains("decoded again"), "{said}");
    assert!(fs::read(at("parts/images.cache"))? == cache);
    assert!(fs::read(at("whole/model.safetensors"))? == fs::read(at("parts/model.safetensors"))?);
    // What comes after the training uses it, too.
    garble(&files(&copies)?)?;
    run("--resume parts --epochs 5")?;
    succeeds("export --run parts --epochs 4 --samples 1 --out m.safetensors", folder)?;
    let said = fails(&["evaluate", "--checkpoint", "parts/model.safetensors", "--n", "8", "--steps", "1"], folder)?;
    assert!(said.contains("--classifier: there is no"), "{said}");
    Ok(())
}

/// The size of the pictures is known before they are decoded, which would fail here, and the advice is right.
#[test]
fn sizes_that_cannot_be_trained_on_are_named_before_anything_is_decoded() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let folder = temp.path();
    fs::write(folder.join("run.toml"), CONFIG.replace("epochs = 4", "epochs = 4\ntrain_steps = 1"))?;
    for (name, sizes) in [("large", [(300, 200); 9]), ("odd", [(50, 50); 9]), ("mixed", MIXED)] {
        fs::create_dir(folder.join(name))?;
        for (i, (width, height)) in sizes.into_iter().enumerate() {
            let path = folder.join(format!("{name}/{i}.png"));
            RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, (x * y) as u8, i as u8])).save(&path)?;
            if i > 6 {
                // The header of the picture is there, and little else.
                let bytes = fs::read(&path)?;
                fs::write(&path, &bytes[..60])?;
            }
        }
    }
    let train = ["train", "--device", "cpu"];
    let simple = [&train[..], &["--config", "run.toml"]].concat();
    for (task, more, wants) in [
        ("large", &train[..], "the pictures of large have 300×200 pixels, and training on more than 128×128"),
        ("large", &train, "Set a side: --side 64"),
        ("large", &[&train[..], &["--model", "context-unet"]].concat(), "Set a side: --side 16"),
        ("large", &[&simple[..], &["--model", "unet"]].concat(), "warning: the pictures of large have 300×200"),
        (
            "large",
            &[&simple[..], &["--model", "unet"]].concat(),
            "unet: the image is 200×300, but its sides are halved",
        ),
        ("odd", &train, "the pictures of odd have 50×50 pixels: simple-unet: the image is 50×50"),
        ("odd", &simple, "(--side 48, or"),
        (
            "odd",
            &[&train[..], &["--model", "context-unet"]].concat(),
            "the network is for 16×16, 20×20, 24×24 or 28×28",
        ),
        ("odd", &[&train[..], &["--model", "conditional-unet"]].concat(), "(--side 48, or"),
        (
            "odd",
            &[&train[..], &["--model", "attention-unet", "--side", "50"]].concat(),
            "side = 50: attention-unet: the image is 50×50",
        ),
        ("mixed", &train, "mixed/2.png has 9×50 pixels, "),
        ("mixed", &train, "mixed/1.png has 60×20. Set a side (--side 64"),
        ("mixed", &[&train[..], &["--model", "context-unet"]].concat(), "Set a side (--side 16"),
    ] {
        let said = fails(&[more, &["--task", task]].concat(), folder)?;
        assert!(said.contains(wants), "{more:?}, {task}: {said:?} lacks {wants:?}");
    }
    assert!(!folder.join("runs").exists(), "nothing was decoded");
    for (task, side) in [("large", "64"), ("odd", "48"), ("mixed", "64"), ("mixed", "16")] {
        for i in 7..9 {
            fs::copy(folder.join(format!("{task}/0.png")), folder.join(format!("{task}/{i}.png")))?;
        }
        let more = ["--task", task, "--side", side, "--batch", "1", "--start-over"];
        let output = diffusion(&[&simple[..], &more].concat(), folder).output()?;
        ensure!(output.status.success(), words(&output));
    }
    Ok(())
}

/// Pictures of different sizes, of which the second is the largest.
const MIXED: [(u32, u32); 9] =
    [(20, 24), (60, 20), (9, 50), (30, 30), (30, 30), (30, 30), (30, 30), (30, 30), (30, 30)];

/// The largest size of a process's address space in kB, while it runs.
#[cfg(target_os = "linux")]
fn address_space(arguments: &[&str], folder: &Path) -> Result<u64> {
    let mut child = diffusion(arguments, folder).env("MALLOC_ARENA_MAX", "1").spawn()?;
    let mut largest = 0;
    while child.try_wait()?.is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        largest = largest.max(kilobytes.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), words(&output));
    Ok(largest)
}

/// 20,000 pictures, 246 MB of pixels, with half as much more memory than a hundred need.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_may_be_larger_than_memory() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (folder, at) = (temp.path(), |name: &str| temp.path().join(name));
    fs::write(at("run.toml"), CONFIG.replace("epochs = 4", "epochs = 4\ntrain_steps = 2"))?;
    for (name, n) in [("few", 100), ("many", 20_000)] {
        fs::create_dir(at(name))?;
        // A few files with many names.
        for i in 0..10u32 {
            let image = RgbImage::from_fn(64 + 9 * (i / 9), 64, |x, y| Rgb([25 * i as u8, 3 * x as u8, 4 * y as u8]));
            image.save(at(name).join(format!("{i}.bmp")))?;
        }
        for i in 10..n {
            fs::hard_link(at(name).join(format!("{}.bmp", i % 10)), at(name).join(format!("{i}.bmp")))?;
        }
    }
    let train = |name| ["train", "--config", "run.toml", "--side", "64", "--device", "cpu", "--task", name];
    let kilobytes = address_space(&train("few"), folder)? + 246_000 / 2;
    let limited = |arguments: &[&str]| -> Result<String> {
        let plain = diffusion(arguments, folder);
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg(format!("ulimit -v {kilobytes} && exec \"$0\" \"$@\"")).arg(plain.get_program());
        command.args(plain.get_args()).current_dir(folder).env("MALLOC_ARENA_MAX", "1");
        let output = command.output()?;
        ensure!(output.status.success(), "with {kilobytes} kB: {}", words(&output));
        Ok(words(&output))
    };
    let said = limited(&train("many"))?;
    assert!(
        said.contains("many: 18000 images of 3×64×64") && said.contains("read from runs/many/images.cache"),
        "{said}"
    );
    garble(&[0, 9].map(|i| at(&format!("many/{i}.bmp"))))?;
    let said = limited(&["train", "--resume", "runs/many", "--device", "cpu"])?;
    assert!(said.contains("done: 2 of 2 steps"), "{said}");
    Ok(())
}
