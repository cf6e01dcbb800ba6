//! The nearest training images of samples.

use super::features::{Features, blocks, squared_distances};
use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

const NAME: &str = "nearest";

/// The number of training images that are converted to f64 at once.
const BLOCK: usize = 1024;

/// A training image close to a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// The index of the training image.
    pub index: usize,
    /// The Euclidean distance to the sample. Divided by the square root of the number of elements, it is the root mean
    /// square difference.
    pub distance: f64,
}

/// Finds the `k` nearest training images of each sample, the nearest first, to check for memorised images.
///
/// Compare in pixels or in features: in pixels, a copy translated by one pixel is far away. Exact copies have distance
/// 0. To judge other distances, compare them with those of held-out images.
///
/// # Shapes
/// `samples` (M, …) and `train` (N, …) with images of the same shape, N at least `k`; the result has M rows of `k`.
///
/// # Errors
/// The shapes do not match, `k` = 0, or values are not finite.
///
/// ```
/// use diffusion_core::{candle::{Device, Tensor}, metrics::nearest};
/// let train = Tensor::new(&[[0f32, 0.0], [3.0, 4.0], [6.0, 8.0]], &Device::Cpu)?;
/// let near = nearest(&Tensor::new(&[[0f32, 0.5]], &Device::Cpu)?, &train, 2)?;
/// assert_eq!((near[0][0].index, near[0][0].distance), (0, 0.5));
/// assert_eq!(near[0][1].index, 1);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn nearest(samples: &Tensor, train: &Tensor, k: usize) -> Result<Vec<Vec<Neighbour>>> {
    let (a, b) = (samples.dims(), train.dims());
    if a.len() < 2 || a.len() != b.len() || a[1..] != b[1..] {
        bail!(
            "{NAME}: samples have shape {a:?} and training images {b:?}; they must be equal except for the first \
             dimension"
        )
    }
    ensure!((1..=b[0]).contains(&k), "{NAME}: k = {k} must be in 1 … {}, the number of training images", b[0]);
    let set = |name, x: &Tensor| Features::new(NAME, name, &x.flatten_from(1)?);
    let samples = set("samples", samples)?;
    let mut best: Vec<Vec<Neighbour>> = vec![Vec::new(); samples.count()];
    for (start, len) in blocks(b[0], BLOCK) {
        let some = set("train", &train.narrow(0, start, len)?)?;
        best.par_chunks_mut(BLOCK).enumerate().for_each(|(chunk, best)| {
            let mine = samples.0.columns(chunk * BLOCK, best.len()).into_owned();
            let d = squared_distances(&some.0, &mine);
            for (i, best) in best.iter_mut().enumerate() {
                for (j, d) in d.column(i).iter().enumerate() {
                    if best.len() == k && *d >= best[k - 1].distance {
                        continue;
                    }
                    best.truncate(k - 1);
                    let at = best.partition_point(|near| near.distance <= *d);
                    let index = start + j;
                    best.insert(at, Neighbour { index, distance: *d });
                }
            }
        });
    }
    for (i, best) in best.iter_mut().enumerate() {
        for near in best.iter_mut() {
            // The expansion ‖x‖² + ‖y‖² − 2 x·y is inaccurate if x and y are nearly equal.
            let image = set("train", &train.narrow(0, near.index, 1)?)?;
            near.distance = (samples.0.column(i) - image.0.column(0)).norm();
        }
        best.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use diffusion_ops::rng::Rng;

    #[test]
    fn it_agrees_with_an_exhaustive_search() -> Result<()> {
        let mut rng = Rng::new(1);
        let train = rng.randn((BLOCK + 300, 1, 2, 3), &Device::Cpu)?;
        let other = rng.randn((40, 1, 2, 3), &Device::Cpu)?;
        // The last sample is a copy.
        let samples = Tensor::cat(&[&other, &train.narrow(0, BLOCK + 7, 1)?], 0)?;
        let near = nearest(&samples, &train, 3)?;
        let numbers = |x: &Tensor| -> Result<Vec<Vec<f32>>> { Ok(x.flatten_from(1)?.to_vec2()?) };
        let (a, b) = (numbers(&samples)?, numbers(&train)?);
        for (a, near) in a.iter().zip(&near) {
            let distance = |b: &Vec<f32>| {
                let squares = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
                squares.sum::<f64>().sqrt()
            };
            let mut all: Vec<(f64, usize)> = b.iter().map(distance).zip(0..).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            for (near, (distance, index)) in near.iter().zip(&all) {
                assert_eq!(near.index, *index);
                assert!((near.distance - distance).abs() < 1e-12);
            }
            assert_eq!(near.len(), 3);
        }
        let copy = &near[40][0];
        assert_eq!((copy.index, copy.distance), (BLOCK + 7, 0.0));
        Ok(())
    }

    #[test]
    fn errors_name_wrong_arguments() -> Result<()> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let fail = |a: &[usize], b: &[usize], k| -> Result<String> {
            Ok(nearest(&zeros(a)?, &zeros(b)?, k).unwrap_err().to_string())
        };
        for (message, wants) in [
            (fail(&[2, 3], &[2, 4], 1)?, "samples have shape [2, 3] and training images [2, 4]"),
            (fail(&[2], &[2], 1)?, "samples have shape [2]"),
            (fail(&[2, 3], &[5, 3], 6)?, "k = 6 must be in 1 … 5"),
            (fail(&[2, 3], &[5, 3], 0)?, "k = 0"),
            (fail(&[0, 3], &[5, 3], 1)?, "is empty"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
