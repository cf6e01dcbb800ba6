//! A noise level: how much of a noisy image is signal, and how much is noise.
//!
//! Every noise process of this crate mixes an image with Gaussian noise, x = signal·x_0 + noise·ε. They differ in the
//! levels they go through, and in what they call the time:
//!
//! | process | signal | noise |
//! |---|---|---|
//! | variance preserving (DDPM) | √ᾱ_t | √(1−ᾱ_t) |
//! | flow matching | 1 − t | t |
//! | variance exploding (EDM) | 1 | σ |
//!
//! Two numbers are enough for training targets, samplers and guidance, so these are written once, for all three.

use candle_core::{Result, Tensor, bail};

/// The two factors of x = signal·x_0 + noise·ε.
///
/// ```
/// use diffusion_core::level::Level;
/// let level = Level { signal: 0.6, noise: 0.8 };
/// assert!((level.snr() - 0.5625).abs() < 1e-12 && (level.sigma() - 4.0 / 3.0).abs() < 1e-12);
/// assert_eq!(Level::from_alpha_bar(0.36), Level { signal: 0.6, noise: 0.8 });
/// assert_eq!(Level::CLEAN.lambda(), f64::INFINITY);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// The factor of the clean image x_0; not negative.
    pub signal: f64,
    /// The standard deviation of the noise; not negative.
    pub noise: f64,
}

impl Level {
    /// The clean image: signal 1, noise 0.
    pub const CLEAN: Self = Self { signal: 1.0, noise: 0.0 };

    /// The variance-preserving level with signal √ᾱ and noise √(1−ᾱ), for ᾱ in \[0, 1\].
    pub fn from_alpha_bar(alpha_bar: f64) -> Self {
        Self { signal: alpha_bar.sqrt(), noise: (1.0 - alpha_bar).sqrt() }
    }

    /// The signal-to-noise ratio signal²/noise², a ratio of powers; infinite at [`Level::CLEAN`].
    pub fn snr(self) -> f64 {
        (self.signal / self.noise).powi(2)
    }

    /// λ = ln(signal/noise), half the logarithm of the SNR: the time of DPM-Solver++.
    pub fn lambda(self) -> f64 {
        (self.signal / self.noise).ln()
    }

    /// σ = noise/signal, the noise level of EDM once the image is divided by the signal.
    pub fn sigma(self) -> f64 {
        self.noise / self.signal
    }

    /// The variance of x, signal² + noise², for data of unit variance. It is exactly 1 where it differs from 1 by rounding alone.
    pub fn total_variance(self) -> f64 {
        let total = self.signal * self.signal + self.noise * self.noise;
        if (total - 1.0).abs() < 1e-9 { 1.0 } else { total }
    }

    /// The factor signal_t/signal_s of x_s in q(x_t | x_s), where `self` is the level of t and `from` the cleaner one of s.
    pub fn transition_signal(self, from: Self) -> f64 {
        self.signal / from.signal
    }

    /// The variance of q(x_t | x_s), where `self` is the level of t and `from` the cleaner one of s:
    ///
    /// σ²(t|s) = noise_t² − (signal_t/signal_s)² noise_s² ([Kingma et al. 2021](https://arxiv.org/abs/2107.00630), equation 23).
    /// In the variance-preserving process it is 1 − ᾱ_t/ᾱ_s. It is 0 where `from` is not cleaner.
    ///
    /// ```
    /// use diffusion_core::level::Level;
    /// let (s, t) = (Level::from_alpha_bar(0.8), Level::from_alpha_bar(0.2));
    /// assert!((t.transition_variance(s) - 0.75).abs() < 1e-12);
    /// assert_eq!(s.transition_variance(t), 0.0);
    /// ```
    pub fn transition_variance(self, from: Self) -> f64 {
        let kept = self.transition_signal(from) * from.noise;
        (self.noise * self.noise - kept * kept).max(0.0)
    }

    /// The Gaussian q(x_s | x_t, x_0), where `self` is the level of t and `to` the cleaner one of s. By Bayes' rule its mean is
    ///
    /// signal_s σ²(t|s)/noise_t² x_0 + (signal_t/signal_s) noise_s²/noise_t² x_t,
    ///
    /// and its variance σ²(t|s) noise_s²/noise_t² ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), equations 6 and 7).
    pub fn posterior(self, to: Self) -> Posterior {
        let (added, ratio) = (self.transition_variance(to), (to.noise / self.noise).powi(2));
        Posterior {
            of_x0: to.signal * added / (self.noise * self.noise),
            of_xt: self.transition_signal(to) * ratio,
            variance: added * ratio,
        }
    }
}

/// q(x_s | x_t, x_0) for two levels, from [`Level::posterior`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// The factor of x_0 in the mean.
    pub of_x0: f64,
    /// The factor of x_t in the mean.
    pub of_xt: f64,
    /// The variance.
    pub variance: f64,
}

/// x = signal·x_0 + noise·ε, each image at its own level.
///
/// # Shapes
/// `x0` and `eps` (B, …), any rank with the batch first; `levels` one for each image; the result is as `x0`.
///
/// # Errors
/// `eps` does not have the shape of `x0`, or `levels` does not have one entry for each image.
///
/// ```
/// use diffusion_core::{candle::{Device, Tensor}, level::{Level, perturb}};
/// let (x0, eps) = (Tensor::new(&[1f64, 1.0], &Device::Cpu)?, Tensor::new(&[2f64, 2.0], &Device::Cpu)?);
/// let xt = perturb(&x0, &[Level::CLEAN, Level { signal: 0.5, noise: 0.25 }], &eps)?;
/// assert_eq!(xt.to_vec1::<f64>()?, [1.0, 1.0]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn perturb(x0: &Tensor, levels: &[Level], eps: &Tensor) -> Result<Tensor> {
    combine("perturb", ("x0", x0), ("eps", eps), levels, |l| (l.signal, l.noise))
}

/// p·a + q·b, with coefficients (p, q) that follow from each image's entry of `at`.
pub(crate) fn combine<T>(
    op: &str,
    (name_a, a): (&str, &Tensor),
    (name_b, b): (&str, &Tensor),
    at: &[T],
    coefficients: impl Fn(&T) -> (f64, f64),
) -> Result<Tensor> {
    if a.dims() != b.dims() {
        bail!("{op}: {name_a} has shape {:?} and {name_b} {:?}; they must be equal", a.dims(), b.dims())
    }
    check_batch(op, "levels", at.len(), (name_a, a))?;
    let (p, q): (Vec<f64>, Vec<f64>) = at.iter().map(coefficients).unzip();
    match (scaled(a, p)?, scaled(b, q)?) {
        (Some(a), Some(b)) => a + b,
        (Some(sum), None) | (None, Some(sum)) => Ok(sum),
        (None, None) => a.zeros_like(),
    }
}

/// An error unless there are as many `what` as images in the batch.
pub(crate) fn check_batch(op: &str, what: &str, n: usize, (name, images): (&str, &Tensor)) -> Result<()> {
    let batch = images.dims().first().copied().unwrap_or(0);
    if n != batch {
        bail!(
            "{op}: {what} has {n} entries, but {name} of shape {:?} holds {batch} images; give one per image",
            images.dims()
        )
    }
    Ok(())
}

/// Each image times its own factor, in the type of `x`; `None` if all factors are 0.
pub(crate) fn scaled(x: &Tensor, by: Vec<f64>) -> Result<Option<Tensor>> {
    if by.iter().all(|c| *c == 0.0) {
        return Ok(None);
    }
    if by.iter().all(|c| *c == 1.0) {
        return Ok(Some(x.clone()));
    }
    let mut shape = vec![1; x.rank()];
    shape[0] = by.len();
    let by = Tensor::from_vec(by, shape, x.device())?.to_dtype(x.dtype())?;
    x.broadcast_mul(&by).map(Some)
}
