//! What a network is told besides the noisy image and its time step.

use candle_core::{DType, Result, Tensor, bail};

/// What the images of a batch should show: nothing in particular, classes, or context vectors.
///
/// The *null* condition is how a conditional network is asked for anything at all: `None` in the place of a label, a vector
/// of zeros in the place of a context. A network learns it if conditions are dropped at random while it is trained
/// ([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598), algorithm 1).
///
/// ```
/// use diffusion_core::unet::Condition;
/// let asked = Condition::labels([7, 7, 3]);
/// assert_eq!(asked, Condition::Labels(vec![Some(7), Some(7), Some(3)]));
/// assert_eq!(asked.dropped(&[false, true, false])?, Condition::Labels(vec![Some(7), None, Some(3)]));
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub enum Condition {
    /// Anything: the null condition for every image, and all that an unconditional network takes.
    #[default]
    None,
    /// The class of each image, 0 … K−1; `None` for any.
    Labels(Vec<Option<usize>>),
    /// (B, K): a vector for each image, 0 for any. They can be mixed: `human` 1 with `food` 0.6.
    Context(Tensor),
}

impl Condition {
    /// These classes.
    pub fn labels(labels: impl IntoIterator<Item = usize>) -> Self {
        Self::Labels(labels.into_iter().map(Some).collect())
    }

    /// How many images it is for; `None` if for any number.
    pub fn len(&self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Labels(labels) => Some(labels.len()),
            Self::Context(context) => context.dims().first().copied(),
        }
    }

    /// Whether it is for no image at all.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// The null condition in the place of those whose entry is true.
    ///
    /// # Errors
    /// `drop` has not one entry for each image.
    pub fn dropped(&self, drop: &[bool]) -> Result<Self> {
        if self.len().is_some_and(|n| n != drop.len()) {
            bail!(
                "Condition::dropped: {} entries for the conditions of {} images",
                drop.len(),
                self.len().unwrap_or_default()
            )
        }
        match self {
            Self::None => Ok(Self::None),
            Self::Labels(labels) => {
                let keep = |(label, drop): (&Option<usize>, &bool)| label.filter(|_| !drop);
                Ok(Self::Labels(labels.iter().zip(drop).map(keep).collect()))
            }
            Self::Context(context) => {
                let keep: Vec<f32> = drop.iter().map(|drop| f32::from(!drop)).collect();
                let keep = Tensor::from_vec(keep, (drop.len(), 1), context.device())?;
                let kept = context.broadcast_mul(&keep.to_dtype(context.dtype())?)?;
                Ok(Self::Context(kept))
            }
        }
    }

    /// Those of `len` images from image `start` on.
    ///
    /// # Errors
    /// It is for fewer.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        match self {
            Self::None => Ok(Self::None),
            Self::Context(context) => Ok(Self::Context(context.narrow(0, start, len)?)),
            Self::Labels(labels) => match labels.get(start..).and_then(|rest| rest.get(..len)) {
                Some(part) => Ok(Self::Labels(part.to_vec())),
                None => bail!(
                    "Condition::narrow: {len} images from {start} on were asked for, of {}",
                    labels.len()
                ),
            },
        }
    }

    /// One after the other: each part with the number of its images, which those of [`Condition::None`] do not say.
    ///
    /// # Errors
    /// Labels and contexts are mixed, contexts differ in their length, or a part is not for its number of images.
    pub fn cat(parts: &[(&Self, usize)]) -> Result<Self> {
        for (part, n) in parts {
            if part.len().is_some_and(|len| len != *n) {
                bail!(
                    "Condition::cat: a condition of {} images for {n}",
                    part.len().unwrap_or_default()
                )
            }
        }
        let mut context = None;
        let mut labelled = false;
        for (part, _) in parts {
            match part {
                Self::None => {}
                Self::Labels(_) => labelled = true,
                Self::Context(it) => context = Some(it),
            }
        }
        match context {
            Some(_) if labelled => {
                bail!("Condition::cat: class labels and contexts cannot stand side by side")
            }
            Some(like) => {
                let (k, dtype, device) = (like.dim(1)?, like.dtype(), like.device());
                let rows = parts.iter().map(|(part, n)| match part {
                    Self::Context(it) => Ok(it.clone()),
                    _ => Tensor::zeros((*n, k), dtype, device),
                });
                let rows = rows.collect::<Result<Vec<_>>>()?;
                Ok(Self::Context(Tensor::cat(&rows, 0)?))
            }
            None if labelled => {
                let labels = parts.iter().flat_map(|(part, n)| match part {
                    Self::Labels(labels) => labels.clone(),
                    _ => vec![None; *n],
                });
                Ok(Self::Labels(labels.collect()))
            }
            None => Ok(Self::None),
        }
    }

    /// An error unless it is one for `batch` images, of `classes` classes or a context of `context` numbers.
    pub(super) fn check(&self, batch: usize, classes: usize, context: usize) -> Result<()> {
        let (got, want) = match self {
            Self::None => return Ok(()),
            Self::Labels(_) if classes == 0 => ("class labels".to_owned(), takes(classes, context)),
            Self::Context(_) if context == 0 => ("a context".to_owned(), takes(classes, context)),
            Self::Labels(labels) if labels.len() != batch => (
                format!("{} labels", labels.len()),
                format!("one for each of {batch} images"),
            ),
            Self::Labels(labels) => match labels.iter().flatten().find(|l| **l >= classes) {
                None => return Ok(()),
                Some(label) => (
                    format!("class {label}"),
                    format!("the classes 0 … {}", classes - 1),
                ),
            },
            Self::Context(given) if given.dims() != [batch, context] => (
                format!("a context of shape {:?}", given.dims()),
                format!("[{batch}, {context}], {context} numbers for each image"),
            ),
            Self::Context(_) => return Ok(()),
        };
        bail!("condition: {got} were given; what fits is {want}")
    }
}

fn takes(classes: usize, context: usize) -> String {
    match (classes, context) {
        (0, 0) => "Condition::None: the network is unconditional".to_owned(),
        (0, k) => format!("a context of {k} numbers"),
        (k, _) => format!("a class label in 0 … {}", k - 1),
    }
}

/// Equal in kind and in every number.
impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        let numbers =
            |x: &Tensor| -> Result<Vec<f64>> { x.to_dtype(DType::F64)?.flatten_all()?.to_vec1() };
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Labels(a), Self::Labels(b)) => a == b,
            (Self::Context(a), Self::Context(b)) => {
                a.dims() == b.dims() && matches!((numbers(a), numbers(b)), (Ok(a), Ok(b)) if a == b)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn dropping_puts_the_null_condition_in_the_place() -> Result<()> {
        let context = Tensor::new(&[[1f32, 0.5], [0.0, 2.0]], &Device::Cpu)?;
        let want = Tensor::new(&[[0f32, 0.0], [0.0, 2.0]], &Device::Cpu)?;
        let dropped = Condition::Context(context).dropped(&[true, false])?;
        assert_eq!(dropped, Condition::Context(want));
        assert_eq!(Condition::None.dropped(&[true])?, Condition::None);
        assert!(Condition::labels([1]).dropped(&[true, false]).is_err());
        Ok(())
    }

    #[test]
    fn conditions_are_put_together_and_taken_apart() -> Result<()> {
        let (seven, none) = (Condition::labels([7, 3]), Condition::None);
        let both = Condition::cat(&[(&seven, 2), (&none, 1)])?;
        assert_eq!(both, Condition::Labels(vec![Some(7), Some(3), None]));
        assert_eq!(both.narrow(1, 2)?, Condition::Labels(vec![Some(3), None]));
        let context = Condition::Context(Tensor::new(&[[1f32, 0.5]], &Device::Cpu)?);
        let both = Condition::cat(&[(&none, 1), (&context, 1)])?;
        assert_eq!(both.narrow(1, 1)?, context);
        let Condition::Context(rows) = &both else {
            panic!("{both:?}")
        };
        assert_eq!(rows.to_vec2::<f32>()?, [[0.0, 0.0], [1.0, 0.5]]);
        assert_eq!(Condition::cat(&[(&none, 4), (&none, 1)])?, Condition::None);
        for (parts, wants) in [
            (&[(&context, 1), (&seven, 2)][..], "side by side"),
            (&[(&seven, 3)], "of 2 images for 3"),
        ] {
            let message = Condition::cat(parts).unwrap_err().to_string();
            assert!(message.contains(wants), "{message}");
        }
        assert!(seven.narrow(1, 2).is_err());
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_named() -> Result<()> {
        let context = |shape: (usize, usize)| -> Result<Condition> {
            Ok(Condition::Context(Tensor::zeros(
                shape,
                DType::F32,
                &Device::Cpu,
            )?))
        };
        for (condition, classes, numbers, wants) in [
            (
                Condition::labels([1, 2]),
                0,
                0,
                "the network is unconditional",
            ),
            (Condition::labels([1, 2]), 0, 5, "a context of 5 numbers"),
            (context((2, 5))?, 10, 0, "a class label in 0 … 9"),
            (
                Condition::labels([1]),
                10,
                0,
                "1 labels were given; what fits is one for each of 2 images",
            ),
            (
                Condition::labels([1, 10]),
                10,
                0,
                "class 10 were given; what fits is the classes 0 … 9",
            ),
            (
                context((2, 4))?,
                0,
                5,
                "a context of shape [2, 4] were given; what fits is [2, 5]",
            ),
        ] {
            let message = condition
                .check(2, classes, numbers)
                .unwrap_err()
                .to_string();
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Condition::labels([0, 9]).check(2, 10, 0)?;
        context((2, 5))?.check(2, 0, 5)?;
        Condition::None.check(2, 10, 0)
    }
}
