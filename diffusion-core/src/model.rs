//! A trained network and what it was trained for: all that is needed to sample.

mod diffusers;
mod info;

pub use info::ModelInfo;

use crate::guidance::Guidance;
use crate::nn::Checkpoint;
use crate::rng::Rng;
use crate::sampler::{ImageNoise, Noise, Sampler, Source, States};
use crate::unet::{Architecture, Condition, Network};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::path::Path;

/// What a sampler evaluates: the output of the network for a batch x_t at the process's time of each image.
pub type Predict<'a> = Box<dyn FnMut(&Tensor, &[f64]) -> candle_core::Result<Tensor> + 'a>;

/// A network with its [`ModelInfo`]: what `weights/*.safetensors` and a run's `model.safetensors` hold.
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
    /// What it was trained for.
    pub info: ModelInfo,
}

/// What a checkpoint of a training has in its metadata, and what is said of one.
const TRAINING: &str = crate::train::CHECKPOINT;
const IS_TRAINING: &str = "it is a checkpoint of a training, from which the training is resumed; the model is model.safetensors in \
     the folder of the run, once the training has ended or was stopped";

impl Model {
    /// Samples `n` images. Image i follows from `rng` and i alone, not from `n`.
    ///
    /// `guidance` is a [`Condition`], or one with a [scale](Guidance).
    ///
    /// # Shapes
    /// The result is (n, C, H, W), nominally in \[−1, 1\].
    ///
    /// # Errors
    /// `n` = 0, a condition that is not for `n` images or that the network does not take, or as [`Sampler::sample`].
    pub fn sample(&self, n: usize, guidance: impl Into<Guidance>, sampler: &Sampler, rng: &mut Rng) -> Result<Tensor> {
        let steps = ImageNoise::new(rng);
        let noise = self.noise(n, rng)?;
        Ok(self.states_with(&noise, guidance, sampler, steps)?.finish()?)
    }

    /// Samples `n` images, at most `at_once` in a batch, for more images than memory has room for. They are those of
    /// [`Model::sample`].
    ///
    /// # Shapes
    /// As [`Model::sample`].
    ///
    /// # Errors
    /// As [`Model::sample`], or `at_once` = 0.
    pub fn sample_in_batches(
        &self,
        n: usize,
        at_once: usize,
        guidance: impl Into<Guidance>,
        sampler: &Sampler,
        rng: &mut Rng,
    ) -> Result<Tensor> {
        ensure!(at_once > 0, "at_once = 0 images; it must be at least 1");
        let steps = ImageNoise::new(rng);
        let (noise, guidance) = (self.noise(n, rng)?, guidance.into());
        let batches = (0..n).step_by(at_once).map(|start| {
            let len = at_once.min(n - start);
            let (xt, part) = (noise.narrow(0, start, len)?, guidance.narrow(start, len)?);
            Ok(self.states_with(&xt, part, sampler, steps.skip(start))?.finish()?)
        });
        Ok(Tensor::cat(&batches.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// The noise from which `n` images are sampled: x ~ N(0, σ²) with σ = [`NoiseProcess::prior_std`], 1 except for EDM.
    ///
    /// # Shapes
    /// (n, C, H, W).
    ///
    /// # Errors
    /// `n` = 0, or the device is out of memory.
    ///
    /// [`NoiseProcess::prior_std`]: crate::process::NoiseProcess::prior_std
    pub fn noise(&self, n: usize, rng: &mut Rng) -> Result<Tensor> {
        ensure!(n > 0, "n = 0 images; at least 1 is needed");
        self.ensure_room(n)?;
        let [c, h, w] = self.info.shape;
        let noise = rng.randn((n, c, h, w), self.network.device())?;
        Ok(match self.info.process.prior_std() {
            1.0 => noise,
            std => (noise * std)?,
        })
    }

    /// An error unless there is memory for `n` images: the noise, the images, and a copy while batches are put together.
    ///
    /// # Errors
    /// As said: the message has the sizes.
    pub fn ensure_room(&self, n: usize) -> Result<()> {
        let [c, h, w] = self.info.shape;
        let wanted = format!("{n} images of {c}×{h}×{w}");
        crate::device::ensure_room(self.network.device(), &wanted, &[3, n, c, h, w], "draw fewer: --n, n")
            .map_err(|problem| crate::whole(problem.into()))
    }

    /// The output of the network for `xt` at the process's time of each image, with guidance. Its meaning is that of
    /// [`ModelInfo::prediction`].
    ///
    /// # Shapes
    /// `xt` (B, C, H, W), scaled by c_in; `t` B times; the result is as `xt`.
    ///
    /// # Errors
    /// Other shapes, or a condition that the network does not take.
    pub fn predict(&self, xt: &Tensor, t: &[f64], guidance: &Guidance) -> candle_core::Result<Tensor> {
        guidance.predict(xt, t, |xt, t, condition| {
            let times = t.iter().map(|t| self.info.process.network_time(*t));
            self.network.predict(xt, &times.collect::<Vec<_>>(), condition)
        })
    }

    /// The trajectory from the noise `xt` to images, state by state; [`States::finish`] goes to the end.
    ///
    /// # Shapes
    /// `xt` (n, C, H, W), as from [`Model::noise`].
    ///
    /// # Errors
    /// As [`Sampler::states`].
    pub fn states<'a, N: Noise>(
        &'a self,
        xt: &Tensor,
        guidance: impl Into<Guidance>,
        sampler: &Sampler,
        noise: &'a mut N,
    ) -> Result<States<'a, Predict<'a>, N>> {
        self.states_from(xt, guidance, sampler, Source::Lent(noise))
    }

    /// [`Model::states`] with noise of its own: [`ImageNoise`] gives each image the same noise in any batch.
    ///
    /// # Shapes
    /// As [`Model::states`].
    ///
    /// # Errors
    /// As [`Model::states`].
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

    /// The noise from which the images `x0` are sampled, approximately: [`Sampler::encode`].
    ///
    /// # Shapes
    /// `x0` (n, C, H, W), in \[−1, 1\]; the result is as `x0`.
    ///
    /// # Errors
    /// As [`Sampler::encode`].
    pub fn encode(&self, x0: &Tensor, guidance: impl Into<Guidance>, sampler: &Sampler) -> Result<Tensor> {
        let (guidance, info) = (guidance.into(), &self.info);
        let predict = |xt: &Tensor, t: &[f64]| self.predict(xt, t, &guidance);
        Ok(self.sampler(sampler).encode(predict, &info.process, info.prediction, x0)?)
    }

    /// The sampler with the threshold that suits the model's data.
    fn sampler(&self, sampler: &Sampler) -> Sampler {
        Sampler { threshold: sampler.threshold.for_images(self.info.images), ..sampler.clone() }
    }

    /// A context for `n` images, from classes by name with their weights: `[("human", 1.0), ("food", 0.6)]`.
    ///
    /// # Errors
    /// The network takes no context, or there is no class of a name: the message says which there are.
    pub fn mixed(&self, parts: &[(&str, f32)], n: usize) -> Result<Condition> {
        let (k, classes) = (self.network.architecture().context(), &self.info.classes);
        ensure!(k > 0, "the network takes no context; a mixture is one of contexts");
        let mut row = vec![0f32; k];
        for (name, weight) in parts {
            let at = classes.iter().position(|class| class == name);
            let at = at
                .filter(|at| *at < k)
                .with_context(|| format!("there is no class {name:?}; there are {}", classes.join(", ")))?;
            row[at] += weight;
        }
        let rows = Tensor::from_vec(row.repeat(n), (n, k), self.network.device())?;
        Ok(Condition::context(rows))
    }

    /// Conditions for `n` images: all classes in turn; none for an unconditional network.
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
        if k > 0 && n > 0 {
            let rows: Vec<f32> = (0..n * k).map(|i| f32::from(i / k % k == i % k)).collect();
            let rows = Tensor::from_vec(rows, (n, k), self.network.device())?;
            return Ok(Condition::context(rows));
        }
        Ok(Condition::none())
    }

    /// A copy with weights of its own.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn copy(&self) -> Result<Self> {
        Ok(Self { network: self.network.copy()?, info: self.info.clone() })
    }

    /// Writes the model to a safetensors file, weights in f32.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_as(path, DType::F32)
    }

    /// Writes the model with weights of another type: F16 takes half the space.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save_as(&self, path: impl AsRef<Path>, dtype: DType) -> Result<()> {
        self.write(path.as_ref(), dtype, &self.info)
    }

    /// Writes the model with other information than its own.
    pub(crate) fn write(&self, path: &Path, dtype: DType, info: &ModelInfo) -> Result<()> {
        let mut metadata = self.network.metadata()?;
        info.write(&mut metadata)?;
        let tensors = self.network.parameters().values()?;
        let tensors =
            tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.to_dtype(dtype)?))).collect::<Result<_>>()?;
        Checkpoint { tensors, metadata }.save(path)
    }

    /// The model of a file of [`Model::save`]; or of a folder that `save_pretrained` of a diffusers pipeline with a
    /// [`UNet2DModel`](crate::unet::UNet2DModel) wrote, or [`Model::save_diffusers`].
    ///
    /// Such a folder has `unet/config.json`, `unet/diffusion_pytorch_model.safetensors` (or `.bin`) and
    /// `scheduler/scheduler_config.json`, or all three without the folders, as in older ones. What diffusers writes does not say
    /// whether one of the classes stands for any class, so none does.
    ///
    /// # Errors
    /// A file cannot be read, is damaged, or does not hold a model; a folder has a setting that is not supported: the message
    /// names the file and what is wrong.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let of_run = path.join("model.safetensors");
        ensure!(!of_run.is_file(), "{} is the folder of a run; its model is {}", path.display(), of_run.display());
        if path.is_dir() {
            return Self::load_diffusers(path, device);
        }
        Checkpoint::load(path)
            .and_then(|file| Self::from_checkpoint(&file, device))
            .with_context(|| format!("{} is not a model that can be used", path.display()))
            .map_err(crate::whole)
    }

    /// The model of a file of [`Model::save`] whose network was defined outside of diffusion-core: see [`Architecture::custom`].
    ///
    /// # Errors
    /// The file cannot be read, is damaged, does not hold a model, or its network is another: the message names the file and
    /// what is wrong.
    pub fn load_with(path: impl AsRef<Path>, architecture: impl Into<Architecture>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        Checkpoint::load(path)
            .and_then(|file| {
                let network = Network::from_checkpoint_with(&file, architecture, device)?;
                Self::with_network(network, &file)
            })
            .with_context(|| format!("{} is not a model that can be used", path.display()))
            .map_err(crate::whole)
    }

    fn from_checkpoint(file: &Checkpoint, device: &Device) -> Result<Self> {
        ensure!(!file.metadata.contains_key(TRAINING), "{IS_TRAINING}");
        Self::with_network(Network::from_checkpoint(file, device)?, file)
    }

    fn with_network(network: Network, file: &Checkpoint) -> Result<Self> {
        let info = ModelInfo::read(&file.metadata)?
            .context("it holds a network without what it was trained for; load it with Network::load")?;
        let [channels, height, width] = info.shape;
        ensure!(
            channels == network.architecture().channels(),
            "it is for images of {channels} channels, and its network for {}",
            network.architecture().channels()
        );
        network.architecture().check_size(height, width)?;
        Ok(Self { network, info })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prediction::Prediction;
    use crate::process::NoiseProcess;
    use crate::schedule::{Betas, Schedule};
    use crate::unet::SimpleUNet;

    fn model(change: impl FnOnce(&mut ModelInfo)) -> Result<Model> {
        let small = SimpleUNet { base: 4, groups: 2, classes: 2, ..Default::default() };
        let mut info = ModelInfo {
            process: Schedule::cosine(100)?.into(),
            prediction: Prediction::V,
            classes: vec!["a".to_owned(), "b".to_owned()],
            data: "tiny".to_owned(),
            images_seen: 7,
            ..ModelInfo::new([1, 8, 8])
        };
        change(&mut info);
        let network = Network::new(small, &mut Rng::new(1), &Device::Cpu)?;
        let last = network.parameters().get("conv_out.weight").context("the last layer")?;
        last.set(&last.ones_like()?)?;
        Ok(Model { network, info })
    }

    fn numbers(x: &Tensor) -> Result<Vec<f32>> {
        Ok(x.flatten_all()?.to_vec1()?)
    }

    #[test]
    fn a_file_alone_gives_the_model_back() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("m.safetensors");
        let sampler = Sampler::ddim(5);
        let sample = |m: &Model| m.sample(2, Condition::labels([0, 1]), &sampler, &mut Rng::new(2));
        let own = Schedule::from_betas("own", vec![0.1, 1.0 / 3.0, 0.5, 0.7, 0.9])?;
        for (process, prediction) in [
            (Schedule::cosine(100)?.into(), Prediction::V),
            (own.into(), Prediction::Eps),
            (NoiseProcess::Flow { shift: 3.0 }, Prediction::Velocity),
            (NoiseProcess::edm(), Prediction::EDM),
        ] {
            let model = model(|info| (info.process, info.prediction) = (process, prediction))?;
            model.save(&path)?;
            let again = Model::load(&path, &Device::Cpu)?;
            assert_eq!(again.info, model.info);
            assert_eq!(again.network.architecture(), model.network.architecture());
            assert_eq!(numbers(&sample(&model)?)?, numbers(&sample(&again)?)?);
        }
        let (half, model) = (folder.path().join("half.safetensors"), model(|_| ())?);
        model.save_as(&half, DType::F16)?;
        assert!(half.metadata()?.len() * 10 < path.metadata()?.len() * 7);
        let (a, b) = (sample(&model)?, sample(&Model::load(&half, &Device::Cpu)?)?);
        let off = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(off > 0.0 && off < 0.05, "{off}");
        Ok(())
    }

    /// Image i follows from the seed and i alone: for every sampler, number of images and batch.
    #[test]
    fn an_image_does_not_depend_on_those_beside_it() -> Result<()> {
        let model = model(|_| ())?;
        let samplers = [
            Sampler::ddpm(),
            Sampler { solver: crate::sampler::Solver::Ddim { eta: 0.7 }, ..Sampler::ddim(10) },
            Sampler::ddim(5),
            Sampler::heun(4),
            Sampler::dpm_solver(4),
        ];
        for sampler in &samplers {
            let conditions = |n: usize| Condition::labels((0..n).map(|i| i % 2));
            let all = model.sample(5, conditions(5), sampler, &mut Rng::new(3))?;
            let batches = model.sample_in_batches(5, 2, conditions(5), sampler, &mut Rng::new(3))?;
            let fewer = model.sample(3, conditions(3), sampler, &mut Rng::new(3))?;
            let off = |a: &Tensor, b: &Tensor| -> Result<f32> { Ok((a - b)?.abs()?.max_all()?.to_scalar()?) };
            assert!(off(&all, &batches)? < 1e-5, "{sampler:?}");
            assert!(off(&all.narrow(0, 0, 3)?, &fewer)? < 1e-5, "{sampler:?}");
            assert!(off(&all.narrow(0, 0, 1)?, &all.narrow(0, 2, 1)?)? > 0.01, "{sampler:?}");
        }
        // Two calls with one generator differ.
        let rng = &mut Rng::new(3);
        let twice = [(); 2].map(|()| model.sample(2, conditions_of_two(), &samplers[0], rng));
        let [first, second] = twice;
        assert!(numbers(&first?)? != numbers(&second?)?);
        Ok(())
    }

    fn conditions_of_two() -> Condition {
        Condition::labels([0, 1])
    }

    #[test]
    fn a_sampler_says_at_which_step_numbers_are_not_finite() -> Result<()> {
        let model = model(|_| ())?;
        let noise = model.noise(2, &mut Rng::new(1))?;
        let mut calls = 0;
        let predict = |x: &Tensor, _: &[f64]| {
            calls += 1;
            if calls == 3 { x / 0.0 } else { x.zeros_like() }
        };
        let sampler = Sampler { threshold: crate::sampler::Threshold::None, ..Sampler::ddim(5) };
        let found = sampler.sample(predict, model.info.process.clone(), Prediction::Eps, &noise, &mut Rng::new(1));
        let message = found.unwrap_err().to_string();
        assert!(message.contains("after step 3 of 5 (t = 59) not all numbers are finite"), "{message}");
        Ok(())
    }

    /// Images are kept in their range, other data is not.
    #[test]
    fn the_threshold_follows_the_data() -> Result<()> {
        let largest = |images: bool| -> Result<f32> {
            let model = model(|info| (info.images, info.process) = (images, NoiseProcess::edm()))?;
            let x = model.sample(2, Condition::none(), &Sampler::ddim(3), &mut Rng::new(2))?;
            Ok(x.abs()?.max_all()?.to_scalar()?)
        };
        assert!(largest(true)? <= 1.0 && largest(false)? > 1.0);
        let noise = model(|info| info.process = NoiseProcess::edm())?.noise(50, &mut Rng::new(1))?;
        let std = noise.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt();
        assert!((std / 80.0 - 1.0).abs() < 0.05, "{std}");
        Ok(())
    }

    /// `golden/model_before_processes.safetensors` was written when files knew the discrete process alone.
    #[test]
    fn files_of_before_load() -> Result<()> {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/model_before_processes.safetensors");
        assert_eq!(Model::load(golden, &Device::Cpu)?.info, model(|_| ())?.info);
        Ok(())
    }

    #[test]
    fn what_is_no_model_is_named() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("m.safetensors");
        let fail = || Model::load(&path, &Device::Cpu).unwrap_err().to_string();
        assert!(fail().contains("m.safetensors"));
        let good = model(|_| ())?;
        good.network.save(&path)?;
        assert!(fail().contains("a network without what it was trained for"), "{}", fail());
        good.network.parameters().save(&path)?;
        assert!(fail().contains("does not say what network"), "{}", fail());
        for (model, wants) in [
            (model(|info| info.shape = [3, 8, 8])?, "images of 3 channels, and its network for 1"),
            (model(|info| info.shape = [1, 8, 9])?, "an image of 8×9"),
            (model(|info| info.process = NoiseProcess::Flow { shift: 0.0 })?, "shift = 0"),
            (model(|info| info.prediction = Prediction::Edm { sigma_data: -1.0 })?, "sigma-data = -1"),
            (model(|info| (info.process, info.prediction) = (NoiseProcess::flow(), Prediction::Eps))?, "use velocity"),
        ] {
            model.save(&path)?;
            assert!(fail().contains(wants), "{:?} lacks {wants:?}", fail());
        }
        let before = |steps: &str, betas: &str| -> Result<String> {
            let mut metadata = good.network.metadata()?;
            let text = format!(
                r#"{{"steps":{steps},"betas":{betas},"param":"v","shape":[1,8,8],"classes":[],"data":"","images_seen":0}}"#
            );
            metadata.insert("process".to_owned(), text);
            Checkpoint { tensors: good.network.parameters().values()?, metadata }.save(&path)?;
            Ok(fail())
        };
        let linear = serde_json::to_string(&Betas::LINEAR)?;
        for (message, wants) in [
            (before("1", &linear)?, "timesteps = 1"),
            (before("-1", &linear)?, "-1"),
            (before("9", r#"{"linear":{"start":2}}"#)?, "start = 2"),
            (before("9", r#""cubic""#)?, "cubic"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        // The size that a file claims must not be believed.
        let mut file = Checkpoint::default();
        let absurd = r#"{"simple-unet":{"base":1024,"groups":8}}"#;
        file.metadata.insert("architecture".to_owned(), absurd.to_owned());
        file.save(&path)?;
        assert!(fail().contains("missing: time_embedding.linear1.weight"), "{}", fail());
        Ok(())
    }
}
