//! The files of the data sets that are downloaded.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Result, bail};

use super::download::{self, Fetch, RemoteFile};
use super::{Part, cifar};
use crate::progress::{Progress, Unit};

/// The names that [`fetch`] knows.
pub const DOWNLOADS: [&str; 3] = ["mnist", "fashion-mnist", "cifar10"];

/// Makes sure that the files of a data set, one of [`DOWNLOADS`], are in [`download::data_dir`], and returns their paths.
///
/// What is missing is downloaded, with a line now and then that says how far it is.
///
/// # Errors
/// Another name; a file is neither there nor to be had: the message says where to put it by hand.
pub fn fetch(name: &str) -> Result<Vec<PathBuf>> {
    let data_dir = download::data_dir();
    let files = match name {
        "mnist" => download::mnist(),
        "fashion-mnist" => download::fashion_mnist(),
        "cifar10" => {
            let mut files = cifar10(Part::Train, &data_dir)?;
            files.extend(cifar10(Part::Test, &data_dir)?);
            return Ok(files);
        }
        "sprites" => {
            bail!("sprites are drawn, not downloaded: there is nothing to fetch")
        }
        _ => bail!(
            "{name:?} cannot be downloaded; what can: {}",
            DOWNLOADS.join(", ")
        ),
    };
    let dir = data_dir.join(name);
    files.iter().map(|file| locate(file, &dir)).collect()
}

/// The files of a part of CIFAR-10, downloaded and unpacked if need be.
pub(super) fn cifar10(part: Part, data_dir: &Path) -> Result<Vec<PathBuf>> {
    let archive = download::cifar10();
    with_progress(&archive.name, |options| {
        cifar::files(part, data_dir, &archive, options)
    })
}

/// The file in `dir`: unpacked if somebody put it there so, else as distributed, downloaded if need be.
pub(super) fn locate(file: &RemoteFile, dir: &Path) -> Result<PathBuf> {
    let unpacked = dir.join(file.name.trim_end_matches(".gz"));
    if unpacked.is_file() {
        return Ok(unpacked);
    }
    with_progress(&file.name, |options| download::fetch(file, dir, options))
}

/// Runs `download` with options that show how far the file `name` is.
fn with_progress<T>(name: &str, download: impl FnOnce(&mut Fetch) -> Result<T>) -> Result<T> {
    let bar: Rc<RefCell<Option<Progress>>> = Rc::default();
    let (shown, name) = (bar.clone(), name.to_owned());
    let report = move |done: u64, total: u64| {
        let mut bar = shown.borrow_mut();
        bar.get_or_insert_with(|| Progress::new(total, &name).unit(Unit::Bytes))
            .set(done);
    };
    let mut options = Fetch {
        progress: Some(Box::new(report)),
        ..Fetch::default()
    };
    let result = download(&mut options)?;
    if let Some(bar) = bar.borrow_mut().as_mut() {
        bar.finish();
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_downloaded_is_an_error_that_lists_what_can() {
        let message = fetch("imagenet").unwrap_err().to_string();
        assert!(
            message.contains("\"imagenet\"") && message.contains("mnist, fashion-mnist, cifar10")
        );
        assert!(fetch("sprites").unwrap_err().to_string().contains("drawn"));
    }
}
