//! Changing images that are there: filling what was erased, beginning from an image instead of from noise.
//!
//! Neither needs a network of its own. A sampler goes through images at every level of noise, and at each of them what is
//! known can be put in: [`Inpaint`] puts the known part of an image back after every step, [`image_to_image`] begins in the
//! middle, from an image with noise. Enlarging does need a network of its own, which is shown the small image: [`reduce`] makes
//! that, and [`enlarge`] is what it is held against.
//!
//! Built by hand in `notebooks/08_inpainting.ipynb` and `notebooks/09_super_resolution.ipynb`.

mod image_to_image;
mod inpaint;
mod mask;
mod resize;

pub use image_to_image::image_to_image;
pub use inpaint::{Inpaint, Inpainting};
pub use mask::{Mask, Side};
pub use resize::{Filter, enlarge, reduce};

use crate::model::Model;
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

/// Images that the model could have drawn, of its type and on its device.
fn checked(what: &str, model: &Model, x0: &Tensor) -> Result<Tensor> {
    let [c, h, w] = model.process.shape;
    ensure!(
        matches!(*x0.dims(), [n, a, b, d] if n > 0 && [a, b, d] == [c, h, w]),
        "{what}: images of shape {:?}; the model draws (B, {c}, {h}, {w})",
        x0.dims()
    );
    let x0 = x0.to_dtype(DType::F32)?.to_device(model.network.device())?;
    Ok(x0.detach())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Param;
    use crate::model::Process;
    use crate::rng::Rng;
    use crate::schedule::Betas;
    use crate::unet::{Network, SimpleUNet};
    use candle_core::Device;

    /// A small network that has learned nothing but answers something.
    pub(super) fn model() -> Result<Model> {
        let small = SimpleUNet {
            base: 4,
            groups: 2,
            ..Default::default()
        };
        let network = Network::new(small, &mut Rng::new(1), &Device::Cpu)?;
        if let Some(last) = network.parameters().get("conv_out.weight") {
            last.set(&Rng::new(2).randn_like(last)?.affine(0.1, 0.0)?)?;
        }
        let process = Process {
            steps: 100,
            betas: Betas::COSINE,
            param: Param::V,
            shape: [1, 8, 8],
            classes: Vec::new(),
            data: "tiny".to_owned(),
            images_seen: 0,
        };
        Ok(Model { network, process })
    }

    pub(super) fn alike(a: &Tensor, b: &Tensor) -> Result<bool> {
        let numbers = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        Ok(numbers(a)? == numbers(b)?)
    }
}
