//! A data set in device memory.

use super::super::plan::images::Images;
use super::op::{address_of, empty, launch};
use candle_core::{DType, Device, Result, Shape, Tensor};

/// The images of a data set as bytes on a CUDA device.
#[derive(Debug)]
pub struct Resident {
    pixels: Tensor,
    count: usize,
    shape: [usize; 3],
}

impl Resident {
    /// Copies the images of `pixels`, each of `shape`, to `device` if they take less than half of its free memory;
    /// otherwise `None`.
    pub fn new(pixels: &[u8], shape: [usize; 3], device: &Device) -> Result<Option<Self>> {
        let size: usize = shape.iter().product();
        let cuda = device.as_cuda_device()?;
        let free = cuda.cuda_stream().context().mem_get_info();
        if size == 0 || free.map_or(0, |(free, _)| free) / 2 < pixels.len() {
            return Ok(None);
        }
        Ok(Some(Self { pixels: Tensor::from_slice(pixels, pixels.len(), device)?, count: pixels.len() / size, shape }))
    }

    /// The images with these indices as f32 in \[−1, 1\], (B, C, H, W).
    pub fn images(&self, indices: &[usize]) -> Result<Tensor> {
        let indices: Vec<u32> = indices.iter().map(|i| *i as u32).collect();
        let (batch, device) = (indices.len(), self.pixels.device());
        let indices = Tensor::from_vec(indices, batch, device)?;
        let [c, h, w] = self.shape;
        let cuda = device.as_cuda_device()?;
        let (x, at) = empty(cuda, DType::F32, &Shape::from((batch, c, h, w)))?;
        let plan = Images { count: self.count, size: c * h * w, batch };
        let launches = plan.forward(address_of(&self.pixels)?, address_of(&indices)?, at)?;
        launch(cuda, &launches)?;
        Ok(x)
    }
}
