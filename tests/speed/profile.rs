//! Where the time of a training step goes.

use crate::Side;
use crate::networks::{Network, Purpose, Step};
use anyhow::Result;
use diffusion_core::ops;
use std::collections::BTreeMap;
use std::time::Instant;

/// So many steps are averaged, after one to warm up.
const STEPS: usize = 5;

/// The seconds of a training step, and of it those of each kernel and of the optimiser, as JSON; kernels that take the same
/// shapes are added up.
pub fn profile(network: &str, base: usize, batch: usize, side: usize) -> Result<String> {
    let network = Network::new(Side::Ours, network, base, Purpose::Train)?;
    let mut step = Step::new(Side::Ours, network, Purpose::Train, batch, side)?;
    step.run()?;
    let (mut sums, mut total, mut adam) = (BTreeMap::new(), 0.0, 0.0);
    for _ in 0..STEPS {
        let began = Instant::now();
        let (done, took) = ops::profile(|| step.run_in_parts());
        total += began.elapsed().as_secs_f64();
        adam += done?;
        for one in took {
            let key = (one.name, one.shapes);
            let [forward, backward]: &mut [f64; 2] = sums.entry(key).or_default();
            *if one.backward { backward } else { forward } += one.seconds;
        }
    }
    let each = |seconds: f64| seconds / STEPS as f64;
    let kernels: Vec<String> = sums
        .into_iter()
        .map(|((name, shapes), [forward, backward])| {
            format!("[{name:?}, {shapes:?}, {}, {}]", each(forward), each(backward))
        })
        .collect();
    Ok(format!("{{\"total\": {}, \"optimiser\": {}, \"kernels\": [{}]}}", each(total), each(adam), kernels.join(", ")))
}
