//! The images and conditions that a network supports.

use super::{Condition, MOST_CLASSES, WIDEST};
use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// The images and the conditions that a network supports. Conditions can be combined; 0 means none.
///
/// ```
/// use diffusion_core::unet::Conditioning;
/// let digits_by_class = Conditioning { classes: 10, ..Default::default() };
/// assert_eq!(digits_by_class.channels, 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conditioning {
    /// The number of image channels: 1 for greyscale, 3 for RGB; 1 … 1024.
    pub channels: usize,
    /// The number of classes; at most 100,000.
    pub classes: usize,
    /// The length of the context vector; at most 100,000.
    pub context: usize,
    /// The factor between the sizes of the image and its low-resolution condition.
    pub low_res: usize,
    /// The longest text in tokens; at most 100,000.
    pub tokens: usize,
    /// The number of different tokens; 0 if and only if `tokens` is 0.
    pub vocabulary: usize,
}

impl Default for Conditioning {
    /// Greyscale images without a condition.
    fn default() -> Self {
        Self { channels: 1, classes: 0, context: 0, low_res: 0, tokens: 0, vocabulary: 0 }
    }
}

impl Conditioning {
    /// Checks that every field is in its range; the error names the field.
    pub(super) fn check(self, op: &str) -> Result<()> {
        if !(1..=WIDEST).contains(&self.channels) {
            bail!("{op}: channels = {} must be in 1 … {WIDEST}", self.channels)
        }
        for (field, value) in [
            ("classes", self.classes),
            ("context", self.context),
            ("low_res", self.low_res),
            ("tokens", self.tokens),
            ("vocabulary", self.vocabulary),
        ] {
            if value > MOST_CLASSES {
                bail!("{op}: {field} = {value} must be in 0 … {MOST_CLASSES}")
            }
        }
        if (self.tokens == 0) != (self.vocabulary == 0) {
            bail!(
                "{op}: tokens = {} and vocabulary = {}; set both for a network that reads text, or neither",
                self.tokens,
                self.vocabulary
            )
        }
        Ok(())
    }

    /// Checks that `condition` is for `batch` images of this size, and has only parts that the network supports.
    pub(super) fn check_condition(
        self,
        op: &str,
        condition: &Condition,
        [batch, height, width]: [usize; 3],
    ) -> Result<()> {
        let unfit = |got: String, wants: String| -> Result<()> {
            bail!("{op}: the condition has {got}; the network expects {wants}")
        };
        let Condition { labels, context, low_res, tokens } = condition;
        let known = |field: usize, given: bool, what: &str| match given && field == 0 {
            true => unfit(what.to_owned(), self.words()),
            false => Ok(()),
        };
        known(self.classes, labels.is_some(), "class labels")?;
        known(self.context, context.is_some(), "a context")?;
        known(self.low_res, low_res.is_some(), "a low-resolution image")?;
        known(self.tokens, tokens.is_some(), "text tokens")?;
        if let Some(labels) = labels {
            if labels.len() != batch {
                return unfit(format!("{} labels", labels.len()), format!("one for each of {batch} images"));
            }
            if let Some(label) = labels.iter().flatten().find(|l| **l >= self.classes) {
                return unfit(format!("class {label}"), format!("the classes 0 … {}", self.classes - 1));
            }
        }
        let shaped = |x: &Option<Tensor>, what: &str, shape: &[usize]| match x {
            Some(x) if x.dims() != shape => unfit(format!("{what} of shape {:?}", x.dims()), format!("{shape:?}")),
            _ => Ok(()),
        };
        shaped(context, "a context", &[batch, self.context])?;
        let small = |side: usize| side.checked_div(self.low_res).unwrap_or(0);
        let shape = [batch, self.channels, small(height), small(width)];
        shaped(low_res, "a low-resolution image", &shape)?;
        if let Some(tokens) = tokens {
            let rows = tokens.rows();
            if rows.len() != batch {
                return unfit(format!("{} texts", rows.len()), format!("one for each of {batch} images"));
            }
            if let Some(row) = rows.iter().find(|row| row.len() > self.tokens) {
                return unfit(format!("a text of {} tokens", row.len()), format!("at most {}", self.tokens));
            }
            let mut ids = rows.iter().flatten();
            if let Some(id) = ids.find(|id| **id as usize >= self.vocabulary) {
                return unfit(format!("token {id}"), format!("the tokens 0 … {}", self.vocabulary - 1));
            }
        }
        Ok(())
    }

    /// Whether samples can be conditioned on a class, a context or a text, and guided towards it.
    pub fn is_guidable(self) -> bool {
        self.classes + self.context + self.tokens > 0
    }

    /// Describes the supported conditions.
    fn words(self) -> String {
        let parts = [
            (self.classes, format!("a class label in 0 … {}", self.classes.saturating_sub(1))),
            (self.context, format!("a context of {} numbers", self.context)),
            (self.low_res, format!("a low-resolution image, {} times smaller", self.low_res)),
            (self.tokens, format!("a text of at most {} tokens", self.tokens)),
        ];
        let known = parts.into_iter().filter(|(field, _)| *field > 0);
        match known.map(|(_, words)| words).collect::<Vec<_>>() {
            none if none.is_empty() => "Condition::none(), since it is unconditional".to_owned(),
            some => some.join(" and "),
        }
    }
}
