//! A measured value with its uncertainty.

use serde::Serialize;
use std::fmt;

/// The value of a measure of two sets of images, with what is needed to judge it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The name of the measure.
    pub name: &'static str,
    /// The value.
    pub value: f64,
    /// The 95 % confidence interval with respect to the choice of images, by the bootstrap
    /// ([Efron 1979](https://doi.org/10.1214/aos/1176344552)) with 200 resamples. Resampling adds a bias to some
    /// measures, so the repetitions are shifted to have the value as their mean.
    pub interval: (f64, f64),
    /// The number of real images the samples were compared with; 0 for a measure of samples alone.
    pub real_images: usize,
    /// The number of samples.
    pub samples: usize,
    /// The real-vs-real baseline: the same measure of real images, which a perfect model would reach.
    pub real: Reference,
    /// Why the value should not be trusted, if there is a reason.
    pub doubt: Option<String>,
}

/// The real-vs-real baseline: the same measure of real images against other real images.
///
/// The real images are split at random into two disjoint parts whose sizes are as close as possible to those of the
/// value. The baseline is the mean over 8 splits for distances (one split for the Fréchet distance with more than 256
/// features). The sizes are equal only if there are many more real images than samples; smaller parts give larger
/// distances.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reference {
    /// The value.
    pub value: f64,
    /// The number of images used as real images; 0 as in [`Estimate::real_images`].
    pub real_images: usize,
    /// The number of images used as samples.
    pub samples: usize,
}

/// Prints
/// `kernel distance 0.0123, 95 % interval 0.0101 … 0.0145, of 1000 samples against 5000 real images; baseline 0.0001 (1000 against 4000)`.
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (real, (low, high)) = (self.real, self.interval);
        write!(
            f,
            "{} {}, 95 % interval {} … {}, of {} samples",
            self.name,
            Short(self.value),
            Short(low),
            Short(high),
            self.samples
        )?;
        match self.real_images {
            0 => write!(f, "; baseline {} ({})", Short(real.value), real.samples)?,
            images => write!(
                f,
                " against {images} real images; baseline {} ({} against {})",
                Short(real.value),
                real.samples,
                real.real_images
            )?,
        }
        match &self.doubt {
            Some(doubt) => write!(f, "; {doubt}"),
            None => Ok(()),
        }
    }
}

/// A number with four significant digits.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let x = self.0;
        match x.abs() {
            0.0 => write!(f, "0"),
            size if !(1e-3..1e6).contains(&size) => write!(f, "{x:.2e}"),
            size => {
                let digits = 3 - (size.log10().floor() as i32).clamp(-1, 3);
                write!(f, "{x:.*}", digits as usize)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_prints_on_one_line() {
        let it = Estimate {
            name: "kernel distance",
            value: 0.01234,
            interval: (-0.000123, 12.345),
            real_images: 5000,
            samples: 1000,
            real: Reference { value: 123456.7, real_images: 4000, samples: 999 },
            doubt: Some("too few".to_owned()),
        };
        assert_eq!(
            it.to_string(),
            "kernel distance 0.0123, 95 % interval -1.23e-4 … 12.35, of 1000 samples against 5000 real images; baseline \
             123457 (999 against 4000); too few"
        );
        let alone = Estimate { name: "inception score", real_images: 0, doubt: None, ..it };
        assert_eq!(
            alone.to_string(),
            "inception score 0.0123, 95 % interval -1.23e-4 … 12.35, of 1000 samples; baseline 123457 (999)"
        );
    }
}
