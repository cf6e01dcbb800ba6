//! What a network is told besides the noisy image and its time step.

use candle_core::{DType, Device, Result, Tensor, bail};

/// What the images of a batch should show: nothing in particular, classes, context vectors, or what a small image shows.
///
/// The *null* condition is how a conditional network is asked for anything at all: `None` in the place of a label, a vector
/// of zeros in the place of a context or an image. A network learns it if conditions are dropped at random while it is trained
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
    /// (B, C, h, w), in \[−1, 1\]: the images reduced, to be enlarged with all that they have lost.
    Reduced(Tensor),
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
            Self::Context(x) | Self::Reduced(x) => x.dims().first().copied(),
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
            Self::Context(x) => kept(x, drop).map(Self::Context),
            Self::Reduced(x) => kept(x, drop).map(Self::Reduced),
        }
    }

    /// Those of `len` images from image `start` on.
    ///
    /// # Errors
    /// It is for fewer.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        match self {
            Self::None => Ok(Self::None),
            Self::Context(x) => x.narrow(0, start, len).map(Self::Context),
            Self::Reduced(x) => x.narrow(0, start, len).map(Self::Reduced),
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
    /// Conditions of two kinds are mixed, contexts differ in their length or images in their size, or a part is not for its
    /// number of images.
    pub fn cat(parts: &[(&Self, usize)]) -> Result<Self> {
        for (part, n) in parts {
            if part.len().is_some_and(|len| len != *n) {
                bail!(
                    "Condition::cat: a condition of {} images for {n}",
                    part.len().unwrap_or_default()
                )
            }
        }
        let told = || parts.iter().filter(|(part, _)| !matches!(part, Self::None));
        let Some((first, _)) = told().next() else {
            return Ok(Self::None);
        };
        let kind = std::mem::discriminant(*first);
        if told().any(|(part, _)| std::mem::discriminant(*part) != kind) {
            bail!("Condition::cat: conditions of different kinds cannot stand side by side")
        }
        let rows = |like: &Tensor| {
            let rows = parts.iter().map(|(part, n)| match part {
                Self::Context(x) | Self::Reduced(x) => Ok(x.clone()),
                _ => {
                    let mut shape = like.dims().to_vec();
                    shape[0] = *n;
                    Tensor::zeros(shape, like.dtype(), like.device())
                }
            });
            Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)
        };
        match first {
            Self::Context(like) => rows(like).map(Self::Context),
            Self::Reduced(like) => rows(like).map(Self::Reduced),
            _ => {
                let labels = parts.iter().flat_map(|(part, n)| match part {
                    Self::Labels(labels) => labels.clone(),
                    _ => vec![None; *n],
                });
                Ok(Self::Labels(labels.collect()))
            }
        }
    }

    /// An error unless it is one for `batch` images, of a kind that a network takes.
    pub(super) fn check(&self, batch: usize, takes: Understood) -> Result<()> {
        let Understood {
            classes,
            context,
            reduced,
        } = takes;
        let (got, want) = match self {
            Self::None => return Ok(()),
            Self::Labels(_) if classes == 0 => ("class labels".to_owned(), takes.words()),
            Self::Context(_) if context == 0 => ("a context".to_owned(), takes.words()),
            Self::Reduced(given) => match reduced {
                Some([c, h, w]) if given.dims() == [batch, c, h, w] => return Ok(()),
                Some([c, h, w]) => (
                    format!("reduced images of shape {:?}", given.dims()),
                    format!("[{batch}, {c}, {h}, {w}]"),
                ),
                None => ("reduced images".to_owned(), takes.words()),
            },
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

/// The conditions that a network understands, for images of some size.
#[derive(Clone, Copy)]
pub(super) struct Understood {
    pub(super) classes: usize,
    pub(super) context: usize,
    /// (C, h, w) of a reduced image, if it is shown one.
    pub(super) reduced: Option<[usize; 3]>,
}

impl Understood {
    fn words(self) -> String {
        match (self.classes, self.context, self.reduced) {
            (0, 0, None) => "Condition::None: the network is unconditional".to_owned(),
            (0, 0, Some([c, h, w])) => format!("reduced images of {c}×{h}×{w}"),
            (0, k, _) => format!("a context of {k} numbers"),
            (k, ..) => format!("a class label in 0 … {}", k - 1),
        }
    }
}

/// `x` with zeros in the rows whose entry is true.
fn kept(x: &Tensor, drop: &[bool]) -> Result<Tensor> {
    let keep: Vec<f32> = drop.iter().map(|drop| f32::from(!drop)).collect();
    let mut shape = vec![1; x.rank()];
    shape[0] = drop.len();
    let keep = Tensor::from_vec(keep, shape, x.device())?;
    x.broadcast_mul(&keep.to_dtype(x.dtype())?)
}

/// Equal in kind and in every number.
impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        // On the host, since not every device knows f64.
        let numbers = |x: &Tensor| -> Result<Vec<f64>> {
            let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            x.flatten_all()?.to_vec1()
        };
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Labels(a), Self::Labels(b)) => a == b,
            (Self::Context(a), Self::Context(b)) | (Self::Reduced(a), Self::Reduced(b)) => {
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

    fn understood(classes: usize, context: usize) -> Understood {
        Understood {
            classes,
            context,
            reduced: None,
        }
    }

    #[test]
    fn reduced_images_are_checked() -> Result<()> {
        let takes = Understood {
            reduced: Some([3, 4, 5]),
            ..understood(0, 0)
        };
        let image = |shape: (usize, usize, usize, usize)| -> Result<Condition> {
            Tensor::zeros(shape, DType::F32, &Device::Cpu).map(Condition::Reduced)
        };
        image((2, 3, 4, 5))?.check(2, takes)?;
        let fail = |condition: Condition, takes| condition.check(2, takes).unwrap_err().to_string();
        for (message, wants) in [
            (fail(image((2, 3, 4, 4))?, takes), "fits is [2, 3, 4, 5]"),
            (
                fail(Condition::labels([1, 2]), takes),
                "reduced images of 3×4×5",
            ),
            (
                fail(image((2, 3, 4, 5))?, understood(0, 0)),
                "unconditional",
            ),
        ] {
            assert!(message.contains(wants), "{message}");
        }
        Ok(())
    }

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
        let image = Condition::Reduced(Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu)?);
        let images = Condition::cat(&[(&image, 1), (&none, 2)])?;
        assert_eq!(
            (images.len(), images.narrow(0, 1)?),
            (Some(3), image.clone())
        );
        assert_eq!(images.narrow(1, 1)?, image.dropped(&[true])?);
        let Condition::Context(rows) = &both else {
            panic!("{both:?}")
        };
        assert_eq!(rows.to_vec2::<f32>()?, [[0.0, 0.0], [1.0, 0.5]]);
        assert_eq!(Condition::cat(&[(&none, 4), (&none, 1)])?, Condition::None);
        for (parts, wants) in [
            (&[(&context, 1), (&seven, 2)][..], "side by side"),
            (&[(&context, 1), (&image, 1)], "side by side"),
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
                .check(2, understood(classes, numbers))
                .unwrap_err()
                .to_string();
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Condition::labels([0, 9]).check(2, understood(10, 0))?;
        context((2, 5))?.check(2, understood(0, 5))?;
        Condition::None.check(2, understood(10, 0))
    }
}
