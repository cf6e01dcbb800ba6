//! What a network computes with.

use candle_core::DType;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

/// What a network computes with, while its parameters, its images and its answers are of f32.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::device::Precision;
/// assert_eq!("bf16".parse::<Precision>()?, Precision::Bf16);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Numbers of 32 bits.
    #[default]
    F32,
    /// The same, but on an NVIDIA GPU the products of convolutions are of numbers that are rounded to 11 bits of precision,
    /// which it is much faster at. Elsewhere as [`Precision::F32`].
    Tf32,
    /// Images inside the network are of bf16, which has the range of f32 and 8 bits of precision: products are of rounded
    /// numbers, sums, means and variances of f32. It is meant for NVIDIA GPUs; elsewhere it gives nearly the same numbers,
    /// and takes longer than f32.
    Bf16,
}

impl Precision {
    /// The type of the images inside the network, if it is not their own.
    pub fn dtype(self) -> Option<DType> {
        (self == Self::Bf16).then_some(DType::BF16)
    }

    /// Whether it is the one that is taken if nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Calls `f` and has convolutions in it use this precision. Their gradients use it too, whenever they are asked for.
    pub fn within<R>(self, f: impl FnOnce() -> R) -> R {
        /// Puts back what was, also after a panic.
        struct Before(bool);
        impl Drop for Before {
            fn drop(&mut self) {
                TF32.set(self.0);
            }
        }
        let _before = Before(TF32.replace(self == Self::Tf32));
        f()
    }
}

thread_local! {
    static TF32: Cell<bool> = const { Cell::new(false) };
}

/// Whether convolutions of f32 may round to TF32 what they multiply.
#[cfg(any(test, feature = "cuda"))]
pub(crate) fn tf32() -> bool {
    TF32.get()
}

/// `f32`, `tf32` or `bf16`.
impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "tf32" => Ok(Self::Tf32),
            "bf16" => Ok(Self::Bf16),
            _ => anyhow::bail!("there is no precision {name:?}: choose f32, tf32 or bf16"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tf32_holds_within_and_not_after() {
        Precision::Tf32.within(|| {
            assert!(tf32());
            Precision::Bf16.within(|| assert!(!tf32()));
            assert!(tf32());
        });
        // Without a message from the panic.
        let panic = || std::panic::resume_unwind(Box::new("inside"));
        let caught = std::panic::catch_unwind(|| Precision::Tf32.within(panic));
        assert!(caught.is_err() && !tf32());
    }

    #[test]
    fn names_are_those_of_files_and_flags() {
        for (name, precision) in [("f32", Precision::F32), ("tf32", Precision::Tf32), ("bf16", Precision::Bf16)] {
            assert_eq!(name.parse::<Precision>().ok(), Some(precision));
            assert_eq!(precision.to_string(), name);
            let text = serde_json::to_string(&precision).unwrap();
            assert_eq!(text, format!("\"{name}\""));
        }
        let message = "f16".parse::<Precision>().unwrap_err().to_string();
        assert!(message.contains("choose f32, tf32 or bf16"), "{message}");
    }
}
