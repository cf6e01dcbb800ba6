//! The options that `diffusion sample`, `compare`, `evaluate`, `inpaint`, `upscale` and `vary` share: the model and the condition.

mod context;

use crate::card;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use diffusion_core::candle::Tensor;
use diffusion_core::device::{Choice, Precision};
use diffusion_core::guidance::Guidance;
use diffusion_core::latent::Vae;
use diffusion_core::model::Model;
use diffusion_core::unet::{Condition, ConditionPart};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct ModelOptions {
    /// The model: a file such as weights/mnist.safetensors, or a folder saved by Hugging Face diffusers
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// The classes of the images, as numbers or names, repeated in turn: 7,7,3. Repeat the option for a name that contains a comma
    #[arg(long, conflicts_with_all = ["context", "prompt", "prompts"])]
    class: Vec<String>,
    /// The context of all images: values by name, the others 0, as in Smiling=1,Eyeglasses=-1, or one number for each class or
    /// attribute, as in 1,0,0.6,0,0
    #[arg(long, allow_hyphen_values = true, conflicts_with_all = ["prompt", "prompts"])]
    context: Vec<String>,
    /// The text that the images of a text model should show: "a red dragon with blue wings". Repeat the option for several texts,
    /// which are used in turn
    #[arg(long)]
    prompt: Vec<String>,
    /// A file with a text in each line
    #[arg(long, conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
    /// A text to guide away from, in place of no text; it needs a --guidance other than 1
    #[arg(long)]
    negative: Option<String>,
    /// The scale w of classifier-free guidance: 1 is the plain conditional model, 0 the unconditional one
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    guidance: f64,
    /// The random seed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The device: auto, cpu, cuda or metal
    #[arg(long, default_value = "auto")]
    pub device: Choice,
    /// The precision: f32; on an NVIDIA GPU also tf32 or bf16
    #[arg(long, default_value_t)]
    precision: Precision,
}

/// `1 image`, `2 images`.
pub fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A path, quoted for the shell where necessary.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:".contains(c);
    match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A model, loaded, and the images to sample from it.
pub struct Request {
    pub model: Model,
    pub n: usize,
    pub guidance: Guidance,
    /// The number of classes that are repeated in turn.
    pub turn: usize,
    /// The condition and the guidance in words.
    pub words: String,
    /// Only the guidance, with a comma before it.
    guided: String,
    /// Whether the model names its data set and classes; a diffusers folder does not.
    pub names_known: bool,
}

impl Request {
    /// Conditions the images on captions in turn; `words` says which.
    pub fn caption(&mut self, captions: &[String], words: &str) -> Result<()> {
        let vocabulary = self.model.info.vocabulary.as_ref().context("the model reads no text")?;
        let condition = Condition::tokens(vocabulary.known(captions.iter().cycle().take(self.n)));
        self.words = format!("{words}{}", self.guided);
        self.guidance.towards = vec![(1.0, condition)];
        Ok(())
    }

    /// The model's task as the Hugging Face Hub calls it.
    pub fn task(&self) -> &'static str {
        card::task(&self.model)
    }

    /// The class of each image, if every image is conditioned on exactly one.
    pub fn labels(&self) -> Result<Option<Vec<u32>>> {
        let [(_, condition)] = &self.guidance.towards[..] else {
            return Ok(None);
        };
        let attributes = !self.model.info.context.is_empty();
        Ok(match (&condition.labels, &condition.context) {
            (_, Some(_)) if attributes => None,
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

/// The condition if no flag names one.
#[derive(Clone, Copy)]
pub enum Usual {
    AllClasses,
    NoCondition,
}

impl ModelOptions {
    /// The folder that contains the model.
    pub fn folder(&self) -> Option<&Path> {
        let path = self.checkpoint.as_deref()?;
        Some(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    fn path(&self) -> Result<&Path> {
        self.checkpoint.as_deref().context(
            "--checkpoint is missing: name a model such as weights/mnist.safetensors or runs/mnist/model.safetensors",
        )
    }

    /// Loads the model.
    pub fn open(&self) -> Result<Model> {
        let mut model = Model::load(self.path()?, &crate::device(self.device)?).context("--checkpoint")?;
        model.network.set_precision(self.precision);
        Ok(model)
    }

    /// The autoencoder, if --checkpoint names the file of one.
    pub fn autoencoder(&self) -> Result<Option<Vae>> {
        match &self.checkpoint {
            Some(path) if path.is_file() && Vae::is_in(path) => {
                Ok(Some(Vae::load(path, &crate::device(self.device)?).context("--checkpoint")?))
            }
            _ => Ok(None),
        }
    }

    /// Loads a model that samples from noise. Without `n` and --class, `usual` images are requested.
    pub fn load(&self, n: Option<usize>, usual: usize) -> Result<Request> {
        let model = self.open()?;
        let low_res = model.network.architecture().low_res();
        ensure!(
            low_res == 0,
            "--checkpoint {}: this super-resolution model enlarges images ×{low_res}; `diffusion upscale` uses it",
            self.path()?.display()
        );
        let requested = self.classes(&model).len().max(self.texts()?.len());
        self.request(model, n.unwrap_or(if requested > 0 { requested } else { usual }), Usual::AllClasses)
    }

    /// Whether it is left to the command what the images show.
    pub fn leaves_open(&self) -> bool {
        self.class.is_empty() && self.context.is_empty() && self.prompt.is_empty() && self.prompts.is_none()
    }

    /// The texts of --prompt or of the lines of --prompts.
    fn texts(&self) -> Result<Vec<String>> {
        let Some(path) = &self.prompts else {
            return Ok(self.prompt.clone());
        };
        let text = fs::read_to_string(path).with_context(|| format!("--prompts: cannot read {}", path.display()))?;
        let lines: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        ensure!(!lines.is_empty(), "--prompts {}: there is no text in it; write one in each line", path.display());
        Ok(lines)
    }

    /// The tokens of a text, with an error that names the flag.
    fn prompt(&self, model: &Model, text: &str) -> Result<Condition> {
        let flag = || match &self.prompts {
            Some(path) => format!("--prompts {}: {text:?}", path.display()),
            None => format!("--prompt {text:?}"),
        };
        model.prompt([text]).with_context(flag)
    }

    /// The request for `n` images of a model, conditioned as the flags say, and otherwise as `usual` does.
    pub fn request(&self, model: Model, n: usize, usual: Usual) -> Result<Request> {
        let path = self.path()?;
        ensure!(n > 0, "--n 0: it must be at least 1");
        model.ensure_room(n).with_context(|| format!("--n {n}"))?;
        let turn = match self.classes(&model).len().max(self.texts()?.len()) {
            0 => classes_of(&model),
            some => some,
        };
        let (condition, words) = self.condition(&model, n, usual)?;
        ensure!(self.guidance.is_finite(), "--guidance {}: it must be finite", self.guidance);
        ensure!(
            self.guidance == 1.0 || model.network.architecture().conditioning().is_guidable(),
            "--guidance {}: {} is an unconditional model, which cannot be guided; leave --guidance out",
            self.guidance,
            path.display()
        );
        ensure!(
            self.guidance == 1.0 || !model.info.consistency,
            "--guidance {}: the guidance of this consistency model was fixed in training; leave --guidance out",
            self.guidance
        );
        let mut guided = match self.guidance {
            1.0 => String::new(),
            w => format!(", guidance {w}"),
        };
        let mut guidance = Guidance::new(condition, self.guidance);
        if let Some(text) = &self.negative {
            self.check(&model, "--negative", ConditionPart::Tokens)?;
            ensure!(
                self.guidance != 1.0,
                "--negative: at guidance 1 it has no effect; choose a stronger one, such as --guidance 3"
            );
            let away = model.prompt([text]).with_context(|| format!("--negative {text:?}"))?;
            guidance = guidance.away_from(Condition::cat(&vec![(&away, 1); n])?);
            guided += &format!(" away from {text:?}");
        }
        Ok(Request { guidance, model, n, turn, words: words + &guided, guided, names_known: !path.is_dir() })
    }

    /// The condition of `n` images, and what it is in words.
    fn condition(&self, model: &Model, n: usize, usual: Usual) -> Result<(Condition, String)> {
        let architecture = model.network.architecture();
        let (classes, k) = (architecture.classes(), architecture.context());
        let (requested, texts) = (self.classes(model), self.texts()?);
        if !texts.is_empty() {
            let flag = if self.prompts.is_some() { "--prompts" } else { "--prompt" };
            self.check(model, flag, ConditionPart::Tokens)?;
            let each = texts.iter().map(|text| self.prompt(model, text)).collect::<Result<Vec<_>>>()?;
            let turns: Vec<(&Condition, usize)> = each.iter().cycle().take(n).map(|it| (it, 1)).collect();
            let words = match &texts[..] {
                [one] => format!("{one:?}"),
                some => counted(some.len(), "prompt"),
            };
            return Ok((Condition::cat(&turns)?, words));
        }
        if !requested.is_empty() {
            self.check(model, "--class", ConditionPart::Labels)?;
            let labels = requested.iter().map(|word| self.label(word, model));
            let labels = labels.collect::<Result<Vec<_>>>()?;
            let names: Vec<String> = labels.iter().map(|label| name(model, *label)).collect();
            let turns = || (0..n).map(|i| labels[i % labels.len()]);
            let condition = match classes {
                0 => one_hot(turns(), k, model)?,
                _ => Condition::labels(turns()),
            };
            return Ok((condition, format!("classes {}", names.join(", "))));
        }
        if !self.context.is_empty() {
            self.check(model, "--context", ConditionPart::Context)?;
            let (row, words) = context::parse(&self.context, model.info.context_names(), k)?;
            let rows = Tensor::from_vec(row.repeat(n), (n, k), model.network.device())?;
            return Ok((Condition::context(rows), words));
        }
        Ok(match (architecture.conditioning().is_guidable(), usual) {
            (false, _) => (Condition::none(), "unconditional".to_owned()),
            (_, Usual::AllClasses) if classes_of(model) + architecture.tokens() > 0 => {
                let words =
                    if classes + k > 0 { "all classes in turn" } else { "captions of the training data in turn" };
                (model.conditions(n)?, words.to_owned())
            }
            _ => {
                ensure!(
                    self.guidance == 1.0,
                    "--guidance {}: it guides towards a condition; name one with {}",
                    self.guidance,
                    flags(model)
                );
                (Condition::none(), "without a condition".to_owned())
            }
        })
    }

    /// Returns an error that names what would be right if the model cannot be conditioned as `flag` says.
    fn check(&self, model: &Model, flag: &str, part: ConditionPart) -> Result<()> {
        let it = model.network.architecture().conditioning();
        let fits = match part {
            ConditionPart::Labels => classes_of(model) > 0,
            ConditionPart::Context => it.context > 0,
            ConditionPart::Tokens => it.tokens > 0,
            ConditionPart::LowRes => it.low_res > 0,
        };
        let path = self.path()?.display();
        let instead = match model.info.context.first() {
            Some(name) => format!("conditioned on attributes; name them with --context, as in --context {name}=1"),
            None if it.classes > 0 => format!("conditioned on classes; use {}", flags(model)),
            None if it.context > 0 => format!("conditioned on a context; use {}", flags(model)),
            None if it.tokens > 0 => format!("conditioned on text; use {}", flags(model)),
            None => format!("an unconditional model; leave {flag} out"),
        };
        ensure!(fits, "{flag}: {path} is {instead}");
        Ok(())
    }

    /// The requested classes. Lists are split at their commas, except where the whole text is the name of a class.
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
            _ => {
                bail!("--class {word}: there is no such class; the classes are 0 … {}: {}", most - 1, names.join(", "))
            }
        }
    }
}

/// The flags that name a condition of the model.
fn flags(model: &Model) -> &'static str {
    let it = model.network.architecture().conditioning();
    match (it.classes, it.context, it.tokens) {
        (1.., _, _) => "--class",
        (_, 1.., _) if model.info.context.is_empty() => "--context or --class",
        (_, 1.., _) => "--context",
        _ => "--prompt",
    }
}

/// The number of classes that the model is conditioned on.
fn classes_of(model: &Model) -> usize {
    let architecture = model.network.architecture();
    match model.info.context.is_empty() {
        true => architecture.classes().max(architecture.context()),
        false => architecture.classes(),
    }
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
