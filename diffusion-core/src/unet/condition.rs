//! Conditions: what the images of a batch should show.

use candle_core::{DType, Device, Result, Tensor, bail};

/// The condition of each image in a batch: classes, context vectors, low-resolution images, texts, or any combination.
///
/// A missing part means the *null* condition for all images. The null condition of a single image is the label `None`,
/// a context or low-resolution image of zeros, or a text without tokens. The network learns it by condition dropout
/// during training ([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598), algorithm 1).
///
/// ```
/// use diffusion_core::unet::Condition;
/// let condition = Condition::labels([7, 7, 3]);
/// assert_eq!(condition.labels, Some(vec![Some(7), Some(7), Some(3)]));
/// assert_eq!(condition.dropped(&[false, true, false])?.labels, Some(vec![Some(7), None, Some(3)]));
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// The class of each image, 0 … K−1; `None` for the null class.
    pub labels: Option<Vec<Option<usize>>>,
    /// (B, K), a context vector for each image; zeros for the null condition. Classes can be mixed, for example `human`
    /// 1 and `food` 0.6.
    pub context: Option<Tensor>,
    /// (B, C, h, w), in \[−1, 1\]: the low-resolution images for super-resolution.
    pub low_res: Option<Tensor>,
    /// A text for each image.
    pub tokens: Option<Tokens>,
}

/// A part of a [`Condition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionPart {
    /// [`Condition::labels`].
    Labels,
    /// [`Condition::context`].
    Context,
    /// [`Condition::low_res`].
    LowRes,
    /// [`Condition::tokens`].
    Tokens,
}

/// A text for each image, as token ids; no tokens is the null condition.
///
/// ```
/// use diffusion_core::{candle::Device, unet::Tokens};
/// let two_texts = Tokens::new([vec![5, 2, 9], vec![7]]);
/// assert_eq!(two_texts.ids(4, &Device::Cpu)?.to_vec2::<u32>()?, [[5, 2, 9, 0], [7, 0, 0, 0]]);
/// assert_eq!(two_texts.mask(4, &Device::Cpu)?.to_vec2::<f32>()?, [[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Vec<u32>>);

impl Tokens {
    /// Creates tokens from texts without padding.
    pub fn new(texts: impl IntoIterator<Item = Vec<u32>>) -> Self {
        Self(texts.into_iter().collect())
    }

    /// The tokens of each text, without padding.
    pub fn rows(&self) -> &[Vec<u32>] {
        &self.0
    }

    /// The token ids, padded with zeros.
    ///
    /// # Shapes
    /// (B, `length`), of u32.
    ///
    /// # Errors
    /// A text is longer than `length`, or there are no texts.
    pub fn ids(&self, length: usize, device: &Device) -> Result<Tensor> {
        self.padded(length, device, |text, i| text.get(i).copied().unwrap_or_default())
    }

    /// The mask of the padded tokens: 1 for a token of the text, 0 for padding.
    ///
    /// # Shapes
    /// (B, `length`), of f32.
    ///
    /// # Errors
    /// See [`Tokens::ids`].
    pub fn mask(&self, length: usize, device: &Device) -> Result<Tensor> {
        self.padded(length, device, |text, i| f32::from(i < text.len()))
    }

    fn padded<T: candle_core::WithDType>(
        &self,
        length: usize,
        device: &Device,
        value: impl Fn(&[u32], usize) -> T,
    ) -> Result<Tensor> {
        if let Some(text) = self.0.iter().find(|text| text.len() > length) {
            bail!("Tokens: a text has {} tokens, but at most {length} are allowed", text.len())
        }
        let row = |text: &Vec<u32>| (0..length).map(|i| value(text, i)).collect::<Vec<_>>();
        let values: Vec<T> = self.0.iter().flat_map(row).collect();
        Tensor::from_vec(values, (self.0.len(), length), device)
    }
}

impl Condition {
    /// The null condition for any number of images, and the only condition of an unconditional network.
    pub fn none() -> Self {
        Self::default()
    }

    /// Conditions each image on a class.
    pub fn labels(labels: impl IntoIterator<Item = usize>) -> Self {
        Self { labels: Some(labels.into_iter().map(Some).collect()), ..Self::none() }
    }

    /// Conditions each image on a context vector, (B, K).
    pub fn context(context: Tensor) -> Self {
        Self { context: Some(context), ..Self::none() }
    }

    /// Conditions each image on a low-resolution image, (B, C, h, w).
    pub fn low_res(low_res: Tensor) -> Self {
        Self { low_res: Some(low_res), ..Self::none() }
    }

    /// Conditions each image on a text.
    pub fn tokens(tokens: Tokens) -> Self {
        Self { tokens: Some(tokens), ..Self::none() }
    }

    /// Combines two conditions. If both have a part, that of `other` is used.
    ///
    /// ```
    /// use diffusion_core::{candle::{DType, Device, Tensor}, unet::Condition};
    /// let small = Tensor::zeros((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
    /// let both = Condition::labels([1, 0]).and(Condition::low_res(small));
    /// assert!(both.labels.is_some() && both.low_res.is_some());
    /// # Ok::<(), diffusion_core::candle::Error>(())
    /// ```
    pub fn and(self, other: Self) -> Self {
        Self {
            labels: other.labels.or(self.labels),
            context: other.context.or(self.context),
            low_res: other.low_res.or(self.low_res),
            tokens: other.tokens.or(self.tokens),
        }
    }

    /// Whether the condition has no part.
    pub fn is_none(&self) -> bool {
        self.lengths().next().is_none()
    }

    /// The number of images; `None` if the condition is for any number.
    pub fn len(&self) -> Option<usize> {
        self.lengths().next()
    }

    /// Whether the condition is for zero images.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// The number of images of each part.
    fn lengths(&self) -> impl Iterator<Item = usize> {
        let rows = |x: &Option<Tensor>| x.as_ref().map(|x| x.dims().first().copied().unwrap_or(0));
        let parts = [
            self.labels.as_ref().map(Vec::len),
            rows(&self.context),
            rows(&self.low_res),
            self.tokens.as_ref().map(|tokens| tokens.0.len()),
        ];
        parts.into_iter().flatten()
    }

    /// Checks that every part is for `n` images.
    fn is_for(&self, n: usize, op: &str) -> Result<()> {
        match self.lengths().find(|len| *len != n) {
            Some(len) => bail!("Condition::{op}: the condition is for {len} images, not {n}"),
            None => Ok(()),
        }
    }

    /// Replaces the condition by the null condition for the images whose entry is true.
    ///
    /// # Errors
    /// `drop` does not have one entry for each image.
    pub fn dropped(&self, drop: &[bool]) -> Result<Self> {
        use ConditionPart::*;
        self.dropped_parts(&[Labels, Context, LowRes, Tokens].map(|part| (part, drop)))
    }

    /// Drops the parts of the condition independently. Parts that are not listed are unchanged.
    ///
    /// ```
    /// use diffusion_core::unet::{Condition, ConditionPart};
    /// let condition = Condition::labels([7, 3]);
    /// let dropped = condition.dropped_parts(&[(ConditionPart::Labels, &[true, false])])?;
    /// assert_eq!(dropped.labels, Some(vec![None, Some(3)]));
    /// # Ok::<(), diffusion_core::candle::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Condition::dropped`].
    pub fn dropped_parts(&self, drop: &[(ConditionPart, &[bool])]) -> Result<Self> {
        let mut it = self.clone();
        for (part, drop) in drop {
            self.is_for(drop.len(), "dropped")?;
            match part {
                ConditionPart::Labels => {
                    let labels = it.labels.iter_mut().flatten();
                    for (label, _) in labels.zip(*drop).filter(|(_, drop)| **drop) {
                        *label = None;
                    }
                }
                ConditionPart::Context => it.context = kept(it.context, drop)?,
                ConditionPart::LowRes => it.low_res = kept(it.low_res, drop)?,
                ConditionPart::Tokens => {
                    let texts = it.tokens.iter_mut().flat_map(|tokens| &mut tokens.0);
                    for (text, _) in texts.zip(*drop).filter(|(_, drop)| **drop) {
                        text.clear();
                    }
                }
            }
        }
        Ok(it)
    }

    /// The conditions of `len` images from index `start` on.
    ///
    /// # Errors
    /// The condition is for fewer images.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        let end = start.saturating_add(len);
        if let Some(n) = self.lengths().find(|n| end > *n) {
            bail!("Condition::narrow: images {start} … {end} are out of range; the condition is for {n} images")
        }
        let rows = |x: &Option<Tensor>| x.as_ref().map(|x| x.narrow(0, start, len)).transpose();
        let texts = |tokens: &Tokens| Tokens(tokens.0[start..end].to_vec());
        Ok(Self {
            labels: self.labels.as_ref().map(|it| it[start..end].to_vec()),
            context: rows(&self.context)?,
            low_res: rows(&self.low_res)?,
            tokens: self.tokens.as_ref().map(texts),
        })
    }

    /// Concatenates conditions, each with its number of images, which [`Condition::none`] does not determine. Images
    /// without a part that others have get the null condition for it.
    ///
    /// # Errors
    /// The contexts or the images differ in size, or a condition is not for its number of images.
    pub fn cat(conditions: &[(&Self, usize)]) -> Result<Self> {
        for (condition, n) in conditions {
            condition.is_for(*n, "cat")?;
        }
        let rows = |part: fn(&Self) -> &Option<Tensor>| -> Result<Option<Tensor>> {
            let Some(like) = conditions.iter().find_map(|(it, _)| part(it).as_ref()) else {
                return Ok(None);
            };
            let rows = conditions.iter().map(|(it, n)| match part(it) {
                Some(x) => Ok(x.clone()),
                None => {
                    let mut shape = like.dims().to_vec();
                    shape[0] = *n;
                    Tensor::zeros(shape, like.dtype(), like.device())
                }
            });
            Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0).map(Some)
        };
        let labels = conditions.iter().flat_map(|(it, n)| match &it.labels {
            Some(labels) => labels.clone(),
            None => vec![None; *n],
        });
        let texts = conditions.iter().flat_map(|(it, n)| match &it.tokens {
            Some(tokens) => tokens.0.clone(),
            None => vec![Vec::new(); *n],
        });
        let any = |has: fn(&Self) -> bool| conditions.iter().any(|(it, _)| has(it));
        Ok(Self {
            labels: any(|it| it.labels.is_some()).then(|| labels.collect()),
            context: rows(|it| &it.context)?,
            low_res: rows(|it| &it.low_res)?,
            tokens: any(|it| it.tokens.is_some()).then(|| Tokens(texts.collect())),
        })
    }
}

/// `x` with zeros in the rows whose entry in `drop` is true.
fn kept(x: Option<Tensor>, drop: &[bool]) -> Result<Option<Tensor>> {
    let Some(x) = x else { return Ok(None) };
    let keep: Vec<f32> = drop.iter().map(|drop| f32::from(!drop)).collect();
    let mut shape = vec![1; x.rank()];
    shape[0] = drop.len();
    let keep = Tensor::from_vec(keep, shape, x.device())?;
    x.broadcast_mul(&keep.to_dtype(x.dtype())?).map(Some)
}

/// Two conditions are equal if all parts are equal, element by element.
impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        // On the CPU, since not every device has f64.
        let numbers = |x: &Tensor| -> Result<Vec<f64>> {
            let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            x.flatten_all()?.to_vec1()
        };
        let same = |a: &Option<Tensor>, b: &Option<Tensor>| match (a, b) {
            (Some(a), Some(b)) => a.dims() == b.dims() && matches!((numbers(a), numbers(b)), (Ok(a), Ok(b)) if a == b),
            (a, b) => a.is_none() && b.is_none(),
        };
        (&self.labels, &self.tokens) == (&other.labels, &other.tokens)
            && same(&self.context, &other.context)
            && same(&self.low_res, &other.low_res)
    }
}

#[cfg(test)]
#[path = "tests/condition.rs"]
mod tests;
