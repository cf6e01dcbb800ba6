//! The arithmetic of the optimiser, in place: AdamW steps, moving averages, gradient norms.
//!
//! On the CPU each is one pass over memory, with the same result for any number of threads; on other devices it is
//! composed of candle's operations.

mod average;
mod in_place;
mod norm;
mod update;

pub use average::average_in;
pub use norm::sum_of_squares;
pub use update::{AdamWConfig, Update};
