//! The kernel distance between two sets of features.

use super::bootstrap::{REPEATS, interval, redraw};
use super::features::{Features, blocks};
use super::{Estimate, Reference, SPLITS};
use anyhow::Result;
use candle_core::Tensor;
use diffusion_ops::rng::Rng;
use nalgebra::DMatrix;
use rayon::prelude::*;

const NAME: &str = "kernel distance";

/// The number of rows and columns of the kernel matrix in memory at once.
const BLOCK: usize = 512;

/// The kernel distance between the features of samples and of real images: the squared maximum mean discrepancy with
/// the kernel k(x, y) = (x·y/D + 1)³, estimated without bias,
///
/// 1/(m(m−1)) Σ_{i≠j} k(xᵢ, xⱼ) + 1/(n(n−1)) Σ_{i≠j} k(yᵢ, yⱼ) − 2/(mn) Σ k(xᵢ, yⱼ)
///
/// ([Bińkowski et al. 2018](https://arxiv.org/abs/1801.01401), section 4; with Inception features it is the KID). For
/// equal distributions its expectation is 0 for any number of images, so it can be negative. Its scale depends on that
/// of the features. The time is quadratic in the number of images.
///
/// # Shapes
/// `real` (N, D), N at least 4, and `samples` (M, D), M at least 2.
///
/// # Errors
/// The shapes do not match, or a value is not finite: the message names the row.
pub fn kernel_distance(real: &Tensor, samples: &Tensor, rng: &mut Rng) -> Result<Estimate> {
    let [real, samples] = Features::pair(NAME, real, samples, 2)?;
    let ones = |x: &Features| DMatrix::repeat(x.count(), 1, 1.0);
    let (mut floor, mut sizes) = (0.0, (0, 0));
    for _ in 0..SPLITS {
        let [rest, part] = real.parts(samples.count(), rng);
        floor += distances(&rest, &ones(&rest), &part, &ones(&part))[0] / SPLITS as f64;
        sizes = (rest.count(), part.count());
    }
    let (w, v) = (counts(real.count(), REPEATS, rng), counts(samples.count(), REPEATS, rng));
    let mut values = distances(&real, &w, &samples, &v);
    let value = values.remove(0);
    Ok(Estimate {
        name: NAME,
        value,
        interval: interval(value, values),
        real_images: real.count(),
        samples: samples.count(),
        real: Reference { value: floor, real_images: sizes.0, samples: sizes.1 },
        doubt: None,
    })
}

/// How often each of `n` images counts: once in the first column, otherwise as often as it was drawn.
fn counts(n: usize, repeats: usize, rng: &mut Rng) -> DMatrix<f64> {
    let mut counts = DMatrix::zeros(n, repeats + 1);
    counts.column_mut(0).fill(1.0);
    for mut column in counts.column_iter_mut().skip(1) {
        redraw(n, rng).into_iter().for_each(|i| column[i] += 1.0);
    }
    counts
}

/// The distance for each column of counts. Pairs of an image with itself are omitted, however often it was drawn.
fn distances(x: &Features, w: &DMatrix<f64>, y: &Features, v: &DMatrix<f64>) -> Vec<f64> {
    let (xx, yy, xy) = (sums(x, w, x, w, true), sums(y, v, y, v, true), sums(x, w, y, v, false));
    let total = |w: &DMatrix<f64>, r: usize| w.column(r).sum();
    let pairs = |w: &DMatrix<f64>, r: usize| total(w, r).powi(2) - w.column(r).norm_squared();
    (0..w.ncols())
        .map(|r| xx[r] / pairs(w, r) + yy[r] / pairs(v, r) - 2.0 * xy[r] / (total(w, r) * total(v, r)))
        .collect()
}

/// Σᵢⱼ wᵢ k(xᵢ, yⱼ) vⱼ for each column of the counts; with `same`, y = x and i ≠ j.
fn sums(x: &Features, w: &DMatrix<f64>, y: &Features, v: &DMatrix<f64>, same: bool) -> Vec<f64> {
    let d = x.dimensions() as f64;
    let columns = blocks(y.count(), BLOCK);
    let pairs: Vec<_> = blocks(x.count(), BLOCK)
        .into_iter()
        .flat_map(|a| columns.iter().map(move |b| (a, *b)))
        .filter(|(a, b)| !same || a <= b)
        .collect();
    let parts: Vec<Vec<f64>> = pairs
        .into_par_iter()
        .map(|((i, rows), (j, columns))| {
            let mut k = x.0.columns(i, rows).transpose() * y.0.columns(j, columns);
            k.apply(|k| *k = (*k / d + 1.0).powi(3));
            if same && i == j {
                k.fill_diagonal(0.0);
            }
            let kv = k * v.rows(j, columns);
            // The mirrored block has the same sum.
            let twice = if same && i != j { 2.0 } else { 1.0 };
            let dot = |r: usize| twice * w.view((i, r), (rows, 1)).dot(&kv.column(r));
            (0..w.ncols()).map(dot).collect()
        })
        .collect();
    (0..w.ncols()).map(|r| parts.iter().map(|part| part[r]).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// x = 1, 2 and y = 0, 3 with D = 1: k(1, 2) = 27, k(0, 3) = 1, and k(1, 0) + k(1, 3) + k(2, 0) + k(2, 3) = 1 + 64
    /// + 1 + 343.
    #[test]
    fn by_hand() -> Result<()> {
        let set = |x: [f64; 2]| Features::new("", "", &Tensor::new(&x, &Device::Cpu)?.reshape((2, 1))?);
        let ones = DMatrix::repeat(2, 1, 1.0);
        let got = distances(&set([1.0, 2.0])?, &ones, &set([0.0, 3.0])?, &ones);
        assert!((got[0] - (27.0 + 1.0 - 2.0 * 409.0 / 4.0)).abs() < 1e-12, "{got:?}");
        Ok(())
    }

    /// More than one block, compared with the sum over all pairs, with repeated draws.
    #[test]
    fn blocks_add_up() -> Result<()> {
        let mut rng = Rng::new(1);
        let set = |rng: &mut Rng, n| Features::new("", "", &rng.randn((n, 3), &Device::Cpu)?);
        let (x, y) = (set(&mut rng, BLOCK + 70)?, set(&mut rng, 2 * BLOCK + 1)?);
        let (w, v) = (counts(x.count(), 1, &mut rng), counts(y.count(), 1, &mut rng));
        let got = distances(&x, &w, &y, &v);
        for (r, got) in got.into_iter().enumerate() {
            let k = |a: &Features, i: usize, b: &Features, j: usize| {
                (a.0.column(i).dot(&b.0.column(j)) / 3.0 + 1.0).powi(3)
            };
            let mean = |a: &Features, w: &DMatrix<f64>, b: &Features, v: &DMatrix<f64>, same: bool| {
                let (mut sum, mut weight) = (0.0, 0.0);
                for i in 0..a.count() {
                    for j in (0..b.count()).filter(|j| !same || *j != i) {
                        sum += w[(i, r)] * v[(j, r)] * k(a, i, b, j);
                        weight += w[(i, r)] * v[(j, r)];
                    }
                }
                sum / weight
            };
            let want = mean(&x, &w, &x, &w, true) + mean(&y, &v, &y, &v, true) - 2.0 * mean(&x, &w, &y, &v, false);
            assert!((got - want).abs() < 1e-10, "{r}: {got} {want}");
        }
        Ok(())
    }

    #[test]
    fn equal_sets_are_near_zero_and_different_ones_are_not() -> Result<()> {
        let mut rng = Rng::new(1);
        let real = rng.randn((900, 4), &Device::Cpu)?;
        let same = rng.randn((300, 4), &Device::Cpu)?;
        let it = kernel_distance(&real, &same, &mut rng)?;
        assert!(it.interval.0 < 0.0 && 0.0 < it.interval.1, "{it}");
        assert!(it.interval.1 - it.interval.0 < 0.2, "{it}");
        let it = kernel_distance(&real, &(same + 1.0)?, &mut rng)?;
        assert!(it.interval.0 > 10.0 * it.real.value.abs(), "{it}");
        assert_eq!((it.real.real_images, it.real.samples), (600, 300));
        Ok(())
    }
}
