//! The tests of `diffusion-core` from outside, as one program.

mod candle_defects;
mod consistency;
mod diffusers;
mod download;
mod fuzz;
mod latent;
mod metrics;
mod ops;
mod optim;
mod own;
mod runs;
mod samplers;
mod schedules;
mod simple_unet;
mod text;
mod training;
mod unets;
mod validation;

/// Whether this process is for the test of this name alone. If not, one is started that is, and its failure is an error: what is
/// measured of a process is not that of other tests then. It can have a data folder of its own.
fn alone(test: &str, data: Option<&std::path::Path>) -> anyhow::Result<bool> {
    const INNER: &str = "DIFFUSION_TEST_ALONE";
    if std::env::var_os(INNER).is_some() {
        return Ok(true);
    }
    let mut inner = std::process::Command::new(std::env::current_exe()?);
    inner.args(["--exact", test, "--nocapture"]).env(INNER, "1");
    if let Some(data) = data {
        inner.env("DIFFUSION_DATA", data);
    }
    let inner = inner.output()?;
    let printed = String::from_utf8_lossy(&inner.stdout);
    let errors = String::from_utf8_lossy(&inner.stderr);
    println!("{printed}");
    anyhow::ensure!(inner.status.success() && printed.contains("1 passed"), "{test} failed: {printed}{errors}");
    Ok(false)
}
