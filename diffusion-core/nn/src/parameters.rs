//! The parameters of a network, by name.

use super::Checkpoint;
use super::trace::Trace;
use anyhow::Context;
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The number of names that a message lists before it counts the rest.
const LISTED: usize = 8;

/// The named parameters of a network in the order of their creation, all of one type on one device.
///
/// The tensors are shared with the layers, so a change here takes effect there. Some networks also have values that are
/// not trained, such as the running mean of a batch norm: [`Parameters::buffers`]. They are saved, loaded and looked up
/// like parameters.
#[derive(Debug)]
pub struct Parameters {
    vars: Vec<(String, Var)>,
    buffers: Vec<(String, Var)>,
    trace: Trace,
    dtype: DType,
    device: Device,
}

impl Parameters {
    /// Creates an empty set of parameters with this type and device.
    pub fn new(dtype: DType, device: &Device) -> Self {
        Self { vars: Vec::new(), buffers: Vec::new(), trace: Trace::default(), dtype, device: device.clone() }
    }

    pub(crate) fn add(&mut self, name: String, values: &Tensor, role: Role) -> Result<Var> {
        let values = values.to_dtype(self.dtype)?.to_device(&self.device)?;
        Ok(self.keep(name, Var::from_tensor(&values.detach())?, role))
    }

    pub(crate) fn keep(&mut self, name: String, var: Var, role: Role) -> Var {
        match role {
            Role::Trained => self.vars.push((name, var.clone())),
            Role::Buffer => self.buffers.push((name, var.clone())),
        }
        var
    }

    /// The record that layers report to for a summary.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number of trainable elements.
    pub fn count(&self) -> usize {
        self.vars.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// The parameter or buffer called `name`.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.all().find(|(n, _)| *n == name).map(|(_, var)| var)
    }

    /// The buffers by name: values that belong to the network but are not trained.
    pub fn buffers(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.buffers.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// The parameters, then the buffers.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.iter().chain(self.buffers())
    }

    /// The names of the parameters in order: `down1.conv1.weight` and so on.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.vars.iter().map(|(name, _)| name.as_str())
    }

    /// Names and parameters in order, without the buffers.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.vars.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// The parameters by name, as used by diffusion-core's `train`. They are shared, not copied.
    pub fn by_name(&self) -> BTreeMap<String, Var> {
        self.vars.iter().cloned().collect()
    }

    /// Sets every parameter to the tensor with its name, converted to the type and device of the parameters.
    ///
    /// # Errors
    /// A name is missing or unexpected, a shape differs, or a tensor holds integers: the message lists all such names
    /// with both shapes. Then nothing is changed.
    pub fn assign(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let mut missing = Vec::new();
        let mut unfit = Vec::new();
        let mut fit = Vec::new();
        for (name, var) in self.all() {
            match tensors.get(name) {
                None => missing.push(name.to_owned()),
                Some(tensor) if tensor.dims() != var.dims() => {
                    unfit.push(format!("{name} has shape {:?} but must have {:?}", tensor.dims(), var.dims()))
                }
                Some(tensor) if !is_float(tensor.dtype()) => {
                    unfit.push(format!("{name} has elements of type {:?}, not floating-point numbers", tensor.dtype()))
                }
                Some(tensor) => fit.push((var, tensor)),
            }
        }
        let mut unexpected: Vec<String> = tensors.keys().filter(|name| self.get(name).is_none()).cloned().collect();
        unexpected.sort();
        let problems: Vec<String> = [("missing: ", missing), ("unexpected: ", unexpected), ("", unfit)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what}{}", list(&names)))
            .collect();
        if !problems.is_empty() {
            bail!("the tensors do not match the network's {} parameters: {}", self.vars.len(), problems.join("; "))
        }
        for (var, tensor) in fit {
            // A copy, since a variable cannot be set to a tensor that shares its memory.
            let values = tensor.to_dtype(self.dtype)?.to_device(&self.device)?.copy()?;
            var.set(&values)?;
        }
        Ok(())
    }

    /// Copies of the values of all parameters and buffers, by name.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn values(&self) -> Result<HashMap<String, Tensor>> {
        let copy = |(name, var): (&str, &Var)| Ok((name.to_owned(), var.as_detached_tensor().copy()?));
        self.all().map(copy).collect()
    }

    /// Writes all parameters and buffers to a safetensors file, under a temporary name first, so that an existing file
    /// stays intact until the new one is complete.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> anyhow::Result<()> {
        let tensor = |(name, var): (&str, &Var)| (name.to_owned(), var.as_detached_tensor());
        let tensors = self.all().map(tensor).collect();
        let contents = Checkpoint { tensors, ..Default::default() };
        contents.save(path)
    }

    /// Loads all parameters and buffers from a safetensors file, written by [`Parameters::save`] or holding a PyTorch
    /// state dict with the same names.
    ///
    /// # Errors
    /// The file cannot be read, is damaged or holds values that are not finite; or see [`Parameters::assign`]. The
    /// message names the file. Then nothing is changed.
    pub fn load(&self, path: impl AsRef<Path>) -> anyhow::Result<()> {
        let path = path.as_ref();
        let file = Checkpoint::load(path)?;
        let mut floats = file.tensors.iter().filter(|(_, x)| is_float(x.dtype()));
        floats
            .try_for_each(|(name, tensor)| check_finite(name, tensor))
            .and_then(|()| self.assign(&file.tensors))
            .with_context(|| format!("cannot load {}", path.display()))
            .map_err(diffusion_ops::error::whole)
    }
}

pub(crate) fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
}

/// Checks that all elements are finite.
pub(crate) fn check_finite(name: &str, tensor: &Tensor) -> Result<()> {
    let numbers = tensor.to_dtype(DType::F64)?.flatten_all()?;
    match numbers.to_vec1::<f64>()?.iter().find(|x| !x.is_finite()) {
        Some(x) => {
            bail!("{name} contains {x}, so every prediction would be NaN; the training run that wrote it diverged")
        }
        None => Ok(()),
    }
}

fn list(names: &[String]) -> String {
    let listed = names[..names.len().min(LISTED)].join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

/// The role of a tensor in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Trained,
    Buffer,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, Linear};
    use diffusion_ops::rng::Rng;
    use std::fs;

    fn two_layers(seed: u64, dtype: DType) -> Result<(Parameters, Linear)> {
        let (mut rng, mut params) = (Rng::new(seed), Parameters::new(dtype, &Device::Cpu));
        let mut build = params.builder(&mut rng);
        let first = Linear::new(build.at("first"), 3, 4)?;
        Linear::new(build.at("second"), 4, 1)?;
        Ok((params, first))
    }

    fn values(params: &Parameters) -> Result<Vec<Vec<f32>>> {
        let values = |(_, v): (&str, &Var)| v.flatten_all()?.to_dtype(DType::F32)?.to_vec1();
        params.iter().map(values).collect()
    }

    #[test]
    fn saved_parameters_are_restored_to_the_bit_in_the_layers() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("net.safetensors");
        let ((a, _), (b, layer)) = (two_layers(1, DType::F32)?, two_layers(2, DType::F32)?);
        b.save(&path)?;
        a.save(&path)?;
        b.load(&path)?;
        assert_eq!(values(&a)?, values(&b)?);
        let seen = layer.weight.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(seen, values(&a)?[0]);
        assert_eq!(fs::read_dir(&folder)?.count(), 1, "no half-written file is left");

        let (wide, _) = two_layers(3, DType::F64)?;
        wide.load(&path)?;
        assert_eq!(values(&wide)?, values(&a)?);
        assert_eq!(wide.get("first.bias").unwrap().dtype(), DType::F64);
        Ok(())
    }

    #[test]
    fn all_mismatches_are_listed_and_nothing_is_changed() -> anyhow::Result<()> {
        let (params, _) = two_layers(1, DType::F32)?;
        let before = values(&params)?;
        let tensor = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu);
        let file: HashMap<String, Tensor> = [
            ("first.weight", tensor(&[3, 4], DType::F32)?),
            ("first.bias", tensor(&[4], DType::U32)?),
            ("second.bias", tensor(&[1], DType::F32)?),
            ("third.bias", tensor(&[1], DType::F32)?),
        ]
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .into();
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("other.safetensors");
        candle_core::safetensors::save(&file, &path)?;
        let message = params.load(&path).unwrap_err().to_string();
        for wants in [
            "other.safetensors",
            "missing: second.weight; unexpected: third.bias; ",
            "first.weight has shape [3, 4] but must have [4, 3]",
            "first.bias has elements of type U32",
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        assert_eq!(values(&params)?, before);
        Ok(())
    }

    #[test]
    fn names_are_in_order_of_creation_and_long_lists_are_cut() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F32, &Device::Cpu));
        let mut build = params.builder(&mut rng);
        for i in 0..20 {
            build.param(&i.to_string(), 2, Init::Ones)?;
        }
        let names: Vec<String> = params.names().map(str::to_owned).collect();
        assert!((0..20).map(|i: usize| i.to_string()).eq(names));
        assert_eq!((params.count(), params.by_name().len()), (40, 20));
        let message = params.assign(&HashMap::new()).unwrap_err().to_string();
        let wants = "missing: 0, 1, 2, 3, 4, 5, 6, 7 and 12 more";
        assert!(message.contains(wants), "{message}");
        Ok(())
    }

    #[test]
    fn damaged_files_and_wrong_paths_are_errors_that_name_them() -> anyhow::Result<()> {
        let (params, _) = two_layers(1, DType::F32)?;
        let before = values(&params)?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("net.safetensors");
        params.save(&path)?;
        let whole = fs::read(&path)?;
        let mut absurd = whole.clone();
        absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        for bytes in [&whole[..whole.len() - 1], &whole[..20], &[], &absurd[..], &b"not a file"[..]] {
            fs::write(&path, bytes)?;
            let message = params.load(&path).unwrap_err().to_string();
            assert!(message.contains("cannot load") && message.contains("net.safetensors: "), "{message}");
        }
        assert_eq!(values(&params)?, before);
        let first = params.get("first.weight").context("a weight")?;
        first.set(&(first.as_tensor() * f64::NAN)?)?;
        params.save(&path)?;
        for failed in [
            two_layers(1, DType::F32)?.0.load(&path).unwrap_err(),
            anyhow::Error::from(
                Linear::new(
                    Parameters::new(DType::F32, &Device::Cpu)
                        .builder_from(&Checkpoint::load(&path)?.tensors)
                        .at("first"),
                    3,
                    4,
                )
                .unwrap_err(),
            ),
        ] {
            let message = failed.to_string();
            assert!(message.contains("first.weight contains NaN"), "{message}");
        }
        let nowhere = folder.path().join("no folder").join("net.safetensors");
        let message = params.load(&nowhere).unwrap_err().to_string();
        assert!(message.contains("no folder"), "{message}");
        let message = params.save(&nowhere).unwrap_err().to_string();
        assert!(message.contains("cannot write") && message.contains("no folder"), "{message}");
        Ok(())
    }

    /// A network's own tensors can be assigned to it, or to another network.
    #[test]
    fn values_of_a_network_can_be_assigned_to_itself() -> Result<()> {
        let ((a, _), (b, _)) = (two_layers(1, DType::F32)?, two_layers(2, DType::F32)?);
        let own = |p: &Parameters| -> HashMap<_, _> {
            p.iter().map(|(n, v)| (n.to_owned(), v.as_detached_tensor())).collect()
        };
        a.assign(&own(&a))?;
        b.assign(&own(&a))?;
        assert_eq!(values(&a)?, values(&b)?);
        Ok(())
    }
}
