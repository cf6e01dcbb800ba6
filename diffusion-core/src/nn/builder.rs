//! Makes the parameters of a network by name, from a seeded generator.

use super::Parameters;
use super::parameters::{Role, check_finite, is_float};
use super::trace::Probe;
use crate::rng::Rng;
use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use std::collections::HashMap;
use std::fmt::Display;

/// More numbers than one parameter of any network has.
const LARGEST: usize = 1 << 31;

/// The values of a parameter before training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every number 0.
    Zeros,
    /// Every number 1.
    Ones,
    /// Normal numbers of mean 0 and variance 1.
    Normal,
    /// Every number this one.
    Constant(f64),
    /// Normal numbers of this mean and standard deviation.
    Gaussian {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        std: f64,
    },
    /// Uniform between two numbers.
    Uniform {
        /// The lowest.
        low: f64,
        /// The highest.
        high: f64,
    },
    /// Uniform in ±1/√n, where n is the number of inputs that are summed up for one output: PyTorch's default for the
    /// weights and biases of convolutions and linear layers (`kaiming_uniform_` with a = √5).
    FanIn(usize),
}

impl Init {
    pub(super) fn values(self, n: usize, rng: &mut Rng) -> impl Iterator<Item = f64> {
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

/// Adds parameters to a [`Parameters`], under a name within a name within a name: from [`Parameters::builder`].
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

/// Where parameters come from.
#[derive(Debug)]
enum Source<'a> {
    /// They are drawn.
    New(&'a mut Parameters, &'a mut Rng),
    /// They are read from a file.
    Tensors(&'a mut Parameters, &'a HashMap<String, Tensor>),
    /// They exist.
    Constants(&'a Parameters),
}

impl Parameters {
    /// The builder of layers with new parameters; initial values are drawn from `rng`.
    pub fn builder<'a>(&'a mut self, rng: &'a mut Rng) -> Builder<'a> {
        Builder::new(self, rng)
    }

    /// The builder of layers whose values exist already, in a file say: each parameter takes the tensor of its name, converted
    /// to the type and device of the parameters. The caller is to check what is left over in `tensors`.
    pub fn builder_from<'a>(&'a mut self, tensors: &'a HashMap<String, Tensor>) -> Builder<'a> {
        Builder::from_tensors(self, tensors)
    }

    /// The builder of the same layers once more with the existing parameters as constants: without gradients, so that candle
    /// keeps nothing for a backward pass. They share their numbers with the parameters.
    pub fn constants(&self) -> Builder<'_> {
        Builder::constants(self)
    }
}

impl<'a> Builder<'a> {
    pub(super) fn new(params: &'a mut Parameters, rng: &'a mut Rng) -> Self {
        Self::from(Source::New(params, rng))
    }

    pub(super) fn from_tensors(params: &'a mut Parameters, tensors: &'a HashMap<String, Tensor>) -> Self {
        Self::from(Source::Tensors(params, tensors))
    }

    pub(super) fn constants(params: &'a Parameters) -> Self {
        Self::from(Source::Constants(params))
    }

    fn from(source: Source<'a>) -> Self {
        Self { source, prefix: String::new() }
    }

    /// The builder of the part called `name`: what it makes is called `name.…`.
    pub fn at(&mut self, name: impl Display) -> Builder<'_> {
        let prefix = format!("{}{name}.", self.prefix);
        Builder { prefix, ..self.here() }
    }

    /// The builder of the same part.
    pub(super) fn here(&mut self) -> Builder<'_> {
        Builder {
            prefix: self.prefix.clone(),
            source: match &mut self.source {
                Source::New(params, rng) => Source::New(params, rng),
                Source::Tensors(params, tensors) => Source::Tensors(params, tensors),
                Source::Constants(params) => Source::Constants(params),
            },
        }
    }

    /// The parameters that it adds to.
    pub(super) fn parameters(&self) -> &Parameters {
        match &self.source {
            Source::New(params, _) | Source::Tensors(params, _) => params,
            Source::Constants(params) => params,
        }
    }

    /// The tensor of this name, if it is there already: in the file, or among the parameters.
    pub(super) fn stored(&self, name: &str) -> Option<&Tensor> {
        let name = format!("{}{name}", self.prefix);
        match &self.source {
            Source::Tensors(_, tensors) => tensors.get(&name),
            _ => self.parameters().get(&name).map(|var| var.as_tensor()),
        }
    }

    /// Makes a parameter called `name`, and returns its tensor; or, from [`Parameters::constants`], returns the existing one.
    ///
    /// Random numbers are drawn on the host in row-major order, so that every device gets the same.
    ///
    /// # Errors
    /// The name is taken, a dimension of `shape` is 0, or there are more than 2³¹ numbers. From [`Parameters::constants`]: there is
    /// none of this name, or it has another shape; so also from
    /// [`Parameters::builder_from`], or if the numbers are not finite.
    pub fn param(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Tensor> {
        let var = self.make(name, shape, init, Role::Trained)?;
        Ok(match &self.source {
            Source::Constants(_) => var.as_detached_tensor(),
            _ => var.as_tensor().clone(),
        })
    }

    /// Makes a buffer called `name`: numbers that belong to the network without being trained, as the running mean of a batch
    /// norm. They are saved and loaded with the parameters, and whoever has the variable may set it.
    ///
    /// # Errors
    /// As [`Builder::param`].
    pub fn buffer(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Var> {
        self.make(name, shape, init, Role::Buffer)
    }

    /// Whether the layers are for predicting only, from [`Parameters::constants`], and not for training.
    pub fn is_constant(&self) -> bool {
        matches!(self.source, Source::Constants(_))
    }

    /// With it the layer that is made here reports to a summary.
    pub(crate) fn probe(&self) -> Probe {
        Probe { name: self.prefix.trim_end_matches('.').to_owned(), trace: self.parameters().trace().clone() }
    }

    fn make(&mut self, name: &str, shape: impl Into<Shape>, init: Init, role: Role) -> Result<Var> {
        let (name, shape) = (format!("{}{name}", self.prefix), shape.into());
        let count = shape.dims().iter().try_fold(1, |n: usize, d| n.checked_mul(*d));
        let Some(count) = count.filter(|n| (1..=LARGEST).contains(n)) else {
            bail!("parameter {name} would have shape {shape:?}: it must have at least one number and at most {LARGEST}")
        };
        match &mut self.source {
            Source::New(params, _) | Source::Tensors(params, _) if params.get(&name).is_some() => {
                bail!("there is a parameter {name} already: give each part a name of its own")
            }
            Source::New(params, rng) => {
                let values = init.values(count, rng);
                if params.dtype() == DType::F32 {
                    // Without a copy on the way.
                    let var = Var::from_vec(values.map(|x| x as f32).collect(), shape, params.device())?;
                    return Ok(params.keep(name, var, role));
                }
                let values = Tensor::from_vec(values.collect::<Vec<f64>>(), shape, &Device::Cpu)?;
                params.add(name, &values, role)
            }
            // What is not in the file is not even allocated.
            Source::Tensors(params, tensors) => match tensors.get(&name) {
                Some(found) if !is_float(found.dtype()) => {
                    bail!("{name} has numbers of type {:?}", found.dtype())
                }
                Some(found) if found.shape() == &shape => {
                    check_finite(&name, found)?;
                    params.add(name, found, role)
                }
                Some(found) => bail!("{name} has shape {:?} and must have {:?}", found.dims(), shape.dims()),
                None => bail!("missing: {name}, of shape {:?}", shape.dims()),
            },
            Source::Constants(params) => match params.get(&name) {
                Some(var) if var.shape() == &shape => Ok(var.clone()),
                Some(var) => bail!("parameter {name} has shape {:?} and should have {shape:?}", var.dims()),
                None => bail!("there is no parameter {name}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    /// Mean, standard deviation and largest value, of candle's initialisations too.
    #[test]
    fn initial_values_are_what_they_are_said_to_be() {
        use crate::nn::var_builder::ours;
        use candle_nn::init::{DEFAULT_KAIMING_NORMAL, DEFAULT_KAIMING_UNIFORM, Init as Theirs};
        let shape = Shape::from((400, 5, 3, 3));
        let of_candle = |init| ours(init, &shape);
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
    fn a_name_is_given_once_and_a_shape_is_not_empty() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F32, &Device::Cpu));
        let mut build = params.builder(&mut rng);
        build.at(1).param("w", 3, Init::Ones)?;
        build.at(2).param("w", 3, Init::Ones)?;
        let twice = build.at(1).param("w", 3, Init::Ones).unwrap_err().to_string();
        assert!(twice.contains("there is a parameter 1.w already"), "{twice}");
        let empty = build.param("v", (3, 0), Init::Ones).unwrap_err().to_string();
        assert!(empty.contains("parameter v would have shape [3, 0]"), "{empty}");
        assert!(build.param("v", (usize::MAX, 2), Init::Ones).is_err());
        Ok(())
    }
}
