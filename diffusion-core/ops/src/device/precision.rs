//! The floating-point precision of a network's computations.

use candle_core::DType;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

/// The precision of a network's computations; its parameters, images and predictions are f32.
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
    /// 32-bit floating point.
    #[default]
    F32,
    /// f32, but on an NVIDIA GPU convolutions multiply numbers rounded to TF32 (11 bits of precision), which is much
    /// faster. The same as [`Precision::F32`] on other devices.
    Tf32,
    /// Mixed precision: activations are bf16, which has the range of f32 and 8 bits of precision. Products are of
    /// rounded numbers; sums, means and variances are f32. It is meant for NVIDIA GPUs; on other devices the results
    /// are almost the same, and slower than f32.
    Bf16,
}

impl Precision {
    /// The type of the activations, if it differs from that of the images.
    pub fn dtype(self) -> Option<DType> {
        (self == Self::Bf16).then_some(DType::BF16)
    }

    /// Whether this is the default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Calls `f` with this precision for convolutions, including their gradients whenever these are computed.
    pub fn within<R>(self, f: impl FnOnce() -> R) -> R {
        /// Restores the previous setting, also after a panic.
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

/// Whether f32 convolutions may multiply in TF32.
#[cfg(any(test, feature = "cuda"))]
pub(crate) fn tf32() -> bool {
    TF32.get()
}

/// Prints `f32`, `tf32` or `bf16`.
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
        // Suppresses the message of the panic.
        let panic = || std::panic::resume_unwind(Box::new("inside"));
        let caught = std::panic::catch_unwind(|| Precision::Tf32.within(panic));
        assert!(caught.is_err() && !tf32());
    }

    #[test]
    fn names_are_as_in_files_and_flags() {
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
