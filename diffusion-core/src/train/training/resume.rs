//! Resuming a training run from its folder.

use super::super::checkpoint::{Progress, read, run_of};
use super::super::folder::{self, Existing, RunFolder, Unusable, WHAT_TO_DO};
use super::{Objective, State, Training};
use crate::nn::Checkpoint;
use anyhow::{Context, Result, anyhow, bail};
use std::path::Path;

impl<O: Objective> Training<O> {
    /// Writes everything into a folder, and resumes from the newest intact checkpoint in it if there is one.
    ///
    /// # Errors
    /// The folder holds a run with a different configuration or different data, or only unusable checkpoints; another
    /// program is training in it; or it cannot be written. An existing run is left unchanged. The number of epochs, the
    /// settings of samples and checkpoints and, while steps are left, the learning rate may differ.
    pub fn in_folder(self, folder: impl AsRef<Path>) -> Result<Self> {
        self.in_folder_with(folder, Existing::Resume)
    }

    /// [`Training::in_folder`] with a choice of what to do with an existing run.
    ///
    /// # Errors
    /// See [`Training::in_folder`].
    pub fn in_folder_with(mut self, folder: impl AsRef<Path>, existing: Existing) -> Result<Self> {
        let mut run = self.steps.objective.describe()?;
        let source = self.source.clone().unwrap_or_default();
        run.insert("data".to_owned(), toml::Value::try_from(source)?);
        run.insert("training".to_owned(), toml::Value::try_from(&self.steps.config)?);
        self.run = run.clone();
        let mut folder = RunFolder::open(folder.as_ref(), existing)?;
        folder.check(&run, self.source.is_some())?;
        self.resumed = folder.newest(|file| {
            let changed = self.load(file, &run, existing == Existing::NewData)?;
            Ok((self.progress.steps_done, changed))
        })?;
        let rate =
            self.resumed.iter().flat_map(|resumed| &resumed.changed).find(|change| change.starts_with("training.lr "));
        if let Some(change) = rate.filter(|_| self.state == State::Done) {
            bail!(
                "{}: {change}, but no step is left to train with it; train for more epochs, {WHAT_TO_DO}",
                folder.path().display()
            )
        }
        folder.begin(&run, &self.steps.objective.device(), self.resumed.as_ref())?;
        self.history = folder.history(self.progress.steps_done)?;
        self.validation = self.history.iter().rev().find_map(|step| step.validation_loss);
        if let Some(resumed) = &mut self.resumed {
            resumed.unlogged = self.progress.steps_done - self.history.len();
        }
        self.folder = Some(folder);
        Ok(self)
    }

    /// Loads the state after `steps` steps from a checkpoint in the folder of a run; the folder is left unchanged.
    ///
    /// # Errors
    /// There is no such checkpoint, or it belongs to a different run.
    pub fn at_checkpoint(mut self, folder: impl AsRef<Path>, steps: usize) -> Result<Self> {
        let path = folder::checkpoint(folder.as_ref(), steps);
        Checkpoint::load(&path)
            .and_then(|file| Ok(self.load(&file, &toml::Table::new(), false)?))
            .with_context(|| format!("cannot load the checkpoint {}", path.display()))
            .map_err(crate::whole)?;
        Ok(self)
    }

    /// The steps for which a run's folder has checkpoints for [`Training::at_checkpoint`], in order; empty if there is
    /// no such folder.
    pub fn checkpoints(folder: impl AsRef<Path>) -> Vec<usize> {
        folder::steps_of_checkpoints(folder.as_ref())
    }

    /// Resumes from a checkpoint of the run with this configuration, or from an old one without a configuration.
    /// Returns the permitted changes. Nothing is changed if any part does not fit.
    fn load(&mut self, file: &Checkpoint, run: &toml::Table, any_data: bool) -> Result<Vec<String>, Unusable> {
        let progress = Progress::of(file).map_err(Unusable::Damaged)?;
        let mut changed = Vec::new();
        if let Some(then) = run_of(file).map_err(Unusable::Damaged)? {
            changed = folder::changes(&then, run, self.source.is_some()).map_err(Unusable::Other)?;
        }
        if let Some(change) = progress.data_changed(&self.progress) {
            let name = self.steps.data.name();
            if !any_data {
                let problem = anyhow!(
                    "{name} is not the data that the run was trained on: {change}; to continue with this data use \
                     --new-data (in Rust Existing::NewData), {WHAT_TO_DO}"
                );
                return Err(Unusable::Other(problem));
            }
            changed.push(format!("{name}: {change}"));
        }
        read(file, &mut self.steps.objective, &mut self.steps.optimiser).map_err(Unusable::Damaged)?;
        let Progress { steps_done, seconds, .. } = progress;
        self.progress = Progress { steps_done, seconds, ..self.progress.clone() };
        if self.progress.steps_done >= self.total {
            self.state = State::Done;
        }
        Ok(changed)
    }
}
