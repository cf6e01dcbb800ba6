//! Progress of a long job: a bar on a terminal, lines in a notebook or a log file.

mod job;

use std::io::{IsTerminal, Write};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use job::Job;

/// Reports the progress of a job and the time left.
///
/// On a terminal this is a bar. Elsewhere, where a line cannot be rewritten, it prints a line after about 2 seconds,
/// then one for each tenth of the job or every 10 seconds (less often in a long job), and one at the end.
///
/// ```
/// use diffusion_core::progress::Progress;
/// let mut progress = Progress::new(3, "training");
/// for step in 0..3 {
///     progress.message(format!("loss {:.3}", 1.0 / (step + 1) as f64));
///     progress.step();
/// }
/// progress.finish();
/// let squares: Vec<u64> = Progress::wrap([1, 2, 3], "squaring").map(|n| n * n).collect();
/// assert_eq!(squares, [1, 4, 9]);
/// ```
#[derive(Debug)]
pub struct Progress {
    job: Job,
    sink: Sink,
    started: Instant,
}

/// The unit that is counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Unit {
    /// Steps, without a name.
    #[default]
    Steps,
    /// Items with this name, in the plural: `"images"`.
    Items(String),
    /// Bytes, shown as kB, MB or GB.
    Bytes,
}

#[derive(Debug)]
enum Sink {
    Bar(ProgressBar),
    Stdout,
    Stderr,
}

impl Progress {
    /// Starts a job of `total` steps; 0 if the number is not known.
    pub fn new(total: u64, label: impl Into<String>) -> Self {
        let job = Job::new(total, label.into());
        let sink = if std::io::stderr().is_terminal() {
            Sink::Bar(ProgressBar::new(total))
        } else if std::env::var_os("EVCXR_IS_RUNTIME").is_some() {
            // Jupyter shows standard error on a red background.
            Sink::Stdout
        } else {
            Sink::Stderr
        };
        let progress = Self { job, sink, started: Instant::now() };
        progress.styled()
    }

    /// Sets the unit that is counted. Default: steps.
    pub fn unit(mut self, unit: Unit) -> Self {
        self.job.unit = unit;
        self.styled()
    }

    /// Starts at `done` instead of 0, for a resumed job: rate and time left count from there.
    pub fn starting_at(mut self, done: u64) -> Self {
        (self.job.start, self.job.done) = (done, done);
        if let Sink::Bar(bar) = &self.sink {
            bar.set_position(done);
            bar.reset_eta();
        }
        self
    }

    /// Counts the items of an iterator as they pass through, and finishes with it.
    pub fn wrap<I: IntoIterator>(items: I, label: impl Into<String>) -> Wrapped<I::IntoIter> {
        let items = items.into_iter();
        let total = items.size_hint().1.unwrap_or(0) as u64;
        Wrapped { items, progress: Self::new(total, label), handed_out: false }
    }

    /// Counts one step.
    pub fn step(&mut self) {
        self.inc(1);
    }

    /// Counts `k` steps or bytes.
    pub fn inc(&mut self, k: u64) {
        self.set(self.job.done.saturating_add(k));
    }

    /// Sets the count to `done`; it may decrease if the job had to start over.
    pub fn set(&mut self, done: u64) {
        self.job.done = done;
        match &self.sink {
            Sink::Bar(bar) => bar.set_position(done),
            _ => {
                let line = self.job.line(self.started.elapsed());
                self.write(line);
            }
        }
    }

    /// Sets a text to show after the numbers, such as the loss.
    pub fn message(&mut self, text: impl Into<String>) {
        self.job.message = text.into();
        if let Sink::Bar(bar) = &self.sink {
            let dot = if self.job.message.is_empty() { "" } else { " · " };
            bar.set_message(format!("{dot}{}", self.job.message));
        }
    }

    /// Ends the job, even before its total, and prints how long it took. A second call does nothing.
    pub fn finish(&mut self) {
        let line = self.job.last_line(self.started.elapsed());
        if let (Sink::Bar(bar), Some(line)) = (&self.sink, &line) {
            bar.finish_and_clear();
            let _ = writeln!(std::io::stderr(), "{line}");
        }
        self.write(line);
    }

    /// A closed output is ignored, since it is no reason to end the job.
    fn write(&self, line: Option<String>) {
        let _ = match (&self.sink, line) {
            (Sink::Stdout, Some(line)) => writeln!(std::io::stdout(), "{line}"),
            (Sink::Stderr, Some(line)) => writeln!(std::io::stderr(), "{line}"),
            _ => Ok(()),
        };
    }

    fn styled(self) -> Self {
        if let Sink::Bar(bar) = &self.sink {
            let (done, total, rate) = match self.job.unit {
                Unit::Bytes => ("{decimal_bytes}", "{decimal_total_bytes}", "{decimal_bytes_per_sec}"),
                _ => ("{pos}", "{len}", "{per_sec}"),
            };
            let template = match self.job.total {
                0 => format!("{{prefix}} {{spinner}} {done} · {rate}{{msg}}"),
                _ => format!("{{prefix}} {{wide_bar}} {{percent}} % · {done}/{total} · {rate} · {{eta}} left{{msg}}"),
            };
            let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style);
            bar.set_prefix(self.job.label.clone());
        }
        self
    }
}

/// An iterator that reports its progress, from [`Progress::wrap`].
#[derive(Debug)]
pub struct Wrapped<I> {
    items: I,
    progress: Progress,
    handed_out: bool,
}

impl<I> Wrapped<I> {
    /// Sets the unit that is counted. Default: steps.
    pub fn unit(mut self, unit: Unit) -> Self {
        self.progress = self.progress.unit(unit);
        self
    }
}

impl<I: Iterator> Iterator for Wrapped<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        // The work on an item is done when the next one is requested.
        if std::mem::take(&mut self.handed_out) {
            self.progress.step();
        }
        let item = self.items.next();
        self.handed_out = item.is_some();
        if item.is_none() {
            self.progress.finish();
        }
        item
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_counts_finished_items() {
        let mut wrapped = Progress::wrap(0..3, "items");
        wrapped.next();
        assert_eq!((wrapped.progress.job.done, wrapped.progress.job.total), (0, 3));
        wrapped.next();
        assert_eq!(wrapped.progress.job.done, 1);
        assert_eq!(wrapped.by_ref().count(), 1);
        assert_eq!((wrapped.progress.job.done, wrapped.progress.job.finished), (3, true));
    }
}
