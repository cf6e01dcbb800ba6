//! The files of the data sets that are downloaded.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::download::{self, Fetch, RemoteFile, data_dir};
use diffusion_show::progress::{Progress, Unit};

/// The names that [`fetch`] knows.
pub const DOWNLOADS: [&str; 3] = ["mnist", "fashion-mnist", "cifar10"];

/// Makes sure that the files of a data set, one of [`DOWNLOADS`], are in [`data_dir`], and returns their paths.
///
/// Missing files are downloaded, with a progress line.
///
/// # Errors
/// Another name; a file is neither there nor can it be downloaded: the message says where to put it by hand.
pub fn fetch(name: &str) -> Result<Vec<PathBuf>> {
    let files = match name {
        "mnist" => download::mnist(),
        "fashion-mnist" => download::fashion_mnist(),
        "cifar10" => return Ok(vec![download(&download::cifar10(), &data_dir())?]),
        "sprites" => bail!("sprites are drawn, not downloaded: there is nothing to fetch"),
        _ => bail!("{name:?} cannot be downloaded; possible names: {}", DOWNLOADS.join(", ")),
    };
    let dir = data_dir().join(name);
    files.iter().map(|file| locate(file, &dir)).collect()
}

/// The file in `dir`: unpacked if somebody put it there so, else as distributed, downloaded if need be.
pub(super) fn locate(file: &RemoteFile, dir: &Path) -> Result<PathBuf> {
    let unpacked = dir.join(file.name.trim_end_matches(".gz"));
    if unpacked.is_file() {
        return Ok(unpacked);
    }
    download(file, dir)
}

/// [`download::fetch`] with a progress bar.
pub(super) fn download(file: &RemoteFile, dir: &Path) -> Result<PathBuf> {
    let (mut bar, name) = (None, file.name.clone());
    let report = move |done: u64, total: u64| {
        let bar = bar.get_or_insert_with(|| Progress::new(total, &name).unit(Unit::Bytes));
        bar.set(done);
        if done == total {
            bar.finish();
        }
    };
    let mut options = Fetch { progress: Some(Box::new(report)), ..Fetch::default() };
    download::fetch(file, dir, &mut options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_downloaded_is_an_error_that_lists_what_can() {
        let message = fetch("imagenet").unwrap_err().to_string();
        assert!(message.contains("\"imagenet\"") && message.contains("mnist, fashion-mnist, cifar10"));
        assert!(fetch("sprites").unwrap_err().to_string().contains("drawn"));
    }
}
