//! A run's folder: its configuration, its log, its checkpoints and its samples.

use super::step::Step;
use super::upgrade::upgrade;
use crate::device::described;
use crate::nn::Checkpoint;
use crate::show::{Grid, Live, LiveState};
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.toml";
const LOG: &str = "log.jsonl";
const MACHINE: &str = "machine.txt";
const CHECKPOINTS: &str = "checkpoints";

/// What may change when a run is taken up again: it does not change what a step computes. More epochs go on where the
/// old ones ended.
const MAY_DIFFER: [&str; 7] =
    ["epochs", "train_steps", "checkpoint_every", "keep", "sample_every", "samples", "sample_steps"];

/// From where a training resumed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// How many steps were done; 0 if no checkpoint could be used.
    pub steps: usize,
    /// Checkpoints that could not be used, newest first, each with the reason.
    pub skipped: Vec<String>,
}

impl std::fmt::Display for Resumed {
    /// Lines for the reader: which checkpoints were skipped and why, and after how many steps it resumes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for problem in &self.skipped {
            writeln!(f, "skipped checkpoint: {problem}")?;
        }
        writeln!(f, "resuming after {} steps", self.steps)
    }
}

#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    log: File,
    last_saved: Option<PathBuf>,
    last_samples: Option<String>,
}

/// Where a folder has the checkpoint after so many steps.
pub(super) fn checkpoint(folder: &Path, steps: usize) -> PathBuf {
    let name = format!("step-{steps:09}.safetensors");
    folder.join(CHECKPOINTS).join(name)
}

/// After how many steps the folder of a run has checkpoints, in order; none where it cannot be read.
pub(super) fn steps_of_checkpoints(folder: &Path) -> Vec<usize> {
    let entries = fs::read_dir(folder.join(CHECKPOINTS)).into_iter().flatten();
    let steps = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let digits = name.strip_prefix("step-")?.strip_suffix(".safetensors")?;
        digits.parse().ok()
    });
    let mut steps: Vec<usize> = steps.collect();
    steps.sort_unstable();
    steps
}

impl RunFolder {
    /// Makes the folder, or opens one with a run of the same configuration.
    pub(super) fn open(path: &Path, run: &toml::Table, has_source: bool, device: &Device) -> Result<Self> {
        let open = || {
            fs::create_dir_all(path.join(CHECKPOINTS))?;
            let config = path.join(CONFIG);
            if config.is_file() {
                let mut there: toml::Table = toml::from_str(&fs::read_to_string(&config)?)?;
                upgrade(&mut there)?;
                same_run(&there, run, has_source)?;
            }
            crate::nn::write_whole(&config, toml::to_string(run)?.as_bytes())?;
            note_machine(&path.join(MACHINE), device)?;
            // A stop that was requested before this session does not concern it.
            Live::clear_stop(path)?;
            let log = OpenOptions::new().create(true).append(true).open(path.join(LOG))?;
            anyhow::Ok(Self { path: path.to_owned(), log, last_saved: None, last_samples: None })
        };
        open().with_context(|| format!("cannot use the folder {}", path.display())).map_err(crate::whole)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn last_saved(&self) -> Option<&Path> {
        self.last_saved.as_deref()
    }

    /// The newest sheet of samples of this session, as a path from the folder.
    pub(super) fn last_samples(&self) -> Option<&str> {
        self.last_samples.as_deref()
    }

    /// Gives `load` the newest checkpoint that it can use; `load` returns the steps done.
    pub(super) fn newest(&mut self, mut load: impl FnMut(&Checkpoint) -> Result<usize>) -> Result<Option<Resumed>> {
        let mut resumed = Resumed::default();
        let checkpoints = self.checkpoints()?;
        for path in checkpoints.iter().rev() {
            match Checkpoint::load(path).and_then(|file| load(&file)) {
                Ok(steps) => {
                    resumed.steps = steps;
                    self.last_saved = Some(path.clone());
                    break;
                }
                Err(problem) => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    resumed.skipped.push(format!("{name}: {}", crate::message(&problem)));
                }
            }
        }
        Ok((!checkpoints.is_empty()).then_some(resumed))
    }

    /// The checkpoints there are, oldest first.
    fn checkpoints(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path.join(CHECKPOINTS))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Saves a checkpoint and removes the oldest beyond `keep`.
    pub(super) fn save_checkpoint(&mut self, steps: usize, file: &Checkpoint, keep: usize) -> Result<PathBuf> {
        let path = checkpoint(&self.path, steps);
        // So that the log never lacks a step that the checkpoint has.
        self.log.sync_data()?;
        file.save(&path)?;
        self.last_saved = Some(path.clone());
        let all = self.checkpoints()?;
        for old in &all[..all.len().saturating_sub(keep)] {
            fs::remove_file(old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
        Ok(path)
    }

    pub(super) fn log(&mut self, step: &Step) -> Result<()> {
        let mut line = serde_json::to_string(step)?;
        line.push('\n');
        self.log.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", self.path.join(LOG).display()))
    }

    /// The first `steps` steps of the log. What lies beyond was lost with the break and is removed.
    pub(super) fn history(&mut self, steps: usize) -> Result<Vec<Step>> {
        let path = self.path.join(LOG);
        let mut history = Vec::new();
        let mut text = String::new();
        for line in BufReader::new(File::open(&path)?).lines() {
            // A line that was cut off ends what can be known.
            let Some(step) = line.ok().and_then(|l| serde_json::from_str::<Step>(&l).ok()) else {
                break;
            };
            if step.index >= steps {
                break;
            }
            text.push_str(&serde_json::to_string(&step)?);
            text.push('\n');
            history.push(step);
        }
        crate::nn::write_whole(&path, text.as_bytes())?;
        self.log = OpenOptions::new().append(true).open(&path)?;
        Ok(history)
    }

    pub(super) fn save_samples(&mut self, epoch: usize, images: &Tensor, columns: usize) -> Result<()> {
        let name = format!("samples/epoch-{epoch:04}.png");
        Grid::new(images)?.columns(columns).save(self.path.join(&name))?;
        self.last_samples = Some(name);
        Ok(())
    }

    pub(super) fn stop_requested(&self) -> bool {
        Live::stop_requested(&self.path)
    }

    /// Writes the state for the page that follows this run, if there is one. A failure to do so is no reason to stop.
    pub(super) fn write_live(&self, state: impl FnOnce() -> LiveState) {
        if let Some(token) = LiveState::token_of(&self.path) {
            let state = LiveState { token, ..state() };
            let _ = state.write(&self.path);
        }
    }
}

/// Notes what the training runs on, a line for each machine that it has run on.
fn note_machine(path: &Path, device: &Device) -> Result<()> {
    let line = described(device);
    let before = fs::read_to_string(path).unwrap_or_default();
    if before.lines().all(|known| known != line) {
        fs::write(path, format!("{before}{line}\n"))?;
    }
    Ok(())
}

/// An error that names the first value in which two runs differ, if they differ in what a step computes.
fn same_run(there: &toml::Table, here: &toml::Table, has_source: bool) -> Result<()> {
    for (section, values) in here {
        if section == "data" && !has_source {
            continue;
        }
        let known = there.get(section);
        differ(section, known.unwrap_or(&toml::Value::Boolean(false)), values)?;
    }
    Ok(())
}

fn differ(name: &str, there: &toml::Value, here: &toml::Value) -> Result<()> {
    if let (toml::Value::Table(a), toml::Value::Table(b)) = (there, here) {
        for (key, value) in b {
            match a.get(key) {
                _ if MAY_DIFFER.contains(&key.as_str()) => {}
                Some(other) => differ(&format!("{name}.{key}"), other, value)?,
                None => {
                    bail!("its run has no {name}.{key}, and this one has {value}; {WHAT_TO_DO}")
                }
            }
        }
        return Ok(());
    }
    if there != here {
        bail!("its run has {name} = {there}, and this one {here}; {WHAT_TO_DO}")
    }
    Ok(())
}

const WHAT_TO_DO: &str = "give this run another folder, or remove that one to start from scratch";
