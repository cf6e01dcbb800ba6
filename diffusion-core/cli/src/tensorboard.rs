//! Event files for TensorBoard: the log of a run and its grids of samples.
//!
//! An event file is a list of records, each a length, a message and their checksums, as in TensorFlow's
//! `record_writer.h`. The messages are in protocol-buffer format, with the fields of TensorFlow's `event.proto` and
//! `summary.proto`.

use anyhow::{Context, Result};
use crc::{CRC_32_ISCSI, Crc};
use diffusion_core::train::{Objective, Step, Training};
use prost::{Message, Oneof};
use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How the names of event files begin; the time in seconds follows. TensorBoard reads them in the order of their names.
const NAME: &str = "events.out.tfevents.";

/// The event file of this session.
pub struct Events {
    path: PathBuf,
    /// `None` after an error.
    file: Option<File>,
    /// The newest grid of samples in it.
    samples: Option<PathBuf>,
}

#[derive(Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    Session(Session),
}

#[derive(Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "Content", tags = "2, 4")]
    content: Option<Content>,
}

#[derive(Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    Scalar(f32),
    #[prost(message, tag = "4")]
    Image(Image),
}

#[derive(Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// The number of channels.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes, tag = "4")]
    encoded: Vec<u8>,
}

#[derive(Message)]
struct Session {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// [`Session::status`]: a session begins, and what an earlier one has written from its step on is void.
const START: i32 = 1;

impl Events {
    /// Begins the event file of a session if `wanted`, or if the run already has event files; deletes those if
    /// `start_over`.
    pub fn begin<O: Objective>(training: &Training<O>, wanted: bool, start_over: bool) -> Result<Option<Self>> {
        let folder = training.folder().context("the training run has no folder")?;
        let mut earlier = event_files(folder)?;
        if start_over {
            for file in earlier.drain(..) {
                fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
            }
        }
        if !wanted && earlier.is_empty() {
            return Ok(None);
        }
        let began = seconds_of(earlier.last()).map_or(0, |last| last.saturating_add(1)).max(now() as u64);
        let path = folder.join(format!("{NAME}{began:010}.diffusion"));
        let mut events = Self { file: None, path, samples: None };
        events.write_start(training, earlier.is_empty()).with_context(|| events.cannot_write())?;
        Ok(Some(events))
    }

    /// Creates the file. The steps of earlier sessions are written to the first one.
    fn write_start<O: Objective>(&mut self, training: &Training<O>, first: bool) -> Result<()> {
        self.file = Some(File::create_new(&self.path)?);
        let history = if first { training.history() } else { &[] };
        let began = now() - history.last().map_or(0.0, |step| step.seconds);
        self.write(began, 0, What::FileVersion("brain.Event:2".to_owned()))?;
        if !first {
            self.write(began, training.report().steps, What::Session(Session { status: START }))?;
        }
        history.iter().try_for_each(|step| self.write_step(began + step.seconds, step))
    }

    /// Adds a step, and the grid of samples if there is a new one. After an error a note says that nothing more is
    /// written, since it is no reason to stop training.
    pub fn step<O: Objective>(&mut self, training: &Training<O>, step: &Step) {
        if self.file.is_none() {
            return;
        }
        if let Err(problem) = self.write_step(now(), step).and_then(|()| self.write_samples(training, step)) {
            self.file = None;
            eprintln!(
                "note: {}: {problem:#}; the training goes on without it, and log.jsonl is complete",
                self.cannot_write()
            );
        }
    }

    fn write_step(&mut self, wall_time: f64, step: &Step) -> Result<()> {
        // TensorBoard shows tags with the same first part side by side.
        let mut scalars = vec![
            ("loss/train", step.loss),
            ("training/lr", step.lr),
            ("training/grad_norm", step.grad_norm),
            ("training/images_per_second", step.images_per_second),
        ];
        scalars.extend(step.validation_loss.map(|loss| ("loss/validation", loss)));
        let value = |(tag, value): (&str, f64)| Value::new(tag, Content::Scalar(value as f32));
        let values = scalars.into_iter().map(value).collect();
        self.write(wall_time, step.index, What::Summary(Summary { values }))
    }

    fn write_samples<O: Objective>(&mut self, training: &Training<O>, step: &Step) -> Result<()> {
        // They are drawn after the last of the steps that a device takes at once.
        let last = training.history().last().is_some_and(|last| last.index == step.index);
        let Some(path) = training.last_samples().filter(|path| last && self.samples.as_ref() != Some(path)) else {
            return Ok(());
        };
        let encoded = fs::read(&path).with_context(|| path.display().to_string())?;
        let image = Image::new(encoded).with_context(|| path.display().to_string())?;
        self.samples = Some(path);
        let values = vec![Value::new("samples", Content::Image(image))];
        self.write(now(), step.index, What::Summary(Summary { values }))
    }

    fn write(&mut self, wall_time: f64, step: usize, what: What) -> Result<()> {
        let event = Event { wall_time, step: i64::try_from(step)?, what: Some(what) };
        match &mut self.file {
            Some(file) => Ok(file.write_all(&record(&event.encode_to_vec()))?),
            None => Ok(()),
        }
    }

    fn cannot_write(&self) -> String {
        format!("cannot write the TensorBoard events {}", self.path.display())
    }
}

impl Value {
    fn new(tag: &str, content: Content) -> Self {
        Self { tag: tag.to_owned(), content: Some(content) }
    }
}

impl Image {
    /// The image in the bytes of a PNG file.
    fn new(encoded: Vec<u8>) -> Result<Self> {
        let reader = png::Decoder::new(Cursor::new(&encoded)).read_info()?;
        let (info, size) = (reader.info(), |side: u32| i32::try_from(side));
        let colorspace = info.color_type.samples() as i32;
        Ok(Self { height: size(info.height)?, width: size(info.width)?, colorspace, encoded })
    }
}

/// A message with its length and their checksums.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), message, &checksum(message)].concat()
}

/// The masked CRC-32C of TensorFlow's records.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    const CASTAGNOLI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CASTAGNOLI.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64())
}

/// The event files of a run, oldest first.
fn event_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot_read = || format!("cannot read {}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot_read)? {
        let path = entry.with_context(cannot_read)?.path();
        if seconds_of(Some(&path)).is_some() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The time in the name of an event file.
fn seconds_of(path: Option<&PathBuf>) -> Option<u64> {
    path?.file_name()?.to_str()?.strip_prefix(NAME)?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion_core::{candle::Device, data::Dataset, train::TrainingConfig, unet::SimpleUNet};

    #[test]
    fn the_bytes_are_those_that_tensorboard_writes() -> Result<()> {
        let golden = include_bytes!("../../../tests/golden/events.tfevents");
        let png = golden.windows(4).position(|bytes| bytes == b"\x89PNG").context("an image")?;
        let image = Image::new(golden[png..golden.len() - 4].to_vec())?;
        let scalar = |tag, value| Value::new(tag, Content::Scalar(value));
        let session = What::Session(Session { status: START });
        let scalars = vec![scalar("loss", 0.1), scalar("validation_loss", 0.0)];
        let images = vec![Value::new("samples", Content::Image(image))];
        let events = [
            (0.5, 0, What::FileVersion("brain.Event:2".to_owned())),
            (0.5, 200, session),
            (1.5, 200, What::Summary(Summary { values: scalars })),
            (2.5, 201, What::Summary(Summary { values: images })),
        ];
        let written = events.map(|(seconds, step, what)| {
            let event = Event { wall_time: 1_700_000_000.0 + seconds, step, what: Some(what) };
            record(&event.encode_to_vec())
        });
        assert_eq!(written.concat(), golden);
        assert!(Image::new(b"no picture".to_vec()).is_err());
        Ok(())
    }
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_does_not_stop_the_training() -> Result<()> {
        let config = TrainingConfig { batch: 4, train_steps: 3, sample_every: 0, ..Default::default() };
        let net = SimpleUNet { channels: 3, base: 4, groups: 2, ..Default::default() };
        let mut training = Training::new(config, net, &Dataset::sprites(8, 1)?, &Device::Cpu)?;
        let full = File::options().write(true).open("/dev/full")?;
        let mut events = Events { path: "/dev/full".into(), file: Some(full), samples: None };
        let report = training.run_with(|training, step| events.step(training, step))?;
        assert_eq!(report.steps, 3);
        assert!(events.file.is_none());
        Ok(())
    }
}
