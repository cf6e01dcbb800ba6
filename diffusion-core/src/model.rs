//! Trained models: a network with its noise process, prediction type and data, ready for sampling.

mod diffusers;
mod info;

pub use info::ModelInfo;

use crate::guidance::Guidance;
use crate::latent::{Autoencoder, Vae};
use crate::nn::Checkpoint;
use crate::rng::Rng;
use crate::sampler::{ImageNoise, Noise, Sampler, Source, States};
use crate::unet::{Architecture, Condition, Network};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::path::Path;

/// The network as a sampler evaluates it: its output for a batch x_t and the process's time of each image.
pub type Predict<'a> = Box<dyn FnMut(&Tensor, &[f64]) -> candle_core::Result<Tensor> + 'a>;

/// A network with its [`ModelInfo`], as stored in `weights/*.safetensors` and in a run's `model.safetensors`.
///
/// ```no_run
/// use diffusion_core::{candle::Device, model::Model, rng::Rng, sampler::Sampler, show::Grid, unet::Condition};
/// let model = Model::load("weights/mnist.safetensors", &Device::Cpu)?;
/// let digits = model.sample(8, Condition::labels([7; 8]), &Sampler::default(), &mut Rng::new(1))?;
/// Grid::new(&digits)?.save("sevens.png")?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Model {
    /// The network.
    pub network: Network,
    /// Its noise process, prediction type and data.
    pub info: ModelInfo,
    /// The autoencoder of a latent model, whose network works on latents: [`Model::sample`] and [`Model::decode`] return
    /// images, everything else takes and returns latents.
    pub autoencoder: Option<Vae>,
}

/// The metadata key of training checkpoints, and the error for one.
const TRAINING: &str = crate::train::CHECKPOINT;
const IS_TRAINING: &str = "it is a checkpoint to resume training from; the model is model.safetensors in the run's \
     folder, which is written when the training ends or is stopped";

/// The prefix of the autoencoder's tensors in the file of a model.
const AUTOENCODER: &str = "autoencoder.";

impl Model {
    /// A model of a network and its information.
    pub fn new(network: Network, info: ModelInfo) -> Self {
        Self { network, info, autoencoder: None }
    }

    /// The same model of the latents of an autoencoder.
    ///
    /// # Errors
    /// The autoencoder's latents have another number of channels than [`ModelInfo::shape`], or the network enlarges
    /// images.
    pub fn with_autoencoder(self, vae: Vae) -> Result<Self> {
        ensure!(
            self.network.architecture().low_res() == 0,
            "a network that enlarges images cannot work on the latents of an autoencoder"
        );
        let ([channels, ..], latent) = (self.info.shape, vae.config().latent);
        ensure!(
            channels == latent,
            "the network is for latents with {channels} channels, but the latents of the autoencoder have {latent}"
        );
        Ok(Self { autoencoder: Some(vae), ..self })
    }

    /// Samples `n` images. Image i depends only on `rng` and i, not on `n`.
    ///
    /// `guidance` is a [`Condition`], or a condition with a [scale](Guidance).
    ///
    /// # Shapes
    /// The result is (n, C, H, W), nominally in \[−1, 1\].
    ///
    /// # Errors
    /// `n` = 0, the condition is not for `n` images or does not suit the network, or see [`Sampler::sample`].
    pub fn sample(&self, n: usize, guidance: impl Into<Guidance>, sampler: &Sampler, rng: &mut Rng) -> Result<Tensor> {
        let steps = ImageNoise::new(rng);
        let noise = self.noise(n, rng)?;
        self.decode(&self.states_with(&noise, guidance, sampler, steps)?.finish()?)
    }

    /// Samples `n` images in batches of at most `at_once`, for more images than fit into memory at once. The images are
    /// those of [`Model::sample`].
    ///
    /// # Shapes
    /// See [`Model::sample`].
    ///
    /// # Errors
    /// See [`Model::sample`]; or `at_once` = 0.
    pub fn sample_in_batches(
        &self,
        n: usize,
        at_once: usize,
        guidance: impl Into<Guidance>,
        sampler: &Sampler,
        rng: &mut Rng,
    ) -> Result<Tensor> {
        ensure!(at_once > 0, "at_once = 0 must be at least 1");
        let steps = ImageNoise::new(rng);
        let (noise, guidance) = (self.noise(n, rng)?, guidance.into());
        let batches = (0..n).step_by(at_once).map(|start| {
            let len = at_once.min(n - start);
            let (xt, part) = (noise.narrow(0, start, len)?, guidance.narrow(start, len)?);
            self.decode(&self.states_with(&xt, part, sampler, steps.skip(start))?.finish()?)
        });
        Ok(Tensor::cat(&batches.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// The images of samples: of a latent model those that its autoencoder decodes, otherwise `x` itself.
    ///
    /// # Shapes
    /// `x` (n, C, H, W) with the shape of [`ModelInfo::shape`]; the result has that of [`Model::image_shape`].
    ///
    /// # Errors
    /// The shape is wrong.
    pub fn decode(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match &self.autoencoder {
            Some(vae) => vae.decode(x)?,
            None => x.clone(),
        })
    }

    /// The latents of images, as the network of a latent model sees them; otherwise `images` themselves.
    ///
    /// # Shapes
    /// `images` (n, C, H, W) with the shape of [`Model::image_shape`], in \[−1, 1\]; the result has that of
    /// [`ModelInfo::shape`].
    ///
    /// # Errors
    /// The shape is wrong.
    pub fn latents(&self, images: &Tensor) -> Result<Tensor> {
        Ok(match &self.autoencoder {
            Some(vae) => vae.encode(&images.to_device(self.network.device())?)?,
            None => images.clone(),
        })
    }

    /// The shape (C, H, W) of the images: of a latent model it is larger than [`ModelInfo::shape`].
    pub fn image_shape(&self) -> [usize; 3] {
        match (&self.autoencoder, self.info.shape) {
            (Some(vae), [_, height, width]) => {
                let config = vae.config();
                [config.channels, config.factor * height, config.factor * width]
            }
            (None, shape) => shape,
        }
    }

    /// Draws the noise that `n` images start from: x ~ N(0, σ²) with σ = [`NoiseProcess::prior_std`], 1 except for EDM.
    ///
    /// # Shapes
    /// (n, C, H, W).
    ///
    /// # Errors
    /// `n` = 0, or the device is out of memory.
    ///
    /// [`NoiseProcess::prior_std`]: crate::process::NoiseProcess::prior_std
    pub fn noise(&self, n: usize, rng: &mut Rng) -> Result<Tensor> {
        ensure!(n > 0, "n = 0 must be at least 1");
        self.ensure_room(n)?;
        let [c, h, w] = self.info.shape;
        let noise = rng.randn((n, c, h, w), self.network.device())?;
        Ok(match self.info.process.prior_std() {
            1.0 => noise,
            std => (noise * std)?,
        })
    }

    /// Checks that there is memory for `n` images: the noise, the images, and a copy while batches are concatenated.
    ///
    /// # Errors
    /// There is not enough memory: the message states the sizes.
    pub fn ensure_room(&self, n: usize) -> Result<()> {
        let [c, h, w] = self.image_shape();
        let wanted = format!("{n} images of {c}×{h}×{w}");
        crate::device::ensure_room(self.network.device(), &wanted, &[3, n, c, h, w], "draw fewer: --n, n")
            .map_err(|problem| crate::whole(problem.into()))
    }

    /// The output of the network for `xt` with guidance; [`ModelInfo::prediction`] is its type. `t` holds the process's
    /// time of each image.
    ///
    /// # Shapes
    /// `xt` (B, C, H, W), scaled by c_in; `t` B times; the result has the shape of `xt`.
    ///
    /// # Errors
    /// A shape is wrong, or the condition does not suit the network.
    pub fn predict(&self, xt: &Tensor, t: &[f64], guidance: &Guidance) -> candle_core::Result<Tensor> {
        guidance.predict(xt, t, |xt, t, condition| {
            let times = t.iter().map(|t| self.info.process.network_time(*t));
            self.network.predict(xt, &times.collect::<Vec<_>>(), condition)
        })
    }

    /// The trajectory from the noise `xt` to images, step by step; [`States::finish`] returns the images.
    ///
    /// # Shapes
    /// `xt` (n, C, H, W), for example from [`Model::noise`].
    ///
    /// # Errors
    /// See [`Sampler::states`].
    pub fn states<'a, N: Noise>(
        &'a self,
        xt: &Tensor,
        guidance: impl Into<Guidance>,
        sampler: &Sampler,
        noise: &'a mut N,
    ) -> Result<States<'a, Predict<'a>, N>> {
        self.states_from(xt, guidance, sampler, Source::Lent(noise))
    }

    /// [`Model::states`] with a given source of noise: [`ImageNoise`] gives each image the same noise in any batch.
    ///
    /// # Shapes
    /// See [`Model::states`].
    ///
    /// # Errors
    /// See [`Model::states`].
    pub fn states_with<'a, N: Noise>(
        &'a self,
        xt: &Tensor,
        guidance: impl Into<Guidance>,
        sampler: &Sampler,
        noise: N,
    ) -> Result<States<'a, Predict<'a>, N>> {
        self.states_from(xt, guidance, sampler, Source::Kept(noise))
    }

    fn states_from<'a, N: Noise>(
        &'a self,
        xt: &Tensor,
        guidance: impl Into<Guidance>,
        sampler: &Sampler,
        noise: Source<'a, N>,
    ) -> Result<States<'a, Predict<'a>, N>> {
        let guidance = guidance.into();
        let predict: Predict = Box::new(move |xt, t| self.predict(xt, t, &guidance));
        let info = &self.info;
        Ok(self.sampler(sampler).states_from(predict, info.process.clone(), info.prediction, xt, noise)?)
    }

    /// Encodes the images `x0` into noise from which they can be sampled approximately: [`Sampler::encode`].
    ///
    /// # Shapes
    /// `x0` (n, C, H, W), in \[−1, 1\]; the result has the shape of `x0`.
    ///
    /// # Errors
    /// See [`Sampler::encode`].
    pub fn encode(&self, x0: &Tensor, guidance: impl Into<Guidance>, sampler: &Sampler) -> Result<Tensor> {
        let (guidance, info) = (guidance.into(), &self.info);
        let predict = |xt: &Tensor, t: &[f64]| self.predict(xt, t, &guidance);
        Ok(self.sampler(sampler).encode(predict, &info.process, info.prediction, x0)?)
    }

    /// The sampler with the threshold for the model's data.
    fn sampler(&self, sampler: &Sampler) -> Sampler {
        Sampler { threshold: sampler.threshold.for_images(self.info.images), ..sampler.clone() }
    }

    /// A context for `n` images that mixes classes with weights, `[("human", 1.0), ("food", 0.6)]`, or sets attributes,
    /// `[("Smiling", 1.0), ("Eyeglasses", -1.0)]`. All others are 0.
    ///
    /// # Errors
    /// The network takes no context, or a name does not exist: the message lists the names.
    pub fn mixed(&self, parts: &[(&str, f32)], n: usize) -> Result<Condition> {
        let (k, names) = (self.network.architecture().context(), self.info.context_names());
        ensure!(k > 0, "the network takes no context, so classes cannot be mixed");
        let what = if self.info.context.is_empty() { ("class", "classes") } else { ("attribute", "attributes") };
        let mut row = vec![0f32; k];
        for (name, weight) in parts {
            let at = names.iter().position(|known| known == name).filter(|at| *at < k);
            let at = at
                .with_context(|| format!("there is no {} {name:?}; the {} are {}", what.0, what.1, names.join(", ")))?;
            row[at] += weight;
        }
        let rows = Tensor::from_vec(row.repeat(n), (n, k), self.network.device())?;
        Ok(Condition::context(rows))
    }

    /// A text as the condition of each image, for example `model.prompt(["a red dragon"; 8])`; a text without words is
    /// the null condition.
    ///
    /// # Errors
    /// The model does not read text; a word is unknown: the message names it and the nearest known words; or a text is
    /// too long.
    pub fn prompt<S: AsRef<str>>(&self, texts: impl IntoIterator<Item = S>) -> Result<Condition> {
        let vocabulary = self.info.vocabulary.as_ref();
        let vocabulary = vocabulary.context("the model is not conditioned on text, so it cannot be prompted")?;
        Ok(Condition::tokens(vocabulary.tokens(texts)?))
    }

    /// Conditions for `n` images, with all classes or some captions of the training data in turn; no condition for an
    /// unconditional network or one that is conditioned on attributes.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn conditions(&self, n: usize) -> Result<Condition> {
        self.ensure_room(n)?;
        let architecture = self.network.architecture();
        let (classes, k) = (architecture.classes(), architecture.context());
        if classes > 0 {
            return Ok(Condition::labels((0..n).map(|i| i % classes)));
        }
        if k > 0 && n > 0 && self.info.context.is_empty() {
            let rows: Vec<f32> = (0..n * k).map(|i| f32::from(i / k % k == i % k)).collect();
            let rows = Tensor::from_vec(rows, (n, k), self.network.device())?;
            return Ok(Condition::context(rows));
        }
        if let Some(vocabulary) = &self.info.vocabulary {
            return Ok(Condition::tokens(vocabulary.known(vocabulary.examples().iter().cycle().take(n))));
        }
        Ok(Condition::none())
    }

    /// Copies the model, with its own weights.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn copy(&self) -> Result<Self> {
        let autoencoder = self.autoencoder.as_ref().map(Vae::copy).transpose()?;
        Ok(Self { network: self.network.copy()?, info: self.info.clone(), autoencoder })
    }

    /// Writes the model to a safetensors file with f32 weights.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_as(path, DType::F32)
    }

    /// Writes the model with weights of another type; F16 halves the size.
    ///
    /// # Errors
    /// See [`Model::save`].
    pub fn save_as(&self, path: impl AsRef<Path>, dtype: DType) -> Result<()> {
        self.write(path.as_ref(), dtype, &self.info)
    }

    /// Writes the model with different information.
    pub(crate) fn write(&self, path: &Path, dtype: DType, info: &ModelInfo) -> Result<()> {
        let mut metadata = self.network.metadata()?;
        info.write(&mut metadata)?;
        let tensors = self.network.parameters().values()?;
        let tensors =
            tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.to_dtype(dtype)?))).collect::<Result<_>>()?;
        let mut file = Checkpoint { tensors, metadata };
        if let Some(vae) = &self.autoencoder {
            vae.write(&mut file, AUTOENCODER, dtype)?;
        }
        file.save(path)
    }

    /// Loads a model from a file of [`Model::save`], or from a folder written by [`Model::save_diffusers`] or by
    /// `save_pretrained` of a diffusers pipeline with a [`UNet2DModel`](crate::unet::UNet2DModel).
    ///
    /// Such a folder contains `unet/config.json`, `unet/diffusion_pytorch_model.safetensors` (or `.bin`) and
    /// `scheduler/scheduler_config.json`; in older folders the three files are not in subfolders. diffusers does not
    /// record whether one of the classes is the null class, so none is.
    ///
    /// # Errors
    /// A file cannot be read, is damaged, or does not hold a model, or a folder has an unsupported setting: the message
    /// names the file and the problem.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let of_run = path.join("model.safetensors");
        ensure!(!of_run.is_file(), "{} is the folder of a run; load its model {}", path.display(), of_run.display());
        if path.is_dir() {
            return Self::load_diffusers(path, device);
        }
        Checkpoint::load(path)
            .and_then(|file| Self::from_checkpoint(file, device))
            .with_context(|| format!("cannot use {} as a model", path.display()))
            .map_err(crate::whole)
    }

    /// Loads a model from a file of [`Model::save`] whose network is defined outside of diffusion-core: see
    /// [`Architecture::custom`].
    ///
    /// # Errors
    /// The file cannot be read, is damaged, does not hold a model, or holds a different network: the message names the
    /// file and the problem.
    pub fn load_with(path: impl AsRef<Path>, architecture: impl Into<Architecture>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        Checkpoint::load(path)
            .and_then(|mut file| {
                let vae = Vae::take(&mut file, AUTOENCODER, device)?;
                let network = Network::from_checkpoint_with(&file, architecture, device)?;
                Self::with_network(network, &file, vae)
            })
            .with_context(|| format!("cannot use {} as a model", path.display()))
            .map_err(crate::whole)
    }

    fn from_checkpoint(mut file: Checkpoint, device: &Device) -> Result<Self> {
        ensure!(!file.metadata.contains_key(TRAINING), "{IS_TRAINING}");
        ensure!(
            !Vae::is_alone(&file),
            "it is an autoencoder; load it with Vae::load, or train a model of its latents with --autoencoder"
        );
        let vae = Vae::take(&mut file, AUTOENCODER, device)?;
        Self::with_network(Network::from_checkpoint(&file, device)?, &file, vae)
    }

    fn with_network(network: Network, file: &Checkpoint, vae: Option<Vae>) -> Result<Self> {
        let info = ModelInfo::read(&file.metadata)?
            .context("it holds a network without a noise process and prediction type; load it with Network::load")?;
        let [channels, height, width] = info.shape;
        ensure!(
            channels == network.architecture().channels(),
            "it is for images with {channels} channels, but its network for {}",
            network.architecture().channels()
        );
        network.architecture().check_size(height, width)?;
        if let Some(words) = info.vocabulary.as_ref().map(|vocabulary| vocabulary.words().len()) {
            let known = network.architecture().conditioning().vocabulary;
            ensure!(words == known, "it has {words} words, but its network reads {known}");
        }
        ensure!(
            [0, network.architecture().context()].contains(&info.context.len()),
            "it names {} context values, but its network takes {}",
            info.context.len(),
            network.architecture().context()
        );
        let model = Self::new(network, info);
        match vae {
            Some(vae) => model.with_autoencoder(vae),
            None => Ok(model),
        }
    }
}

#[cfg(test)]
mod tests;
