//! Networks: an architecture, its weights, and its evaluation.

use super::{Architecture, Condition, Denoiser, Summary};
use crate::device::Precision;
use crate::nn::{Checkpoint, Parameters};
use crate::ops::four;
use crate::rng::Rng;
use anyhow::Context;
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use std::collections::HashMap;
use std::path::Path;

/// The metadata key under which a file stores the architecture.
const METADATA: &str = "architecture";

/// A network with its weights.
///
/// Parameters have the names and shapes of the PyTorch networks that the tests compare with. The last layer is
/// initialised to zero, so an untrained network predicts 0.
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
    /// The same layers without gradients.
    constant: Box<dyn Denoiser>,
}

impl Network {
    /// Creates a network in f32 with random weights from `rng`.
    ///
    /// # Errors
    /// A field of the architecture is out of range: the message names it and its value.
    pub fn new(architecture: impl Into<Architecture>, rng: &mut Rng, device: &Device) -> Result<Self> {
        Self::with_dtype(architecture, rng, DType::F32, device)
    }

    /// Creates a network with parameters and images of type `dtype`.
    ///
    /// # Errors
    /// See [`Network::new`].
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

    /// Copies the network, with its own weights.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn copy(&self) -> anyhow::Result<Self> {
        let tensors = self.parameters.values()?;
        let mut copy = Self::from_tensors(self.architecture.clone(), &tensors, self.device())?;
        copy.precision = self.precision;
        Ok(copy)
    }

    /// The architecture of the network.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The parameters, to train, save and load.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The precision of the computations: f32 unless changed by [`Network::set_precision`].
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Sets the precision of the computations. Parameters, images and predictions keep their type.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// The device of the parameters.
    pub fn device(&self) -> &Device {
        self.parameters.device()
    }

    /// Evaluates the network in training mode: with gradients, and with batch norms that use and update batch
    /// statistics.
    ///
    /// # Shapes
    /// `xt` (B, C, H, W); `t` and `condition` one entry for each image; the result has the shape of `xt`.
    ///
    /// # Errors
    /// The shapes do not match, a time is not finite, the network cannot halve the height or width as often as it needs
    /// to, or the condition does not suit it.
    pub fn forward(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        self.evaluate(&*self.layers, xt, t, condition)
    }

    /// Evaluates the network in evaluation mode: without gradients, and with batch norms that use running statistics.
    ///
    /// This needs much less memory than [`Network::forward`], since nothing is kept for a backward pass.
    ///
    /// # Shapes
    /// See [`Network::forward`].
    ///
    /// # Errors
    /// See [`Network::forward`].
    pub fn predict(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor> {
        self.evaluate(&*self.constant, xt, t, condition)
    }

    /// How the pixels attend to the words of a text: [`Denoiser::attention_maps`], without gradients. The start token
    /// comes first.
    ///
    /// # Shapes
    /// `xt`, `t` and `condition` as for [`Network::forward`]; each map is (B, L, h, w) and adds up to 1 over L.
    ///
    /// # Errors
    /// See [`Network::forward`].
    pub fn attention_maps(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Vec<Tensor>> {
        self.check(xt, t, condition)?;
        self.constant.attention_maps(xt, t, condition)
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
                "{name}: xt has shape {:?}; the network is for images with {} channels",
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

    /// Lists the layers for an image of this size, with output shapes, parameters and multiply-adds. Layers of
    /// candle-nn are missing.
    ///
    /// # Errors
    /// The network does not support images of this size.
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

    /// Checks that the CPU's memory can hold the activations of a batch: all of them in training, the two largest in
    /// evaluation. This is a lower bound. It is estimated from a small image and scaled with the area.
    ///
    /// # Errors
    /// There is not enough memory: the message states the sizes and what to change.
    pub fn ensure_room(&self, batch: usize, (height, width): (usize, usize), training: bool) -> Result<()> {
        let side = self.architecture.usual_side();
        let (height_there, width_there) = match self.architecture.check_size(side, side) {
            Ok(()) => (side, side),
            Err(_) => (height, width),
        };
        // The check is skipped for networks with conditions other than classes and contexts.
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

    /// Writes the weights and the architecture to a safetensors file that [`Network::load`] reads.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> anyhow::Result<()> {
        let tensor = |(name, var): (&str, &Var)| (name.to_owned(), var.as_detached_tensor());
        let tensors = self.parameters.all().map(tensor).collect();
        let metadata = self.metadata()?;
        Checkpoint { tensors, metadata }.save(path)
    }

    /// The metadata that describes the network in a file.
    pub(crate) fn metadata(&self) -> anyhow::Result<HashMap<String, String>> {
        let architecture = serde_json::to_string(&self.architecture)?;
        Ok(HashMap::from([(METADATA.to_owned(), architecture)]))
    }

    /// Loads a network, in f32, from a file of [`Network::save`].
    ///
    /// # Errors
    /// The file cannot be read, is damaged, names no architecture or one defined outside of diffusion-core, or its
    /// tensors do not match the architecture or are not finite: the message names the file, and the tensor with both
    /// shapes.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> anyhow::Result<Self> {
        Self::read(path.as_ref(), |file| Self::from_checkpoint(file, device))
    }

    /// Loads a network, in f32, whose architecture is given: a [custom](Architecture::custom) one, or that of a file
    /// which does not name it.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, names a different architecture, or its tensors do not match the
    /// architecture or are not finite: the message names the file, and the tensor with both shapes.
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

    /// Builds the network from a file in memory.
    ///
    /// # Errors
    /// See [`Network::load`].
    pub fn from_checkpoint(file: &Checkpoint, device: &Device) -> anyhow::Result<Self> {
        match Self::named(file)? {
            None => anyhow::bail!(
                "it does not name the architecture of its {} tensors; load it with Network::load_with(path, \
                 architecture, &device)",
                file.tensors.len()
            ),
            Some(Architecture::Custom(it)) => anyhow::bail!(
                "it holds the network {:?}, which is defined outside of diffusion-core; load it with \
                 Network::load_with(path, &architecture, &device), or Model::load_with for a whole model",
                it.name()
            ),
            Some(architecture) => Self::from_tensors(architecture, &file.tensors, device),
        }
    }

    /// Builds a network with a given architecture from a file in memory.
    ///
    /// # Errors
    /// See [`Network::load_with`].
    pub fn from_checkpoint_with(
        file: &Checkpoint,
        architecture: impl Into<Architecture>,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let architecture = architecture.into();
        if let Some(named) = Self::named(file)?.filter(|named| *named != architecture) {
            anyhow::bail!("it holds the network {named:?}, not {architecture:?}")
        }
        Self::from_tensors(architecture, &file.tensors, device)
    }

    /// The architecture named in a file.
    fn named(file: &Checkpoint) -> anyhow::Result<Option<Architecture>> {
        let Some(text) = file.metadata.get(METADATA) else {
            return Ok(None);
        };
        serde_json::from_str(text)
            .map(Some)
            .with_context(|| format!("cannot read the architecture that it names: {text}"))
    }

    /// Loads a network, in f32, from a PyTorch state dict with the same names, for example a `.pth` file of the course
    /// that [`ContextUnet`](super::ContextUnet) comes from.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, is not a state dict, or its tensors do not match the architecture or are
    /// not finite: the message names the file, and the tensor with both shapes.
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
            anyhow::bail!("unexpected tensor {name}, which the network {} does not have", network.architecture.name())
        }
        Ok(network)
    }
}
