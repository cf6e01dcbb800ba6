//! The optimiser step over all parameters at once, without waiting on the CPU.

use super::super::plan::parameters::{self as plan, Outcome, Parameter, Parameters, Update};
use super::noise::bytes;
use super::op::{address_of, launch};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{Device, Result, Tensor};

/// A parameter with its gradient, moments and average, all contiguous f32 on one CUDA device.
#[derive(Debug)]
pub struct Row<'a> {
    /// θ
    pub theta: &'a Tensor,
    /// `None`: θ, m and v are unchanged.
    pub gradient: Option<Tensor>,
    /// m and v.
    pub moments: Option<[&'a Tensor; 2]>,
    /// θ̄
    pub average: Option<&'a Tensor>,
    /// lr / (1−β₁ᵏ) and √(1−β₂ᵏ).
    pub rates: [f64; 2],
}

/// The tables of the parameters on the device, and the results of the steps.
#[derive(Debug)]
pub struct Fused {
    device: Device,
    lengths: Vec<usize>,
    chunks: CudaSlice<u8>,
    count: usize,
    scratch: CudaSlice<f64>,
    outcome: CudaSlice<u8>,
    /// The results of the steps that have not been read yet.
    unread: Vec<CudaSlice<u8>>,
}

impl Fused {
    /// Creates the tables for parameters of these lengths.
    pub fn new(lengths: Vec<usize>, device: &Device) -> Result<Self> {
        let cuda = device.as_cuda_device()?;
        let chunks = plan::chunks(&lengths)?;
        let begin = Outcome::default();
        Ok(Self {
            count: chunks.len(),
            chunks: cuda.clone_htod(bytes(&chunks))?,
            scratch: cuda.alloc_zeros::<f64>(chunks.len())?,
            outcome: cuda.clone_htod(bytes(std::slice::from_ref(&begin)))?,
            unread: Vec::new(),
            device: device.clone(),
            lengths,
        })
    }

    /// The lengths of the parameters.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Takes one step, counted from 1: clips to `max_norm`, updates all parameters and averages. If the loss or the
    /// norm is not finite, this step and all later ones change nothing.
    pub fn step(&mut self, rows: &[Row<'_>], update: &Update, loss: &Tensor, max_norm: f64, step: u32) -> Result<()> {
        let mut table = Vec::with_capacity(rows.len());
        for (row, length) in rows.iter().zip(&self.lengths) {
            let of = |x: Option<&Tensor>| x.map_or(Ok(0), address_of);
            let [m, v] = row.moments.map_or([None; 2], |it| it.map(Some));
            table.push(Parameter {
                theta: address_of(row.theta)?,
                gradient: of(row.gradient.as_ref())?,
                m: of(m)?,
                v: of(v)?,
                average: of(row.average)?,
                length: *length as u64,
                step_size: row.rates[0] as f32,
                correction: row.rates[1] as f32,
            });
        }
        let cuda = self.device.as_cuda_device()?;
        let stream = cuda.cuda_stream();
        let table = cuda.clone_htod(bytes(&table))?;
        let all = Parameters {
            parameters: table.device_ptr(&stream).0,
            chunks: self.chunks.device_ptr(&stream).0,
            count: self.count,
            outcome: self.outcome.device_ptr(&stream).0,
        };
        let scratch = self.scratch.device_ptr(&stream).0;
        launch(cuda, &all.judge(address_of(loss)?, max_norm, step, scratch)?)?;
        launch(cuda, &all.update(update)?)?;
        let mut kept = cuda.alloc_zeros::<u8>(size_of::<Outcome>())?;
        cuda.memcpy_dtod(&self.outcome, &mut kept)?;
        self.unread.push(kept);
        Ok(())
    }

    /// The results of the steps since the last call, in order: each step's norm before clipping, and whether it was
    /// taken. This waits for the device.
    pub fn outcomes(&mut self) -> Result<Vec<(f64, bool)>> {
        let cuda = self.device.as_cuda_device()?;
        let mut read = Vec::new();
        for kept in self.unread.drain(..) {
            let found = cuda.clone_dtoh(&kept)?;
            let number = |at: usize| found[at..at + 8].try_into().map_or(f64::NAN, f64::from_le_bytes);
            let failed = found[std::mem::offset_of!(Outcome, failed)..][..4] != [0; 4];
            read.push((number(std::mem::offset_of!(Outcome, norm)), !failed));
        }
        Ok(read)
    }
}
