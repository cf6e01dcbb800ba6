//! Thresholding: how predictions are kept in the range of image values.

use candle_core::{Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// How x̂_0 is thresholded before it is used; ε̂ is recomputed from the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Threshold {
    /// [`Threshold::Clip`] for images and [`Threshold::None`] for other data. A [`Model`](crate::model::Model) records
    /// which of the two it was trained on; without a model, (B, C, H, W) with C = 1 or 3 counts as images.
    #[default]
    Auto,
    /// No thresholding.
    None,
    /// Clips x̂_0 to \[−1, 1\].
    Clip,
    /// Dynamic thresholding: clips x̂_0 to \[−s, s\] and divides by s, the given quantile of |x̂_0| in each image but
    /// at least 1 ([Saharia et al. 2022](https://arxiv.org/abs/2205.11487), section 2.3). It helps with large guidance
    /// scales.
    Dynamic {
        /// The quantile, in (0, 1\]; 0.995 in the paper.
        quantile: f64,
    },
}

impl Threshold {
    pub(super) fn check(self) -> Result<()> {
        if let Self::Dynamic { quantile } = self
            && !(quantile > 0.0 && quantile <= 1.0)
        {
            bail!("sampler: quantile = {quantile} must be in (0, 1]")
        }
        Ok(())
    }

    /// Resolves [`Threshold::Auto`] for data that is known to be images or not.
    pub(crate) fn for_images(self, images: bool) -> Self {
        match self {
            Self::Auto if images => Self::Clip,
            Self::Auto => Self::None,
            other => other,
        }
    }

    /// Resolves [`Threshold::Auto`] by the shape of the data.
    pub(super) fn resolved(self, x: &Tensor) -> Self {
        self.for_images(matches!(x.dims(), [_, 1 | 3, _, _]))
    }

    /// The thresholded x̂_0; `None` if it is unchanged.
    pub(super) fn apply(self, x0: &Tensor) -> Result<Option<Tensor>> {
        match self.resolved(x0) {
            Self::Clip => x0.clamp(-1f64, 1f64).map(Some),
            Self::Dynamic { quantile } => {
                // On the CPU: candle's GPU sort handles a row within one block, whose memory is too small for a larger
                // image.
                let sizes = x0.abs()?.flatten_from(1)?.to_device(&Device::Cpu)?;
                let (sorted, _) = sizes.sort_last_dim(true)?;
                let last = sorted.dim(1)? - 1;
                // Linear interpolation between the two nearest, as in torch.quantile.
                let at = quantile * last as f64;
                let (below, above) = (at.floor() as usize, at.ceil() as usize);
                let (low, high) = (sorted.narrow(1, below, 1)?, sorted.narrow(1, above, 1)?);
                let between = (&low + ((high - &low)? * at.fract())?)?;
                let mut shape = vec![1; x0.rank()];
                shape[0] = x0.dim(0)?;
                let s = between.clamp(1f64, f64::INFINITY)?.reshape(shape)?.to_device(x0.device())?;
                let clipped = x0.broadcast_minimum(&s)?.broadcast_maximum(&s.neg()?)?;
                clipped.broadcast_div(&s).map(Some)
            }
            _ => Ok(None),
        }
    }
}
