//! `diffusion train --tensorboard`: what TensorBoard reads is the log of the run, also after it has been resumed.

use crate::{CONFIG, succeeds, words};
use anyhow::{Context, Result, ensure};
use crc::{CRC_32_ISCSI, Crc};
use diffusion_core::train::Step;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The numbers and contents of a message's fields; numbers are little-endian.
fn fields(mut bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>> {
    fn varint(bytes: &mut &[u8]) -> Result<u64> {
        let length = 1 + bytes.iter().position(|byte| byte & 0x80 == 0).context("the end of a number")?;
        let (number, rest) = bytes.split_at(length);
        *bytes = rest;
        Ok(number.iter().rev().fold(0, |sum, byte| sum << 7 | u64::from(byte & 0x7f)))
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let content = match key & 7 {
            0 => varint(&mut bytes)?.to_le_bytes().to_vec(),
            kind => {
                let length = match kind {
                    1 => 8,
                    2 => usize::try_from(varint(&mut bytes)?)?,
                    5 => 4,
                    other => anyhow::bail!("a field of type {other}"),
                };
                ensure!(length <= bytes.len(), "a field is cut off");
                let (content, rest) = bytes.split_at(length);
                bytes = rest;
                content.to_vec()
            }
        };
        found.push((key >> 3, content));
    }
    Ok(found)
}

fn field(fields: &[(u64, Vec<u8>)], number: u64) -> Option<&[u8]> {
    fields.iter().find(|(n, _)| *n == number).map(|(_, content)| &content[..])
}

/// The messages of an event file, after a check of the sums.
fn messages(path: &Path) -> Result<Vec<Vec<u8>>> {
    let check = |bytes: &[u8], sum: &[u8]| -> Result<()> {
        let crc = Crc::<u32>::new(&CRC_32_ISCSI).checksum(bytes);
        let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
        ensure!(masked.to_le_bytes() == sum, "a wrong checksum");
        Ok(())
    };
    let (file, mut at, mut found) = (fs::read(path)?, 0, Vec::new());
    while at < file.len() {
        let length = usize::try_from(u64::from_le_bytes(file[at..at + 8].try_into()?))?;
        check(&file[at..at + 8], &file[at + 8..at + 12])?;
        let message = &file[at + 12..at + 12 + length];
        check(message, &file[at + 12 + length..at + 16 + length])?;
        found.push(message.to_vec());
        at += 16 + length;
    }
    Ok(found)
}

fn event_files(run: &Path) -> Result<Vec<PathBuf>> {
    let all = fs::read_dir(run)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut events: Vec<_> = all.into_iter().filter(|path| path.to_string_lossy().contains("tfevents")).collect();
    events.sort();
    Ok(events)
}

/// What TensorBoard shows of a run: values by tag and step. The start of a session voids later steps of the sessions before.
#[derive(Default)]
struct Shown {
    scalars: BTreeMap<(String, u64), f32>,
    images: BTreeMap<u64, Vec<u8>>,
    times: Vec<f64>,
    starts: Vec<u64>,
}

fn shown(run: &Path) -> Result<Shown> {
    let mut shown = Shown::default();
    for path in event_files(run)? {
        for (i, message) in messages(&path)?.iter().enumerate() {
            let event = fields(message)?;
            let number = |n| field(&event, n).map_or(Ok([0; 8]), <[u8; 8]>::try_from);
            let step = u64::from_le_bytes(number(2)?);
            shown.times.push(f64::from_le_bytes(number(1)?));
            assert_eq!(field(&event, 3).is_some(), i == 0, "{}", path.display());
            if let Some(session) = field(&event, 7) {
                assert_eq!(fields(session)?, [(1, 1u64.to_le_bytes().to_vec())]);
                shown.scalars.retain(|(_, at), _| *at < step);
                shown.images.retain(|at, _| *at < step);
                shown.starts.push(step);
            }
            for (_, value) in field(&event, 5).map_or(Ok(Vec::new()), fields)? {
                let value = fields(&value)?;
                let tag = String::from_utf8(field(&value, 1).context("a tag")?.to_vec())?;
                if let Some(scalar) = field(&value, 2) {
                    let known = shown.scalars.insert((tag, step), f32::from_le_bytes(scalar.try_into()?));
                    assert!(known.is_none(), "step {step} is there twice");
                } else {
                    assert_eq!(tag, "samples");
                    let image = fields(field(&value, 4).context("an image")?)?;
                    shown.images.insert(step, field(&image, 4).context("a picture")?.to_vec());
                }
            }
        }
    }
    Ok(shown)
}

/// The same by the log.
fn logged(run: &Path) -> Result<BTreeMap<(String, u64), f32>> {
    let mut scalars = BTreeMap::new();
    for line in fs::read_to_string(run.join("log.jsonl"))?.lines() {
        let step: Step = serde_json::from_str(line)?;
        let json: serde_json::Value = serde_json::from_str(line)?;
        for (tag, key) in [
            ("loss/train", "loss"),
            ("loss/validation", "validation_loss"),
            ("training/lr", "lr"),
            ("training/grad_norm", "grad_norm"),
            ("training/images_per_second", "images_per_second"),
        ] {
            if let Some(value) = json[key].as_f64() {
                scalars.insert((tag.to_owned(), step.index as u64), value as f32);
            }
        }
    }
    Ok(scalars)
}

#[test]
fn tensorboard_shows_the_log_also_of_a_resumed_run() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let at = |name: &str| temp.path().join(name);
    let samples = "sample_every = 1\nsample_steps = 2\nsample_share = 1.0\nsamples = 4";
    fs::write(at("run.toml"), CONFIG.replace("sample_every = 0", samples))?;
    let begin = "train --config run.toml --device cpu --epochs 2 --validate-every 3 --out my_run";
    let said = succeeds(&format!("{begin} --tensorboard"), temp.path())?;
    for wants in
        ["held out: 6 images; validation loss every 3 steps", "tensorboard --logdir my_run", ", validation loss "]
    {
        assert!(said.contains(wants), "{said:?} lacks {wants:?}");
    }
    let run = at("my_run");
    assert_eq!(shown(&run)?.scalars, logged(&run)?);

    // Interrupted before the last checkpoint, and resumed without the flag.
    fs::remove_file(run.join("checkpoints/step-000000016.safetensors"))?;
    succeeds("train --resume my_run --device cpu --epochs 4", temp.path())?;
    let all = shown(&run)?;
    assert_eq!((event_files(&run)?.len(), &all.starts[..]), (2, &[15][..]));
    assert_eq!(all.scalars, logged(&run)?);
    let of = |tag: &str| all.scalars.keys().filter(|(t, _)| t == tag).map(|(_, step)| *step).collect::<Vec<_>>();
    assert_eq!(of("loss/train"), Vec::from_iter(0..32));
    assert_eq!(of("loss/validation"), [2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 31]);
    assert!(all.times.is_sorted(), "{:?}", all.times);
    assert_eq!(Vec::from_iter(all.images.keys().copied()), [7, 15, 23, 31]);
    for (epoch, image) in all.images.values().enumerate() {
        assert!(fs::read(run.join(format!("samples/epoch-{:04}.png", epoch + 1)))? == *image, "{epoch}");
    }

    // Started over without it, and added to a run that is there already.
    let said = succeeds(&format!("{begin} --start-over"), temp.path())?;
    assert!(event_files(&run)?.is_empty() && !said.contains("tensorboard"), "{said}");
    succeeds("train --resume my_run --device cpu --tensorboard", temp.path())?;
    assert_eq!(shown(&run)?.scalars, logged(&run)?);
    assert_eq!((shown(&run)?.scalars.len(), shown(&run)?.starts.len()), (4 * 16 + 6, 0));
    Ok(())
}

/// A run whose validation loss is turned off has none anywhere.
#[test]
fn the_validation_loss_can_be_turned_off() -> Result<()> {
    let temp = tempfile::tempdir()?;
    fs::write(temp.path().join("run.toml"), CONFIG)?;
    let off = "train --config run.toml --device cpu --epochs 1 --validate-every 0 --out run";
    let said = succeeds(off, temp.path())?;
    assert!(said.contains("held out: 6 images; no validation loss") && !said.contains(", validation"), "{said}");
    assert!(!fs::read_to_string(temp.path().join("run/log.jsonl"))?.contains("validation_loss"));
    assert!(fs::read_to_string(temp.path().join("run/config.toml"))?.contains("validate_every = 0"));
    let mut wrong = crate::diffusion(&["train", "--validate-every", "often"], temp.path());
    let said = words(&wrong.output()?);
    assert!(said.contains("--validate-every"), "{said}");
    Ok(())
}
