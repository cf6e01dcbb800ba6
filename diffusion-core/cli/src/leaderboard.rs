//! `diffusion leaderboard`: every combination of schedule, prediction type, loss, sampler and number of steps, compared on
//! the built-in sprites.

use anyhow::{Context, Result, ensure};
use clap::Args;
use diffusion_core::candle::{Device, Tensor};
use diffusion_core::config::RunConfig;
use diffusion_core::data::{Dataset, Source, Split};
use diffusion_core::device::{Choice, described};
use diffusion_core::metrics::{Classifier, FeatureExtractor, Gaussian, class_accuracy};
use diffusion_core::prediction::Prediction;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::{Sampler, Solver, Steps};
use diffusion_core::schedule::Schedule;
use diffusion_core::train::{Decay, Loss, Training, TrainingConfig};
use diffusion_core::unet::{Architecture, SimpleUNet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    budget: Budget,
    /// The classifier whose features the Fréchet distance compares
    #[arg(long, default_value = "weights/classifier-sprites.safetensors")]
    classifier: PathBuf,
    /// The file that keeps the result of each training run; runs found in it are not repeated
    #[arg(long, default_value = "runs/leaderboard.jsonl")]
    results: PathBuf,
    /// The Markdown file to write
    #[arg(long, default_value = "LEADERBOARD.md")]
    out: PathBuf,
    /// The device: auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: Choice,
}

/// The budget of each training run and of each measurement.
#[derive(Args, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Budget {
    /// Optimiser steps of a training run, with batches of 64 images
    #[arg(long, default_value_t = 600)]
    train_steps: usize,
    /// Channels of the network at full resolution
    #[arg(long, default_value_t = 16)]
    base: usize,
    /// Sprites in the training set
    #[arg(long, default_value_t = 5000)]
    images: usize,
    /// Samples for each measurement
    #[arg(long, default_value_t = 500)]
    samples: usize,
    /// Training runs of each configuration, with the seeds 1, 2, …
    #[arg(long, default_value_t = 3)]
    seeds: u64,
}

/// The choices that are made before training.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Trained {
    schedule: String,
    param: String,
    loss: String,
    seed: u64,
}

/// The result of one training run.
#[derive(Serialize, Deserialize)]
struct Outcome {
    budget: Budget,
    trained: Trained,
    seconds: f64,
    machine: String,
    rows: Vec<Row>,
}

/// The measurements of one sampler with one number of steps.
#[derive(Clone, Serialize, Deserialize)]
struct Row {
    sampler: String,
    steps: usize,
    frechet: f64,
    accuracy: f64,
    seconds: f64,
}

type MakeSchedule = fn() -> diffusion_core::candle::Result<Schedule>;
const SCHEDULES: [(&str, MakeSchedule); 2] =
    [("linear", || Schedule::linear(1000)), ("cosine", || Schedule::cosine(1000))];
const PREDICTIONS: [(&str, Prediction); 3] = [("ε", Prediction::Eps), ("x₀", Prediction::X0), ("v", Prediction::V)];
const LOSSES: [(&str, Loss); 2] = [("MSE", Loss::Mse), ("L1", Loss::L1)];
const STEPS: [usize; 2] = [10, 25];

fn samplers(steps: usize) -> [(&'static str, Sampler); 3] {
    let ddpm = Sampler {
        solver: Solver::Ddpm { variance: Default::default() },
        steps: Steps::Trailing(steps),
        ..Sampler::ddpm()
    };
    [("DDPM", ddpm), ("DDIM", Sampler::ddim(steps)), ("DPM-Solver++", Sampler::dpm_solver(steps))]
}

pub fn run(options: &Options) -> Result<()> {
    let budget = options.budget;
    ensure!(budget.seeds > 0, "--seeds must be at least 1");
    ensure!(budget.samples >= 2, "--samples must be at least 2");
    let device = crate::device(options.device)?;
    let referee = Referee::new(options, &device)?;
    if let Some(folder) = options.results.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut outcomes = known(&options.results, budget)?;
    let wanted = wanted(budget.seeds)?;
    for (i, (trained, config)) in wanted.iter().enumerate() {
        if outcomes.iter().any(|done| done.trained == *trained) {
            continue;
        }
        let Trained { schedule, param, loss, seed } = trained;
        println!("{}/{}: {schedule}, {param}, {loss}, seed {seed}", i + 1, wanted.len());
        let outcome = referee.play(budget, trained, config.clone(), &device)?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&options.results)
            .with_context(|| format!("cannot write {}", options.results.display()))?;
        writeln!(file, "{}", serde_json::to_string(&outcome)?)?;
        outcomes.push(outcome);
    }
    outcomes.retain(|done| wanted.iter().any(|(trained, _)| done.trained == *trained));
    let text = table(budget, &outcomes, &referee)?;
    fs::write(&options.out, text).with_context(|| format!("cannot write {}", options.out.display()))?;
    println!("{}", options.out.display());
    Ok(())
}

/// The configurations of all training runs.
fn wanted(seeds: u64) -> Result<Vec<(Trained, TrainingConfig)>> {
    let mut wanted = Vec::new();
    for seed in 1..=seeds {
        for (schedule, schedule_of) in SCHEDULES {
            for (param, prediction) in PREDICTIONS {
                for (name, loss) in LOSSES {
                    let trained =
                        Trained { schedule: schedule.to_owned(), param: param.to_owned(), loss: name.to_owned(), seed };
                    let config = TrainingConfig {
                        seed,
                        process: schedule_of()?.into(),
                        prediction,
                        loss,
                        ..TrainingConfig::default()
                    };
                    wanted.push((trained, config));
                }
            }
        }
    }
    Ok(wanted)
}

/// The results of earlier calls with the same budget. Incomplete lines are skipped.
fn known(path: &Path, budget: Budget) -> Result<Vec<Outcome>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let outcomes = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok(outcomes.filter(|it: &Outcome| it.budget == budget).collect())
}

/// The classifier and the real images against which samples are measured.
struct Referee {
    classifier: Classifier,
    data: Dataset,
    real: Gaussian,
    /// The real-vs-real baseline: the distance of as many other sprites as there are samples.
    baseline: f64,
    real_images: usize,
}

impl Referee {
    fn new(options: &Options, device: &Device) -> Result<Self> {
        let path = &options.classifier;
        ensure!(
            path.is_file(),
            "--classifier: {} does not exist; `cargo diffusion classifier --task sprites --images 50000 --out {}` trains it",
            path.display(),
            path.display()
        );
        let classifier = Classifier::load(path, device).context("--classifier")?;
        let Budget { images, samples, .. } = options.budget;
        let source = |images| Source { images, ..Source::default() };
        let data = source(images).load(Split::Train, 1)?;
        let real = Dataset::sprites(5000, 1_000_001)?;
        let others = Dataset::sprites(samples, 1_000_002)?;
        let gaussian = |data: &Dataset| Gaussian::fit(&classifier.extract_from(data, data.len())?.features);
        let (of_real, of_others) = (gaussian(&real)?, gaussian(&others)?);
        Ok(Self { baseline: of_real.frechet(&of_others)?, real: of_real, real_images: real.len(), classifier, data })
    }

    /// Trains a network and measures its samples with every sampler and number of steps.
    fn play(&self, budget: Budget, trained: &Trained, config: TrainingConfig, device: &Device) -> Result<Outcome> {
        let run = RunConfig {
            network: Architecture::from(SimpleUNet { base: budget.base, ..SimpleUNet::default() }),
            training: TrainingConfig {
                epochs: 1_000_000,
                train_steps: budget.train_steps,
                lr: 1e-3,
                warmup: budget.train_steps / 20,
                decay: Decay::Cosine { floor: 0.0 },
                ema: 0.998,
                sample_every: 0,
                ..config
            },
            ..RunConfig::default()
        };
        let architecture = run.architecture(&self.data);
        let mut training = Training::new(run.training, architecture, &self.data, device)?;
        let began = Instant::now();
        training.run()?;
        let seconds = began.elapsed().as_secs_f64();
        let model = training.into_model()?;
        let n = budget.samples;
        let classes = self.data.class_names().len();
        let labels: Vec<u32> = (0..n).map(|i| (i % classes) as u32).collect();
        let condition = model.conditions(n)?;
        let mut rows = Vec::new();
        for steps in STEPS {
            for (name, sampler) in samplers(steps) {
                let (began, rng) = (Instant::now(), &mut Rng::new(trained.seed));
                let images = model.sample_in_batches(n, 250, &condition, &sampler, rng)?;
                let seconds = began.elapsed().as_secs_f64();
                let (frechet, accuracy) = self.judge(&images, &labels)?;
                rows.push(Row { sampler: name.to_owned(), steps, frechet, accuracy, seconds });
            }
        }
        Ok(Outcome { budget, trained: trained.clone(), seconds, machine: described(device), rows })
    }

    fn judge(&self, images: &Tensor, labels: &[u32]) -> Result<(f64, f64)> {
        let seen = self.classifier.extract(&images.clamp(-1f32, 1f32)?)?;
        let frechet = self.real.frechet(&Gaussian::fit(&seen.features)?)?;
        let accuracy = class_accuracy(&seen.probabilities, labels)?.accuracy;
        Ok((frechet, accuracy))
    }
}

/// The values of several seeds.
#[derive(Default)]
struct Spread(Vec<f64>);

impl Spread {
    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// The standard deviation, if there are at least two values.
    fn deviation(&self) -> Option<f64> {
        let (mean, n) = (self.mean(), self.0.len() as f64);
        let squares = self.0.iter().map(|x| (x - mean).powi(2));
        (self.0.len() > 1).then(|| (squares.sum::<f64>() / (n - 1.0)).sqrt())
    }
}

/// The measurements that a row of a table summarises.
#[derive(Default)]
struct Line {
    frechet: Spread,
    accuracy: Spread,
    training: Spread,
    sampling: Spread,
}

impl Line {
    fn add(&mut self, outcome: &Outcome, row: &Row) {
        self.frechet.0.push(row.frechet);
        self.accuracy.0.push(row.accuracy);
        self.training.0.push(outcome.seconds);
        self.sampling.0.push(row.seconds);
    }
}

/// The smallest and the largest value.
fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)))
}

fn table(budget: Budget, outcomes: &[Outcome], referee: &Referee) -> Result<String> {
    let mut lines: BTreeMap<[String; 5], Line> = BTreeMap::new();
    let mut factors: BTreeMap<(usize, String), Line> = BTreeMap::new();
    for outcome in outcomes {
        let Trained { schedule, param, loss, .. } = &outcome.trained;
        for row in &outcome.rows {
            let key = [schedule, param, loss, &row.sampler, &row.steps.to_string()].map(Clone::clone);
            for (i, choice) in key.iter().enumerate() {
                factors.entry((i, choice.clone())).or_default().add(outcome, row);
            }
            lines.entry(key).or_default().add(outcome, row);
        }
    }
    let mut lines: Vec<_> = lines.into_iter().collect();
    lines.sort_by(|a, b| a.1.frechet.mean().total_cmp(&b.1.frechet.mean()));
    let mut machines: Vec<&str> = outcomes.iter().map(|o| o.machine.as_str()).collect();
    machines.sort_unstable();
    machines.dedup();
    let Budget { train_steps, base, images, samples, seeds } = budget;
    let about = &referee.classifier.about;
    let (best, worst) = ends(lines.iter().map(|(_, line)| line.frechet.mean()));
    let (least, most) = ends(lines.iter().map(|(_, line)| line.accuracy.mean()));
    let mut text = format!(
        "# Leaderboard

This file compares every combination of schedule, prediction type, loss, sampler and number of sampling steps on the
built-in sprites. `make leaderboard` writes it. All networks have the same training budget: {train_steps} steps with batches of 64
out of {images} sprites, a class-conditional `SimpleUNet` with base {base}, a learning rate of 1e-3 with {warmup} steps of warm-up and
cosine decay. All samples are drawn with the EMA weights. Measured on {machines}.

- *Fréchet distance* (lower is better): {samples} samples, with the same number of each class and without guidance (w = 1), against
  {real} held-out sprites. The features are those of a network that classifies {accuracy:.2} % of its {test} test sprites correctly. The
  **real-vs-real baseline** is {baseline:.3}: the distance of {samples} other real sprites, with the same number of each class, from the
  same {real}. (`diffusion evaluate` computes its baseline from random splits. In random splits the class counts vary, so that
  baseline is higher, especially for small sets.) Distances of different numbers of samples are not comparable.
- *Accuracy*: the share of samples that the classifier assigns to the class they were conditioned on.
- ± is the standard deviation over {seeds} seeds. Differences smaller than this are not meaningful.
- A sampling step is one evaluation of the network, with every sampler.
- All training runs are short: the distances range from {best:.0} to {worst:.0}, the accuracies from {least:.0} to {most:.0} %. This is therefore the
  ranking after {train_steps} steps with base {base}, and longer training can change it. The models in `weights/` are trained for longer, most of
  them with v-prediction.
- The prediction type also decides how the loss weights the noise levels. In terms of the squared error of the predicted clean
  image, the MSE of x₀ has weight 1 at every noise level, the MSE of ε has weight SNR(t), and the MSE of v has weight SNR(t) + 1.
  Of the three, x₀-prediction therefore gives the most weight to high noise levels, at which the class and the shape of a sprite are
  decided. Section 4 of notebooks/03_training.ipynb trains all three with the same weighting: the lead of x₀-prediction becomes
  smaller in Fréchet distance and disappears in accuracy.

## The effect of each choice

Each row is the mean over all combinations with this choice:

| | choice | Fréchet distance | accuracy |
|---|---|---|---|
",
        warmup = train_steps / 20,
        machines = machines.join(" and "),
        real = referee.real_images,
        accuracy = 100.0 * about.test_accuracy,
        test = about.test_images,
        least = 100.0 * least,
        most = 100.0 * most,
        baseline = referee.baseline,
    );
    for ((i, choice), line) in &factors {
        let name = ["schedule", "prediction", "loss", "sampler", "steps"][*i];
        writeln!(text, "| {name} | {choice} | {:.3} | {:.1} % |", line.frechet.mean(), 100.0 * line.accuracy.mean())?;
    }
    text += "
## All combinations

| | schedule | prediction | loss | sampler | steps | Fréchet distance | accuracy | training | sampling |
|---|---|---|---|---|---|---|---|---|---|
";
    for (place, (key, line)) in lines.iter().enumerate() {
        let spread = line.frechet.deviation().map_or(String::new(), |d| format!(" ± {d:.3}"));
        writeln!(
            text,
            "| {} | {} | {:.3}{spread} | {:.1} % | {:.0} s | {:.1} s |",
            place + 1,
            key.join(" | "),
            line.frechet.mean(),
            100.0 * line.accuracy.mean(),
            line.training.mean(),
            line.sampling.mean()
        )?;
    }
    Ok(text)
}
