//! What is asked of a network, and how strongly: values that are wrapped around it, of which samplers know nothing.
//!
//! *Classifier-free guidance* ([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598), equation 6) asks a network twice,
//! with a condition c and without, and goes on in the direction in which they differ:
//!
//! ε̂ = ε(x_t, ∅) + w (ε(x_t, c) − ε(x_t, ∅)).
//!
//! w = 1 is the plain conditional network, w = 0 the unconditional one, and w > 1 more of what makes an image one of its
//! class than there is in the data. (The paper's own w is this one less 1.) Since x̂_0 and v are straight lines in ε̂, the
//! formula is the same for networks that answer with them.
//!
//! Built by hand in `notebooks/05_conditioning.ipynb`.

use crate::unet::{Condition, Network};
use candle_core::{Result, Tensor, bail};
use std::ops::Range;

/// A condition and how strongly it is meant. A [`Condition`] alone becomes one with scale 1.
///
/// ```
/// use diffusion_core::{guidance::Guidance, unet::Condition};
/// let sevens = Condition::labels([7, 7]);
/// let strong = Guidance::new(sevens.clone(), 3.0);
/// let rather_not_ones = Guidance::new(sevens, 3.0).away_from(Condition::labels([1, 1]));
/// let at_first_only = strong.clone().during(500..1000);
/// # let _ = (rather_not_ones, at_first_only);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance {
    /// c: the condition, or several with weights that add up to 1, whose answers are averaged
    /// ([Liu et al. 2022](https://arxiv.org/abs/2206.01714)).
    pub towards: Vec<(f64, Condition)>,
    /// ∅, from which it leads away: the null condition, or one that is not wanted (a *negative* condition).
    pub away: Condition,
    /// w.
    pub scale: f64,
    /// The time steps t at which it guides; at all others w = 1
    /// ([Kynkäänniemi et al. 2024](https://arxiv.org/abs/2404.07724)).
    pub during: Range<usize>,
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
    /// Towards `condition` with scale w, away from the null condition, at all time steps.
    pub fn new(condition: Condition, scale: f64) -> Self {
        Self {
            towards: vec![(1.0, condition)],
            away: Condition::none(),
            scale,
            during: 0..usize::MAX,
        }
    }

    /// Towards something between `a` (`fraction` = 0) and `b` (`fraction` = 1), with scale 1: the mean of the answers to
    /// both.
    pub fn between(a: Condition, b: Condition, fraction: f64) -> Self {
        Self {
            towards: vec![(1.0 - fraction, a), (fraction, b)],
            ..Self::new(Condition::none(), 1.0)
        }
    }

    /// Away from this condition instead of the null condition.
    pub fn away_from(mut self, negative: Condition) -> Self {
        self.away = negative;
        self
    }

    /// Only at these time steps.
    pub fn during(mut self, time_steps: Range<usize>) -> Self {
        self.during = time_steps;
        self
    }

    /// Those of `len` images from image `start` on.
    ///
    /// # Errors
    /// It is for fewer.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        let part = |(w, c): &(f64, Condition)| Ok((*w, c.narrow(start, len)?));
        Ok(Self {
            towards: self.towards.iter().map(part).collect::<Result<_>>()?,
            away: self.away.narrow(start, len)?,
            scale: self.scale,
            during: self.during.clone(),
        })
    }

    /// The network's guided answer, all conditions in one batch. A condition of weight 0 is not asked for.
    ///
    /// # Shapes
    /// As [`Network::predict`].
    ///
    /// # Errors
    /// As [`Network::predict`], or the scale or a weight is not a finite number, or the weights do not add up to 1.
    pub fn predict(&self, network: &Network, xt: &Tensor, t: &[usize]) -> Result<Tensor> {
        self.check()?;
        let n = t.len();
        let times: Vec<f64> = t.iter().map(|t| *t as f64).collect();
        let scale: Vec<f64> = t
            .iter()
            .map(|t| match self.during.contains(t) {
                true => self.scale,
                false => 1.0,
            })
            .collect();
        // Each condition, with its weight for each image.
        let towards = self.towards.iter().map(|(weight, condition)| {
            let weights: Vec<f64> = scale.iter().map(|w| w * weight).collect();
            (condition, weights)
        });
        let away = (&self.away, scale.iter().map(|w| 1.0 - w).collect());
        let terms: Vec<(&Condition, Vec<f64>)> = towards
            .chain([away])
            .filter(|(_, weights)| weights.iter().any(|w| *w != 0.0))
            .collect();
        if let [(condition, weights)] = &terms[..]
            && weights.iter().all(|w| *w == 1.0)
        {
            return network.predict(xt, &times, condition);
        }
        let k = terms.len();
        let conditions: Vec<_> = terms.iter().map(|(c, _)| (*c, n)).collect();
        let answers = network.predict(
            &Tensor::cat(&vec![xt; k], 0)?,
            &times.repeat(k),
            &Condition::cat(&conditions)?,
        )?;
        let mut shape = vec![1; xt.rank()];
        shape[0] = n;
        let mut sum = xt.zeros_like()?;
        for (i, (_, weights)) in terms.into_iter().enumerate() {
            let weights = Tensor::from_vec(weights, shape.as_slice(), xt.device())?;
            let answer = answers.narrow(0, i * n, n)?;
            sum = (sum + answer.broadcast_mul(&weights.to_dtype(xt.dtype())?)?)?;
        }
        Ok(sum)
    }

    fn check(&self) -> Result<()> {
        if !self.scale.is_finite() {
            bail!(
                "guidance: scale = {} must be a number; 1 is the plain conditional network",
                self.scale
            )
        }
        let sum: f64 = self.towards.iter().map(|(weight, _)| weight).sum();
        if sum.is_nan() || (sum - 1.0).abs() > 1e-6 {
            bail!(
                "guidance: the weights of the conditions add up to {:?}; they must to 1",
                sum + 0.0
            )
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::unet::SimpleUNet;
    use candle_core::Device;

    fn network() -> Result<(Network, Tensor)> {
        let small = SimpleUNet {
            base: 8,
            classes: 3,
            ..Default::default()
        };
        let (mut rng, device) = (Rng::new(5), Device::Cpu);
        let network = Network::new(small, &mut rng, &device)?;
        // Its zeros would make all answers one.
        for (name, var) in network.parameters().iter() {
            if name.starts_with("conv_out") {
                var.set(&rng.randn_like(var)?)?;
            }
        }
        Ok((network, rng.randn((2, 1, 8, 8), &device)?))
    }

    /// The largest difference, in units of the largest number.
    fn apart(a: &Tensor, b: &Tensor) -> Result<f32> {
        let largest = |x: Tensor| -> Result<f32> { x.abs()?.max_all()?.to_scalar() };
        Ok(largest((a - b)?)? / largest(b.clone())?)
    }

    const T: [usize; 2] = [3, 700];
    const TIMES: [f64; 2] = [3.0, 700.0];

    #[test]
    fn the_scale_means_what_it_says() -> Result<()> {
        let (network, xt) = network()?;
        let condition = Condition::labels([1, 2]);
        let with = network.predict(&xt, &TIMES, &condition)?;
        let without = network.predict(&xt, &TIMES, &Condition::none())?;
        assert!(apart(&with, &without)? > 0.01);
        for w in [-1.0, 0.0, 0.5, 1.0, 3.0] {
            let got = Guidance::new(condition.clone(), w).predict(&network, &xt, &T)?;
            let want = (&without + ((&with - &without)? * w)?)?;
            assert!(apart(&got, &want)? < 1e-4, "w = {w}");
        }
        // At w = 3 it is further from the unconditional answer than the conditional one, in the same direction.
        let strong = Guidance::new(condition, 3.0).predict(&network, &xt, &T)?;
        let dot = ((&strong - &with)? * (&with - &without)?)?.sum_all()?;
        assert!(dot.to_scalar::<f32>()? > 0.0);
        Ok(())
    }

    #[test]
    fn negative_mixed_and_limited() -> Result<()> {
        let (network, xt) = network()?;
        let ask = |labels: [usize; 2]| network.predict(&xt, &TIMES, &Condition::labels(labels));
        let (a, b) = (ask([0, 1])?, ask([2, 2])?);
        let (of_a, of_b) = (Condition::labels([0, 1]), Condition::labels([2, 2]));

        let away = Guidance::new(of_a.clone(), 2.0).away_from(of_b.clone());
        let want = ((&a * 2.0)? - &b)?;
        assert!(apart(&away.predict(&network, &xt, &T)?, &want)? < 1e-4);

        let between = Guidance::between(of_a.clone(), of_b, 0.25);
        let want = ((&a * 0.75)? + (&b * 0.25)?)?;
        assert!(apart(&between.predict(&network, &xt, &T)?, &want)? < 1e-4);

        // Only the image at t = 700 is guided.
        let late = Guidance::new(of_a, 2.0).during(500..1000);
        let got = late.predict(&network, &xt, &T)?;
        let without = network.predict(&xt, &TIMES, &Condition::none())?;
        let want = ((&a * 2.0)? - &without)?;
        assert!(apart(&got.get(0)?, &a.get(0)?)? < 1e-5);
        assert!(apart(&got.get(1)?, &want.get(1)?)? < 1e-4);
        assert_eq!(late.narrow(1, 1)?.towards[0].1, Condition::labels([1]));
        Ok(())
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() -> Result<()> {
        let (network, xt) = network()?;
        let two = Condition::labels([0, 1]);
        for (guidance, wants) in [
            (Guidance::new(two.clone(), f64::NAN), "scale = NaN"),
            (
                Guidance::between(two.clone(), two.clone(), f64::NAN),
                "add up to NaN",
            ),
            (
                Guidance {
                    towards: vec![],
                    ..Guidance::new(two, 2.0)
                },
                "add up to 0",
            ),
            (Guidance::new(Condition::labels([0, 3]), 2.0), "class 3"),
            (
                Guidance::new(Condition::labels([0]), 2.0),
                "of 1 images for 2",
            ),
        ] {
            let message = guidance.predict(&network, &xt, &T).unwrap_err().to_string();
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
