//! Replacements for functions that cudarc 0.19.10 expects in CUDA 13.0's cuBLASLt, but which that library lacks.
//!
//! A program links only what it calls, but a shared library, as loaded by the notebooks, requires all symbols, and the
//! loader rejects it if one is missing. Nothing calls these functions, since candle does not use cuBLASLt.
//! `tests/cuda.rs` detects other missing ones.

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
