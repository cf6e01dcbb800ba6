//! The configuration of a training run, as a TOML file: data, condition, network and training.
//!
//! ```toml
//! [data]
//! task = "mnist"
//!
//! [network.simple-unet]
//! base = 32
//!
//! [training]
//! epochs = 20
//! process = { vp = { betas = "cosine" } }
//! weighting = { min-snr = { gamma = 5 } }
//! ```
//!
//! Every key is optional. A choice with fields of its own is written as a name or as a table. The folder of every run
//! contains such a file. Files with the keys of version 0.1 are read, too; `train/upgrade.rs` lists them.

use crate::choice::name_or_table;
pub use crate::choice::parse_choice;
use crate::data::{Dataset, Source};
use crate::nn::write_whole;
use crate::text::Vocabulary;
use crate::train::{ConditionOn, ConsistencyConfig, TrainingConfig, VaeLossConfig, upgrade};
use crate::unet::{Architecture, Conditioning, SimpleUNet};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The complete configuration of a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// The training data.
    pub data: Source,
    /// The kind of condition of the network.
    pub condition: ConditionOn,
    /// The network. Its channels, classes and context size follow from the data and the condition.
    #[serde(deserialize_with = "name_or_table")]
    pub network: Architecture,
    /// The file of an autoencoder, such as `runs/vae/model.safetensors`, whose latents the network learns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoencoder: Option<PathBuf>,
    /// The training objective.
    #[serde(deserialize_with = "name_or_table", skip_serializing_if = "ObjectiveConfig::is_diffusion")]
    pub objective: ObjectiveConfig,
    /// The training settings.
    pub training: TrainingConfig,
}

/// The training objective of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveConfig {
    /// [`Diffusion`](crate::train::Diffusion): a network is trained from scratch.
    #[default]
    Diffusion,
    /// [`Consistency`](crate::train::Consistency): a trained model becomes one that needs few steps.
    Consistency(ConsistencyConfig),
    /// [`VaeLoss`](crate::train::VaeLoss): an autoencoder is trained.
    Vae(VaeLossConfig),
}

impl ObjectiveConfig {
    fn is_diffusion(&self) -> bool {
        *self == Self::Diffusion
    }
}

impl Default for RunConfig {
    /// [`SimpleUNet`] with 32 channels, trained on the built-in sprites.
    fn default() -> Self {
        let network = SimpleUNet { channels: 3, base: 32, ..Default::default() };
        Self {
            data: Source::default(),
            condition: ConditionOn::default(),
            network: network.into(),
            autoencoder: None,
            objective: ObjectiveConfig::default(),
            training: TrainingConfig::default(),
        }
    }
}

impl RunConfig {
    /// The network, adapted to the images, classes, attributes and captions of `data` and to the times of the noise
    /// process.
    pub fn architecture(&self, data: &Dataset) -> Architecture {
        let conditioning = self.network.conditioning();
        let (classes, context) = match self.condition {
            // Super-resolution networks from before conditions could be combined.
            _ if conditioning.low_res > 0 => (0, 0),
            ConditionOn::Classes => (data.class_names().len(), 0),
            ConditionOn::Context => (0, data.context_names().len()),
            ConditionOn::None | ConditionOn::Text => (0, 0),
        };
        let (tokens, vocabulary) = match self.condition {
            // Without captions the training fails and says so.
            ConditionOn::Text => {
                Vocabulary::of(data.captions().unwrap_or_default()).map_or((1, 1), |it| (it.length(), it.words().len()))
            }
            _ => (0, 0),
        };
        let [channels, height, _] = data.shape();
        self.of_height(height).with(Conditioning { channels, classes, context, tokens, vocabulary, ..conditioning })
    }

    /// Checks that the network suits images of this size, for example before they are loaded.
    ///
    /// # Errors
    /// It does not: the message names a size that it suits.
    pub fn check_size(&self, height: usize, width: usize) -> Result<()> {
        Ok(self.of_height(height).check_size(height, width)?)
    }

    /// The network, adapted to the height of the images and to the times of the noise process.
    fn of_height(&self, height: usize) -> Architecture {
        let mut network = self.network.clone();
        if let Architecture::ContextUnet(it) = &mut network {
            it.height = height;
            it.timesteps = self.training.process.max_network_time();
        }
        network
    }

    /// Reads a configuration file; missing keys have their default values.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or has an unknown key or value: the message names the file, the line, and
    /// the valid choices.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        fs::read_to_string(path)
            .map_err(anyhow::Error::from)
            .and_then(|text| Self::from_toml(&text))
            .with_context(|| format!("cannot use {}", path.display()))
            .map_err(crate::whole)
    }

    /// Reads a configuration from the text of a file.
    ///
    /// # Errors
    /// See [`RunConfig::load`].
    pub fn from_toml(text: &str) -> Result<Self> {
        let mut table: toml::Table = toml::from_str(text)?;
        // Today's format is parsed directly, so that errors name its lines.
        let mut run: Self = match upgrade(&mut table)? {
            true => table.try_into()?,
            false => toml::from_str(text)?,
        };
        run.data.captions |= run.condition == ConditionOn::Text;
        Ok(run)
    }

    /// The text of a file with all keys.
    ///
    /// # Errors
    /// A number is too large for TOML.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }

    /// Writes the configuration to a file.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        write_whole(path, self.to_toml()?.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
            .map_err(crate::whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;
    use crate::train::{Decay, Weighting};

    #[test]
    fn a_written_file_is_read_back_and_missing_keys_are_defaults() -> Result<()> {
        let run = RunConfig::from_toml(
            "[network.simple-unet]\nbase = 48\n[training]\nprocess = { vp = { betas = \"cosine\" } }\ndecay = \"cosine\"\n\
             weighting = { min-snr = { gamma = 3 } }\n",
        )?;
        let Architecture::SimpleUNet(net) = &run.network else { panic!("{:?}", run.network) };
        assert_eq!((net.base, net.groups), (48, 8));
        assert_eq!(run.training.process, Schedule::cosine(1000)?.into());
        assert_eq!(run.training.decay, Decay::Cosine { floor: 0.0 });
        assert_eq!(run.training.weighting, Weighting::MinSnr { gamma: 3.0 });
        assert_eq!(run.training.batch, TrainingConfig::default().batch);
        assert_eq!(RunConfig::from_toml(&run.to_toml()?)?, run);
        assert_eq!(RunConfig::from_toml("")?, RunConfig::default());
        let named = RunConfig::from_toml("network = \"simple-unet\"")?;
        assert_eq!(named.network, SimpleUNet::default().into());
        Ok(())
    }

    #[test]
    fn errors_name_the_line_and_the_valid_choices() {
        for (text, wants) in [
            ("[training]\nbatch = 8\nlearning_rate = 1", &["line 3", "learning_rate", "`lr`"][..]),
            ("[training]\nbatch = \"many\"", &["line 2", "many"]),
            ("[training]\nbatch = -1", &["line 2", "-1"]),
            ("[training]\nprocess = { vp = { betas = \"cosin\" } }", &["line 2", "cosin", "`cosine`", "`linear`"]),
            ("[training]\nprocess = { vp = { betas = { cosine = { ofset = 1 } } } }", &["line 2", "ofset", "`offset`"]),
            ("network = \"resnet\"", &["line 1", "resnet", "`simple-unet`"]),
            ("[network.simple-unet]\nbasis = 3", &["line", "basis", "`base`"]),
            ("[dta]", &["line 1", "dta", "`data`"]),
            ("[training\n", &["line 1"]),
        ] {
            let message = format!("{:#}", RunConfig::from_toml(text).unwrap_err());
            for want in wants {
                assert!(message.contains(want), "{text:?}: {message:?} lacks {want:?}");
            }
        }
    }

    #[test]
    fn keys_of_version_0_1_are_read_unless_mixed_with_current_ones() -> Result<()> {
        let run = RunConfig::from_toml(
            "condition = \"nothing\"\n[network.simple-unet]\nreduced = 4\n[training]\nsteps = 500\nbetas = \"cosine\"\n\
             param = \"v\"\nmax_steps = 7\ndrop = 0.2\ntimes = \"stratified\"",
        )?;
        let training = &run.training;
        assert_eq!(run.condition, ConditionOn::None);
        assert_eq!(run.network.conditioning().low_res, 4);
        assert_eq!(training.process, Schedule::cosine(500)?.into());
        assert_eq!(training.prediction, crate::prediction::Prediction::V);
        assert_eq!((training.train_steps, training.condition_dropout), (7, 0.2));
        let mixed = "[training]\nprediction = \"v\"\nsteps = 500";
        let message = RunConfig::from_toml(mixed).unwrap_err().to_string();
        assert!(message.contains("training.steps is now called training.process.vp.timesteps"), "{message}");
        Ok(())
    }
    #[test]
    fn the_advised_side_suits_the_network() -> Result<()> {
        for name in Architecture::NAMES {
            let run = RunConfig { network: parse_choice(name)?, ..RunConfig::default() };
            for (height, width) in [(50, 50), (202, 301), (9, 30), (1, 1)] {
                let message = run.check_size(height, width).unwrap_err().to_string();
                assert!(message.contains(&format!("{name}: the image is {height}×{width}")), "{message}");
                let side = message.split("--side ").nth(1).and_then(|rest| rest.split(',').next());
                let side: usize = side.context("advice")?.parse()?;
                run.check_size(side, side)?;
            }
        }
        Ok(())
    }
}
