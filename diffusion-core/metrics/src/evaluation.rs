//! The evaluation of a set of samples with all measures.

use super::{
    ClassAccuracy, Estimate, FeatureExtractor, class_accuracy, frechet_distance, inception_score, kernel_distance,
    nearest, precision_recall,
};
use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use diffusion_data::Dataset;
use diffusion_ops::rng::Rng;
use serde::Serialize;
use std::fmt;

/// The largest number of real images and of samples in the search for copies.
const SEARCHED: usize = 1000;
/// The largest number of training images that are searched.
const SEARCHED_THROUGH: usize = 20_000;
/// The number of splits of the inception score.
const PARTS: usize = 10;
/// The number k of neighbours for precision and recall.
const NEIGHBOURS: usize = 3;

/// The results of [`Evaluation::new`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// The name of the data that the samples are compared with.
    pub data: String,
    /// The number of samples.
    pub samples: usize,
    /// The result of [`frechet_distance`].
    pub frechet_distance: Estimate,
    /// The result of [`kernel_distance`].
    pub kernel_distance: Estimate,
    /// The precision of [`precision_recall`] with k = 3.
    pub precision: Estimate,
    /// The recall of [`precision_recall`] with k = 3.
    pub recall: Estimate,
    /// The [`inception_score`] with 10 splits, or fewer if there are few samples.
    pub inception_score: Estimate,
    /// The [`class_accuracy`], if the samples have labels and the extractor knows the classes.
    pub accuracy: Option<ClassAccuracy>,
    /// Whether training images were memorised.
    pub copies: Copies,
}

/// How close samples are to training images in feature space.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Copies {
    /// The fraction of the samples that are closer to a training image than 99 % of the held-out real images are. Real
    /// images have 0.01; a larger value indicates memorisation, and 1 means that all samples are copies.
    pub share: f64,
    /// The median distance of a sample to its nearest training image, relative to that of real images: 0 for copies,
    /// about 1 for images as new as real ones.
    pub distance: f64,
    /// The number of samples in the search.
    pub samples: usize,
    /// The number of training images searched, the first of the set.
    pub train: usize,
    /// The number of training images.
    pub of: usize,
}

impl Copies {
    /// Describes the images searched: `20000 of the 60000 images of the training set`.
    pub fn searched(&self) -> String {
        match self.of {
            of if of > self.train => {
                format!("{} of the {of} images of the training set", self.train)
            }
            _ => format!("{} training images", self.train),
        }
    }
}

impl Evaluation {
    /// Compares `samples` with `real`, held-out real images, in the feature space of `extractor`.
    ///
    /// The time of some measures is quadratic in the number of images; 10,000 of each are usual. `labels` are the
    /// classes that the samples are conditioned on.
    ///
    /// The real-vs-real baseline comes from random splits, whose classes are uneven by chance. Class-balanced samples
    /// can score below the baseline, especially in small sets.
    ///
    /// # Shapes
    /// `samples` (N, C, H, W), values in \[−1, 1\], N at least 8; N `labels`.
    ///
    /// # Errors
    /// The images do not have the extractor's shape, are too few, or contain values that are not finite; or `labels`
    /// does not have one entry for each sample.
    pub fn new(
        extractor: &impl FeatureExtractor,
        real: &Dataset,
        train: &Dataset,
        samples: &Tensor,
        labels: Option<&[u32]>,
        rng: &mut Rng,
    ) -> Result<Self> {
        let fewest = 2 * (NEIGHBOURS + 1);
        let n = samples.dim(0).context("evaluation: samples")?;
        ensure!(
            n >= fewest && real.len() >= fewest,
            "evaluation: there are {n} samples and {} real images; at least {fewest} of each are needed",
            real.len()
        );
        let made = extractor.extract(samples)?;
        let there = extractor.extract_from(real, real.len())?;
        let (x, y) = (&there.features, &made.features);
        let shares = precision_recall(x, y, NEIGHBOURS, rng)?;
        let mixed = rng.permutation(n).into_iter().map(|i| i as u32);
        let mixed = Tensor::from_vec(mixed.collect::<Vec<_>>(), n, &Device::Cpu)?;
        let probabilities = made.probabilities.index_select(&mixed, 0)?;
        let splits = PARTS.min(n).min(real.len());
        Ok(Self {
            data: real.name().to_owned(),
            samples: n,
            frechet_distance: frechet_distance(x, y, rng)?,
            kernel_distance: kernel_distance(x, y, rng)?,
            precision: shares.precision,
            recall: shares.recall,
            inception_score: inception_score(&there.probabilities, &probabilities, splits, rng)?,
            accuracy: labels
                .filter(|_| extractor.has_classes())
                .map(|labels| class_accuracy(&made.probabilities, labels))
                .transpose()?,
            copies: Copies::new(extractor, x, train, y)?,
        })
    }
}

impl Copies {
    fn new(extractor: &impl FeatureExtractor, real: &Tensor, train: &Dataset, y: &Tensor) -> Result<Self> {
        let through = train.len().min(SEARCHED_THROUGH);
        let of = train.len();
        let train = extractor.extract_from(train, through)?.features;
        let distances = |x: &Tensor| -> Result<Vec<f64>> {
            let some = x.narrow(0, 0, x.dim(0)?.min(SEARCHED))?;
            let near = nearest(&some, &train, 1)?;
            let mut near: Vec<f64> = near.iter().map(|near| near[0].distance).collect();
            near.sort_by(f64::total_cmp);
            Ok(near)
        };
        let (of_real, of_samples) = (distances(real)?, distances(y)?);
        let limit = of_real[of_real.len() / 100];
        let nearer = of_samples.iter().filter(|d| **d < limit).count();
        let median = |sorted: &[f64]| sorted[sorted.len() / 2];
        Ok(Self {
            share: nearer as f64 / of_samples.len() as f64,
            distance: median(&of_samples) / median(&of_real).max(f64::MIN_POSITIVE),
            samples: of_samples.len(),
            train: through,
            of,
        })
    }
}

/// Prints a line for each measure.
impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for it in [&self.frechet_distance, &self.kernel_distance, &self.precision, &self.recall, &self.inception_score]
        {
            writeln!(f, "{it}")?;
        }
        if let Some(accuracy) = &self.accuracy {
            writeln!(f, "{accuracy}")?;
        }
        let it = self.copies;
        write!(
            f,
            "copies: {:.1} % of {} samples are nearer to one of {} than 99 % of real ones are (1 % for real ones); \
             median distance {:.2} of real ones'",
            100.0 * it.share,
            it.samples,
            it.searched(),
            it.distance
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Classifier;

    fn classifier() -> Result<Classifier> {
        let data = Dataset::sprites(8, 1)?;
        let (shape, names) = (data.shape(), data.class_names());
        Classifier::new("sprites", shape, names, 32, &mut Rng::new(1), &Device::Cpu)
    }

    #[test]
    fn real_images_reach_the_baseline_and_noise_does_not() -> Result<()> {
        let (classifier, mut rng) = (classifier()?, Rng::new(1));
        let (train, real) = (Dataset::sprites(300, 1)?, Dataset::sprites(300, 2)?);
        let others = Dataset::sprites(200, 3)?;
        let labels = others.labels().to_vec();
        let x = others.images(0..200, &Device::Cpu)?;
        let good = Evaluation::new(&classifier, &real, &train, &x, Some(&labels), &mut rng)?;
        let noise = rng.randn_like(&x)?.clamp(-1.0, 1.0)?;
        let bad = Evaluation::new(&classifier, &real, &train, &noise, None, &mut rng)?;
        let (a, b) = (&good.kernel_distance, &bad.kernel_distance);
        assert!(a.value < 0.1 * b.value, "{a}\n{b}");
        assert!(good.precision.value > 0.7 && bad.precision.value < 0.1, "{good}\n{bad}");
        assert!((0.8..1.2).contains(&good.copies.distance) && good.copies.share < 0.1, "{good}");
        assert!(good.accuracy.is_some() && bad.accuracy.is_none());
        assert_eq!(good.to_string().lines().count(), 7);
        let json = serde_json::to_value(&good)?;
        assert_eq!(json["samples"], 200);
        assert_eq!(json["frechet_distance"]["real"]["samples"], 150);
        Ok(())
    }

    #[test]
    fn copies_are_found() -> Result<()> {
        let (classifier, mut rng) = (classifier()?, Rng::new(1));
        let (train, real) = (Dataset::sprites(300, 1)?, Dataset::sprites(300, 2)?);
        let x = train.images(0..100, &Device::Cpu)?;
        let it = Evaluation::new(&classifier, &real, &train, &x, None, &mut rng)?;
        assert!(it.copies.share > 0.9 && it.copies.distance < 0.01, "{it}");
        assert!(it.to_string().contains("one of 300 training images than"), "{it}");
        let part = Copies { train: 20_000, of: 60_000, ..it.copies };
        assert_eq!(part.searched(), "20000 of the 60000 images of the training set");
        Ok(())
    }

    #[test]
    fn errors_explain_what_cannot_be_measured() -> Result<()> {
        let (classifier, rng) = (classifier()?, &mut Rng::new(1));
        let data = Dataset::sprites(40, 1)?;
        let mut fail = |n: usize, labels: Option<&[u32]>| {
            let x = data.images(0..n, &Device::Cpu)?;
            let failed = Evaluation::new(&classifier, &data, &data, &x, labels, rng);
            anyhow::Ok(failed.unwrap_err().to_string())
        };
        assert!(fail(7, None)?.contains("7 samples and 40 real images"));
        assert!(fail(10, Some(&[1]))?.contains("10 rows of probabilities and 1 labels"));
        Ok(())
    }
}
