//! The functions of libcudnn that are used, loaded when they are first needed.

use candle_core::{Result, bail};
use libloading::Library as Shared;
use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, OnceLock};

/// The names that the loader searches for, in `LD_LIBRARY_PATH` and the system's folders.
#[cfg(windows)]
const NAMES: [&str; 1] = ["cudnn64_9.dll"];
#[cfg(not(windows))]
const NAMES: [&str; 2] = ["libcudnn.so.9", "libcudnn.so"];

pub(super) const SUCCESS: c_int = 0;
pub(super) const FLOAT: c_int = 0;
pub(super) const BFLOAT16: c_int = 9;
pub(super) const NCHW: c_int = 0;
pub(super) const CROSS_CORRELATION: c_int = 1;
pub(super) const DETERMINISTIC: c_int = 1;
pub(super) const DEFAULT_MATH: c_int = 0;
pub(super) const TENSOR_OP_MATH: c_int = 1;
pub(super) const FMA_MATH: c_int = 3;

/// The three passes of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pass {
    Forward,
    Data,
    Filter,
}

impl Pass {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Forward => "cudnnConvolutionForward",
            Self::Data => "cudnnConvolutionBackwardData",
            Self::Filter => "cudnnConvolutionBackwardFilter",
        }
    }
}

/// cudnnConvolution…AlgoPerf_t: an algorithm and its requirements.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Candidate {
    pub(super) algorithm: c_int,
    pub(super) status: c_int,
    pub(super) time: f32,
    pub(super) memory: usize,
    pub(super) determinism: c_int,
    pub(super) math: c_int,
    pub(super) reserved: [c_int; 3],
}

type Pointer = *mut c_void;
type Const = *const c_void;

/// The operand descriptions are pairs (tensor, its data) or (filter, its data).
type Convolve = unsafe extern "C" fn(
    handle: Pointer,
    alpha: Const,
    a_descriptor: Pointer,
    a: Pointer,
    b_descriptor: Pointer,
    b: Pointer,
    convolution: Pointer,
    algorithm: c_int,
    workspace: Pointer,
    size: usize,
    beta: Const,
    to_descriptor: Pointer,
    to: Pointer,
) -> c_int;

type Algorithms = unsafe extern "C" fn(
    handle: Pointer,
    a: Pointer,
    b: Pointer,
    convolution: Pointer,
    to: Pointer,
    most: c_int,
    count: *mut c_int,
    found: *mut Candidate,
) -> c_int;

macro_rules! library {
    ($($field:ident: $symbol:literal => $kind:ty,)*) => {
        /// libcudnn, version 9.
        pub(super) struct Library {
            $(pub(super) $field: $kind,)*
            /// Keeps the functions loaded.
            _shared: Shared,
        }

        impl Library {
            fn load(shared: Shared) -> std::result::Result<Self, String> {
                // SAFETY: the types are those of the functions of these names in cuDNN 9's documentation.
                unsafe {
                    Ok(Self {
                        $($field: *shared
                            .get::<$kind>(concat!($symbol, "\0").as_bytes())
                            .map_err(|_| concat!("it lacks the function ", $symbol))?,)*
                        _shared: shared,
                    })
                }
            }
        }
    };
}

library! {
    create: "cudnnCreate" => unsafe extern "C" fn(*mut Pointer) -> c_int,
    destroy: "cudnnDestroy" => unsafe extern "C" fn(Pointer) -> c_int,
    set_stream: "cudnnSetStream" => unsafe extern "C" fn(Pointer, Pointer) -> c_int,
    error_string: "cudnnGetErrorString" => unsafe extern "C" fn(c_int) -> *const c_char,
    create_tensor: "cudnnCreateTensorDescriptor" => unsafe extern "C" fn(*mut Pointer) -> c_int,
    create_filter: "cudnnCreateFilterDescriptor" => unsafe extern "C" fn(*mut Pointer) -> c_int,
    create_convolution: "cudnnCreateConvolutionDescriptor" => unsafe extern "C" fn(*mut Pointer) -> c_int,
    set_tensor: "cudnnSetTensor4dDescriptor" =>
        unsafe extern "C" fn(Pointer, c_int, c_int, c_int, c_int, c_int, c_int) -> c_int,
    set_filter: "cudnnSetFilter4dDescriptor" =>
        unsafe extern "C" fn(Pointer, c_int, c_int, c_int, c_int, c_int, c_int) -> c_int,
    set_convolution: "cudnnSetConvolution2dDescriptor" =>
        unsafe extern "C" fn(Pointer, c_int, c_int, c_int, c_int, c_int, c_int, c_int, c_int) -> c_int,
    set_math_type: "cudnnSetConvolutionMathType" => unsafe extern "C" fn(Pointer, c_int) -> c_int,
    forward_algorithms: "cudnnGetConvolutionForwardAlgorithm_v7" => Algorithms,
    data_algorithms: "cudnnGetConvolutionBackwardDataAlgorithm_v7" => Algorithms,
    filter_algorithms: "cudnnGetConvolutionBackwardFilterAlgorithm_v7" => Algorithms,
    forward: "cudnnConvolutionForward" => Convolve,
    backward_data: "cudnnConvolutionBackwardData" => Convolve,
    backward_filter: "cudnnConvolutionBackwardFilter" => Convolve,
}

impl Library {
    /// Opens the library, once.
    ///
    /// # Errors
    /// It is missing, or not version 9: the message says which names were searched for, and where to get it.
    pub(super) fn open() -> Result<Arc<Self>> {
        static OPENED: OnceLock<std::result::Result<Arc<Library>, String>> = OnceLock::new();
        let opened = OPENED.get_or_init(|| Self::find(&NAMES));
        match opened {
            Ok(library) => Ok(library.clone()),
            Err(message) => bail!("{message}"),
        }
    }

    fn find(names: &[&str]) -> std::result::Result<Arc<Self>, String> {
        let mut reason = String::new();
        for name in names {
            // SAFETY: cuDNN's initialisation only sets itself up.
            let opened = unsafe { Shared::new(*name) }.map_err(|error| match error.source() {
                Some(why) => why.to_string(),
                None => error.to_string(),
            });
            match opened.and_then(Self::load) {
                Ok(library) => return Ok(Arc::new(library)),
                Err(why) => reason = format!("{name}: {why}"),
            }
        }
        Err(format!(
            "cuDNN 9, which convolutions on the GPU need, was not found; searched for {} in LD_LIBRARY_PATH and the \
             system's folders ({reason}). Install it (https://developer.nvidia.com/cudnn), or take the CPU",
            names.join(" and ")
        ))
    }

    /// Returns an error with the function's name unless the status is success.
    pub(super) fn check(&self, function: &str, status: c_int) -> Result<()> {
        if status == SUCCESS {
            return Ok(());
        }
        // SAFETY: it returns a static text.
        let text = unsafe { CStr::from_ptr((self.error_string)(status)) };
        bail!("{function}: {} ({status})", text.to_string_lossy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named() {
        let message = Library::find(&["libcudnn-of-nobody.so.9"]).err().unwrap();
        for wants in ["libcudnn-of-nobody.so.9", "LD_LIBRARY_PATH", "take the CPU"] {
            assert!(message.contains(wants), "{message}");
        }
        // An existing library that is a different one.
        #[cfg(target_os = "linux")]
        {
            let message = Library::find(&["libc.so.6"]).err().unwrap();
            assert!(message.contains("cudnnCreate"), "{message}");
        }
    }

    /// With C's layout: 48 bytes, with the memory after a gap.
    #[test]
    fn a_candidate_is_laid_out_as_in_c() {
        use std::mem::{offset_of, size_of};
        assert_eq!(size_of::<Candidate>(), 48);
        assert_eq!(offset_of!(Candidate, memory), 16);
        assert_eq!(offset_of!(Candidate, math), 28);
    }
}
