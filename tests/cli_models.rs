//! Models of other kinds on the command line: processes without time steps, and consistency models.

use crate::{CONFIG, fails, succeeds};
use anyhow::Result;
use std::fs;

/// Processes without time steps: every command that samples works with them.
#[test]
fn continuous_processes_are_trained_and_sampled() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    fs::write(folder.join("c.toml"), CONFIG)?;
    for process in ["flow", "edm"] {
        let run = |arguments: &str| -> Result<String> {
            let arguments = arguments.replace("MODEL", &format!("--checkpoint {process}/model.safetensors --n 4"));
            succeeds(&arguments, folder)
        };
        run(&format!("train --config c.toml --process {process} --out {process} --train-steps 2"))?;
        for sampler in ["ddim", "ddpm", "heun", "dpm++"] {
            let said = run(&format!("sample MODEL --sampler {sampler} --steps 3"))?;
            assert!(said.contains(&format!("{sampler}, 3 steps")), "{said}");
        }
        assert!(run("compare MODEL --steps 2 --ddpm-steps 4")?.contains("DDPM: 4 steps"));
        let model = format!("{process}/model.safetensors");
        let said = fails(&["sample", "--checkpoint", &model, "--steps", "0"], folder)?;
        assert!(said.contains("--steps 0: "), "{said}");
    }
    Ok(())
}

/// A model becomes one for few steps, which is sampled, exported and measured by its own sampler.
#[test]
fn a_consistency_model_is_made_of_a_trained_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let run = |arguments: &str| succeeds(arguments, folder);
    fs::write(folder.join("c.toml"), CONFIG)?;
    run("train --config c.toml --out slow --train-steps 2")?;
    let train = "train --objective consistency --from slow/model.safetensors";
    run(&format!("{train} --guidance 2 --images 64 --batch 8 --train-steps 4 --sample-every 0 --out fast"))?;
    let config = fs::read_to_string(folder.join("fast/config.toml"))?;
    assert!(config.contains("[objective.consistency]") && config.contains("guidance = 2.0"), "{config}");
    // Stopped and resumed, and from its file.
    let said = run("train --resume fast")?;
    assert!(said.contains("4 steps") || said.contains("nothing"), "{said}");
    run("train --config fast/config.toml --train-steps 2 --out again")?;
    let model = "--checkpoint fast/model.safetensors --n 4";
    assert!(run(&format!("sample {model}"))?.contains("consistency, 2 steps"));
    assert!(run(&format!("sample {model} --steps 1"))?.contains("consistency, 1 step"));
    run("export --run fast --out weights/fast.safetensors --samples 4")?;
    let card = fs::read_to_string(folder.join("weights/fast.md"))?;
    assert!(
        card.contains("Sampler::consistency(2)") && card.contains("teacher = \"slow/model.safetensors\""),
        "{card}"
    );

    for (arguments, wants) in [
        ("sample MODEL --guidance 2", "guidance of this consistency model was fixed"),
        ("sample MODEL --sampler ddim", "needs its own sampler"),
        ("sample --checkpoint slow/model.safetensors --sampler consistency", "not a consistency model"),
        ("compare MODEL", "has a sampler of its own"),
        ("train --objective consistency", "with --from"),
        ("train --from slow/model.safetensors", "--objective consistency"),
        ("train --objective consistency --from fast/model.safetensors --images 64", "already is a consistency model"),
        (
            "train --objective consistency --from slow/model.safetensors --process flow",
            "--process: the model of --from",
        ),
        ("train --objective consistency --from nowhere.safetensors", "--from"),
    ] {
        let arguments = arguments.replace("MODEL", model);
        let said = fails(&arguments.split_whitespace().collect::<Vec<_>>(), folder)?;
        assert!(said.contains(wants), "{arguments}: {said}");
    }
    Ok(())
}
