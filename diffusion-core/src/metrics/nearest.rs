//! The training images that samples are nearest to.

use super::features::{Features, blocks, squared_distances};
use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

const NAME: &str = "nearest";

/// So many training images are converted to f64 together.
const BLOCK: usize = 1024;

/// A training image near a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Which of the training images it is.
    pub index: usize,
    /// Its Euclidean distance to the sample, in the unit of the numbers. Divided by the root of how many there are per image,
    /// it is the root mean square difference.
    pub distance: f64,
}

/// For each sample its `k` nearest training images, the nearest first: whether a model copies, look at both side by side.
///
/// In pixels, or in features: in pixels a copy that is moved by one is far away. Copies have a distance of 0 exactly. What is
/// near is to be judged by how near test images are to the training images.
///
/// # Shapes
/// `samples` (M, …) and `train` (N, …) with the same shape of an image, N at least `k`; the result has M rows of `k`.
///
/// # Errors
/// Other shapes, `k` = 0, or numbers that are not finite.
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
        bail!("{NAME}: samples have shape {a:?} and training images {b:?}; they must be equal but for the first number")
    }
    ensure!((1..=b[0]).contains(&k), "{NAME}: k = {k} neighbours of {} training images were asked for", b[0]);
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
            // What is found by ‖x‖² + ‖y‖² − 2 x·y has lost digits where x and y are nearly equal.
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
    use crate::rng::Rng;
    use candle_core::{DType, Device};

    #[test]
    fn it_finds_what_a_full_search_finds() -> Result<()> {
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
    fn wrong_arguments_are_named() -> Result<()> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let fail = |a: &[usize], b: &[usize], k| -> Result<String> {
            Ok(nearest(&zeros(a)?, &zeros(b)?, k).unwrap_err().to_string())
        };
        for (message, wants) in [
            (fail(&[2, 3], &[2, 4], 1)?, "samples have shape [2, 3] and training images [2, 4]"),
            (fail(&[2], &[2], 1)?, "samples have shape [2]"),
            (fail(&[2, 3], &[5, 3], 6)?, "k = 6 neighbours of 5"),
            (fail(&[2, 3], &[5, 3], 0)?, "k = 0"),
            (fail(&[0, 3], &[5, 3], 1)?, "no numbers"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
