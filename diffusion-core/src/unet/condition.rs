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
