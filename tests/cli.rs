//! The command line as a user calls it.

mod cli_celeba;
mod cli_edit;
mod cli_latent;
mod cli_models;
mod cli_photos;
mod cli_tensorboard;
mod cli_text;
mod cli_train;

use anyhow::{Context, Result, ensure};
use diffusion_core::candle::Tensor;
use diffusion_core::nn::Checkpoint;
use image::AnimationDecoder;
use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::process::{Command, Output, Stdio};

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

/// Runs a command whose arguments contain no spaces, and returns what it printed.
fn succeeds(arguments: &str, folder: &Path) -> Result<String> {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let output = diffusion(&arguments, folder).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", words(&output));
    Ok(words(&output))
}

fn fails(arguments: &[&str], folder: &Path) -> Result<String> {
    let output = diffusion(arguments, folder).output()?;
    ensure!(!output.status.success(), "{arguments:?} succeeded: {}", words(&output));
    ensure!(output.status.code() != Some(101), "it panicked: {}", words(&output));
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

/// `diffusion summary | head -1`, `diffusion train | true`: what is to be done is done, and quietly.
#[cfg(unix)]
#[test]
fn nobody_needs_to_read_what_is_printed() -> Result<()> {
    let temp = tempfile::tempdir()?;
    fs::write(temp.path().join("run.toml"), CONFIG)?;
    let digits = weights("mnist");
    for arguments in [
        &["summary"][..],
        &["train", "--config", "run.toml", "--device", "cpu", "--out", "run"],
        &["sample", "--checkpoint", &digits, "--n", "1", "--steps", "1", "--device", "cpu", "--out", "s.png"],
    ] {
        let mut child = diffusion(arguments, temp.path()).spawn()?;
        // Nothing is printed before the readers have ended, or soon after.
        drop((child.stdout.take(), child.stderr.take()));
        let status = child.wait()?;
        ensure!(status.success(), "{arguments:?}: {status}");
    }
    assert!(temp.path().join("run/model.safetensors").is_file() && temp.path().join("s.png").is_file());
    Ok(())
}

#[test]
fn mistakes_are_named_and_what_would_be_right() -> Result<()> {
    let temp = tempfile::tempdir()?;
    fs::write(temp.path().join("bad.toml"), "[training]\nbatch = 8\nlearning_rate = 1\n")?;
    fs::create_dir(temp.path().join("empty"))?;
    for (arguments, wants) in [
        (&["train", "--config", "bad.toml"][..], &["bad.toml", "line 3", "learning_rate", "lr"][..]),
        (&["train", "--config", "none.toml"], &["none.toml"]),
        (&["train", "--task", "mnits"], &["mnits", "fashion-mnist"]),
        (&["train", "--model", "resnet"], &["--model", "resnet", "simple-unet"]),
        (&["train", "--betas", "cosin"], &["--betas", "cosin", "cosine"]),
        (&["train", "--max-steps", "9"], &["--max-steps", "now called --train-steps"]),
        (&["train", "--steps", "500"], &["--steps", "now called --timesteps"]),
        (&["train", "--process", "flw"], &["--process", "flw", "flow"]),
        (&["train", "--process", "flow", "--betas", "cosine"], &["--betas", "vp process", "flow"]),
        (&["train", "--process", "flow", "--prediction", "eps"], &["eps", "velocity"]),
        (&["train", "--batch", "0"], &["batch = 0"]),
        (&["train", "--images", "10", "--batch", "64"], &["batch", "10"]),
        (&["train", "--recipe", "dpm"], &["--recipe", "auto", "ddpm"]),
        (&["train", "--device", "tpu"], &["tpu", "auto, cpu, cuda or metal"]),
        (&["train", "--device", "cuda"], &["CUDA"]),
        (&["train", "--resume", "empty"], &["--resume empty", "not the folder of a run"]),
        (&["train", "--minutes", "0"], &["--minutes 0"]),
        (&["train", "--minutes", "1e300"], &["--minutes 1"]),
        (&["summary", "--model", "resnet"], &["resnet", "simple-unet"]),
        (&["summary", "--side", "30"], &["--side 30", "divisible by 4"]),
        (&["data", "fetch", "imagenet"], &["imagenet", "cifar10"]),
    ] {
        let said = fails(arguments, temp.path())?;
        for want in wants {
            assert!(said.contains(want), "{arguments:?}: {said:?} lacks {want:?}");
        }
    }
    Ok(())
}

fn weights(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../weights");
    format!("{folder}/{name}.safetensors")
}

#[test]
fn samples_are_written_and_determined_by_the_seed() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (mnist, sprites) = (weights("mnist"), weights("sprites-context"));
    let mut arrays = Vec::new();
    for (npy, batch) in [("a.npy", "256"), ("in/b.npy", "2")] {
        let arguments = [
            "sample",
            "--checkpoint",
            &mnist,
            "--class",
            "7,7,3",
            "--guidance",
            "1.5",
            "--steps",
            "4",
            "--seed",
            "5",
            "--npy",
            npy,
            "--batch",
            batch,
            "--device",
            "cpu",
            "--out",
            "sevens.png",
        ];
        let output = diffusion(&arguments, temp.path()).output()?;
        ensure!(output.status.success(), words(&output));
        assert!(words(&output).contains("3 images, classes 7, 7, 3, guidance 1.5"));
        arrays.push(Tensor::read_npy(temp.path().join(npy))?);
    }
    assert_eq!(arrays[0].dims(), [3, 1, 28, 28]);
    let numbers = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
    let (a, b) = (numbers(&arrays[0])?, numbers(&arrays[1])?);
    assert!(a.iter().all(|x| (-1.0..=1.0).contains(x)) && a.iter().any(|x| *x > 0.5));
    // How many are drawn at once matters to rounding alone.
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3));
    let picture = image::open(temp.path().join("sevens.png"))?;
    assert!(picture.width() > 100);

    for (sampler, more) in
        [("ddpm", ["--n", "2"]), ("heun", ["--context", "1,0,0.6,0,0"]), ("dpm++", ["--class", "food"])]
    {
        let arguments = [
            "sample",
            "--checkpoint",
            &sprites,
            "--sampler",
            sampler,
            "--steps",
            "3",
            more[0],
            more[1],
            "--device",
            "cpu",
            "--gif",
            "process.gif",
        ];
        let output = diffusion(&arguments, temp.path()).output()?;
        ensure!(output.status.success(), words(&output));
    }
    let frames = image::codecs::gif::GifDecoder::new(BufReader::new(fs::File::open(temp.path().join("process.gif"))?))?;
    assert_eq!(frames.into_frames().count(), 4);

    let arguments = ["compare", "--checkpoint", &sprites, "--steps", "5", "--n", "1", "--device", "cpu"];
    let output = diffusion(&arguments, temp.path()).output()?;
    let said = words(&output);
    for want in ["DDPM: 500 steps", "DDIM: 5 steps", "times as fast", "compare.png"] {
        assert!(said.contains(want), "{said:?} lacks {want:?}");
    }
    assert!(temp.path().join("compare.png").is_file());
    Ok(())
}

#[test]
fn what_cannot_be_drawn_is_said() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (mnist, sprites) = (weights("mnist"), weights("sprites-context"));
    fs::write(temp.path().join("text.txt"), "no model")?;
    for (arguments, wants) in [
        (&["--checkpoint", "text.txt"][..], &["cannot use text.txt as a model"][..]),
        (&["--checkpoint", "nowhere"], &["cannot use nowhere as a model"]),
        (&["--checkpoint", &mnist, "--class", "7,12"], &["--class 12", "0 … 9"]),
        (&["--checkpoint", &mnist, "--class", "-1"], &["-1"]),
        (&["--checkpoint", &mnist, "--context", "1"], &["--context", "conditioned on classes; use --class"]),
        (&["--checkpoint", &sprites, "--context", "1,0"], &["2 numbers were given, but the model takes 5", "food"]),
        (&["--checkpoint", &sprites, "--context", "1,0,0,0,NaN"], &["finite"]),
        (&["--checkpoint", &sprites, "--class", "fod"], &["--class fod", "food"]),
        (&["--checkpoint", &mnist, "--steps", "1001"], &["--steps 1001: it must be in 1 … 1000"]),
        (&["--checkpoint", &mnist, "--steps", "0"], &["--steps 0: it must be in 1 … 1000"]),
        (&["--checkpoint", &mnist, "--eta", "1.5"], &["eta = 1.5 must be in [0, 1]"]),
        (&["--checkpoint", &mnist, "--eta", "1", "--sampler", "heun"], &["--eta is for --sampler ddim only"]),
        (&["--checkpoint", &mnist, "--guidance", "inf"], &["--guidance inf"]),
        (&["--checkpoint", &mnist, "--n", "0"], &["--n 0"]),
        (&["--checkpoint", &mnist, "--batch", "0"], &["--batch 0"]),
    ] {
        let said = fails(&[&["sample"], arguments].concat(), temp.path())?;
        for want in wants {
            assert!(said.contains(want), "{arguments:?}: {said:?} lacks {want:?}");
        }
    }
    // A network that enlarges images was never without a small one.
    for command in ["sample", "compare", "evaluate"] {
        let said = fails(&[command, "--checkpoint", &weights("sprites-x2")], temp.path())?;
        assert!(said.contains("sprites-x2.safetensors: this super-resolution model enlarges images ×2"), "{said}");
    }
    assert_eq!(fs::read_dir(temp.path())?.count(), 1, "nothing was written");
    Ok(())
}

#[test]
fn an_error_has_no_stack() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let mnist = weights("mnist");
    fs::write(temp.path().join("text.safetensors"), "no model, surely")?;
    for arguments in [
        // Of the sampler, as candle reports it, and of a file, with a reason of candle.
        &["--checkpoint", &mnist, "--eta", "1.5"][..],
        &["--checkpoint", "text.safetensors"],
    ] {
        let mut command = diffusion(&[&["sample"], arguments].concat(), temp.path());
        let output = command.env("RUST_BACKTRACE", "1").output()?;
        ensure!(output.status.code() == Some(1), words(&output));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    Ok(())
}

/// An array as NumPy writes it.
fn npy(path: &Path, kind: &str, shape: &str, values: &[u8]) -> Result<()> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = u16::try_from(header.len())?.to_le_bytes();
    let bytes = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), values].concat();
    Ok(fs::write(path, bytes)?)
}

/// Nothing is measured that would say something wrong, and nothing is measured before that is known.
#[test]
fn what_does_not_belong_together_is_not_measured() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let at = |name: &str| temp.path().join(name);
    let (classifier, digits) = (weights("classifier-sprites"), weights("classifier-mnist"));
    let floats = |n: usize, x: f32| x.to_le_bytes().repeat(n);
    npy(&at("grey.npy"), "<f4", "(8, 1, 16, 16)", &floats(8 * 256, -0.5))?;
    npy(&at("half.npy"), "<f4", "(8, 3, 16, 16)", &floats(8 * 768, 0.5))?;
    npy(&at("c8.npy"), "<c8", "(1, 3, 16, 16)", &[0; 8 * 768])?;
    npy(&at("labels.npy"), "|u1", "(8,)", &[0, 1, 2, 12, 0, 1, 2, 3])?;
    let small = ["--data", "sprites", "--images", "200"];
    for (arguments, wants) in [
        (
            &["--samples", "half.npy", "--classifier", &digits][..],
            &[
                "classifier-mnist.safetensors: it was trained on images of 1×28×28 with the classes 0, 1",
                "those of sprites are 3×16×16",
            ][..],
        ),
        (
            &["--samples", "grey.npy", "--classifier", &classifier],
            &["--samples grey.npy: its images are 1×16×16", "3×16×16"],
        ),
        (&["--samples", "c8.npy", "--classifier", &classifier], &["c8.npy", "x.astype(np.float32)) for samples"]),
        (
            &["--samples", "half.npy", "--labels", "labels.npy", "--classifier", &classifier],
            &["--labels labels.npy: labels[3] = 12, but sprites has the classes 0 … 4"],
        ),
        (&["--samples", "half.npy", "--n", "9"], &["--samples", "--n"]),
        (&["--samples", "half.npy", "--steps", "9"], &["--samples", "--steps"]),
        (
            &["--checkpoint", &weights("mnist"), "--classifier", &classifier],
            &["--checkpoint: the model's images are 1×28×28"],
        ),
    ] {
        let said = fails(&[&["evaluate"], &small[..], arguments].concat(), temp.path())?;
        for want in wants {
            assert!(said.contains(want), "{arguments:?}: {said:?} lacks {want:?}");
        }
        assert!(!said.contains("Fréchet"), "{said}");
    }
    let said = fails(&["evaluate", "--samples", "s.npy", "--data", "mnits"], temp.path())?;
    assert!(said.contains("--data mnits: there is no such folder, .npy file or data set"), "{said}");

    let half = ["evaluate", "--samples", "half.npy", "--classifier", &classifier];
    let output = diffusion(&[&half[..], &small].concat(), temp.path()).output()?;
    ensure!(output.status.success(), words(&output));
    let warned = String::from_utf8_lossy(&output.stderr);
    assert!(warned.contains("half.npy: no value is below 0"), "{warned}");
    Ok(())
}

/// Before anything is allocated: no abort, and both sizes.
#[test]
fn what_does_not_fit_into_memory_is_refused() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let digits = weights("mnist");
    let sample = ["sample", "--checkpoint", &digits, "--device", "cpu", "--n"];
    for (n, wants) in
        [("100000000", "100000000 images of 1×28×28"), ("18446744073709551615", "more memory than can exist")]
    {
        let said = fails(&[&sample[..], &[n]].concat(), temp.path())?;
        assert!(said.contains(wants) && said.contains("draw fewer"), "{said}");
    }
    let mut file = Checkpoint::load(&digits)?;
    let about = file.metadata.get_mut("process").context("what it was trained for")?;
    *about = about.replace("[1,28,28]", "[1,1048576,1048576]");
    assert!(about.contains("1048576"));
    file.save(temp.path().join("large.safetensors"))?;
    let said = fails(&["sample", "--checkpoint", "large.safetensors", "--device", "cpu", "--n", "1"], temp.path())?;
    assert!(said.contains("1 images of 1×1048576×1048576"), "{said}");
    for i in 0..20 {
        let path = temp.path().join("photos");
        fs::create_dir_all(&path)?;
        image::RgbImage::from_pixel(1600, 1200, image::Rgb([i, 0, 0])).save(path.join(format!("{i}.png")))?;
    }
    let train = [
        "train",
        "--task",
        "photos",
        "--recipe",
        "ddpm",
        "--model",
        "conditional-unet",
        "--batch",
        "18",
        "--side",
        "1024",
        "--device",
        "cpu",
    ];
    let said = fails(&train, temp.path())?;
    assert!(said.contains("18 images of 1024×1024 at a time") && said.contains("--side"), "{said}");
    Ok(())
}

#[test]
fn a_summary_adds_up() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let output = diffusion(&["summary", "--model", "simple-unet"], temp.path()).output()?;
    let said = words(&output);
    let last = said.lines().last().context("a line")?;
    assert!(last.contains("2,620,545"), "{said}");
    assert!(said.contains("down2.conv1") && said.contains("128×14×14"), "{said}");
    Ok(())
}

/// A classifier, a model's samples and a file's samples measured, the card, and a small leaderboard that goes on.
#[test]
fn samples_are_measured_and_the_card_says_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let run = |arguments: &str| succeeds(arguments, folder);
    let sprites = "weights/classifier-sprites.safetensors";
    let missing = fails(&["evaluate", "--samples", "s.npy", "--data", "sprites"], folder)?;
    assert!(missing.contains("`cargo diffusion classifier --task sprites --out"), "{missing}");
    run(&format!("classifier --task sprites --images 600 --epochs 2 --out {sprites}"))?;
    let card = fs::read_to_string(folder.join("weights/classifier-sprites.md"))?;
    // Whose the images and the weights are is not known.
    assert!(card.starts_with("---\nlibrary_name: candle\n"), "{card}");
    assert!(card.contains(&format!("--out {sprites}\n")), "{card}");
    assert!(card.contains("cargo diffusion classifier --task sprites --epochs 2"));

    fs::write(folder.join("c.toml"), CONFIG)?;
    run("train --config c.toml --out run --train-steps 3")?;
    let said = fails(&["export", "--run", "run", "--out", "m.safetensors", "--epochs", "7"], folder)?;
    assert!(
        said.contains("--epochs 7: run has no checkpoint of that epoch; it has none at the end of an epoch"),
        "{said}"
    );
    let said = fails(&["export", "--run", "run", "--out", "m.bin"], folder)?;
    assert!(said.contains("m.bin: the file name must end in .safetensors"), "{said}");
    run("export --run run --out m.safetensors --samples 4")?;
    let card = fs::read_to_string(folder.join("m.md"))?;
    for never in ["license", "make weights", "../weights", " 0 minutes"] {
        assert!(!card.contains(never), "{card} has {never:?}");
    }
    assert!(card.contains("Model::load(\"m.safetensors\""), "{card}");
    run("export --run run --out g.safetensors --samples 4 --guidance 2")?;
    let card = fs::read_to_string(folder.join("g.md"))?;
    for wants in
        ["![Samples with guidance](g-guided.png)", "](g.png)", "with the guidance scale 2 and without guidance"]
    {
        assert!(card.contains(wants), "{card} lacks {wants:?}");
    }
    assert!(fs::read(folder.join("g-guided.png"))? != fs::read(folder.join("g.png"))?);
    let said = fails(&["export", "--run", "run", "--out", "n.safetensors", "--guidance", "-1"], folder)?;
    assert!(said.contains("--guidance -1: it must be at least 0") && !folder.join("n.safetensors").exists(), "{said}");
    run("export --run run --out m.safetensors --samples 4 --license cc0-1.0 --again make")?;
    let card = fs::read_to_string(folder.join("m.md"))?;
    assert!(card.starts_with("---\nlicense: cc0-1.0\n") && card.contains("`make` repeats it"), "{card}");
    let said = run("evaluate --checkpoint m.safetensors --n 12 --steps 2 --images 200 --card m.md --out e.json")?;
    for wants in ["Fréchet distance", "95 % interval", "baseline", "accuracy", "copies"] {
        assert!(said.contains(wants), "{said} lacks {wants:?}");
    }
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(folder.join("e.json"))?)?;
    assert_eq!(json["measures"]["frechet_distance"]["samples"], 12);
    let once = fs::read_to_string(folder.join("m.md"))?;
    assert!(once.contains("model-index:\n- name: m\n"), "{once}");
    assert!(once.contains("## Evaluation\n\n12 samples, all classes in turn, ddim, 2 steps, seed 0"));
    assert!(once.starts_with("---\nlicense: cc0-1.0\n"), "{once}");
    let said = fails(&["evaluate", "--checkpoint", "m.safetensors", "--images", "200", "--bits", "1"], folder)?;
    assert!(said.contains("--bits 1: it must be in 2 … 20, the number of held-out images"), "{said}");
    run("evaluate --checkpoint m.safetensors --n 12 --steps 2 --images 200 --bits 2 --card m.md --out e.json")?;
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(folder.join("e.json"))?)?;
    assert!(json["bits_per_dimension"]["mean"].as_f64() > Some(0.0), "{json}");
    let twice = fs::read_to_string(folder.join("m.md"))?;
    assert_eq!(twice.matches("## Evaluation").count(), 1);
    assert!(twice.contains(" Likelihood: bits per dimension ") && twice.contains(" on 2 held-out images."), "{twice}");
    assert_eq!(twice.matches("model-index").count(), 1);

    // As a folder of images of other classes: the samples are measured, and what they show is not judged.
    for i in 0..100u8 {
        let path = folder.join(format!("photos/{}", i % 2));
        fs::create_dir_all(&path)?;
        let image = image::RgbImage::from_pixel(16, 16, image::Rgb([2 * i, i, 0]));
        image.save(path.join(format!("{i}.png")))?;
    }
    run("classifier --task photos --epochs 1 --batch 8 --out weights/classifier-photos.safetensors")?;
    let said = run("evaluate --checkpoint m.safetensors --data photos --n 12 --steps 2")?;
    assert!(
        said.contains("the model was trained on sprites but is compared with photos")
            && said.contains("no accuracy is measured")
            && !said.contains("% of 12 samples; 95"),
        "{said}"
    );

    run("sample --checkpoint m.safetensors --n 12 --steps 2 --npy s.npy --out s.png")?;
    let said = run("evaluate --samples s.npy --data sprites --images 200")?;
    assert!(said.contains("12 samples from s.npy"), "{said}");
    let inception = ["evaluate", "--samples", "s.npy", "--data", "sprites", "--inception"];
    let said = fails(&inception, folder)?;
    assert!(said.contains("--inception: there is no weights/inception.pth; get"), "{said}");

    let small = "leaderboard --only combinations --train-steps 1 --base 8 --images 64 --samples 10 --seeds 1";
    run(small)?;
    let table = fs::read_to_string(folder.join("LEADERBOARD.md"))?;
    assert_eq!(table.matches("| DDIM | 25 |").count(), 12, "{table}");
    let results = folder.join("runs/leaderboard.jsonl");
    let lines = fs::read_to_string(&results)?;
    let kept: Vec<&str> = lines.lines().take(11).collect();
    // The last one was cut off: it alone is done again.
    fs::write(&results, kept.join("\n") + "\n{\"budget\"\n")?;
    let said = run(small)?;
    assert!(said.contains("12/12: ") && !said.contains("11/12: "), "{said}");

    // Other parts are added below, and each part leaves the others alone.
    let table = fs::read_to_string(folder.join("LEADERBOARD.md"))?;
    let other = small.replace("combinations", "processes --tasks sprites --csv .");
    run(&other)?;
    let both = fs::read_to_string(folder.join("LEADERBOARD.md"))?;
    assert!(both.starts_with(table.trim_end()) && both.matches("| EDM | DDIM |").count() == 1, "{both}");
    let csv = fs::read_to_string(folder.join("processes.csv"))?;
    assert_eq!(csv.lines().filter(|line| line.starts_with("sprites,VP v,1,")).count(), 10, "{csv}");
    let families = "--minutes 0.01 --images 64 --samples 10 --seeds 1 --tasks sprites --csv .";
    run(&format!("leaderboard --only families {families}"))?;
    let all = fs::read_to_string(folder.join("LEADERBOARD.md"))?;
    assert!(all.starts_with(both.trim_end()) && all.matches("\n| GAN | ").count() == 1, "{all}");
    let csv = fs::read_to_string(folder.join("families.csv"))?;
    assert_eq!(csv.lines().filter(|line| line.starts_with("sprites,")).count(), 3, "{csv}");
    let record =
        "leaderboard --only record --minutes 0.01 --images 64 --samples 10 --seeds 1 --tasks sprites --change AdamW";
    assert!(run(record)?.contains("sprites, seed 1: AdamW"));
    assert!(!run(record)?.contains("seed 1"), "measured again");
    let record = fs::read_to_string(folder.join("LEADERBOARD.md"))?;
    assert!(record.starts_with(all.trim_end()) && record.matches("\n| AdamW | ").count() == 1, "{record}");
    assert!(fails(&["leaderboard", "--only", "record", "--change", "Adam"], folder)?.contains("choose from"));
    run(small)?;
    assert_eq!(fs::read_to_string(folder.join("LEADERBOARD.md"))?, record);
    assert!(fails(&["leaderboard", "--tasks", "dogs"], folder)?.contains("choose from sprites, mnist"));
    Ok(())
}
