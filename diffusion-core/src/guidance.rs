//! Guidance: the condition of a prediction and the strength of its effect. It wraps the network, so samplers need not
//! know of it.
//!
//! *Classifier-free guidance* ([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598), equation 6) evaluates a network
//! with a condition c and without it, and extrapolates from the unconditional prediction through the conditional one:
//!
//! ε̂ = ε(x_t, ∅) + w (ε(x_t, c) − ε(x_t, ∅)).
//!
//! w = 1 is the conditional prediction, w = 0 the unconditional one; w > 1 exaggerates what distinguishes the class.
//! (The paper's w is smaller by 1.) Every [prediction type](crate::prediction) is linear in ε̂, so the same formula
//! holds for all of them.
//!
//! Built from scratch in `notebooks/05_conditioning.ipynb`.

use crate::level::scaled;
use crate::unet::Condition;
use candle_core::{Result, Tensor, bail};
use std::ops::Range;

/// A condition and its guidance scale. A [`Condition`] alone becomes one with scale 1.
///
/// ```
/// use diffusion_core::{guidance::Guidance, unet::Condition};
/// let sevens = Condition::labels([7, 7]);
/// let strong = Guidance::new(sevens.clone(), 3.0);
/// let rather_not_ones = Guidance::new(sevens, 3.0).away_from(Condition::labels([1, 1]));
/// let early_only = strong.clone().during(500..1000);
/// assert!(early_only.during.contains(&999.0));
/// # let _ = rather_not_ones;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance {
    /// c, the condition; or several whose predictions are averaged, with weights that add up to 1
    pub towards: Vec<(f64, Condition)>,
    /// ∅, the condition to move away from: the null condition, or a *negative* condition.
    pub away: Condition,
    /// w, the guidance scale.
    pub scale: f64,
    /// The range of times t with guidance; at all others w = 1
    /// ([Kynkäänniemi et al. 2024](https://arxiv.org/abs/2404.07724)).
    pub during: Range<f64>,
}

impl From<Condition> for Guidance {
    fn from(condition: Condition) -> Self {
        Self::new(condition, 1.0)
    }
}

impl From<&Condition> for Guidance {
    fn from(condition: &Condition) -> Self {
        condition.clone().into()
    }
}

impl From<&Self> for Guidance {
    fn from(guidance: &Self) -> Self {
        guidance.clone()
    }
}

impl Guidance {
    /// Guides towards `condition` with scale w, away from the null condition, at all times.
    pub fn new(condition: Condition, scale: f64) -> Self {
        Self {
            towards: vec![(1.0, condition)],
            away: Condition::none(),
            scale,
            during: f64::NEG_INFINITY..f64::INFINITY,
        }
    }

    /// Interpolates between the predictions for `a` (`fraction` = 0) and `b` (`fraction` = 1), with scale 1.
    pub fn between(a: Condition, b: Condition, fraction: f64) -> Self {
        Self { towards: vec![(1.0 - fraction, a), (fraction, b)], ..Self::new(Condition::none(), 1.0) }
    }

    /// Sets a negative condition in place of the null condition.
    pub fn away_from(mut self, negative: Condition) -> Self {
        self.away = negative;
        self
    }

    /// Restricts guidance to the times in this range, of whole or real numbers.
    pub fn during<T: Into<f64>>(mut self, times: Range<T>) -> Self {
        self.during = times.start.into()..times.end.into();
        self
    }

    /// The guidance of `len` images from index `start` on.
    ///
    /// # Errors
    /// It holds fewer images.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        let part = |(w, c): &(f64, Condition)| Ok((*w, c.narrow(start, len)?));
        Ok(Self {
            towards: self.towards.iter().map(part).collect::<Result<_>>()?,
            away: self.away.narrow(start, len)?,
            ..self.clone()
        })
    }

    /// The guided prediction, with all conditions evaluated in one batch. Conditions with weight 0 are skipped.
    ///
    /// `evaluate` is the network: it receives a batch, the process's time for each image, and a condition.
    ///
    /// # Shapes
    /// `xt` (B, C, H, W); `t` B times; the result has the shape of `xt`.
    ///
    /// # Errors
    /// `evaluate` fails, the scale or a weight is not a finite number, or the weights do not add up to 1.
    pub fn predict(
        &self,
        xt: &Tensor,
        t: &[f64],
        evaluate: impl FnOnce(&Tensor, &[f64], &Condition) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.check()?;
        let n = t.len();
        let guided = |t| {
            if self.during.contains(t) { self.scale } else { 1.0 }
        };
        let scale: Vec<f64> = t.iter().map(guided).collect();
        // Each condition with its weight for each image.
        let towards = self.towards.iter().map(|(weight, condition)| {
            let weights: Vec<f64> = scale.iter().map(|w| w * weight).collect();
            (condition, weights)
        });
        let away = (&self.away, scale.iter().map(|w| 1.0 - w).collect());
        let terms: Vec<(&Condition, Vec<f64>)> =
            towards.chain([away]).filter(|(_, weights)| weights.iter().any(|w| *w != 0.0)).collect();
        if let [(condition, weights)] = &terms[..]
            && weights.iter().all(|w| *w == 1.0)
        {
            return evaluate(xt, t, condition);
        }
        let k = terms.len();
        let conditions: Vec<_> = terms.iter().map(|(c, _)| (*c, n)).collect();
        let outputs = evaluate(&Tensor::cat(&vec![xt; k], 0)?, &t.repeat(k), &Condition::cat(&conditions)?)?;
        let mut sum = xt.zeros_like()?;
        for (i, (_, weights)) in terms.into_iter().enumerate() {
            if let Some(term) = scaled(&outputs.narrow(0, i * n, n)?, weights)? {
                sum = (sum + term)?;
            }
        }
        Ok(sum)
    }

    fn check(&self) -> Result<()> {
        if !self.scale.is_finite() {
            bail!("guidance: scale = {} must be a number; 1 is the conditional network without guidance", self.scale)
        }
        let sum: f64 = self.towards.iter().map(|(weight, _)| weight).sum();
        if sum.is_nan() || (sum - 1.0).abs() > 1e-6 {
            bail!("guidance: the weights of the conditions add up to {:?}; they must add up to 1", sum + 0.0)
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::unet::{Network, SimpleUNet};
    use candle_core::Device;

    fn network() -> Result<(Network, Tensor)> {
        let small = SimpleUNet { base: 8, classes: 3, ..Default::default() };
        let (mut rng, device) = (Rng::new(5), Device::Cpu);
        let network = Network::new(small, &mut rng, &device)?;
        // At initialisation its output weights are zero, which would make all predictions equal.
        for (name, var) in network.parameters().iter() {
            if name.starts_with("conv_out") {
                var.set(&rng.randn_like(var)?)?;
            }
        }
        Ok((network, rng.randn((2, 1, 8, 8), &device)?))
    }

    /// The largest difference, relative to the largest value.
    fn apart(a: &Tensor, b: &Tensor) -> Result<f32> {
        let largest = |x: Tensor| -> Result<f32> { x.abs()?.max_all()?.to_scalar() };
        Ok(largest((a - b)?)? / largest(b.clone())?)
    }

    const TIMES: [f64; 2] = [3.0, 700.0];

    fn predicted(guidance: &Guidance, network: &Network, xt: &Tensor) -> Result<Tensor> {
        guidance.predict(xt, &TIMES, |x, t, c| network.predict(x, t, c))
    }

    #[test]
    fn the_scale_extrapolates_as_documented() -> Result<()> {
        let (network, xt) = network()?;
        let condition = Condition::labels([1, 2]);
        let with = network.predict(&xt, &TIMES, &condition)?;
        let without = network.predict(&xt, &TIMES, &Condition::none())?;
        assert!(apart(&with, &without)? > 0.01);
        for w in [-1.0, 0.0, 0.5, 1.0, 3.0] {
            let got = predicted(&Guidance::new(condition.clone(), w), &network, &xt)?;
            let want = (&without + ((&with - &without)? * w)?)?;
            assert!(apart(&got, &want)? < 1e-4, "w = {w}");
        }
        // At w = 3 the prediction lies further from the unconditional one than the conditional one does, in the same
        // direction.
        let strong = predicted(&Guidance::new(condition, 3.0), &network, &xt)?;
        let dot = ((&strong - &with)? * (&with - &without)?)?.sum_all()?;
        assert!(dot.to_scalar::<f32>()? > 0.0);
        Ok(())
    }

    #[test]
    fn negative_mixed_and_limited() -> Result<()> {
        let (network, xt) = network()?;
        let with = |labels: [usize; 2]| network.predict(&xt, &TIMES, &Condition::labels(labels));
        let (a, b) = (with([0, 1])?, with([2, 2])?);
        let (of_a, of_b) = (Condition::labels([0, 1]), Condition::labels([2, 2]));

        let away = Guidance::new(of_a.clone(), 2.0).away_from(of_b.clone());
        let want = ((&a * 2.0)? - &b)?;
        assert!(apart(&predicted(&away, &network, &xt)?, &want)? < 1e-4);

        let between = Guidance::between(of_a.clone(), of_b, 0.25);
        let want = ((&a * 0.75)? + (&b * 0.25)?)?;
        assert!(apart(&predicted(&between, &network, &xt)?, &want)? < 1e-4);

        // Only the image at t = 700 is guided.
        let late = Guidance::new(of_a, 2.0).during(500..1000);
        let got = predicted(&late, &network, &xt)?;
        let without = network.predict(&xt, &TIMES, &Condition::none())?;
        let want = ((&a * 2.0)? - &without)?;
        assert!(apart(&got.get(0)?, &a.get(0)?)? < 1e-5);
        assert!(apart(&got.get(1)?, &want.get(1)?)? < 1e-4);
        assert_eq!(late.narrow(1, 1)?.towards[0].1, Condition::labels([1]));
        Ok(())
    }

    #[test]
    fn invalid_guidance_is_an_error() -> Result<()> {
        let (network, xt) = network()?;
        let two = Condition::labels([0, 1]);
        for (guidance, wants) in [
            (Guidance::new(two.clone(), f64::NAN), "scale = NaN"),
            (Guidance::between(two.clone(), two.clone(), f64::NAN), "add up to NaN"),
            (Guidance { towards: vec![], ..Guidance::new(two, 2.0) }, "add up to 0"),
            (Guidance::new(Condition::labels([0, 3]), 2.0), "class 3"),
            (Guidance::new(Condition::labels([0]), 2.0), "for 1 images, not 2"),
        ] {
            let message = predicted(&guidance, &network, &xt).unwrap_err().to_string();
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
