//! Noise levels: the factors of signal and noise in a noisy image.
//!
//! Every noise process of diffusion-core mixes an image with Gaussian noise, x = signal·x_0 + noise·ε. The processes
//! differ in the levels they pass through and in what they call time:
//!
//! | process | signal | noise |
//! |---|---|---|
//! | variance preserving (DDPM) | √ᾱ_t | √(1−ᾱ_t) |
//! | flow matching | 1 − t | t |
//! | variance exploding (EDM) | 1 | σ |
//!
//! Training targets, samplers and guidance depend on these two numbers alone, so each is written once for all three
//! processes.

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

    /// The signal-to-noise ratio (SNR) signal²/noise², a ratio of variances; infinite at [`Level::CLEAN`].
    pub fn snr(self) -> f64 {
        (self.signal / self.noise).powi(2)
    }

    /// λ = ln(signal/noise), half the logarithm of the SNR; DPM-Solver++ uses it as the time.
    pub fn lambda(self) -> f64 {
        (self.signal / self.noise).ln()
    }

    /// σ = noise/signal, the noise level of EDM after dividing the image by the signal.
    pub fn sigma(self) -> f64 {
        self.noise / self.signal
    }

    /// The variance of x for data of unit variance: signal² + noise². It is rounded to exactly 1 if it is within 10⁻⁹
    /// of 1.
    pub fn total_variance(self) -> f64 {
        let total = self.signal * self.signal + self.noise * self.noise;
        if (total - 1.0).abs() < 1e-9 { 1.0 } else { total }
    }

    /// The factor signal_t/signal_s of x_s in q(x_t | x_s); `self` is the level at t, `from` the cleaner level at s.
    pub fn transition_signal(self, from: Self) -> f64 {
        self.signal / from.signal
    }

    /// The variance of q(x_t | x_s); `self` is the level at t, `from` the cleaner level at s:
    ///
    /// σ²(t|s) = noise_t² − (signal_t/signal_s)² noise_s² ([Kingma et al. 2021](https://arxiv.org/abs/2107.00630),
    /// equation 23). For the variance-preserving process this is 1 − ᾱ_t/ᾱ_s. It is 0 if `from` is not cleaner than
    /// `self`.
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

    /// The posterior q(x_s | x_t, x_0), a Gaussian; `self` is the level at t, `to` the cleaner level at s. Its mean is
    ///
    /// signal_s σ²(t|s)/noise_t² x_0 + (signal_t/signal_s) noise_s²/noise_t² x_t,
    ///
    /// and its variance is σ²(t|s) noise_s²/noise_t², by Bayes' rule
    /// ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), equations 6 and 7).
    pub fn posterior(self, to: Self) -> Posterior {
        let (added, ratio) = (self.transition_variance(to), (to.noise / self.noise).powi(2));
        Posterior {
            of_x0: to.signal * added / (self.noise * self.noise),
            of_xt: self.transition_signal(to) * ratio,
            variance: added * ratio,
        }
    }
}

/// The posterior q(x_s | x_t, x_0) of two levels, from [`Level::posterior`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// The factor of x_0 in the mean.
    pub of_x0: f64,
    /// The factor of x_t in the mean.
    pub of_xt: f64,
    /// The variance.
    pub variance: f64,
}

/// Adds noise to images, each at its own level: x = signal·x_0 + noise·ε.
///
/// # Shapes
/// `x0` and `eps` (B, …), any rank with the batch first; `levels` one for each image; the result has the shape of `x0`.
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

/// Computes p·a + q·b, with coefficients (p, q) from each image's entry of `at`.
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

/// Checks that there are as many `what` as images in the batch.
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

/// Multiplies each image by its own factor, in the type of `x`; `None` if all factors are 0.
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
