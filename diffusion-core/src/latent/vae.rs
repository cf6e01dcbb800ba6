//! The variational autoencoder.

mod layers;

use layers::Layers;

use super::{AT_ONCE, Autoencoder, FOR_SCALE};
use crate::data::Dataset;
use crate::nn::{Checkpoint, Parameters};
use crate::rng::Rng;
use anyhow::Context;
use candle_core::{DType, Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The metadata key of the description in a file, and the prefix of the tensors in the file of a latent model.
const METADATA: &str = "vae";

/// The side of the squares of pixels that become one position.
const PATCH: usize = 2;

/// The sizes of a [`Vae`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaeConfig {
    /// The number of image channels: 1 for greyscale, 3 for RGB; at most 1024.
    pub channels: usize,
    /// The channels at half the resolution; twice as many at a quarter, four times at an eighth. 4 … 1024.
    pub base: usize,
    /// The number of channels of a latent, 1 … 64.
    pub latent: usize,
    /// The factor between the side of an image and that of its latent: 2, 4 or 8.
    pub factor: usize,
    /// The groups of every group norm; they divide `base`.
    pub groups: usize,
}

impl Default for VaeConfig {
    /// Colour images of 64×64 pixels become latents of 4×16×16: 32 channels, 8 groups.
    fn default() -> Self {
        Self { channels: 3, base: 32, latent: 4, factor: 4, groups: 8 }
    }
}

impl VaeConfig {
    /// Checks that every field is in its range.
    ///
    /// # Errors
    /// A field is out of range: the message names it and its value.
    pub fn check(&self) -> Result<()> {
        let Self { channels, base, latent, factor, groups } = *self;
        if !(1..=1024).contains(&channels) {
            bail!("vae: channels = {channels} must be in 1 … 1024")
        }
        if !(4..=1024).contains(&base) || groups == 0 || !base.is_multiple_of(groups) {
            bail!("vae: base = {base} must be in 4 … 1024 and divisible by groups = {groups}")
        }
        if !(1..=crate::data::MAX_CHANNELS).contains(&latent) {
            bail!("vae: latent = {latent} must be in 1 … {}", crate::data::MAX_CHANNELS)
        }
        if ![2, 4, 8].contains(&factor) {
            bail!("vae: factor = {factor} must be 2, 4 or 8")
        }
        Ok(())
    }

    /// The shape of the latents of images of shape (C, H, W).
    ///
    /// # Errors
    /// The images have another number of channels, or the factor does not divide height and width.
    pub fn latent_shape(&self, [c, h, w]: [usize; 3]) -> Result<[usize; 3]> {
        let Self { channels, latent, factor, .. } = *self;
        if c != channels || h == 0 || w == 0 || !h.is_multiple_of(factor) || !w.is_multiple_of(factor) {
            bail!(
                "vae: images of {c}×{h}×{w} do not suit it; they must have {channels} channels, and height and width must \
                 be divisible by {factor}"
            )
        }
        Ok([latent, h / factor, w / factor])
    }

    /// The channels of each resolution, from half the image's.
    fn widths(&self) -> Vec<usize> {
        (0..(self.factor / PATCH).ilog2() + 1).map(|i| self.base << i).collect()
    }
}

/// A variational autoencoder ([Kingma & Welling 2014](https://arxiv.org/abs/1312.6114)): its encoder maps an image to a
/// normal distribution of latents, its decoder a latent to an image.
///
/// Squares of 2×2 pixels become one position with four times as many channels (pixel unshuffle). Each resolution has a
/// residual block, and a convolution with stride 2 leads to the next; the decoder is the mirror image with
/// nearest-neighbour upsampling. The `AutoencoderKL` of diffusers has the same plan, two blocks on each resolution,
/// attention at the lowest, and about 80 million parameters; the default here has 0.5 million.
///
/// [`VaeLoss`](crate::train::VaeLoss) trains it.
///
/// ```
/// use diffusion_core::{candle::Device, latent::{Autoencoder, Vae, VaeConfig}, rng::Rng};
/// let vae = Vae::new(VaeConfig { base: 8, ..Default::default() }, &mut Rng::new(1), &Device::Cpu)?;
/// let x = Rng::new(2).randn((2, 3, 64, 64), &Device::Cpu)?;
/// let z = vae.encode(&x)?;
/// assert_eq!(z.dims(), [2, 4, 16, 16]);
/// assert_eq!(vae.decode(&z)?.dims(), x.dims());
/// # Ok::<(), diffusion_core::anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Vae {
    about: About,
    parameters: Parameters,
    layers: Layers,
    /// The same layers without gradients.
    constant: Layers,
    file: Option<PathBuf>,
}

/// What a file says of a [`Vae`].
#[derive(Clone, Debug, Serialize, Deserialize)]
struct About {
    config: VaeConfig,
    scale: f64,
    /// The name of the training data, and the shape (C, H, W) of its images.
    data: String,
    shape: [usize; 3],
}

impl Vae {
    /// Creates an autoencoder with random weights from `rng` and a scale of 1.
    ///
    /// # Errors
    /// A field of `config` is out of range: the message names it and its value.
    pub fn new(config: VaeConfig, rng: &mut Rng, device: &Device) -> Result<Self> {
        config.check()?;
        let mut parameters = Parameters::new(DType::F32, device);
        let layers = Layers::new(parameters.builder(rng), &config)?;
        let constant = Layers::new(parameters.constants(), &config)?;
        let about = About { config, scale: 1.0, data: String::new(), shape: [0; 3] };
        Ok(Self { about, parameters, layers, constant, file: None })
    }

    /// Its sizes.
    pub fn config(&self) -> VaeConfig {
        self.about.config
    }

    /// The name of the training data; empty before training.
    pub fn data(&self) -> &str {
        &self.about.data
    }

    /// The shape (C, H, W) of the training images. It also encodes images of other sizes.
    pub fn shape(&self) -> [usize; 3] {
        self.about.shape
    }

    /// The file that it was loaded from by [`Vae::load`].
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Its parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The mean and log σ² of the latents of images, before scaling, with gradients.
    ///
    /// # Shapes
    /// `x` (B, C, H, W), in \[−1, 1\]; both results are (B, latent, H/factor, W/factor).
    ///
    /// # Errors
    /// The shape does not suit the autoencoder.
    pub fn posterior(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.layers.posterior(x, &self.about.config)
    }

    /// The images of latents before scaling, with gradients.
    ///
    /// # Shapes
    /// `z` (B, latent, h, w); the result is (B, C, factor h, factor w).
    ///
    /// # Errors
    /// The shape does not suit the autoencoder.
    pub fn reconstruct(&self, z: &Tensor) -> Result<Tensor> {
        self.layers.images(z, &self.about.config)
    }

    /// Takes these images for the training data, and sets the [scale](Autoencoder::scale) so that the latents of the first
    /// 1024 of them have a standard deviation of 1 over all their numbers.
    ///
    /// # Errors
    /// The images do not suit the autoencoder, or cannot be read; or all latents are equal.
    pub fn fit_scale(&mut self, images: &Dataset) -> anyhow::Result<()> {
        let (mut sum, mut squares, mut n) = (0.0, 0.0, 0.0);
        let most = images.len().min(FOR_SCALE);
        for start in (0..most).step_by(AT_ONCE) {
            let x = images.images(start..most.min(start + AT_ONCE), self.parameters.device())?;
            let (mean, _) = self.constant.posterior(&x, &self.about.config)?;
            let values: Vec<f32> = mean.flatten_all()?.to_vec1()?;
            sum += values.iter().map(|v| f64::from(*v)).sum::<f64>();
            squares += values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            n += values.len() as f64;
        }
        let std = (squares / n - (sum / n).powi(2)).sqrt();
        anyhow::ensure!(std.is_finite() && std > 1e-6, "vae: the latents have the standard deviation {std}");
        self.about.scale = 1.0 / std;
        (self.about.data, self.about.shape) = (images.name().to_owned(), images.shape());
        Ok(())
    }

    /// Copies the autoencoder, with its own weights.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn copy(&self) -> Result<Self> {
        let copy = Self::from_tensors(self.about.clone(), &self.parameters.values()?, self.parameters.device())?;
        Ok(Self { file: self.file.clone(), ..copy })
    }

    /// Writes weights, sizes and scale to a safetensors file.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> anyhow::Result<()> {
        self.save_as(path, DType::F32)
    }

    /// Writes the autoencoder with weights of another type; F16 halves the size.
    ///
    /// # Errors
    /// See [`Vae::save`].
    pub fn save_as(&self, path: impl AsRef<Path>, dtype: DType) -> anyhow::Result<()> {
        let mut file = Checkpoint::default();
        self.write(&mut file, "", dtype)?;
        file.save(path)
    }

    /// Loads an autoencoder from a file of [`Vae::save`].
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or does not hold an autoencoder: the message names the file and the problem.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> anyhow::Result<Self> {
        let path = path.as_ref();
        Checkpoint::load(path)
            .and_then(|mut file| {
                let vae = Self::take(&mut file, "", device)?;
                let vae =
                    vae.context("it has no description of one; `cargo diffusion train --objective vae` makes one")?;
                Ok(Self { file: Some(path.to_owned()), ..vae })
            })
            .with_context(|| format!("cannot use {} as an autoencoder", path.display()))
            .map_err(crate::whole)
    }

    /// Whether a file holds an autoencoder alone, and not one with a network for its latents.
    pub fn is_in(path: impl AsRef<Path>) -> bool {
        Checkpoint::load(path).is_ok_and(|file| Self::is_alone(&file))
    }

    pub(crate) fn is_alone(file: &Checkpoint) -> bool {
        file.metadata.contains_key(METADATA) && file.tensors.keys().any(|name| name.starts_with("decoder."))
    }

    /// Adds the weights, with a prefix to their names, and the description to a file.
    pub(crate) fn write(&self, file: &mut Checkpoint, prefix: &str, dtype: DType) -> anyhow::Result<()> {
        for (name, tensor) in self.parameters.values()? {
            file.tensors.insert(format!("{prefix}{name}"), tensor.to_dtype(dtype)?);
        }
        file.metadata.extend(self.metadata()?);
        Ok(())
    }

    /// Its description in a file.
    pub(crate) fn metadata(&self) -> anyhow::Result<HashMap<String, String>> {
        let about = serde_json::to_string(&self.about)?;
        Ok([(METADATA.to_owned(), about)].into())
    }

    /// Takes the weights with this prefix out of a file, if it describes an autoencoder.
    pub(crate) fn take(file: &mut Checkpoint, prefix: &str, device: &Device) -> anyhow::Result<Option<Self>> {
        let Some(about) = file.metadata.get(METADATA) else { return Ok(None) };
        let about: About =
            serde_json::from_str(about).with_context(|| format!("cannot read its description: {about}"))?;
        let scale = about.scale;
        anyhow::ensure!(scale.is_finite() && scale > 0.0, "its scale is {scale}, not a positive number");
        let names: Vec<String> = file.tensors.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        let take = |name: String| Some((name[prefix.len()..].to_owned(), file.tensors.remove(&name)?));
        let tensors: HashMap<String, Tensor> = names.into_iter().filter_map(take).collect();
        let vae = Self::from_tensors(about, &tensors, device)?;
        if let Some(name) = tensors.keys().find(|name| vae.parameters.get(name).is_none()) {
            anyhow::bail!("unexpected tensor {prefix}{name}, which the autoencoder does not have")
        }
        Ok(Some(vae))
    }

    fn from_tensors(about: About, tensors: &HashMap<String, Tensor>, device: &Device) -> Result<Self> {
        let config = about.config;
        config.check()?;
        let mut parameters = Parameters::new(DType::F32, device);
        let layers = Layers::new(parameters.builder_from(tensors), &config)?;
        let constant = Layers::new(parameters.constants(), &config)?;
        Ok(Self { about, parameters, layers, constant, file: None })
    }
}

impl Autoencoder for Vae {
    /// The means, in evaluation mode.
    fn encode(&self, x: &Tensor) -> Result<Tensor> {
        self.constant.posterior(x, &self.about.config)?.0 * self.about.scale
    }

    fn decode(&self, z: &Tensor) -> Result<Tensor> {
        let parts = (0..z.dim(0)?).step_by(AT_ONCE).map(|start| {
            let part = z.narrow(0, start, AT_ONCE.min(z.dim(0)? - start))?;
            self.constant.images(&(part / self.about.scale)?, &self.about.config)
        });
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
    }

    fn scale(&self) -> f64 {
        self.about.scale
    }

    fn latent_shape(&self, image: [usize; 3]) -> Result<[usize; 3]> {
        self.about.config.latent_shape(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(config: VaeConfig) -> Result<Vae> {
        Vae::new(VaeConfig { base: 8, ..config }, &mut Rng::new(1), &Device::Cpu)
    }

    #[test]
    fn each_factor_has_its_shapes_and_its_inverse() -> Result<()> {
        for factor in [2, 4, 8] {
            let vae = small(VaeConfig { factor, latent: 5, ..Default::default() })?;
            let x = Rng::new(2).randn((2, 3, 16, 24), &Device::Cpu)?;
            let z = vae.encode(&x)?;
            let [c, h, w] = vae.latent_shape([3, 16, 24])?;
            assert_eq!(z.dims(), [2, c, h, w]);
            assert_eq!([c, h, w], [5, 16 / factor, 24 / factor]);
            assert_eq!(vae.decode(&z)?.dims(), x.dims());
        }
        Ok(())
    }

    #[test]
    fn it_is_restored_from_its_file() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("vae.safetensors");
        let mut vae = small(VaeConfig::default())?;
        vae.fit_scale(&Dataset::sprites(20, 1)?)?;
        assert!(vae.scale() != 1.0);
        vae.save(&path)?;
        let again = Vae::load(&path, &Device::Cpu)?;
        assert_eq!(
            (again.config(), again.scale(), again.data(), again.shape()),
            (vae.config(), vae.scale(), "sprites", [3, 16, 16])
        );
        // More images than are encoded at once give the same.
        let x = Rng::new(2).randn((AT_ONCE + 1, 3, 8, 8), &Device::Cpu)?;
        for (a, b) in
            [(vae.encode(&x)?, again.encode(&x)?), (vae.decode(&vae.encode(&x)?)?, again.decode(&again.encode(&x)?)?)]
        {
            assert_eq!((a - b)?.abs()?.max_all()?.to_scalar::<f32>()?, 0.0);
        }
        Ok(())
    }

    #[test]
    fn errors_name_the_value_the_shape_or_the_file() -> anyhow::Result<()> {
        for (config, wants) in [
            (VaeConfig { channels: 0, ..Default::default() }, "channels = 0"),
            (VaeConfig { base: 12, ..Default::default() }, "base = 12 must be in 4 … 1024 and divisible by groups = 8"),
            (VaeConfig { groups: 0, ..Default::default() }, "groups = 0"),
            (VaeConfig { latent: 0, ..Default::default() }, "latent = 0"),
            (VaeConfig { factor: 3, ..Default::default() }, "factor = 3 must be 2, 4 or 8"),
        ] {
            let message = Vae::new(config, &mut Rng::new(1), &Device::Cpu).unwrap_err().to_string();
            assert!(message.contains(wants), "{message}");
        }
        let vae = small(VaeConfig::default())?;
        let fail = |dims: [usize; 4]| {
            let x = Tensor::zeros(&dims[..], DType::F32, &Device::Cpu).unwrap();
            vae.encode(&x).unwrap_err().to_string()
        };
        assert!(fail([1, 1, 8, 8]).contains("images of 1×8×8 do not suit it; they must have 3 channels"));
        assert!(fail([1, 3, 8, 10]).contains("images of 3×8×10"));
        let z = Tensor::zeros((1, 3, 2, 2), DType::F32, &Device::Cpu)?;
        assert!(vae.decode(&z).unwrap_err().to_string().contains("it must have 4 channels"));
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("v.safetensors");
        let load = || Vae::load(&path, &Device::Cpu).unwrap_err().to_string();
        assert!(load().contains("v.safetensors"));
        vae.parameters().save(&path)?;
        assert!(load().contains("it has no description of one"), "{}", load());
        vae.save(&path)?;
        let mut file = Checkpoint::load(&path)?;
        file.tensors.insert("more".to_owned(), Tensor::new(1f32, &Device::Cpu)?);
        file.save(&path)?;
        assert!(load().contains("unexpected tensor more"), "{}", load());
        file.metadata.insert(
            METADATA.to_owned(),
            "{\"config\": {}, \"scale\": 0, \"data\": \"\", \"shape\": [3, 8, 8]}".to_owned(),
        );
        file.save(&path)?;
        assert!(load().contains("its scale is 0, not a positive number"), "{}", load());
        Ok(())
    }
}
