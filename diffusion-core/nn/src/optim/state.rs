//! Checks of named parameters and of the tensors in a saved state.

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use std::collections::{BTreeMap, HashMap};

/// Checks that there are parameters, all of a trainable type, and no variable twice.
pub(super) fn check_params(op: &str, params: &BTreeMap<String, Var>) -> Result<()> {
    if params.is_empty() {
        bail!("{op}: there are no parameters")
    }
    let mut names = HashMap::new();
    for (name, var) in params {
        if !matches!(var.dtype(), DType::F32 | DType::F64) {
            bail!("{op}: {name} is of type {:?}; parameters are trained in F32 or F64", var.dtype())
        }
        if let Some(other) = names.insert(var.id(), name) {
            bail!("{op}: {other} and {name} are the same variable; give it once")
        }
    }
    Ok(())
}

/// The expected contents of a saved state: shape and type by name.
pub(super) type Expected = BTreeMap<String, (Shape, DType)>;

/// Checks that `state` holds exactly the tensors in `expected`.
pub(super) fn check_state(op: &str, expected: &Expected, state: &HashMap<String, Tensor>) -> Result<()> {
    for (name, (shape, dtype)) in expected {
        let want = format!("{:?} of type {dtype:?}", shape.dims());
        match state.get(name) {
            None => bail!("{op}: the state lacks {name}, expected with shape {want}"),
            Some(found) if found.shape() != shape || found.dtype() != *dtype => bail!(
                "{op}: {name} in the state has shape {:?} of type {:?}; expected {want}",
                found.dims(),
                found.dtype()
            ),
            Some(_) => {}
        }
    }
    match state.keys().filter(|name| !expected.contains_key(*name)).min() {
        Some(name) => {
            bail!("{op}: the state holds {name} of shape {:?}, which belongs to no parameter", state[name].dims())
        }
        None => Ok(()),
    }
}

/// A count as a tensor of a state.
pub(super) fn count_tensor(count: u64) -> Result<Tensor> {
    Tensor::new(count as i64, &Device::Cpu)
}

/// The count in the tensor `name` of a state that has passed [`check_state`].
pub(super) fn read_count(op: &str, state: &HashMap<String, Tensor>, name: &str) -> Result<u64> {
    let count = state[name].to_scalar::<i64>()?;
    match u64::try_from(count) {
        Ok(count) => Ok(count),
        Err(_) => bail!("{op}: {name} in the state is {count}; a count is at least 0"),
    }
}
