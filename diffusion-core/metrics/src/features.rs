//! Validated sets of features.

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use diffusion_ops::rng::Rng;
use nalgebra::DMatrix;

/// N images with D features each, in f64, one column per image.
#[derive(Clone, Debug)]
pub(super) struct Features(pub(super) DMatrix<f64>);

impl Features {
    /// Validates a tensor (N, D). `what` starts the error message, `name` tells which of two sets it is.
    pub(super) fn new(what: &str, name: &str, x: &Tensor) -> Result<Self> {
        let [n, d] = *x.dims() else {
            bail!("{what}: {name} has shape {:?}; it must be (N, D), D features of N images", x.dims())
        };
        ensure!(n > 0 && d > 0, "{what}: {name} has shape {:?} and is empty", x.dims());
        let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let values = x.flatten_all()?.to_vec1::<f64>()?;
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            bail!(
                "{what}: {name} has {} in row {}; leave out images whose features are not finite, and report how many \
                 there were",
                values[at],
                at / d
            )
        }
        // A row of the tensor becomes a column of the matrix; both are contiguous in memory.
        Ok(Self(DMatrix::from_vec(d, n, values)))
    }

    /// Validates real images and samples; each of the [`Features::parts`] of the real images has at least `least`
    /// images.
    pub(super) fn pair(what: &str, real: &Tensor, samples: &Tensor, least: usize) -> Result<[Self; 2]> {
        let real = Self::new(what, "real", real)?;
        let samples = Self::new(what, "samples", samples)?;
        ensure!(
            real.dimensions() == samples.dimensions(),
            "{what}: real has {} features per image and samples {}; they must be features of the same kind",
            real.dimensions(),
            samples.dimensions()
        );
        ensure!(
            samples.count() >= least && real.count() >= 2 * least,
            "{what}: there are {} samples and {} real images; at least {least} and {} are needed, twice as many real \
             ones to compare them with each other",
            samples.count(),
            real.count(),
            2 * least
        );
        Ok([real, samples])
    }

    /// The number of images N.
    pub(super) fn count(&self) -> usize {
        self.0.ncols()
    }

    /// The number of features D.
    pub(super) fn dimensions(&self) -> usize {
        self.0.nrows()
    }

    pub(super) fn select(&self, indices: &[usize]) -> Self {
        Self(self.0.select_columns(indices))
    }

    /// Splits the images at random into two disjoint parts; the second has `samples` images, or half of them if there
    /// are fewer.
    pub(super) fn parts(&self, samples: usize, rng: &mut Rng) -> [Self; 2] {
        let [rest, part] = split(self.count(), samples, rng);
        [self.select(&rest), self.select(&part)]
    }
}

/// Splits the numbers 0 … n−1 at random into two parts; the second has `samples` of them, or half if that is less.
pub(super) fn split(n: usize, samples: usize, rng: &mut Rng) -> [Vec<usize>; 2] {
    let mut order = rng.permutation(n);
    let part = order.split_off(n - samples.min(n / 2));
    [order, part]
}

/// The squared Euclidean distances between the columns of two matrices: (columns of a) × (columns of b).
pub(super) fn squared_distances(a: &DMatrix<f64>, b: &DMatrix<f64>) -> DMatrix<f64> {
    let norms = |x: &DMatrix<f64>| x.column_iter().map(|x| x.norm_squared()).collect::<Vec<_>>();
    let (a2, b2) = (norms(a), norms(b));
    let mut product = a.transpose() * b;
    for (mut column, b2) in product.column_iter_mut().zip(b2) {
        for (x, a2) in column.iter_mut().zip(&a2) {
            *x = (a2 + b2 - 2.0 * *x).max(0.0);
        }
    }
    product
}

/// Splits 0 … n−1 into blocks of this many columns: start and length.
pub(super) fn blocks(n: usize, size: usize) -> Vec<(usize, usize)> {
    (0..n).step_by(size).map(|start| (start, size.min(n - start))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_wrong_set() -> Result<()> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let fail = |a: &[usize], b: &[usize]| -> Result<String> {
            Ok(Features::pair("x", &zeros(a)?, &zeros(b)?, 2).unwrap_err().to_string())
        };
        for (message, wants) in [
            (fail(&[4, 2, 1], &[4, 2])?, "x: real has shape [4, 2, 1]; it must be (N, D)"),
            (fail(&[4, 2], &[0, 2])?, "samples has shape [0, 2]"),
            (fail(&[4, 2], &[4, 3])?, "real has 2 features per image and samples 3"),
            (fail(&[3, 2], &[4, 2])?, "4 samples and 3 real images; at least 2 and 4"),
            (fail(&[4, 2], &[1, 2])?, "1 samples and 4 real images"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        let nan = Tensor::new(&[[1f32, 2.0], [f32::NAN, 0.0]], &Device::Cpu)?;
        let message = Features::new("x", "real", &nan).unwrap_err().to_string();
        assert!(message.contains("real has NaN in row 1"), "{message}");
        Ok(())
    }

    #[test]
    fn parts_have_no_common_image() {
        for (n, samples, want) in [(10, 3, [7, 3]), (10, 100, [5, 5]), (9, 9, [5, 4])] {
            let [a, b] = split(n, samples, &mut Rng::new(1));
            assert_eq!([a.len(), b.len()], want);
            let mut all = [a, b].concat();
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn distances_are_between_columns() {
        let a = DMatrix::from_vec(2, 2, vec![0.0, 0.0, 3.0, 4.0]);
        let b = DMatrix::from_vec(2, 3, vec![0.0, 0.0, 3.0, 0.0, 3.0, 4.0]);
        let got = squared_distances(&a, &b);
        assert_eq!(got, DMatrix::from_row_slice(2, 3, &[0.0, 9.0, 25.0, 25.0, 16.0, 0.0]));
    }
}
