//! The files of the data sets that are downloaded.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::download::{self, Fetch, RemoteFile, data_dir, known};
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

/// The file in `dir`, as distributed, downloaded if need be; or as people have it: unpacked, packed again, with a dot in its name,
/// in the folders of torchvision (`MNIST/raw`) or Kaggle. Those are known by the SHA-256 of what is unpacked.
pub(super) fn locate(file: &RemoteFile, dir: &Path) -> Result<PathBuf> {
    let distributed = dir.join(&file.name);
    let unpacked = known::unpacked(&file.sha256);
    let mut others = Vec::new();
    for path in places(&file.name, dir).into_iter().filter(|path| path.is_file()) {
        if path == distributed && fs::metadata(&path)?.len() == file.bytes {
            return download(file, dir);
        }
        match unpacked {
            Some(unpacked) if sha256_of_unpacked(&path).is_ok_and(|found| found == unpacked) => return Ok(path),
            _ => others.push(path),
        }
    }
    // What has its name but another content would be in the way of the download.
    others.retain(|path| *path == distributed);
    if let [other] = &others[..] {
        bail!(
            "{}: its content is not that of {} as it is distributed, nor of the same file packed otherwise: remove it, and it is \
             downloaded again",
            other.display(),
            file.name
        )
    }
    download(file, dir)
}

/// Where a file may be, the distributed one last.
fn places(name: &str, dir: &Path) -> Vec<PathBuf> {
    let plain = name.trim_end_matches(".gz");
    let dotted = plain.replace("-idx", ".idx");
    let folders = [dir.to_owned(), dir.join("raw"), dir.join("MNIST/raw"), dir.join("FashionMNIST/raw")];
    let mut places: Vec<PathBuf> =
        folders.iter().flat_map(|folder| [plain, &dotted].map(|name| folder.join(name))).collect();
    places.extend([plain, &dotted].map(|name| dir.join(name).join(name)));
    places.extend(folders.iter().flat_map(|folder| [plain, &dotted].map(|name| folder.join(format!("{name}.gz")))));
    places.sort_by_key(|path| *path == dir.join(name));
    places
}

/// Of a file's content, without gzip if that is around it.
fn sha256_of_unpacked(path: &Path) -> std::io::Result<String> {
    let mut reader = BufReader::new(fs::File::open(path)?);
    let mut hasher = Sha256::new();
    if reader.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        // Further than the largest of these files nothing is unpacked.
        std::io::copy(&mut MultiGzDecoder::new(reader).take(1 << 26), &mut hasher)?;
    } else {
        std::io::copy(&mut reader.take(1 << 26), &mut hasher)?;
    }
    Ok(format!("{:x}", hasher.finalize()))
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

    /// Its content decides, wherever it is and whatever it is called.
    #[test]
    fn a_file_is_found_however_it_was_unpacked() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let content = b"labels of ten thousand digits";
        let sha256 = format!("{:x}", Sha256::digest(content));
        let of = |path: PathBuf| sha256_of_unpacked(&path).ok();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, content)?;
        let packed = packed.finish()?;
        let names = places("t10k-labels-idx1-ubyte.gz", dir.path());
        for wanted in [
            "t10k-labels-idx1-ubyte",
            "t10k-labels.idx1-ubyte",
            "MNIST/raw/t10k-labels-idx1-ubyte",
            "t10k-labels-idx1-ubyte/t10k-labels-idx1-ubyte",
            "t10k-labels.idx1-ubyte/t10k-labels.idx1-ubyte",
            "raw/t10k-labels-idx1-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
        ] {
            assert!(names.contains(&dir.path().join(wanted)), "{wanted}");
        }
        for bytes in [&content[..], &packed] {
            fs::write(dir.path().join("x"), bytes)?;
            assert_eq!(of(dir.path().join("x")).as_ref(), Some(&sha256));
        }
        fs::write(dir.path().join("x"), &packed[..20])?;
        assert!(of(dir.path().join("x")).is_none_or(|found| found != sha256));
        // Nobody's download is written over.
        let file = RemoteFile {
            name: "t10k-labels-idx1-ubyte.gz".to_owned(),
            urls: Vec::new(),
            sha256: "0".repeat(64),
            bytes: 4_542,
        };
        fs::write(dir.path().join(&file.name), "another file")?;
        let message = locate(&file, dir.path()).unwrap_err().to_string();
        assert!(message.contains("its content is not that of t10k-labels"), "{message}");
        Ok(())
    }

    #[test]
    fn what_cannot_be_downloaded_is_an_error_that_lists_what_can() {
        let message = fetch("imagenet").unwrap_err().to_string();
        assert!(message.contains("\"imagenet\"") && message.contains("mnist, fashion-mnist, cifar10"));
        assert!(fetch("sprites").unwrap_err().to_string().contains("drawn"));
    }
}
