//! Checkpoints of a training run: parameters, optimiser, EMA, the objective's own state, and the progress.

use super::Objective;
use super::optimiser::Optimiser;
use crate::data::Facts;
use crate::nn::Checkpoint;
use anyhow::{Context, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The metadata key of the progress.
pub(crate) const METADATA: &str = "training";
/// The metadata key of the run's configuration, in the format of `config.toml`.
const RUN: &str = "run";

/// The progress of a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) steps_done: usize,
    pub(super) seconds: f64,
    /// The fingerprint of the data.
    pub(super) data: String,
    /// Facts about the data; older checkpoints have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) facts: Option<Facts>,
}

impl Progress {
    /// Reads the progress from a checkpoint.
    pub(super) fn of(file: &Checkpoint) -> Result<Self> {
        let progress = file.metadata.get(METADATA);
        let progress = progress.context("it is not a checkpoint of a training run")?;
        Ok(serde_json::from_str(progress)?)
    }

    /// Describes how the data has changed, if it has.
    pub(super) fn data_changed(&self, now: &Self) -> Option<String> {
        let changes = match (&self.facts, &now.facts) {
            _ if self.data == now.data => return None,
            (Some(before), Some(now)) => before.changes(now),
            _ => "it was trained on different data".to_owned(),
        };
        Some(changes)
    }
}

/// The configuration of the run that a checkpoint belongs to, if it is recorded.
pub(super) fn run_of(file: &Checkpoint) -> Result<Option<toml::Table>> {
    Ok(file.metadata.get(RUN).map(|text| toml::from_str(text)).transpose()?)
}

/// Writes everything that is needed to resume.
pub(super) fn write<O: Objective>(
    objective: &O,
    optimiser: &Optimiser,
    progress: &Progress,
    run: &toml::Table,
) -> Result<Checkpoint> {
    let mut tensors = HashMap::new();
    let mut put = |prefix: &str, part: HashMap<String, Tensor>| {
        tensors.extend(part.into_iter().map(|(n, x)| (format!("{prefix}.{n}"), x)));
    };
    put("network", objective.parameters().values()?);
    for (prefix, part) in optimiser.state()? {
        put(prefix, part);
    }
    put("objective", objective.state()?);
    let mut metadata = objective.metadata()?;
    metadata.insert(METADATA.to_owned(), serde_json::to_string(progress)?);
    metadata.insert(RUN.to_owned(), toml::to_string(run)?);
    Ok(Checkpoint { tensors, metadata })
}

/// Restores what [`write`] wrote. Nothing is changed if any part does not fit.
pub(super) fn read<O: Objective>(file: &Checkpoint, objective: &mut O, optimiser: &mut Optimiser) -> Result<()> {
    let part = |prefix: &str| -> HashMap<String, Tensor> {
        let own = |(name, x): (&String, &Tensor)| {
            let name = name.strip_prefix(prefix)?.strip_prefix('.')?;
            Some((name.to_owned(), x.clone()))
        };
        file.tensors.iter().filter_map(own).collect()
    };
    optimiser.load_state(part)?;
    objective.parameters().assign(&part("network"))?;
    objective.load_state(&part("objective"))
}
