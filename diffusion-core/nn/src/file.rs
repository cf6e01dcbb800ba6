//! Named tensors and metadata in a safetensors file.

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The tensors and the metadata of a safetensors file, on the CPU.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// The tensors.
    pub tensors: HashMap<String, Tensor>,
    /// The file's `__metadata__`.
    pub metadata: HashMap<String, String>,
}

impl Checkpoint {
    /// Writes the file under a temporary name first, so that an existing file stays intact until the new one is
    /// complete.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let write = || {
            // safetensors requires contiguous tensors.
            let tensors: Vec<(&String, Tensor)> = self
                .tensors
                .iter()
                .map(|(name, tensor)| {
                    let tensor = tensor.detach().to_device(&Device::Cpu)?.contiguous()?;
                    candle_core::Result::Ok((name, tensor))
                })
                .collect::<candle_core::Result<_>>()?;
            let metadata = (!self.metadata.is_empty()).then(|| self.metadata.clone());
            let bytes = in_order(&safetensors::serialize(tensors, metadata)?)?;
            write_whole(path.as_ref(), &bytes)
        };
        write()
            .with_context(|| format!("cannot write {}", path.as_ref().display()))
            .map_err(diffusion_ops::error::whole)
    }

    /// Reads a file of [`Checkpoint::save`], or any other safetensors file.
    ///
    /// # Errors
    /// The file cannot be read or is damaged: the message names it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let read = || {
            let bytes = fs::read(path.as_ref())?;
            // Everything is validated before any of it is used.
            let Ok(file) = SafeTensors::deserialize(&bytes) else { bail!("{}", what_it_is(&bytes)) };
            drop(file);
            let (_, header) = SafeTensors::read_metadata(&bytes)?;
            Ok(Self {
                tensors: candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?,
                metadata: header.metadata().clone().unwrap_or_default(),
            })
        };
        read().with_context(|| format!("cannot load {}", path.as_ref().display())).map_err(diffusion_ops::error::whole)
    }
}

/// Describes a file that is not a safetensors file, and what to do about it.
fn what_it_is(bytes: &[u8]) -> &'static str {
    let starts = |with: &[u8]| bytes.starts_with(with);
    if bytes.is_empty() {
        "it is empty"
    } else if starts(b"version https://git-lfs") {
        "it is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`"
    } else if starts(b"PK\x03\x04") || starts(b"\x80\x02") {
        "it is a file of PyTorch's torch.save, which does not record the noise process and prediction type; load its \
         weights with Network::load_pth"
    } else if starts(b"\x89HDF") {
        "it is an HDF5 file, as written by Keras, which is not supported"
    } else if starts(b"<") {
        "it is a web page, perhaps an error message downloaded in place of the file"
    } else {
        "it is not a complete safetensors file: it is truncated or of another kind"
    }
}

/// Sorts the keys in the header of a safetensors file; otherwise the order of the metadata would vary, and identical
/// training runs must write identical files.
fn in_order(file: &[u8]) -> Result<Vec<u8>> {
    let (length, rest) = file.split_first_chunk::<8>().context("a header")?;
    let (header, data) = rest.split_at_checked(u64::from_le_bytes(*length) as usize).context("a header")?;
    let header: BTreeMap<String, BTreeMap<String, serde_json::Value>> = serde_json::from_slice(header)?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes(), &header[..], data].concat())
}

/// Writes a file atomically: a crash at any time leaves either the old or the new one, complete.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut unfinished = OsString::from(path);
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    Ok(())
}
