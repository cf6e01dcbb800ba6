//! One type for every network: what it is, its weights, and how it is asked.

use super::condition::Understood;
use super::{Condition, MOST_CLASSES, Summary, WIDEST};
use crate::device::Precision;
use crate::nn::{Builder, Contents, Params};
use crate::ops::four;
use crate::rng::Rng;
use anyhow::Context;
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt::Debug;
use std::path::Path;

/// Under this name a file says what network its tensors belong to.
const METADATA: &str = "architecture";

/// What a network is before it has weights: its kind, and the numbers that it is built from.
///
/// ```
/// use diffusion_core::unet::{Architecture, SimpleUNet};
/// let small: Architecture = SimpleUNet { base: 32, ..Default::default() }.into();
/// assert_eq!((small.name(), small.channels()), ("simple-unet", 1));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Architecture {
    /// [`SimpleUNet`](super::SimpleUNet).
    #[serde(rename = "simple-unet")]
    SimpleUNet(super::SimpleUNet),
    /// [`ContextUnet`](super::ContextUnet).
    #[serde(rename = "context-unet")]
    ContextUnet(super::ContextUnet),
    /// [`ConditionalUNet`](super::ConditionalUNet).
    #[serde(rename = "conditional-unet")]
    ConditionalUNet(super::ConditionalUNet),
    /// [`UNet`](super::UNet).
    #[serde(rename = "unet")]
    UNet(super::UNet),
    /// [`AttentionUNet`](super::AttentionUNet).
    #[serde(rename = "attention-unet")]
    AttentionUNet(super::AttentionUNet),
    /// [`UNet2DModel`](super::UNet2DModel).
    #[serde(rename = "unet-2d-model")]
    UNet2DModel(super::UNet2DModel),
}

impl Architecture {
    /// The names of all there are, as files and the command line have them.
    pub const NAMES: [&str; 6] = [
        "simple-unet",
        "context-unet",
        "conditional-unet",
        "unet",
        "attention-unet",
        "unet-2d-model",
    ];

    /// `simple-unet` and so on.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SimpleUNet(_) => Self::NAMES[0],
            Self::ContextUnet(_) => Self::NAMES[1],
            Self::ConditionalUNet(_) => Self::NAMES[2],
            Self::UNet(_) => Self::NAMES[3],
            Self::AttentionUNet(_) => Self::NAMES[4],
            Self::UNet2DModel(_) => Self::NAMES[5],
        }
    }

    fn blueprint(&self) -> &dyn Blueprint {
        match self {
            Self::SimpleUNet(it) => it,
            Self::ContextUnet(it) => it,
            Self::ConditionalUNet(it) => it,
            Self::UNet(it) => it,
            Self::AttentionUNet(it) => it,
            Self::UNet2DModel(it) => it,
        }
    }

    fn blueprint_mut(&mut self) -> &mut dyn Blueprint {
        match self {
            Self::SimpleUNet(it) => it,
            Self::ContextUnet(it) => it,
            Self::ConditionalUNet(it) => it,
            Self::UNet(it) => it,
            Self::AttentionUNet(it) => it,
            Self::UNet2DModel(it) => it,
        }
    }

    /// The channels of its images.
    pub fn channels(&self) -> usize {
        self.blueprint().takes().channels
    }

    /// How many classes it can be told; 0 if none.
    pub fn classes(&self) -> usize {
        self.blueprint().takes().classes
    }

    /// How many numbers of context it can be told; 0 if none.
    pub fn context(&self) -> usize {
        self.blueprint().takes().context
    }

    /// By which factor the images are reduced that it is shown beside the noisy ones; 0 if none.
    pub fn reduced(&self) -> usize {
        match self {
            Self::SimpleUNet(it) => it.reduced,
            _ => 0,
        }
    }

    /// The height and width of the images that it is usually used for.
    pub fn usual_side(&self) -> usize {
        self.blueprint().usual_side()
    }

    /// T, if the network must know it.
    pub fn time_steps(&self) -> Option<usize> {
        match self {
            Self::ContextUnet(it) => Some(it.steps),
            _ => None,
        }
    }

    /// An error unless it can look at images of this size.
    ///
    /// # Errors
    /// The network cannot halve the height or width as often as it does.
    pub fn check_size(&self, height: usize, width: usize) -> Result<()> {
        self.blueprint().check_size(height, width)
    }

    /// The same for images and conditions of another kind: the rest of its numbers stay.
    pub fn with(mut self, takes: Takes) -> Self {
        self.blueprint_mut().set_takes(takes);
        self
    }
}

/// What a network is for: the images it looks at and the conditions it understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// The channels of an image.
    pub channels: usize,
    /// How many classes there are; 0 if it is not told any.
    pub classes: usize,
    /// How many numbers a context has; 0 if it is not told any.
    pub context: usize,
}

impl Takes {
    /// An error that names a number outside its range.
    pub(super) fn check(self, op: &str) -> Result<()> {
        let Self {
            channels,
            classes,
            context,
        } = self;
        if channels == 0 || channels > WIDEST {
            bail!("{op}: channels = {channels} must be in 1 … {WIDEST}")
        }
        for (field, value) in [("classes", classes), ("context", context)] {
            if value > MOST_CLASSES {
                bail!("{op}: {field} = {value} must be in 0 … {MOST_CLASSES}")
            }
        }
        if classes > 0 && context > 0 {
            bail!(
                "{op}: classes = {classes} and context = {context}; it can be told one of the two, so one must be 0"
            )
        }
        Ok(())
    }
}

/// What each kind of network knows of itself.
pub(super) trait Blueprint {
    /// What it is for.
    fn takes(&self) -> Takes;

    /// The height and width of the images that it is usually used for.
    fn usual_side(&self) -> usize;

    /// Makes it one for other images and conditions.
    fn set_takes(&mut self, takes: Takes);

    /// An error that names a field outside its range.
    fn check(&self) -> Result<()>;

    /// An error unless it can look at images of this size.
    fn check_size(&self, height: usize, width: usize) -> Result<()>;

    /// Its layers, with parameters from `build`.
    fn build(&self, build: Builder) -> Result<Box<dyn Layers>>;
}

/// The layers of a network, put together.
pub(super) trait Layers: Debug + Send + Sync {
    /// The answer to a batch that [`Network`] has looked over: channels, sizes, the number of time steps and conditions fit.
    fn forward(&self, xt: &Tensor, t: &[usize], condition: &Condition) -> Result<Tensor>;
}

/// A network with its weights.
///
/// Parameters have the names and shapes of the PyTorch networks that the tests compare them with. The last layer of each
/// begins with zeros, so that the answer of a network that was not trained is 0.
///
/// ```
/// use diffusion_core::{candle::Device, rng::Rng, unet::{Condition, Network, SimpleUNet}};
/// let mut rng = Rng::new(42);
/// let net = Network::new(SimpleUNet { base: 8, classes: 10, ..Default::default() }, &mut rng, &Device::Cpu)?;
/// let xt = rng.randn((2, 1, 28, 28), &Device::Cpu)?;
/// let eps = net.predict(&xt, &[0, 999], &Condition::labels([7, 3]))?;
/// assert_eq!(eps.dims(), &[2, 1, 28, 28]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Debug)]
pub struct Network {
    architecture: Architecture,
    precision: Precision,
    params: Params,
    layers: Box<dyn Layers>,
    /// The same, without gradients.
    constant: Box<dyn Layers>,
}

impl Network {
    /// A new network, in f32, with random weights from `rng`.
    ///
    /// # Errors
    /// A field of the architecture is out of its range: the message names it and its value.
    pub fn new(
        architecture: impl Into<Architecture>,
        rng: &mut Rng,
        device: &Device,
    ) -> Result<Self> {
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
        let params = Params::new(dtype, device);
        Self::made(architecture.into(), params, |it, params| {
            it.build(params.builder(rng))
        })
    }

    fn made(
        architecture: Architecture,
        mut params: Params,
        build: impl FnOnce(&dyn Blueprint, &mut Params) -> Result<Box<dyn Layers>>,
    ) -> Result<Self> {
        let blueprint = architecture.blueprint();
        blueprint.check()?;
        let layers = build(blueprint, &mut params)?;
        let constant = blueprint.build(params.constants())?;
        Ok(Self {
            architecture,
            precision: Precision::default(),
            params,
            layers,
            constant,
        })
    }

    /// What it was made from.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Its parameters: to train, save and load.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What it computes with: f32, unless [`Network::set_precision`] said otherwise.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Has it compute with numbers of another precision. Its parameters, what it is asked and what it answers stay as they
    /// are.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        self.params.device()
    }

    /// The network's answer to noisy images, to train it with.
    ///
    /// # Shapes
    /// `xt` (B, C, H, W); `t` B time steps and `condition` one for each image; the result is as `xt`.
    ///
    /// # Errors
    /// Other shapes, a height or width that the network cannot halve as often as it does, or a condition that it does not
    /// know.
    pub fn forward(&self, xt: &Tensor, t: &[usize], condition: &Condition) -> Result<Tensor> {
        self.check(xt, t, condition)?;
        self.answer(&*self.layers, xt, t, condition)
    }

    /// The answer to sample with: without a gradient with respect to the parameters, and with much less memory, since
    /// nothing is kept that it would take. Batch norms use what they have remembered in training.
    ///
    /// # Shapes
    /// As [`Network::forward`].
    ///
    /// # Errors
    /// As [`Network::forward`].
    pub fn predict(&self, xt: &Tensor, t: &[usize], condition: &Condition) -> Result<Tensor> {
        self.check(xt, t, condition)?;
        self.answer(&*self.constant, xt, t, condition)
    }

    fn answer(
        &self,
        layers: &dyn Layers,
        xt: &Tensor,
        t: &[usize],
        condition: &Condition,
    ) -> Result<Tensor> {
        self.precision.within(|| match self.precision.dtype() {
            Some(dtype) => layers
                .forward(&xt.to_dtype(dtype)?, t, condition)?
                .to_dtype(xt.dtype()),
            None => layers.forward(xt, t, condition),
        })
    }

    fn check(&self, xt: &Tensor, t: &[usize], condition: &Condition) -> Result<()> {
        let name = self.architecture.name();
        let (b, c, h, w) = four(name, "xt", xt)?;
        let Takes {
            channels,
            classes,
            context,
        } = self.architecture.blueprint().takes();
        if c != channels {
            bail!(
                "{name}: xt has shape {:?}; the network is for images of {channels} channels",
                xt.dims()
            )
        }
        if t.len() != b {
            bail!(
                "{name}: xt has shape {:?} and t [{}]; give one time step per image",
                xt.dims(),
                t.len()
            )
        }
        self.architecture.check_size(h, w)?;
        let factor = self.architecture.reduced();
        let reduced = (factor > 0).then(|| [channels, h / factor, w / factor]);
        let takes = Understood {
            classes,
            context,
            reduced,
        };
        condition.check(b, takes)
    }

    /// What each layer makes of an image of this size: shapes, parameters and products.
    ///
    /// # Errors
    /// The network cannot look at such an image.
    pub fn summary(&self, height: usize, width: usize) -> Result<Summary> {
        let shape = (1, self.architecture.channels(), height, width);
        let xt = Tensor::zeros(shape, self.params.dtype(), self.device())?;
        let trace = self.params.trace();
        let condition = match self.architecture.classes() {
            0 => Condition::None,
            _ => Condition::labels([0]),
        };
        let (answer, rows) = trace.listen(|| self.predict(&xt, &[0], &condition));
        answer?;
        let title = self.architecture.name().to_owned();
        Ok(Summary::new(title, [shape.1, height, width], rows))
    }

    /// Writes the weights and the architecture to a safetensors file, from which [`Network::load`] makes the network.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> anyhow::Result<()> {
        let tensor = |(name, var): (&str, &Var)| (name.to_owned(), var.as_detached_tensor());
        let tensors = self.params.all().map(tensor).collect();
        let metadata = self.metadata()?;
        Contents { tensors, metadata }.save(path)
    }

    /// What a file must say of the network beside its tensors.
    pub(crate) fn metadata(&self) -> anyhow::Result<HashMap<String, String>> {
        let architecture = serde_json::to_string(&self.architecture)?;
        Ok(HashMap::from([(METADATA.to_owned(), architecture)]))
    }

    /// The network of a file of [`Network::save`], in f32.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, says nothing of an architecture, or its tensors are not those of it: the
    /// message names the file, and the tensor with both shapes.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> anyhow::Result<Self> {
        let path = path.as_ref();
        Self::from_contents(&Contents::load(path)?, device)
            .with_context(|| format!("cannot load {}", path.display()))
            .map_err(crate::whole)
    }

    /// The network of a file that was read.
    ///
    /// # Errors
    /// As [`Network::load`].
    pub fn from_contents(file: &Contents, device: &Device) -> anyhow::Result<Self> {
        let Some(architecture) = file.metadata.get(METADATA) else {
            anyhow::bail!(
                "it does not say what network its {} tensors belong to; make the network and load them with \
                 network.params().load(path)",
                file.tensors.len()
            )
        };
        let architecture: Architecture = serde_json::from_str(architecture).with_context(|| {
            format!("what it says of its architecture is not known: {architecture}")
        })?;
        Self::given(architecture, &file.tensors, device)
    }

    /// The network of a PyTorch state dict of the same names, in f32: of a `.pth` file of the course that
    /// [`ContextUnet`](super::ContextUnet) is after, say.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, is no state dict, or its tensors are not those of the architecture: the message
    /// names the file, and the tensor with both shapes.
    pub fn load_pth(
        architecture: impl Into<Architecture>,
        path: impl AsRef<Path>,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let path = path.as_ref();
        let file = Contents::load_pth(path)?;
        Self::given(architecture.into(), &file.tensors, device)
            .with_context(|| format!("cannot load {}", path.display()))
            .map_err(crate::whole)
    }

    pub(crate) fn given(
        architecture: Architecture,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let params = Params::new(DType::F32, device);
        let network = Self::made(architecture, params, |it, params| {
            it.build(params.given(tensors))
        })?;
        let mut names = tensors.keys();
        if let Some(name) = names.find(|name| network.params.get(name).is_none()) {
            anyhow::bail!(
                "superfluous: {name}, which is not of the network {}",
                network.architecture.name()
            )
        }
        Ok(network)
    }
}
