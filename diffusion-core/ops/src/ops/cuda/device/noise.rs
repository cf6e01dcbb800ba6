//! Normal numbers generated on a device.

use super::super::plan::normals::{Generator, Normals};
use super::op::{empty, launch};
use crate::rng::Rng;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{DType, Device, Result, Shape, Tensor};

/// A generator on a CUDA device that continues a generator of the CPU, with the same numbers up to the last digit of a
/// logarithm. The CPU's generator is unchanged.
#[derive(Debug)]
pub struct Noise {
    device: Device,
    generator: CudaSlice<u8>,
}

impl Noise {
    /// Continues from the state of `rng`.
    pub fn new(rng: &Rng, device: &Device) -> Result<Self> {
        let generator = Generator::new(&rng.state())?;
        Ok(Self {
            generator: device.as_cuda_device()?.clone_htod(bytes(std::slice::from_ref(&generator)))?,
            device: device.clone(),
        })
    }

    /// Standard normal f32 numbers.
    pub fn randn(&mut self, shape: &Shape) -> Result<Tensor> {
        let cuda = self.device.as_cuda_device()?;
        let (x, at) = empty(cuda, DType::F32, shape)?;
        let plan = Normals { count: shape.elem_count() };
        // SAFETY: the kernels write it before they read it.
        let scratch = unsafe { cuda.alloc::<u8>(plan.scratch())? };
        let stream = cuda.cuda_stream();
        let (generator, scratch) = (self.generator.device_ptr(&stream).0, scratch.device_ptr(&stream).0);
        launch(cuda, &plan.forward(generator, at, scratch)?)?;
        Ok(x)
    }
}

/// The bytes of plain numbers.
pub(super) fn bytes<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: any memory can be read as bytes; the types in use have no padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
