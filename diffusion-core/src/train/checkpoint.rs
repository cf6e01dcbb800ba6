//! What a checkpoint of a training holds: parameters, optimiser, averages, the objective's own state, and how far it was.

use super::Objective;
use super::optimiser::Optimiser;
use crate::nn::Checkpoint;
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Under this name a checkpoint says where the training was.
const METADATA: &str = "training";

/// How far a training is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) steps_done: usize,
    pub(super) seconds: f64,
    /// The fingerprint of the data.
    pub(super) data: String,
}

impl Progress {
    /// What a checkpoint says, if it is of a training on the data with this fingerprint.
    pub(super) fn of(file: &Checkpoint, fingerprint: &str, data: &str) -> Result<Self> {
        let progress = file.metadata.get(METADATA);
        let progress = progress.context("it is not a checkpoint of a training")?;
        let progress: Self = serde_json::from_str(progress)?;
        ensure!(progress.data == fingerprint, "it was trained on other data than this {data}");
        Ok(progress)
    }
}

/// Everything that is needed to continue.
pub(super) fn write<O: Objective>(objective: &O, optimiser: &Optimiser, progress: &Progress) -> Result<Checkpoint> {
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
    Ok(Checkpoint { tensors, metadata })
}

/// Takes up what [`write`] wrote. Nothing is changed unless all of it fits.
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
