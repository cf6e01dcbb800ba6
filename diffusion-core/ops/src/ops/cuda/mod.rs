//! CUDA kernels: their source, and plans that determine the launches, blocks and arguments of each operation.
//!
//! The source is CUDA C++ without includes. NVRTC compiles it on the user's machine for its GPU ([`SOURCE`]). A plan is
//! a plain struct with the shapes; each of its passes creates a list of [`Launch`]es from device addresses, to be
//! performed in order on one stream. Plans do not depend on the driver, so the tests need no GPU: they compile the same
//! source with the host's compiler and perform the same launches on host memory (`emulate`).
//!
//! Activations are f32 or bf16; parameters, statistics and all arithmetic are f32 unless a comment says f64. All sums
//! have a fixed order, so equal inputs give identical bits on the same kind of GPU.

// Some of it is only used with CUDA, some only by the tests.
#![allow(dead_code)]

#[cfg(feature = "cuda")]
pub(crate) mod device;
#[cfg(all(test, unix))]
mod emulate;
mod launch;
pub(crate) mod plan;
#[cfg(all(test, unix))]
mod tests;

#[cfg(all(test, unix))]
use launch::{Argument, Launch, Real};

/// All kernels, to be compiled as one file. NVRTC's default options are correct; `--use_fast_math` is not.
pub(in crate::ops) const SOURCE: &str = concat!(
    include_str!("kernels/common.cu"),
    include_str!("kernels/activation.cu"),
    include_str!("kernels/group_norm.cu"),
    include_str!("kernels/bias.cu"),
    include_str!("kernels/softmax.cu"),
    include_str!("kernels/upsample.cu"),
    include_str!("kernels/pool.cu"),
    include_str!("kernels/images.cu"),
    include_str!("kernels/normals.cu"),
    include_str!("kernels/parameters.cu"),
);

/// The names of all kernels, each with the largest number of threads in a block.
pub(in crate::ops) fn kernels() -> Vec<(&'static str, u32)> {
    let kernel = |line: &'static str| {
        let (head, rest) = line.strip_prefix("KERNEL")?.split_once('(')?;
        let threads = match head {
            "" => 1024,
            _ => head.strip_prefix('_')?.parse().ok()?,
        };
        Some((rest.split_once(')')?.0, threads))
    };
    SOURCE.lines().filter_map(kernel).collect()
}

#[cfg(all(test, feature = "cuda"))]
mod compiled {
    use candle_core::cuda::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};

    /// NVRTC needs no GPU.
    #[test]
    fn nvrtc_compiles_all_kernels() {
        for arch in ["compute_80", "compute_90"] {
            let options = CompileOptions { arch: Some(arch), ..Default::default() };
            let ptx = compile_ptx_with_opts(super::SOURCE, options).unwrap().to_src();
            for (name, _) in super::kernels() {
                assert!(ptx.contains(&format!(".entry {name}(")), "{arch}: {name}");
            }
        }
    }
}
