//! Layers and their named parameters.
//!
//! A layer is a plain struct of tensors with a `forward` method, which calls the operation of the same name in
//! [`ops`](diffusion_ops::ops). Its parameters are also stored in [`Parameters`], under the names that PyTorch would give them.
//! Training and loading change them in place, and the layer sees the change.
//!
//! ```
//! use diffusion_core::candle::{DType, Device};
//! use diffusion_core::{nn::{Linear, Parameters}, rng::Rng};
//!
//! let (mut rng, mut params) = (Rng::new(42), Parameters::new(DType::F32, &Device::Cpu));
//! let mut build = params.builder(&mut rng);
//! let first = Linear::new(build.at("first"), 2, 16)?;
//! let second = Linear::new(build.at("second"), 16, 1)?;
//! assert_eq!(params.count(), 2 * 16 + 16 + 16 + 1);
//! assert_eq!(params.names().next(), Some("first.weight"));
//!
//! let x = rng.randn((5, 2), &Device::Cpu)?;
//! let y = second.forward(&first.forward(&x)?.relu()?)?;
//! let gradients = y.sqr()?.mean_all()?.backward()?;
//! assert!(params.iter().all(|(_, var)| gradients.get(var).is_some()));
//! # Ok::<(), diffusion_core::candle::Error>(())
//! ```

mod batch_norm;
mod builder;
mod conv;
mod conv_transpose;
mod embedding;
mod file;
pub mod gradients;
mod linear;
mod norm;
pub mod optim;
mod parameters;
mod pth;
mod trace;
mod var_builder;

pub use batch_norm::BatchNorm2d;
pub use builder::{Builder, Init};
pub use conv::Conv2d;
pub use conv_transpose::ConvTranspose2d;
pub use embedding::Embedding;
pub use file::{Checkpoint, write_whole};
pub use linear::Linear;
pub use norm::GroupNorm;
pub use parameters::Parameters;
pub use trace::{Probe, Row, Trace};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradients::{check_params, random};
    use candle_core::{DType, Device, Result};
    use diffusion_ops::ops::{Activation, Geometry};
    use diffusion_ops::rng::Rng;

    #[test]
    fn gradients_of_every_layer_are_correct() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
        let mut build = params.builder(&mut rng);
        let embedding = Embedding::new(build.at("embedding"), 3, 4)?;
        let linear = Linear::new(build.at("linear"), 4, 12)?;
        let halved = Geometry::same(3).stride(2);
        let conv = Conv2d::new(build.at("conv"), 2, 4, 3, halved)?;
        let norm = GroupNorm::new(build.at("norm"), 2, 4, Activation::Silu)?;
        let doubled = Geometry { stride: 2, padding: 0 };
        let transposed = ConvTranspose2d::new(build.at("transposed"), 4, 3, 2, doubled)?;
        let batch_norm = BatchNorm2d::new(build.at("batch_norm"), 3, Activation::Gelu)?;
        let x = random(1, (2, 4))?;
        check_params("all in a row", &params, || {
            let x = linear.forward(&(&x + embedding.forward(&[2, 0])?)?)?;
            let x = conv.forward(&x.reshape((2, 2, 3, 2))?)?;
            assert_eq!(x.dims(), &[2, 4, 2, 1]);
            let x = transposed.forward(&norm.forward(&x)?)?;
            assert_eq!(x.dims(), &[2, 3, 4, 2]);
            batch_norm.forward(&x)
        })
    }

    #[test]
    fn initial_weights_and_biases_are_within_one_over_the_root_of_the_inputs() -> Result<()> {
        let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F32, &Device::Cpu));
        let mut build = params.builder(&mut rng);
        Conv2d::new(build.at("conv"), 4, 50, 3, Geometry::default())?;
        Linear::new(build.at("linear"), 25, 50)?;
        ConvTranspose2d::new(build.at("transposed"), 50, 9, 2, Geometry::default())?;
        for (name, bound) in [
            ("conv.weight", 1.0 / 6.0),
            ("conv.bias", 1.0 / 6.0),
            ("linear.weight", 0.2),
            ("linear.bias", 0.2),
            ("transposed.weight", 1.0 / 6.0),
        ] {
            let values = params.get(name).unwrap().abs()?;
            let largest = values.max_all()?.to_scalar::<f32>()?;
            assert!(largest <= bound && largest > 0.8 * bound, "{name}: {largest}");
        }
        Ok(())
    }
}
