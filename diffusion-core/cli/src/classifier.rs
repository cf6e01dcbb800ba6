//! `diffusion classifier`.

use crate::attributes;
use crate::card::{self, Header};
use crate::sample::prepare;
use anyhow::{Context, Result, ensure};
use clap::Args;
use diffusion_core::data::{Augmentation, Source};
use diffusion_core::device::{Choice, described};
use diffusion_core::metrics::{Classifier, Fit};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// The smallest number of training steps.
const FEWEST_STEPS: usize = 300;

/// The channels of the first convolution for photographs.
const PHOTOGRAPHS_BASE: usize = 64;

#[derive(Args)]
pub struct Options {
    /// The training data: sprites, mnist, fashion-mnist, cifar10, celeba, a folder of images, or an .npy file
    #[arg(long)]
    task: String,
    /// The output file NAME.safetensors; a model card NAME.md is written beside it
    #[arg(long)]
    out: PathBuf,
    /// Passes over the images [default: 6, or as many as give 300 steps]
    #[arg(long)]
    epochs: Option<usize>,
    /// Images in a batch [default: 128, or an eighth of the images]
    #[arg(long)]
    batch: Option<usize>,
    /// The channels of the first convolution [default: 64 for photographs, else 32]
    #[arg(long)]
    base: Option<usize>,
    /// The highest learning rate
    #[arg(long, default_value_t = Fit::default().lr)]
    lr: f64,
    /// The number of training sprites
    #[arg(long, default_value_t = Source::default().images)]
    images: usize,
    /// Also classifies the attributes of sprites, with which `evaluate` measures text models
    #[arg(long)]
    attributes: bool,
    /// The height and width in pixels to which images are cropped and resized
    #[arg(long)]
    side: Option<usize>,
    /// The random seed
    #[arg(long, default_value_t = Fit::default().seed)]
    seed: u64,
    /// The licence to name in the model card [default: none]
    #[arg(long)]
    license: Option<String>,
    /// The device: auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: Choice,
}

pub fn run(options: Options) -> Result<()> {
    prepare(&options.out, "safetensors")?;
    let device = crate::device(options.device)?;
    ensure!(
        !options.attributes || options.task == "sprites" && options.side.is_none(),
        "--attributes: only the sprites in their own size have attributes; use --task sprites without --side"
    );
    let source =
        Source { task: options.task.clone(), images: options.images, side: options.side, ..Default::default() };
    let (mut train, test) = source.load_both(options.seed)?;
    println!("{train}");
    let photographs = source.is_photographs() && train.shape()[0] == 3;
    if photographs {
        train = train.with_augmentation([Augmentation::HorizontalFlip]);
    }
    let usual = Fit::default();
    let batch = options.batch.unwrap_or(usual.batch.min(train.len() / 8).max(2));
    let steps = (train.len() / batch.max(1)).max(1);
    let epochs = options.epochs.unwrap_or(usual.epochs.max(FEWEST_STEPS.div_ceil(steps)));
    let base = options.base.unwrap_or(if photographs { PHOTOGRAPHS_BASE } else { usual.base });
    let shift = if photographs { train.shape()[1] / 8 } else { usual.shift };
    let fit = Fit { epochs, batch, base, shift, lr: options.lr, seed: options.seed, ..usual };
    let started = Instant::now();
    let classifier = match options.attributes {
        true => {
            let (train, test) = attributes::sprites(options.images, options.seed);
            fit.run_attributes(&train, &test, &device)?
        }
        false => fit.run(&train, &test, &device)?,
    };
    let seconds = started.elapsed().as_secs_f64();
    classifier.save(&options.out)?;
    let about = &classifier.about;
    println!(
        "test accuracy {:.2} % ({} images), after {} steps in {:.1} minutes",
        100.0 * about.test_accuracy,
        about.test_images,
        about.steps,
        seconds / 60.0
    );
    if options.attributes {
        println!("{}", attributes::of_classifier(&about.attributes));
    }
    if let Some(warning) = warning(&classifier) {
        eprintln!("warning: {warning}");
    }
    let path = options.out.with_extension("md");
    fs::write(&path, card(&options, &fit, &classifier, (photographs, seconds))?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}\n{}", options.out.display(), path.display());
    Ok(())
}

/// A warning if the accuracy of a classifier is nearer to chance than to 100 %.
pub fn warning(it: &Classifier) -> Option<String> {
    let (accuracy, classes) = (it.about.test_accuracy, it.about.classes.len());
    let chance = 1.0 / classes.max(1) as f64;
    (classes > 1 && accuracy < 0.5 * (1.0 + chance)).then(|| {
        format!(
            "guessing would reach {:.0} %: this classifier has learned little, so distances between its features mean little; train \
             it on more images or with more --epochs",
            100.0 * chance
        )
    })
}

fn card(options: &Options, fit: &Fit, classifier: &Classifier, (flips, seconds): (bool, f64)) -> Result<String> {
    let text = |name: Option<&std::ffi::OsStr>| name.unwrap_or_default().to_string_lossy().into_owned();
    let (name, file) = (text(options.out.file_stem()), text(options.out.file_name()));
    let machine = described(&crate::device(options.device)?);
    let about = &classifier.about;
    let [c, h, w] = about.shape;
    let only_of = match options.task.as_str() {
        "sprites" => format!(" --images {}", options.images),
        _ => String::new(),
    };
    let (flag, attributes) = match options.attributes {
        true => (" --attributes", format!("\n{}", attributes::of_classifier(&about.attributes))),
        false => ("", String::new()),
    };
    let side = options.side.map_or(String::new(), |side| format!(" --side {side}"));
    let header =
        Header { name: &name, data: &about.data, task: "image-classification", license: options.license.as_deref() };
    let header = header.yaml(None)?;
    let (path, place) = card::in_a_notebook(&options.out);
    // Link to the sources only from the project's own folder of weights.
    let metrics = match path.starts_with("../weights/") {
        true => "[`metrics`](../diffusion-core/metrics/src/lib.rs)",
        false => "`metrics`",
    };
    Ok(format!(
        "{header}# {name}

| | |
|---|---|
| [{file}]({file}) | {megabytes:.1} MB, weights as f32 |
| purpose | features of an image ({features} numbers) and class probabilities for {metrics} |
| network | base {base}: {convolutions} 3×3 convolutions with batch norm and SiLU, global average pooling, a linear layer; {parameters} parameters |
| data | {data}, {c}×{h}×{w}, classes {classes} |
| training | {steps} steps with a batch of {batch}, {seen} images in total, shifted at random by up to {shift} pixels{flips}; seed {seed} |
| training time | {minutes:.1} minutes on {machine} |
| test accuracy | {accuracy:.2} % on {test} held-out images{warning} |
{attributes}
Distances between features are comparable only if they were measured with this same file. The command that trained it:

```sh
cargo diffusion classifier --task {task} --epochs {epochs} --batch {batch} --base {base} --lr {lr} --seed {seed}{only_of}{flag}{side} --out {out}
```

To use it {place}:

```rust
let classifier = Classifier::load(\"{path}\", &device)?;
let result = classifier.extract(&images)?; // features and class probabilities
```
",
        megabytes = fs::metadata(&options.out)?.len() as f64 / 1e6,
        features = about.features(),
        base = about.base,
        convolutions = if about.convolutions() == 5 { "five" } else { "seven" },
        flips = if flips { ", mirrored at random" } else { "" },
        parameters = classifier.parameters().count(),
        data = about.data,
        classes = about.classes.join(", "),
        steps = about.steps,
        seen = about.images_seen,
        minutes = seconds / 60.0,
        accuracy = 100.0 * about.test_accuracy,
        warning = warning(classifier).map_or_else(String::new, |warning| format!("; {warning}")),
        test = about.test_images,
        task = options.task,
        out = options.out.display(),
        epochs = fit.epochs,
        batch = fit.batch,
        lr = fit.lr,
        shift = fit.shift,
        seed = fit.seed,
    ))
}
