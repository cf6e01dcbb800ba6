//! Image editing: inpainting, image-to-image and changes of resolution.
//!
//! Inpainting and image-to-image need no special network. A sampler passes through every noise level, and known content
//! can be inserted at each of them: [`Inpaint`] restores the known part of an image after every step, and
//! [`image_to_image`] starts in the middle of the trajectory from a noisy image. Super-resolution needs a network
//! conditioned on the low-resolution image, which [`reduce`] computes; [`enlarge`] is the baseline to compare with.
//!
//! Built from scratch in `notebooks/08_inpainting.ipynb` and `notebooks/09_super_resolution.ipynb`.

mod image_to_image;
mod inpaint;
mod mask;
mod resize;

pub use image_to_image::{image_to_image, image_to_image_states};
pub use inpaint::{Inpaint, Inpainting};
pub use mask::{Mask, Side};
pub use resize::{Filter, enlarge, reduce};

use crate::model::Model;
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

/// Checks that images have the model's shape, and converts them to its type and device.
fn checked(what: &str, model: &Model, x0: &Tensor) -> Result<Tensor> {
    let [c, h, w] = model.info.shape;
    ensure!(
        matches!(*x0.dims(), [n, a, b, d] if n > 0 && [a, b, d] == [c, h, w]),
        "{what}: the images have shape {:?}, but the model's are (B, {c}, {h}, {w})",
        x0.dims()
    );
    let x0 = x0.to_dtype(DType::F32)?.to_device(model.network.device())?;
    Ok(x0.detach())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelInfo;
    use crate::prediction::Prediction;
    use crate::process::NoiseProcess;
    use crate::rng::Rng;
    use crate::schedule::Schedule;
    use crate::unet::{Network, SimpleUNet};
    use candle_core::Device;

    /// A small untrained network for the process.
    pub(super) fn model_of(process: NoiseProcess) -> Result<Model> {
        let small = SimpleUNet { base: 4, groups: 2, ..Default::default() };
        let network = Network::new(small, &mut Rng::new(1), &Device::Cpu)?;
        if let Some(last) = network.parameters().get("conv_out.weight") {
            last.set(&Rng::new(2).randn_like(last)?.affine(0.1, 0.0)?)?;
        }
        let prediction = Prediction::V;
        Ok(Model::new(network, ModelInfo { process, prediction, ..ModelInfo::new([1, 8, 8]) }))
    }

    pub(super) fn model() -> Result<Model> {
        model_of(Schedule::cosine(100)?.into())
    }

    pub(super) fn equal(a: &Tensor, b: &Tensor) -> Result<bool> {
        let numbers = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        Ok(numbers(a)? == numbers(b)?)
    }
}
