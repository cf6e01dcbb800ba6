//! The schedules have the values of Hugging Face diffusers' schedulers, to 1e-6: `golden/schedules.py` recorded them.

use anyhow::{Context, Result};
use diffusion_core::candle::{Device, safetensors};
use diffusion_core::schedule::{Betas, Schedule};

#[test]
fn schedules_equal_those_of_diffusers() -> Result<()> {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/schedules.safetensors");
    let golden = safetensors::load(golden, &Device::Cpu)?;
    let get = |name: String| golden.get(&name).with_context(|| format!("{name} is not in the golden file"));
    let scaled = Betas::ScaledLinear { start: 0.00085, end: 0.012 };
    let mut compared = 0;
    for (name, betas) in
        [("linear", Betas::LINEAR), ("scaled_linear", scaled), ("cosine", Betas::COSINE), ("sigmoid", Betas::SIGMOID)]
    {
        for steps in [2, 10, 500, 1000, 2000] {
            let ours = Schedule::new(steps, betas.clone())?;
            let at = get(format!("{steps}.at"))?.to_vec1::<i64>()?;
            for (values, ours) in [("betas", ours.betas()), ("alphas_cumprod", ours.alpha_bars())] {
                let theirs = get(format!("{name}.{steps}.{values}"))?.to_vec1::<f32>()?;
                for (&t, theirs) in at.iter().zip(theirs) {
                    let difference = (ours[t as usize] - f64::from(theirs)).abs();
                    assert!(difference < 1e-6, "{name}, T = {steps}, {values}[{t}]: off by {difference:e}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 2 * 4 * (2 + 10 + 3 * 50));
    Ok(())
}
