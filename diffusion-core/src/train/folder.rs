//! A run's folder: its configuration, its log, its checkpoints and its samples.

use super::lock::Lock;
use super::step::Step;
use super::upgrade::upgrade;
use super::validation::Measured;
use crate::device::described;
use crate::nn::Checkpoint;
use crate::show::{Grid, Live, LiveState};
use anyhow::{Context, Error, Result, bail};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CONFIG: &str = "config.toml";
const LOG: &str = "log.jsonl";
const VALIDATION: &str = "validation.jsonl";
const MACHINE: &str = "machine.txt";
const CHANGES: &str = "changes.txt";
const CHECKPOINTS: &str = "checkpoints";
const SAMPLES: &str = "samples";
const MODEL: &str = "model.safetensors";

/// What the run has written there.
const WRITTEN: [&str; 8] = [CONFIG, LOG, VALIDATION, MACHINE, CHANGES, CHECKPOINTS, SAMPLES, MODEL];

/// What may change when a run is resumed: more epochs go on where the old ones ended, and a change of the learning rate is
/// noted. The data may lie elsewhere; whether it is the same, its fingerprint says.
const MAY_DIFFER: [&str; 12] = [
    "epochs",
    "train_steps",
    "lr",
    "checkpoint_every",
    "keep",
    "sample_every",
    "samples",
    "sample_steps",
    "sample_share",
    "task",
    "labels",
    "skip_bad",
];

/// What is done with a run that is in the folder already: [`Training::in_folder_with`](super::Training::in_folder_with).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It is resumed; if its data or its configuration is another, that is an error, and the folder stays as it is.
    #[default]
    Resume,
    /// It is resumed, with other data, too.
    NewData,
    /// It is removed, and the training starts over.
    StartOver,
}

/// From where a training resumed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// How many steps were done.
    pub steps: usize,
    /// Newer checkpoints that could not be used, newest first, each with the reason.
    pub skipped: Vec<String>,
    /// What is not as it was when the checkpoint was written: values of the configuration, or the data.
    pub changed: Vec<String>,
    /// How many of the steps the log lacks, since it was damaged.
    pub unlogged: usize,
}

impl std::fmt::Display for Resumed {
    /// Lines for the reader: which checkpoints were skipped and why, what has changed, and after how many steps it resumes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for problem in &self.skipped {
            writeln!(f, "skipped checkpoint: {problem}")?;
        }
        for change in &self.changed {
            writeln!(f, "changed: {change}")?;
        }
        if self.unlogged > 0 {
            writeln!(f, "{LOG} lacks {} of these steps: the curves and times are incomplete", self.unlogged)?;
        }
        writeln!(f, "resuming after {} steps", self.steps)
    }
}

#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    /// The configuration of the run that is there.
    there: Option<toml::Table>,
    log: Option<File>,
    last_saved: Option<PathBuf>,
    last_samples: Option<String>,
    _lock: Arc<Lock>,
}

/// Why a checkpoint is not resumed from.
#[derive(Debug)]
pub(super) enum Unusable {
    /// It cannot be read: an older one may do.
    Damaged(Error),
    /// It is of another training: an older one would be, too.
    Other(Error),
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

impl From<Unusable> for Error {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Damaged(problem) | Unusable::Other(problem) => problem,
        }
    }
}

impl RunFolder {
    /// Makes the folder, or opens one with a run of the same configuration; of that, nothing is changed yet.
    pub(super) fn open(path: &Path, existing: Existing) -> Result<Self> {
        let open = || {
            fs::create_dir_all(path)?;
            let lock = Lock::of(path)?;
            if existing == Existing::StartOver {
                remove_run(path)?;
            }
            fs::create_dir_all(path.join(CHECKPOINTS))?;
            let config = path.join(CONFIG);
            let mut there = None;
            if config.is_file() {
                let mut table: toml::Table = toml::from_str(&fs::read_to_string(&config)?)
                    .with_context(|| format!("{CONFIG} is damaged; {WHAT_TO_DO}"))?;
                upgrade(&mut table)?;
                there = Some(table);
            }
            anyhow::Ok(Self {
                path: path.to_owned(),
                there,
                log: None,
                last_saved: None,
                last_samples: None,
                _lock: lock,
            })
        };
        open().with_context(|| in_use(path)).map_err(crate::whole)
    }

    /// An error if the run that is there has another configuration.
    pub(super) fn check(&self, run: &toml::Table, has_source: bool) -> Result<()> {
        if let Some(there) = &self.there {
            changes(there, run, has_source).with_context(|| in_use(&self.path)).map_err(crate::whole)?;
        }
        Ok(())
    }

    /// From here on the folder is this run's: writes its configuration, and notes the machine and what has changed.
    pub(super) fn begin(&mut self, run: &toml::Table, device: &Device, resumed: Option<&Resumed>) -> Result<()> {
        let begin = || {
            if let Some(Resumed { steps, changed, .. }) = resumed {
                let mut text = fs::read_to_string(self.path.join(CHANGES)).unwrap_or_default();
                for change in changed {
                    writeln!(text, "after {steps} steps: {change}")?;
                }
                if !changed.is_empty() {
                    crate::nn::write_whole(&self.path.join(CHANGES), text.as_bytes())?;
                }
            }
            crate::nn::write_whole(&self.path.join(CONFIG), toml::to_string(run)?.as_bytes())?;
            note_machine(&self.path.join(MACHINE), device)?;
            // A stop that was requested before this session does not concern it.
            Live::clear_stop(&self.path)?;
            anyhow::Ok(())
        };
        begin().with_context(|| in_use(&self.path)).map_err(crate::whole)
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

    /// Gives `load` the newest checkpoint that it can use; `load` returns the steps done and what has changed.
    ///
    /// # Errors
    /// The newest that can be read is of another training, or none can be read: there is something that would be lost.
    pub(super) fn newest(
        &mut self,
        mut load: impl FnMut(&Checkpoint) -> Result<(usize, Vec<String>), Unusable>,
    ) -> Result<Option<Resumed>> {
        let mut resumed = Resumed::default();
        for path in self.checkpoints()?.iter().rev() {
            match Checkpoint::load(path).map_err(Unusable::Damaged).and_then(|file| load(&file)) {
                Ok((steps, changed)) => {
                    self.last_saved = Some(path.clone());
                    return Ok(Some(Resumed { steps, changed, ..resumed }));
                }
                Err(Unusable::Other(problem)) => {
                    let problem = problem.context(in_use(&self.path));
                    return Err(crate::whole(problem));
                }
                Err(Unusable::Damaged(problem)) => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    resumed.skipped.push(format!("{name}: {}", crate::message(&problem)));
                }
            }
        }
        match &resumed.skipped[..] {
            [] => Ok(None),
            some => {
                bail!("{}: none of its checkpoints can be used ({}); {WHAT_TO_DO}", in_use(&self.path), some.join("; "))
            }
        }
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

    /// Saves a checkpoint and removes the oldest beyond `keep`; any of later steps, which could not be used, stay.
    pub(super) fn save_checkpoint(&mut self, steps: usize, file: &Checkpoint, keep: usize) -> Result<PathBuf> {
        let path = checkpoint(&self.path, steps);
        // So that the log never lacks a step that the checkpoint has.
        if let Some(log) = &self.log {
            log.sync_data()?;
        }
        file.save(&path)?;
        self.last_saved = Some(path.clone());
        let mut all = self.checkpoints()?;
        all.retain(|other| *other <= path);
        for old in &all[..all.len().saturating_sub(keep)] {
            fs::remove_file(old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
        Ok(path)
    }

    pub(super) fn log(&mut self, step: &Step) -> Result<()> {
        let path = self.path.join(LOG);
        let mut line = serde_json::to_string(step)?;
        line.push('\n');
        let log = match &mut self.log {
            Some(log) => log,
            none => none.insert(OpenOptions::new().create(true).append(true).open(&path)?),
        };
        log.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What was measured again after a break is a further line.
    pub(super) fn log_validation(&self, measured: Measured) -> Result<()> {
        let path = self.path.join(VALIDATION);
        let line = serde_json::to_string(&measured)? + "\n";
        let append = || OpenOptions::new().create(true).append(true).open(&path)?.write_all(line.as_bytes());
        append().with_context(|| format!("cannot write {}", path.display()))
    }

    /// What the log says of the first `steps` steps. Steps beyond were lost with the break and are removed from it, as is what
    /// is no line of a log.
    pub(super) fn history(&mut self, steps: usize) -> Result<Vec<Step>> {
        let path = self.path.join(LOG);
        let text = match fs::read(&path) {
            Err(problem) if problem.kind() != ErrorKind::NotFound => {
                return Err(problem).with_context(|| format!("cannot read {}", path.display()));
            }
            text => text.unwrap_or_default(),
        };
        let mut known = BTreeMap::new();
        for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            if let Ok(step) = serde_json::from_slice::<Step>(line)
                && step.index < steps
            {
                known.insert(step.index, (step, line));
            }
        }
        let whole: Vec<u8> = known.values().flat_map(|(_, line)| line.iter().copied()).collect();
        if whole != text {
            crate::nn::write_whole(&path, &whole).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(known.into_values().map(|(step, _)| step).collect())
    }

    pub(super) fn save_samples(&mut self, epoch: usize, images: &Tensor, columns: usize) -> Result<()> {
        let name = format!("{SAMPLES}/epoch-{epoch:04}.png");
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

/// Removes what a run has written.
fn remove_run(path: &Path) -> Result<()> {
    for name in WRITTEN {
        let there = path.join(name);
        let removed = if there.is_dir() { fs::remove_dir_all(&there) } else { fs::remove_file(&there) };
        match removed {
            Err(problem) if problem.kind() != ErrorKind::NotFound => {
                return Err(problem).with_context(|| format!("cannot remove {}", there.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What may and does differ between the configuration `there` and this one, in words; an error that names the first value in
/// which they differ and may not, since it changes what a step computes.
pub(super) fn changes(there: &toml::Table, here: &toml::Table, has_source: bool) -> Result<Vec<String>> {
    let mut changed = Vec::new();
    for (section, values) in here {
        if section == "data" && !has_source {
            continue;
        }
        let known = there.get(section);
        differ(section, known.unwrap_or(&toml::Value::Boolean(false)), values, &mut changed)?;
    }
    Ok(changed)
}

fn differ(name: &str, there: &toml::Value, here: &toml::Value, changed: &mut Vec<String>) -> Result<()> {
    if let (toml::Value::Table(a), toml::Value::Table(b)) = (there, here) {
        for (key, value) in b {
            let name = format!("{name}.{key}");
            match a.get(key) {
                Some(other) if MAY_DIFFER.contains(&key.as_str()) => {
                    if other != value {
                        changed.push(format!("{name} was {other} and is {value} now"));
                    }
                }
                None if MAY_DIFFER.contains(&key.as_str()) => {}
                Some(other) => differ(&name, other, value, changed)?,
                None => bail!("its run has no {name}, and this one has {value}; go on as before, {WHAT_TO_DO}"),
            }
        }
        return Ok(());
    }
    if there != here {
        bail!("its run has {name} = {there}, and this one {here}; go on with {there}, {WHAT_TO_DO}")
    }
    Ok(())
}

fn in_use(path: &Path) -> String {
    format!("cannot use the folder {}", path.display())
}

pub(super) const WHAT_TO_DO: &str = "give this run another folder, or start over in that one, which removes its run (--start-over; in \
     Rust Existing::StartOver)";
