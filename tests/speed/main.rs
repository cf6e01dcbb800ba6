//! Times the crate's networks and operations, and the same in stock candle, for `make bench` (tests/bench.py):
//!
//!     speed about
//!     speed check ours|candle NETWORK SIDE
//!     speed step ours|candle NETWORK train|denoise BASE BATCH SIDE
//!     speed sample ours NETWORK BASE BATCH SIDE T
//!     speed ops ours|candle
//!     speed evaluate ours SAMPLES
//!     speed gpu ours NETWORK BATCH SIDE f32|tf32|bf16
//!
//! The last five answer each line of the standard input with a line of JSON: the seconds that it took, and the peak of
//! memory so far. A line for `ops` is such as `both 64 conv2d 64 128 28 3 1`, one for `sample` such
//! as `ddim 50`, for `gpu` it is `train` or `sample`. `RAYON_NUM_THREADS` says how many threads.

mod evaluation;
mod gpu;
mod measure;
mod networks;
mod operations;
mod sampling;
mod stock;

use anyhow::{Context, Result, bail};
use measure::{Memory, Timed};
use networks::{Network, Purpose, Step};
use std::io::{Write, stdin, stdout};

/// What is done before memory is counted: what is loaded at the first use of anything is not the network's.
const FIRST: [&str; 2] = ["both 1 conv2d 8 8 8 3 1", "both 1 adam 8"];

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
            for line in FIRST {
                operations::seconds(line, side)?;
            }
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
        ["ops", side] => {
            let (side, memory) = (who(side)?, Memory::now());
            answer(&memory, |line| operations::seconds(line, side))
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
