//! When a GPU's memory is full.

use std::error::Error;

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
