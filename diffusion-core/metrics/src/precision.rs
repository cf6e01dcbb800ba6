//! Precision and recall of samples.

use super::bootstrap::{interval, redraw, repeat};
use super::features::{Features, blocks, squared_distances};
use super::{Estimate, Reference};
use anyhow::{Result, ensure};
use candle_core::Tensor;
use diffusion_ops::rng::Rng;
use rayon::prelude::*;
use std::fmt;

const NAME: &str = "precision and recall";

/// The number of rows and columns of the distance matrix in memory at once.
const BLOCK: usize = 1024;

/// Precision and recall of a set of samples, each 0 … 1.
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// The fraction of samples within the real images: sample quality.
    pub precision: Estimate,
    /// The fraction of real images within the samples: diversity.
    pub recall: Estimate,
}

/// Prints one line for each.
impl fmt::Display for PrecisionRecall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.precision, self.recall)
    }
}

/// Precision and recall of samples against real images, in feature space
/// ([Kynkäänniemi et al. 2019](https://arxiv.org/abs/1904.06991), equations 1 and 2).
///
/// A vector lies within a set if it is in one of the balls around the vectors of the set, whose radius is the distance
/// to the `k`-th nearest other vector (k = 3 in the paper). Both values depend on the number of images, and even real
/// images do not reach 1, so compare with [`Estimate::real`]. The intervals keep the balls and resample the vectors
/// that are tested. The time is quadratic in the number of images.
///
/// # Shapes
/// `real` (N, D), N at least 2(`k` + 1), and `samples` (M, D), M at least `k` + 1.
///
/// # Errors
/// The shapes do not match, `k` = 0, or a value is not finite: the message names the row.
pub fn precision_recall(real: &Tensor, samples: &Tensor, k: usize, rng: &mut Rng) -> Result<PrecisionRecall> {
    ensure!(k > 0, "{NAME}: k = 0 must be at least 1 (3 in the paper)");
    let [real, samples] = Features::pair(NAME, real, samples, k.saturating_add(1))?;
    let [rest, part] = real.parts(samples.count(), rng);
    let radii = |x: &Features| radii(x, k);
    let (of_real, of_samples, of_rest, of_part) = (radii(&real), radii(&samples), radii(&rest), radii(&part));
    let mut estimate = |name, inside: Vec<bool>, reference: Vec<bool>| {
        let value = share(&inside, 0..inside.len());
        let again = repeat(rng, |rng| share(&inside, redraw(inside.len(), rng)));
        let (low, high) = interval(value, again);
        Estimate {
            name,
            value,
            interval: (low.max(0.0), high.min(1.0)),
            real_images: real.count(),
            samples: samples.count(),
            real: Reference {
                value: share(&reference, 0..reference.len()),
                real_images: rest.count(),
                samples: part.count(),
            },
            doubt: None,
        }
    };
    Ok(PrecisionRecall {
        precision: estimate("precision", among(&samples, &real, &of_real), among(&part, &rest, &of_rest)),
        recall: estimate("recall", among(&real, &samples, &of_samples), among(&rest, &part, &of_part)),
    })
}

fn share(inside: &[bool], of: impl IntoIterator<Item = usize>) -> f64 {
    let hits = of.into_iter().filter(|i| inside[*i]).count();
    hits as f64 / inside.len() as f64
}

/// The squared distance of each vector to its `k`-th nearest other vector.
fn radii(x: &Features, k: usize) -> Vec<f64> {
    let radii = |(start, len): (usize, usize)| {
        // The k nearest so far, in order, for each vector of the block.
        let mut nearest = vec![vec![f64::INFINITY; k]; len];
        for (other, width) in blocks(x.count(), BLOCK) {
            let d = squared_distances(&x.0.columns(other, width).into_owned(), &x.0.columns(start, len).into_owned());
            for (i, column) in d.column_iter().enumerate() {
                for (j, d) in column.iter().enumerate() {
                    if other + j != start + i && *d < nearest[i][k - 1] {
                        let at = nearest[i].partition_point(|x| x <= d);
                        nearest[i].pop();
                        nearest[i].insert(at, *d);
                    }
                }
            }
        }
        nearest.into_iter().map(|nearest| nearest[k - 1]).collect::<Vec<_>>()
    };
    blocks(x.count(), BLOCK).into_par_iter().flat_map_iter(radii).collect()
}

/// Whether each vector of `x` is in a ball around one of `set`.
fn among(x: &Features, set: &Features, radii: &[f64]) -> Vec<bool> {
    let inside = |(start, len): (usize, usize)| {
        let mut inside = vec![false; len];
        for (other, width) in blocks(set.count(), BLOCK) {
            let d = squared_distances(&set.0.columns(other, width).into_owned(), &x.0.columns(start, len).into_owned());
            for (inside, column) in inside.iter_mut().zip(d.column_iter()) {
                let radii = &radii[other..other + width];
                *inside = *inside || column.iter().zip(radii).any(|(d, radius)| d <= radius);
            }
        }
        inside
    };
    blocks(x.count(), BLOCK).into_par_iter().flat_map_iter(inside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn line(x: &[f64]) -> Result<Tensor> {
        Ok(Tensor::from_slice(x, (x.len(), 1), &Device::Cpu)?)
    }

    /// On a line, k = 1: the real radii are 1, 1, 2, 4; the samples' 0.5, 0.5 and 7.
    #[test]
    fn by_hand() -> Result<()> {
        let (real, samples) = (line(&[0.0, 1.0, 3.0, 7.0])?, line(&[-1.25, -0.75, 12.0])?);
        let sets = Features::pair("", &real, &samples, 2)?;
        assert_eq!(radii(&sets[0], 1), [1.0, 1.0, 4.0, 16.0]);
        let it = precision_recall(&real, &samples, 1, &mut Rng::new(1))?;
        // −0.75 is within 1 of 0; −1.25 and 12 are in no ball.
        assert!((it.precision.value - 1.0 / 3.0).abs() < 1e-12, "{it}");
        // The ball of 12 reaches down to −0.75, so it contains all.
        assert_eq!(it.recall.value, 1.0);
        assert!(it.to_string().contains("\nrecall 1.000, 95 % interval 1.000 … 1.000, of 3 samples against 4"), "{it}");
        Ok(())
    }

    /// More images than a block, compared with all distances computed directly.
    #[test]
    fn the_block_size_does_not_matter() -> Result<()> {
        let mut rng = Rng::new(1);
        let n = BLOCK + 30;
        let set = |rng: &mut Rng, n| Features::new("", "", &rng.randn((n, 3), &Device::Cpu)?);
        let (x, y) = (set(&mut rng, n)?, set(&mut rng, 50)?);
        let got = radii(&x, 3);
        let mut want = Vec::new();
        for i in 0..n {
            let mut d: Vec<f64> =
                (0..n).filter(|j| *j != i).map(|j| (x.0.column(i) - x.0.column(j)).norm_squared()).collect();
            d.sort_by(f64::total_cmp);
            want.push(d[2]);
        }
        assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12));
        let inside = among(&y, &x, &got);
        for (j, inside) in inside.into_iter().enumerate() {
            let any = (0..n).any(|i| (y.0.column(j) - x.0.column(i)).norm_squared() <= want[i]);
            assert_eq!(inside, any, "{j}");
        }
        Ok(())
    }

    #[test]
    fn few_modes_have_precision_and_noise_has_recall() -> Result<()> {
        let mut rng = Rng::new(1);
        let real = rng.randn((2000, 2), &Device::Cpu)?;
        let few = (rng.randn((1000, 2), &Device::Cpu)? * 0.2)?;
        let it = precision_recall(&real, &few, 3, &mut rng)?;
        assert!(it.precision.value > 0.95 && it.recall.value < 0.3, "{it}");
        assert!(it.recall.interval.0 < it.recall.value && it.recall.value < it.recall.interval.1, "{it}");
        let wide = (rng.randn((1000, 2), &Device::Cpu)? * 5.0)?;
        let it = precision_recall(&real, &wide, 3, &mut rng)?;
        assert!(it.precision.value < 0.3 && it.recall.value > 0.8, "{it}");
        let (p, r) = (it.precision.real.value, it.recall.real.value);
        assert!((0.9..1.0).contains(&p) && (0.9..1.0).contains(&r), "{it}");
        Ok(())
    }

    #[test]
    fn errors_name_too_few_images() -> Result<()> {
        let x = Tensor::zeros((7, 2), DType::F32, &Device::Cpu)?;
        let fail = |k| precision_recall(&x, &x, k, &mut Rng::new(1)).unwrap_err().to_string();
        assert!(fail(0).contains("k = 0"));
        assert!(fail(3).contains("7 real images; at least 4 and 8 are needed"), "{}", fail(3));
        assert!(precision_recall(&x, &x, 2, &mut Rng::new(1)).is_ok());
        Ok(())
    }
}
