//! The file in which a download is collected until it is complete.

use std::fs::{self, File, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Fetch, RemoteFile, sha256};

/// `NAME.part`, open and locked.
///
/// It is renamed or emptied but, as long as another process may wait for the lock, not deleted: who gets the lock holds
/// either the file of that name or the finished one.
pub(super) struct Part {
    file: File,
    path: PathBuf,
    len: u64,
}

impl Part {
    /// Opens or creates the file of an unfinished download in the folder `dir`, when no other process works on it.
    pub(super) fn open(remote: &RemoteFile, dir: &Path, options: &mut Fetch) -> Result<Self> {
        let path = dir.join(format!("{}.part", remote.name));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut part = Self { file, path, len: 0 };
        part.lock(remote, options)?;
        part.len = part.on_disk(|file| file.seek(SeekFrom::End(0)))?;
        Ok(part)
    }

    /// Waits until no other process works on the file, as long as that makes progress.
    fn lock(&mut self, remote: &RemoteFile, options: &mut Fetch) -> Result<()> {
        let patience = options.stall.saturating_mul(4);
        let (mut seen, mut since) = (0, Instant::now());
        // Where the file system has no locks, the SHA-256 of the whole must do.
        while let Err(TryLockError::WouldBlock) = self.file.try_lock() {
            let len = self.on_disk(|file| Ok(file.metadata()?.len()))?;
            if len != seen {
                (seen, since) = (len, Instant::now());
                options.report(len, remote.bytes);
            }
            if since.elapsed() > patience {
                bail!(
                    "another process is downloading {} and has made no progress for {patience:?}; stop it and run this again",
                    self.path.display()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// How many bytes are there.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Writes `bytes` behind those that are there.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.on_disk(|file| file.write_all(bytes))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Throws away the bytes that are there.
    pub(super) fn clear(&mut self) -> Result<()> {
        if self.len > 0 {
            self.on_disk(|file| file.set_len(0))?;
            self.on_disk(|file| file.rewind())?;
            self.len = 0;
        }
        Ok(())
    }

    /// Whether all of `remote` is there. What is as long or longer, but has another SHA-256, is thrown away.
    pub(super) fn is_complete(&mut self, remote: &RemoteFile) -> Result<bool> {
        if self.len < remote.bytes {
            return Ok(false);
        }
        let found = self.on_disk(|file| {
            file.rewind()?;
            sha256(file)
        })?;
        let complete = found.eq_ignore_ascii_case(&remote.sha256);
        if !complete {
            self.clear()?;
        }
        Ok(complete)
    }

    /// Gives the file its final name.
    pub(super) fn finish(mut self, path: PathBuf) -> Result<PathBuf> {
        self.on_disk(|file| file.sync_all())?;
        fs::rename(&self.path, &path).with_context(|| {
            format!(
                "cannot rename {} to {}",
                self.path.display(),
                path.display()
            )
        })?;
        Ok(path)
    }

    /// Deletes the file, for which there is no use once the finished one is there.
    pub(super) fn discard(self) {
        let _ = fs::remove_file(self.path);
    }

    fn on_disk<T>(&mut self, action: impl FnOnce(&mut File) -> std::io::Result<T>) -> Result<T> {
        action(&mut self.file).with_context(|| format!("cannot write {}", self.path.display()))
    }
}
