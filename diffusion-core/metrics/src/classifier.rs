//! A small classifier of a data set, whose last features are the space in which images are compared.
//!
//! The standard measures use the features of Inception v3, which was trained on 299×299 photographs. For images of
//! 28×28 or 16×16, a classifier trained on the data set itself is more informative. Its values are only comparable for
//! the same weights, so a [`Classifier`] is saved in a file, and its card states its accuracy.

mod attributes;
mod fit;

pub use attributes::{Attribute, AttributeAccuracy};
pub use fit::Fit;

use super::{Extracted, FeatureExtractor};
use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device, Tensor, Var};
use diffusion_nn::{BatchNorm2d, Builder, Checkpoint, Conv2d, Linear, Parameters};
use diffusion_ops::ops::{Activation, Geometry, avg_pool2d, max_pool2d};
use diffusion_ops::rng::Rng;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The metadata key of the classifier's description.
const METADATA: &str = "classifier";

/// The number of images in a batch.
const AT_ONCE: usize = 256;

/// The channels of the convolutions as multiples of [`About::base`]; small images do without the last two. Height and
/// width are halved after the first of them, after the third, and before the last two.
const WIDTHS: [usize; 7] = [1, 2, 2, 3, 3, 4, 4];
const OF_SMALL: usize = 5;

/// Images whose height and width are both at least this are large, and are halved by averaging until they are smaller.
const LARGE: usize = 48;

/// The training data of a [`Classifier`] and its accuracy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The name of the data set.
    pub data: String,
    /// The class names by label.
    pub classes: Vec<String>,
    /// The shape (C, H, W) of an image.
    pub shape: [usize; 3],
    /// The channels of the first convolution; a small image has three times as many features, a large one four times.
    #[serde(default = "usual_base")]
    pub base: usize,
    /// The number of training steps.
    pub steps: usize,
    /// The number of training images seen, including repetitions.
    pub images_seen: u64,
    /// The accuracy on held-out images, 0 … 1; NaN before training.
    #[serde(with = "share")]
    pub test_accuracy: f64,
    /// The number of held-out images.
    pub test_images: usize,
    /// What else it classifies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<Attribute>,
}

/// The channels of classifiers that were saved before there was a choice.
fn usual_base() -> usize {
    Fit::default().base
}

/// Writes NaN as null, since JSON has no NaN.
pub(super) mod share {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(share: &f64, to: S) -> Result<S::Ok, S::Error> {
        share.is_finite().then_some(*share).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
    }
}

/// A classifier of five 3×3 convolutions with batch norm and SiLU, global average pooling and a linear layer. A second
/// linear layer classifies [attributes](Attribute), if there are any.
///
/// Images from 48×48 pixels on are halved by averaging until they are smaller, and have seven convolutions.
///
/// ```no_run
/// use diffusion_core::{candle::Device, data::{Dataset, Split}, metrics::Classifier};
/// let classifier = Classifier::load("weights/classifier-mnist.safetensors", &Device::Cpu)?;
/// let digits = Dataset::mnist(Split::Test)?.images(0..100, &Device::Cpu)?;
/// assert_eq!(classifier.features(&digits)?.dims(), [100, classifier.about.features()]);
/// assert_eq!(classifier.probabilities(&digits)?.dims(), [100, 10]);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Classifier {
    /// The training data and the accuracy.
    pub about: About,
    params: Parameters,
    layers: Layers,
    /// The same layers without gradients, with running statistics.
    constant: Layers,
}

impl Classifier {
    /// Creates a classifier with random weights from `rng` for images of shape (C, H, W) of the data set `data`, with
    /// `base` channels in its first convolution (1 … 1024).
    ///
    /// # Errors
    /// `base` is out of range, there is no class or no channel, or the height or width is below 4, so it cannot be halved
    /// twice.
    pub fn new(
        data: &str,
        shape: [usize; 3],
        classes: &[String],
        base: usize,
        rng: &mut Rng,
        device: &Device,
    ) -> Result<Self> {
        Self::with_attributes(data, shape, classes, base, Vec::new(), rng, device)
    }

    fn with_attributes(
        data: &str,
        shape: [usize; 3],
        classes: &[String],
        base: usize,
        attributes: Vec<Attribute>,
        rng: &mut Rng,
        device: &Device,
    ) -> Result<Self> {
        let about = About {
            data: data.to_owned(),
            classes: classes.to_vec(),
            shape,
            base,
            steps: 0,
            images_seen: 0,
            test_accuracy: f64::NAN,
            test_images: 0,
            attributes,
        };
        let mut params = Parameters::new(DType::F32, device);
        about.check()?;
        let layers = Layers::new(params.builder(rng), &about)?;
        Self::made(about, params, layers)
    }

    fn made(about: About, params: Parameters, layers: Layers) -> Result<Self> {
        let constant = Layers::new(params.constants(), &about)?;
        Ok(Self { about, params, layers, constant })
    }

    /// Its parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.params
    }

    /// The logits of the classes, and after them those of the values of each attribute, in training mode, with batch
    /// statistics in the batch norms.
    ///
    /// # Shapes
    /// `x` (B, C, H, W), in \[−1, 1\]; the result is (B, K + all values).
    ///
    /// # Errors
    /// The images do not have the shape [`About::shape`].
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        let map = self.layers.map(x)?;
        let logits = self.layers.last.forward(&pooled(&map)?)?;
        Ok(match &self.layers.attributes {
            Some(attributes) => Tensor::cat(&[logits, attributes.forward(&map.flatten_from(1)?)?], 1)?,
            None => logits,
        })
    }

    /// The inputs of the last layer: the feature space of the distances in [`metrics`](crate).
    ///
    /// # Shapes
    /// `x` (N, C, H, W), in \[−1, 1\]; the result is (N, [`About::features`]), f32 on the CPU.
    ///
    /// # Errors
    /// See [`Classifier::logits`]; or a value of the images is not finite.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.extract(x)?.features)
    }

    /// The class probabilities.
    ///
    /// # Shapes
    /// `x` (N, C, H, W), in \[−1, 1\]; the result is (N, K), f32 on the CPU; each row sums to 1.
    ///
    /// # Errors
    /// See [`Classifier::logits`]; or a value of the images is not finite.
    pub fn probabilities(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.extract(x)?.probabilities)
    }

    /// Writes weights and [`About`] to a safetensors file.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let about = serde_json::to_string(&self.about)?;
        let tensor = |(name, var): (&str, &Var)| (name.to_owned(), var.as_detached_tensor());
        Checkpoint { tensors: self.params.all().map(tensor).collect(), metadata: [(METADATA.to_owned(), about)].into() }
            .save(path)
    }

    /// Loads a classifier from a file of [`Classifier::save`].
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or does not hold a classifier: the message names the file and the problem.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        Checkpoint::load(path)
            .and_then(|file| Self::from_checkpoint(&file, device))
            .with_context(|| format!("cannot use {} as a classifier", path.display()))
            .map_err(diffusion_ops::error::whole)
    }

    fn from_checkpoint(file: &Checkpoint, device: &Device) -> Result<Self> {
        let about = file
            .metadata
            .get(METADATA)
            .context("it has no description of a classifier; create one with `cargo diffusion classifier`")?;
        let about: About =
            serde_json::from_str(about).with_context(|| format!("cannot read its description: {about}"))?;
        about.check()?;
        let mut params = Parameters::new(DType::F32, device);
        let layers = Layers::new(params.builder_from(&file.tensors), &about)?;
        if let Some(name) = file.tensors.keys().find(|name| params.get(name).is_none()) {
            anyhow::bail!("unexpected tensor {name}, which the classifier does not have")
        }
        Self::made(about, params, layers)
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        let [c, h, w] = self.about.shape;
        ensure!(
            matches!(*x.dims(), [n, a, b, d] if n > 0 && [a, b, d] == [c, h, w]),
            "classifier: x has shape {:?}; it is for images of {}, so the shape must be (N, {c}, {h}, {w}) with N at \
             least 1",
            x.dims(),
            self.about.data
        );
        Ok(())
    }
}

impl FeatureExtractor for Classifier {
    fn extract(&self, x: &Tensor) -> Result<Extracted> {
        self.check(x)?;
        let n = x.dim(0)?;
        let (mut features, mut probabilities) = (Vec::new(), Vec::new());
        for start in (0..n).step_by(AT_ONCE) {
            let part = x.narrow(0, start, AT_ONCE.min(n - start))?;
            let part = part.to_dtype(DType::F32)?.to_device(self.params.device())?;
            let seen = pooled(&self.constant.map(&part)?)?;
            let logits = self.constant.last.forward(&seen)?;
            let batch_probabilities = candle_nn::ops::softmax(&logits, D::Minus1)?;
            features.push(seen.to_device(&Device::Cpu)?);
            probabilities.push(batch_probabilities.to_device(&Device::Cpu)?);
        }
        Extracted::new(features, probabilities)
    }

    fn has_classes(&self) -> bool {
        true
    }
}

impl About {
    /// The number of features of an image before the last layer.
    pub fn features(&self) -> usize {
        self.base * self.widths()[self.widths().len() - 1]
    }

    /// The number of 3×3 convolutions.
    pub fn convolutions(&self) -> usize {
        self.widths().len()
    }

    fn widths(&self) -> &'static [usize] {
        let [_, height, width] = self.shape;
        if height.min(width) < LARGE { &WIDTHS[..OF_SMALL] } else { &WIDTHS }
    }

    fn check(&self) -> Result<()> {
        let [c, h, w] = self.shape;
        ensure!(
            (1..=1024).contains(&c) && (4..=1024).contains(&h) && (4..=1024).contains(&w),
            "classifier: images of {c}×{h}×{w} are not supported; there must be 1 … 1024 channels and 4 … 1024 rows \
             and columns"
        );
        ensure!((1..=1024).contains(&self.base), "classifier: base = {} must be in 1 … 1024", self.base);
        let classes = self.classes.len();
        ensure!(
            (1..=diffusion_data::MAX_CLASSES).contains(&classes),
            "classifier: {classes} classes are not supported; there must be 1 … {}",
            diffusion_data::MAX_CLASSES
        );
        self.attributes.iter().try_for_each(Attribute::check)
    }
}

#[derive(Debug)]
struct Layers {
    convs: Vec<(Conv2d, BatchNorm2d)>,
    last: Linear,
    /// From all positions, since a small part of the image decides.
    attributes: Option<Linear>,
}

/// (B, FEATURES, h, w) → (B, FEATURES).
fn pooled(map: &Tensor) -> candle_core::Result<Tensor> {
    map.flatten_from(2)?.mean(2)
}

impl Layers {
    fn new(mut build: Builder, about: &About) -> candle_core::Result<Self> {
        let (mut convs, mut inputs) = (Vec::new(), about.shape[0]);
        for (i, times) in about.widths().iter().enumerate() {
            let width = times * about.base;
            let conv = build.at(format!("conv{}", i + 1));
            let conv = Conv2d::new(conv, inputs, width, 3, Geometry::same(3))?;
            let norm = build.at(format!("norm{}", i + 1));
            convs.push((conv, BatchNorm2d::new(norm, width, Activation::Silu)?));
            inputs = width;
        }
        let last = Linear::new(build.at("last"), inputs, about.classes.len())?;
        let [_, height, width] = about.shape;
        let attributes = match about.attributes.iter().map(|it| it.values.len()).sum() {
            0 => None,
            values => Some(Linear::new(build.at("attributes"), inputs * (height / 4) * (width / 4), values)?),
        };
        Ok(Self { convs, last, attributes })
    }

    /// (B, C, H, W) → (B, [`About::features`], H/4, W/4); a large image is halved more often.
    fn map(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = x.clone();
        while x.dim(2)?.min(x.dim(3)?) >= LARGE {
            x = avg_pool2d(&x, 2)?;
        }
        for (i, (conv, norm)) in self.convs.iter().enumerate() {
            x = norm.forward(&conv.forward(&x)?)?;
            if i == 0 || i == 2 || i + 3 == self.convs.len() {
                x = max_pool2d(&x, 2)?;
            }
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion_data::Dataset;

    fn fresh(seed: u64) -> Result<Classifier> {
        let classes: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        Classifier::new("tiny", [3, 9, 8], &classes, 8, &mut Rng::new(seed), &Device::Cpu)
    }

    fn off(a: &Tensor, b: &Tensor) -> Result<f32> {
        Ok((a - b)?.abs()?.max_all()?.to_scalar()?)
    }

    #[test]
    fn a_classifier_is_restored_from_its_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("c.safetensors");
        let mut it = fresh(1)?;
        let x = Rng::new(2).randn((300, 3, 9, 8), &Device::Cpu)?;
        it.save(&path)?;
        assert!(Classifier::load(&path, &Device::Cpu)?.about.test_accuracy.is_nan());
        // The running statistics of the batch norms are part of it.
        it.logits(&x)?;
        (it.about.test_accuracy, it.about.test_images) = (0.25, 4);
        it.save(&path)?;
        let again = Classifier::load(&path, &Device::Cpu)?;
        assert_eq!(again.about, it.about);
        let (a, b) = (it.extract(&x)?, again.extract(&x)?);
        assert_eq!(off(&a.features, &b.features)?, 0.0);
        assert_eq!(a.features.dims(), [300, 24]);
        assert_eq!(a.probabilities.dims(), [300, 3]);
        assert!(off(&a.probabilities.sum(1)?, &Tensor::ones(300, DType::F32, &Device::Cpu)?)? < 1e-5);
        // An image's result does not depend on the other images of the batch.
        let alone = again.extract(&x.narrow(0, 299, 1)?)?;
        assert!(off(&alone.features, &a.features.narrow(0, 299, 1)?)? < 1e-5);
        assert!(off(&a.probabilities, &fresh(2)?.probabilities(&x)?)? > 1e-3);
        Ok(())
    }

    #[test]
    fn every_parameter_has_a_gradient() -> Result<()> {
        let it = fresh(1)?;
        let x = Rng::new(2).randn((4, 3, 9, 8), &Device::Cpu)?;
        let grads = it.logits(&x)?.sqr()?.mean_all()?.backward()?;
        for (name, var) in it.parameters().iter() {
            let grad = grads.get(var).context(name.to_owned())?;
            // A bias that a batch norm subtracts again has no gradient.
            let lost = name.starts_with("conv") && name.ends_with("bias");
            let size = grad.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(lost || size > 1e-6, "{name}: {size}");
        }
        Ok(())
    }

    #[test]
    fn errors_name_unsupported_images() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("c.safetensors");
        let it = fresh(1)?;
        let digits = Tensor::zeros((2, 1, 28, 28), DType::F32, &Device::Cpu)?;
        let message = it.extract(&digits).unwrap_err().to_string();
        assert!(message.contains("x has shape [2, 1, 28, 28]; it is for images of tiny"), "{message}");
        let nan = (Tensor::zeros((2, 3, 9, 8), DType::F32, &Device::Cpu)? / 0.0)?;
        let message = it.extract(&nan).unwrap_err().to_string();
        assert!(message.contains("NaN or infinity"), "{message}");
        let make = |shape, classes: &[String]| {
            Classifier::new("x", shape, classes, 8, &mut Rng::new(1), &Device::Cpu).unwrap_err().to_string()
        };
        assert!(make([1, 3, 8], &["a".to_owned()]).contains("images of 1×3×8"));
        assert!(make([1, 8, 8], &[]).contains("0 classes"));

        let fail = || Classifier::load(&path, &Device::Cpu).unwrap_err().to_string();
        assert!(fail().contains("c.safetensors"));
        it.parameters().save(&path)?;
        assert!(fail().contains("has no description of a classifier"), "{}", fail());
        it.save(&path)?;
        let mut file = Checkpoint::load(&path)?;
        file.tensors.insert("more".to_owned(), Tensor::new(1f32, &Device::Cpu)?);
        file.save(&path)?;
        assert!(fail().contains("unexpected tensor more"), "{}", fail());
        file.tensors.remove("more");
        file.tensors.remove("last.bias");
        file.save(&path)?;
        assert!(fail().contains("missing: last.bias"), "{}", fail());
        file.metadata.insert(METADATA.to_owned(), "{}".to_owned());
        file.save(&path)?;
        assert!(fail().contains("cannot read its description"), "{}", fail());
        Ok(())
    }

    #[test]
    fn large_images_have_more_convolutions() -> Result<()> {
        for (side, convolutions, features) in [(16, 5, 24), (47, 5, 24), (48, 7, 32), (64, 7, 32)] {
            let it = Classifier::new("x", [3, side, side], &["a".to_owned()], 8, &mut Rng::new(1), &Device::Cpu)?;
            let x = Tensor::zeros((2, 3, side, side), DType::F32, &Device::Cpu)?;
            assert_eq!(it.features(&x)?.dims(), [2, features], "{side}");
            assert_eq!((it.about.convolutions(), it.about.features()), (convolutions, features));
        }
        Ok(())
    }

    /// After a minute of training, far above the 20 % of guessing.
    #[test]
    fn it_learns_to_classify_sprites() -> Result<()> {
        let (train, test) = (Dataset::sprites(600, 1)?, Dataset::sprites(200, 2)?);
        let fit = Fit { batch: 32, ..Default::default() };
        let it = fit.run(&train, &test, &Device::Cpu)?;
        assert!(it.about.test_accuracy > 0.8, "{:?}", it.about);
        assert_eq!((it.about.test_images, it.about.images_seen), (200, 6 * 18 * 32));
        let again = fit.run(&train, &test, &Device::Cpu)?;
        assert_eq!(it.about, again.about);
        let x = test.images(0..9, &Device::Cpu)?;
        assert_eq!(off(&it.features(&x)?, &again.features(&x)?)?, 0.0);
        Ok(())
    }
}
