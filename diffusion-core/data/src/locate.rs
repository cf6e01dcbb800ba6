//! Locating the files of downloaded data sets.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::celeba;
use super::download::{self, Fetch, RemoteFile, data_dir, known};
use diffusion_show::progress::{Progress, Unit};

/// The names that [`fetch`] accepts.
pub const DOWNLOADS: [&str; 3] = ["mnist", "fashion-mnist", "cifar10"];

/// Ensures that the files of a data set, one of [`DOWNLOADS`], are in [`data_dir`], and returns their paths.
///
/// Missing files are downloaded, with a progress line.
///
/// # Errors
/// The name is unknown, or a file neither exists nor can be downloaded: the message says where to put it by hand.
pub fn fetch(name: &str) -> Result<Vec<PathBuf>> {
    let files = match name {
        "mnist" => download::mnist(),
        "fashion-mnist" => download::fashion_mnist(),
        "cifar10" => return Ok(vec![download(&download::cifar10(), &data_dir())?]),
        // Its files are only looked for.
        celeba::NAME => return Ok(celeba::files(&data_dir().join(name))?.into()),
        "sprites" => bail!("sprites are drawn, not downloaded, so there is nothing to fetch"),
        _ => bail!("{name:?} cannot be downloaded; possible names: {}", DOWNLOADS.join(", ")),
    };
    let dir = data_dir().join(name);
    files.iter().map(|file| locate(file, &dir)).collect()
}

/// Finds the file in `dir`, or downloads it. Besides the distributed file it accepts unpacked or repacked ones, with a
/// dot in the name, and in the folders of torchvision (`MNIST/raw`) or Kaggle. These are recognised by the SHA-256 of
/// the unpacked content.
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
    // A file with the right name but different content would block the download.
    others.retain(|path| *path == distributed);
    if let [other] = &others[..] {
        bail!(
            "{}: its content is not that of {}, neither as distributed nor unpacked or repacked; remove it to \
             download the file again",
            other.display(),
            file.name
        )
    }
    download(file, dir)
}

/// The places where a file may be, the distributed one last.
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

/// The SHA-256 of a file's content, unpacked if it is gzip.
fn sha256_of_unpacked(path: &Path) -> std::io::Result<String> {
    let mut reader = BufReader::new(fs::File::open(path)?);
    let mut hasher = Sha256::new();
    if reader.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        // Unpacks no more than the size of the largest of these files.
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

    /// Files are recognised by content, wherever they are and whatever they are called.
    #[test]
    fn a_file_is_found_packed_or_unpacked() -> Result<()> {
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
        // A user's own download is not overwritten.
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
    fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
        let message = fetch("imagenet").unwrap_err().to_string();
        assert!(message.contains("\"imagenet\"") && message.contains("mnist, fashion-mnist, cifar10"));
        assert!(fetch("sprites").unwrap_err().to_string().contains("drawn"));
    }
}
