//! A lock that allows only one program at a time in the folder of a run.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The lock's file in the folder. The operating system releases the lock when the process ends, however it ends.
const FILE: &str = "lock";

/// The lock, held as long as this value exists.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

/// The locks of this process. A notebook cell that is run again opens the folder while its first training still exists.
static HELD: Mutex<Vec<Weak<Lock>>> = Mutex::new(Vec::new());

impl Lock {
    /// Locks an existing folder.
    pub(super) fn of(folder: &Path) -> Result<Arc<Self>> {
        let path = fs::canonicalize(folder)?.join(FILE);
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|lock| lock.strong_count() > 0);
        if let Some(lock) = held.iter().filter_map(Weak::upgrade).find(|lock| lock.path == path) {
            return Ok(lock);
        }
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                write!(file, "process {}", std::process::id())?;
            }
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                let holder = if holder.is_empty() { "another program" } else { &holder };
                bail!("{holder} is training in it: wait until it ends, or use another folder")
            }
            // Some network file systems do not support locks.
            Err(TryLockError::Error(_)) => {}
        }
        let lock = Arc::new(Self { path, _file: file });
        held.push(Arc::downgrade(&lock));
        Ok(lock)
    }
}
