//! The bootstrap: how much a value would vary with other images of the same kind.

use diffusion_ops::rng::Rng;
use rayon::prelude::*;

/// The number of bootstrap resamples.
pub(super) const REPEATS: usize = 200;

/// Draws `n` of the numbers 0 … n−1 with replacement.
pub(super) fn redraw(n: usize, rng: &mut Rng) -> Vec<usize> {
    (0..n).map(|_| rng.below(n)).collect()
}

/// Repeats a measurement with independent random numbers, on all threads; the result does not depend on their number.
pub(super) fn repeat(rng: &mut Rng, measure: impl Fn(&mut Rng) -> f64 + Sync) -> Vec<f64> {
    let own = Rng::new(rng.below(usize::MAX) as u64);
    let repeats = (1..=REPEATS as u64).into_par_iter();
    repeats.map(|i| measure(&mut own.fork(i))).collect()
}

/// The middle 95 % of the repetitions, shifted so that their mean is `value`.
pub(super) fn interval(value: f64, mut repetitions: Vec<f64>) -> (f64, f64) {
    repetitions.sort_by(f64::total_cmp);
    let last = repetitions.len() - 1;
    let mean = repetitions.iter().sum::<f64>() / repetitions.len() as f64;
    let quantile = |q: f64| {
        let at = q * last as f64;
        let (below, above) = (repetitions[at.floor() as usize], repetitions[at.ceil() as usize]);
        below + (above - below) * at.fract()
    };
    (value + quantile(0.025) - mean, value + quantile(0.975) - mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean of 400 standard normal numbers has the standard error 1/20.
    #[test]
    fn the_interval_of_a_mean_is_the_known_one() {
        let mut rng = Rng::new(3);
        let x: Vec<f64> = (0..400).map(|_| rng.normal()).collect();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let again = repeat(&mut rng, |rng| mean(&redraw(x.len(), rng).into_iter().map(|i| x[i]).collect::<Vec<_>>()));
        let (low, high) = interval(7.0, again);
        let half = 1.96 / 20.0;
        assert!((low - (7.0 - half)).abs() < 0.2 * half, "{low}");
        assert!((high - (7.0 + half)).abs() < 0.2 * half, "{high}");
    }

    #[test]
    fn the_seed_determines_the_result() {
        let run = |seed| repeat(&mut Rng::new(seed), |rng| rng.uniform());
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
