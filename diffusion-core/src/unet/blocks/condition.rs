//! The condition embedding.

use crate::nn::{Builder, Embedding, Linear};
use crate::ops::silu;
use crate::unet::{Condition, Conditioning};
use candle_core::{Result, Tensor, bail};

/// Embeds labels and contexts as vectors that are added to the time embedding
/// ([Dhariwal & Nichol 2021](https://arxiv.org/abs/2105.05233), section 3).
///
/// Each class has a learned vector, and so has the null class; a context goes through linear → SiLU → linear.
#[derive(Clone, Debug)]
pub struct ConditionEmbedding {
    /// K + 1 vectors: one for each class, then the null class.
    pub labels: Option<Embedding>,
    /// From the context to the hidden width, then to the hidden width again.
    pub context: Option<[Linear; 2]>,
}

impl ConditionEmbedding {
    /// Creates embeddings with `hidden` elements for the classes and the context that `conditioning` names; parts
    /// `label_embedding`, `context_embedding.linear1` and `context_embedding.linear2`.
    ///
    /// # Errors
    /// `hidden` is 0.
    pub fn new(build: &mut Builder, conditioning: Conditioning, hidden: usize) -> Result<Self> {
        let Conditioning { classes, context, .. } = conditioning;
        Ok(Self {
            labels: (classes > 0)
                .then(|| Embedding::new(build.at("label_embedding"), classes + 1, hidden))
                .transpose()?,
            context: match context {
                0 => None,
                _ => {
                    let mut build = build.at("context_embedding");
                    Some([
                        Linear::new(build.at("linear1"), context, hidden)?,
                        Linear::new(build.at("linear2"), hidden, hidden)?,
                    ])
                }
            },
        })
    }

    /// Adds the embeddings of the condition to `e`.
    ///
    /// # Shapes
    /// `e` (B, hidden); the result has the shape of `e`.
    ///
    /// # Errors
    /// The condition is not for B images.
    pub fn add(&self, e: &Tensor, condition: &Condition) -> Result<Tensor> {
        let mut e = e.clone();
        if let Some(label) = self.label(e.dim(0)?, condition)? {
            e = (e + label)?;
        }
        if let Some(context) = self.context(&e, condition)? {
            e = (e + context)?;
        }
        Ok(e)
    }

    /// The embedding of the labels, if the network has classes.
    ///
    /// # Shapes
    /// The result is (`batch`, hidden).
    ///
    /// # Errors
    /// The labels are not for `batch` images, or a class does not exist.
    pub fn label(&self, batch: usize, condition: &Condition) -> Result<Option<Tensor>> {
        let Some(table) = &self.labels else {
            return Ok(None);
        };
        let any = table.weight.dim(0)? - 1;
        let ids: Vec<usize> = match &condition.labels {
            Some(labels) if labels.len() != batch => {
                bail!("condition: there are {} labels for {batch} images", labels.len())
            }
            Some(labels) => labels.iter().map(|label| label.unwrap_or(any)).collect(),
            None => vec![any; batch],
        };
        table.forward(&ids).map(Some)
    }

    /// The embedding of the context, if the network takes one.
    ///
    /// # Shapes
    /// `e`, the time embedding, and the result are (B, hidden).
    ///
    /// # Errors
    /// The context is not for B images.
    pub fn context(&self, e: &Tensor, condition: &Condition) -> Result<Option<Tensor>> {
        let Some([linear1, linear2]) = &self.context else {
            return Ok(None);
        };
        let context = match &condition.context {
            Some(context) => context.to_dtype(e.dtype())?,
            None => Tensor::zeros((e.dim(0)?, linear1.weight.dim(1)?), e.dtype(), e.device())?,
        };
        let hidden = silu(&linear1.forward(&context)?)?;
        linear2.forward(&hidden).map(Some)
    }
}
