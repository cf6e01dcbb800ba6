//! What each layer of a network made of an image: the rows of a network's summary.

use candle_core::Tensor;
use std::sync::{Arc, Mutex, PoisonError};

/// What one layer did to one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The layer's name, as its parameters have it: `down1.conv1`.
    pub name: String,
    /// What it is: `conv 3×3`.
    pub kind: String,
    /// The shape of what came out, without the batch.
    pub shape: Vec<usize>,
    /// How many numbers it has learned.
    pub parameters: usize,
    /// How many products it took, each added to a sum.
    pub multiply_adds: u64,
}

/// Where the layers of one network write while somebody listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(Arc<Mutex<Option<Vec<Row>>>>);

impl Trace {
    /// What the layers write while `forward` runs, in the order in which they are called.
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

/// A layer's pen: its name, what it is, and where to write.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(super) name: String,
    pub(super) trace: Trace,
}

impl Probe {
    /// Notes a layer called on a batch, if somebody listens: what it is, its parameters, what came out, and the products
    /// for each number that came out.
    pub(crate) fn saw(
        &self,
        kind: impl FnOnce() -> String,
        parameters: &[&Tensor],
        out: &Tensor,
        products: usize,
    ) {
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
