//! One launch of a kernel, to be performed by the driver or by the tests.

use candle_core::{Result, bail};
use std::ffi::c_void;

/// The largest number of blocks along x for a pass over all elements of a tensor: about sixty for each multiprocessor
/// of a large GPU. Each thread then processes several elements.
const MOST_BLOCKS: usize = 8192;
/// The hardware limits along x and y.
const LIMITS: (u32, u32) = (i32::MAX as u32, 65535);

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::ops) enum Argument {
    /// An address in device memory.
    Pointer(u64),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
}

impl Argument {
    /// The address of the value, as `cuLaunchKernel` expects in its array.
    pub(in crate::ops) fn address(&self) -> *mut c_void {
        match self {
            Self::Pointer(x) | Self::U64(x) => std::ptr::from_ref(x) as *mut c_void,
            Self::U32(x) => std::ptr::from_ref(x) as *mut c_void,
            Self::F32(x) => std::ptr::from_ref(x) as *mut c_void,
            Self::F64(x) => std::ptr::from_ref(x) as *mut c_void,
        }
    }
}

/// A kernel with its blocks and arguments, without dynamic shared memory.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::ops) struct Launch {
    /// The name of the kernel in the source.
    pub(in crate::ops) kernel: &'static str,
    /// The number of blocks along x and y, at least 1.
    pub(in crate::ops) blocks: (u32, u32),
    /// The number of threads in a block: whole warps, at most 1024.
    pub(in crate::ops) threads: u32,
    /// The arguments, in the order of the kernel's parameters.
    pub(in crate::ops) arguments: Vec<Argument>,
}

impl Launch {
    /// # Errors
    /// There are too many blocks or threads, or none.
    pub(in crate::ops) fn new(
        kernel: &'static str,
        blocks: (usize, usize),
        threads: u32,
        arguments: Vec<Argument>,
    ) -> Result<Self> {
        let (x, y) = (u32::try_from(blocks.0).unwrap_or(u32::MAX), u32::try_from(blocks.1).unwrap_or(u32::MAX));
        if !(1..=LIMITS.0).contains(&x) || !(1..=LIMITS.1).contains(&y) {
            bail!("{kernel}: blocks = {blocks:?} must be in 1 … {LIMITS:?}")
        }
        if !(32..=1024).contains(&threads) || !threads.is_multiple_of(32) {
            bail!("{kernel}: threads = {threads} must be whole warps, 32 … 1024")
        }
        Ok(Self { kernel, blocks: (x, y), threads, arguments })
    }

    /// A launch over `work` packs of elements, in any order, with blocks of 256 threads.
    ///
    /// # Errors
    /// There is no work.
    pub(in crate::ops) fn over(work: usize, kernel: &'static str, arguments: Vec<Argument>) -> Result<Self> {
        let blocks = work.div_ceil(256).min(MOST_BLOCKS);
        Self::new(kernel, (blocks, 1), 256, arguments)
    }
}

/// The type of the activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Real {
    F32,
    Bf16,
}

impl Real {
    /// The size of an element in bytes.
    pub(in crate::ops) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// The number of elements that a thread reads at once, 16 bytes, if aligned.
    pub(in crate::ops) fn width(self) -> usize {
        16 / self.size()
    }

    /// The kernel for this type.
    pub(in crate::ops) fn pick(self, f32: &'static str, bf16: &'static str) -> &'static str {
        match self {
            Self::F32 => f32,
            Self::Bf16 => bf16,
        }
    }
}

/// Whether all `addresses` are multiples of 16, so that whole packs can be read.
pub(in crate::ops) fn aligned(addresses: &[u64]) -> bool {
    addresses.iter().all(|address| address.is_multiple_of(16))
}

/// Checks that all dimensions are in 1 … 2³¹ − 1, since some are counted in 32 bits.
pub(in crate::ops) fn check(op: &str, dimensions: &[(&str, usize)]) -> Result<()> {
    for (name, value) in dimensions {
        if !(1..=i32::MAX as usize).contains(value) {
            bail!("{op}: {name} = {value} must be 1 … {}", i32::MAX)
        }
    }
    Ok(())
}

/// The product of dimensions.
///
/// # Errors
/// It exceeds 2⁶³ − 1.
pub(in crate::ops) fn product(op: &str, dimensions: &[usize]) -> Result<usize> {
    let product = dimensions.iter().try_fold(1usize, |a, b| a.checked_mul(*b));
    match product {
        Some(product) if product <= i64::MAX as usize => Ok(product),
        _ => bail!("{op}: dimensions {dimensions:?} are too large"),
    }
}
