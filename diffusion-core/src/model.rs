//! A trained network and what its answers mean: all that is needed to sample.

mod diffusers;

use crate::diffusion::Param;
use crate::guidance::Guidance;
use crate::nn::Checkpoint;
use crate::rng::Rng;
use crate::sampler::{Noise, Sampler, States};
use crate::schedule::{Betas, Schedule};
use crate::unet::{Architecture, Condition, Network};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Under this name a file says what the network was trained for.
const METADATA: &str = "process";

/// What a network was trained for: the noise it knows, what its answers mean, and which images come out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// T.
    pub steps: usize,
    /// The variances of the forward process.
    pub betas: Betas,
    /// What the network's answer means.
    pub param: Param,
    /// (C, H, W) of an image.
    pub shape: [usize; 3],
    /// The names of the classes that the data had, by number.
    pub classes: Vec<String>,
    /// The name of the data.
    pub data: String,
    /// How many images the network has seen in training, repetitions counted.
    pub images_seen: u64,
}

impl Process {
    /// The forward process.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn schedule(&self) -> candle_core::Result<Schedule> {
        Schedule::new(self.steps, self.betas)
    }
}

/// What a sampler asks: the answer to x_t at the time step of each image.
pub type Predict<'a> = Box<dyn FnMut(&Tensor, &[usize]) -> candle_core::Result<Tensor> + 'a>;

/// A network with its [`Process`]: what `weights/*.safetensors` and a run's `model.safetensors` hold.
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
    pub process: Process,
}

impl Model {
    /// `n` images, from noise that `rng` draws.
    ///
    /// `guidance` is a [`Condition`], or one with a [scale](Guidance).
    ///
    /// # Shapes
    /// The result is (n, C, H, W), nominally in \[−1, 1\].
    ///
    /// # Errors
    /// `n` = 0, a condition that is not for `n` images or unknown to the network, or as [`Sampler::sample`].
    pub fn sample(
        &self,
        n: usize,
        guidance: impl Into<Guidance>,
        sampler: &Sampler,
        rng: &mut Rng,
    ) -> Result<Tensor> {
        let noise = self.noise(n, rng)?;
        Ok(self.states(&noise, guidance, sampler, rng)?.finish()?)
    }

    /// The same, at most `at_once` images in a batch, for more images than memory has room for.
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
        let (noise, guidance) = (self.noise(n, rng)?, guidance.into());
        let batches = (0..n).step_by(at_once).map(|start| {
            let len = at_once.min(n - start);
            let (xt, part) = (noise.narrow(0, start, len)?, guidance.narrow(start, len)?);
            Ok(self.states(&xt, part, sampler, rng)?.finish()?)
        });
        Ok(Tensor::cat(&batches.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// Where `n` images begin: x_T, standard normal.
    ///
    /// # Shapes
    /// (n, C, H, W).
    ///
    /// # Errors
    /// `n` = 0, or there is no memory.
    pub fn noise(&self, n: usize, rng: &mut Rng) -> Result<Tensor> {
        ensure!(n > 0, "n = 0 images were asked for; ask for at least 1");
        let [c, h, w] = self.process.shape;
        Ok(rng.randn((n, c, h, w), self.network.device())?)
    }

    /// The way from the noise `xt` to images, state by state; [`States::finish`] goes to the end.
    ///
    /// # Shapes
    /// `xt` (n, C, H, W), standard normal.
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
        let (schedule, param, guidance) = (
            self.process.schedule()?,
            self.process.param,
            guidance.into(),
        );
        let predict = move |xt: &Tensor, t: &[usize]| guidance.predict(&self.network, xt, t);
        let predict: Predict = Box::new(predict);
        Ok(sampler.states(predict, &schedule, param, xt, noise)?)
    }

    /// The noise from which the images `x0` come, nearly: [`Sampler::encode`].
    ///
    /// # Shapes
    /// `x0` (n, C, H, W), in \[−1, 1\]; the result is as `x0`.
    ///
    /// # Errors
    /// As [`Sampler::encode`].
    pub fn encode(
        &self,
        x0: &Tensor,
        guidance: impl Into<Guidance>,
        sampler: &Sampler,
    ) -> Result<Tensor> {
        let guidance = guidance.into();
        let predict = |xt: &Tensor, t: &[usize]| guidance.predict(&self.network, xt, t);
        Ok(sampler.encode(predict, &self.process.schedule()?, self.process.param, x0)?)
    }

    /// A context for `n` images, from classes by name with their weights: `[("human", 1.0), ("food", 0.6)]`.
    ///
    /// # Errors
    /// The network takes no context, or there is no class of a name: the message says which there are.
    pub fn mixed(&self, parts: &[(&str, f32)], n: usize) -> Result<Condition> {
        let (k, classes) = (self.network.architecture().context(), &self.process.classes);
        ensure!(
            k > 0,
            "the network takes no context; a mixture is one of contexts"
        );
        let mut row = vec![0f32; k];
        for (name, weight) in parts {
            let at = classes.iter().position(|class| class == name);
            let at = at.filter(|at| *at < k).with_context(|| {
                format!(
                    "there is no class {name:?}; there are {}",
                    classes.join(", ")
                )
            })?;
            row[at] += weight;
        }
        let rows = Tensor::from_vec(row.repeat(n), (n, k), self.network.device())?;
        Ok(Condition::context(rows))
    }

    /// What `n` images can show: all classes in turn, each alone; nothing for an unconditional network.
    ///
    /// # Errors
    /// The device has no room for a context.
    pub fn conditions(&self, n: usize) -> Result<Condition> {
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

    /// Writes everything to a safetensors file, weights in f32.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_as(path, DType::F32)
    }

    /// The same with weights of another type: F16 takes half the room.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save_as(&self, path: impl AsRef<Path>, dtype: DType) -> Result<()> {
        let mut metadata = self.network.metadata()?;
        metadata.insert(METADATA.to_owned(), serde_json::to_string(&self.process)?);
        let tensors = self.network.parameters().values()?;
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.to_dtype(dtype)?)))
            .collect::<Result<_>>()?;
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
    /// A file cannot be read, is damaged, or does not hold a model; a folder says something that is not known here: the message
    /// names the file and what is wrong.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let of_run = path.join("model.safetensors");
        ensure!(
            !of_run.is_file(),
            "{} is the folder of a run; its model is {}",
            path.display(),
            of_run.display()
        );
        if path.is_dir() {
            return Self::load_diffusers(path, device);
        }
        Checkpoint::load(path)
            .and_then(|file| Self::from_checkpoint(&file, device))
            .with_context(|| format!("{} is not a model that can be used", path.display()))
            .map_err(crate::whole)
    }

    /// The model of a file of [`Model::save`] whose network was defined outside of diffusion-core:
    /// [`Architecture::custom`](crate::unet::Architecture::custom).
    ///
    /// # Errors
    /// The file cannot be read, is damaged, does not hold a model, or its network is another: the message names the file and what
    /// is wrong.
    pub fn load_with(
        path: impl AsRef<Path>,
        architecture: impl Into<Architecture>,
        device: &Device,
    ) -> Result<Self> {
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
        Self::with_network(Network::from_checkpoint(file, device)?, file)
    }

    fn with_network(network: Network, file: &Checkpoint) -> Result<Self> {
        let process = file.metadata.get(METADATA).context(
            "it holds a network alone and does not say what it was trained for; Network::load reads it",
        )?;
        let process: Process = serde_json::from_str(process)
            .with_context(|| format!("what it says it was trained for is not known: {process}"))?;
        process.schedule()?;
        let [channels, height, width] = process.shape;
        ensure!(
            channels == network.architecture().channels(),
            "it is for images of {channels} channels, and its network for {}",
            network.architecture().channels()
        );
        network.architecture().check_size(height, width)?;
        Ok(Self { network, process })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unet::SimpleUNet;

    fn model(process: impl FnOnce(&mut Process)) -> Result<Model> {
        let small = SimpleUNet {
            base: 4,
            groups: 2,
            classes: 2,
            ..Default::default()
        };
        let mut it = Process {
            steps: 100,
            betas: Betas::COSINE,
            param: Param::V,
            shape: [1, 8, 8],
            classes: vec!["a".to_owned(), "b".to_owned()],
            data: "tiny".to_owned(),
            images_seen: 7,
        };
        process(&mut it);
        let network = Network::new(small, &mut Rng::new(1), &Device::Cpu)?;
        let last = network
            .parameters()
            .get("conv_out.weight")
            .context("the last layer")?;
        last.set(&last.ones_like()?)?;
        Ok(Model {
            network,
            process: it,
        })
    }

    fn numbers(x: &Tensor) -> Result<Vec<f32>> {
        Ok(x.flatten_all()?.to_vec1()?)
    }

    #[test]
    fn a_file_alone_gives_the_model_back() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (path, model) = (folder.path().join("m.safetensors"), model(|_| ())?);
        model.save(&path)?;
        let again = Model::load(&path, &Device::Cpu)?;
        assert_eq!(again.process, model.process);
        assert_eq!(again.network.architecture(), model.network.architecture());
        let sampler = Sampler::ddim(5);
        let sample = |m: &Model| m.sample(2, Condition::labels([0, 1]), &sampler, &mut Rng::new(2));
        assert_eq!(numbers(&sample(&model)?)?, numbers(&sample(&again)?)?);

        let half = folder.path().join("half.safetensors");
        model.save_as(&half, DType::F16)?;
        assert!(half.metadata()?.len() * 10 < path.metadata()?.len() * 7);
        let (a, b) = (sample(&model)?, sample(&Model::load(&half, &Device::Cpu)?)?);
        let off = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(off > 0.0 && off < 0.05, "{off}");
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
        assert!(
            fail().contains("does not say what it was trained for"),
            "{}",
            fail()
        );
        good.network.parameters().save(&path)?;
        assert!(fail().contains("does not say what network"), "{}", fail());
        for (process, wants) in [
            (
                model(|p| p.shape = [3, 8, 8])?,
                "images of 3 channels, and its network for 1",
            ),
            (model(|p| p.shape = [1, 8, 9])?, "an image of 8×9"),
            (model(|p| p.steps = 1)?, "steps = 1"),
        ] {
            process.save(&path)?;
            assert!(fail().contains(wants), "{:?} lacks {wants:?}", fail());
        }
        // A file that claims to be larger than it is must not be believed.
        let mut file = Checkpoint::default();
        let absurd = r#"{"simple-unet":{"base":1024,"groups":8}}"#;
        file.metadata
            .insert("architecture".to_owned(), absurd.to_owned());
        file.save(&path)?;
        assert!(
            fail().contains("missing: time_embedding.linear1.weight"),
            "{}",
            fail()
        );
        Ok(())
    }
}
