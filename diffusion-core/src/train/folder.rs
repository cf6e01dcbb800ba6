//! The folder of a run: its configuration, log, checkpoints and samples.

use super::lock::Lock;
use super::step::Step;
use super::upgrade::upgrade;
use crate::data::Source;
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
/// Validation losses of earlier versions, measured with the EMA weights; today they are in the log.
const VALIDATION: &str = "validation.jsonl";
const MACHINE: &str = "machine.txt";
const CHANGES: &str = "changes.txt";
const CHECKPOINTS: &str = "checkpoints";
const SAMPLES: &str = "samples";
const MODEL: &str = "model.safetensors";

/// The files that a run writes.
const WRITTEN: [&str; 8] = [CONFIG, LOG, VALIDATION, MACHINE, CHANGES, CHECKPOINTS, SAMPLES, MODEL];

/// The keys that may change when a run is resumed. More epochs continue where the old ones ended, and a new learning
/// rate is noted. The data may have moved; its fingerprint tells whether it is the same.
const MAY_DIFFER: [&str; 13] = [
    "epochs",
    "train_steps",
    "lr",
    "checkpoint_every",
    "keep",
    "validate_every",
    "sample_every",
    "samples",
    "sample_steps",
    "sample_share",
    "task",
    "labels",
    "skip_bad",
];

/// What to do if the folder already contains a run: [`Training::in_folder_with`](super::Training::in_folder_with).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Resume it. Different data or a different configuration is an error, and the folder is left unchanged.
    #[default]
    Resume,
    /// Resume it, even with different data.
    NewData,
    /// Delete it and start over.
    StartOver,
}

/// Where a training run resumed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// The number of steps done.
    pub steps: usize,
    /// Newer checkpoints that could not be used, newest first, each with the reason.
    pub skipped: Vec<String>,
    /// What has changed since the checkpoint was written: values of the configuration, or the data.
    pub changed: Vec<String>,
    /// How many of the steps are missing from the log because it was damaged.
    pub unlogged: usize,
}

impl std::fmt::Display for Resumed {
    /// Reports which checkpoints were skipped and why, what has changed, and after how many steps training resumes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for problem in &self.skipped {
            writeln!(f, "skipped checkpoint: {problem}")?;
        }
        for change in &self.changed {
            writeln!(f, "changed: {change}")?;
        }
        if self.unlogged > 0 {
            writeln!(f, "{LOG} lacks {} of these steps, so the curves and times are incomplete", self.unlogged)?;
        }
        writeln!(f, "resuming after {} steps", self.steps)
    }
}

#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    /// The configuration of the existing run.
    there: Option<toml::Table>,
    log: Option<File>,
    last_saved: Option<PathBuf>,
    last_samples: Option<String>,
    _lock: Arc<Lock>,
}

/// Why a checkpoint cannot be resumed from.
#[derive(Debug)]
pub(super) enum Unusable {
    /// It cannot be read; try an older one.
    Damaged(Error),
    /// It belongs to a different run, and so do older ones.
    Other(Error),
}

/// The path of the checkpoint after `steps` steps.
pub(super) fn checkpoint(folder: &Path, steps: usize) -> PathBuf {
    let name = format!("step-{steps:09}.safetensors");
    folder.join(CHECKPOINTS).join(name)
}

/// The steps of a run's checkpoints in order; empty if the folder cannot be read.
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
    /// Creates the folder, or opens one without changing the run in it.
    pub(super) fn open(path: &Path, existing: Existing) -> Result<Self> {
        let open = || {
            fs::create_dir_all(path)?;
            let lock = Lock::of(path)?;
            if existing == Existing::StartOver {
                remove_run(path)?;
            }
            fs::create_dir_all(path.join(CHECKPOINTS))?;
            anyhow::Ok(Self {
                path: path.to_owned(),
                there: config_in(path)?,
                log: None,
                last_saved: None,
                last_samples: None,
                _lock: lock,
            })
        };
        open().with_context(|| in_use(path)).map_err(crate::whole)
    }

    /// Checks that the run in the folder has the same configuration.
    pub(super) fn check(&self, run: &toml::Table, has_source: bool) -> Result<()> {
        if let Some(there) = &self.there {
            changes(there, run, has_source).with_context(|| in_use(&self.path)).map_err(crate::whole)?;
        }
        Ok(())
    }

    /// Takes over the folder for this run: writes its configuration, the machine and what has changed.
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
            // A stop requested before this session does not apply to it.
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

    /// The newest grid of samples of this session, as a path relative to the folder.
    pub(super) fn last_samples(&self) -> Option<&str> {
        self.last_samples.as_deref()
    }

    /// Passes the checkpoints to `load`, newest first, until it accepts one; `load` returns the steps done and what has
    /// changed.
    ///
    /// # Errors
    /// The newest readable checkpoint belongs to a different run, or none is readable: starting over would lose
    /// something.
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

    /// The checkpoints, oldest first.
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

    /// Saves a checkpoint and removes the oldest beyond `keep`. Unusable checkpoints of later steps are kept.
    pub(super) fn save_checkpoint(&mut self, steps: usize, file: &Checkpoint, keep: usize) -> Result<PathBuf> {
        let path = checkpoint(&self.path, steps);
        // The log must not lack a step that the checkpoint has.
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

    /// Reads the first `steps` steps from the log. Later steps were lost in an interruption; they are removed from the
    /// log, as are damaged lines.
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

    /// Writes the state for the live page, if there is one. Errors are ignored, since they are no reason to stop
    /// training.
    pub(super) fn write_live(&self, state: impl FnOnce() -> LiveState) {
        if let Some(token) = LiveState::token_of(&self.path) {
            let state = LiveState { token, ..state() };
            let _ = state.write(&self.path);
        }
    }
}

/// The configuration of the run in a folder, if there is one.
fn config_in(folder: &Path) -> Result<Option<toml::Table>> {
    let config = folder.join(CONFIG);
    if !config.is_file() {
        return Ok(None);
    }
    let mut table: toml::Table =
        toml::from_str(&fs::read_to_string(&config)?).with_context(|| format!("{CONFIG} is damaged; {WHAT_TO_DO}"))?;
    upgrade(&mut table)?;
    Ok(Some(table))
}

/// Checks that the run in a folder, if there is one, can be resumed with this source of data, before any of it is read.
///
/// # Errors
/// The run has another source: the message names what differs.
pub fn check_source(folder: impl AsRef<Path>, source: &Source) -> Result<()> {
    let folder = folder.as_ref();
    let check = || {
        let here = [("data".to_owned(), toml::Value::try_from(source)?)];
        let there = config_in(folder)?;
        there.map_or(Ok(()), |there| changes(&there, &here.into_iter().collect(), true).map(drop))
    };
    check().with_context(|| in_use(folder)).map_err(crate::whole)
}

/// Notes the machine, on one line for each machine that the run has used.
fn note_machine(path: &Path, device: &Device) -> Result<()> {
    let line = described(device);
    let before = fs::read_to_string(path).unwrap_or_default();
    if before.lines().all(|known| known != line) {
        fs::write(path, format!("{before}{line}\n"))?;
    }
    Ok(())
}

/// Removes the files that a run has written.
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

/// Describes the permitted differences between the configuration `there` and this one; fails with the first difference
/// that is not permitted, because it would change what a step computes.
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
                        changed.push(format!("{name} was {other} and is now {value}"));
                    }
                }
                None if MAY_DIFFER.contains(&key.as_str()) => {}
                Some(other) => differ(&name, other, value, changed)?,
                None => bail!("its run has no {name}, and this one has {value}; remove {name}, {WHAT_TO_DO}"),
            }
        }
        // Values that are not written are defaults.
        let gone = a.iter().find(|(key, _)| !b.contains_key(*key) && !MAY_DIFFER.contains(&key.as_str()));
        return match gone {
            Some((key, value)) => bail!("its run has {name}.{key} = {value}, and this one none; set it, {WHAT_TO_DO}"),
            None => Ok(()),
        };
    }
    if there != here {
        bail!("its run has {name} = {there}, and this one {here}; use {there}, {WHAT_TO_DO}")
    }
    Ok(())
}

fn in_use(path: &Path) -> String {
    format!("cannot use the folder {}", path.display())
}

pub(super) const WHAT_TO_DO: &str = "use another folder, or start over, which deletes the run in this one \
     (--start-over; in Rust Existing::StartOver)";
