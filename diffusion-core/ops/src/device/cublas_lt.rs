//! What cudarc 0.19.10 takes for functions of CUDA 13.0's cuBLASLt and that library does not have.
//!
//! A program leaves out what it does not call, but a shared library, as the notebooks load it, asks for all of them, and the loader
//! refuses it if one is missing. Nobody calls them: candle does not use cuBLASLt. `tests/cuda.rs` notices if there are others.

use std::ffi::c_int;

/// `CUBLAS_STATUS_NOT_SUPPORTED`.
const NOT_SUPPORTED: c_int = 15;

macro_rules! missing {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> c_int {
                NOT_SUPPORTED
            }
        )*
    };
}

missing! {
    cublasLtEmulationDescCreate cublasLtEmulationDescDestroy cublasLtEmulationDescGetAttribute
    cublasLtEmulationDescInit_internal cublasLtEmulationDescSetAttribute
}
