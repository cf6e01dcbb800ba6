//! Creates the parameters of a network by name, from a seeded generator.

use super::Parameters;
use super::parameters::{Role, check_finite, is_float};
use super::trace::Probe;
use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use diffusion_ops::rng::Rng;
use std::collections::HashMap;
use std::fmt::Display;

/// The largest number of elements of a parameter, more than in any network.
const LARGEST: usize = 1 << 31;

/// The initial values of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All elements 0.
    Zeros,
    /// All elements 1.
    Ones,
    /// Standard normal, N(0, 1).
    Normal,
    /// All elements equal to this value.
    Constant(f64),
    /// Normal with this mean and standard deviation.
    Gaussian {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        std: f64,
    },
    /// Uniform between two numbers.
    Uniform {
        /// The lower bound.
        low: f64,
        /// The upper bound.
        high: f64,
    },
    /// Uniform in ±1/√n, where n is the number of inputs summed for one output: PyTorch's default for the weights and
    /// biases of convolutions and linear layers (`kaiming_uniform_` with a = √5).
    FanIn(usize),
}

impl Init {
    pub(crate) fn values(self, n: usize, rng: &mut Rng) -> impl Iterator<Item = f64> {
        let draw = move || match self {
            Self::Zeros => 0.0,
            Self::Ones => 1.0,
            Self::Normal => rng.normal(),
            Self::Constant(value) => value,
            Self::Gaussian { mean, std } => mean + std * rng.normal(),
            Self::Uniform { low, high } => low + (high - low) * rng.uniform(),
            Self::FanIn(inputs) => (2.0 * rng.uniform() - 1.0) / (inputs.max(1) as f64).sqrt(),
        };
        std::iter::repeat_with(draw).take(n)
    }
}

/// Adds parameters with hierarchical names to [`Parameters`]; from [`Parameters::builder`].
///
/// ```
/// use diffusion_core::candle::{DType, Device};
/// use diffusion_core::{nn::{Init, Parameters}, rng::Rng};
/// let (mut rng, mut params) = (Rng::new(0), Parameters::new(DType::F32, &Device::Cpu));
/// params.builder(&mut rng).at("down").at("conv").param("bias", 64, Init::Zeros)?;
/// assert_eq!(params.names().collect::<Vec<_>>(), ["down.conv.bias"]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
#[derive(Debug)]
pub struct Builder<'a> {
    source: Source<'a>,
    prefix: String,
}

/// The source of a builder's parameters.
#[derive(Debug)]
enum Source<'a> {
    /// New parameters with random values.
    New(&'a mut Parameters, &'a mut Rng),
    /// Values from a file.
    Tensors(&'a mut Parameters, &'a HashMap<String, Tensor>),
    /// Existing parameters.
    Constants(&'a Parameters),
}

impl Parameters {
    /// A builder for layers with new parameters; initial values are drawn from `rng`.
    pub fn builder<'a>(&'a mut self, rng: &'a mut Rng) -> Builder<'a> {
        Builder::new(self, rng)
    }

    /// A builder for layers whose values exist, for example in a file: each parameter takes the tensor with its name,
    /// converted to the type and device of the parameters. The caller must check for unused entries of `tensors`.
    pub fn builder_from<'a>(&'a mut self, tensors: &'a HashMap<String, Tensor>) -> Builder<'a> {
        Builder::from_tensors(self, tensors)
    }

    /// A builder that creates the same layers again with the existing parameters as constants, without gradients, so
    /// that candle keeps nothing for a backward pass. They share memory with the parameters.
    pub fn constants(&self) -> Builder<'_> {
        Builder::constants(self)
    }
}

impl<'a> Builder<'a> {
    pub(crate) fn new(params: &'a mut Parameters, rng: &'a mut Rng) -> Self {
        Self::from(Source::New(params, rng))
    }

    pub(crate) fn from_tensors(params: &'a mut Parameters, tensors: &'a HashMap<String, Tensor>) -> Self {
        Self::from(Source::Tensors(params, tensors))
    }

    pub(crate) fn constants(params: &'a Parameters) -> Self {
        Self::from(Source::Constants(params))
    }

    fn from(source: Source<'a>) -> Self {
        Self { source, prefix: String::new() }
    }

    /// A builder for the part `name`, whose parameters are named `name.…`.
    pub fn at(&mut self, name: impl Display) -> Builder<'_> {
        let prefix = format!("{}{name}.", self.prefix);
        Builder { prefix, ..self.here() }
    }

    /// A builder for the same part.
    pub(crate) fn here(&mut self) -> Builder<'_> {
        Builder {
            prefix: self.prefix.clone(),
            source: match &mut self.source {
                Source::New(params, rng) => Source::New(params, rng),
                Source::Tensors(params, tensors) => Source::Tensors(params, tensors),
                Source::Constants(params) => Source::Constants(params),
            },
        }
    }

    /// The parameters that the builder adds to.
    pub(crate) fn parameters(&self) -> &Parameters {
        match &self.source {
            Source::New(params, _) | Source::Tensors(params, _) => params,
            Source::Constants(params) => params,
        }
    }

    /// The existing tensor of this name, in the file or among the parameters.
    pub(crate) fn stored(&self, name: &str) -> Option<&Tensor> {
        let name = format!("{}{name}", self.prefix);
        match &self.source {
            Source::Tensors(_, tensors) => tensors.get(&name),
            _ => self.parameters().get(&name).map(|var| var.as_tensor()),
        }
    }

    /// Creates the parameter `name` and returns its tensor; a builder from [`Parameters::constants`] returns the
    /// existing one.
    ///
    /// Random numbers are drawn on the CPU in row-major order, so that every device gets the same.
    ///
    /// # Errors
    /// The name is taken, a dimension of `shape` is 0, or there are more than 2³¹ elements. With
    /// [`Parameters::constants`] or [`Parameters::builder_from`]: there is no tensor of this name, it has a different
    /// shape, or it is not finite.
    pub fn param(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Tensor> {
        let var = self.make(name, shape, init, Role::Trained)?;
        Ok(match &self.source {
            Source::Constants(_) => var.as_detached_tensor(),
            _ => var.as_tensor().clone(),
        })
    }

    /// Creates the buffer `name`: values that belong to the network but are not trained, such as the running mean of a
    /// batch norm. They are saved and loaded with the parameters.
    ///
    /// # Errors
    /// See [`Builder::param`].
    pub fn buffer(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Var> {
        self.make(name, shape, init, Role::Buffer)
    }

    /// Whether the layers are for evaluation only, from [`Parameters::constants`].
    pub fn is_constant(&self) -> bool {
        matches!(self.source, Source::Constants(_))
    }

    /// Lets a layer of your own report to the network's summary: call [`Probe::saw`] in its forward pass.
    pub fn probe(&self) -> Probe {
        Probe { name: self.prefix.trim_end_matches('.').to_owned(), trace: self.parameters().trace().clone() }
    }

    fn make(&mut self, name: &str, shape: impl Into<Shape>, init: Init, role: Role) -> Result<Var> {
        let (name, shape) = (format!("{}{name}", self.prefix), shape.into());
        let count = shape.dims().iter().try_fold(1, |n: usize, d| n.checked_mul(*d));
        let Some(count) = count.filter(|n| (1..=LARGEST).contains(n)) else {
            bail!("parameter {name} would have shape {shape:?}, but the number of elements must be in 1 … {LARGEST}")
        };
        match &mut self.source {
            Source::New(params, _) | Source::Tensors(params, _) if params.get(&name).is_some() => {
                bail!("the parameter {name} already exists; give each part its own name")
            }
            Source::New(params, rng) => {
                let values = init.values(count, rng);
                if params.dtype() == DType::F32 {
                    // Without an intermediate copy.
                    let var = Var::from_vec(values.map(|x| x as f32).collect(), shape, params.device())?;
                    return Ok(params.keep(name, var, role));
                }
                let values = Tensor::from_vec(values.collect::<Vec<f64>>(), shape, &Device::Cpu)?;
                params.add(name, &values, role)
            }
            // A tensor missing in the file is not allocated.
            Source::Tensors(params, tensors) => match tensors.get(&name) {
                Some(found) if !is_float(found.dtype()) => {
                    bail!("{name} has elements of type {:?}, not floating-point numbers", found.dtype())
                }
                Some(found) if found.shape() == &shape => {
                    check_finite(&name, found)?;
                    params.add(name, found, role)
                }
                Some(found) => bail!("{name} has shape {:?} but must have {:?}", found.dims(), shape.dims()),
                None => bail!("missing: {name}, of shape {:?}", shape.dims()),
            },
            Source::Constants(params) => match params.get(&name) {
                Some(var) if var.shape() == &shape => Ok(var.clone()),
                Some(var) => bail!("parameter {name} has shape {:?} but should have {shape:?}", var.dims()),
                None => bail!("there is no parameter {name}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    /// Checks mean, standard deviation and largest value, also of candle's initialisations.
    #[test]
    fn initial_values_have_the_documented_distribution() {
        use crate::var_builder::to_init;
        use candle_nn::init::{DEFAULT_KAIMING_NORMAL, DEFAULT_KAIMING_UNIFORM, Init as Theirs};
        let shape = Shape::from((400, 5, 3, 3));
        let of_candle = |init| to_init(init, &shape);
        let (wide, std) = (4.0 / 12f64.sqrt(), (2f64 / 45.0).sqrt());
        let randn = Theirs::Randn { mean: 2.0, stdev: 0.5 };
        for (init, mean, want, most) in [
            (Init::Zeros, 0.0, 0.0, 0.0),
            (Init::Ones, 1.0, 0.0, 1.0),
            (Init::Normal, 0.0, 1.0, 6.0),
            (Init::FanIn(9), 0.0, 1.0 / 27f64.sqrt(), 1.0 / 3.0),
            (of_candle(Theirs::Const(3.0)), 3.0, 0.0, 3.0),
            (of_candle(randn), 2.0, 0.5, 5.0),
            (of_candle(Theirs::Uniform { lo: -1.0, up: 3.0 }), 1.0, wide, 3.0),
            (of_candle(DEFAULT_KAIMING_NORMAL), 0.0, std, 6.0 * std),
            (of_candle(DEFAULT_KAIMING_UNIFORM), 0.0, std, 1.7321 * std),
        ] {
            let x: Vec<f64> = init.values(shape.elem_count(), &mut Rng::new(1)).collect();
            let n = x.len() as f64;
            let got = x.iter().sum::<f64>() / n;
            let square = x.iter().map(|x| (x - got).powi(2)).sum::<f64>() / n;
            let largest = x.iter().fold(0f64, |m, x| m.max(x.abs()));
            let close = (got - mean).abs() < 0.05 && (square.sqrt() - want).abs() <= 0.02 * want;
            assert!(close && largest <= most, "{init:?}: {got} {square} {largest}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_numbers_in_every_type() -> Result<()> {
        let made = |dtype, seed| {
            let mut params = Parameters::new(dtype, &Device::Cpu);
            params
                .builder(&mut Rng::new(seed))
                .param("w", (2, 3), Init::FanIn(4))?
                .to_dtype(DType::F32)?
                .to_vec2::<f32>()
        };
        assert_eq!(made(DType::F32, 1)?, made(DType::F64, 1)?);
        assert_ne!(made(DType::F32, 1)?, made(DType::F32, 2)?);
        Ok(())
    }

    #[test]
    fn names_are_unique_and_shapes_not_empty() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F32, &Device::Cpu));
        let mut build = params.builder(&mut rng);
        build.at(1).param("w", 3, Init::Ones)?;
        build.at(2).param("w", 3, Init::Ones)?;
        let twice = build.at(1).param("w", 3, Init::Ones).unwrap_err().to_string();
        assert!(twice.contains("the parameter 1.w already exists"), "{twice}");
        let empty = build.param("v", (3, 0), Init::Ones).unwrap_err().to_string();
        assert!(empty.contains("parameter v would have shape [3, 0]"), "{empty}");
        assert!(build.param("v", (usize::MAX, 2), Init::Ones).is_err());
        Ok(())
    }
}
