//! `diffusion export`: the model of a run with a model card and a picture, ready to share.

mod vae;

use crate::card::{self, Header};
use crate::request::counted;
use crate::sample::prepare;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use diffusion_core::candle::{DType, Device, Tensor};
use diffusion_core::config::{ObjectiveConfig, RunConfig};
use diffusion_core::data::{Cache, Dataset};
use diffusion_core::edit::{Filter, enlarge, reduce};
use diffusion_core::guidance::Guidance;
use diffusion_core::model::Model;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::{Sampler, Solver, Steps};
use diffusion_core::show::Grid;
use diffusion_core::train::{Diffusion, Step, Training};
use diffusion_core::unet::Condition;
use std::fs;
use std::path::{Path, PathBuf};

const SEED: u64 = 1;
/// The largest number of images in a row.
const WIDE: usize = 12;

#[derive(Args)]
pub struct Options {
    /// The folder of a finished run
    #[arg(long)]
    run: PathBuf,
    /// The output file NAME.safetensors; the card NAME.md and the picture NAME.png are written beside it
    #[arg(long)]
    out: PathBuf,
    /// Exports the model after each of these epochs, counted from 0, to NAME-EPOCH.safetensors, instead of the final model; the
    /// run must have kept their checkpoints
    #[arg(long, value_delimiter = ',')]
    epochs: Vec<usize>,
    /// Also writes the model as a folder for Hugging Face diffusers; the network must be unet-2d-model
    #[arg(long)]
    diffusers: Option<PathBuf>,
    /// The number of images in the picture
    #[arg(long, default_value_t = 64)]
    samples: usize,
    /// Also draws NAME-guided.png with this guidance scale; the card shows both pictures
    #[arg(long, conflicts_with = "epochs", allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// The licence to name in the model card [default: none]
    #[arg(long)]
    license: Option<String>,
    /// The command to name in the card for training the model again [default: none; the card always shows the run's configuration]
    #[arg(long)]
    again: Option<String>,
}

pub fn run(options: Options) -> Result<()> {
    ensure!(options.samples > 0, "--samples 0: it must be at least 1");
    let mut run = RunConfig::load(options.run.join("config.toml"))?;
    if let ObjectiveConfig::Consistency(settings) = &mut run.objective {
        ensure!(options.epochs.is_empty(), "--epochs: only the final model of a consistency run can be exported");
        // As the card may be read on any machine.
        if let Ok(inside) = settings.teacher.strip_prefix(std::env::current_dir()?) {
            settings.teacher = inside.to_owned();
        }
    }
    if let Some(path) = &mut run.autoencoder
        && let Ok(inside) = path.strip_prefix(std::env::current_dir()?)
    {
        *path = inside.to_owned();
    }
    prepare(&options.out, "safetensors")?;
    if let ObjectiveConfig::Vae(settings) = &run.objective {
        return vae::export(&options, &run, settings);
    }
    let models = models(&options, &run)?;
    if let Some(scale) = options.guidance {
        check_guidance(&models[0].1, scale)?;
    }
    if let (Some(folder), Some((_, model))) = (&options.diffusers, models.last()) {
        model.save_diffusers(folder).context("--diffusers")?;
        println!("{}", folder.display());
    }
    let each = options.samples / models.len();
    let (mut rows, mut files) = (Vec::new(), Vec::new());
    for (path, model) in &models {
        model.save_as(path, DType::F16)?;
        println!("{}", path.display());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        files.push(format!(
            "| [{name}]({name}) | {:.1} MB; the weights are rounded to f16, which changes a prediction by {:.1e} (relative RMS over \
             16 time steps) |\n",
            fs::metadata(path)?.len() as f64 / 1e6,
            rounding(path, model)?
        ));
        if model.network.architecture().low_res() > 0 {
            rows = enlarged(model, &data(&options, &run)?.1, each.min(WIDE))?;
        } else {
            let (condition, rng) = (model.conditions(each)?, &mut Rng::new(SEED));
            rows.push(model.sample(each, condition, &model.info.sampler(), rng)?);
        }
    }
    let (last, picture) = (&models[models.len() - 1].1, options.out.with_extension("png"));
    let grid = match &rows[..] {
        rows if last.network.architecture().low_res() > 0 => {
            Grid::rows(rows)?.row_titles(["low resolution", "sampled", "original"])
        }
        [one] => Grid::new(one)?.columns((each as f64).sqrt().ceil() as usize),
        many => Grid::rows(many)?.row_titles(options.epochs.iter().map(|e| format!("epoch {e}"))),
    };
    grid.save(&picture)?;
    if let Some(scale) = options.guidance {
        let guidance = Guidance::new(last.conditions(each)?, scale);
        let guided = last.sample(each, guidance, &last.info.sampler(), &mut Rng::new(SEED))?;
        let picture = picture.with_file_name(guided_picture(&options.out));
        Grid::new(&guided)?.columns((each as f64).sqrt().ceil() as usize).save(&picture)?;
        println!("{}", picture.display());
    }
    let path = options.out.with_extension("md");
    let card = card(&options, &run, last, &files.concat())?;
    fs::write(&path, card).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}\n{}", picture.display(), path.display());
    Ok(())
}

/// Checks that the model can be guided with `scale`.
fn check_guidance(model: &Model, scale: f64) -> Result<()> {
    ensure!(scale.is_finite() && scale >= 0.0, "--guidance {scale}: it must be at least 0");
    let conditioning = model.network.architecture().conditioning();
    let guidable = conditioning.is_guidable() && conditioning.low_res == 0 && !model.info.consistency;
    ensure!(guidable, "--guidance {scale}: guidance does not apply to this model; leave the flag out");
    Ok(())
}

/// The file name of the picture with guidance.
fn guided_picture(out: &Path) -> String {
    format!("{}-guided.png", out.file_stem().unwrap_or_default().to_string_lossy())
}

/// The sampler of the picture, in words and as code.
fn words(model: &Model) -> (String, String) {
    let Sampler { solver, steps, .. } = model.info.sampler();
    match (solver, steps) {
        (Solver::Consistency, Steps::Trailing(n)) => {
            (format!("consistency sampling, {}", counted(n, "step")), format!("Sampler::consistency({n})"))
        }
        (_, Steps::Trailing(50)) => ("DDIM, 50 steps".to_owned(), "Sampler::default()".to_owned()),
        (_, Steps::Trailing(n)) => (format!("DDIM, {}", counted(n, "step")), format!("Sampler::ddim({n})")),
        other => (format!("{other:?}"), "model.info.sampler()".to_owned()),
    }
}

/// The training images and the held-out images of the run.
fn data(options: &Options, run: &RunConfig) -> Result<(Dataset, Dataset)> {
    run.data.load_both_cached(run.training.seed, &Cache::in_folder(&options.run))
}

/// Held-out images: at low resolution, as sampled by the model, and the originals.
fn enlarged(model: &Model, held_out: &Dataset, n: usize) -> Result<Vec<Tensor>> {
    let factor = model.network.architecture().low_res();
    let x0 = held_out.images(0..n.min(held_out.len()), &Device::Cpu)?;
    let small = reduce(&x0, factor)?;
    let (condition, rng) = (Condition::low_res(small.clone()), &mut Rng::new(SEED));
    let sampled = model.sample(x0.dim(0)?, condition, &model.info.sampler(), rng)?;
    Ok(vec![enlarge(&small, factor, Filter::Nearest)?, sampled, x0])
}

/// The final model of the run, or the EMA models of some of its checkpoints, each with its output file.
fn models(options: &Options, run: &RunConfig) -> Result<Vec<(PathBuf, Model)>> {
    if options.epochs.is_empty() {
        let model = Model::load(options.run.join("model.safetensors"), &Device::Cpu)?;
        return Ok(vec![(options.out.clone(), model)]);
    }
    let (data, _) = data(options, run)?;
    let stem = options.out.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    options
        .epochs
        .iter()
        .map(|epoch| {
            let config = run.training.clone();
            let training = Training::new(config, run.architecture(&data), &data, &Device::Cpu)?;
            let each = training.steps_per_epoch().max(1);
            let steps = epoch.saturating_add(1).saturating_mul(each);
            has_checkpoint(&options.run, *epoch, steps, each)?;
            let model = training.at_checkpoint(&options.run, steps)?.into_model()?;
            let file = format!("{stem}-{epoch}.safetensors");
            Ok((options.out.with_file_name(file), model))
        })
        .collect()
}

/// Returns an error if the run has no checkpoint after `steps`, the end of `epoch`. The message lists the epochs it has.
fn has_checkpoint(run: &Path, epoch: usize, steps: usize, each: usize) -> Result<()> {
    let there = Training::<Diffusion>::checkpoints(run);
    if there.contains(&steps) {
        return Ok(());
    }
    let ends = there.iter().filter(|steps| **steps > 0 && *steps % each == 0);
    let epochs: Vec<String> = ends.map(|steps| (steps / each - 1).to_string()).collect();
    let has = match &epochs[..] {
        [] => "it has none at the end of an epoch".to_owned(),
        some => format!("it has checkpoints of these epochs, counted from 0: {}", some.join(", ")),
    };
    bail!(
        "--epochs {epoch}: {} has no checkpoint of that epoch; {has}. `checkpoint_every` and `keep` in the run's \
         configuration decide which are kept",
        run.display()
    )
}

/// The relative root mean square difference between the predictions with the exported weights and with the run's own.
fn rounding(path: &Path, model: &Model) -> Result<f64> {
    let exported = Model::load(path, &Device::Cpu)?;
    let [c, h, w] = model.info.shape;
    let x = Rng::new(SEED).randn((16, c, h, w), &Device::Cpu)?;
    let last = model.info.process.max_network_time() - 1;
    let t: Vec<f64> = (0..16).map(|i| (i * last / 15) as f64).collect();
    let condition = model.conditions(16)?;
    let prediction = |m: &Model| m.network.predict(&x, &t, &condition);
    let (want, got) = (prediction(model)?, prediction(&exported)?);
    let square = |x: Tensor| -> Result<f64> { Ok(x.sqr()?.mean_all()?.to_scalar::<f32>()?.into()) };
    Ok((square((&got - &want)?)? / square(want)?).sqrt())
}

fn card(options: &Options, run: &RunConfig, model: &Model, files: &str) -> Result<String> {
    let name = options.out.file_stem().unwrap_or_default().to_string_lossy();
    let info = &model.info;
    let [c, h, w] = model.image_shape();
    let factor = model.network.architecture().low_res();
    let header = Header { name: &name, data: &info.data, task: card::task(model), license: options.license.as_deref() };
    let header = header.yaml(None)?;
    let exported = match options.epochs.last() {
        Some(epoch) => options.out.with_file_name(format!("{name}-{epoch}.safetensors")),
        None => options.out.clone(),
    };
    let (path, place) = card::in_a_notebook(&exported);
    let network = model.network.architecture();
    let turns = match (network.tokens(), network.conditioning().is_guidable()) {
        (_, false) => "",
        // They are unknown in the picture.
        _ if !info.context.is_empty() => "",
        (0, _) => ", all classes in turn",
        _ => ", captions of the training data in turn",
    };
    // That of a consistency model was fixed in training.
    let guided = match options.guidance {
        Some(scale) => format!(", with the guidance scale {scale} and without guidance"),
        None if turns.is_empty() || info.consistency => String::new(),
        None => ", without guidance".to_owned(),
    };
    let picture = match options.guidance {
        Some(_) => format!(
            "![Samples with guidance]({})\n\n![Samples without guidance]({name}.png)",
            guided_picture(&options.out)
        ),
        None => format!("![Samples]({name}.png)"),
    };
    let averaged = match run.training.ema > 0.0 {
        true => "EMA weights, ",
        false => "",
    };
    let (shown_with, sampler) = words(model);
    Ok(format!(
        "{header}# {name}

{picture}

| | |
|---|---|
{files}| network | {architecture}, {parameters} parameters{latents} |
| data | {data}, {c}×{h}×{w}, classes {classes}{attributes} |
{training}| picture | {shown}, {averaged}{shown_with}, seed {SEED} |

{configuration}
To use it {place}:

```rust
let model = Model::load(\"{path}\", &device)?;
{given}let images = model.sample(8, {condition}, &{sampler}, &mut Rng::new(1))?;
Grid::new(&images)?
```
",
        architecture = model.network.architecture().name(),
        parameters = model.network.parameters().count(),
        latents = model.autoencoder.as_ref().map_or_else(String::new, |vae| {
            let [c, h, w] = info.shape;
            let parameters = vae.parameters().count();
            format!("; for latents of {c}×{h}×{w}, with the autoencoder of {parameters} parameters that decodes them")
        }),
        data = info.data,
        classes = info.classes.join(", "),
        attributes = match &info.context[..] {
            [] => String::new(),
            names => format!("; conditioned on the attributes {}", names.join(", ")),
        },
        training = training(options, run)?,
        shown = match factor {
            0 => counted(options.samples, "image") + turns + &guided,
            _ => format!(
                "held-out images at 1/{factor} of their resolution, samples conditioned on them, and the originals"
            ),
        },
        given = match factor {
            0 => String::new(),
            _ => format!(
                "let source = Source {{ task: \"{}\".to_string(), ..Default::default() }};\n\
                 let x0 = source.load(Split::Test, 1)?.images(0..8, &device)?; // images in full resolution\n",
                info.data
            ),
        },
        condition = match factor {
            0 => "&model.conditions(8)?".to_owned(),
            _ => format!("Condition::low_res(reduce(&x0, {factor})?)"),
        },
        configuration = configuration(options, run)?,
    ))
}

/// The rows of a card's table about the training.
fn training(options: &Options, run: &RunConfig) -> Result<String> {
    let log = fs::read_to_string(options.run.join("log.jsonl"))?;
    let log: Vec<Step> = log.lines().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<_>>()?;
    let last = log.last().context("the run has no step")?;
    let epoch: Vec<f64> = log.iter().filter(|s| s.epoch == last.epoch).map(|s| s.loss).collect();
    let machine = fs::read_to_string(options.run.join("machine.txt")).unwrap_or_default();
    let machine: Vec<&str> = machine.lines().collect();
    let batch = run.training.batch * run.training.accumulate;
    Ok(format!(
        "| training | {steps} steps with a batch of {batch}, {seen} images in total |\n\
         | training time | {time} on {machine} |\n\
         | loss | {loss:.4}, the mean over the {count} steps of the last epoch |\n",
        steps = log.len(),
        seen = log.len() * batch,
        time = time(last.seconds),
        machine = machine.join(", then "),
        loss = epoch.iter().sum::<f64>() / epoch.len() as f64,
        count = epoch.len(),
    ))
}

/// The part of a card with the configuration.
fn configuration(options: &Options, run: &RunConfig) -> Result<String> {
    let again = match &options.again {
        Some(command) => format!("; `{command}` repeats it:"),
        None => ", for `cargo diffusion train --config`:".to_owned(),
    };
    Ok(format!("The configuration of the training run{again}\n\n```toml\n{}```\n", run.to_toml()?))
}

/// In whole minutes, or in seconds below two minutes.
fn time(seconds: f64) -> String {
    match (seconds / 60.0).round() as usize {
        0 | 1 => counted(seconds.round() as usize, "second"),
        minutes => counted(minutes, "minute"),
    }
}
