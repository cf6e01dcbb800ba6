//! PyTorch state dicts in `.pth` files.
//!
//! Such a file is an archive. `data.pkl` describes in Python's pickle format the names of the tensors and their
//! location in the storages; `data/0`, `data/1`, … are the storages, little-endian. The device on which the tensors
//! were saved is recorded, but does not matter here.
//!
//! A pickle is a program that can make Python run arbitrary code. Here it can only describe tensors: [`unpickle`]
//! supports the instructions of state dicts and rejects all others. No memory is allocated before the archive is known
//! to be long enough.

mod unpickle;

use super::Checkpoint;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::Path;
use unpickle::{StateDict, Storage, View};
use zip::{CompressionMethod, ZipArchive};

/// The largest description, longer than that of any network in diffusion-core.
const MAX_PICKLE: u64 = 1 << 26;
/// The prefixes of DataParallel, torch.compile and Lightning.
const WRAPPERS: [&str; 4] = ["module.", "_orig_mod.", "model.", "net."];

impl Checkpoint {
    /// Reads the floating-point tensors of a state dict written by `torch.save(net.state_dict(), path)` with PyTorch
    /// 1.6 or later, on any device. Integers, such as the step counts of batch norms, are skipped.
    ///
    /// In a file with one state dict among other entries, such as
    /// `torch.save({"model": net.state_dict(), "epoch": 3}, path)`, the state dict is used. A prefix `module.`,
    /// `_orig_mod.`, `model.` or `net.` of all names is removed. Both are reported on standard error.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or holds something other than named tensors: the message names it.
    pub fn load_pth(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        read(path).with_context(|| format!("cannot load {}", path.display())).map_err(diffusion_ops::error::whole)
    }
}

fn read(path: &Path) -> Result<Checkpoint> {
    let length = fs::metadata(path)?.len();
    let mut start = Vec::new();
    File::open(path)?.take(32).read_to_end(&mut start)?;
    ensure!(
        !start.starts_with(b"\x80\x02\x8a\x0a"),
        "it is in the format from before PyTorch 1.6; convert it in Python: torch.save(torch.load(path), path)"
    );
    ensure!(
        !start.starts_with(b"version https://git-lfs"),
        "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"
    );
    let Ok(mut archive) = ZipArchive::new(BufReader::new(File::open(path)?)) else {
        bail!(
            "it is not an archive of torch.save from PyTorch 1.6 or later: it is truncated, older, or of another kind"
        )
    };
    let described = archive
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()))
        .find(|name| name == "data.pkl" || name.ends_with("/data.pkl"));
    let Some(described) = described else {
        bail!("there is no data.pkl in the archive: it was not written by torch.save")
    };
    let folder = described.trim_end_matches("data.pkl").to_owned();
    let mut part = |name: &str, most: u64| -> Result<Vec<u8>> {
        let file = archive
            .by_name(&format!("{folder}{name}"))
            .with_context(|| format!("cannot read {name} from the archive"))?;
        ensure!(
            file.compression() == CompressionMethod::Stored && file.size() <= length.min(most),
            "{name} of the archive is compressed, or longer than it can be"
        );
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    if let Ok(order) = part("byteorder", 16) {
        ensure!(order == b"little", "its tensors are big-endian, which is not supported");
    }
    let StateDict { tensors: views, entry } = unpickle::state_dict(&part("data.pkl", MAX_PICKLE)?)?;
    // The prefix that PyTorch wrappers put before every name.
    let prefix = WRAPPERS.iter().filter(|prefix| views.keys().all(|name| name.starts_with(**prefix))).copied().next();
    let taken =
        [entry.map(|entry| format!("the entry {entry:?}")), prefix.map(|prefix| format!("names without {prefix:?}"))];
    let taken: Vec<String> = taken.into_iter().flatten().collect();
    if !taken.is_empty() {
        let _ = writeln!(std::io::stderr(), "{}: using {}", path.display(), taken.join(", "));
    }
    let mut storages: HashMap<String, Vec<u8>> = HashMap::new();
    let mut tensors = HashMap::new();
    for (name, view) in views {
        let Some(dtype) = view.storage.dtype else {
            continue;
        };
        let Storage { key, numbers, .. } = &*view.storage;
        if !storages.contains_key(key) {
            let bytes = part(&format!("data/{key}"), u64::MAX)?;
            storages.insert(key.clone(), bytes);
        }
        let bytes = &storages[key];
        ensure!(
            numbers.checked_mul(dtype.size_in_bytes()) == Some(bytes.len()),
            "{name}: {} bytes are stored, but {numbers} elements are needed",
            bytes.len()
        );
        let tensor = tensor(&view, dtype, bytes).with_context(|| name.clone())?;
        let name = name.strip_prefix(prefix.unwrap_or_default()).unwrap_or(&name);
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(Checkpoint { tensors, metadata: HashMap::new() })
}

/// The elements of a view in row-major order.
fn tensor(view: &View, dtype: DType, bytes: &[u8]) -> Result<Tensor> {
    let View { shape, strides, offset, storage } = view;
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= storage.numbers);
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(*offset, |at, (d, stride)| at.checked_add(d.saturating_sub(1).checked_mul(*stride)?));
    let (Some(count), Some(last), true) = (count, last, shape.len() == strides.len()) else {
        bail!("shape {shape:?} with strides {strides:?} is not part of its storage")
    };
    ensure!(
        count == 0 || last < storage.numbers,
        "shape {shape:?} with strides {strides:?} from {offset} on exceeds its storage of {} elements",
        storage.numbers
    );
    let size = dtype.size_in_bytes();
    let mut numbers = Vec::with_capacity(count * size);
    for i in 0..count {
        let (mut rest, mut at) = (i, *offset);
        for (d, stride) in shape.iter().zip(strides).rev() {
            at += rest % d * stride;
            rest /= d;
        }
        numbers.extend_from_slice(&bytes[at * size..][..size]);
    }
    Ok(Tensor::from_raw_buffer(&numbers, dtype, shape, &Device::Cpu)?)
}
