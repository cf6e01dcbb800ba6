//! Embedding: rows of a table.

use super::cpu::{embedding::Rows, takes};
use super::graph;
use candle_core::{Result, Tensor, bail};

/// Selects row `ids[i]` of `table` for each i: a learned vector for each label.
///
/// A row that is selected several times gets the sum of the gradients.
///
/// # Shapes
/// `table` (N, D); `ids` B numbers in 0 … N−1; the result is (B, D).
///
/// # Errors
/// The table does not have two dimensions, there are no ids, or an id is outside the table.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::{Device, Tensor}, ops::embedding};
/// let table = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu)?;
/// assert_eq!(embedding(&table, &[1, 1, 0])?.to_vec2::<f32>()?, [[3.0, 4.0], [3.0, 4.0], [1.0, 2.0]]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn embedding(table: &Tensor, ids: &[usize]) -> Result<Tensor> {
    let &[rows, _] = table.dims() else {
        bail!("embedding: table has shape {:?}; it must have two dimensions, (rows, columns)", table.dims())
    };
    if ids.is_empty() {
        bail!("embedding: ids is empty, shape [0], and table has shape {:?}; give at least one id", table.dims())
    }
    if let Some((i, id)) = ids.iter().enumerate().find(|(_, id)| **id >= rows) {
        bail!(
            "embedding: ids[{i}] = {id} is out of range; table of shape {:?} has the rows 0 … {}",
            table.dims(),
            rows.saturating_sub(1)
        )
    }
    if takes(&[table]) {
        return graph::apply("embedding", Rows(ids.to_vec()), [table]);
    }
    let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    table.contiguous()?.index_select(&Tensor::new(ids, table.device())?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::compare::compare;
    use crate::ops::gradients::{check, random};

    #[test]
    fn gradients_agree_with_central_differences() -> Result<()> {
        let table = [random(1, (5, 3))?];
        check("rows asked for twice and never", &table, |x| embedding(&x[0], &[4, 0, 4, 4, 2]))?;
        check("a transposed table", &table, |x| embedding(&x[0].t()?, &[2, 1]))?;
        check("one row, one column", &[random(2, (1, 1))?], |x| embedding(&x[0], &[0]))
    }

    #[test]
    fn kernel_agrees_with_the_composition() -> Result<()> {
        let table = [random(1, (5, 3))?];
        compare("rows asked for twice and never", &table, 1e-6, |x| embedding(&x[0], &[4, 0, 4, 4, 2]))?;
        compare("part of a transposed table, twice", &table, 1e-6, |x| {
            let table = x[0].t()?.narrow(0, 1, 2)?;
            embedding(&table, &[1, 1, 0])? + embedding(&table, &[0, 1, 1])?
        })
    }

    #[test]
    fn errors_name_wrong_arguments() -> Result<()> {
        let table = random(1, (5, 3))?;
        let fail = |r: Result<Tensor>| r.unwrap_err().to_string();
        for (message, wants) in [
            (
                fail(embedding(&table, &[1, 5])),
                "embedding: ids[1] = 5 is out of range; table of shape [5, 3] has the rows 0 … 4",
            ),
            (fail(embedding(&table, &[])), "embedding: ids is empty"),
            (fail(embedding(&table.get(0)?, &[0])), "embedding: table has shape [3]"),
        ] {
            assert!(message.contains(wants), "{message:?} lacks {wants:?}");
        }
        Ok(())
    }
}
