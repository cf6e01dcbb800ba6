//! Decides which progress lines to write, and when.

use std::time::Duration;

use super::Unit;

/// Counts, and decides which lines to write when. It neither reads a clock nor writes.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) label: String,
    pub(super) unit: Unit,
    pub(super) total: u64,
    /// The count at the start of a resumed job.
    pub(super) start: u64,
    pub(super) done: u64,
    pub(super) message: String,
    /// The time of the last line, and the count then.
    last: Option<(Duration, u64)>,
    pub(super) finished: bool,
}

const FIRST_LINE: Duration = Duration::from_secs(2);
const BETWEEN_LINES: Duration = Duration::from_secs(10);
/// The shortest interval between lines, however fast the job is.
const LEAST: Duration = Duration::from_secs(1);

impl Job {
    pub(super) fn new(total: u64, label: String) -> Self {
        Self { label, unit: Unit::Steps, total, start: 0, done: 0, message: String::new(), last: None, finished: false }
    }

    /// The line to write now, if one is due.
    pub(super) fn line(&mut self, elapsed: Duration) -> Option<String> {
        let due = match self.last {
            None => elapsed >= FIRST_LINE,
            Some((when, done)) => {
                let tenth = self.total > 0 && self.done.saturating_sub(done) >= self.total.div_ceil(10);
                // A long job should not fill pages, so after some minutes the lines are further apart.
                let since = elapsed.saturating_sub(when);
                tenth && since >= LEAST || since >= BETWEEN_LINES.max(elapsed / 20)
            }
        };
        if self.finished || !due || (self.total > 0 && self.done >= self.total) {
            return None;
        }
        self.last = Some((elapsed, self.done));
        let mut parts = Vec::new();
        if self.total > 0 {
            parts.push(format!("{:.0} %", (self.done as f64 / self.total as f64 * 100.0).floor()));
        }
        parts.push(self.unit.count(self.done, self.total));
        parts.push(self.unit.rate(self.rate(elapsed)));
        parts.push(match self.time_left(elapsed) {
            Some(left) => format!("{} left", duration(left)),
            None => format!("after {}", duration(elapsed)),
        });
        Some(self.text(parts))
    }

    /// The final line, returned once.
    pub(super) fn last_line(&mut self, elapsed: Duration) -> Option<String> {
        if std::mem::replace(&mut self.finished, true) {
            return None;
        }
        let rate = self.unit.rate(self.rate(elapsed));
        let end = if self.done < self.total {
            format!("stopped at {} after {}", self.unit.count(self.done, self.total), duration(elapsed))
        } else {
            format!("done: {} in {}", self.unit.count(self.done, 0), duration(elapsed))
        };
        Some(self.text(vec![end, rate]))
    }

    fn text(&self, mut parts: Vec<String>) -> String {
        parts.extend((!self.message.is_empty()).then(|| self.message.clone()));
        format!("{}   {}", self.label, parts.join(" · "))
    }

    /// Steps or bytes per second since the start.
    fn rate(&self, elapsed: Duration) -> f64 {
        (self.done - self.start.min(self.done)) as f64 / elapsed.as_secs_f64().max(1e-3)
    }

    fn time_left(&self, elapsed: Duration) -> Option<Duration> {
        let left = self.total.checked_sub(self.done)? as f64 / self.rate(elapsed);
        Duration::try_from_secs_f64(left).ok().filter(|_| self.total > 0)
    }
}

impl Unit {
    /// Formats a count: "400/1000 images", or without the total if that is 0.
    fn count(&self, done: u64, total: u64) -> String {
        let (unit, scale, decimals) = match self {
            Unit::Steps => ("", 1.0, 0),
            Unit::Items(name) => (name.as_str(), 1.0, 0),
            Unit::Bytes => bytes(done.max(total) as f64),
        };
        let of = match total {
            0 => String::new(),
            total => format!("/{:.decimals$}", total as f64 / scale),
        };
        let text = format!("{:.decimals$}{of} {unit}", done as f64 / scale);
        text.trim_end().to_string()
    }

    /// Formats a rate: "12.3/s", or "4.2 s each" for slow steps.
    fn rate(&self, rate: f64) -> String {
        if let Unit::Bytes = self {
            let (unit, scale, decimals) = bytes(rate);
            return format!("{:.decimals$} {unit}/s", rate / scale);
        }
        match rate {
            100.0.. => format!("{rate:.0}/s"),
            1.0.. => format!("{rate:.1}/s"),
            0.2.. => format!("{rate:.2}/s"),
            _ if rate > 0.0 => format!("{} each", duration(Duration::from_secs_f64((1.0 / rate).min(1e9)))),
            _ => "0/s".to_string(),
        }
    }
}

/// The unit in which a number of bytes is short, its size, and the number of decimals to show.
fn bytes(n: f64) -> (&'static str, f64, usize) {
    match n {
        1e9.. => ("GB", 1e9, 2),
        1e6.. => ("MB", 1e6, 1),
        1e3.. => ("kB", 1e3, 0),
        _ => ("bytes", 1.0, 0),
    }
}

/// Formats a duration: "8.4 s", "49 s", "3 min 20 s", "2 h 05 min".
fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..90 => format!("{seconds} s"),
        90..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a job with `rate` steps per second, each with its time in seconds.
    fn lines(mut job: Job, rate: u64) -> Vec<(u64, String)> {
        let mut out = Vec::new();
        for tenth in 1.. {
            let elapsed = Duration::from_millis(100 * tenth);
            job.done = (job.start + rate * tenth / 10).min(job.total);
            let line = job.line(elapsed);
            out.extend(line.map(|line| (tenth / 10, line)));
            if job.done == job.total {
                out.extend(job.last_line(elapsed).map(|line| (tenth / 10, line)));
                return out;
            }
        }
        out
    }

    fn job(total: u64) -> Job {
        Job::new(total, "training".into())
    }

    #[test]
    fn a_short_job_has_one_line() {
        assert_eq!(lines(job(10), 10), [(1, "training   done: 10 in 1.0 s · 10.0/s".to_string())]);
    }

    #[test]
    fn lines_come_after_two_seconds_and_then_with_each_tenth() {
        let seen = lines(job(1000), 25);
        let seconds: Vec<u64> = seen.iter().map(|l| l.0).collect();
        assert_eq!(seconds, [2, 6, 10, 14, 18, 22, 26, 30, 34, 38, 40]);
        assert_eq!(seen[0].1, "training   5 % · 50/1000 · 25.0/s · 38 s left");
        assert_eq!(seen[10].1, "training   done: 1000 in 40 s · 25.0/s");
    }

    #[test]
    fn a_slow_job_has_a_line_every_ten_seconds_and_one_of_hours_fewer() {
        let seconds: Vec<u64> = lines(job(10_000), 40).iter().map(|l| l.0).collect();
        assert_eq!(seconds[..5], [2, 12, 22, 32, 42]);
        let hours = lines(job(10 * 3600), 1);
        assert!((80..140).contains(&hours.len()), "{}", hours.len());
        let gap = hours.windows(2).map(|l| l[1].0 - l[0].0).max();
        assert!(gap <= Some(36_000 / 19), "{gap:?}");
    }

    #[test]
    fn a_resumed_job_counts_its_own_work() {
        let mut job = job(1000);
        (job.start, job.done) = (400, 450);
        job.message = "loss 0.05".into();
        let line = job.line(Duration::from_secs(5));
        assert_eq!(line.as_deref(), Some("training   45 % · 450/1000 · 10.0/s · 55 s left · loss 0.05"));
        let end = job.last_line(Duration::from_secs(5));
        assert_eq!(end.as_deref(), Some("training   stopped at 450/1000 after 5.0 s · 10.0/s · loss 0.05"));
        assert_eq!(job.last_line(Duration::from_secs(6)), None);
    }

    #[test]
    fn bytes_and_unknown_totals() {
        let mut job = job(98_000_000);
        (job.unit, job.done) = (Unit::Bytes, 12_400_000);
        let line = job.line(Duration::from_secs(4));
        assert_eq!(line.as_deref(), Some("training   12 % · 12.4/98.0 MB · 3.1 MB/s · 28 s left"));
        let mut job = Job::new(0, "counting".into());
        (job.unit, job.done) = (Unit::Items("images".into()), 7);
        let line = job.line(Duration::from_secs(70));
        assert_eq!(line.as_deref(), Some("counting   7 images · 10 s each · after 70 s"));
        assert_eq!(duration(Duration::from_secs(7500)), "2 h 05 min");
    }

    #[test]
    fn zero_steps_do_not_divide_by_zero() {
        let line = job(5).line(Duration::from_secs(3));
        assert_eq!(line.as_deref(), Some("training   0 % · 0/5 · 0/s · after 3.0 s"));
    }
}
