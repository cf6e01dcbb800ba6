//! Times the crate's networks and operations, and the same in stock candle, for `make bench` (tests/bench.py):
//!
//!     speed about
//!     speed check ours|candle NETWORK SIDE
//!     speed step ours|candle NETWORK train|denoise BASE BATCH SIDE
//!     speed sample ours NETWORK BASE BATCH SIDE T
//!     speed profile ours NETWORK BASE BATCH SIDE
//!     speed evaluate ours SAMPLES
//!     speed gpu ours NETWORK BATCH SIDE f32|tf32|bf16
//!
//! `step`, `sample`, `evaluate` and `gpu` answer each line of the standard input with a line of JSON: the seconds that it took,
//! and the peak of memory so far. A line for `sample` is such as `ddim 50`, for `gpu` it is `train` or `sample`.
//! `RAYON_NUM_THREADS` says how many threads, `DIFFUSION_INSTRUCTIONS` can hold the kernels to AVX2.

mod evaluation;
mod gpu;
mod measure;
mod networks;
mod profile;
mod sampling;
mod stock;

use anyhow::{Context, Result, bail};
use measure::{Memory, Timed};
use networks::{Network, Purpose, Step};
use std::io::{Write, stdin, stdout};

/// Who does the work.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Ours,
    Candle,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["about"] => {
            println!("{}", networks::about());
            Ok(())
        }
        ["check", side, name, width] => {
            println!("{}", networks::check(who(side)?, name, number(width)?)?);
            Ok(())
        }
        ["step", side, name, purpose, base, batch, width] => {
            let side = who(side)?;
            // What is loaded at the first use of anything is not the network's.
            let small = Network::new(side, "simple_unet", 8, Purpose::Train)?;
            Step::new(side, small, Purpose::Train, 1, 8)?.run()?;
            let memory = Memory::now();
            let purpose = match purpose {
                "train" => Purpose::Train,
                "denoise" => Purpose::Denoise,
                _ => bail!("{purpose}: it must be train or denoise"),
            };
            let network = Network::new(side, name, number(base)?, purpose)?;
            let mut step = Step::new(side, network, purpose, number(batch)?, number(width)?)?;
            let mut timed = Timed::new(|| step.run());
            answer(&memory, |_| timed.seconds())
        }
        ["sample", side, name, base, batch, width, steps] => {
            let network = Network::new(who(side)?, name, number(base)?, Purpose::Denoise)?;
            let (batch, width, steps) = (number(batch)?, number(width)?, number(steps)?);
            let drawing = sampling::Drawing::new(network, batch, width, steps)?;
            answer(&Memory::now(), |line| drawing.seconds(line))
        }
        ["profile", "ours", name, base, batch, width] => {
            println!("{}", profile::profile(name, number(base)?, number(batch)?, number(width)?)?);
            Ok(())
        }
        ["evaluate", "ours", samples] => {
            let measuring = evaluation::Measuring::new(number(samples)?)?;
            answer(&Memory::now(), |_| measuring.seconds())
        }
        ["gpu", "ours", name, batch, width, precision] => {
            let mut work = gpu::Work::new(name, number(batch)?, number(width)?, precision)?;
            for line in stdin().lines() {
                let seconds = work.seconds(&line?)?;
                println!("{{\"seconds\": {seconds}, \"peak_bytes\": {}}}", work.peak());
                stdout().flush()?;
            }
            Ok(())
        }
        _ => bail!("{arguments:?}: the first lines of tests/speed/main.rs say what can be asked"),
    }
}

fn who(side: &str) -> Result<Side> {
    match side {
        "ours" => Ok(Side::Ours),
        "candle" => Ok(Side::Candle),
        _ => bail!("{side}: it must be ours or candle"),
    }
}

fn number(word: &str) -> Result<usize> {
    word.parse().with_context(|| format!("{word} is no number"))
}

fn answer(memory: &Memory, mut seconds: impl FnMut(&str) -> Result<f64>) -> Result<()> {
    for line in stdin().lines() {
        let (seconds, peak) = (seconds(&line?)?, memory.peak());
        println!("{{\"seconds\": {seconds}, \"peak_bytes\": {peak}}}");
        stdout().flush()?;
    }
    Ok(())
}
