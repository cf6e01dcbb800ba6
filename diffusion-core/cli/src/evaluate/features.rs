//! The network whose features `diffusion evaluate` compares.

use super::{Options, size};
use crate::classifier;
use crate::request::quoted;
use anyhow::{Context, Result, bail, ensure};
use diffusion_core::candle::Tensor;
use diffusion_core::data::{Dataset, Source};
use diffusion_core::metrics::{Classifier, Extracted, FeatureExtractor, InceptionV3};
use std::fmt;
use std::path::{Path, PathBuf};

/// The network whose features are compared.
pub enum Features {
    Classifier(Box<Classifier>),
    Inception(InceptionV3, PathBuf),
}

impl Features {
    pub fn load(options: &Options, source: &Source, real: &Dataset) -> Result<Self> {
        let device = crate::device(options.model.device)?;
        if let Some(path) = &options.inception {
            let network = InceptionV3::load(path, &device).context("--inception")?;
            return Ok(Self::Inception(network, path.clone()));
        }
        let name = format!("classifier-{}.safetensors", real.name());
        let beside = options.model.folder().map(|folder| folder.join(&name));
        let usual = || {
            let places = beside.iter().cloned().chain([Path::new("weights").join(&name)]);
            let there = places.clone().find(|path| path.is_file());
            there.or(places.into_iter().next()).unwrap_or_default()
        };
        let path = options.classifier.clone().unwrap_or_else(usual);
        let side = source.side.map_or_else(String::new, |side| format!(" --side {side}"));
        let command = |out: &Path| {
            format!(
                "`cargo diffusion classifier --task {}{side} --out {}`",
                quoted(Path::new(&source.task)),
                quoted(out)
            )
        };
        ensure!(path.is_file(), "--classifier: there is no {}; train it with {}", path.display(), command(&path));
        let classifier = Classifier::load(&path, &device).context("--classifier")?;
        let about = &classifier.about;
        ensure!(
            about.classes == real.class_names() && about.shape == real.shape(),
            "--classifier {}: it was trained on images of {} with the classes {} ({}), but those of {} are {} with the classes {}; \
             train a classifier for them with {}",
            path.display(),
            size(about.shape),
            about.classes.join(", "),
            about.data,
            real.name(),
            size(real.shape()),
            real.class_names().join(", "),
            command(&beside.unwrap_or(name.into()))
        );
        Ok(Self::Classifier(Box::new(classifier)))
    }

    /// A warning if the classifier is too weak for its features to mean much.
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Classifier(it) => classifier::warning(it),
            Self::Inception(..) => None,
        }
    }

    /// Returns an error if the network cannot take images of this shape; `whose` says whose they are.
    pub fn check(&self, shape: [usize; 3], whose: &str) -> Result<()> {
        match self {
            Self::Classifier(it) if it.about.shape != shape => bail!(
                "{whose} are {}, but the classifier for {} takes {}",
                size(shape),
                it.about.data,
                size(it.about.shape)
            ),
            _ => Ok(()),
        }
    }
}

impl FeatureExtractor for Features {
    fn extract(&self, x: &Tensor) -> Result<Extracted> {
        match self {
            Self::Classifier(it) => it.extract(x),
            Self::Inception(it, _) => it.extract(x),
        }
    }

    fn has_classes(&self) -> bool {
        matches!(self, Self::Classifier(_))
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Classifier(it) => {
                write!(
                    f,
                    "features of a classifier with an accuracy of {:.2} % on {} test images of {}",
                    100.0 * it.about.test_accuracy,
                    it.about.test_images,
                    it.about.data
                )?;
                self.warning().map_or(Ok(()), |warning| write!(f, " ({warning})"))
            }
            Self::Inception(_, path) => write!(f, "features of Inception v3, {}", path.display()),
        }
    }
}
