//! The time spent on grids of samples.

use std::fmt;

/// Counts the grids of samples in this session.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    /// The total time of the grids in seconds.
    seconds: f64,
    /// The time of the last grid in seconds.
    pub(super) last: Option<f64>,
    /// The number of skipped grids.
    skipped: usize,
    /// The estimated time of a skipped grid in seconds.
    left_out: f64,
}

impl Sampling {
    /// Whether a grid that takes `grid` seconds stays within the fraction `share` of the time, with `training` seconds
    /// of steps.
    pub(super) fn fits(&self, share: f64, grid: f64, training: f64) -> bool {
        (1.0 - share) * (self.seconds + grid) <= share * training
    }

    pub(super) fn drew(&mut self, seconds: f64) {
        self.seconds += seconds;
        self.last = Some(seconds);
    }

    /// Counts a skipped grid, estimated at `seconds`.
    pub(super) fn left_out(&mut self, seconds: f64) {
        self.skipped += 1;
        self.left_out = seconds;
    }

    /// A note on how many grids were skipped, and why.
    pub(super) fn note(&self, share: f64) -> Option<String> {
        let Self { skipped, left_out, .. } = self;
        (*skipped > 0).then(|| {
            format!(
                "grids of samples skipped: {skipped}. At about {left_out:.0} s each, they would have taken more than \
                 {:.0} % of the time; set sample_share = 1 (or use --sample-every) to skip none",
                100.0 * share
            )
        })
    }
}

/// Sampling was interrupted by a request to stop.
#[derive(Debug)]
pub(super) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sampling was interrupted")
    }
}

impl std::error::Error for Interrupted {}
