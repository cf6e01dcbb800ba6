//! Text on the command line: training with captions, prompts, and what samples show.

use crate::{CONFIG, diffusion, fails, succeeds, weights, words};
use anyhow::{Result, ensure};
use std::fs;
use std::path::Path;

/// Runs a command with one more argument, which may contain spaces.
fn with(arguments: &str, last: &str, folder: &Path) -> Result<String> {
    let arguments: Vec<&str> = arguments.split_whitespace().chain([last]).collect();
    let output = diffusion(&arguments, folder).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", words(&output));
    Ok(words(&output))
}

#[test]
fn sprites_are_drawn_from_prompts_and_measured() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let folder = temp.path();
    let run = |arguments: &str| succeeds(arguments, folder);
    fs::write(folder.join("c.toml"), CONFIG.replace("images = 64", "images = 300"))?;
    let said = run("train --config c.toml --condition text --train-steps 6 --device cpu --out text")?;
    assert!(said.contains("different words, the longest of") && said.contains("validation"), "{said}");
    let config = fs::read_to_string(folder.join("text/config.toml"))?;
    for wants in ["condition = \"text\"", "captions = true", "vocabulary = "] {
        assert!(config.contains(wants), "{config} lacks {wants:?}");
    }
    run("train --resume text --epochs 5 --train-steps 8 --device cpu")?;
    run("train --config text/config.toml --train-steps 1 --device cpu --out again")?;

    let model = "--checkpoint text/model.safetensors --steps 2 --device cpu";
    let said = with(&format!("sample {model} --n 4 --guidance 3 --prompt"), "a red dragon", folder)?;
    assert!(said.contains("4 images, \"a red dragon\", guidance 3"), "{said}");
    fs::write(folder.join("p.txt"), "a blue slime\n\n an Apple. \n")?;
    let said = with(&format!("sample {model} --prompts p.txt --guidance 3 --negative"), "a red cape", folder)?;
    assert!(said.contains("2 images, 2 prompts, guidance 3 away from \"a red cape\""), "{said}");
    assert!(run(&format!("sample {model} --n 3"))?.contains("3 images, captions of the training data in turn"));
    run("export --run text --samples 4 --out card.safetensors")?;
    assert!(fs::read_to_string(folder.join("card.md"))?.contains("text-to-image"));

    let classifier = "classifier --task sprites --images 300 --epochs 1 --device cpu --out";
    let evaluate = format!("evaluate {model} --n 30 --classifier {}", weights("classifier-sprites"));
    let said = fails(&evaluate.split_whitespace().collect::<Vec<_>>(), folder)?;
    let advice = "`cargo diffusion classifier --task sprites --images 50000 --attributes --out text/classifier-sprites-attributes";
    assert!(said.contains(advice), "{said}");
    let said = run(&format!("{classifier} text/classifier-sprites-attributes.safetensors --attributes"))?;
    assert!(said.contains("accuracy for each attribute: thing "), "{said}");
    let said = run(&format!("{evaluate} --guidance 2"))?;
    assert!(said.contains("30 samples, captions of sprites, guidance 2"), "{said}");
    let row = said.lines().find(|line| line.starts_with("| hair colour |"));
    assert!(row.is_some_and(|row| row.matches('%').count() == 3), "{said}");
    assert!(said.contains("| all that are mentioned | |"), "{said}");
    let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(folder.join("evaluation.json"))?)?;
    assert_eq!(report["attributes"]["held_out"]["all"]["samples"], 30);
    Ok(())
}

#[test]
fn a_folder_with_captions_is_read() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (folder, photos) = (temp.path(), temp.path().join("photos"));
    fs::create_dir(&photos)?;
    for i in 0..12u8 {
        image::RgbImage::from_pixel(8, 8, image::Rgb([20 * i, 0, 0])).save(photos.join(format!("{i}.png")))?;
        if i > 0 {
            fs::write(photos.join(format!("{i}.txt")), if i < 6 { "A dark photo" } else { "a bright photo!" })?;
        }
    }
    fs::write(
        folder.join("c.toml"),
        CONFIG.replace("images = 64", "task = \"photos\"").replace("batch = 8", "batch = 2"),
    )?;
    let train = "train --config c.toml --condition text --train-steps 3 --device cpu --out run";
    let said = succeeds(train, folder)?;
    assert!(said.contains("captions of 4 different words, the longest of 3 words"), "{said}");
    with("sample --checkpoint run/model.safetensors --steps 2 --prompt", "bright", folder)?;
    for i in 1..12 {
        fs::remove_file(photos.join(format!("{i}.txt")))?;
    }
    let said = fails(&format!("{train} --start-over").split(' ').collect::<Vec<_>>(), folder)?;
    assert!(said.contains("photos has no captions") && said.contains("NAME.txt"), "{said}");
    Ok(())
}

#[test]
fn mistakes_with_texts_are_named() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let folder = temp.path();
    fs::write(folder.join("c.toml"), CONFIG.replace("images = 64", "images = 300"))?;
    succeeds("train --config c.toml --condition text --train-steps 1 --device cpu --out run", folder)?;
    fs::write(folder.join("bad.txt"), "a cat\na dgo\n")?;
    fs::write(folder.join("empty.txt"), "\n")?;
    let (model, mnist) = ("run/model.safetensors", weights("mnist"));
    let long = "cat ".repeat(100);
    for (arguments, wants) in [
        (
            &["sample", "--checkpoint", model, "--prompt", "a dragn"][..],
            &["--prompt \"a dragn\"", "\"dragn\"", "dragon"][..],
        ),
        (
            &["sample", "--checkpoint", model, "--prompt", &long],
            &["--prompt", "100 words, but the model reads at most"],
        ),
        (&["sample", "--checkpoint", model, "--prompts", "bad.txt"], &["bad.txt: \"a dgo\"", "\"dgo\""]),
        (&["sample", "--checkpoint", model, "--prompts", "empty.txt"], &["empty.txt: there is no text"]),
        (&["sample", "--checkpoint", model, "--prompts", "none.txt"], &["--prompts: cannot read none.txt"]),
        (
            &["sample", "--checkpoint", model, "--prompt", "a cat", "--negative", "a cat"],
            &["--negative", "--guidance 3"],
        ),
        (&["sample", "--checkpoint", model, "--class", "food"], &["--class", "conditioned on text; use --prompt"]),
        (
            &["sample", "--checkpoint", &mnist, "--prompt", "a cat"],
            &["--prompt", "conditioned on classes; use --class"],
        ),
        (&["sample", "--checkpoint", &mnist, "--guidance", "2", "--negative", "a cat"], &["--negative", "use --class"]),
        (&["sample", "--checkpoint", model, "--prompt", "a", "--class", "1"], &["--prompt", "--class"]),
        (
            &["train", "--condition", "text", "--model", "context-unet"],
            &["context-unet reads no text; use --model simple-unet"],
        ),
        (&["train", "--condition", "text", "--task", "mnist"], &["mnist has no captions", "sprites"]),
        (
            &["classifier", "--task", "mnist", "--attributes", "--out", "c.safetensors"],
            &["--attributes", "--task sprites"],
        ),
    ] {
        let said = fails(arguments, folder)?;
        for want in wants {
            assert!(said.contains(want), "{arguments:?}: {said:?} lacks {want:?}");
        }
    }
    Ok(())
}
