//! Tensors by name, and metadata, in a safetensors file.

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
    /// Writes the file under another name first, so that one that was there stays whole until the new one is.
    ///
    /// # Errors
    /// The file cannot be written: the message names it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let write = || {
            // Only contiguous tensors can be written.
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
        write().with_context(|| format!("cannot write {}", path.as_ref().display())).map_err(crate::whole)
    }

    /// Reads a file of [`Checkpoint::save`], or any other of its kind.
    ///
    /// # Errors
    /// The file cannot be read or is damaged: the message names it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let read = || {
            let bytes = fs::read(path.as_ref())?;
            // Looked at in full before anything is believed.
            let Ok(file) = SafeTensors::deserialize(&bytes) else { bail!("{}", what_it_is(&bytes)) };
            drop(file);
            let (_, header) = SafeTensors::read_metadata(&bytes)?;
            Ok(Self {
                tensors: candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?,
                metadata: header.metadata().clone().unwrap_or_default(),
            })
        };
        read().with_context(|| format!("cannot load {}", path.as_ref().display())).map_err(crate::whole)
    }
}

/// What a file that is no safetensors file is instead, and what can be done about it.
fn what_it_is(bytes: &[u8]) -> &'static str {
    let starts = |with: &[u8]| bytes.starts_with(with);
    if bytes.is_empty() {
        "it is empty"
    } else if starts(b"version https://git-lfs") {
        "it is a pointer of git-lfs, not the file itself; `git lfs pull` fetches it"
    } else if starts(b"PK\x03\x04") || starts(b"\x80\x02") {
        "it is a file of PyTorch's torch.save. What a model was trained for is not in it; of its weights, Network::load_pth makes a \
         network whose architecture you name, and in Python: safetensors.torch.save_file(net.state_dict(), \"weights.safetensors\")"
    } else if starts(b"\x89HDF") {
        "it is an HDF5 file, as Keras writes them, which is not read"
    } else if starts(b"<") {
        "it is a web page, perhaps an error message that was downloaded in place of the file"
    } else {
        "it is not a complete safetensors file: it is truncated or of another kind"
    }
}

/// A safetensors file with the keys of its header in alphabetical order: those of the metadata come in any, and equal trainings
/// are to write equal files.
fn in_order(file: &[u8]) -> Result<Vec<u8>> {
    let (length, rest) = file.split_first_chunk::<8>().context("a header")?;
    let (header, data) = rest.split_at_checked(u64::from_le_bytes(*length) as usize).context("a header")?;
    let header: BTreeMap<String, BTreeMap<String, serde_json::Value>> = serde_json::from_slice(header)?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes(), &header[..], data].concat())
}

/// Writes a file so that a crash at any time leaves either the old or the new one, whole.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut unfinished = OsString::from(path);
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    Ok(())
}
