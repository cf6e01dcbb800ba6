//! The inception score of class probabilities.

use super::bootstrap::{interval, redraw, repeat};
use super::features::Features;
use super::{Estimate, Reference};
use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use diffusion_ops::rng::Rng;

const NAME: &str = "inception score";

/// The inception score: how confident a classifier is about each sample, and how many classes it finds in all of them:
///
/// exp(mean over x of KL(p(y|x) ‖ p(y))), where p(y) is the mean of p(y|x).
///
/// It lies between 1 and the number of classes ([Salimans et al. 2016](https://arxiv.org/abs/1606.03498), section 4).
/// As in the paper, it is the mean over `splits` equal parts of the samples in their order, usually 10; shuffle samples
/// that are sorted by class. It does not use real images: [`Estimate::real`] is the score of as many of them, with as
/// many splits.
///
/// # Shapes
/// `real` (N, K) and `samples` (M, K), probabilities of K classes, N and M at least `splits`.
///
/// # Errors
/// The shapes do not match, `splits` = 0, or a row is not a probability distribution.
pub fn inception_score(real: &Tensor, samples: &Tensor, splits: usize, rng: &mut Rng) -> Result<Estimate> {
    ensure!(splits > 0, "{NAME}: splits = 0 must be at least 1 (usually 10)");
    let [real, samples] = [("real", real), ("samples", samples)].map(|(name, p)| probabilities(name, p, splits));
    let (real, samples) = (real?, samples?);
    ensure!(
        real.dimensions() == samples.dimensions(),
        "{NAME}: real has {} classes, but samples {}",
        real.dimensions(),
        samples.dimensions()
    );
    let value = score(&samples, splits);
    let again = repeat(rng, |rng| score(&samples.select(&redraw(samples.count(), rng)), splits));
    let (low, high) = interval(value, again);
    let mut baseline = rng.permutation(real.count());
    baseline.truncate(samples.count());
    Ok(Estimate {
        name: NAME,
        value,
        interval: (low.max(1.0), high.min(samples.dimensions() as f64)),
        real_images: 0,
        samples: samples.count(),
        real: Reference { value: score(&real.select(&baseline), splits), real_images: 0, samples: baseline.len() },
        doubt: None,
    })
}

/// Validates rows of non-negative numbers that sum to 1.
fn probabilities(name: &str, p: &Tensor, splits: usize) -> Result<Features> {
    let p = Features::new(NAME, name, p)?;
    ensure!(p.count() >= splits, "{NAME}: {name} has {} images, fewer than splits = {splits}", p.count());
    let bad = p.0.column_iter().position(|row| row.min() < 0.0 || (row.sum() - 1.0).abs() > 1e-3);
    if let Some(at) = bad {
        bail!(
            "{NAME}: row {at} of {name} is not a probability distribution (non-negative, sum 1); apply softmax to \
             logits"
        )
    }
    Ok(p)
}

/// The mean of the scores of the splits.
fn score(p: &Features, splits: usize) -> f64 {
    let n = p.count();
    let part = |i: usize| {
        let (start, end) = (i * n / splits, (i + 1) * n / splits);
        let rows = p.0.columns(start, end - start);
        let information = |p: f64| if p > 0.0 { p * p.ln() } else { 0.0 };
        let of_each: f64 = rows.iter().map(|p| information(*p)).sum::<f64>() / (end - start) as f64;
        let of_all: f64 = rows.column_mean().iter().map(|p| information(*p)).sum();
        (of_each - of_all).exp()
    };
    (0..splits).map(part).sum::<f64>() / splits as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn certain(classes: &[usize]) -> Result<Tensor> {
        let rows: Vec<f32> = classes.iter().flat_map(|c| (0..4).map(move |k| f32::from(k == *c))).collect();
        Ok(Tensor::from_vec(rows, (classes.len(), 4), &Device::Cpu)?)
    }

    #[test]
    fn it_counts_the_classes_of_confident_predictions() -> Result<()> {
        let real = certain(&[0, 1, 2, 3, 0, 1, 2, 3])?;
        let it = |samples: &Tensor, splits| inception_score(&real, samples, splits, &mut Rng::new(1));
        let all = it(&real, 1)?;
        assert!((all.value - 4.0).abs() < 1e-12 && all.interval.1 <= 4.0, "{all}");
        assert!((all.real.value - 4.0).abs() < 1e-12 && all.real.samples == 8, "{all}");
        // In two splits of one class each, or of two.
        assert!((it(&certain(&[0, 0, 3, 3])?, 2)?.value - 1.0).abs() < 1e-12);
        assert!((it(&certain(&[0, 3, 0, 3])?, 2)?.value - 2.0).abs() < 1e-12);
        let unsure = Tensor::full(0.25f32, (6, 4), &Device::Cpu)?;
        assert!((it(&unsure, 3)?.value - 1.0).abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn errors_name_wrong_arguments() -> Result<()> {
        let good = certain(&[0, 1, 2])?;
        let logits = Tensor::new(&[[2f32, 1.0, 0.0, 0.0]], &Device::Cpu)?;
        let fail = |p: &Tensor, splits| inception_score(&good, p, splits, &mut Rng::new(1)).unwrap_err().to_string();
        for (message, wants) in [
            (fail(&good, 0), "splits = 0"),
            (fail(&good, 4), "real has 3 images, fewer than splits = 4"),
            (fail(&logits, 1), "row 0 of samples is not a probability distribution"),
            (fail(&Tensor::full(0.5f32, (3, 2), &Device::Cpu)?, 1), "real has 4 classes, but samples 2"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
