//! How much of the time grids of samples take.

use std::fmt;

/// Grids of samples in this session.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    /// The seconds that all of them took.
    seconds: f64,
    /// The seconds that the last one took.
    pub(super) last: Option<f64>,
    /// How many were left out.
    skipped: usize,
    /// The seconds that one of these would have taken.
    left_out: f64,
}

impl Sampling {
    /// Whether a grid of so many seconds fits into a share of all the time, of which `training` seconds went into steps.
    pub(super) fn fits(&self, share: f64, grid: f64, training: f64) -> bool {
        (1.0 - share) * (self.seconds + grid) <= share * training
    }

    pub(super) fn drew(&mut self, seconds: f64) {
        self.seconds += seconds;
        self.last = Some(seconds);
    }

    /// One is left out that would have taken so many seconds.
    pub(super) fn left_out(&mut self, seconds: f64) {
        self.skipped += 1;
        self.left_out = seconds;
    }

    /// For the reader: how many were left out, and why.
    pub(super) fn note(&self, share: f64) -> Option<String> {
        let Self { skipped, left_out, .. } = self;
        (*skipped > 0).then(|| {
            format!(
                "{skipped} of the grids of samples were left out: at about {left_out:.0} s each, all would have taken more than \
                 {:.0} % of the time; with sample_share = 1 (or --sample-every) none is left out",
                100.0 * share
            )
        })
    }
}

/// Sampling was given up since a stop was requested.
#[derive(Debug)]
pub(super) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sampling was interrupted")
    }
}

impl std::error::Error for Interrupted {}
