//! The reconstructions of an autoencoder, which `diffusion evaluate` measures like samples.

use super::{Options, Samples};
use crate::request::counted;
use anyhow::{Result, ensure};
use diffusion_core::candle::{Device, Tensor};
use diffusion_core::data::Dataset;
use diffusion_core::latent::{Autoencoder, Vae};
use diffusion_core::metrics::{psnr, ssim};
use serde::Serialize;
use std::fmt;
use std::time::Instant;

/// The number of images that are reconstructed at once.
const AT_ONCE: usize = 100;

/// How near the reconstructions are to the images, as means over the images.
#[derive(Serialize)]
pub struct Reconstruction {
    psnr: f64,
    ssim: f64,
}

impl fmt::Display for Reconstruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { psnr, ssim } = self;
        write!(f, "PSNR {psnr:.2} dB, SSIM {ssim:.4} (means over the images)")
    }
}

/// Encodes and decodes held-out images.
pub fn run(options: &Options, vae: &Vae, real: &Dataset) -> Result<(Samples, Reconstruction)> {
    let n = options.n.unwrap_or(real.len());
    ensure!(
        options.bits.is_none() && options.attributes.is_none(),
        "--bits, --attributes: they measure models, and --checkpoint names an autoencoder; leave both out"
    );
    ensure!(
        options.model.leaves_open() && (1..=real.len()).contains(&n),
        "--n {n}: an autoencoder reconstructs held-out images, of which there are {}; leave conditions out",
        real.len()
    );
    let (began, mut images) = (Instant::now(), Vec::new());
    let (mut psnrs, mut ssims) = (Vec::new(), Vec::new());
    for start in (0..n).step_by(AT_ONCE) {
        let x = real.images(start..n.min(start + AT_ONCE), vae.parameters().device())?;
        let decoded = vae.decode(&vae.encode(&x)?)?.clamp(-1f64, 1f64)?;
        psnrs.extend(psnr(&decoded, &x, 2.0)?);
        ssims.extend(ssim(&decoded, &x, 2.0)?);
        images.push(decoded.to_device(&Device::Cpu)?);
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let samples = Samples {
        images: Tensor::cat(&images, 0)?,
        labels: Some(real.labels()[..n].to_vec()),
        words: format!("reconstructions of {}", counted(n, "held-out image")),
        seconds: began.elapsed().as_secs_f64(),
    };
    Ok((samples, Reconstruction { psnr: mean(&psnrs), ssim: mean(&ssims) }))
}
