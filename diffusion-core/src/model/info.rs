//! The description of a model in its file.

use crate::choice::name_or_table;
use crate::prediction::Prediction;
use crate::process::NoiseProcess;
use crate::sampler::Sampler;
use crate::schedule::{Betas, Schedule};
use crate::text::Vocabulary;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The metadata keys of a [`ModelInfo`] and of a [`Before`].
const METADATA: &str = "model";
const METADATA_BEFORE: &str = "process";

/// What a network was trained for: its noise process, prediction type and data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The noise process.
    pub process: NoiseProcess,
    /// The prediction type of the network.
    #[serde(deserialize_with = "name_or_table")]
    pub prediction: Prediction,
    /// The shape (C, H, W) of an image.
    pub shape: [usize; 3],
    /// The class names of the data, by label.
    #[serde(default)]
    pub classes: Vec<String>,
    /// The names of the context values if they are attributes; empty if they are the classes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<String>,
    /// The name of the data set.
    #[serde(default)]
    pub data: String,
    /// The number of images used in training, including repetitions.
    #[serde(default)]
    pub images_seen: u64,
    /// Whether the data are images in \[−1, 1\], so that samples can be clipped.
    #[serde(default = "yes")]
    pub images: bool,
    /// Whether it is a consistency model, which is sampled in one or a few steps by
    /// [`Sampler::consistency`](crate::sampler::Sampler::consistency), without guidance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub consistency: bool,
    /// The words that the model reads, if it is conditioned on text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<Vocabulary>,
}

fn yes() -> bool {
    true
}

/// The old format, from when the discrete process was the only one.
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
    /// The default process and prediction type for images of shape (C, H, W), without classes.
    pub fn new(shape: [usize; 3]) -> Self {
        Self {
            process: NoiseProcess::default(),
            prediction: Prediction::default(),
            shape,
            classes: Vec::new(),
            context: Vec::new(),
            data: String::new(),
            images_seen: 0,
            images: true,
            consistency: false,
            vocabulary: None,
        }
    }

    /// The schedule of the discrete process.
    ///
    /// # Errors
    /// The process is continuous.
    pub fn schedule(&self) -> candle_core::Result<&Schedule> {
        self.process.schedule()
    }

    /// The sampler for this model: two steps for a consistency model, otherwise DDIM in 50 steps, or as many as the
    /// process has.
    pub fn sampler(&self) -> Sampler {
        let steps = self.schedule().map_or(50, |schedule| schedule.timesteps().min(50));
        if self.consistency { Sampler::consistency(2) } else { Sampler::ddim(steps) }
    }

    /// The names of the context values: those of the attributes, or otherwise the classes.
    pub fn context_names(&self) -> &[String] {
        if self.context.is_empty() { &self.classes } else { &self.context }
    }

    /// Checks that every field is in its range.
    ///
    /// # Errors
    /// A field is out of range, or the prediction type cannot be used with the process: the message names it.
    pub fn check(&self) -> candle_core::Result<()> {
        self.process.check()?;
        self.vocabulary.as_ref().map_or(Ok(()), Vocabulary::check)?;
        self.prediction.check(&self.process)
    }

    /// Adds the description to a file's metadata.
    pub(super) fn write(&self, metadata: &mut HashMap<String, String>) -> Result<()> {
        metadata.insert(METADATA.to_owned(), serde_json::to_string(self)?);
        Ok(())
    }

    /// Whether a file's metadata contains a description that [`ModelInfo::read`] can read.
    pub(super) fn is_in(metadata: &HashMap<String, String>) -> bool {
        metadata.contains_key(METADATA) || metadata.contains_key(METADATA_BEFORE)
    }

    /// Reads the description from a file's metadata, in the current or the old format; `None` if there is none.
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
    format!("cannot read its noise process, prediction type and data: {text}")
}
