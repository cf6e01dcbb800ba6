//! What a folder contains.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The file extensions of images.
const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "bmp", "gif", "webp"];

/// The visible entries of a folder in alphabetical order.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) images: Vec<PathBuf>,
    pub(super) folders: Vec<PathBuf>,
    /// Texts with the name of an image.
    pub(super) texts: HashSet<PathBuf>,
    /// `metadata.jsonl`, if it is there.
    pub(super) metadata: Option<PathBuf>,
    /// The number of other entries.
    pub(super) others: usize,
}

impl Listing {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read the folder {}", path.display());
        let mut it = Self::default();
        for entry in fs::read_dir(path).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            if path.is_dir() {
                it.folders.push(path);
            } else if path.is_file() && is_named_as_image(&path) {
                it.images.push(path);
            } else if path.is_file() && path.extension().is_some_and(|it| it == "txt") {
                it.texts.insert(path);
            } else if path.is_file() && entry.file_name() == "metadata.jsonl" {
                it.metadata = Some(path);
            } else {
                it.others += 1;
            }
        }
        it.images.sort();
        it.folders.sort();
        let texts = it.texts.len();
        let of_images: HashSet<PathBuf> = it.images.iter().map(|image| image.with_extension("txt")).collect();
        it.texts.retain(|text| of_images.contains(text));
        it.others += texts - it.texts.len();
        Ok(it)
    }
}

fn is_named_as_image(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    EXTENSIONS.iter().any(|e| extension.eq_ignore_ascii_case(e))
}
