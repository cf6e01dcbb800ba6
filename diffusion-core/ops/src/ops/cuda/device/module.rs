//! The kernels on a device, compiled when they are first needed.

use super::super::SOURCE;
use candle_core::cuda_backend::cudarc::driver::CudaFunction;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute as Attribute;
use candle_core::cuda_backend::cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDevice, DeviceId, WrapErr};
use candle_core::{Error, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

thread_local! {
    /// The functions that have been loaded.
    static FUNCTIONS: RefCell<HashMap<(DeviceId, &'static str), CudaFunction>> = RefCell::default();
}

/// The kernel of this name on `device`.
pub(super) fn function(device: &CudaDevice, name: &'static str) -> Result<CudaFunction> {
    FUNCTIONS.with_borrow_mut(|functions| {
        if let Some(function) = functions.get(&(device.id(), name)) {
            return Ok(function.clone());
        }
        let code = device.get_or_load_custom_func(name, "diffusion-core", &ptx(device)?)?;
        let function = code.into_cuda_function();
        functions.insert((device.id(), name), function.clone());
        Ok(function)
    })
}

/// All kernels, compiled once for each kind of device.
fn ptx(device: &CudaDevice) -> Result<String> {
    static COMPILED: Mutex<Option<HashMap<i32, String>>> = Mutex::new(None);
    let context = device.cuda_stream().context().clone();
    let major = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR).w()?;
    let minor = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR).w()?;
    let capability = 10 * major + minor;
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let compiled = compiled.get_or_insert_default();
    if let Some(ptx) = compiled.get(&capability) {
        return Ok(ptx.clone());
    }
    let ptx = compile(capability)?;
    compiled.insert(capability, ptx.clone());
    Ok(ptx)
}

/// Compiles the kernels for this compute capability, 90 for 9.0. This needs no device.
fn compile(capability: i32) -> Result<String> {
    let options = CompileOptions {
        options: vec![format!("--gpu-architecture=compute_{capability}")],
        name: Some("diffusion-core.cu".to_owned()),
        ..Default::default()
    };
    match compile_ptx_with_opts(SOURCE, options) {
        Ok(ptx) => Ok(ptx.to_src()),
        Err(CompileError::CompileError { log, .. }) => Err(Error::msg(format!(
            "the kernels could not be compiled for compute capability {capability}: {}",
            log.to_string_lossy()
        ))),
        Err(error) => Err(error).w(),
    }
}
