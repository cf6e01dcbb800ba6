//! Decoded pictures in a file, so that they are decoded only once and need not fit into memory.
//!
//! The file holds the pixels of all images, (N, C, H, W), then [`Contents`] as JSON, its length (8 bytes), the CRC-32 of
//! everything before (4 bytes), and [`MAGIC`]. Numbers are little-endian. A file that was not written to its end has no
//! such ending.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Cursor, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Error, Result, ensure};
use diffusion_ops::error::{message, whole};
use flate2::Crc;
use serde::{Deserialize, Serialize};

use super::pixels::Pixels;
use super::resize::Fit;

/// The last bytes of the file, with the version of its format.
const MAGIC: &[u8; 8] = b"IMAGES-1";
/// The number of bytes after the JSON.
const ENDING: u64 = 8 + 4 + 8;
/// The largest JSON that is read: a message for each file that cannot be used.
const MAX_JSON: u64 = 1 << 28;

const UNREADABLE: &str = "it cannot be read";
const DAMAGED: &str = "it is damaged";

/// The decoded pictures of a folder in a file, for [`Source::load_both_cached`](super::Source::load_both_cached).
///
/// The file is written when the pictures are decoded for the first time, and read afterwards. It is written again if it
/// is damaged, if the names, lengths or modification times of the pictures have changed, or if another side or fit is
/// wanted. It can be deleted whenever no program uses it.
///
/// ```
/// use diffusion_core::data::Cache;
/// let cache = Cache::in_folder("runs/photos");
/// assert_eq!(cache.path, std::path::Path::new("runs/photos/images.cache"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// The file.
    pub path: PathBuf,
    /// The largest number of bytes of pixels that are loaded into memory. More stay in the file, from which the images
    /// of each batch are read. The images are the same either way. Default 64 MiB.
    pub in_memory: u64,
    /// Whether a file of other pictures is replaced. Otherwise it is kept, and the pictures are decoded into memory.
    /// Default true.
    pub replace: bool,
}

impl Cache {
    /// The file `images.cache` in a folder, such as that of a run.
    pub fn in_folder(folder: impl AsRef<Path>) -> Self {
        Self { path: folder.as_ref().join("images.cache"), in_memory: 64 << 20, replace: true }
    }

    /// The pixels of the pictures that `key` identifies, from the file, or else from `decode`, which writes them into
    /// the file at this path.
    pub(super) fn pixels(&self, key: Key, skip_bad: bool, decode: &Decode) -> Result<(Pixels, Decoded)> {
        let (file, decoded) = match self.open(&key, skip_bad) {
            Ok(Some(there)) => there,
            Err(Unusable::Other(reason)) if !self.replace => {
                say(&format!(
                    "{}: {reason}; it is kept, and the pictures are decoded into memory",
                    self.path.display()
                ));
                return in_memory(decode);
            }
            missing => {
                if let Err(Unusable::Damaged(reason) | Unusable::Other(reason)) = missing {
                    say(&format!("{}: {reason}; the pictures are decoded again", self.path.display()));
                }
                match Part::create(&self.path) {
                    Ok((part, file)) => self.write(&part, file, key, decode)?,
                    Err(problem) => {
                        let at = self.path.display();
                        say(&format!("note: cannot create {at}: {problem}; the pictures are decoded into memory"));
                        return in_memory(decode);
                    }
                }
            }
        };
        if decoded.bytes().is_none_or(|bytes| bytes > self.in_memory) {
            return Ok((Pixels::File(Arc::new(file), (0..decoded.images).collect()), decoded));
        }
        let mut pixels = vec![0; decoded.bytes().unwrap_or(0) as usize];
        file.read(0, &mut pixels)?;
        Ok((Pixels::U8(pixels.into()), decoded))
    }

    /// Opens the file, if there is one.
    fn open(&self, key: &Key, skip_bad: bool) -> Result<Option<(PixelFile, Decoded)>, Unusable> {
        let mut file = match File::open(&self.path) {
            Err(problem) if problem.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.context(UNREADABLE).map_err(Unusable::damaged)?,
        };
        let Ending { contents, crc, length } = Ending::read(&mut file).map_err(Unusable::damaged)?;
        let Contents { key: known, decoded } = contents;
        let other = |reason: String| Err(Unusable::Other(reason));
        if (known.side, known.fit) != (key.side, key.fit) {
            return other(format!(
                "its images were made with another side or fit ({}; now {})",
                known.words(),
                key.words()
            ));
        }
        if known.files != key.files {
            return other("the picture files have changed since it was written".to_owned());
        }
        if !skip_bad && !decoded.skipped.is_empty() {
            return other("it leaves out files that cannot be read".to_owned());
        }
        let found = crc_of(&mut file, length).context(UNREADABLE).map_err(Unusable::damaged)?;
        if found != crc {
            return Err(Unusable::Damaged(DAMAGED.to_owned()));
        }
        Ok(Some((PixelFile { file, path: self.path.clone() }, decoded)))
    }

    /// Decodes the pictures into `file`, the part, and renames it when it is complete.
    fn write(&self, part: &Part, mut file: File, key: Key, decode: &Decode) -> Result<(PixelFile, Decoded)> {
        let decoded = decode(&mut file, Some(&self.path))?;
        let contents = Contents { key, decoded };
        let json = serde_json::to_vec(&contents)?;
        let finish = || -> io::Result<File> {
            let json_start = file.seek(SeekFrom::End(0))?;
            file.write_all(&json)?;
            let crc = crc_of(&mut file, json_start + json.len() as u64)?;
            file.write_all(&[&(json.len() as u64).to_le_bytes()[..], &crc.to_le_bytes(), MAGIC].concat())?;
            // A full disk may be reported only now.
            file.sync_all()?;
            fs::rename(&part.0, &self.path)?;
            Ok(file)
        };
        let file = finish().with_context(|| cannot_write(&self.path, contents.decoded.bytes())).map_err(whole)?;
        Ok((PixelFile { file, path: self.path.clone() }, contents.decoded))
    }
}

/// What decodes all pictures, with the path of the file for messages, if it writes into one.
pub(super) type Decode<'a> = dyn Fn(&mut dyn Storage, Option<&Path>) -> Result<Decoded> + 'a;

/// A file, or memory that is used like one.
pub(super) trait Storage: Read + Write + Seek {}

impl<T: Read + Write + Seek> Storage for T {}

/// What the images of a cache were made from, and how.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Key {
    /// The SHA-256 of the names, lengths and modification times of the files.
    pub(super) files: String,
    pub(super) side: Option<usize>,
    pub(super) fit: Fit,
}

impl Key {
    fn words(&self) -> String {
        let side = self.side.map_or_else(|| "none".to_owned(), |side| side.to_string());
        format!("side {side}, {:?}", self.fit).to_lowercase()
    }
}

/// What was decoded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Decoded {
    pub(super) images: usize,
    /// (C, H, W).
    pub(super) shape: [usize; 3],
    /// The files that could not be used, by their place in the list of files, each with the reason.
    pub(super) skipped: Vec<(usize, String)>,
}

impl Decoded {
    /// The number of bytes of all pixels.
    fn bytes(&self) -> Option<u64> {
        self.shape.iter().try_fold(self.images as u64, |bytes, n| bytes.checked_mul(*n as u64))
    }
}

#[derive(Serialize, Deserialize)]
struct Contents {
    key: Key,
    decoded: Decoded,
}

/// Why a file is not used.
#[derive(Debug)]
enum Unusable {
    Damaged(String),
    /// It is of other pictures, or of the same ones in another form.
    Other(String),
}

impl Unusable {
    fn damaged(problem: Error) -> Self {
        Self::Damaged(message(&problem))
    }
}

/// What a file contains besides the pixels.
struct Ending {
    contents: Contents,
    /// The CRC-32 of the first `length` bytes.
    crc: u32,
    length: u64,
}

impl Ending {
    fn read(file: &mut File) -> Result<Self> {
        const CUT_OFF: &str = "it is truncated, or was written by another version of this program";
        let length = file.metadata().context(UNREADABLE)?.len();
        let mut read = |from: u64, length: u64| -> Result<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(length)?];
            file.seek(SeekFrom::Start(from)).and_then(|_| file.read_exact(&mut bytes)).context(UNREADABLE)?;
            Ok(bytes)
        };
        let length = length.checked_sub(ENDING).context(CUT_OFF)?;
        let ending = read(length, ENDING)?;
        let (json, rest) = ending.split_first_chunk().context(CUT_OFF)?;
        let (crc, magic) = rest.split_first_chunk().context(CUT_OFF)?;
        ensure!(magic == MAGIC, CUT_OFF);
        let json = u64::from_le_bytes(*json);
        let pixels = length.checked_sub(json).filter(|_| json <= MAX_JSON).context(DAMAGED)?;
        let contents: Contents = serde_json::from_slice(&read(pixels, json)?).ok().context(DAMAGED)?;
        ensure!(contents.decoded.bytes() == Some(pixels), DAMAGED);
        Ok(Self { contents, crc: u32::from_le_bytes(*crc), length })
    }
}

/// Decodes into memory.
pub(super) fn in_memory(decode: &Decode) -> Result<(Pixels, Decoded)> {
    let mut pixels = Cursor::new(Vec::new());
    let decoded = decode(&mut pixels, None)?;
    Ok((Pixels::U8(pixels.into_inner().into()), decoded))
}

/// The beginning of the message if the file cannot be written.
pub(super) fn cannot_write(path: &Path, bytes: Option<u64>) -> String {
    let size = bytes.map_or_else(String::new, |bytes| format!(", {:.0} MB,", bytes as f64 / 1e6));
    format!("cannot write the decoded pictures{size} to {}; free disk space, or choose another folder", path.display())
}

/// The images of a cache.
#[derive(Debug)]
pub(super) struct PixelFile {
    file: File,
    path: PathBuf,
}

impl PixelFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the pixels of the image at a place. The file's own position is not used, so threads can read at once.
    pub(super) fn read(&self, place: usize, image: &mut [u8]) -> Result<()> {
        let at = place as u64 * image.len() as u64;
        read_at(&self.file, image, at)
            .with_context(|| format!("cannot read {}; run it again to decode the pictures again", self.path.display()))
            .map_err(whole)
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, at) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => (bytes, at) = (&mut bytes[n..], at + n as u64),
            Err(problem) if problem.kind() == ErrorKind::Interrupted => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(())
}

/// The CRC-32 of the first bytes of a file, which is left at their end.
fn crc_of(file: &mut File, length: u64) -> io::Result<u32> {
    let (mut crc, mut left) = (Crc::new(), length);
    let mut buffer = vec![0; 1 << 20];
    file.rewind()?;
    while left > 0 {
        let some = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..some])?;
        crc.update(&buffer[..some]);
        left -= some as u64;
    }
    Ok(crc.sum())
}

/// The path of an unfinished file, which is removed in the end unless it was renamed.
struct Part(PathBuf);

impl Part {
    /// Creates a file beside `path`. It is locked until its process ends, so that others see that it is in use.
    fn create(path: &Path) -> io::Result<(Self, File)> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".");
        remove_abandoned(folder, &name);
        let mut own: OsString = name;
        own.push(format!("{}.part", std::process::id()));
        let own = folder.join(own);
        let file = File::options().read(true).write(true).create_new(true).open(&own)?;
        // Some network file systems do not support locks. Then nobody removes an abandoned part.
        let _ = file.try_lock();
        Ok((Self(own), file))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes the parts of processes that ended while they decoded.
fn remove_abandoned(folder: &Path, beginning: &std::ffi::OsStr) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let is_part = name.starts_with(beginning.as_encoded_bytes()) && name.ends_with(b".part");
        let abandoned = || File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if is_part && abandoned() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Prints a line on standard error.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests;
