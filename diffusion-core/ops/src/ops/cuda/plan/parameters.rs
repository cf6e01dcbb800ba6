//! An optimiser step over all parameters of a network at once.

use super::super::launch::{Argument::*, Launch};
use candle_core::{Result, bail};

/// The number of elements of a parameter for a block of threads; the kernels use the same value.
const CHUNK: u64 = 8192;

/// A parameter: a row of the table in device memory, with this layout. All addresses refer to f32.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::ops) struct Parameter {
    pub(in crate::ops) theta: u64,
    /// 0 if there is no gradient in this step; then θ, m and v are unchanged.
    pub(in crate::ops) gradient: u64,
    pub(in crate::ops) m: u64,
    pub(in crate::ops) v: u64,
    /// 0 if there is no EMA.
    pub(in crate::ops) average: u64,
    pub(in crate::ops) length: u64,
    /// lr / (1−β₁ᵏ), where k is the number of updates of this parameter, including this one.
    pub(in crate::ops) step_size: f32,
    /// √(1−β₂ᵏ)
    pub(in crate::ops) correction: f32,
}

/// Some contiguous elements of a parameter.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::ops) struct Chunk {
    parameter: u32,
    chunk: u32,
}

/// The result of a step, in device memory, with this layout; initially all 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::ops) struct Outcome {
    /// Σ g² over all gradients, before clipping.
    pub(in crate::ops) squares: f64,
    /// Its square root.
    pub(in crate::ops) norm: f64,
    /// The factor that clips the gradients.
    pub(in crate::ops) clip: f64,
    /// The last step taken, counted from 1.
    pub(in crate::ops) step: u32,
    /// If not 0, the step, counted from 1, in which the norm or the loss was not finite. It and all later steps change
    /// nothing.
    pub(in crate::ops) failed: u32,
}

/// The chunks of all parameters with these lengths: a table that is copied to device memory once.
///
/// # Errors
/// There are no parameters, or they are too large.
pub(in crate::ops) fn chunks(lengths: &[usize]) -> Result<Vec<Chunk>> {
    let mut chunks = Vec::new();
    for (i, length) in lengths.iter().enumerate() {
        let count = (*length as u64).div_ceil(CHUNK);
        match (u32::try_from(i), u32::try_from(count)) {
            (Ok(parameter), Ok(count)) => {
                chunks.extend((0..count).map(|chunk| Chunk { parameter, chunk }));
            }
            _ => bail!("parameters: {length} elements are too many"),
        }
    }
    if chunks.is_empty() || i32::try_from(chunks.len()).is_err() {
        bail!("parameters: there are {} chunks of them; there must be at least 1 and fewer than 2³¹", chunks.len())
    }
    Ok(chunks)
}

/// The operation on the tables of [`Parameter`]s and [`Chunk`]s in device memory.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Parameters {
    pub(in crate::ops) parameters: u64,
    pub(in crate::ops) chunks: u64,
    /// The number of chunks.
    pub(in crate::ops) count: usize,
    /// The address of an [`Outcome`].
    pub(in crate::ops) outcome: u64,
}

/// The values that are the same for all parameters in one update.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// The factor of the gradients besides clipping: 1/n for n accumulated batches.
    pub share: f64,
    /// β₁
    pub beta1: f64,
    /// β₂
    pub beta2: f64,
    /// 1 − lr·λ
    pub keep: f64,
    /// ε
    pub eps: f64,
    /// 1 − d, where d is the decay of the EMA in this step.
    pub average_weight: f64,
}

impl Parameters {
    /// The f64 scratch elements that [`Parameters::judge`] needs.
    pub(in crate::ops) fn scratch(&self) -> usize {
        self.count
    }

    /// Computes the norm of all gradients and the factor that clips it to `max_norm`, as `clip_grad_norm` does;
    /// infinity clips nothing. Writes them to the outcome, or marks step `step`, counted from 1, as failed if the norm
    /// or the f32 at `loss` (unless that is 0) is not finite.
    ///
    /// # Errors
    /// There are no chunks, `max_norm` is not positive, or `step` is 0.
    pub(in crate::ops) fn judge(&self, loss: u64, max_norm: f64, step: u32, scratch: u64) -> Result<Vec<Launch>> {
        if max_norm.is_nan() || max_norm <= 0.0 || step == 0 {
            bail!("parameters: max_norm = {max_norm} and step = {step} must be positive")
        }
        Ok(vec![
            Launch::new(
                "squares_of_chunks",
                (self.count, 1),
                256,
                vec![Pointer(scratch), Pointer(self.parameters), Pointer(self.chunks)],
            )?,
            Launch::new(
                "judge",
                (1, 1),
                1024.min(self.count.next_multiple_of(32)) as u32,
                vec![
                    Pointer(self.outcome),
                    Pointer(scratch),
                    U32(self.count as u32),
                    Pointer(loss),
                    F64(max_norm),
                    U32(step),
                ],
            )?,
        ])
    }

    /// AdamW and then the EMA, after [`Parameters::judge`]; does nothing if the outcome is marked as failed.
    ///
    /// # Errors
    /// There are no chunks.
    pub(in crate::ops) fn update(&self, update: &Update) -> Result<Vec<Launch>> {
        Ok(vec![Launch::new(
            "update",
            (self.count, 1),
            256,
            vec![
                Pointer(self.parameters),
                Pointer(self.chunks),
                Pointer(self.outcome),
                F64(update.share),
                F32((1.0 - update.beta1) as f32),
                F32(update.beta2 as f32),
                F32((1.0 - update.beta2) as f32),
                F32(update.keep as f32),
                F32(update.eps as f32),
                F32(update.average_weight as f32),
            ],
        )?])
    }
}
