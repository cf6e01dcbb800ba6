//! The building blocks of the networks: time and condition embeddings, residual blocks, attention, a text encoder.

mod condition;
mod cross_attention;
mod res_block;
mod residual_conv;
mod resnet;
mod self_attention;
mod text;
mod time;

pub use condition::ConditionEmbedding;
pub use cross_attention::CrossAttention;
pub use res_block::ResBlock;
pub use residual_conv::{EmbedFC, Residual, ResidualConvBlock, UnetDown, UnetUp};
pub use resnet::ResnetBlock;
pub use self_attention::SelfAttention;
pub use text::{EncodedText, TextBlock, TextEncoder};
pub(super) use time::waves;
pub use time::{TimeEmbedding, sinusoidal};
