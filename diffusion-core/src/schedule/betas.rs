//! Named variance schedules β, and how files write them.

use crate::choice::parse_choice;
use candle_core::bail;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::f64::consts::FRAC_PI_2;
use std::fmt;

/// How the variances β_0 … β_{T−1} are chosen.
///
/// In a file it is a name, with default values for its fields; a table, `{cosine = {offset = 0.008}}`; or a list of
/// variances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Betas {
    /// Equally spaced from `start` to `end`
    /// ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), section 4: 1e-4 → 0.02 for T = 1000).
    Linear {
        /// β of the first step, in (0, 1).
        #[serde(default = "defaults::start")]
        start: f64,
        /// β of the last step, in (0, 1), not below `start`.
        #[serde(default = "defaults::end")]
        end: f64,
    },
    /// √β equally spaced, so that β grows slowly at first
    /// ([Rombach et al. 2022](https://arxiv.org/abs/2112.10752), with 0.00085 → 0.012).
    ScaledLinear {
        /// β of the first step, in (0, 1).
        #[serde(default = "defaults::scaled_start")]
        start: f64,
        /// β of the last step, in (0, 1), not below `start`.
        #[serde(default = "defaults::scaled_end")]
        end: f64,
    },
    /// ᾱ falls as cos²(π/2 · (t/T + s)/(1 + s))
    /// ([Nichol & Dhariwal 2021](https://arxiv.org/abs/2102.09672), equation 17: s = 0.008, β at most 0.999).
    Cosine {
        /// s, which keeps the first β from being too small; not negative.
        #[serde(default = "defaults::offset")]
        offset: f64,
        /// The upper limit of β, in (0, 1); without it β would reach 1 at the last step.
        #[serde(default = "defaults::max_beta")]
        max_beta: f64,
    },
    /// β follows a logistic curve over −6 … 6
    /// ([Xu et al. 2022](https://arxiv.org/abs/2203.02923), as in their code and in diffusers).
    Sigmoid {
        /// β at the left end of the logistic curve, in (0, 1).
        #[serde(default = "defaults::start")]
        start: f64,
        /// β at the right end of the logistic curve, in (0, 1), not below `start`.
        #[serde(default = "defaults::end")]
        end: f64,
    },
    /// Your own variances, from [`Schedule::from_betas`](super::Schedule::from_betas).
    Custom {
        /// The name of the schedule.
        #[serde(default = "defaults::name")]
        name: String,
        /// β_0 … β_{T−1}, each in (0, 1).
        values: Vec<f64>,
    },
}

impl Serialize for Betas {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Betas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameTableOrList)
    }
}

/// Reads [`Betas`] by its variants only.
#[derive(Deserialize)]
#[serde(transparent)]
struct Tagged(#[serde(with = "Betas")] Betas);

struct NameTableOrList;

impl<'de> Visitor<'de> for NameTableOrList {
    type Value = Betas;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the name of a schedule, a table with one name and its numbers, or a list of variances")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Betas, E> {
        let Tagged(betas) = parse_choice(name).map_err(E::custom)?;
        Ok(betas)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Betas, A::Error> {
        let Tagged(betas) = Tagged::deserialize(MapAccessDeserializer::new(map))?;
        Ok(betas)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Betas, A::Error> {
        let values = Vec::deserialize(SeqAccessDeserializer::new(list))?;
        Ok(Betas::Custom { name: defaults::name(), values })
    }
}

impl Default for Betas {
    fn default() -> Self {
        Self::LINEAR
    }
}

/// The values of fields that a file leaves out.
mod defaults {
    pub(super) fn name() -> String {
        "custom".to_owned()
    }
    pub(super) fn start() -> f64 {
        1e-4
    }
    pub(super) fn end() -> f64 {
        0.02
    }
    pub(super) fn scaled_start() -> f64 {
        0.00085
    }
    pub(super) fn scaled_end() -> f64 {
        0.012
    }
    pub(super) fn offset() -> f64 {
        0.008
    }
    pub(super) fn max_beta() -> f64 {
        0.999
    }
}

impl Betas {
    /// [`Betas::Linear`] from 1e-4 to 0.02, as in DDPM.
    pub const LINEAR: Self = Self::Linear { start: 1e-4, end: 0.02 };
    /// [`Betas::Cosine`] with the paper's offset s = 0.008 and β ≤ 0.999.
    pub const COSINE: Self = Self::Cosine { offset: 0.008, max_beta: 0.999 };
    /// [`Betas::Sigmoid`] from 1e-4 to 0.02.
    pub const SIGMOID: Self = Self::Sigmoid { start: 1e-4, end: 0.02 };

    /// The name in lower case: `linear`, `scaled linear`, `cosine`, `sigmoid`, or your own.
    pub fn name(&self) -> &str {
        match self {
            Self::Linear { .. } => "linear",
            Self::ScaledLinear { .. } => "scaled linear",
            Self::Cosine { .. } => "cosine",
            Self::Sigmoid { .. } => "sigmoid",
            Self::Custom { name, .. } => name,
        }
    }

    pub(super) fn check(&self) -> candle_core::Result<()> {
        let unit = |field: &str, value: f64| {
            if !(value > 0.0 && value < 1.0) {
                bail!("{} schedule: {field} = {value} is not a variance; it must lie in (0, 1)", self.name())
            }
            Ok(())
        };
        match *self {
            Self::Custom { ref name, ref values } => {
                if values.len() < 2 {
                    bail!("{name} schedule: {} betas; a schedule needs at least 2", values.len())
                }
                let mut numbered = values.iter().enumerate();
                if let Some((t, beta)) = numbered.find(|(_, b)| !(**b > 0.0 && **b < 1.0)) {
                    bail!("{name} schedule: betas[{t}] = {beta} is not a variance; it must lie in (0, 1)")
                }
            }
            Self::Linear { start, end } | Self::ScaledLinear { start, end } | Self::Sigmoid { start, end } => {
                unit("start", start)?;
                unit("end", end)?;
                if start > end {
                    bail!(
                        "{} schedule: start = {start} is above end = {end}; noise must not decrease with t",
                        self.name()
                    )
                }
            }
            Self::Cosine { offset, max_beta } => {
                unit("max_beta", max_beta)?;
                if !(offset >= 0.0 && offset.is_finite()) {
                    bail!("cosine schedule: offset = {offset} must be a number ≥ 0 (the paper's is 0.008)")
                }
            }
        }
        Ok(())
    }

    pub(super) fn values(&self, timesteps: usize) -> Vec<f64> {
        let fraction = |t: usize| t as f64 / (timesteps - 1) as f64;
        let between = |start: f64, end: f64, x: f64| start + (end - start) * x;
        let at = |t: usize| match *self {
            Self::Linear { start, end } => between(start, end, fraction(t)),
            Self::ScaledLinear { start, end } => between(start.sqrt(), end.sqrt(), fraction(t)).powi(2),
            Self::Sigmoid { start, end } => {
                between(start, end, 1.0 / (1.0 + libm::exp(-between(-6.0, 6.0, fraction(t)))))
            }
            Self::Cosine { offset, max_beta } => {
                let alpha_bar =
                    |t: usize| libm::cos((t as f64 / timesteps as f64 + offset) / (1.0 + offset) * FRAC_PI_2).powi(2);
                (1.0 - alpha_bar(t + 1) / alpha_bar(t)).min(max_beta)
            }
            Self::Custom { ref values, .. } => values[t],
        };
        (0..timesteps).map(at).collect()
    }
}
