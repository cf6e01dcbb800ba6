//! One program at a time in the folder of a run.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Its file in the folder. The lock is the system's: it ends with the process, however that ends.
const FILE: &str = "lock";

/// Held for as long as this exists.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

/// Those of this process. A notebook's cell that is run again opens the folder while its first training is still there.
static HELD: Mutex<Vec<Weak<Lock>>> = Mutex::new(Vec::new());

impl Lock {
    /// The lock of a folder that exists.
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
                bail!("{holder} is training in it: wait until that has ended, or give this run another folder")
            }
            // Some network file systems have no locks.
            Err(TryLockError::Error(_)) => {}
        }
        let lock = Arc::new(Self { path, _file: file });
        held.push(Arc::downgrade(&lock));
        Ok(lock)
    }
}
