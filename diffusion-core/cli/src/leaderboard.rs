//! `diffusion leaderboard`: training runs with the same budget, compared. LEADERBOARD.md has one part for every combination of
//! schedule, prediction type, loss and sampler on the built-in sprites, one for four noise processes on sprites and MNIST,
//! one for a VAE, a GAN and diffusion on the same data, and the record of single changes to a recipe.

mod combinations;
mod families;
mod processes;
mod record;
mod referee;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use diffusion_core::device::Choice;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Options {
    /// Measures and writes only this part of the file; the others stay as they are
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// The data sets of all parts but the first
    #[arg(long, value_delimiter = ',', default_values = processes::TASKS)]
    tasks: Vec<String>,
    #[command(flatten)]
    budget: Flags,
    /// Minutes of a training run of the families and of the record [default: 4, for the record 10]
    #[arg(long)]
    minutes: Option<f64>,
    /// Tries only this change of the record's recipe; may be repeated
    #[arg(long)]
    change: Vec<String>,
    /// The folder of the classifiers whose features the Fréchet distance compares: classifier-sprites.safetensors, …
    #[arg(long, default_value = "weights")]
    classifiers: PathBuf,
    /// The file that keeps the result of each training run; runs found in it are not repeated
    #[arg(long, default_value = "runs/leaderboard.jsonl")]
    results: PathBuf,
    /// The Markdown file to write
    #[arg(long, default_value = "LEADERBOARD.md")]
    out: PathBuf,
    /// The folder to which the measurements are written as tables of numbers: processes.csv and families.csv
    #[arg(long, default_value = "weights")]
    csv: PathBuf,
    /// The device: auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: Choice,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    Combinations,
    Processes,
    Families,
    Record,
}

/// The parts in their order, and the lines with which they begin in the file.
const PARTS: [(Part, &str); 4] = [
    (Part::Combinations, "# Leaderboard"),
    (Part::Processes, "# Noise processes"),
    (Part::Families, "# Families"),
    (Part::Record, "# Record"),
];

/// The budget of each training run and of each measurement.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Budget {
    train_steps: usize,
    base: usize,
    images: usize,
    samples: usize,
    seeds: u64,
}

/// The flags that change the budget of a part.
#[derive(Args)]
struct Flags {
    /// Optimiser steps of a training run, with batches of 64 images [default: 600, for the processes 1000; the others have
    /// --minutes]
    #[arg(long)]
    train_steps: Option<usize>,
    /// Channels of the network at full resolution [default: 16, for the families 32; the record has its own]
    #[arg(long)]
    base: Option<usize>,
    /// Sprites in the training set [default: 5000, for families and record 20000]
    #[arg(long)]
    images: Option<usize>,
    /// Samples for each measurement [default: 500, for families and record 2000]
    #[arg(long)]
    samples: Option<usize>,
    /// Training runs of each configuration, with the seeds 1, 2, … [default: 3]
    #[arg(long)]
    seeds: Option<u64>,
}

impl Flags {
    fn over(&self, default: Budget) -> Budget {
        Budget {
            train_steps: self.train_steps.unwrap_or(default.train_steps),
            base: self.base.unwrap_or(default.base),
            images: self.images.unwrap_or(default.images),
            samples: self.samples.unwrap_or(default.samples),
            seeds: self.seeds.unwrap_or(default.seeds),
        }
    }
}

pub fn run(options: &Options) -> Result<()> {
    ensure!(options.budget.seeds != Some(0), "--seeds must be at least 1");
    if let Some(task) = options.tasks.iter().find(|task| !processes::TASKS.contains(&&***task)) {
        bail!("--tasks {task}: choose from {}", processes::TASKS.join(", "));
    }
    ensure!(options.budget.samples.is_none_or(|n| n >= 8), "--samples must be at least 8");
    if let Some(minutes) = options.minutes {
        ensure!(minutes.is_finite() && minutes > 0.0, "--minutes {minutes} must be above 0");
    }
    if let Some(folder) = options.results.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let before = fs::read_to_string(&options.out).unwrap_or_default();
    let mut text = String::new();
    for (part, heading) in PARTS {
        let body = match (options.only, part) {
            (Some(only), part) if only != part => body_of(&before, heading),
            (_, Part::Combinations) => combinations::run(options)?,
            (_, Part::Processes) => processes::run(options)?,
            (_, Part::Families) => families::run(options)?,
            (_, Part::Record) => record::run(options)?,
        };
        if !body.trim().is_empty() {
            text += &format!("{heading}\n\n{}\n\n", body.trim());
        }
    }
    fs::write(&options.out, text.trim_end().to_owned() + "\n")
        .with_context(|| format!("cannot write {}", options.out.display()))?;
    println!("{}", options.out.display());
    Ok(())
}

/// What a file says between a heading and the next part.
fn body_of(text: &str, heading: &str) -> String {
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    lines.take_while(|line| !PARTS.iter().any(|(_, other)| line == other)).map(|line| line.to_owned() + "\n").collect()
}

/// Writes a table of numbers to a file in the folder `--csv`.
fn write_csv(options: &Options, name: &str, csv: &str) -> Result<()> {
    let path = options.csv.join(name);
    fs::write(&path, csv).with_context(|| format!("--csv: cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

/// The results of earlier calls that `wanted` accepts. Incomplete lines and those of other parts are skipped.
fn known<T: DeserializeOwned>(path: &Path, wanted: impl Fn(&T) -> bool) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let outcomes = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok(outcomes.filter(|it| wanted(it)).collect())
}

/// Appends the result of a training run.
fn keep(path: &Path, outcome: &impl Serialize) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(writeln!(file, "{}", serde_json::to_string(outcome)?)?)
}

/// The machines of several results, each once.
fn machines<'a>(all: impl Iterator<Item = &'a str>) -> String {
    let mut machines: Vec<&str> = all.collect();
    machines.sort_unstable();
    machines.dedup();
    machines.join(" and ")
}
