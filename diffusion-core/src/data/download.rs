//! Downloads of known files: checked by SHA-256, continued after a break, from one of several addresses.
//!
//! ```no_run
//! use diffusion_core::data::download::{Fetch, data_dir, fetch, mnist};
//! for file in mnist() {
//!     println!("{}", fetch(&file, &data_dir().join("mnist"), &mut Fetch::default())?.display());
//! }
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! Bytes are collected in `NAME.part`, which gets its final name when all of it is there and has the right SHA-256. That
//! file is locked meanwhile, so that a second process waits and then finds the work done. The proxy in `ALL_PROXY`,
//! `HTTPS_PROXY` or `HTTP_PROXY` is used, except for `NO_PROXY` and for servers on this computer.

mod known;
mod part;
mod transfer;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

pub use known::{cifar10, fashion_mnist, mnist};
use part::Part;
use transfer::{Failure, transfer};

/// A file whose content is known and can be had from any of several addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// The file name on disk, without a folder.
    pub name: String,
    /// Where it can be had, in the order in which they are asked.
    pub urls: Vec<String>,
    /// The SHA-256 of the content, 64 hexadecimal digits.
    pub sha256: String,
    /// The length of the content.
    pub bytes: u64,
}

/// How to download: patience, and whom to tell about it.
///
/// ```
/// use diffusion_core::data::download::Fetch;
/// let options = Fetch {
///     progress: Some(Box::new(|done, total| println!("{done} of {total} bytes"))),
///     ..Fetch::default()
/// };
/// assert_eq!(options.retries, 4);
/// ```
pub struct Fetch {
    /// Called with (bytes that are there, bytes of the whole file), often. It can go back, if a download starts over. It
    /// is not called for a file that is already there. Default none.
    pub progress: Option<Box<dyn FnMut(u64, u64)>>,
    /// A server that sends nothing for this long is given up; above 0. Default 30 s.
    pub stall: Duration,
    /// A server that cannot be reached in this time is given up; above 0. Default 15 s.
    pub connect: Duration,
    /// How often the same address is asked again after a break. Default 4.
    pub retries: u32,
    /// The pause before an address is asked again, doubled each time. Default 0.5 s.
    pub pause: Duration,
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            progress: None,
            stall: Duration::from_secs(30),
            connect: Duration::from_secs(15),
            retries: 4,
            pause: Duration::from_millis(500),
        }
    }
}

impl Fetch {
    fn report(&mut self, done: u64, total: u64) {
        if let Some(progress) = &mut self.progress {
            progress(done, total);
        }
    }
}

/// The folder for downloaded data: `DIFFUSION_DATA` if that is set, else `data` in the project around the current folder.
pub fn data_dir() -> PathBuf {
    data_dir_from(
        env::var_os("DIFFUSION_DATA"),
        &env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
    )
}

/// [`data_dir`] with the value of the variable and the current folder given.
///
/// The project is the nearest folder, from `current` upwards, that holds `Cargo.toml` and `diffusion-core`. Without one, it
/// is `data` in `current`. An empty `variable` counts as none.
pub fn data_dir_from(variable: Option<OsString>, current: &Path) -> PathBuf {
    if let Some(dir) = variable.filter(|value| !value.is_empty()) {
        return dir.into();
    }
    let is_project =
        |dir: &&Path| dir.join("Cargo.toml").is_file() && dir.join("diffusion-core").is_dir();
    current
        .ancestors()
        .find(is_project)
        .unwrap_or(current)
        .join("data")
}

/// Makes sure that `file` is in the folder `dir`, and returns its path.
///
/// A file that is there with the right length and SHA-256 is left as it is and no server is asked. Otherwise the addresses
/// are asked in turn. What has arrived when a connection breaks is kept, for the next address and for the next call.
///
/// # Errors
/// There is another file of that name (it is not touched; the message says what to do); `dir` cannot be written to; no
/// address had the file. The last message lists what happened at each address, where to put the file by hand, and how to
/// go on without it.
pub fn fetch(file: &RemoteFile, dir: &Path, options: &mut Fetch) -> Result<PathBuf> {
    fetch_checked(file, dir, options).map_err(crate::whole)
}

fn fetch_checked(file: &RemoteFile, dir: &Path, options: &mut Fetch) -> Result<PathBuf> {
    file.validate()?;
    let path = dir.join(&file.name);
    ensure!(
        dir.is_dir() || !dir.exists(),
        "{} is a file; a folder is needed there for {}",
        dir.display(),
        file.name
    );
    if file.is_at(&path)? {
        return Ok(path);
    }
    fs::create_dir_all(dir)
        .with_context(|| format!("cannot make the folder {} for {}", dir.display(), file.name))?;
    let mut part = Part::open(file, dir, options)?;
    if file.is_at(&path)? {
        // Another process finished it while this one waited for its turn.
        part.discard();
        return Ok(path);
    }
    if part.is_complete(file)? {
        return part.finish(path);
    }
    let mut failures = String::new();
    for url in &file.urls {
        match transfer(url, file, &mut part, options) {
            Ok(()) => return part.finish(path),
            Err(Failure::Here(error)) => return Err(error),
            Err(Failure::Again(reason) | Failure::Next(reason)) => {
                failures += &format!("\n  {url}: {reason}");
            }
        }
    }
    let kept = match part.len() {
        0 => String::new(),
        n => format!(
            "{n} of {} bytes have arrived and are kept: run it again to continue.\n",
            file.bytes
        ),
    };
    bail!(
        "cannot download {}:{}\n{kept}You can put the file there by hand: {} ({} bytes, SHA-256 {}).\n\
         To go on without it, use the built-in images: Dataset::sprites(...) needs no download.",
        file.name,
        if failures.is_empty() {
            " no address is known"
        } else {
            &failures
        },
        std::path::absolute(&path).unwrap_or(path).display(),
        file.bytes,
        file.sha256
    )
}

/// Whether `start`, the first bytes of a file, is that of an HTML page.
pub(super) fn is_html(start: &[u8]) -> bool {
    let start = start.trim_ascii_start();
    ["<!doctype html", "<html"].iter().any(|tag| {
        start
            .get(..tag.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(tag.as_bytes()))
    })
}

impl RemoteFile {
    fn validate(&self) -> Result<()> {
        ensure!(
            Path::new(&self.name).file_name() == Some(self.name.as_ref()),
            "name = {:?}: it must be a file name without a folder",
            self.name
        );
        ensure!(
            self.sha256.len() == 64 && self.sha256.bytes().all(|b| b.is_ascii_hexdigit()),
            "sha256 = {:?} of {}: it must have 64 hexadecimal digits",
            self.sha256,
            self.name
        );
        Ok(())
    }

    /// Whether this file is at `path`; an error if something else is.
    fn is_at(&self, path: &Path) -> Result<bool> {
        let cannot = || format!("cannot read {}", path.display());
        let bytes = match fs::metadata(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            metadata => metadata.with_context(cannot)?.len(),
        };
        let wrong = |what: String| {
            format!(
                "{} is not the file it should be: {what}. It was left as it is; delete it to have it downloaded again",
                path.display()
            )
        };
        ensure!(
            bytes == self.bytes,
            wrong(format!("it has {bytes} bytes instead of {}", self.bytes))
        );
        let found = sha256(&mut File::open(path).with_context(cannot)?).with_context(cannot)?;
        ensure!(
            found.eq_ignore_ascii_case(&self.sha256),
            wrong(format!("its SHA-256 is {found} instead of {}", self.sha256))
        );
        Ok(true)
    }
}

fn sha256(content: &mut impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(content, &mut hasher)?;
    Ok(format!("{:x}", hasher.finalize()))
}
