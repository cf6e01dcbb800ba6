//! The operations of [`ops`](crate::ops) on a CUDA device: memory, kernels and cuDNN.

mod convolution;
mod cudnn;
mod images;
mod module;
mod noise;
mod norm;
mod op;
mod parameters;
mod unary;

pub(in crate::ops) use convolution::{conv_transpose2d, conv2d};
pub use images::Resident;
pub use noise::Noise;
pub(in crate::ops) use norm::group_norm;
pub(in crate::ops) use op::takes;
pub use parameters::{Fused, Row};
pub(in crate::ops) use unary::{activate, avg_pool2d, max_pool2d, softmax, upsample_nearest2x};
