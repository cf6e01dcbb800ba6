//! Lines, points and histograms on a pair of axes: what a plot consists of. Its drawing is in `chart.rs`.

use anyhow::{Result, ensure};

use super::axis::{Axis, Scale};
use super::{Draw, Picture, Values, chart, displayed};

/// A diagram of lines, points and histograms.
///
/// The builder methods take and return the plot, and what is drawn is in the order of the calls. Texts may hold formulas:
/// `x_t`, `σ_{t−1}` and `10^{-3}` are set as such. If something does not fit, the error comes when the plot is drawn.
///
/// ```
/// use diffusion_core::show::Plot;
/// let plot = Plot::new("Loss").x("step").y("mean squared error").log_y().line("training", 0..3usize, [1.0, 0.1, 0.01]);
/// assert_eq!(&plot.to_png()?[1..4], b"PNG");
/// let wrong = Plot::new("Loss").line("training", 0..3usize, [1.0, 0.1]);
/// assert_eq!(wrong.to_png().unwrap_err().to_string(), "line \"training\": 3 x values, but 2 y values");
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct Plot {
    pub(super) title: String,
    pub(super) caption: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    pub(super) size: Option<(usize, usize)>,
    /// The first thing that did not fit.
    problem: Option<String>,
}

/// One thing that is drawn, with its name in the legend.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) marks: Marks,
}

#[derive(Clone, Debug)]
pub(super) enum Marks {
    Line(Vec<(f64, f64)>),
    Scatter(Vec<(f64, f64)>),
    Histogram(Bars),
    Level(f64),
}

/// Bars of equal width, whose areas add up to 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bars {
    pub(super) from: f64,
    pub(super) width: f64,
    pub(super) heights: Vec<f64>,
    /// How many values were NaN or infinite.
    pub(super) skipped: usize,
}

/// Width or height of a plot in pixels, at least and at most.
const SIDES: std::ops::RangeInclusive<usize> = 120..=2400;
/// Points of a curve that is given as a function.
const CURVE_POINTS: usize = 400;
const MOST_BINS: usize = 10_000;

impl Plot {
    /// An empty plot with a title, which may be empty.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            caption: String::new(),
            x: Axis::default(),
            y: Axis::default(),
            series: Vec::new(),
            size: None,
            problem: None,
        }
    }

    /// The label of the horizontal axis.
    pub fn x(mut self, label: impl Into<String>) -> Self {
        self.x.label = label.into();
        self
    }

    /// The label of the vertical axis.
    pub fn y(mut self, label: impl Into<String>) -> Self {
        self.y.label = label.into();
        self
    }

    /// A line below the plot.
    pub fn caption(mut self, text: impl Into<String>) -> Self {
        self.caption = text.into();
        self
    }

    /// Joins the points (x, y) in their order. The line is broken where one of the two is NaN or infinite.
    pub fn line(self, name: impl Into<String>, xs: impl Values, ys: impl Values) -> Self {
        self.points("line", name.into(), xs, ys, Marks::Line)
    }

    /// A dot at each (x, y) that is finite.
    pub fn scatter(self, name: impl Into<String>, xs: impl Values, ys: impl Values) -> Self {
        self.points("scatter", name.into(), xs, ys, Marks::Scatter)
    }

    /// The line (x, f(x)) for x over a range, such as a density to compare a histogram with.
    pub fn curve(
        self,
        name: impl Into<String>,
        over: std::ops::Range<f64>,
        f: impl Fn(f64) -> f64,
    ) -> Self {
        let step = (over.end - over.start) / (CURVE_POINTS - 1) as f64;
        let xs: Vec<f64> = (0..CURVE_POINTS)
            .map(|i| over.start + i as f64 * step)
            .collect();
        let ys: Vec<f64> = xs.iter().map(|&x| f(x)).collect();
        self.points("curve", name.into(), xs, ys, Marks::Line)
    }

    /// Bars over `bins` equal intervals from the smallest value to the largest, with areas that add up to 1: a density that a
    /// curve can be laid over.
    pub fn histogram(mut self, name: impl Into<String>, values: impl Values, bins: usize) -> Self {
        let name = name.into();
        let bars = match values.to_vec_f64() {
            Err(error) => Err(format!("histogram {name:?}: {error}")),
            Ok(_) if !(1..=MOST_BINS).contains(&bins) => Err(format!(
                "histogram {name:?}: bins = {bins}; use 1 to {MOST_BINS}"
            )),
            Ok(values) => Bars::of(&values, bins).ok_or_else(|| {
                format!(
                    "histogram {name:?}: none of its {} values is a finite number",
                    values.len()
                )
            }),
        };
        match bars {
            Ok(bars) => self.series.push(Series {
                name,
                marks: Marks::Histogram(bars),
            }),
            Err(problem) => self.refuse(problem),
        }
        self
    }

    /// A dashed horizontal line across the plot, as a reference.
    pub fn level(mut self, name: impl Into<String>, y: f64) -> Self {
        let (name, marks) = (name.into(), Marks::Level(y));
        if !drawable(y) {
            self.refuse(format!("level {name:?}: y = {y:?}; use a finite number"));
        }
        self.series.push(Series { name, marks });
        self
    }

    /// A logarithmic horizontal axis; points at or left of 0 are left out.
    pub fn log_x(mut self) -> Self {
        self.x.scale = Scale::Log;
        self
    }

    /// A logarithmic vertical axis; points at or below 0 are left out.
    pub fn log_y(mut self) -> Self {
        self.y.scale = Scale::Log;
        self
    }

    /// The x at the left and right edge; the larger first makes the axis run backwards. By default the data decide.
    pub fn x_range(mut self, left: f64, right: f64) -> Self {
        self.x.range = Some((left, right));
        self
    }

    /// The y at the lower and upper edge. By default the data decide.
    pub fn y_range(mut self, bottom: f64, top: f64) -> Self {
        self.y.range = Some((bottom, top));
        self
    }

    /// Width and height in pixels, each 120 to 2400. Default: 640 × 400, in [`Panels`](super::Panels) less.
    pub fn size(mut self, width: usize, height: usize) -> Self {
        self.size = Some((width, height));
        self
    }

    fn points(
        mut self,
        kind: &str,
        name: String,
        xs: impl Values,
        ys: impl Values,
        marks: fn(Vec<(f64, f64)>) -> Marks,
    ) -> Self {
        match (xs.to_vec_f64(), ys.to_vec_f64()) {
            (Err(error), _) | (_, Err(error)) => self.refuse(format!("{kind} {name:?}: {error}")),
            (Ok(xs), Ok(ys)) if xs.len() != ys.len() => {
                self.refuse(format!(
                    "{kind} {name:?}: {} x values, but {} y values",
                    xs.len(),
                    ys.len()
                ));
            }
            (Ok(xs), Ok(_)) if xs.is_empty() => {
                self.refuse(format!("{kind} {name:?} has no points"))
            }
            (Ok(xs), Ok(ys)) => {
                let marks = marks(xs.into_iter().zip(ys).collect());
                self.series.push(Series { name, marks });
            }
        }
        self
    }

    fn refuse(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    /// Draws it in a given size, with or without its legend.
    pub(super) fn drawn(
        &self,
        (width, height): (usize, usize),
        legend: chart::Legend,
    ) -> Result<Picture> {
        if let Some(problem) = &self.problem {
            anyhow::bail!("{problem}");
        }
        ensure!(
            !self.series.is_empty(),
            "plot {:?} is empty: add a .line, .scatter or .histogram",
            self.title
        );
        ensure!(
            SIDES.contains(&width) && SIDES.contains(&height),
            "plot {:?}: size {width} × {height}; use {} to {} pixels for each",
            self.title,
            SIDES.start(),
            SIDES.end()
        );
        chart::draw(self, (width, height), legend)
    }
}

displayed!(Plot);

impl Draw for Plot {
    fn draw(&self) -> Result<Picture> {
        self.drawn(self.size.unwrap_or((640, 400)), chart::Legend::Shown)
    }
}

/// Whether a number can be placed on an axis: finite, and with room for the arithmetic of the axis.
pub(super) fn drawable(v: f64) -> bool {
    v.abs() < 1e300
}

impl Bars {
    /// The left side of bar i, which is the right side of the one before.
    pub(super) fn side(&self, i: usize) -> f64 {
        self.from + i as f64 * self.width
    }

    /// The histogram of the finite values, `None` if there are none.
    fn of(values: &[f64], bins: usize) -> Option<Self> {
        let finite: Vec<f64> = values.iter().copied().filter(|&v| drawable(v)).collect();
        let (low, high) = finite
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| {
                (low.min(v), high.max(v))
            });
        if finite.is_empty() {
            return None;
        }
        let (from, width) = match (high - low) / bins as f64 {
            width if low + width > low => (low, width),
            // All values are (nearly) equal: bars around them.
            _ => {
                let half = 0.5f64.max(low.abs() * 1e-9);
                (low - half, 2.0 * half / bins as f64)
            }
        };
        let mut counts = vec![0usize; bins];
        for v in &finite {
            counts[(((v - from) / width) as usize).min(bins - 1)] += 1;
        }
        let area = finite.len() as f64 * width;
        Some(Self {
            from,
            width,
            heights: counts.iter().map(|&c| c as f64 / area).collect(),
            skipped: values.len() - finite.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(plot: Plot) -> String {
        plot.to_png().unwrap_err().to_string()
    }

    #[test]
    fn a_histogram_is_a_density() {
        let bars = Bars::of(&[0.0, 0.1, 0.1, 0.9, 2.0, f64::NAN], 4).unwrap();
        assert_eq!((bars.from, bars.width, bars.skipped), (0.0, 0.5, 1));
        assert_eq!(bars.heights, [3.0 / 2.5, 1.0 / 2.5, 0.0, 1.0 / 2.5]);
        let equal = Bars::of(&[3.0; 8], 4).unwrap();
        assert_eq!((equal.heights, equal.from), (vec![0.0, 0.0, 4.0, 0.0], 2.5));
        assert_eq!(Bars::of(&[f64::INFINITY], 5), None);
    }

    #[test]
    fn errors_name_the_series_and_the_numbers() {
        let none: [f64; 0] = [];
        assert_eq!(
            message(Plot::new("a").scatter("dots", none, none)),
            "scatter \"dots\" has no points"
        );
        assert!(message(Plot::new("loss")).starts_with("plot \"loss\" is empty"));
        assert!(
            message(Plot::new("").histogram("h", [1.0], 0)).contains("histogram \"h\": bins = 0")
        );
        assert!(
            message(Plot::new("").histogram("h", [f64::NAN], 3)).contains("none of its 1 values")
        );
        assert!(
            message(Plot::new("").level("floor", f64::NAN)).contains("level \"floor\": y = NaN")
        );
        let line = |p: Plot| p.line("l", [1.0, 2.0], [1.0, 2.0]);
        assert!(message(line(Plot::new("p")).size(10, 400)).contains("size 10 × 400"));
        assert!(message(line(Plot::new("p")).x_range(2.0, 2.0)).contains("x_range(2.0, 2.0)"));
        assert!(
            message(line(Plot::new("p")).log_y().y_range(0.0, 1.0)).contains("y_range(0.0, 1.0)")
        );
    }
}
