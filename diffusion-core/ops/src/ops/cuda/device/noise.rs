//! Normal numbers that are made on a device.

use super::super::plan::normals::{Generator, Normals};
use super::op::{empty, launch};
use crate::rng::Rng;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{DType, Device, Result, Shape, Tensor};

/// A generator that goes on on a CUDA device from where one of the host is, with the same numbers, but for the last digit of
/// a logarithm. The host's own does not move.
#[derive(Debug)]
pub struct Noise {
    device: Device,
    generator: CudaSlice<u8>,
}

impl Noise {
    /// Goes on from where `rng` is.
    pub fn new(rng: &Rng, device: &Device) -> Result<Self> {
        let generator = Generator::new(&rng.state())?;
        Ok(Self {
            generator: device.as_cuda_device()?.clone_htod(bytes(std::slice::from_ref(&generator)))?,
            device: device.clone(),
        })
    }

    /// Normal numbers of mean 0 and variance 1, f32.
    pub fn randn(&mut self, shape: &Shape) -> Result<Tensor> {
        let cuda = self.device.as_cuda_device()?;
        let (x, at) = empty(cuda, DType::F32, shape)?;
        let plan = Normals { count: shape.elem_count() };
        // SAFETY: the kernels write what they read from it.
        let scratch = unsafe { cuda.alloc::<u8>(plan.scratch())? };
        let stream = cuda.cuda_stream();
        let (generator, scratch) = (self.generator.device_ptr(&stream).0, scratch.device_ptr(&stream).0);
        launch(cuda, &plan.forward(generator, at, scratch)?)?;
        Ok(x)
    }
}

/// Plain numbers as bytes.
pub(super) fn bytes<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: any memory can be read as bytes; the types that it is called with have no gaps.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
