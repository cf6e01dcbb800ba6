//! Classifiers that predict attributes besides the class.

use super::{AT_ONCE, About, Classifier, share};
use crate::ClassAccuracy;
use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Tensor};
use candle_nn::loss::cross_entropy;
use diffusion_data::sprites::Attributes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The value of an attribute that an image does not have.
const NONE: &str = "none";

/// An attribute that a [`Classifier`] predicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// Its name, one of [`Attributes::NAMES`].
    pub name: String,
    /// Its values; `none` for images without it.
    pub values: Vec<String>,
    /// The accuracy on those held-out images that have it, 0 … 1; NaN before training.
    #[serde(with = "share")]
    pub test_accuracy: f64,
}

/// Whether images have the attributes that they should have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttributeAccuracy {
    /// For each attribute that an image should have, the accuracy on these images.
    pub each: Vec<(String, ClassAccuracy)>,
    /// The fraction of images that have all attributes that they should have.
    pub all: ClassAccuracy,
}

impl Attribute {
    /// All attributes of these sprites.
    pub(super) fn of(sprites: &[Attributes]) -> Vec<Self> {
        let attribute = |(i, name): (usize, &&str)| {
            let values: BTreeSet<&str> = sprites.iter().map(|it| it.values()[i].unwrap_or(NONE)).collect();
            let values = values.into_iter().map(str::to_owned).collect();
            Self { name: (*name).to_owned(), values, test_accuracy: f64::NAN }
        };
        Attributes::NAMES.iter().enumerate().map(attribute).collect()
    }

    /// The label of each sprite, an index into the values.
    pub(super) fn labels(&self, sprites: &[Attributes]) -> Result<Vec<u32>> {
        let i = self.index()?;
        let label = |it: &Attributes| {
            let value = it.values()[i].unwrap_or(NONE);
            self.values.iter().position(|known| known == value).map(|at| at as u32)
        };
        let labels: Option<_> = sprites.iter().map(label).collect();
        labels.with_context(|| format!("classifier: a sprite has a new value of the attribute {}", self.name))
    }

    /// The cross-entropy of a batch plus that of the images with this attribute alone, which may be few.
    ///
    /// # Shapes
    /// `logits` (B, values); B `labels`.
    pub(super) fn loss(&self, logits: &Tensor, labels: Vec<u32>) -> candle_core::Result<Tensor> {
        let has = |label: &u32| self.values[*label as usize] != NONE;
        let some: Vec<u32> = (0u32..).zip(&labels).filter(|(_, label)| has(label)).map(|(i, _)| i).collect();
        let labels = Tensor::new(labels, logits.device())?;
        let all = cross_entropy(logits, &labels)?;
        if some.is_empty() {
            return Ok(all);
        }
        let some = Tensor::new(some, logits.device())?;
        let logits = logits.contiguous()?.index_select(&some, 0)?;
        all + cross_entropy(&logits, &labels.index_select(&some, 0)?)?
    }

    /// The position among the attributes of sprites.
    fn index(&self) -> Result<usize> {
        let at = Attributes::NAMES.iter().position(|name| *name == self.name);
        at.with_context(|| format!("classifier: sprites have no attribute {:?}", self.name))
    }

    pub(super) fn check(&self) -> Result<()> {
        ensure!(!self.values.is_empty(), "classifier: the attribute {:?} has no values", self.name);
        Ok(())
    }
}

impl About {
    /// The start and the number of the logits of each attribute, of which the first has those from `start` on.
    pub(super) fn ranges(&self, mut start: usize) -> impl Iterator<Item = (usize, usize)> {
        self.attributes.iter().map(move |it| {
            let range = (start, it.values.len());
            start += it.values.len();
            range
        })
    }
}

impl Classifier {
    /// Compares the attributes of images with those that they should have. Attributes that are `None` in `wanted` are
    /// not compared.
    ///
    /// # Shapes
    /// `x` (N, C, H, W), in \[−1, 1\]; N `wanted`.
    ///
    /// # Errors
    /// The images do not have the shape [`About::shape`], the numbers differ, or the classifier was not trained on
    /// attributes.
    pub fn attribute_accuracy(&self, x: &Tensor, wanted: &[Attributes]) -> Result<AttributeAccuracy> {
        self.check(x)?;
        let (n, attributes) = (x.dim(0)?, &self.about.attributes);
        let layer = self.constant.attributes.as_ref().context("classifier: it was not trained on attributes")?;
        ensure!(n == wanted.len(), "classifier: there are {n} images and {} lists of attributes", wanted.len());
        let mut said = vec![Vec::new(); attributes.len()];
        for start in (0..n).step_by(AT_ONCE) {
            let part = x.narrow(0, start, AT_ONCE.min(n - start))?;
            let part = part.to_dtype(DType::F32)?.to_device(self.params.device())?;
            let logits = layer.forward(&self.constant.map(&part)?.flatten_from(1)?)?;
            for ((first, count), said) in self.about.ranges(0).zip(&mut said) {
                said.extend(logits.narrow(1, first, count)?.argmax(D::Minus1)?.to_vec1::<u32>()?);
            }
        }
        let (mut each, mut wrong) = (Vec::new(), vec![false; n]);
        for (attribute, said) in attributes.iter().zip(said) {
            let (at, mut right, mut of) = (attribute.index()?, 0, 0);
            for (i, (it, said)) in wanted.iter().zip(said).enumerate() {
                let Some(value) = it.values()[at] else { continue };
                let same = attribute.values[said as usize] == value;
                (right, of, wrong[i]) = (right + usize::from(same), of + 1, wrong[i] || !same);
            }
            if of > 0 {
                each.push((attribute.name.clone(), ClassAccuracy::of(right, of)));
            }
        }
        let right = wrong.iter().filter(|wrong| !**wrong).count();
        Ok(AttributeAccuracy { each, all: ClassAccuracy::of(right, n) })
    }
}
