//! Records the layers of a network for its summary.

use candle_core::Tensor;
use std::sync::{Arc, Mutex, PoisonError};

/// One layer in a summary, for one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name of the layer, as in its parameters: `down1.conv1`.
    pub name: String,
    /// The kind of layer, for example `conv 3×3`.
    pub kind: String,
    /// The shape of its output, without the batch.
    pub shape: Vec<usize>,
    /// The number of parameters.
    pub parameters: usize,
    /// The number of multiply-adds.
    pub multiply_adds: u64,
}

/// Collects the reports of a network's layers while a summary is made.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Option<Vec<Row>>>>);

impl Trace {
    /// Runs `forward` and returns the reports of the layers, in the order of their calls.
    pub fn listen<T>(&self, forward: impl FnOnce() -> T) -> (T, Vec<Row>) {
        let set = |rows| std::mem::replace(&mut *self.rows(), rows);
        set(Some(Vec::new()));
        let result = forward();
        (result, set(None).unwrap_or_default())
    }

    fn rows(&self) -> std::sync::MutexGuard<'_, Option<Vec<Row>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a layer report: its name, and where to report.
#[derive(Clone, Debug)]
pub struct Probe {
    pub(crate) name: String,
    pub(crate) trace: Trace,
}

impl Probe {
    /// Reports the call of a layer, if a summary is being made; `products` is the number of multiply-adds per output
    /// element.
    pub fn saw(&self, kind: impl FnOnce() -> String, parameters: &[&Tensor], out: &Tensor, products: usize) {
        if let Some(rows) = self.trace.rows().as_mut() {
            let shape: Vec<usize> = out.dims().iter().skip(1).copied().collect();
            let numbers: usize = shape.iter().product();
            rows.push(Row {
                name: self.name.clone(),
                kind: kind(),
                shape,
                parameters: parameters.iter().map(|p| p.elem_count()).sum(),
                multiply_adds: (numbers * products) as u64,
            });
        }
    }
}
