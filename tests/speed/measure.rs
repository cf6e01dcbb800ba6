//! How long it took, and how much memory.

use anyhow::Result;
use std::time::Instant;

/// A measurement goes on for so many seconds.
const ENOUGH: f64 = 0.1;
/// What takes longer than this is not run once more to warm up.
const LONG: f64 = 5.0;

/// Something to be timed, again and again.
pub struct Timed<'a> {
    run: Box<dyn FnMut() -> Result<()> + 'a>,
    warm: bool,
}

impl<'a> Timed<'a> {
    /// What `run` returns is dropped at once, and that is part of its time.
    pub fn new<T>(mut run: impl FnMut() -> Result<T> + 'a) -> Self {
        Self { run: Box::new(move || run().map(drop)), warm: false }
    }

    /// The median of the seconds that it took, once or as often as there was time for.
    pub fn seconds(&mut self) -> Result<f64> {
        let mut took = vec![];
        while took.iter().sum::<f64>() < ENOUGH {
            let began = Instant::now();
            (self.run)()?;
            let seconds = began.elapsed().as_secs_f64();
            if self.warm || seconds > LONG {
                took.push(seconds);
            }
            self.warm = true;
        }
        took.sort_by(f64::total_cmp);
        Ok(took[took.len() / 2])
    }
}

/// The memory that this process has taken since [`Memory::now`], at its most; known on Linux.
pub struct Memory {
    before: Option<u64>,
}

impl Memory {
    pub fn now() -> Self {
        Self { before: status("VmRSS") }
    }

    /// In bytes, as JSON.
    pub fn peak(&self) -> String {
        match (self.before, status("VmHWM")) {
            (Some(before), Some(most)) => most.saturating_sub(before).to_string(),
            _ => "null".to_string(),
        }
    }
}

/// A line of /proc/self/status, in bytes.
fn status(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
