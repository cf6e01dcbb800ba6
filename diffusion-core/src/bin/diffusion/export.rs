//! `diffusion export`: the model of a run, ready to be given to somebody.

use anyhow::{Context, Result};
use clap::Args;
use diffusion_core::candle::{DType, Device, Tensor};
use diffusion_core::config::RunConfig;
use diffusion_core::data::Part;
use diffusion_core::device::Setup;
use diffusion_core::model::Model;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::Sampler;
use diffusion_core::show::Grid;
use diffusion_core::train::{Step, Training};
use std::fs;
use std::path::PathBuf;

const SAMPLES: usize = 64;
const SEED: u64 = 1;

#[derive(Args)]
pub struct Options {
    /// The folder of a run that is done
    #[arg(long)]
    run: PathBuf,
    /// Where to: NAME.safetensors, with NAME.md and NAME.png beside it
    #[arg(long)]
    out: PathBuf,
    /// The checkpoint to export, if not the end of the run: its number of steps
    #[arg(long)]
    steps: Option<usize>,
    /// No card and no picture
    #[arg(long)]
    weights_only: bool,
}

pub fn run(options: Options) -> Result<()> {
    let run = RunConfig::load(options.run.join("config.toml"))?;
    let model = model(&options, &run)?;
    if let Some(folder) = options.out.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    model.save_as(&options.out, DType::F16)?;
    println!("{}", options.out.display());
    if options.weights_only {
        return Ok(());
    }
    let picture = options.out.with_extension("png");
    Grid::new(&samples(&model)?)?.columns(8).save(&picture)?;
    let path = options.out.with_extension("md");
    fs::write(&path, card(&options, &run, &model)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}\n{}", picture.display(), path.display());
    Ok(())
}

/// The model of the run's end, or with the averaged weights of one of its checkpoints.
fn model(options: &Options, run: &RunConfig) -> Result<Model> {
    let Some(steps) = options.steps else {
        return Model::load(options.run.join("model.safetensors"), &Device::Cpu);
    };
    let data = run.data.load(Part::Train, run.training.seed)?;
    let training = Training::new(
        run.training.clone(),
        run.architecture(&data),
        &data,
        &Device::Cpu,
    )?;
    training.at_checkpoint(&options.run, steps)?.into_model()
}

fn samples(model: &Model) -> Result<Tensor> {
    let condition = model.conditions(SAMPLES)?;
    model.sample(
        SAMPLES,
        &condition,
        &Sampler::default(),
        &mut Rng::new(SEED),
    )
}

/// How far answers with the exported weights are from those with the run's own: root mean square, relative.
fn rounding(options: &Options, model: &Model) -> Result<f64> {
    let exported = Model::load(&options.out, &Device::Cpu)?;
    let [c, h, w] = model.process.shape;
    let x = Rng::new(SEED).randn((16, c, h, w), &Device::Cpu)?;
    let t: Vec<usize> = (0..16)
        .map(|i| i * (model.process.steps - 1) / 15)
        .collect();
    let condition = model.conditions(16)?;
    let answer = |m: &Model| m.network.predict(&x, &t, &condition);
    let (want, got) = (answer(model)?, answer(&exported)?);
    let square = |x: Tensor| -> Result<f64> { Ok(x.sqr()?.mean_all()?.to_scalar::<f32>()?.into()) };
    Ok((square((&got - &want)?)? / square(want)?).sqrt())
}

fn card(options: &Options, run: &RunConfig, model: &Model) -> Result<String> {
    let name = options
        .out
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    let log = fs::read_to_string(options.run.join("log.jsonl"))?;
    let log: Vec<Step> = log
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect::<Result<_>>()?;
    let last = log.last().context("the run has no step")?;
    let epoch: Vec<f64> = log
        .iter()
        .filter(|s| s.epoch == last.epoch)
        .map(|s| s.loss)
        .collect();
    let (process, setup) = (&model.process, Setup::new(run.training.seed));
    let bytes = fs::metadata(&options.out)?.len();
    let processor = setup.processor.unwrap_or_else(|| "unknown".to_owned());
    let [c, h, w] = process.shape;
    Ok(format!(
        "# {name}

![{SAMPLES} samples, DDIM in 50 steps, all classes in turn]({name}.png)

| | |
|---|---|
| network | {architecture}, {parameters} parameters, stored as f16 ({megabytes:.1} MB) |
| data | {data}, {c}×{h}×{w}, classes {classes} |
| trained | {steps} steps of {batch} images, {seen} images in all |
| wall time | {minutes:.0} minutes on {processor}, {threads} threads |
| loss | {loss:.4}, the mean of the last epoch's {count} steps |
| rounding to f16 | changes an answer by {rounding:.1e} of itself (root mean square over 16 time steps) |
| samples | averaged weights, DDIM in 50 steps, seed {SEED} |

Trained and written by `make weights` from [{name}.toml]({name}.toml), which says how in full:

```toml
{config}```

```rust
let model = Model::load(\"../weights/{name}.safetensors\", &device)?;
let images = model.sample(8, &model.conditions(8)?, &Sampler::default(), &mut Rng::new(1))?;
Grid::new(&images)?
```
",
        architecture = model.network.architecture().name(),
        parameters = model.network.params().count(),
        megabytes = bytes as f64 / 1e6,
        data = process.data,
        classes = process.classes.join(", "),
        steps = log.len(),
        batch = run.training.batch * run.training.accumulate,
        seen = process.images_seen,
        minutes = last.seconds / 60.0,
        threads = setup.threads,
        loss = epoch.iter().sum::<f64>() / epoch.len() as f64,
        count = epoch.len(),
        rounding = rounding(options, model)?,
        config = run.to_toml()?,
    ))
}
