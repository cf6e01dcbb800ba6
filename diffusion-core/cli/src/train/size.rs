//! The size of the training images, checked before any of them is decoded.

use anyhow::{Context, Result, bail};
use diffusion_core::config::{ObjectiveConfig, RunConfig};
use diffusion_core::latent::Vae;
use std::path::Path;

/// The largest height and width of pictures that are trained on as they are.
const LARGEST: usize = 128;
/// The side to advise, if the network suits it.
const USUAL: usize = 64;

/// Checks that the pictures of a folder have one size, which is not too large, and that the network suits the size of the images.
/// Large pictures are only warned of if a configuration file has `chosen` them or a run has begun with them.
pub fn check(run: &RunConfig, autoencoder: Option<&Vae>, chosen: bool) -> Result<()> {
    let suits = |height, width| match (&run.objective, autoencoder.map(Vae::config)) {
        (ObjectiveConfig::Vae(settings), _) => {
            let network = settings.network;
            Ok(network.latent_shape([network.channels, height, width]).map(|_| ())?)
        }
        (_, Some(vae)) => {
            let [_, height, width] = vae.latent_shape([vae.channels, height, width])?;
            run.check_size(height, width).context("the latents")
        }
        (_, None) => run.check_size(height, width),
    };
    if let Some(side) = run.data.side {
        return suits(side, side).with_context(|| format!("side = {side}"));
    }
    let Some(sizes) = run.data.picture_sizes()? else { return Ok(()) };
    let usual = match suits(USUAL, USUAL) {
        Ok(()) => USUAL,
        Err(_) => run.network.usual_side(),
    };
    let [height, width] = sizes.one(usual)?;
    let name = Path::new(&run.data.task).file_name().unwrap_or_default().display();
    let found = format!("the pictures of {name} have {width}×{height} pixels");
    if height.max(width) > LARGEST {
        let advice = format!(
            "{found}, and training on more than {LARGEST}×{LARGEST} takes very long and much memory. Set a side: --side {usual} \
             (or `side = {usual}` under [data] in a file) crops and resizes them to {usual}×{usual}"
        );
        match chosen {
            true => eprintln!("warning: {advice}"),
            false => bail!("{advice}"),
        }
    }
    suits(height, width).context(found)
}
