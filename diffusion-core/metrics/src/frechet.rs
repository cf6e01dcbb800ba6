//! The Fréchet distance between Gaussians fitted to two sets of features.

use super::bootstrap::{interval, redraw, repeat};
use super::features::Features;
use super::{Estimate, Reference, SPLITS};
use anyhow::{Result, ensure};
use candle_core::Tensor;
use diffusion_ops::rng::Rng;
use nalgebra::{DMatrix, DVector, SymmetricEigen};

const NAME: &str = "Fréchet distance";

/// Up to this number of features, a matrix square root is fast enough to compute hundreds of them.
const FEW: usize = 256;

/// A multivariate normal distribution, in f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Gaussian {
    mean: DVector<f64>,
    covariance: DMatrix<f64>,
}

impl Gaussian {
    /// Fits a Gaussian with the mean and the unbiased covariance (N − 1 in the denominator) of N feature vectors.
    ///
    /// # Shapes
    /// `features` (N, D), N at least 2.
    ///
    /// # Errors
    /// The shapes do not match, or values are not finite.
    pub fn fit(features: &Tensor) -> Result<Self> {
        let features = Features::new("gaussian", "features", features)?;
        ensure!(features.count() >= 2, "gaussian: the covariance needs at least 2 images");
        Ok(Self::of(&features))
    }

    fn of(features: &Features) -> Self {
        let mean = features.0.column_mean();
        let mut x = features.0.clone();
        for mut column in x.column_iter_mut() {
            column -= &mean;
        }
        let covariance = (&x * x.transpose()) / (features.count() as f64 - 1.0);
        Self { mean, covariance }
    }

    /// The squared Fréchet distance to another Gaussian
    /// ([Dowson & Landau 1982](https://doi.org/10.1016/0047-259X(82)90077-X)), see [`frechet_distance`]; ≥ 0 up to
    /// rounding.
    ///
    /// # Errors
    /// The dimensions differ.
    pub fn frechet(&self, other: &Self) -> Result<f64> {
        ensure!(
            self.mean.len() == other.mean.len(),
            "{NAME}: the Gaussians have {} and {} dimensions; they must be equal",
            self.mean.len(),
            other.mean.len()
        );
        Ok(self.distance(other))
    }

    fn distance(&self, other: &Self) -> f64 {
        // √(S₁S₂) has the same trace as √(√S₁ S₂ √S₁), which is symmetric.
        let root = root(&self.covariance);
        let inner = &root * &other.covariance * &root;
        let inner = (&inner + inner.transpose()) * 0.5;
        let cross: f64 = inner.symmetric_eigenvalues().iter().map(|x| x.max(0.0).sqrt()).sum();
        let means = (&self.mean - &other.mean).norm_squared();
        means + self.covariance.trace() + other.covariance.trace() - 2.0 * cross
    }
}

/// The symmetric square root. Eigenvalues that are negative by rounding count as 0.
fn root(covariance: &DMatrix<f64>) -> DMatrix<f64> {
    of_eigenvalues(covariance, |value, _| value.max(0.0).sqrt())
}

/// Applies `f` to each eigenvalue of a symmetric matrix; the second argument of `f` is the largest eigenvalue.
fn of_eigenvalues(x: &DMatrix<f64>, f: impl Fn(f64, f64) -> f64) -> DMatrix<f64> {
    let SymmetricEigen { eigenvectors: q, eigenvalues } = SymmetricEigen::new(x.clone());
    let (mut scaled, largest) = (q.clone(), eigenvalues.max());
    for (mut column, value) in scaled.column_iter_mut().zip(eigenvalues.iter()) {
        column *= f(*value, largest);
    }
    scaled * q.transpose()
}

/// The influence of each image of `y` on the distance of the Gaussians, to first order; the mean over all images is 0.
///
/// The derivative of the distance is 2 (μ_y − μ_x) with respect to the mean of y and 1 − T with respect to its
/// covariance, where T = √S_x (√S_x S_y √S_x)^−½ √S_x is the map that transports one Gaussian to the other.
fn influence(x: &Features, y: &Features) -> Vec<f64> {
    let (a, b) = (Gaussian::of(x), Gaussian::of(y));
    let root = root(&a.covariance);
    let inner = &root * &b.covariance * &root;
    let inner = (&inner + inner.transpose()) * 0.5;
    let inverse = of_eigenvalues(&inner, |value, largest| match value > 1e-12 * largest {
        true => value.powf(-0.5),
        false => 0.0,
    });
    let slope = DMatrix::identity(root.nrows(), root.nrows()) - &root * inverse * &root;
    let mut centred = y.0.clone();
    for mut column in centred.column_iter_mut() {
        column -= &b.mean;
    }
    let (turned, apart) = (slope * &centred, (&b.mean - &a.mean) * 2.0);
    let of = centred.column_iter().zip(turned.column_iter());
    let mut moves: Vec<f64> = of.map(|(c, t)| apart.dot(&c) + c.dot(&t)).collect();
    let mean = moves.iter().sum::<f64>() / moves.len() as f64;
    moves.iter_mut().for_each(|x| *x -= mean);
    moves
}

/// The Fréchet distance between the features of samples and of real images: for Gaussians with means μ and covariances
/// S,
///
/// d² = ‖μ₁ − μ₂‖² + Tr(S₁ + S₂ − 2 (S₁S₂)^½),
///
/// ([Heusel et al. 2017](https://arxiv.org/abs/1706.08500), equation 6; with Inception features it is the FID). It is 0
/// for equal means and covariances and has no upper bound. As in the literature, the squared distance is reported. With
/// few images it is larger, so compare it with [`Estimate::real`], and compare only values for the same numbers of
/// images.
///
/// # Shapes
/// `real` (N, D), N at least 4, and `samples` (M, D), M at least 2. If a part has fewer than D + 1 images, its
/// covariance is singular, and [`Estimate::doubt`] says so.
///
/// With more than 256 features, [`Estimate::interval`] assumes that the distance is linear in the weights of the
/// images, since 200 matrix square roots would take hours. Near the baseline that interval is too short.
///
/// # Errors
/// The shapes do not match, or a value is not finite: the message names the row.
pub fn frechet_distance(real: &Tensor, samples: &Tensor, rng: &mut Rng) -> Result<Estimate> {
    let [real, samples] = Features::pair(NAME, real, samples, 2)?;
    let between = |a: &Features, b: &Features| Gaussian::of(a).distance(&Gaussian::of(b)).max(0.0);
    let value = between(&real, &samples);
    let splits = if real.dimensions() > FEW { 1 } else { SPLITS };
    let (mut floor, mut parts) = (0.0, Vec::new());
    for _ in 0..splits {
        parts = real.parts(samples.count(), rng).into();
        floor += between(&parts[0], &parts[1]) / splits as f64;
    }
    let (rest, part) = (&parts[0], &parts[1]);
    let again = match real.dimensions() > FEW {
        false => repeat(rng, |rng| {
            let mut redrawn = |x: &Features| x.select(&redraw(x.count(), rng));
            between(&redrawn(&real), &redrawn(&samples))
        }),
        true => {
            let moves = [influence(&real, &samples), influence(&samples, &real)];
            linear(value, &moves, rng)
        }
    };
    let (low, high) = interval(value, again);
    Ok(Estimate {
        name: NAME,
        value,
        interval: (low.max(0.0), high),
        real_images: real.count(),
        samples: samples.count(),
        real: Reference { value: floor, real_images: rest.count(), samples: part.count() },
        doubt: doubt(&[&real, &samples, rest, part]),
    })
}

/// Bootstrap resamples of the value, if each image contributes its entry of `moves`.
fn linear(value: f64, moves: &[Vec<f64>], rng: &mut Rng) -> Vec<f64> {
    repeat(rng, |rng| {
        let mean = |x: &Vec<f64>| {
            let drawn = redraw(x.len(), rng).into_iter();
            drawn.map(|i| x[i]).sum::<f64>() / x.len() as f64
        };
        value + moves.iter().map(mean).sum::<f64>()
    })
}

fn doubt(sets: &[&Features]) -> Option<String> {
    let needed = sets[0].dimensions() + 1;
    let fewest = sets.iter().map(|set| set.count()).min()?;
    (fewest < needed).then(|| {
        format!(
            "unreliable: the covariance of {fewest} images with {} features is singular; at least {needed} images are \
             needed",
            needed - 1
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn gaussian(mean: &[f64], covariance: &[f64]) -> Gaussian {
        let d = mean.len();
        Gaussian { mean: DVector::from_row_slice(mean), covariance: DMatrix::from_row_slice(d, d, covariance) }
    }

    /// Covariances that commute: the sum of the squared differences of the standard deviations; and a pair that does
    /// not, for which Tr √M = √(Tr M + 2 √det M) (2×2 matrices).
    #[test]
    fn gaussians_whose_distance_is_known() -> Result<()> {
        let a = gaussian(&[0.0, 0.0, 0.0], &[1.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 9.0]);
        let b = gaussian(&[1.0, 2.0, -2.0], &[4.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 25.0]);
        assert!((a.frechet(&b)? - (9.0 + 1.0 + 0.0 + 4.0)).abs() < 1e-12);
        assert!(a.frechet(&a)?.abs() < 1e-12);
        let a = gaussian(&[0.0, 0.0], &[2.0, 1.0, 1.0, 2.0]);
        let b = gaussian(&[0.0, 1.0], &[3.0, -1.0, -1.0, 1.0]);
        // S₁S₂ = [[5, −1], [1, 1]]: trace 6, determinant 6.
        let want = 1.0 + 4.0 + 4.0 - 2.0 * (6.0 + 2.0 * 6f64.sqrt()).sqrt();
        assert!((a.frechet(&b)? - want).abs() < 1e-12);
        assert!((b.frechet(&a)? - want).abs() < 1e-12);
        // A singular covariance: the second coordinate is constant.
        let flat = gaussian(&[0.0, 0.0], &[1.0, 0.0, 0.0, 0.0]);
        let round = gaussian(&[0.0, 0.0], &[1.0, 0.0, 0.0, 1.0]);
        assert!((flat.frechet(&round)? - 1.0).abs() < 1e-12);
        assert!(flat.frechet(&gaussian(&[0.0], &[1.0])).is_err());
        Ok(())
    }

    #[test]
    fn the_estimate_has_counts_interval_and_baseline() -> Result<()> {
        let mut rng = Rng::new(1);
        let real = rng.randn((2000, 5), &Device::Cpu)?;
        let samples = ((rng.randn((500, 5), &Device::Cpu)? * 2.0)? + 1.0)?;
        let it = frechet_distance(&real, &samples, &mut rng)?;
        // 5 (1² + (2 − 1)²) = 10.
        assert!(it.interval.0 < 10.0 && 10.0 < it.interval.1, "{it}");
        assert!(it.interval.1 - it.interval.0 < 3.0, "{it}");
        assert_eq!((it.real_images, it.samples, it.real.real_images, it.real.samples), (2000, 500, 1500, 500));
        assert!(it.real.value > 0.0 && it.real.value < 0.1 && it.doubt.is_none(), "{it}");
        assert_eq!(
            it,
            frechet_distance(&real, &samples, &mut {
                let mut rng = Rng::new(1);
                rng.randn((2000, 5), &Device::Cpu)?;
                rng.randn((500, 5), &Device::Cpu)?;
                rng
            })?
        );
        Ok(())
    }

    #[test]
    fn too_few_images_are_reported() -> Result<()> {
        let mut rng = Rng::new(1);
        let real = rng.randn((20, 10), &Device::Cpu)?;
        let it = frechet_distance(&real, &real, &mut rng)?;
        let said = it.to_string();
        assert!(said.contains("the covariance of 10 images with 10 features is singular; at least 11"), "{said}");
        let more = rng.randn((22, 10), &Device::Cpu)?;
        assert!(frechet_distance(&more, &real, &mut rng)?.doubt.is_none());
        let one = Tensor::zeros((1, 10), DType::F32, &Device::Cpu)?;
        assert!(frechet_distance(&real, &one, &mut rng).is_err());
        assert!(Gaussian::fit(&one).is_err());
        Ok(())
    }

    /// The linear resamples have the spread of the exact ones where the distance is well above 0.
    #[test]
    fn linear_resamples_agree_with_exact_ones() -> Result<()> {
        let mut rng = Rng::new(5);
        let real = Features::new("", "", &rng.randn((600, 3), &Device::Cpu)?)?;
        let wide = ((rng.randn((400, 3), &Device::Cpu)? * 1.7)? + 0.4)?;
        let samples = Features::new("", "", &wide)?;
        let between = |a: &Features, b: &Features| Gaussian::of(a).distance(&Gaussian::of(b));
        let value = between(&real, &samples);
        let exact = repeat(&mut rng, |rng| {
            let mut redrawn = |x: &Features| x.select(&redraw(x.count(), rng));
            between(&redrawn(&real), &redrawn(&samples))
        });
        let moves = [influence(&real, &samples), influence(&samples, &real)];
        let spread = |(low, high): (f64, f64)| high - low;
        let exact = spread(interval(value, exact));
        let fast = spread(interval(value, linear(value, &moves, &mut rng)));
        assert!((fast / exact - 1.0).abs() < 0.25, "{fast} {exact}");
        Ok(())
    }
}
