//! An axis of a plot: its range and its ticks, as a coordinate of plotters.

use std::ops::Range;

use anyhow::{Result, ensure};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;

/// The settings of one axis of a plot.
#[derive(Clone, Debug, Default)]
pub(super) struct Axis {
    pub(super) label: String,
    pub(super) log: bool,
    /// The values at the two ends, if they were set.
    pub(super) range: Option<(f64, f64)>,
}

/// An axis with a fixed range. plotters draws at positions on it: 0 at its start, 1 at its end.
#[derive(Clone)]
pub(super) struct Span {
    log: bool,
    /// The two ends, after taking the logarithm on a logarithmic axis.
    from: f64,
    to: f64,
    /// Whether ticks are at whole numbers only.
    whole: bool,
    /// Positions and labels of the ticks.
    pub(super) ticks: Vec<(f64, String)>,
}

/// Whether a number can be placed on an axis: finite, with room for the axis's arithmetic.
pub(super) fn drawable(v: f64) -> bool {
    v.abs() < 1e300
}

impl Axis {
    /// Whether a value has a position on the axis.
    pub(super) fn shows(&self, v: f64) -> bool {
        drawable(v) && (!self.log || v > 0.0)
    }

    /// Determines the two ends: those that were set, or the extremes of `data` with a margin. `from_zero` keeps the
    /// lower end at 0 for the bars of a histogram.
    ///
    /// # Errors
    /// The ends are equal, not finite, or not positive on a logarithmic axis.
    pub(super) fn span(&self, name: &str, data: &[f64], from_zero: bool) -> Result<Span> {
        let log = self.log;
        let apply = |v: f64| if log { v.log10() } else { v };
        let (from, to) = if let Some((a, b)) = self.range {
            let above = if log { " above 0 on a logarithmic axis" } else { "" };
            ensure!(
                self.shows(a) && self.shows(b) && a != b,
                "{name}_range({a:?}, {b:?}): the two ends must be different finite numbers{above}"
            );
            (apply(a), apply(b))
        } else {
            let shown = data.iter().filter(|&&v| self.shows(v)).map(|&v| apply(v));
            let ends = (f64::INFINITY, f64::NEG_INFINITY);
            let (low, high) = match shown.fold(ends, |(a, b), v| (a.min(v), b.max(v))) {
                (low, high) if low > high => (0.0, 1.0), // There is nothing to show; the caption says why.
                (low, high) if high - low > 1e-12 * high.abs().max(low.abs()) => (low, high),
                (low, high) if log => (low - 0.5, high + 0.5),
                (low, high) => (low - (low.abs() * 0.1).max(0.5), high + (high.abs() * 0.1).max(0.5)),
            };
            let margin = (high - low) * 0.04;
            let stands = from_zero && !log && low >= 0.0;
            (if stands { 0.0 } else { low - margin }, high + margin)
        };
        Ok(Span { log, from, to, whole: false, ticks: Vec::new() })
    }
}

impl Span {
    /// The position of a value: 0 at the start of the axis, 1 at its end; `None` if it has no position.
    pub(super) fn place(&self, v: f64) -> Option<f64> {
        let at = self.unit(if self.log { v.log10() } else { v });
        (drawable(v) && at.is_finite()).then_some(at)
    }

    fn unit(&self, applied: f64) -> f64 {
        (applied - self.from) / (self.to - self.from)
    }

    /// Extends the axis so that its unit is as long as that of `other`, if it is longer; both lengths are in pixels.
    pub(super) fn match_scale(&mut self, length: usize, other: &Span, other_length: usize) {
        let unit = |span: &Span, length: usize| (span.to - span.from).abs() / length.max(1) as f64;
        let factor = (unit(other, other_length) / unit(self, length)).max(1.0);
        let more = (self.to - self.from) * (factor - 1.0) / 2.0;
        (self.from, self.to) = (self.from - more, self.to + more);
    }

    /// Allows ticks at whole numbers only if all of `data` are whole numbers, as numbers of steps are.
    pub(super) fn whole_as(mut self, data: &[f64]) -> Self {
        self.whole = !self.log && data.len() > 1 && data.iter().all(|v| v.fract() == 0.0);
        self
    }

    /// Chooses the ticks: round numbers, at most `count`.
    pub(super) fn set_ticks(&mut self, count: usize) {
        let (low, high) = (self.from.min(self.to), self.from.max(self.to));
        let mut all = if self.log && high - low >= 1.0 {
            powers(low, high, count)
        } else if self.log {
            round_numbers(10f64.powf(low), 10f64.powf(high), count)
        } else {
            round_numbers(low, high, count)
        };
        if self.whole && high - low >= 2.0 && all.iter().any(|(v, _)| (v - v.round()).abs() > 1e-6) {
            all = (low.ceil() as i64..=high.floor() as i64)
                .map(|v| (v as f64, v.to_string().replace('-', "−")))
                .collect();
        }
        let ticks = all.into_iter().filter_map(|(v, text)| Some((self.place(v)?, text)));
        self.ticks = ticks.filter(|(at, _)| on_axis(*at)).collect();
    }

    /// The grid lines between the powers of ten of a short logarithmic axis.
    fn minor(&self) -> Vec<f64> {
        let (low, high) = (self.from.min(self.to), self.from.max(self.to));
        if !self.log || high - low > 8.0 {
            return Vec::new();
        }
        let powers = low.floor() as i32..=high.floor() as i32;
        let all = powers.flat_map(|p| (1..10).map(move |d| f64::from(p) + f64::from(d).log10()));
        all.map(|v| self.unit(v)).filter(|&at| on_axis(at)).collect()
    }
}

impl Ranged for Span {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, at: &f64, (start, end): (i32, i32)) -> i32 {
        // Marks outside the axes have been clipped before.
        start + (at.clamp(-1.0, 2.0) * f64::from(end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => self.minor(),
            false => self.ticks.iter().map(|tick| tick.0).collect(),
        }
    }

    fn range(&self) -> Range<f64> {
        0.0..1.0
    }
}

impl ValueFormatter<f64> for Span {
    fn format_ext(&self, at: &f64) -> String {
        let tick = self.ticks.iter().find(|tick| tick.0 == *at);
        tick.map_or_else(String::new, |tick| tick.1.clone())
    }
}

fn on_axis(at: f64) -> bool {
    (-1e-9..=1.0 + 1e-9).contains(&at)
}

/// Powers of ten, thinned out if there are many, with 2 and 5 added if there are few.
fn powers(low: f64, high: f64, count: usize) -> Vec<(f64, String)> {
    let digits: &[i32] = if high - low >= 2.0 { &[1] } else { &[1, 2, 5] };
    let every = ((high - low).floor() / count.max(1) as f64).ceil() as usize;
    let plain = low >= -4.1 && high <= 5.1;
    let powers = (low.floor() as i32..=high.floor() as i32).step_by(every);
    let all = powers.flat_map(|power| digits.iter().map(move |&digit| (digit, power)));
    let tick = |(digit, power): (i32, i32)| {
        let v = f64::from(digit) * 10f64.powi(power);
        let text = match (plain, digit) {
            (true, _) => format!("{v:.*}", (-power).max(0) as usize),
            (false, 1) => format!("10^{{{power}}}"),
            (false, _) => format!("{digit}·10^{{{power}}}"),
        };
        (v, text)
    };
    all.map(tick).collect()
}

/// Multiples of 1, 2 or 5 times a power of ten, as chosen by plotters. Numbers with many zeros are written as powers.
fn round_numbers(low: f64, high: f64, count: usize) -> Vec<(f64, String)> {
    // Scaled to about 1, because plotters compares with the machine precision.
    let unit = 10f64.powf((high - low).log10().floor());
    let axis = RangedCoordf64::from(low / unit..high / unit);
    let values: Vec<f64> = axis.key_points(count.max(2)).iter().map(|v| v * unit).collect();
    let largest = values.iter().fold(0f64, |m, v| m.max(v.abs()));
    let step = values.windows(2).map(|v| v[1] - v[0]).fold(largest, f64::min);
    let (power, suffix) = match largest.log10().floor() {
        power if (-3.0..6.0).contains(&power) || largest == 0.0 => (0.0, String::new()),
        power => (power, format!("·10^{{{power:.0}}}")),
    };
    let decimals = (power - (step * 1.0001).log10().floor()).clamp(0.0, 9.0) as usize;
    let text = |v: f64| match format!("{:.decimals$}", v / 10f64.powf(power)) {
        text if text.chars().all(|c| matches!(c, '-' | '0' | '.')) => "0".to_string(),
        text => text.replace('-', "−") + &suffix,
    };
    values.into_iter().map(|v| (v, text(v))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_that_differ_in_text() {
        for (log, a, b, count, want) in [
            (false, 0.0, 1.0, 6, "0 0.2 0.4 0.6 0.8 1.0"),
            (false, -1.1, 1.1, 6, "−1.0 −0.5 0 0.5 1.0"),
            (false, 0.0, 1000.0, 6, "0 200 400 600 800 1000"),
            (false, 0.0, 2e6, 5, "0 0.5·10^{6} 1.0·10^{6} 1.5·10^{6} 2.0·10^{6}"),
            (false, 2e-4, 0.0, 3, "0 1·10^{-4} 2·10^{-4}"),
            (true, 0.01, 100.0, 5, "0.01 0.1 1 10 100"),
            (true, 1.0, 20.0, 5, "1 2 5 10 20"),
            (true, 1e-8, 1.0, 4, "10^{-8} 10^{-6} 10^{-4} 10^{-2} 10^{0}"),
            (true, 2.0, 6.0, 5, "2 3 4 5 6"),
        ] {
            let range = Some((a, b));
            let axis = Axis { log, range, ..Axis::default() };
            let mut span = axis.span("x", &[], false).unwrap();
            span.set_ticks(count);
            let texts: Vec<&str> = span.ticks.iter().map(|t| t.1.as_str()).collect();
            assert_eq!(texts.join(" "), want);
        }
    }

    #[test]
    fn whole_numbers_have_no_ticks_between_them() {
        for (data, want) in [
            ([1.0, 2.0, 3.0], "1 2 3"),
            ([1.0, 2.0, 2.5], "1.0 1.5 2.0 2.5"),
            ([0.0, 50.0, 100.0], "0 20 40 60 80 100"),
        ] {
            let mut span = Axis::default().span("x", &data, false).unwrap().whole_as(&data);
            span.set_ticks(6);
            let texts: Vec<&str> = span.ticks.iter().map(|t| t.1.as_str()).collect();
            assert_eq!(texts.join(" "), want);
        }
    }

    #[test]
    fn extreme_ranges_neither_hang_nor_crowd() {
        let ends = [(-1e299, 1e299), (1e17, 1e17 + 64.0), (0.0, 1e-320), (5e-324, 1e-300), (-3.0, -2.999_999_999)];
        for (low, high) in ends {
            assert!(round_numbers(low, high, 6).len() <= 7, "{low} {high}");
        }
        assert!(powers(-300.0, 299.0, 6).len() <= 8);
    }
}
