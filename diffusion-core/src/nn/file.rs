//! Tensors by name, and metadata, in a safetensors file.

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use std::collections::HashMap;
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
            let bytes = safetensors::serialize(tensors, metadata)?;
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
            let Ok(file) = SafeTensors::deserialize(&bytes) else {
                bail!("it is not a complete safetensors file: it is truncated or of another kind")
            };
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
