//! The launches of each operation. Addresses are those of contiguous tensors on the device; outputs are written
//! completely unless a comment says otherwise. Addresses may have any alignment; multiples of 16 bytes are faster.

pub(in crate::ops) mod activation;
pub(in crate::ops) mod bias;
pub(in crate::ops) mod group_norm;
pub(in crate::ops) mod images;
pub(in crate::ops) mod normals;
pub(crate) mod parameters;
pub(in crate::ops) mod pool;
pub(in crate::ops) mod softmax;
pub(in crate::ops) mod upsample;

use crate::ops::Activation;

/// The code of an activation in the kernels.
fn number(activation: Activation) -> u32 {
    match activation {
        Activation::None => 0,
        Activation::Silu => 1,
        Activation::Gelu => 2,
        Activation::Relu => 3,
    }
}
