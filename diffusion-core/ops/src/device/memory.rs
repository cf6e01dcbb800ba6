//! Running out of memory.
//!
//! A GPU reports it. On the CPU, a program that requests too much is killed or aborts; so requests by a user or a file
//! are compared with the free memory before allocating.

use candle_core::{Device, Result, bail};
use std::error::Error;
use std::fs;

/// The names of the error in CUDA, its libraries and Metal.
const NAMES: [&str; 6] = [
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CURAND_STATUS_ALLOCATION_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "Failed to create metal resource: Buffer",
];

/// The device's name for the error, if it is out of memory; otherwise `None`.
///
/// Such an error breaks nothing: earlier results are intact, and something smaller can be tried.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::device::out_of_memory;
/// let error = diffusion_core::candle::Error::Msg(
///     r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#.to_owned(),
/// );
/// assert_eq!(out_of_memory(&error), Some("CUDA_ERROR_OUT_OF_MEMORY"));
/// ```
pub fn out_of_memory(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        // Errors that pass through candle are only text.
        let text = error.to_string();
        if let Some(name) = NAMES.into_iter().find(|name| text.contains(name)) {
            return Some(name);
        }
        next = error.source();
    }
    None
}

/// The number of bytes that this process can still allocate on the CPU, where the system reports it: on Linux, within
/// the limit of a container.
pub fn available_memory() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let system = || {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        kilobytes.checked_mul(1024)
    };
    let limit = number("/sys/fs/cgroup/memory.max");
    let container = limit.map(|limit| limit.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)));
    system().into_iter().chain(container).min()
}

/// The memory in use, in bytes: on the CPU and on Metal, which share it, the physical memory of this process; on CUDA,
/// that of tensors and workspaces on the device. `None` if the system does not report it.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::Device, device::used_memory};
/// assert!(used_memory(&Device::Cpu).is_none_or(|bytes| bytes > 1_000_000));
/// ```
pub fn used_memory(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return super::cuda::used_memory(device);
    }
    let _ = device;
    memory_stats::memory_stats().map(|now| now.physical_mem as u64)
}

/// Checks that the CPU has enough free memory; `numbers` is the product of the dimensions, in f32 elements.
///
/// # Errors
/// There is not enough memory: the message contains `wanted`, both sizes in GB, and `advice`.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::Device, device::ensure_room};
/// ensure_room(&Device::Cpu, "4 images", &[4, 3, 32, 32], "draw fewer")?;
/// assert!(ensure_room(&Device::Cpu, "very many images", &[usize::MAX, 2], "draw fewer").is_err());
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn ensure_room(device: &Device, wanted: &str, numbers: &[usize], advice: &str) -> Result<()> {
    let bytes = numbers.iter().try_fold(4u64, |product, n| product.checked_mul(*n as u64));
    let Some(bytes) = bytes.filter(|bytes| *bytes <= isize::MAX as u64) else {
        bail!("{wanted} would take more memory than can exist; {advice}")
    };
    if device.is_cpu()
        && let Some(free) = available_memory()
        && bytes > free
    {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        bail!(
            "{wanted} would take {:.1} GB of memory, but only {:.1} GB are free; {advice}",
            gigabytes(bytes),
            gigabytes(free)
        )
    }
    Ok(())
}

/// The message of an out-of-memory error, with advice.
pub fn too_little(name: &str, wanted: &str, advice: &str) -> String {
    format!("the device is out of memory for {wanted} ({name}); {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;

    /// Formatted like cudarc 0.19.10's `DriverError`.
    #[derive(Debug)]
    struct Driver(&'static str);

    impl fmt::Display for Driver {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "DriverError({}, \"out of memory\")", self.0)
        }
    }

    impl Error for Driver {}

    #[test]
    fn it_is_found_below_added_context() {
        let full = || candle_core::Error::Cuda(Box::new(Driver("CUDA_ERROR_OUT_OF_MEMORY"))).bt();
        assert_eq!(out_of_memory(&full()), Some("CUDA_ERROR_OUT_OF_MEMORY"));
        let deep = anyhow::Error::new(full().context("conv2d")).context("step 3");
        assert!(out_of_memory(deep.as_ref()).is_some(), "{deep:?}");
        let other = candle_core::Error::Cuda(Box::new(Driver("CUDA_ERROR_INVALID_VALUE")));
        assert_eq!(out_of_memory(&other), None);
    }
}
