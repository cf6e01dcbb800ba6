//! The tests of `diffusion-core` from outside, as one program.

mod candle_defects;
mod diffusers;
mod download;
mod metrics;
mod ops;
mod optim;
mod own;
mod samplers;
mod schedules;
mod simple_unet;
mod training;
mod unets;

/// Whether this process is for the test of this name alone. If not, one is started that is, and its failure is an error: what is
/// measured of a process is not that of other tests then.
#[cfg(target_os = "linux")]
fn alone(test: &str) -> anyhow::Result<bool> {
    const INNER: &str = "DIFFUSION_TEST_ALONE";
    if std::env::var_os(INNER).is_some() {
        return Ok(true);
    }
    let inner = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env(INNER, "1")
        .output()?;
    let printed = String::from_utf8_lossy(&inner.stdout);
    let errors = String::from_utf8_lossy(&inner.stderr);
    println!("{printed}");
    anyhow::ensure!(inner.status.success() && printed.contains("1 passed"), "{test} failed: {printed}{errors}");
    Ok(false)
}
