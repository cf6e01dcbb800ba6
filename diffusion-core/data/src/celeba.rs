//! CelebA: 202,599 photographs of faces with forty attributes.
//!
//! Ziwei Liu, Ping Luo, Xiaogang Wang and Xiaoou Tang, *Deep Learning Face Attributes in the Wild*, ICCV 2015,
//! [arXiv:1411.7766](https://arxiv.org/abs/1411.7766). It is for non-commercial research only and cannot be downloaded
//! automatically.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::download::data_dir;
use super::folder::{Found, Image};
use super::resize::{Fit, check_side};
use super::{Dataset, Split};

/// The default side: the central square of a picture has 178×178 pixels.
pub(super) const SIDE: usize = 64;

/// The name of the data set and of its folder in [`data_dir`].
pub(super) const NAME: &str = "celeba";

const PICTURES: &str = "img_align_celeba";
const ATTRIBUTES: &str = "list_attr_celeba.txt";
const PARTITIONS: &str = "list_eval_partition.txt";

impl Dataset {
    /// CelebA: photographs of faces, RGB, of which the central square is resized to `side` pixels (1 … 1024), with forty
    /// attributes ([`Dataset::attribute_names`]) of 1 or −1, and the one class `face`.
    ///
    /// The files must be in `celeba` in [`data_dir`]. The official partition has 162,770 training images and 19,962 test
    /// images; its 19,867 validation images are not used. All images of the split are decoded into memory;
    /// [`Source::load_both_cached`](super::Source::load_both_cached) keeps them in a file instead.
    ///
    /// # Errors
    /// `side` is out of range. A file is missing: the message says where to get it. A list is damaged: the message names
    /// the line. A picture cannot be decoded.
    pub fn celeba(split: Split, side: usize) -> Result<Self> {
        check_side(side)?;
        let mut found = found(&data_dir().join(NAME))?;
        found.images.retain(|image| image.held_out == (split == Split::Test));
        found.images.iter_mut().for_each(|image| image.held_out = false);
        Ok(found.load(Some(side), Fit::Crop, false, None)?.0)
    }
}

/// The three files or folders, if all are there.
pub(super) fn files(folder: &Path) -> Result<[PathBuf; 3]> {
    let files = [PICTURES, ATTRIBUTES, PARTITIONS].map(|name| folder.join(name));
    let there = [files[0].is_dir(), files[1].is_file(), files[2].is_file()];
    let missing: Vec<&str> = [PICTURES, ATTRIBUTES, PARTITIONS]
        .into_iter()
        .zip(there)
        .filter(|(_, there)| !there)
        .map(|(name, _)| name)
        .collect();
    ensure!(
        missing.is_empty(),
        "CelebA: {} does not contain {}. It cannot be downloaded automatically, because its terms must be accepted. \
         Get img_align_celeba.zip (Align&Cropped Images), {ATTRIBUTES} and {PARTITIONS} from \
         https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpack the archive, and put the folder {PICTURES} and both lists \
         into {}",
        folder.display(),
        missing.join(", "),
        std::path::absolute(folder).unwrap_or(folder.to_owned()).display()
    );
    Ok(files)
}

/// Finds the pictures of the training set, then those of the test set, in the order of the list of attributes.
pub(super) fn found(folder: &Path) -> Result<Found> {
    find(folder).map_err(diffusion_ops::error::whole)
}

fn find(folder: &Path) -> Result<Found> {
    let [pictures, attributes, partitions] = files(folder)?;
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let (attribute_names, rows) = rows(&read(&attributes)?).with_context(|| attributes.display().to_string())?;
    let partition_list = read(&partitions)?;
    let partition_of = partition(&partition_list).with_context(|| partitions.display().to_string())?;
    let cannot = || format!("cannot read the folder {}", pictures.display());
    let entries = fs::read_dir(&pictures).with_context(cannot)?;
    let names: HashSet<OsString> =
        entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>().with_context(cannot)?;
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for Row { line, name, values } in rows {
        let partition = partition_of.get(name.as_str()).with_context(|| {
            format!("{} has no line for {name}, which is in line {line} of {ATTRIBUTES}", partitions.display())
        })?;
        let to = match partition {
            Partition::Train => &mut train,
            Partition::Test => &mut test,
            Partition::Validation => continue,
        };
        ensure!(
            names.contains(&OsString::from(&name)),
            "{}, line {line}: there is no picture {name} in {}; unpack img_align_celeba.zip again",
            attributes.display(),
            pictures.display()
        );
        let held_out = *partition == Partition::Test;
        to.push(Image { path: pictures.join(name), class: 0, caption: None, attributes: values, held_out });
    }
    for (split, images, number) in [("training", &train, 0), ("test", &test, 2)] {
        ensure!(!images.is_empty(), "{}: no image is in partition {number}, the {split} set", partitions.display());
    }
    train.append(&mut test);
    Ok(Found {
        name: NAME.to_owned(),
        folder: pictures,
        classes: vec!["face".to_owned()],
        images: train,
        attributes: attribute_names,
        skipped: 0,
    })
}

/// A line of the list of attributes.
struct Row {
    /// Its number, from 1.
    line: usize,
    /// The name of the file.
    name: String,
    /// −1 or 1 for each attribute.
    values: Vec<i8>,
}

/// The lines that are not empty, with their numbers from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty())
}

/// Reads the list of attributes: the number of images, the names of the attributes, and a line for each image.
fn rows(text: &str) -> Result<(Vec<String>, Vec<Row>)> {
    let mut lines = lines(text);
    let (line, first) = lines.next().context("the list is empty")?;
    let count: usize = first.trim().parse().ok().with_context(|| {
        format!(
            "line {line}: it must be the number of images, as in the official list, but it is {:?}",
            shortened(first)
        )
    })?;
    let (line, names) = lines.next().context("the line with the names of the attributes is missing")?;
    let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    ensure!(
        names.iter().all(|name| !matches!(name.as_str(), "1" | "-1")),
        "line {line}: the names of the attributes must be here, not their values"
    );
    let mut known = HashSet::new();
    if let Some(name) = names.iter().find(|name| !known.insert(name.as_str())) {
        bail!("line {line}: the attribute {name} is named twice")
    }
    let mut rows = Vec::new();
    for (line, text) in lines {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        is_file_name(name).with_context(|| format!("line {line}"))?;
        let value = |word: &str| match word {
            "1" => Ok(1),
            "-1" => Ok(-1),
            _ => bail!("line {line}: {name} has the value {:?}; it must be 1 or -1", shortened(word)),
        };
        let values = words.map(value).collect::<Result<Vec<i8>>>()?;
        ensure!(
            values.len() == names.len(),
            "line {line}: {name} has {} values, but there are {} attributes",
            values.len(),
            names.len()
        );
        rows.push(Row { line, name: name.to_owned(), values });
    }
    ensure!(
        rows.len() == count,
        "line 1 says that there are {count} images, but the list has {}; copy or download it again",
        rows.len()
    );
    Ok((names, rows))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Partition {
    Train,
    Validation,
    Test,
}

/// Reads the partition of each image.
fn partition(text: &str) -> Result<HashMap<&str, Partition>> {
    lines(text)
        .map(|(line, text)| {
            let words: Vec<&str> = text.split_whitespace().collect();
            let partition = match words[..] {
                [_, "0"] => Partition::Train,
                [_, "1"] => Partition::Validation,
                [_, "2"] => Partition::Test,
                _ => bail!(
                    "line {line}: it is {:?}, but must be a file name and its partition: 0 (training), 1 (validation) or 2 \
                     (test)",
                    shortened(text)
                ),
            };
            Ok((words[0], partition))
        })
        .collect()
}

fn is_file_name(name: &str) -> Result<()> {
    let plain = Path::new(name).file_name().is_some_and(|it| it == name);
    ensure!(plain, "it must begin with the name of a file, not {:?}", shortened(name));
    Ok(())
}

/// The beginning of a text, for messages.
fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests;
