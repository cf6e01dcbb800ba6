//! The bits per dimension that `diffusion evaluate` measures.

use super::{Options, same_classes};
use crate::request::Request;
use anyhow::{Context, Result, ensure};
use diffusion_core::data::Dataset;
use diffusion_core::likelihood::{Likelihood, bits_per_dimension, dequantize};
use diffusion_core::progress::Progress;
use diffusion_core::rng::Rng;
use diffusion_core::unet::Condition;
use serde::Serialize;
use std::fmt;

/// The largest batch in which likelihoods are computed: the backward pass keeps all activations.
const BITS_BATCH: usize = 32;

/// Bits per dimension of held-out images.
#[derive(Serialize)]
pub struct Bits {
    mean: f64,
    /// Of the mean, over images.
    standard_error: f64,
    images: usize,
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mean, standard_error, images } = self;
        write!(f, "bits per dimension {mean:.3} ± {standard_error:.3} (standard error) on {images} held-out images")
    }
}

/// Checks --bits before anything is sampled.
pub fn check(n: usize, request: &Request, real: &Dataset) -> Result<()> {
    let model = &request.model;
    ensure!(
        (2..=real.len()).contains(&n),
        "--bits {n}: it must be in 2 … {}, the number of held-out images",
        real.len()
    );
    ensure!(
        model.info.images && real.is_8_bit(),
        "--bits: bits per dimension are defined for 8-bit images, which this model's data are not; leave --bits out"
    );
    let architecture = model.network.architecture();
    ensure!(
        architecture.classes() + architecture.context() == 0 || same_classes(request, real),
        "--bits: the model is conditioned on {}, but {} has {}; name its own data with --data",
        model.info.context_names().join(", "),
        real.name(),
        real.context_names().join(", ")
    );
    Ok(())
}

pub fn bits(options: &Options, request: &Request, real: &Dataset) -> Result<Option<Bits>> {
    let Some(n) = options.bits else { return Ok(None) };
    let model = &request.model;
    let architecture = model.network.architecture();
    let (classes, context) = (architecture.classes() > 0, architecture.context() > 0);
    let (device, rng) = (model.network.device(), &mut Rng::new(options.model.seed));
    let (mut bits, dims) = (Vec::new(), real.shape().iter().product());
    let mut progress = Progress::new(n as u64, "likelihoods");
    for start in (0..n).step_by(BITS_BATCH) {
        let indices = start..n.min(start + BITS_BATCH);
        let x = dequantize(&real.images(indices.clone(), device)?, rng)?;
        let condition = match (classes, context) {
            (true, _) => Condition::labels(real.labels()[indices.clone()].iter().map(|label| *label as usize)),
            (_, true) => Condition::context(real.context(indices.clone(), device)?),
            _ => Condition::none(),
        };
        let log = model.log_density(&x, &condition, &Likelihood::default(), rng).context("--bits")?;
        bits.extend(log.into_iter().map(|log| bits_per_dimension(log, dims)));
        indices.for_each(|_| progress.step());
    }
    progress.finish();
    let mean = bits.iter().sum::<f64>() / n as f64;
    let variance = bits.iter().map(|bits| (bits - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    Ok(Some(Bits { mean, standard_error: (variance / n as f64).sqrt(), images: n }))
}
