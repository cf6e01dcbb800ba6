//! One type for every network: what it is, its weights, and how it is evaluated.

use super::{Architecture, Condition, Denoiser, Summary};
use crate::device::Precision;
use crate::nn::{Checkpoint, Parameters};
use crate::ops::four;
use crate::rng::Rng;
use anyhow::Context;
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use std::collections::HashMap;
use std::path::Path;

/// Under this name a file says what network its tensors belong to.
const METADATA: &str = "architecture";

/// A network with its weights.
///
/// Parameters have the names and shapes of the PyTorch networks that the tests compare them with. The last layer of each
/// begins with zeros, so that the prediction of a network that was not trained is 0.
///
/// ```
/// use diffusion_core::{candle::Device, rng::Rng, unet::{Condition, Network, SimpleUNet}};
/// let mut rng = Rng::new(42);
/// let net = Network::new(SimpleUNet { base: 8, classes: 10, ..Default::default() }, &mut rng, &Device::Cpu)?;
/// let xt = rng.randn((2, 1, 28, 28), &Device::Cpu)?;
/// let eps = net.predict(&xt, &[0.0, 999.0], &Condition::labels([7, 3]))?;
/// assert_eq!(eps.dims(), &[2, 1, 28, 28]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Debug)]
pub struct Network {
    architecture: Architecture,
    precision: Precision,
    parameters: Parameters,
    layers: Box<dyn Denoiser>,
    /// The same, without gradients.
    constant: Box<dyn Denoiser>,
}

impl Network {
    /// A new network, in f32, with random weights from `rng`.
    ///
    /// # Errors
    /// A field of the architecture is out of its range: the message names it and its value.
    pub fn new(architecture: impl Into<Architecture>, rng: &mut Rng, device: &Device) -> Result<Self> {
        Self::with_dtype(architecture, rng, DType::F32, device)
    }

    /// A new network with numbers of type `dtype`, which its images must have too.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn with_dtype(
        architecture: impl Into<Architecture>,
        rng: &mut Rng,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let parameters = Parameters::new(dtype, device);
        Self::build(architecture.into(), parameters, |it, parameters| it.build(parameters.builder(rng)))
    }

    fn build(
        architecture: Architecture,
        mut parameters: Parameters,
        layers: impl FnOnce(&Architecture, &mut Parameters) -> Result<Box<dyn Denoiser>>,
    ) -> Result<Self> {
        architecture.check()?;
        let layers = layers(&architecture, &mut parameters)?;
        let constant = architecture.build(parameters.constants())?;
        Ok(Self { architecture, precision: Precision::default(), parameters, layers, constant })
    }

    /// A copy with weights of its own.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn copy(&self) -> anyhow::Result<Self> {
        let tensors = self.parameters.values()?;
        let mut copy = Self::from_tensors(self.architecture.clone(), &tensors, self.device())?;
        copy.precision = self.precision;
        Ok(copy)
    }

    /// What it was built from.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Its parameters: to train, save and load.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The precision of its arithmetic: f32, unless [`Network::set_precision`] changed it.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Sets the precision of its arithmetic. Parameters, images and predictions keep their type.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        self.parameters.device()
    }

    /// Evaluates the network in training mode: with gradients, and batch norms use and update the statistics of the batch.
    ///
    /// # Shapes
    /// `xt` (B, C, H, W); `t` B times and `condition` one for each image; the result is as `xt`.
    ///
    /// # Errors
    /// Other shapes, a time that is not finite, a height or width that the network cannot halve as often as it does, or a
    /// condition that does not fit.
    pub fn forward(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        self.evaluate(&*self.layers, xt, t, condition)
    }

    /// Evaluates the network in evaluation mode: no gradients, and batch norms use their running statistics.
    ///
    /// It takes much less memory than [`Network::forward`], since nothing is kept for a backward pass.
    ///
    /// # Shapes
    /// As [`Network::forward`].
    ///
    /// # Errors
    /// As [`Network::forward`].
    pub fn predict(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        self.evaluate(&*self.constant, xt, t, condition)
    }

    fn evaluate(&self, layers: &dyn Denoiser, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        self.check(xt, t, condition)?;
        let output = self.precision.within(|| match self.precision.dtype() {
            Some(dtype) => layers.forward(&xt.to_dtype(dtype)?, t, condition)?.to_dtype(xt.dtype()),
            None => layers.forward(xt, t, condition),
        })?;
        if output.dims() != xt.dims() {
            bail!(
                "{}: the output has shape {:?} and xt {:?}; they must be equal",
                self.architecture.name(),
                output.dims(),
                xt.dims()
            )
        }
        Ok(output)
    }

    fn check(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<()> {
        let name = self.architecture.name();
        let (b, c, h, w) = four(name, "xt", xt)?;
        let conditioning = self.architecture.conditioning();
        if c != conditioning.channels {
            bail!(
                "{name}: xt has shape {:?}; the network is for images of {} channels",
                xt.dims(),
                conditioning.channels
            )
        }
        if t.len() != b {
            bail!("{name}: xt has shape {:?} and t [{}]; give one time per image", xt.dims(), t.len())
        }
        if let Some(t) = t.iter().find(|t| !t.is_finite()) {
            bail!("{name}: t = {t} must be a finite number")
        }
        self.architecture.check_size(h, w)?;
        conditioning.check_condition(name, condition, [b, h, w])
    }

    /// What each layer makes of an image of this size: shapes, parameters and products. Layers of candle-nn are not listed.
    ///
    /// # Errors
    /// Images of this size do not fit.
    pub fn summary(&self, height: usize, width: usize) -> Result<Summary> {
        let shape = (1, self.architecture.channels(), height, width);
        let xt = Tensor::zeros(shape, self.parameters.dtype(), self.device())?;
        let trace = self.parameters.trace();
        let condition = match self.architecture.classes() {
            0 => Condition::none(),
            _ => Condition::labels([0]),
        };
        let (output, rows) = trace.listen(|| self.predict(&xt, &[0.0], &condition));
        output?;
        let title = self.architecture.name().to_owned();
        Ok(Summary::new(title, [shape.1, height, width], rows))
    }

    /// An error if the CPU's memory cannot hold what a batch of images makes of the layers at once: all of it in training, two of
    /// the largest without gradients. That is the least that is needed. Layers are looked at with a small image, and grow with
    /// the area.
    ///
    /// # Errors
    /// As said: the message has the sizes and what to change.
    pub fn ensure_room(&self, batch: usize, (height, width): (usize, usize), training: bool) -> Result<()> {
        let side = self.architecture.usual_side();
        let (height_there, width_there) = match self.architecture.check_size(side, side) {
            Ok(()) => (side, side),
            Err(_) => (height, width),
        };
        // A network that is shown more than images and classes is not asked here.
        let Ok(summary) = self.summary(height_there, width_there) else {
            return Ok(());
        };
        let numbers = if training { summary.outputs() } else { 2 * summary.largest_output() };
        let area = (height.saturating_mul(width) / (height_there * width_there)).max(1);
        let wanted =
            format!("{batch} images of {height}×{width} at a time in the network {}", self.architecture.name());
        let advice = "use a smaller batch (--batch) or smaller images (--side), or a smaller network";
        crate::device::ensure_room(self.device(), &wanted, &[batch, numbers, area], advice)
    }

    /// Writes the weights and the architecture to a safetensors file, from which [`Network::load`] makes the network.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> anyhow::Result<()> {
        let tensor = |(name, var): (&str, &Var)| (name.to_owned(), var.as_detached_tensor());
        let tensors = self.parameters.all().map(tensor).collect();
        let metadata = self.metadata()?;
        Checkpoint { tensors, metadata }.save(path)
    }

    /// What a file must say of the network beside its tensors.
    pub(crate) fn metadata(&self) -> anyhow::Result<HashMap<String, String>> {
        let architecture = serde_json::to_string(&self.architecture)?;
        Ok(HashMap::from([(METADATA.to_owned(), architecture)]))
    }

    /// The network of a file of [`Network::save`], in f32.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, does not name an architecture or names one that was defined outside of
    /// diffusion-core, or its tensors are not those of it or not finite: the message names the file, and the tensor with both
    /// shapes.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> anyhow::Result<Self> {
        Self::read(path.as_ref(), |file| Self::from_checkpoint(file, device))
    }

    /// The network of a file of [`Network::save`] whose architecture is known, in f32: a
    /// [custom](Architecture::custom) one, or a file that does not name its architecture.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, names another architecture, or its tensors are not those of it or not finite: the
    /// message names the file, and the tensor with both shapes.
    pub fn load_with(
        path: impl AsRef<Path>,
        architecture: impl Into<Architecture>,
        device: &Device,
    ) -> anyhow::Result<Self> {
        Self::read(path.as_ref(), |file| Self::from_checkpoint_with(file, architecture, device))
    }

    fn read(path: &Path, network: impl FnOnce(&Checkpoint) -> anyhow::Result<Self>) -> anyhow::Result<Self> {
        network(&Checkpoint::load(path)?)
            .with_context(|| format!("cannot load {}", path.display()))
            .map_err(crate::whole)
    }

    /// The network of a file that was read.
    ///
    /// # Errors
    /// As [`Network::load`].
    pub fn from_checkpoint(file: &Checkpoint, device: &Device) -> anyhow::Result<Self> {
        match Self::named(file)? {
            None => anyhow::bail!(
                "it does not say what network its {} tensors belong to; load it with \
                 Network::load_with(path, architecture, &device)",
                file.tensors.len()
            ),
            Some(Architecture::Custom(it)) => anyhow::bail!(
                "this file holds the network {:?} that was defined outside of diffusion-core; load it with \
                 Network::load_with(path, &architecture, &device), or Model::load_with for a whole model",
                it.name()
            ),
            Some(architecture) => Self::from_tensors(architecture, &file.tensors, device),
        }
    }

    /// The network of a file that was read, whose architecture is known.
    ///
    /// # Errors
    /// As [`Network::load_with`].
    pub fn from_checkpoint_with(
        file: &Checkpoint,
        architecture: impl Into<Architecture>,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let architecture = architecture.into();
        if let Some(named) = Self::named(file)?.filter(|named| *named != architecture) {
            anyhow::bail!("it holds the network {named:?}, and not {architecture:?}")
        }
        Self::from_tensors(architecture, &file.tensors, device)
    }

    /// The architecture that a file names.
    fn named(file: &Checkpoint) -> anyhow::Result<Option<Architecture>> {
        let Some(text) = file.metadata.get(METADATA) else {
            return Ok(None);
        };
        serde_json::from_str(text)
            .map(Some)
            .with_context(|| format!("the architecture that it names is not known: {text}"))
    }

    /// The network of a PyTorch state dict of the same names, in f32: of a `.pth` file of the course that
    /// [`ContextUnet`](super::ContextUnet) is after, say.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, is no state dict, or its tensors are not those of the architecture or not finite:
    /// the message names the file, and the tensor with both shapes.
    pub fn load_pth(
        architecture: impl Into<Architecture>,
        path: impl AsRef<Path>,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let path = path.as_ref();
        let file = Checkpoint::load_pth(path)?;
        Self::from_tensors(architecture.into(), &file.tensors, device)
            .with_context(|| format!("cannot load {}", path.display()))
            .map_err(crate::whole)
    }

    pub(crate) fn from_tensors(
        architecture: Architecture,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let parameters = Parameters::new(DType::F32, device);
        let network =
            Self::build(architecture, parameters, |it, parameters| it.build(parameters.builder_from(tensors)))?;
        let mut names = tensors.keys();
        if let Some(name) = names.find(|name| network.parameters.get(name).is_none()) {
            anyhow::bail!("superfluous: {name}, which is not a tensor of the network {}", network.architecture.name())
        }
        Ok(network)
    }
}
