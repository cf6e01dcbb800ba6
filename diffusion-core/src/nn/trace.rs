//! Records what each layer of a network did: the rows of a network's summary.

use candle_core::Tensor;
use std::sync::{Arc, Mutex, PoisonError};

/// What one layer did to one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The layer's name, as its parameters have it: `down1.conv1`.
    pub name: String,
    /// What it is: `conv 3×3`.
    pub kind: String,
    /// The shape of its output, without the batch.
    pub shape: Vec<usize>,
    /// How many parameters it has.
    pub parameters: usize,
    /// How many multiply-adds it took.
    pub multiply_adds: u64,
}

/// Where the layers of one network report while somebody listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(Arc<Mutex<Option<Vec<Row>>>>);

impl Trace {
    /// What the layers report while `forward` runs, in the order in which they are called.
    pub(crate) fn listen<T>(&self, forward: impl FnOnce() -> T) -> (T, Vec<Row>) {
        let set = |rows| std::mem::replace(&mut *self.rows(), rows);
        set(Some(Vec::new()));
        let result = forward();
        (result, set(None).unwrap_or_default())
    }

    fn rows(&self) -> std::sync::MutexGuard<'_, Option<Vec<Row>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With it a layer reports: its name, and where to.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(super) name: String,
    pub(super) trace: Trace,
}

impl Probe {
    /// Reports a layer's call, if somebody listens: what it is, its parameters, its output, and the multiply-adds for each
    /// number of the output.
    pub(crate) fn saw(&self, kind: impl FnOnce() -> String, parameters: &[&Tensor], out: &Tensor, products: usize) {
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
