//! When memory is full, or would be.
//!
//! A GPU says so. On the CPU a program that asks for more than there is is killed, or aborts: so what a user or a file can ask for
//! is compared with what is free before it is allocated.

use candle_core::{Device, Result, bail};
use std::error::Error;
use std::fs;

/// What CUDA, the libraries on it and Metal call it.
const NAMES: [&str; 6] = [
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CURAND_STATUS_ALLOCATION_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "Failed to create metal resource: Buffer",
];

/// The device's own word for a lack of its memory, if that is what an error is about.
///
/// Nothing is broken then: what was computed before is still there, and something smaller can be tried.
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
        // Of what crosses candle, only the text is left.
        let text = error.to_string();
        if let Some(name) = NAMES.into_iter().find(|name| text.contains(name)) {
            return Some(name);
        }
        next = error.source();
    }
    None
}

/// The bytes of memory that this process can still have on the CPU, where the system says: on Linux, within the limit of a
/// container.
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

/// An error if something takes more of the CPU's memory than is free; `numbers` is the product of its sizes, of f32.
///
/// # Errors
/// As said: the message has `wanted`, both sizes in GB, and `advice`.
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
        bail!("{wanted} would take more memory than there can be; {advice}")
    };
    if device.is_cpu()
        && let Some(free) = available_memory()
        && bytes > free
    {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        bail!(
            "{wanted} would take {:.1} GB of memory, and {:.1} GB are free; {advice}",
            gigabytes(bytes),
            gigabytes(free)
        )
    }
    Ok(())
}

/// In words: for what there was no memory, and what to try.
pub fn too_little(name: &str, wanted: &str, advice: &str) -> String {
    format!("the device has no memory left for {wanted} ({name}); {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;

    /// As cudarc 0.19.10 prints its `DriverError`.
    #[derive(Debug)]
    struct Driver(&'static str);

    impl fmt::Display for Driver {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "DriverError({}, \"out of memory\")", self.0)
        }
    }

    impl Error for Driver {}

    #[test]
    fn is_found_under_what_was_said_about_it() {
        let full = || candle_core::Error::Cuda(Box::new(Driver("CUDA_ERROR_OUT_OF_MEMORY"))).bt();
        assert_eq!(out_of_memory(&full()), Some("CUDA_ERROR_OUT_OF_MEMORY"));
        let deep = anyhow::Error::new(full().context("conv2d")).context("step 3");
        assert!(out_of_memory(deep.as_ref()).is_some(), "{deep:?}");
        let other = candle_core::Error::Cuda(Box::new(Driver("CUDA_ERROR_INVALID_VALUE")));
        assert_eq!(out_of_memory(&other), None);
    }
}
