//! A training run as a TOML file: what it learns from, which network, and how.
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
//! betas = "cosine"
//! weighting = { min-snr = { gamma = 5 } }
//! ```
//!
//! Every key may be left out. A choice with numbers of its own can be written as its name alone, or as a table. The same
//! file stands in every run's folder.

use crate::data::{Dataset, Source};
use crate::nn::write_whole;
use crate::train::TrainingConfig;
use crate::unet::{Architecture, Conditioning, SimpleUNet};
use anyhow::{Context, Result};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, VariantAccess, Visitor,
    value::{MapAccessDeserializer, StrDeserializer},
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::marker::PhantomData;
use std::path::Path;

/// All that determines a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// What it learns from.
    pub data: Source,
    /// What the network is told of an image; nothing if it is shown a reduced one.
    pub condition: Told,
    /// The network. Its channels, classes and context follow from the data and the condition.
    #[serde(deserialize_with = "name_or_table")]
    pub network: Architecture,
    /// How it is trained.
    pub training: TrainingConfig,
}

/// What a network is told of the images that it learns from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// The number of the class.
    #[default]
    Classes,
    /// The class as a vector of zeros and a one, which can be mixed with others when sampling.
    Context,
    /// Nothing.
    Nothing,
}

impl Default for RunConfig {
    /// [`SimpleUNet`] with 32 channels, on the built-in sprites.
    fn default() -> Self {
        let network = SimpleUNet {
            channels: 3,
            base: 32,
            ..Default::default()
        };
        Self {
            data: Source::default(),
            condition: Told::default(),
            network: network.into(),
            training: TrainingConfig::default(),
        }
    }
}

impl RunConfig {
    /// The network for the images and classes of `data`, and for the training's time steps.
    pub fn architecture(&self, data: &Dataset) -> Architecture {
        let classes = data.class_names().len();
        let (classes, context) = match self.condition {
            _ if self.network.low_res() > 0 => (0, 0),
            Told::Classes => (classes, 0),
            Told::Context => (0, classes),
            Told::Nothing => (0, 0),
        };
        let [channels, height, _] = data.shape();
        let mut network = self.network.clone();
        if let Architecture::ContextUnet(it) = &mut network {
            (it.height, it.timesteps) = (height, self.training.steps);
        }
        let conditioning = Conditioning {
            channels,
            classes,
            context,
            ..network.conditioning()
        };
        network.with(conditioning)
    }

    /// Reads a file; what it does not say is as in the default.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or has a key or value that does not exist: the message names the file, the
    /// line, and what there is.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        fs::read_to_string(path)
            .map_err(anyhow::Error::from)
            .and_then(|text| Self::from_toml(&text))
            .with_context(|| format!("cannot use {}", path.display()))
            .map_err(crate::whole)
    }

    /// The same from the file's text.
    ///
    /// # Errors
    /// As [`RunConfig::load`].
    pub fn from_toml(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// The text of a file with all values.
    ///
    /// # Errors
    /// A number is too large for TOML.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        write_whole(path, self.to_toml()?.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
            .map_err(crate::whole)
    }
}

/// The choice of this name, with the defaults of its numbers: `cosine` is a schedule, `simple-unet` a network.
///
/// # Errors
/// There is none of this name: the message says which there are.
///
/// ```
/// use diffusion_core::{config::parse_choice, schedule::Betas};
/// assert_eq!(parse_choice::<Betas>("cosine")?, Betas::COSINE);
/// assert!(parse_choice::<Betas>("cosin").unwrap_err().to_string().contains("`cosine`"));
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn parse_choice<T: for<'a> Deserialize<'a>>(name: &str) -> Result<T> {
    let choice: Result<T, de::value::Error> = T::deserialize(Name(name, PhantomData));
    Ok(choice?)
}

/// Reads an enum from its variant's name alone, with the defaults of its fields, or from a table with that name as its only
/// key.
pub(crate) fn name_or_table<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_any(NameOrTable(PhantomData))
}

struct NameOrTable<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for NameOrTable<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a name, or a table with one name and its numbers")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<T, E> {
        T::deserialize(Name(name, PhantomData))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// A variant's name, with nothing said of its fields.
struct Name<'a, E>(&'a str, PhantomData<E>);

impl<'de, E: de::Error> Deserializer<'de> for Name<'_, E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_str(self.0)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, E> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de, E: de::Error> EnumAccess<'de> for Name<'_, E> {
    type Error = E;
    type Variant = NoFields<E>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, NoFields<E>), E> {
        let name: StrDeserializer<E> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, NoFields(PhantomData)))
    }
}

struct NoFields<E>(PhantomData<E>);

impl<'de, E: de::Error> NoFields<E> {
    fn empty() -> de::value::MapDeserializer<'de, std::iter::Empty<(&'de str, &'de str)>, E> {
        de::value::MapDeserializer::new(std::iter::empty())
    }
}

impl<'de, E: de::Error> VariantAccess<'de> for NoFields<E> {
    type Error = E;

    fn unit_variant(self) -> Result<(), E> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, E> {
        seed.deserialize(Self::empty())
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, E> {
        Self::empty().deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, E> {
        Self::empty().deserialize_any(visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Betas;
    use crate::train::{Decay, Weighting};

    #[test]
    fn what_is_written_is_read_and_the_rest_is_the_default() -> Result<()> {
        let run = RunConfig::from_toml(
            "[network.simple-unet]\nbase = 48\n[training]\nbetas = \"cosine\"\ndecay = \"cosine\"\n\
             weighting = { min-snr = { gamma = 3 } }\n",
        )?;
        let Architecture::SimpleUNet(net) = &run.network else {
            panic!("{:?}", run.network)
        };
        assert_eq!((net.base, net.groups), (48, 8));
        assert_eq!(run.training.betas, Betas::COSINE);
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
    fn mistakes_are_named_with_their_line_and_what_there_is() {
        for (text, wants) in [
            (
                "[training]\nbatch = 8\nlearning_rate = 1",
                &["line 3", "learning_rate", "`lr`"][..],
            ),
            ("[training]\nbatch = \"many\"", &["line 2", "many"]),
            ("[training]\nbatch = -1", &["line 2", "-1"]),
            (
                "[training]\nbetas = \"cosin\"",
                &["line 2", "cosin", "`cosine`", "`linear`"],
            ),
            (
                "[training]\nbetas = { cosine = { ofset = 1 } }",
                &["line 2", "ofset", "`offset`"],
            ),
            (
                "network = \"resnet\"",
                &["line 1", "resnet", "`simple-unet`"],
            ),
            (
                "[network.simple-unet]\nbasis = 3",
                &["line", "basis", "`base`"],
            ),
            ("[dta]", &["line 1", "dta", "`data`"]),
            ("[training\n", &["line 1"]),
        ] {
            let message = format!("{:#}", RunConfig::from_toml(text).unwrap_err());
            for want in wants {
                assert!(
                    message.contains(want),
                    "{text:?}: {message:?} lacks {want:?}"
                );
            }
        }
    }
}
