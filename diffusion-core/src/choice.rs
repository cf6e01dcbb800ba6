//! Enums in files and on the command line: a name, or a table with fields.

use anyhow::Result;
use serde::Deserialize;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, VariantAccess, Visitor,
    value::{MapAccessDeserializer, StrDeserializer},
};
use std::fmt;
use std::marker::PhantomData;

/// Parses a choice by name, with default values for its fields: `cosine` is a schedule, `simple-unet` a network.
///
/// # Errors
/// The name is unknown: the message lists the valid ones.
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

/// Reads an enum from the name of a variant, with default values for its fields, or from a table with that name as its
/// only key.
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

/// The name of a variant, without its fields.
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

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, E> {
        Self::empty().deserialize_any(visitor)
    }
}
