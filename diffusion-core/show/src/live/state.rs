//! The state that a training run writes for its live page.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

const FILE: &str = "live.json";
/// The name of the file while it is written: not hidden by a dot, and ignored by git.
const UNFINISHED: &str = "live.json.part";

/// The state of a training run, the content of the file `live.json` in its folder.
///
/// A number that is not finite is shown as missing, in a curve as a gap.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LiveState {
    /// The token of the page: [`LiveState::token_of`].
    pub token: String,
    /// Whether the run is waiting, running or ended.
    pub state: Phase,
    /// An additional sentence, such as the reason of a failure; may be empty.
    pub message: String,
    /// The number of steps done.
    pub step: usize,
    /// The total number of steps; 0 if it is not known.
    pub steps: usize,
    /// The current epoch, from 1; 0 if epochs are not counted.
    pub epoch: usize,
    /// The total number of epochs; 0 if it is not known.
    pub epochs: usize,
    /// The learning rate of the last step.
    pub lr: f64,
    /// The loss, averaged over the last steps.
    pub loss: Option<f64>,
    /// Training images per second.
    pub images_per_second: Option<f64>,
    /// The estimated time left in seconds.
    pub seconds_left: Option<f64>,
    /// The time since the start in seconds.
    pub seconds: f64,
    /// The norm of all gradients at the last step, before clipping.
    pub grad_norm: Option<f64>,
    /// The memory in use, in bytes.
    pub memory: Option<u64>,
    /// Step and loss, as measured; the page draws a smooth line through them. About 400 points at most: see [`thin`].
    pub curve: Vec<(usize, f64)>,
    /// Step and loss on held-out images; empty if it is not measured. See [`thin`].
    pub validation: Vec<(usize, f64)>,
    /// Step and learning rate; see [`thin`].
    pub rate: Vec<(usize, f64)>,
    /// The latest grid of samples, as a path relative to the run's folder: `samples/epoch-0004.png`.
    pub samples: Option<String>,
    /// The title of the samples: "Samples after epoch 4".
    pub samples_title: String,
}

/// The phase of a training run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The page is shown, but the cell that trains has not been run.
    #[default]
    Waiting,
    /// Training is in progress.
    Running,
    /// All steps are done.
    Done,
    /// Stopped early by the reader.
    Stopped,
    /// Ended by an error.
    Failed,
}

impl LiveState {
    /// The token of the page for the run in `folder`, from its `live.json`; `None` if there is no such page.
    pub fn token_of(folder: impl AsRef<Path>) -> Option<String> {
        let bytes = std::fs::read(folder.as_ref().join(FILE)).ok()?;
        let state: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        state["token"].as_str().map(str::to_string)
    }

    /// Replaces `live.json` in `folder` atomically: a reader sees the old or the new file, never a part.
    ///
    /// # Errors
    /// The file cannot be written; the message names it.
    pub fn write(&self, folder: impl AsRef<Path>) -> Result<()> {
        let (file, unfinished) = (folder.as_ref().join(FILE), folder.as_ref().join(UNFINISHED));
        let write = || -> Result<()> {
            std::fs::write(&unfinished, serde_json::to_vec(self)?)?;
            Ok(std::fs::rename(&unfinished, &file)?)
        };
        write().with_context(|| format!("{}: cannot write this file", file.display())).map_err(crate::whole)
    }
}

/// Reduces a curve to at most `at_most` points. The first and the last are kept; those between become means, of step
/// and value, over equally many neighbours. Values that are not finite stay visible. Short curves are unchanged.
///
/// ```
/// use diffusion_core::show::thin;
/// let curve: Vec<(usize, f64)> = (1..=9).map(|step| (step, 2.0 * step as f64)).collect();
/// assert_eq!(thin(&curve, 3), [(1, 2.0), (5, 10.0), (9, 18.0)]);
/// ```
pub fn thin(points: &[(usize, f64)], at_most: usize) -> Vec<(usize, f64)> {
    let [first, between @ .., last] = points else {
        return points[..points.len().min(at_most)].to_vec();
    };
    if points.len() <= at_most {
        return points.to_vec();
    }
    match at_most {
        0 => Vec::new(),
        1 => vec![*last],
        _ => {
            let buckets = at_most - 2;
            let edge = |i: usize| i * between.len() / buckets;
            let means = (0..buckets).map(|i| mean(&between[edge(i)..edge(i + 1)]));
            std::iter::once(*first).chain(means).chain([*last]).collect()
        }
    }
}

/// The mean of at least one point.
fn mean(points: &[(usize, f64)]) -> (usize, f64) {
    let n = points.len() as f64;
    let step = points.iter().map(|p| p.0 as f64).sum::<f64>() / n;
    (step.round() as usize, points.iter().map(|p| p.1).sum::<f64>() / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_curve_keeps_its_ends_and_its_shape() {
        // A line, which averaging preserves, with a bump.
        let line = |step: usize| 5.0 - step as f64 * 1e-3;
        let curve: Vec<(usize, f64)> = (0..5000).map(|s| (s, line(s) + if s == 2500 { 100.0 } else { 0.0 })).collect();
        let thinned = thin(&curve, 400);
        assert_eq!(thinned.len(), 400);
        assert_eq!((thinned[0], thinned[399]), (curve[0], curve[4999]));
        assert!(thinned.windows(2).all(|p| p[0].0 < p[1].0));
        let off: Vec<f64> = thinned.iter().map(|p| (p.1 - line(p.0)).abs()).collect();
        assert_eq!(off.iter().filter(|d| **d > 1e-3).count(), 1);
        assert!(off.iter().any(|d| (7.0..9.0).contains(d)), "100 in a bucket of 12 or 13");
    }

    #[test]
    fn short_curves_stay_and_few_points_are_the_ends() {
        let curve = [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)];
        assert_eq!(thin(&curve, 4), curve);
        assert_eq!(thin(&curve, 3), [(1, 4.0), (3, 2.5), (4, 1.0)]);
        assert_eq!(thin(&curve, 2), [(1, 4.0), (4, 1.0)]);
        assert_eq!(thin(&curve, 1), [(4, 1.0)]);
        assert_eq!(thin(&curve, 0), []);
        assert_eq!(thin(&curve[..1], 400), [(1, 4.0)]);
        assert_eq!(thin(&curve[..1], 0), []);
        assert_eq!(thin(&[], 3), []);
    }

    #[test]
    fn a_loss_that_is_nan_stays_visible() {
        let mut curve: Vec<(usize, f64)> = (0..1000).map(|s| (s, 1.0)).collect();
        curve[500].1 = f64::NAN;
        let thinned = thin(&curve, 100);
        assert_eq!(thinned.iter().filter(|p| p.1.is_nan()).count(), 1);
    }

    #[test]
    fn the_file_is_what_the_page_reads() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let state = LiveState {
            token: "00ff".into(),
            state: Phase::Running,
            step: 3,
            steps: 10,
            lr: 2e-4,
            loss: Some(f64::NAN),
            curve: vec![(1, 0.5), (2, f64::INFINITY)],
            samples: Some("samples/epoch-0001.png".into()),
            ..LiveState::default()
        };
        state.write(&folder)?;
        state.write(&folder)?;
        assert_eq!(LiveState::token_of(&folder).as_deref(), Some("00ff"));
        let file = std::fs::read(folder.path().join("live.json"))?;
        let read: serde_json::Value = serde_json::from_slice(&file)?;
        assert_eq!(read["state"], "running");
        assert_eq!((&read["step"], &read["lr"]), (&3.into(), &2e-4.into()));
        assert!(read["loss"].is_null() && read["seconds_left"].is_null());
        assert_eq!(read["curve"], serde_json::json!([[1, 0.5], [2, null]]));
        assert_eq!(read["samples"], "samples/epoch-0001.png");
        let files = std::fs::read_dir(&folder)?.count();
        assert_eq!(files, 1, "an unfinished file was left");
        Ok(())
    }

    #[test]
    fn invalid_files_have_no_token_and_write_errors_name_the_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for text in ["", "{", "[]", "{\"token\": 3}", "{\"token\": \"a\""] {
            std::fs::write(folder.path().join("live.json"), text)?;
            assert_eq!(LiveState::token_of(&folder), None, "{text}");
        }
        let missing = folder.path().join("missing");
        let message = LiveState::default().write(&missing).unwrap_err();
        let message = message.to_string();
        assert!(message.contains("missing/live.json: cannot write this file: "), "{message}");
        Ok(())
    }
}
