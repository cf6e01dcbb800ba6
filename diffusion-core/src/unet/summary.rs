//! The table of a network's layers.

use crate::nn::Row;
use std::fmt;

/// A table of a network's layers in the order of evaluation, from [`Network::summary`](super::Network::summary).
///
/// Multiply-adds are those of the direct algorithms, for one image.
#[derive(Clone, Debug)]
pub struct Summary {
    title: String,
    image: [usize; 3],
    rows: Vec<Row>,
}

impl Summary {
    pub(super) fn new(title: String, image: [usize; 3], rows: Vec<Row>) -> Self {
        Self { title, image, rows }
    }

    /// The layers.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The parameters of all layers that were called.
    pub fn parameters(&self) -> usize {
        self.rows.iter().map(|row| row.parameters).sum()
    }

    /// The number of activations of one image, summed over all layers: at least what a training step keeps for its
    /// backward pass.
    pub fn outputs(&self) -> usize {
        self.rows.iter().map(|row| row.shape.iter().product::<usize>()).sum()
    }

    /// The number of activations of the layer with the most, for one image.
    pub fn largest_output(&self) -> usize {
        self.rows.iter().map(|row| row.shape.iter().product()).max().unwrap_or(0)
    }

    /// The multiply-adds of all layers, for one image.
    pub fn multiply_adds(&self) -> u64 {
        self.rows.iter().map(|row| row.multiply_adds).sum()
    }

    /// Displays the table in a notebook.
    pub fn evcxr_display(&self) {
        println!("EVCXR_BEGIN_CONTENT text/plain\n{self}\nEVCXR_END_CONTENT");
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = |dims: &[usize]| {
            let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
            dims.join("×")
        };
        let line = |[layer, kind, out, parameters, products]: [String; 5]| {
            format!("{layer:<34} {kind:<16} {out:>13} {parameters:>11} {products:>14}\n")
        };
        let words = ["layer", "kind", "output", "parameters", "multiply-adds"];
        writeln!(f, "{} on {}", self.title, shape(&self.image))?;
        f.write_str(&line(words.map(str::to_owned)))?;
        for row in &self.rows {
            f.write_str(&line([
                row.name.clone(),
                row.kind.clone(),
                shape(&row.shape),
                thousands(row.parameters as u64),
                thousands(row.multiply_adds),
            ]))?;
        }
        let all = [
            "in all".to_owned(),
            String::new(),
            String::new(),
            thousands(self.parameters() as u64),
            thousands(self.multiply_adds()),
        ];
        f.write_str(line(all).trim_end())
    }
}

/// Formats a number like 1,234,567.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
