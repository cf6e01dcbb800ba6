//! What a model file says beside its weights.

use crate::choice::name_or_table;
use crate::prediction::Prediction;
use crate::process::NoiseProcess;
use crate::schedule::{Betas, Schedule};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The key of a [`ModelInfo`] in a file's metadata, and that of a [`Before`].
const METADATA: &str = "model";
const METADATA_BEFORE: &str = "process";

/// What a network was trained for: its noise process, what its output means, and on which data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The noise process.
    pub process: NoiseProcess,
    /// What the network's output means.
    #[serde(deserialize_with = "name_or_table")]
    pub prediction: Prediction,
    /// (C, H, W) of an image.
    pub shape: [usize; 3],
    /// The names of the classes of the data, by number.
    #[serde(default)]
    pub classes: Vec<String>,
    /// The name of the data.
    #[serde(default)]
    pub data: String,
    /// How many images were used in training, repetitions included.
    #[serde(default)]
    pub images_seen: u64,
    /// Whether the data are images in \[−1, 1\], to which samples can be clipped.
    #[serde(default = "yes")]
    pub images: bool,
}

fn yes() -> bool {
    true
}

/// What files said when the discrete process was the only one.
#[derive(Deserialize)]
struct Before {
    steps: usize,
    betas: Betas,
    param: Prediction,
    shape: [usize; 3],
    classes: Vec<String>,
    data: String,
    images_seen: u64,
}

impl ModelInfo {
    /// For images of this shape (C, H, W): the default process and prediction type, no classes, nothing seen.
    pub fn new(shape: [usize; 3]) -> Self {
        Self {
            process: NoiseProcess::default(),
            prediction: Prediction::default(),
            shape,
            classes: Vec::new(),
            data: String::new(),
            images_seen: 0,
            images: true,
        }
    }

    /// The schedule of a discrete process.
    ///
    /// # Errors
    /// The process is continuous.
    pub fn schedule(&self) -> candle_core::Result<&Schedule> {
        self.process.schedule()
    }

    /// An error that names the first field outside its range, and its value.
    ///
    /// # Errors
    /// There is one, or the prediction type cannot work on the process.
    pub fn check(&self) -> candle_core::Result<()> {
        self.process.check()?;
        self.prediction.check(&self.process)
    }

    /// Adds this to a file's metadata.
    pub(super) fn write(&self, metadata: &mut HashMap<String, String>) -> Result<()> {
        metadata.insert(METADATA.to_owned(), serde_json::to_string(self)?);
        Ok(())
    }

    /// Whether a file's metadata has what [`ModelInfo::read`] needs.
    pub(super) fn is_in(metadata: &HashMap<String, String>) -> bool {
        metadata.contains_key(METADATA) || metadata.contains_key(METADATA_BEFORE)
    }

    /// What a file's metadata says, of today or of before; `None` if nothing.
    pub(super) fn read(metadata: &HashMap<String, String>) -> Result<Option<Self>> {
        let info = if let Some(text) = metadata.get(METADATA) {
            serde_json::from_str(text).with_context(|| unreadable(text))?
        } else if let Some(text) = metadata.get(METADATA_BEFORE) {
            let before: Before = serde_json::from_str(text).with_context(|| unreadable(text))?;
            Self {
                process: Schedule::new(before.steps, before.betas)?.into(),
                prediction: before.param,
                classes: before.classes,
                data: before.data,
                images_seen: before.images_seen,
                ..Self::new(before.shape)
            }
        } else {
            return Ok(None);
        };
        info.check()?;
        Ok(Some(info))
    }
}

fn unreadable(text: &str) -> String {
    format!("what it says it was trained for is not known: {text}")
}
