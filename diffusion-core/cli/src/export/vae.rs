//! The export of an autoencoder.

use super::{Options, configuration, data, training};
use crate::card::{self, Header};
use anyhow::{Context, Result, ensure};
use diffusion_core::candle::{DType, Device};
use diffusion_core::config::RunConfig;
use diffusion_core::latent::{Autoencoder, Vae};
use diffusion_core::show::Grid;
use diffusion_core::train::VaeLossConfig;
use std::fs;

/// Images in a row of the picture.
const WIDE: usize = 10;

/// Writes the autoencoder of a run, a picture of held-out images with their reconstructions, and a card.
pub fn export(options: &Options, run: &RunConfig, settings: &VaeLossConfig) -> Result<()> {
    ensure!(
        options.epochs.is_empty() && options.diffusers.is_none() && options.guidance.is_none(),
        "--epochs, --diffusers, --guidance: only the final autoencoder of this run can be exported, not for diffusers and without \
         samples; leave them out"
    );
    let vae = Vae::load(options.run.join("model.safetensors"), &Device::Cpu)?;
    vae.save_as(&options.out, DType::F16)?;
    println!("{}", options.out.display());
    let (held_out, picture) = (data(options, run)?.1, options.out.with_extension("png"));
    let x = held_out.images(0..held_out.len().min(WIDE), &Device::Cpu)?;
    let decoded = vae.decode(&vae.encode(&x)?)?;
    Grid::rows(&[x, decoded])?.row_titles(["image", "reconstruction"]).save(&picture)?;
    let path = options.out.with_extension("md");
    fs::write(&path, card(options, run, &vae, settings)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}\n{}", picture.display(), path.display());
    Ok(())
}

fn card(options: &Options, run: &RunConfig, vae: &Vae, settings: &VaeLossConfig) -> Result<String> {
    let name = options.out.file_stem().unwrap_or_default().to_string_lossy();
    let header = Header { name: &name, data: vae.data(), task: card::AUTOENCODER, license: options.license.as_deref() };
    let ([c, h, w], config) = (vae.shape(), vae.config());
    let [latent_c, latent_h, latent_w] = vae.latent_shape(vae.shape())?;
    let (path, place) = card::in_a_notebook(&options.out);
    Ok(format!(
        "{header}# {name}

![Images and reconstructions]({name}.png)

| | |
|---|---|
| [{name}.safetensors]({name}.safetensors) | {megabytes:.1} MB, weights as f16 |
| network | variational autoencoder, base {base}, {parameters} parameters; images of {c}×{h}×{w} become latents of \
         {latent_c}×{latent_h}×{latent_w} |
| data | {data} |
| KL weight | {kl_weight:e} |
| scale | {scale:.4}: the factor that gives the latents a standard deviation of 1 |
{training}| picture | held-out images and their reconstructions |

{configuration}
To use it {place}:

```rust
let vae = Vae::load(\"{path}\", &device)?;
let latents = vae.encode(&images)?; // (B, {latent_c}, {latent_h}, {latent_w})
Grid::new(&vae.decode(&latents)?)?
```
",
        header = header.yaml(None)?,
        megabytes = fs::metadata(&options.out)?.len() as f64 / 1e6,
        base = config.base,
        parameters = vae.parameters().count(),
        data = vae.data(),
        kl_weight = settings.kl_weight,
        scale = vae.scale(),
        training = training(options, run)?,
        configuration = configuration(options, run)?,
    ))
}
