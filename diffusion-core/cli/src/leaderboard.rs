//! `diffusion leaderboard`: training runs with the same budget, compared. LEADERBOARD.md has one part for every combination of
//! schedule, prediction type, loss and sampler on the built-in sprites, and one for four noise processes on sprites and MNIST.

mod combinations;
mod processes;
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
    /// Measures and writes only this part of the file; the other stays as it is
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// The data sets on which the processes are compared
    #[arg(long, value_delimiter = ',', default_values = processes::TASKS)]
    tasks: Vec<String>,
    /// Optimiser steps of a training run, with batches of 64 images [default: 600, for the processes 1000]
    #[arg(long)]
    train_steps: Option<usize>,
    #[command(flatten)]
    budget: Budget,
    /// The folder of the classifiers whose features the Fréchet distance compares: classifier-sprites.safetensors, …
    #[arg(long, default_value = "weights")]
    classifiers: PathBuf,
    /// The file that keeps the result of each training run; runs found in it are not repeated
    #[arg(long, default_value = "runs/leaderboard.jsonl")]
    results: PathBuf,
    /// The Markdown file to write
    #[arg(long, default_value = "LEADERBOARD.md")]
    out: PathBuf,
    /// The measurements of the processes as a table of numbers, to write
    #[arg(long, default_value = "weights/processes.csv")]
    csv: PathBuf,
    /// The device: auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    device: Choice,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    Combinations,
    Processes,
}

/// The budget of each training run and of each measurement.
#[derive(Args, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Budget {
    #[arg(skip)]
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

/// The heading of the second part of the file.
const PROCESSES: &str = "# Noise processes\n";

pub fn run(options: &Options) -> Result<()> {
    ensure!(options.budget.seeds > 0, "--seeds must be at least 1");
    if let Some(task) = options.tasks.iter().find(|task| !processes::TASKS.contains(&&***task)) {
        bail!("--tasks {task}: choose from {}", processes::TASKS.join(", "));
    }
    ensure!(options.budget.samples >= 2, "--samples must be at least 2");
    if let Some(folder) = options.results.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let before = fs::read_to_string(&options.out).unwrap_or_default();
    let (first, second) = before.split_once(PROCESSES).unwrap_or((&before, ""));
    let first = match options.only {
        Some(Part::Processes) => first.trim_end().to_owned(),
        _ => combinations::run(options)?,
    };
    let second = match options.only {
        Some(Part::Combinations) => second.trim_end().to_owned(),
        _ => processes::run(options)?,
    };
    let parts = [first, if second.is_empty() { second } else { PROCESSES.to_owned() + &second }];
    let text = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n");
    fs::write(&options.out, text + "\n").with_context(|| format!("cannot write {}", options.out.display()))?;
    println!("{}", options.out.display());
    Ok(())
}

/// The results of earlier calls that `wanted` accepts. Incomplete lines and those of the other part are skipped.
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
