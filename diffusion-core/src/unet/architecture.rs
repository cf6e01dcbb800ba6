//! Network architectures: everything about a network except its weights.

use super::{Condition, Conditioning, divisible};
use crate::nn::Builder;
use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Debug};
use std::sync::Arc;

/// The layers of a network, which compute a prediction from a noisy image, its time and a condition.
///
/// Implement it for a struct of layers to train, save and sample your own network: [`Architecture::custom`].
pub trait Denoiser: Debug + Send + Sync {
    /// Evaluates the network. [`Network`](super::Network) has checked the arguments: there is one finite time for each
    /// image, the images have the channels and the condition has the parts that the [`Conditioning`] names, for as many
    /// images. Missing parts must be treated as the null condition.
    ///
    /// # Shapes
    /// `xt` (B, C, H, W); `t` B times; the result has the shape of `xt`.
    ///
    /// # Errors
    /// The network does not support the height or width, or an operation fails.
    fn forward(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Tensor>;

    /// The weights with which the pixels attend to the tokens of a text, of each cross-attention block in turn; for
    /// networks without such blocks nothing.
    ///
    /// # Shapes
    /// As for [`Denoiser::forward`]; each map is (B, L, h, w) at the resolution of its block, where L counts the start
    /// token and the tokens of the longest text.
    ///
    /// # Errors
    /// See [`Denoiser::forward`].
    fn attention_maps(&self, xt: &Tensor, t: &[f64], condition: &Condition) -> Result<Vec<Tensor>> {
        let _ = (xt, t, condition);
        Ok(Vec::new())
    }
}

/// The configuration of one kind of network.
pub(super) trait Config {
    /// The images and conditions of the network.
    fn conditioning(&self) -> Conditioning;

    /// Changes the images and conditions; parts that this kind of network does not support are ignored.
    fn set_conditioning(&mut self, conditioning: Conditioning);

    /// The usual height and width of the images.
    fn usual_side(&self) -> usize;

    /// The number that must divide the height and width of an image.
    fn divisor(&self) -> usize;

    /// Checks every field; the error names the field out of range. `op` is the network's name.
    fn check(&self, op: &str) -> Result<()>;

    /// Checks that the network supports images of this size.
    fn check_size(&self, op: &str, height: usize, width: usize) -> Result<()> {
        divisible(op, height, width, self.divisor())
    }

    /// Builds the layers, with parameters from `build`.
    fn build(&self, build: Builder) -> Result<Box<dyn Denoiser>>;
}

/// The part of [`Config`] that reads and sets the fields shared with [`Conditioning`].
macro_rules! conditioning_fields {
    ($($field:ident),*) => {
        // One kind of network has all fields.
        #[allow(clippy::needless_update)]
        fn conditioning(&self) -> Conditioning {
            Conditioning { $($field: self.$field,)* ..Default::default() }
        }

        fn set_conditioning(&mut self, conditioning: Conditioning) {
            $(self.$field = conditioning.$field;)*
        }
    };
}
pub(super) use conditioning_fields;

macro_rules! architectures {
    ($count:literal: $($kind:ident = $name:literal),*) => {
        /// The architecture of a network: its kind and its configuration, without weights.
        ///
        /// ```
        /// use diffusion_core::unet::{Architecture, SimpleUNet};
        /// let small: Architecture = SimpleUNet { base: 32, ..Default::default() }.into();
        /// assert_eq!((small.name(), small.channels()), ("simple-unet", 1));
        /// ```
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Architecture {
            $(
                #[doc = concat!("[`", stringify!($kind), "`](super::", stringify!($kind), ").")]
                #[serde(rename = $name)]
                $kind(super::$kind),
            )*
            /// A network defined outside of diffusion-core: [`Architecture::custom`].
            #[serde(rename = "custom")]
            Custom(Custom),
        }

        impl Architecture {
            /// The names of all networks in diffusion-core, as used in files and on the command line.
            pub const NAMES: [&str; $count] = [$($name),*];

            /// The name of the kind of network, for example `simple-unet`.
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$kind(_) => $name,)*
                    Self::Custom(it) => &it.name,
                }
            }

            fn config(&self) -> &dyn Config {
                match self {
                    $(Self::$kind(it) => it,)*
                    Self::Custom(it) => it,
                }
            }

            fn config_mut(&mut self) -> &mut dyn Config {
                match self {
                    $(Self::$kind(it) => it,)*
                    Self::Custom(it) => it,
                }
            }
        }

        $(impl From<super::$kind> for Architecture {
            fn from(it: super::$kind) -> Self {
                Self::$kind(it)
            }
        })*
    };
}

architectures! {
    6:
    SimpleUNet = "simple-unet",
    ContextUnet = "context-unet",
    ConditionalUNet = "conditional-unet",
    UNet = "unet",
    AttentionUNet = "attention-unet",
    UNet2DModel = "unet-2d-model"
}

impl From<&Architecture> for Architecture {
    fn from(it: &Architecture) -> Self {
        it.clone()
    }
}

impl Architecture {
    /// Defines your own network, which trains, saves and samples like those of diffusion-core.
    ///
    /// `build` constructs the layers. It is called twice: once with trainable parameters, and once with the same
    /// parameters as constants for evaluation. Files contain `name` and `conditioning`, but not the code;
    /// [`Network::load_with`](super::Network::load_with) reads them.
    ///
    /// ```
    /// use diffusion_core::candle::{Device, Result, Tensor};
    /// use diffusion_core::nn::Conv2d;
    /// use diffusion_core::ops::{Geometry, silu};
    /// use diffusion_core::unet::{Architecture, Condition, Conditioning, Denoiser, Network};
    ///
    /// #[derive(Debug)]
    /// struct Tiny { first: Conv2d, last: Conv2d }
    ///
    /// impl Denoiser for Tiny {
    ///     fn forward(&self, xt: &Tensor, _t: &[f64], _condition: &Condition) -> Result<Tensor> {
    ///         self.last.forward(&silu(&self.first.forward(xt)?)?)
    ///     }
    /// }
    ///
    /// let tiny = Architecture::custom("tiny", Conditioning::default(), |mut b| {
    ///     let same = Geometry::same(3);
    ///     Ok(Tiny { first: Conv2d::new(b.at("first"), 1, 8, 3, same)?, last: Conv2d::zeros(b.at("last"), 8, 1, 3, same)? })
    /// });
    /// let mut rng = diffusion_core::rng::Rng::new(42);
    /// let net = Network::new(tiny, &mut rng, &Device::Cpu)?;
    /// let xt = rng.randn((2, 1, 8, 8), &Device::Cpu)?;
    /// assert_eq!(net.predict(&xt, &[0.0, 0.5], &Condition::none())?.dims(), &[2, 1, 8, 8]);
    /// assert_eq!(net.parameters().names().next(), Some("first.weight"));
    /// # Ok::<(), diffusion_core::candle::Error>(())
    /// ```
    pub fn custom<D: Denoiser + 'static>(
        name: impl Into<String>,
        conditioning: Conditioning,
        build: impl Fn(Builder) -> Result<D> + Send + Sync + 'static,
    ) -> Self {
        let build = move |builder: Builder| -> Result<Box<dyn Denoiser>> { Ok(Box::new(build(builder)?)) };
        Self::Custom(Custom { name: name.into(), conditioning, build: Some(Arc::new(build)) })
    }

    /// The images and conditions of the network.
    pub fn conditioning(&self) -> Conditioning {
        self.config().conditioning()
    }

    /// The number of image channels.
    pub fn channels(&self) -> usize {
        self.conditioning().channels
    }

    /// The number of classes for conditioning; 0 if there are none.
    pub fn classes(&self) -> usize {
        self.conditioning().classes
    }

    /// The length of the context vector; 0 if there is none.
    pub fn context(&self) -> usize {
        self.conditioning().context
    }

    /// The factor between the sizes of the image and its low-resolution condition; 0 if there is none.
    pub fn low_res(&self) -> usize {
        self.conditioning().low_res
    }

    /// The longest text in tokens; 0 if the network reads none.
    pub fn tokens(&self) -> usize {
        self.conditioning().tokens
    }

    /// The usual height and width of the images.
    pub fn usual_side(&self) -> usize {
        self.config().usual_side()
    }

    /// T, if the network depends on it.
    pub fn timesteps(&self) -> Option<usize> {
        match self {
            Self::ContextUnet(it) => Some(it.timesteps),
            _ => None,
        }
    }

    /// Checks that the network can be built.
    pub(super) fn check(&self) -> Result<()> {
        self.conditioning().check(self.name())?;
        self.config().check(self.name())
    }

    /// Checks that the network supports images of this size.
    ///
    /// # Errors
    /// The network cannot halve the height or width as often as it needs to.
    pub fn check_size(&self, height: usize, width: usize) -> Result<()> {
        self.config().check_size(self.name(), height, width)
    }

    pub(super) fn build(&self, build: Builder) -> Result<Box<dyn Denoiser>> {
        self.config().build(build)
    }

    /// The same architecture for other images and conditions. Parts of the conditioning that this kind of network does
    /// not support are ignored; a [custom](Architecture::custom) network is unchanged.
    pub fn with(mut self, conditioning: Conditioning) -> Self {
        self.config_mut().set_conditioning(conditioning);
        self
    }
}

type Build = dyn Fn(Builder) -> Result<Box<dyn Denoiser>> + Send + Sync;

/// A network defined outside of diffusion-core. Two are equal if they have the same name and conditioning.
#[derive(Clone, Serialize, Deserialize)]
pub struct Custom {
    name: String,
    #[serde(flatten)]
    conditioning: Conditioning,
    /// `None` if only the name is known, from a file.
    #[serde(skip)]
    build: Option<Arc<Build>>,
}

impl Custom {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the code is available, not only the name from a file.
    pub fn has_code(&self) -> bool {
        self.build.is_some()
    }
}

impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.conditioning) == (&other.name, other.conditioning)
    }
}

impl Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custom")
            .field("name", &self.name)
            .field("conditioning", &self.conditioning)
            .finish_non_exhaustive()
    }
}

impl Config for Custom {
    fn conditioning(&self) -> Conditioning {
        self.conditioning
    }

    fn set_conditioning(&mut self, _: Conditioning) {}

    fn usual_side(&self) -> usize {
        32
    }

    fn divisor(&self) -> usize {
        self.conditioning.low_res.max(1)
    }

    fn check(&self, op: &str) -> Result<()> {
        if self.name.is_empty() {
            bail!("Architecture::custom: the name is empty, but files need it to identify the network")
        }
        if !self.has_code() {
            bail!(
                "the network {op:?} was defined outside of diffusion-core, and its code is not available here; pass \
                 the Architecture::custom that defines it"
            )
        }
        Ok(())
    }

    fn build(&self, build: Builder) -> Result<Box<dyn Denoiser>> {
        match &self.build {
            Some(make) => make(build),
            None => bail!("the code of the network {:?} is not available", self.name),
        }
    }
}
