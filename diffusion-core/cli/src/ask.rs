//! What `diffusion sample` and `diffusion compare` are asked for: a model, images, conditions.

use crate::card;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use diffusion_core::candle::Tensor;
use diffusion_core::device::{Choice, Precision};
use diffusion_core::guidance::Guidance;
use diffusion_core::model::Model;
use diffusion_core::unet::Condition;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Ask {
    /// The model: weights/NAME.safetensors, model.safetensors in the folder of a run, or a folder of Hugging Face's diffusers
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// How many images [default: one for each of --class; else 64 for sample, 10 for compare, 10000 for evaluate]
    #[arg(long)]
    n: Option<usize>,
    /// Which classes, by number or name, in turn: 7,7,3; the option may be given again, for names with a comma
    #[arg(long, conflicts_with = "context")]
    class: Vec<String>,
    /// A context for all images, one number for each class: 1,0,0.6,0,0
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    context: Vec<f32>,
    /// w of classifier-free guidance: 1 is the plain conditional model, 0 the unconditional one
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    guidance: f64,
    /// The seed of the noise
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    pub device: Choice,
    /// What it computes with: f32, or on an NVIDIA GPU also tf32 or bf16
    #[arg(long, default_value_t)]
    precision: Precision,
}

/// `1 image`, `2 images`.
pub fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:".contains(c);
    match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A model and what it is to draw.
pub struct Asked {
    pub model: Model,
    pub n: usize,
    pub guidance: Guidance,
    /// How many classes come in turn.
    pub turn: usize,
    /// What all that is, for the reader.
    pub words: String,
    /// Whether it knows the names of its data and classes: a folder of diffusers does not hold them.
    pub names_known: bool,
}

impl Asked {
    /// What the Hub calls what the model does.
    pub fn task(&self) -> &'static str {
        card::task(&self.model)
    }

    /// The class that each image is to show, if each shows one.
    pub fn labels(&self) -> Result<Option<Vec<u32>>> {
        let [(_, condition)] = &self.guidance.towards[..] else {
            return Ok(None);
        };
        Ok(match (&condition.labels, &condition.context) {
            (Some(labels), _) => {
                let number = |label: &Option<usize>| label.map(|label| label as u32);
                labels.iter().map(number).collect()
            }
            (None, Some(rows)) => {
                let rows = rows.to_vec2::<f32>()?;
                let one = |row: &Vec<f32>| {
                    let class = row.iter().position(|x| *x == 1.0)?;
                    let alone = row.iter().filter(|x| **x != 0.0).count() == 1;
                    alone.then_some(class as u32)
                };
                rows.iter().map(one).collect()
            }
            _ => None,
        })
    }
}

impl Ask {
    /// The folder in which the model lies.
    pub fn folder(&self) -> Option<&Path> {
        let path = self.checkpoint.as_deref()?;
        Some(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// Loads the model; `usual` images if nothing says how many.
    pub fn load(&self, usual: usize) -> Result<Asked> {
        let path = self
            .checkpoint
            .as_ref()
            .context("--checkpoint is needed: weights/NAME.safetensors, or model.safetensors in the folder of a run")?;
        let mut model = Model::load(path, &crate::device(self.device)?).context("--checkpoint")?;
        model.network.set_precision(self.precision);
        let architecture = model.network.architecture();
        ensure!(
            architecture.low_res() == 0,
            "--checkpoint {}: this model enlarges images ×{}; it must be shown a small one, which this command cannot do. \
             `Condition::low_res` in Rust shows it one: see notebooks/09_super_resolution.ipynb",
            path.display(),
            architecture.low_res()
        );
        let asked = self.classes(&model);
        let turn = if asked.is_empty() { classes_of(&model) } else { asked.len() };
        let several = if asked.is_empty() { usual } else { asked.len() };
        let n = self.n.unwrap_or(several);
        ensure!(n > 0, "--n 0: at least one image is needed");
        model.ensure_room(n).with_context(|| format!("--n {n}"))?;
        let (classes, k) = (architecture.classes(), architecture.context());
        let (condition, words) = if !asked.is_empty() {
            ensure!(classes > 0 || k > 0, "--class: {} is unconditional; it knows no classes", path.display());
            let labels = asked.iter().map(|word| self.label(word, &model));
            let labels = labels.collect::<Result<Vec<_>>>()?;
            let names: Vec<String> = labels.iter().map(|label| name(&model, *label)).collect();
            let turns = || (0..n).map(|i| labels[i % labels.len()]);
            let condition = match classes {
                0 => one_hot(turns(), k, &model)?,
                _ => Condition::labels(turns()),
            };
            (condition, format!("classes {}", names.join(", ")))
        } else if !self.context.is_empty() {
            ensure!(
                k > 0,
                "--context: {} takes none{}",
                path.display(),
                if classes > 0 { "; it takes --class" } else { "" }
            );
            ensure!(
                self.context.len() == k,
                "--context: {} numbers were given; it takes {k}: {}",
                self.context.len(),
                model.info.classes.join(", ")
            );
            ensure!(self.context.iter().all(|value| value.is_finite()), "--context: its numbers must be finite");
            let rows = self.context.repeat(n);
            let rows = Tensor::from_vec(rows, (n, k), model.network.device())?;
            (Condition::context(rows), format!("context {:?}", self.context))
        } else {
            let words = match classes + k {
                0 => "unconditional",
                _ => "all classes in turn",
            };
            (model.conditions(n)?, words.to_owned())
        };
        ensure!(self.guidance.is_finite(), "--guidance {}: it must be a number", self.guidance);
        ensure!(
            self.guidance == 1.0 || classes + k > 0,
            "--guidance {}: {} is unconditional; there is nothing to guide to",
            self.guidance,
            path.display()
        );
        let words = match self.guidance {
            1.0 => words,
            w => format!("{words}, guidance {w}"),
        };
        Ok(Asked {
            guidance: Guidance::new(condition, self.guidance),
            model,
            n,
            turn,
            words,
            names_known: !path.is_dir(),
        })
    }

    /// The classes asked for, one by one: lists are taken apart at their commas, unless all of it is the name of a class.
    fn classes(&self, model: &Model) -> Vec<String> {
        let whole = |text: &String| model.info.classes.iter().any(|name| name == text.trim());
        let parts = |text: &String| -> Vec<String> {
            match whole(text) {
                true => vec![text.trim().to_owned()],
                false => text.split(',').map(|part| part.trim().to_owned()).collect(),
            }
        };
        self.class.iter().flat_map(parts).collect()
    }

    fn label(&self, word: &str, model: &Model) -> Result<usize> {
        let names = &model.info.classes;
        let most = classes_of(model);
        let found = names.iter().position(|name| name == word);
        match found.or_else(|| word.parse().ok()) {
            Some(label) if label < most => Ok(label),
            _ => bail!("--class {word}: there is no such class; there are 0 … {}: {}", most - 1, names.join(", ")),
        }
    }
}

/// How many classes the model knows.
fn classes_of(model: &Model) -> usize {
    let architecture = model.network.architecture();
    architecture.classes().max(architecture.context())
}

fn name(model: &Model, label: usize) -> String {
    let name = model.info.classes.get(label).cloned();
    name.unwrap_or_else(|| label.to_string())
}

fn one_hot(labels: impl Iterator<Item = usize>, k: usize, model: &Model) -> Result<Condition> {
    let mut rows = Vec::new();
    for label in labels {
        rows.extend((0..k).map(|i| f32::from(i == label)));
    }
    let n = rows.len() / k;
    let rows = Tensor::from_vec(rows, (n, k), model.network.device())?;
    Ok(Condition::context(rows))
}
