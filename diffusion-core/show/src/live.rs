//! The live page of a training run: one cell shows it, the next one trains and updates it.

mod state;

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::displayed;

pub use state::{LiveState, Phase, thin};

/// A page in the notebook that follows a training run: training and validation loss, learning rate, time left, samples,
/// and a stop button.
///
/// The cell that trains keeps the kernel busy, so the kernel cannot display anything meanwhile. The page is therefore
/// displayed by the previous cell. Twice a second it reads the file `live.json` of the run's folder through the Jupyter
/// server; the training run rewrites that file ([`LiveState::write`]). The button creates a file `stop` in the same
/// folder, which ends the training after the current step ([`Live::stop_requested`]).
///
/// The folder must be below the folder in which JupyterLab was started, and no component of its path may start with a
/// dot, or Jupyter does not serve it. Page and training run identify each other by a token: [`Live::new`] creates one
/// and writes it into `live.json`; the training run reads it ([`LiveState::token_of`]) and includes it in all updates.
/// A training run that finds no token has no page and writes no `live.json`. The saved notebook contains the folder's
/// path relative to the notebook, never an absolute path; without Jupyter the page is a single sentence.
///
/// ```
/// use diffusion_core::show::{Live, LiveState, Phase};
/// # let runs = std::env::temp_dir().join(format!("diffusion-live-doc-{}", std::process::id()));
/// let folder = runs.join("sprites");
/// let live = Live::new(&folder)?; // alone on the last line of a cell: `Live::new("runs/sprites")?`
///
/// // What a training run does, in the next cell.
/// let token = LiveState::token_of(&folder).expect("a page was shown");
/// Live::clear_stop(&folder)?;
/// let mut state = LiveState { token, state: Phase::Running, steps: 100, ..LiveState::default() };
/// for step in 1..=100 {
///     state.step = step;
///     state.curve.push((step, 1.0 / step as f64));
///     state.write(&folder)?;
///     if Live::stop_requested(&folder) {
///         break;
///     }
/// }
/// # assert_eq!(LiveState::token_of(live.folder()), Some(state.token));
/// # std::fs::remove_dir_all(runs)?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct Live {
    folder: PathBuf,
    /// The components of the path from the kernel's folder, which is the notebook's, to `folder`.
    from_notebook: Vec<String>,
    token: String,
}

displayed!(Debug for Live);

const PAGE: &str = include_str!("live/page.html");
const STOP: &str = "stop";

impl Live {
    /// Creates the page of the run in `folder`, and the folder if it is missing. A relative path starts at the
    /// notebook's folder. It replaces an earlier page of this folder, and clears an earlier request to stop.
    ///
    /// # Errors
    /// The folder cannot be created or written to, or its name is not Unicode.
    pub fn new(folder: impl AsRef<Path>) -> Result<Self> {
        Self::in_folder(folder.as_ref()).map_err(crate::whole)
    }

    fn in_folder(given: &Path) -> Result<Self> {
        let why = || format!("{}: cannot use it as the folder of a run", given.display());
        let here = std::env::current_dir().with_context(why)?;
        let folder = plain(&here.join(given));
        let from_notebook =
            way(&plain(&here), &folder).with_context(|| format!("{}: its name is not Unicode", given.display()))?;
        std::fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create this folder", given.display()))?;
        let live = Self { folder, from_notebook, token: new_token() };
        Self::clear_stop(&live.folder)?;
        let waiting = LiveState { token: live.token.clone(), ..LiveState::default() };
        waiting.write(&live.folder)?;
        Ok(live)
    }

    /// The absolute path of the run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The HTML of the page.
    pub fn to_html(&self) -> String {
        let shown = escaped(&self.from_notebook.join("/"));
        let address = |part: &String| percent_encoded(part) + "/";
        let address: String = self.from_notebook.iter().map(address).collect();
        PAGE.replace("@TOKEN@", &self.token)
            .replace("@ADDRESS@", &address)
            .replace("@FOLDER@", if shown.is_empty() { "." } else { &shown })
    }

    /// Displays it below a notebook cell; evcxr calls this for the cell's last expression.
    pub fn evcxr_display(&self) {
        println!("EVCXR_BEGIN_CONTENT text/html\n{}\nEVCXR_END_CONTENT", self.to_html());
    }

    /// Whether the reader has requested the training in `folder` to stop, with the page's button or by a file named
    /// `stop`.
    pub fn stop_requested(folder: impl AsRef<Path>) -> bool {
        folder.as_ref().join(STOP).exists()
    }

    /// Clears an earlier request to stop; a training run does this before its first step.
    ///
    /// # Errors
    /// The file `stop` cannot be removed.
    pub fn clear_stop(folder: impl AsRef<Path>) -> Result<()> {
        let file = folder.as_ref().join(STOP);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{}: cannot remove this file", file.display())).map_err(crate::whole)
            }
            _ => Ok(()),
        }
    }
}

/// A random token of 32 hexadecimal digits.
fn new_token() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

/// The absolute path without `.` and `..`. Links are kept, since Jupyter follows them, too.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

/// The components of the relative path from one absolute path to another; `None` if one is not Unicode.
fn way(from: &Path, to: &Path) -> Option<Vec<String>> {
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[common..].iter().map(|_| Some("..".to_string()));
    let down = to[common..].iter().map(|part| part.as_os_str().to_str().map(str::to_string));
    up.chain(down).collect()
}

/// Percent-encodes a component of a path for a URL.
fn percent_encoded(part: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    part.bytes().map(encoded).collect()
}

/// Escapes a text for HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_writes_its_token_for_the_training_run() -> Result<()> {
        let runs = tempfile::tempdir()?;
        let folder = runs.path().join("a/b");
        assert_eq!(LiveState::token_of(&folder), None);
        let live = Live::new(&folder)?;
        assert_eq!(live.folder(), folder);
        assert_eq!(live.token.len(), 32);
        assert_eq!(LiveState::token_of(&folder), Some(live.token.clone()));
        assert!(live.to_html().contains(&format!("data-token=\"{}\"", live.token)));
        // A second page takes over, and the first no longer finds its token in the file.
        let second = Live::new(folder.join("../b"))?;
        assert_ne!(second.token, live.token);
        assert_eq!(LiveState::token_of(&folder), Some(second.token));
        Ok(())
    }

    #[test]
    fn a_stop_request_is_seen_and_cleared() -> Result<()> {
        let folder = tempfile::tempdir()?;
        Live::clear_stop(&folder)?;
        assert!(!Live::stop_requested(&folder));
        std::fs::write(folder.path().join("stop"), "stop")?;
        assert!(Live::stop_requested(&folder));
        Live::clear_stop(&folder)?;
        assert!(!Live::stop_requested(&folder));
        // The next training run must not end at its first step.
        std::fs::write(folder.path().join("stop"), "stop")?;
        Live::new(&folder)?;
        assert!(!Live::stop_requested(&folder));
        Ok(())
    }

    #[test]
    fn the_page_finds_the_folder_from_the_notebook_and_holds_no_path_of_the_machine() {
        let live = Live {
            folder: "/home/somebody/notebooks/runs/50 % <off>".into(),
            from_notebook: vec!["runs".into(), "50 % <off> & \"ü\"".into()],
            token: "00ff".into(),
        };
        let page = live.to_html();
        assert!(page.contains("href=\"runs/50%20%25%20%3Coff%3E%20%26%20%22%C3%BC%22/live.json\""), "{page}");
        let shown = "runs/50 % &lt;off&gt; &amp; &quot;ü&quot;";
        assert!(page.contains(&format!("data-folder=\"{shown}\"")));
        assert!(page.contains(&format!("<code>{shown}</code>")));
        assert!(!page.contains("somebody"));
        assert!(["@TOKEN@", "@FOLDER@", "@ADDRESS@"].iter().all(|place| !page.contains(place)));
        assert!(!page.contains("://") && !page.contains("EVCXR_"));
    }

    #[test]
    fn the_relative_path_from_the_notebook_to_the_folder() {
        let between = |from: &str, to: &str| {
            let way = way(Path::new(from), &plain(&Path::new(from).join(to)));
            way.map(|parts| parts.join("/")).unwrap_or_default()
        };
        assert_eq!(between("/p/notebooks", "runs/a"), "runs/a");
        assert_eq!(between("/p/notebooks", "./runs/../x"), "x");
        assert_eq!(between("/p/notebooks", "../runs"), "../runs");
        assert_eq!(between("/p/notebooks", "/q"), "../../q");
        assert_eq!(between("/p/notebooks", "."), "");
        assert_eq!(between("/p", "../../../r"), "../r");
    }

    #[test]
    fn errors_name_the_folder() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("file");
        std::fs::write(&file, "")?;
        let message = Live::new(file.join("run")).unwrap_err().to_string();
        assert!(message.contains("file/run: cannot create this folder: "), "{message}");
        std::fs::create_dir(folder.path().join("stop"))?;
        let message = Live::new(&folder).unwrap_err().to_string();
        assert!(message.contains("stop: cannot remove this file: "), "{message}");
        Ok(())
    }
}
