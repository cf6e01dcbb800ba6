//! Downloads of known files: from several mirrors, resumed after an interruption, verified by length and SHA-256.
//!
//! ```no_run
//! use diffusion_core::data::download::{Fetch, data_dir, fetch, mnist};
//! for file in mnist() {
//!     println!("{}", fetch(&file, &data_dir().join("mnist"), &mut Fetch::default())?.display());
//! }
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! The data is written to `NAME.part`, which is renamed when it is complete and its SHA-256 is correct. The file is
//! locked during the download: a second process waits for the first, and the operating system releases the lock of a
//! process that crashed. The proxy in `ALL_PROXY`, `HTTPS_PROXY` or `HTTP_PROXY` is used, except for servers on this
//! computer.

pub(crate) mod known;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};
use ureq::http::{StatusCode, Uri, header};
use ureq::{Agent, Error, Timeout};

pub use known::{cifar10, fashion_mnist, mnist};

/// The timeout for connecting to a server.
const CONNECT: Duration = Duration::from_secs(15);

/// A file with known content, and where to download it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// The file name on disk, without a folder.
    pub name: String,
    /// The addresses, in the order of the attempts.
    pub urls: Vec<String>,
    /// The SHA-256 of the content, 64 hexadecimal digits.
    pub sha256: String,
    /// The length of the content in bytes.
    pub bytes: u64,
}

/// Options of a download.
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
    /// Called often, with (bytes received, bytes of the file). The first number decreases if a download starts over. It
    /// is not called if the file already exists. Default none.
    pub progress: Option<Box<dyn FnMut(u64, u64)>>,
    /// The timeout for receiving data on a connection; above 0. Default 30 s.
    pub stall: Duration,
    /// How often an interrupted download is resumed from the same address. Default 4.
    pub retries: u32,
}

impl Default for Fetch {
    fn default() -> Self {
        Self { progress: None, stall: Duration::from_secs(30), retries: 4 }
    }
}

/// The folder for downloaded data: `DIFFUSION_DATA` if set, otherwise `data` in the project around the current folder.
pub fn data_dir() -> PathBuf {
    data_dir_from(env::var_os("DIFFUSION_DATA"), &env::current_dir().unwrap_or_else(|_| PathBuf::from(".")))
}

/// [`data_dir`] for a given value of the variable and a given current folder.
///
/// The project is the nearest folder, from `current` upwards, that contains `Cargo.toml` and `diffusion-core`. Without
/// a project it is `data` in `current`. An empty `variable` counts as unset.
pub fn data_dir_from(variable: Option<OsString>, current: &Path) -> PathBuf {
    if let Some(dir) = variable.filter(|value| !value.is_empty()) {
        return dir.into();
    }
    let is_project = |dir: &&Path| dir.join("Cargo.toml").is_file() && dir.join("diffusion-core").is_dir();
    let project = current.ancestors().find(is_project);
    project.unwrap_or(current).join("data")
}

/// Ensures that `file` is in the folder `dir`, and returns its path.
///
/// A file with the right length and SHA-256 is used as it is. Otherwise the addresses are tried in turn. Bytes received
/// before an interruption are kept for the next address and the next call.
///
/// # Errors
/// There is a different file with that name (it is left unchanged; the message says what to do); `dir` cannot be
/// written to; or no address has the file. Then the message lists the failure at each address, where to put the file by
/// hand, and how to continue without it.
pub fn fetch(file: &RemoteFile, dir: &Path, options: &mut Fetch) -> Result<PathBuf> {
    fetch_checked(file, dir, options).map_err(diffusion_ops::error::whole)
}

fn fetch_checked(file: &RemoteFile, dir: &Path, options: &mut Fetch) -> Result<PathBuf> {
    ensure!(
        Path::new(&file.name).file_name() == Some(file.name.as_ref()),
        "name = {:?} must be a file name without a folder",
        file.name
    );
    let path = dir.join(&file.name);
    if file.is_at(&path)? {
        return Ok(path);
    }
    fs::create_dir_all(dir).with_context(|| {
        let dir = dir.display();
        format!("cannot create the folder {dir} for {}", file.name)
    })?;
    let mut part = Part::open(dir.join(format!("{}.part", file.name)))?;
    if file.is_at(&path)? {
        // Another process finished the download while this one waited for the lock.
        let _ = fs::remove_file(&part.path);
        return Ok(path);
    }
    if part.is_complete(file)? {
        return part.finish(path);
    }
    let mut failures = String::new();
    for url in &file.urls {
        let mut reason = String::new();
        for _ in 0..=options.retries {
            let before = part.len;
            match transfer(url, file, &mut part, options) {
                Ok(()) if part.is_complete(file)? => return part.finish(path),
                Ok(()) => reason = "the download is complete, but its SHA-256 is wrong".to_owned(),
                Err(error) => reason = diffusion_ops::error::message(&error),
            }
            // If nothing was received and nothing discarded, another attempt would fail in the same way.
            if part.len == before {
                break;
            }
        }
        failures += &format!("\n  {url}: {reason}");
    }
    let kept = match part.len {
        0 => String::new(),
        n => format!("{n} of {} bytes were received and kept; run it again to continue.\n", file.bytes),
    };
    bail!(
        "cannot download {}:{failures}\n{kept}You can put the file there by hand: {} ({} bytes, SHA-256 {}).\n\
         To go on without it, use the built-in images, the sprites: they need no download.",
        file.name,
        std::path::absolute(&path).unwrap_or(path).display(),
        file.bytes,
        file.sha256
    )
}

/// Requests the bytes that are missing in `part`.
fn transfer(url: &str, file: &RemoteFile, part: &mut Part, options: &mut Fetch) -> Result<()> {
    const HTML: &str = "the server sent an HTML page instead of the file, perhaps the login page of a network";
    let stall = options.stall;
    let mut request = agent(url, stall).get(url);
    if part.len > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", part.len));
    }
    let mut response = request.call().map_err(|error| explain(error, stall))?;
    let text = |name: header::HeaderName| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::to_ascii_lowercase)
    };
    let is_page = text(header::CONTENT_TYPE).is_some_and(|it| it.starts_with("text/html"));
    let (start, total) = match response.status() {
        StatusCode::OK => (0, response.body().content_length()),
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            // `bytes 100-199/200`, if the rest from byte 100 on was requested.
            let range = text(header::CONTENT_RANGE).unwrap_or_default();
            let rest = range.strip_prefix(&format!("bytes {}-", part.len));
            let Some((_, total)) = rest.and_then(|rest| rest.split_once('/')) else {
                part.clear()?;
                bail!("the server cannot resume the download")
            };
            (part.len, total.parse().ok())
        }
        status => bail!("the server returned HTTP {status}"),
    };
    ensure!(!is_page, HTML);
    let total = total.unwrap_or(file.bytes);
    ensure!(total == file.bytes, "the server has a different file: {total} bytes instead of {}", file.bytes);

    let mut body = response.body_mut().as_reader().take(total - start);
    let mut chunk = vec![0; 1 << 16];
    let mut done = start;
    loop {
        if let Some(progress) = &mut options.progress {
            progress(done, total);
        }
        let n = body.read(&mut chunk).map_err(|error| explain(error.into(), stall))?;
        if n == 0 {
            break;
        }
        if done == 0 {
            ensure!(!is_html(&chunk[..n]), HTML);
            part.clear()?;
        }
        part.append(&chunk[..n])?;
        done += n as u64;
    }
    ensure!(done == total, "the connection ended after {done} of {total} bytes");
    Ok(())
}

fn agent(url: &str, stall: Duration) -> Agent {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(stall))
        .timeout_per_write(Some(stall))
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        // Offsets and SHA-256 refer to the stored file, so it must not be compressed.
        .accept_encoding("identity");
    let uri: Option<Uri> = url.parse().ok();
    if let Some("localhost" | "127.0.0.1" | "[::1]") = uri.as_ref().and_then(Uri::host) {
        config = config.proxy(None);
    }
    config.build().new_agent()
}

/// Explains a connection error.
fn explain(error: Error, stall: Duration) -> anyhow::Error {
    match error {
        Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            anyhow!("no connection within {CONNECT:?}")
        }
        Error::Timeout(_) => anyhow!("the server sent nothing for {stall:?}"),
        Error::HostNotFound => anyhow!("the host was not found; check that this computer is online"),
        Error::Io(error) => anyhow!("the connection failed: {error}"),
        other => other.into(),
    }
}

/// Whether `start`, the first bytes of a file, belong to an HTML page.
pub(super) fn is_html(start: &[u8]) -> bool {
    let start = start.trim_ascii_start();
    ["<!doctype html", "<html"].iter().any(|tag| {
        let head = start.get(..tag.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(tag.as_bytes()))
    })
}

impl RemoteFile {
    /// Whether this file is at `path`; fails if there is a different one.
    fn is_at(&self, path: &Path) -> Result<bool> {
        let cannot = || format!("cannot read {}", path.display());
        let bytes = match fs::metadata(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            metadata => metadata.with_context(cannot)?.len(),
        };
        let mut wrong = format!("it has {bytes} bytes instead of {}", self.bytes);
        if bytes == self.bytes {
            let found = sha256(&mut File::open(path).with_context(cannot)?).with_context(cannot)?;
            if found.eq_ignore_ascii_case(&self.sha256) {
                return Ok(true);
            }
            wrong = format!("its SHA-256 is {found} instead of {}", self.sha256);
        }
        bail!(
            "{} is not the expected file: {wrong}. It was left unchanged; delete it to download it again",
            path.display()
        )
    }
}

fn sha256(content: &mut impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(content, &mut hasher)?;
    Ok(format!("{:x}", hasher.finalize()))
}

/// `NAME.part`, opened and locked.
///
/// While another process may be waiting for the lock, the file is renamed or emptied but not deleted. Whoever gets the
/// lock then holds either the unfinished or the finished file.
struct Part {
    file: File,
    path: PathBuf,
    len: u64,
}

impl Part {
    fn open(path: PathBuf) -> Result<Self> {
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let cannot = || format!("cannot write {}", path.display());
        let mut file = options.open(&path).with_context(cannot)?;
        // On a file system without locks, the SHA-256 must suffice.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let _ = writeln!(std::io::stderr(), "{}: waiting for another download", path.display());
            file.lock().with_context(cannot)?;
        }
        let len = file.seek(SeekFrom::End(0)).with_context(cannot)?;
        Ok(Self { file, path, len })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.on_disk(|file| file.write_all(bytes))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        if self.len > 0 {
            self.on_disk(|file| file.set_len(0).and_then(|()| file.rewind()))?;
            self.len = 0;
        }
        Ok(())
    }

    /// Whether the file is complete. A file of full length with a wrong SHA-256 is emptied.
    fn is_complete(&mut self, remote: &RemoteFile) -> Result<bool> {
        if self.len < remote.bytes {
            return Ok(false);
        }
        let found = self.on_disk(|file| file.rewind().and_then(|()| sha256(file)))?;
        let complete = found.eq_ignore_ascii_case(&remote.sha256);
        if !complete {
            self.clear()?;
        }
        Ok(complete)
    }

    /// Renames the file to its final name.
    fn finish(mut self, path: PathBuf) -> Result<PathBuf> {
        self.on_disk(|file| file.sync_all())?;
        fs::rename(&self.path, &path).with_context(|| format!("cannot rename {}", self.path.display()))?;
        Ok(path)
    }

    fn on_disk<T>(&mut self, action: impl FnOnce(&mut File) -> io::Result<T>) -> Result<T> {
        action(&mut self.file).with_context(|| format!("cannot write {}", self.path.display()))
    }
}
