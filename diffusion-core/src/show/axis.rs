//! An axis: which values it covers, where its ticks are and what is written at them.

use anyhow::{Result, ensure};

use super::plot::drawable;

/// One of the two axes of a plot.
#[derive(Clone, Debug, Default)]
pub(super) struct Axis {
    pub(super) label: String,
    pub(super) scale: Scale,
    /// The values at its two ends, if the caller chose them.
    pub(super) range: Option<(f64, f64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Scale {
    #[default]
    Linear,
    Log,
}

/// A mark on an axis, with a text unless it is a minor one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    /// 0 at the beginning of the axis, 1 at its end.
    pub(super) at: f64,
    pub(super) text: String,
}

/// An axis whose two ends are settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    scale: Scale,
    /// The two ends, after the logarithm if there is one.
    from: f64,
    to: f64,
}

impl Axis {
    /// Settles the two ends: those that the caller chose, or the extremes of `data` and a margin. `from_zero` keeps
    /// the lower end at 0, where the bars of a histogram stand.
    ///
    /// # Errors
    /// Ends that are equal, not finite, or not positive on a logarithmic axis.
    pub(super) fn span(
        &self,
        name: &str,
        data: impl Iterator<Item = f64>,
        from_zero: bool,
    ) -> Result<Span> {
        let scale = self.scale;
        if let Some((a, b)) = self.range {
            ensure!(
                scale.shows(a) && scale.shows(b) && a != b,
                "{name}_range({a:?}, {b:?}): the two ends must be different finite numbers{}",
                if scale == Scale::Log {
                    " above 0 on a logarithmic axis"
                } else {
                    ""
                }
            );
            let (from, to) = (scale.apply(a), scale.apply(b));
            return Ok(Span { scale, from, to });
        }
        let (low, high) = data
            .filter(|&v| scale.shows(v))
            .map(|v| scale.apply(v))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                (low.min(v), high.max(v))
            });
        let (low, high) = if low > high {
            (0.0, 1.0) // Nothing can be shown: the caption says why.
        } else if high - low > 1e-12 * high.abs().max(low.abs()) {
            (low, high)
        } else {
            let half = if scale == Scale::Log {
                0.5
            } else {
                (low.abs() * 0.1).max(0.5)
            };
            (low - half, high + half)
        };
        let margin = (high - low) * 0.04;
        let from = if from_zero && scale == Scale::Linear && low >= 0.0 {
            0.0
        } else {
            low - margin
        };
        Ok(Span {
            scale,
            from,
            to: high + margin,
        })
    }
}

impl Scale {
    /// Whether a value has a place on the axis.
    pub(super) fn shows(self, v: f64) -> bool {
        drawable(v) && (self == Scale::Linear || v > 0.0)
    }

    fn apply(self, v: f64) -> f64 {
        match self {
            Scale::Linear => v,
            Scale::Log => v.log10(),
        }
    }
}

impl Span {
    /// Where a value is: 0 at the beginning of the axis, 1 at its end. `None` if it has no place.
    pub(super) fn place(&self, v: f64) -> Option<f64> {
        self.scale.shows(v).then(|| self.unit(self.scale.apply(v)))
    }

    fn unit(&self, applied: f64) -> f64 {
        (applied - self.from) / (self.to - self.from)
    }

    /// About `count` ticks at round numbers.
    pub(super) fn ticks(&self, count: usize) -> Vec<Tick> {
        let (low, high) = (self.from.min(self.to), self.from.max(self.to));
        if self.scale == Scale::Log
            && let Some(ticks) = self.log_ticks(low, high, count)
        {
            return ticks;
        }
        let (low, high) = match self.scale {
            Scale::Linear => (low, high),
            Scale::Log => (10f64.powf(low), 10f64.powf(high)),
        };
        let step = round_step((high - low) / count.max(1) as f64);
        let values: Vec<f64> = multiples(step, low, high).collect();
        let texts = linear_texts(&values, step);
        let place = |(v, text): (f64, String)| {
            Some(Tick {
                at: self.place(v)?,
                text,
            })
        };
        values.into_iter().zip(texts).filter_map(place).collect()
    }

    /// Powers of ten, thinned out or filled up with 2 and 5; `None` where the axis is so short that these are too few.
    fn log_ticks(&self, low: f64, high: f64, count: usize) -> Option<Vec<Tick>> {
        let digits: &[f64] = match high - low {
            decades if decades >= 2.0 => &[1.0],
            decades if decades >= 1.0 => &[1.0, 2.0, 5.0],
            _ => return None,
        };
        let every = round_step(((high - low) / count.max(1) as f64).max(1.0)).ceil();
        let plain = low >= -3.1 && high <= 4.1;
        let ticks = multiples(every, low - every, high)
            .flat_map(|power| digits.iter().map(move |d| (*d, power)));
        let ticks = ticks.filter_map(|(digit, power)| {
            let at = self.unit(power + digit.log10());
            let text = match (plain, digit) {
                (true, _) => trimmed(digit * 10f64.powf(power), (-power).max(0.0) as usize),
                (false, 1.0) => format!("10^{{{power:.0}}}"),
                (false, _) => format!("{digit:.0}·10^{{{power:.0}}}"),
            };
            on_axis(at).then_some(Tick { at, text })
        });
        Some(ticks.collect())
    }

    /// Unlabelled ticks between the powers of ten of a logarithmic axis that is not too long for them.
    pub(super) fn minor(&self) -> Vec<f64> {
        let (low, high) = (self.from.min(self.to), self.from.max(self.to));
        if self.scale == Scale::Linear || high - low > 8.0 {
            return Vec::new();
        }
        multiples(1.0, low - 1.0, high)
            .flat_map(|power| (1..10).map(move |digit| power + f64::from(digit).log10()))
            .map(|applied| self.unit(applied))
            .filter(|&at| on_axis(at))
            .collect()
    }
}

fn on_axis(at: f64) -> bool {
    (-1e-9..=1.0 + 1e-9).contains(&at)
}

/// The multiples of `step` in low … high; at most 100, whatever the rounding does.
fn multiples(step: f64, low: f64, high: f64) -> impl Iterator<Item = f64> {
    let slack = 1e-9 * (high - low);
    let first = ((low - slack) / step).ceil();
    (0..100)
        .map(move |i| (first + f64::from(i)) * step)
        .take_while(move |&v| v <= high + slack)
}

/// 1, 2, 2.5 or 5 times a power of ten, whichever is nearest to `about` by ratio.
fn round_step(about: f64) -> f64 {
    let power = 10f64.powf(about.log10().floor());
    let ratio = |digit: &f64| (digit * power / about).ln().abs();
    let digits = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter();
    digits
        .min_by(|a, b| ratio(a).total_cmp(&ratio(b)))
        .unwrap_or(1.0)
        * power
}

/// The texts of ticks `step` apart: plain where that is short, with k or M where they are round thousands or millions,
/// else with a power of ten.
fn linear_texts(values: &[f64], step: f64) -> Vec<String> {
    let largest = values.iter().fold(0f64, |m, v| m.max(v.abs()));
    let decimals = decimals_of(step);
    let all = |divisor: f64, unit: &str, decimals: usize| -> Vec<String> {
        let text = |v: &f64| match fixed(v / divisor, decimals) {
            text if *v == 0.0 || text == "0" => "0".to_string(),
            text => format!("{text}{unit}"),
        };
        values.iter().map(text).collect()
    };
    if (1e-3..1e5).contains(&largest) && decimals <= 6 || largest == 0.0 {
        all(1.0, "", decimals)
    } else if (1e5..1e6).contains(&largest) && step >= 1e3 {
        all(1e3, "k", decimals_of(step / 1e3))
    } else if (1e6..1e9).contains(&largest) && step >= 1e4 {
        all(1e6, "M", decimals_of(step / 1e6))
    } else {
        let power = largest.log10().floor();
        let unit = 10f64.powf(power);
        all(
            unit,
            &format!("·10^{{{power:.0}}}"),
            decimals_of(step / unit).min(9),
        )
    }
}

/// How many decimals tell multiples of `step` apart.
fn decimals_of(step: f64) -> usize {
    (0..12)
        .find(|&d| ((step * 10f64.powi(d)).fract() - 0.5).abs() > 0.5 - 1e-6)
        .unwrap_or(12) as usize
}

/// A number with a fixed number of decimals and a typographic minus.
fn fixed(v: f64, decimals: usize) -> String {
    let text = format!("{v:.decimals$}").replace('-', "−");
    let zero = text.chars().all(|c| matches!(c, '−' | '0' | '.'));
    if zero { "0".to_string() } else { text }
}

/// A number without the zeros at its end.
fn trimmed(v: f64, decimals: usize) -> String {
    let text = format!("{v:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

/// A number in about `digits` significant digits, for captions.
pub(super) fn short(v: f64, digits: i32) -> String {
    if v == 0.0 || !v.is_finite() {
        return format!("{v}");
    }
    let power = v.abs().log10().floor() as i32;
    if (-4..6).contains(&power) {
        trimmed(v, (digits - 1 - power).max(0) as usize).replace('-', "−")
    } else {
        let digit = trimmed(v / 10f64.powi(power), digits as usize - 1).replace('-', "−");
        format!("{digit}·10^{{{power}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale, a: f64, b: f64) -> Span {
        let range = Some((a, b));
        Axis {
            scale,
            range,
            ..Axis::default()
        }
        .span("x", std::iter::empty(), false)
        .unwrap()
    }

    fn texts(scale: Scale, a: f64, b: f64, count: usize) -> Vec<String> {
        axis(scale, a, b)
            .ticks(count)
            .into_iter()
            .map(|t| t.text)
            .collect()
    }

    #[test]
    fn ticks_are_round_numbers_that_differ_in_text() {
        assert_eq!(
            texts(Scale::Linear, 0.0, 1.0, 5),
            ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(
            texts(Scale::Linear, -1.1, 1.1, 4),
            ["−1.0", "−0.5", "0", "0.5", "1.0"]
        );
        assert_eq!(
            texts(Scale::Linear, 0.0, 1000.0, 4),
            ["0", "250", "500", "750", "1000"]
        );
        assert_eq!(
            texts(Scale::Linear, 0.0, 200_000.0, 4),
            ["0", "50k", "100k", "150k", "200k"]
        );
        assert_eq!(
            texts(Scale::Linear, 0.0, 2e-4, 2),
            ["0", "1·10^{-4}", "2·10^{-4}"]
        );
        assert_eq!(texts(Scale::Linear, 1.0, 0.0, 2), ["0", "0.5", "1.0"]);
        assert_eq!(
            texts(Scale::Log, 0.01, 100.0, 5),
            ["0.01", "0.1", "1", "10", "100"]
        );
        assert_eq!(texts(Scale::Log, 1.0, 20.0, 5), ["1", "2", "5", "10", "20"]);
        assert_eq!(
            texts(Scale::Log, 1e-8, 1.0, 4),
            ["10^{-8}", "10^{-6}", "10^{-4}", "10^{-2}", "10^{0}"]
        );
        assert_eq!(texts(Scale::Log, 2.0, 6.0, 4), ["2", "3", "4", "5", "6"]);
    }

    #[test]
    fn extreme_ranges_neither_hang_nor_crowd() {
        for (a, b) in [
            (-1e299, 1e299),
            (1e17, 1e17 + 64.0),
            (0.0, 1e-320),
            (5e-324, 1e-300),
            (-3.0, -2.999_999_999),
        ] {
            assert!(axis(Scale::Linear, a, b).ticks(6).len() <= 100, "{a} {b}");
        }
        assert!(axis(Scale::Log, 1e-300, 1e299).ticks(6).len() <= 8);
    }

    #[test]
    fn data_decide_the_ends() -> Result<()> {
        let log = Axis {
            scale: Scale::Log,
            ..Axis::default()
        };
        let span = log.span("y", [0.0, -3.0, 1.0, 100.0, f64::NAN].into_iter(), false)?;
        assert!((span.place(10.0).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(span.place(0.0), None);
        let bars = Axis::default().span("y", [0.0, 4.0].into_iter(), true)?;
        assert_eq!(bars.place(0.0), Some(0.0));
        let equal = Axis::default().span("y", [2.0, 2.0].into_iter(), false)?;
        assert!((equal.place(2.0).unwrap() - 0.5).abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn short_numbers_keep_their_digits() {
        let of = |v| short(v, 3);
        assert_eq!(
            [of(-0.3142), of(0.42), of(12.0), of(1234.6)],
            ["−0.314", "0.42", "12", "1235"].map(String::from)
        );
        assert_eq!(
            [of(1.5e-7), of(0.0)],
            ["1.5·10^{-7}", "0"].map(String::from)
        );
    }
}
