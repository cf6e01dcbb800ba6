//! A plot: lines, points and histograms on a pair of axes. It is drawn in `chart.rs`.

use super::Values;
use super::axis::{Axis, drawable};

/// A plot of lines, points, histograms and arrows on a pair of axes.
///
/// The builder methods take and return the plot. Series are drawn in the order of the calls; series with the same name
/// share a colour and a legend entry. Texts may contain formulas such as `x_t`, `σ_{t−1}` and `10^{-3}`. Invalid
/// arguments are reported when the plot is drawn.
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
    /// Whether both axes have the same scale.
    pub(super) equal: bool,
    /// The first invalid argument.
    pub(super) problem: Option<String>,
}

/// A series, with its name in the legend.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) marks: Marks,
}

#[derive(Clone, Debug)]
pub(super) enum Marks {
    Line(Vec<(f64, f64)>),
    Scatter(Vec<(f64, f64)>),
    Path(Vec<(f64, f64)>),
    /// x, y, and the vector to the tip.
    Arrows(Vec<[f64; 4]>),
    Histogram(Bars),
    Level(f64),
}

/// Bars of equal width with a total area of 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bars {
    pub(super) from: f64,
    pub(super) width: f64,
    pub(super) heights: Vec<f64>,
    /// The number of NaN or infinite values.
    pub(super) skipped: usize,
}

/// The range of a plot's width and height in nominal pixels.
pub(super) const SIDES: std::ops::RangeInclusive<usize> = 120..=2400;
/// The width of a displayed plot. It is the same for all plots, so that their texts have one size in any column width.
pub(super) const WIDTH: usize = 960;
/// The number of points of a function's curve.
const CURVE_POINTS: usize = 400;
const MOST_BINS: usize = 10_000;

impl Plot {
    /// Creates an empty plot with a title, which may be empty.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            caption: String::new(),
            x: Axis::default(),
            y: Axis::default(),
            series: Vec::new(),
            size: None,
            equal: false,
            problem: None,
        }
    }

    /// Sets the label of the horizontal axis.
    pub fn x(mut self, label: impl Into<String>) -> Self {
        self.x.label = label.into();
        self
    }

    /// Sets the label of the vertical axis.
    pub fn y(mut self, label: impl Into<String>) -> Self {
        self.y.label = label.into();
        self
    }

    /// Sets a line below the plot.
    pub fn caption(mut self, text: impl Into<String>) -> Self {
        self.caption = text.into();
        self
    }

    /// Joins the points (x, y) in order. The line is broken where a coordinate is NaN or infinite.
    pub fn line(self, name: impl Into<String>, xs: impl Values, ys: impl Values) -> Self {
        self.points("line", name.into(), xs, ys, Marks::Line)
    }

    /// Draws a dot at each finite (x, y).
    pub fn scatter(self, name: impl Into<String>, xs: impl Values, ys: impl Values) -> Self {
        self.points("scatter", name.into(), xs, ys, Marks::Scatter)
    }

    /// Draws a thin line through the points (x, y) in order, with a dot at its end: the trajectory of a point in the
    /// plane.
    pub fn path(self, name: impl Into<String>, xs: impl Values, ys: impl Values) -> Self {
        self.points("path", name.into(), xs, ys, Marks::Path)
    }

    /// Draws an arrow from each (x, y) to (x + u, y + v), in the units of the axes: a vector field.
    ///
    /// ```
    /// use diffusion_core::show::Plot;
    /// let field = Plot::new("A rotation").equal_axes().arrows("", [1.0, 0.0], [0.0, 1.0], [0.0, -0.5], [0.5, 0.0]);
    /// assert_eq!(&field.to_png()?[1..4], b"PNG");
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn arrows(
        mut self,
        name: impl Into<String>,
        xs: impl Values,
        ys: impl Values,
        us: impl Values,
        vs: impl Values,
    ) -> Self {
        let name = name.into();
        let columns = [("x", &xs as &dyn Values), ("y", &ys), ("u", &us), ("v", &vs)];
        if let Some([xs, ys, us, vs]) = self.numbers("arrows", &name, columns) {
            let arrow = |i: usize| [xs[i], ys[i], us[i], vs[i]];
            let marks = Marks::Arrows((0..xs.len()).map(arrow).collect());
            self.series.push(Series { name, marks });
        }
        self
    }

    /// Draws the curve (x, f(x)) for x over a range, for example a density to compare a histogram with.
    pub fn curve(self, name: impl Into<String>, over: std::ops::Range<f64>, f: impl Fn(f64) -> f64) -> Self {
        let step = (over.end - over.start) / (CURVE_POINTS - 1) as f64;
        let xs: Vec<f64> = (0..CURVE_POINTS).map(|i| over.start + i as f64 * step).collect();
        let ys: Vec<f64> = xs.iter().map(|&x| f(x)).collect();
        self.points("curve", name.into(), xs, ys, Marks::Line)
    }

    /// Draws a histogram as a density: bars over `bins` equal intervals between the extreme values, with a total area
    /// of 1.
    pub fn histogram(mut self, name: impl Into<String>, values: impl Values, bins: usize) -> Self {
        let name = name.into();
        let bars = match values.to_vec_f64() {
            Err(error) => Err(error.to_string()),
            Ok(_) if !(1..=MOST_BINS).contains(&bins) => Err(format!("bins = {bins}; use 1 to {MOST_BINS}")),
            Ok(values) => {
                Bars::of(&values, bins).ok_or_else(|| format!("none of its {} values is finite", values.len()))
            }
        };
        match bars.map(Marks::Histogram) {
            Ok(marks) => self.series.push(Series { name, marks }),
            Err(problem) => self.refuse(format!("histogram {name:?}: {problem}")),
        }
        self
    }

    /// Draws a dashed horizontal line across the plot, as a reference.
    pub fn level(mut self, name: impl Into<String>, y: f64) -> Self {
        let (name, marks) = (name.into(), Marks::Level(y));
        if !drawable(y) {
            self.refuse(format!("level {name:?}: y = {y:?}; use a finite number"));
        }
        self.series.push(Series { name, marks });
        self
    }

    /// Makes the horizontal axis logarithmic; points with x ≤ 0 are left out.
    pub fn log_x(mut self) -> Self {
        self.x.log = true;
        self
    }

    /// Makes the vertical axis logarithmic; points with y ≤ 0 are left out.
    pub fn log_y(mut self) -> Self {
        self.y.log = true;
        self
    }

    /// Sets the x at the left and right edge; if the larger comes first, the axis is reversed. By default it follows
    /// the data.
    pub fn x_range(mut self, left: f64, right: f64) -> Self {
        self.x.range = Some((left, right));
        self
    }

    /// Sets the y at the lower and upper edge. By default it follows the data.
    pub fn y_range(mut self, bottom: f64, top: f64) -> Self {
        self.y.range = Some((bottom, top));
        self
    }

    /// Gives both axes the same scale, so that a circle looks round; one of them is extended.
    pub fn equal_axes(mut self) -> Self {
        self.equal = true;
        self
    }

    /// Sets the width and height in nominal pixels, each 120 to 2400. Default: 960 × 400, or 480 × 480 with equal axes.
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
        let columns = [("x", &xs as &dyn Values), ("y", &ys)];
        if let Some([xs, ys]) = self.numbers(kind, &name, columns) {
            let marks = marks(xs.into_iter().zip(ys).collect());
            self.series.push(Series { name, marks });
        }
        self
    }

    /// The numbers of a series; `None` if they are inconsistent.
    fn numbers<const N: usize>(
        &mut self,
        kind: &str,
        name: &str,
        columns: [(&str, &dyn Values); N],
    ) -> Option<[Vec<f64>; N]> {
        let read = columns.map(|(_, values)| values.to_vec_f64());
        let problem = if let Some(Err(error)) = read.iter().find(|values| values.is_err()) {
            format!(": {error}")
        } else {
            let numbers = read.map(|values| values.unwrap_or_default());
            let count = numbers[0].len();
            match (0..N).find(|&i| numbers[i].len() != count) {
                None if count > 0 => return Some(numbers),
                None => " has no points".to_string(),
                Some(i) => {
                    let (first, (other, n)) = (columns[0].0, (columns[i].0, numbers[i].len()));
                    format!(": {count} {first} values, but {n} {other} values")
                }
            }
        };
        self.refuse(format!("{kind} {name:?}{problem}"));
        None
    }

    fn refuse(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }
}

impl Marks {
    /// The points that must be within the axes; none for bars and levels.
    pub(super) fn points(&self) -> Vec<(f64, f64)> {
        match self {
            Self::Line(points) | Self::Scatter(points) | Self::Path(points) => points.clone(),
            Self::Arrows(arrows) => {
                let ends = |&[x, y, u, v]: &[f64; 4]| [(x, y), (x + u, y + v)];
                arrows.iter().flat_map(ends).collect()
            }
            Self::Histogram(_) | Self::Level(_) => Vec::new(),
        }
    }
}

impl Bars {
    /// The left edge of bar i, which is the right edge of the previous one.
    pub(super) fn side(&self, i: usize) -> f64 {
        self.from + i as f64 * self.width
    }

    /// The histogram of the finite values, `None` if there are none.
    fn of(values: &[f64], bins: usize) -> Option<Self> {
        let finite: Vec<f64> = values.iter().copied().filter(|&v| drawable(v)).collect();
        let (low, high) =
            finite.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
        if finite.is_empty() {
            return None;
        }
        let (from, width) = match (high - low) / bins as f64 {
            width if low + width > low => (low, width),
            // All values are (nearly) equal: place the bars around them.
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
        assert_eq!(message(Plot::new("a").scatter("dots", none, none)), "scatter \"dots\" has no points");
        assert!(message(Plot::new("loss")).starts_with("plot \"loss\" is empty"));
        assert!(message(Plot::new("").histogram("h", [1.0], 0)).contains("histogram \"h\": bins = 0"));
        assert!(message(Plot::new("").histogram("h", [f64::NAN], 3)).contains("none of its 1 values"));
        assert!(message(Plot::new("").level("floor", f64::NAN)).contains("level \"floor\": y = NaN"));
        let line = |p: Plot| p.line("l", [1.0, 2.0], [1.0, 2.0]);
        assert!(message(line(Plot::new("p")).size(10, 400)).contains("size 10 × 400"));
        assert!(message(line(Plot::new("p")).x_range(2.0, 2.0)).contains("x_range(2.0, 2.0)"));
        assert!(message(line(Plot::new("p")).log_y().y_range(0.0, 1.0)).contains("y_range(0.0, 1.0)"));
    }
}
