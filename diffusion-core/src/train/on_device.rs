//! Data that a training run keeps in the memory of a CUDA device, so that the device need not wait for the CPU.

use super::{AdamW, Ema};
use crate::data::Dataset;
use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor};
use diffusion_ops::on_device::{Fused, Resident, Row};
use diffusion_ops::optimiser::Update;
use std::collections::HashMap;

/// The images if they fit, the optimiser's tables, and the losses that have not been read yet.
#[derive(Debug)]
pub(super) struct OnDevice {
    pub(super) images: Option<Resident>,
    fused: Fused,
    losses: Vec<Tensor>,
}

/// The result of one step, as reported by the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) loss: f64,
    pub(super) norm: f64,
    /// False if loss or norm was not finite in this step or an earlier one; then nothing was changed.
    pub(super) taken: bool,
}

impl OnDevice {
    pub(super) fn new(data: &Dataset, adam: &AdamW, ema: Option<&Ema>, device: &Device) -> Result<Self> {
        Ok(Self {
            images: match data.bytes() {
                Some(bytes) => Resident::new(bytes, data.shape(), device)?,
                None => None,
            },
            fused: Fused::new(lengths(adam, ema), device)?,
            losses: Vec::new(),
        })
    }

    /// Resets the state after a failed step.
    pub(super) fn reset(&mut self, device: &Device) -> Result<()> {
        self.losses.clear();
        self.fused = Fused::new(self.fused.lengths().to_vec(), device)?;
        Ok(())
    }

    /// Makes the device take step `step`, counted from 1, along `grads`, which are sums over 1/`share` batches.
    pub(super) fn step(
        &mut self,
        adam: &mut AdamW,
        ema: Option<&mut Ema>,
        grads: &GradStore,
        loss: Tensor,
        clip: f64,
        (share, step): (f64, usize),
    ) -> Result<()> {
        let (rows, config) = adam.rows(grads)?;
        let update = Update::new(&config, 1, 1.0);
        let (rows, weight) = match ema {
            Some(ema) => with_averages(rows, ema),
            None => (rows, 0.0),
        };
        let update = update.for_all(share, weight);
        // The gradients are sums; clipping applies to their mean.
        let step = u32::try_from(step).unwrap_or(u32::MAX);
        self.fused.step(&rows, &update, &loss, clip / share, step)?;
        self.losses.push(loss);
        Ok(())
    }

    /// The results of the steps since the last call. This waits for the device.
    pub(super) fn outcomes(&mut self) -> Result<Vec<Outcome>> {
        let losses = Tensor::stack(&std::mem::take(&mut self.losses), 0)?.to_vec1::<f32>()?;
        let outcome = |(loss, (norm, taken)): (f32, (f64, bool))| Outcome { loss: loss.into(), norm, taken };
        Ok(losses.into_iter().zip(self.fused.outcomes()?).map(outcome).collect())
    }
}

/// The lengths of all rows: the optimiser's parameters, then what is averaged only.
fn lengths(adam: &AdamW, ema: Option<&Ema>) -> Vec<usize> {
    let mut lengths: Vec<usize> = adam.vars().map(|var| var.elem_count()).collect();
    if let Some(ema) = ema {
        let known: Vec<_> = adam.vars().map(|var| var.id()).collect();
        let others = ema.pairs().filter(|(var, _)| !known.contains(&var.id()));
        lengths.extend(others.map(|(var, _)| var.elem_count()));
    }
    lengths
}

/// The rows with their averages and rows for what is averaged but not trained, with the weight of this step in the
/// average.
fn with_averages<'a>(mut rows: Vec<Row<'a>>, ema: &'a mut Ema) -> (Vec<Row<'a>>, f64) {
    let weight = ema.count();
    let ema: &'a Ema = ema;
    let mut averages: HashMap<_, _> = ema.pairs().map(|(var, average)| (var.id(), (var, average))).collect();
    for row in &mut rows {
        row.average = averages.remove(&row.theta.id()).map(|(_, average)| average);
    }
    // In the order of the averages, as in `lengths`.
    let others = ema.pairs().filter(|(var, _)| averages.contains_key(&var.id()));
    rows.extend(others.map(|(theta, average)| Row {
        theta,
        gradient: None,
        moments: None,
        average: Some(average),
        rates: [0.0, 1.0],
    }));
    (rows, weight)
}
