//! The first CUDA device: whether it can be used, and if not, why.

#[cfg(lazy_driver)]
use super::driver;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result::{device::get_default_mem_pool, mem_pool};
use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute as Attribute, CUmemoryPool};
use candle_core::{Device, Result, Tensor};
use std::sync::OnceLock;

/// Opens the device, once, because candle regards the tensors of two handles as being on two devices. It is never
/// closed, since an error could not be reported then.
///
/// # Errors
/// The device cannot be used: the message says why.
pub(super) fn open() -> std::result::Result<Device, String> {
    static DEVICE: OnceLock<std::result::Result<Device, String>> = OnceLock::new();
    let first = || {
        #[cfg(lazy_driver)]
        driver::find()?;
        let opened = Device::new_cuda(0).and_then(|device| {
            // Otherwise each tensor has two events, recorded at each use, to synchronise several streams.
            // SAFETY: one stream does everything on this device, in order.
            unsafe { device.as_cuda_device()?.disable_event_tracking() };
            computes(&device)?;
            keep_memory(&device)?;
            Ok(device)
        });
        opened.map_err(|error| reason(&error.to_string()))
    };
    DEVICE.get_or_init(first).clone()
}

/// Makes the driver keep freed memory for reuse. Otherwise it returns the memory whenever the host waits for the
/// device, and every step begins by requesting it again.
fn keep_memory(device: &Device) -> Result<()> {
    let Some(pool) = pool(device)? else {
        return Ok(());
    };
    let mut all = u64::MAX;
    let threshold = Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's own, and the attribute a number of 64 bits.
    unsafe { mem_pool::set_attribute(pool, threshold, (&raw mut all).cast()) }.w()
}

/// The peak memory of tensors and workspaces on a CUDA device in bytes; `None` for other devices, or if the driver does
/// not report it.
pub fn peak_memory(device: &Device) -> Option<u64> {
    bytes(device, Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
}

/// The memory of tensors and workspaces now.
pub(super) fn used_memory(device: &Device) -> Option<u64> {
    bytes(device, Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
}

fn bytes(device: &Device, attribute: Attribute) -> Option<u64> {
    let pool = pool(device).ok()??;
    let mut bytes = 0u64;
    // SAFETY: the pool is the device's own, and these attributes are numbers of 64 bits.
    unsafe { mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }.ok()?;
    Some(bytes)
}

/// The memory pool of a device, if it has one.
fn pool(device: &Device) -> Result<Option<CUmemoryPool>> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    // SAFETY: the context's own device.
    unsafe { get_default_mem_pool(context.cu_device()) }.w().map(Some)
}

/// Runs a kernel, because only the first kernel reveals whether the build suits the driver and the GPU.
fn computes(device: &Device) -> Result<()> {
    let two = Tensor::new(1f32, device)?.affine(1.0, 1.0)?;
    match two.to_scalar::<f32>()? {
        2.0 => Ok(()),
        other => candle_core::bail!("1 + 1 is {other} on it"),
    }
}

/// Explains an error of the driver or of a library.
fn reason(error: &str) -> String {
    let cap = option_env!("DIFFUSION_COMPUTE_CAP").unwrap_or("of another GPU");
    let known = [
        ("CUDA_ERROR_NO_DEVICE", "the NVIDIA driver finds no GPU (is one hidden by CUDA_VISIBLE_DEVICES?)".to_owned()),
        (
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            "the NVIDIA driver is older than the CUDA toolkit that this was built with; update the driver".to_owned(),
        ),
        (
            "CUDA_ERROR_INSUFFICIENT_DRIVER",
            "the NVIDIA driver is older than the CUDA toolkit that this was built with; update the driver".to_owned(),
        ),
        (
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "the NVIDIA driver was changed while the machine was running; restart the machine".to_owned(),
        ),
        (
            "CUDA_ERROR_NO_BINARY_FOR_GPU",
            format!("this was built for newer GPUs (CUDA_COMPUTE_CAP = {cap}); build it again with this GPU's number"),
        ),
        (
            "CUDA_ERROR_INVALID_PTX",
            format!("this was built for another GPU (CUDA_COMPUTE_CAP = {cap}); build it again with this GPU's number"),
        ),
        ("CUDA_ERROR_OUT_OF_MEMORY", "the GPU's memory is full; see with nvidia-smi what is using it".to_owned()),
    ];
    let first = error.lines().next().unwrap_or_default();
    let found = known.into_iter().find(|(code, _)| error.contains(code));
    found.map_or_else(|| first.to_owned(), |(code, words)| format!("{words} ({code})"))
}

/// The name of the device and its memory in bytes.
pub(super) fn about(device: &Device) -> Option<(String, u64)> {
    let stream = device.as_cuda_device().ok()?.cuda_stream();
    let context = stream.context();
    Some((context.name().ok()?, context.total_mem().ok()? as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_explained() {
        let printed = r#"DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "the provided PTX was compiled with an unsupported toolchain.")"#;
        assert!(reason(printed).contains("update the driver"));
        assert!(reason("DriverError(CUDA_ERROR_NO_DEVICE, \"\")").contains("finds no GPU"));
        assert_eq!(reason("CublasError(X)\nat line 3"), "CublasError(X)");
    }
}
