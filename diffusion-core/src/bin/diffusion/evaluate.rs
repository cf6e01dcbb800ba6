//! `diffusion evaluate`.

use crate::ask::{Ask, Asked};
use crate::card::{self, Header};
use crate::sample::{self, How, prepare};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use diffusion_core::candle::Tensor;
use diffusion_core::data::{Part, Source, labels_from_npy, samples_from_npy};
use diffusion_core::device::{Choice, Setup};
use diffusion_core::metrics::{Answers, Classifier, Evaluation, FeatureExtractor, InceptionV3};
use diffusion_core::rng::Rng;
use serde_json::json;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    how: How,
    /// Samples to measure in the place of a model's: float32 (N, C, H, W) in −1 … 1, or uint8, as an .npy file
    #[arg(long, conflicts_with = "checkpoint")]
    samples: Option<PathBuf>,
    /// What each of --samples was to show, as an .npy file of class numbers
    #[arg(long, requires = "samples")]
    labels: Option<PathBuf>,
    /// What they are compared with: sprites, mnist, fashion-mnist, cifar10, a folder of images, or an .npy file [default: what the
    /// model was trained on]
    #[arg(long)]
    data: Option<String>,
    /// How many sprites there are to learn from; a tenth as many to compare with
    #[arg(long, default_value_t = 50_000)]
    images: usize,
    /// The seed that the sprites of the training were drawn with, or that chose what was kept aside
    #[arg(long, default_value_t = 42)]
    data_seed: u64,
    /// Whose features are compared [default: weights/classifier-DATA.safetensors]
    #[arg(long)]
    classifier: Option<PathBuf>,
    /// Compares the features of Inception v3, by which photographs are measured; its weights are a file of your own
    #[arg(
        long,
        conflicts_with = "classifier",
        num_args = 0..=1,
        default_missing_value = "weights/inception.pth"
    )]
    inception: Option<PathBuf>,
    /// A model card that the numbers are also written into, in the place of earlier ones
    #[arg(long)]
    card: Option<PathBuf>,
    /// The file that the numbers are also written to
    #[arg(long, default_value = "evaluation.json")]
    out: PathBuf,
}

/// What is measured, and where it comes from.
struct Drawn {
    images: Tensor,
    labels: Option<Vec<u32>>,
    words: String,
    seconds: f64,
}

pub fn run(options: &Options) -> Result<()> {
    prepare(&options.out, "json")?;
    if let Some(path) = &options.card {
        ensure!(path.is_file(), "--card: there is no {}", path.display());
    }
    let model = match &options.samples {
        Some(_) => None,
        None => Some(options.ask.load(10_000)?),
    };
    let task = match (&options.data, &model) {
        (Some(task), _) => task.clone(),
        (None, Some(asked)) => asked.model.process.data.clone(),
        (None, None) => bail!("--samples: --data must say what they are compared with"),
    };
    let source = Source {
        task: task.clone(),
        images: options.images,
        side: None,
        labels: None,
    };
    let seed = options.ask.seed;
    let [train, real] = [Part::Train, Part::Test].map(|part| source.load(part, options.data_seed));
    let (train, real) = (train?, real?);
    let seen = Seen::load(options, &task)?;
    let drawn = match (&options.samples, &model) {
        (Some(path), _) => read(path, options.labels.as_deref())?,
        (None, Some(asked)) => draw(options, asked)?,
        (None, None) => bail!("either --checkpoint or --samples is needed"),
    };
    println!("{}", drawn.words);
    let (began, labels) = (Instant::now(), drawn.labels.as_deref());
    let rng = &mut Rng::new(seed);
    let it = Evaluation::new(&seen, &real, &train, &drawn.images, labels, rng)?;
    let seconds = began.elapsed().as_secs_f64();
    println!("{it}\n{seen}; measured in {seconds:.0} s");
    let setup = Setup::new(seed);
    let report = json!({
        "samples": drawn.words,
        "seconds_to_draw": drawn.seconds,
        "seconds_to_measure": seconds,
        "machine": setup.processor,
        "threads": setup.threads,
        "features": seen.to_string(),
        "measures": it,
    });
    fs::write(&options.out, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("cannot write {}", options.out.display()))?;
    println!("{}", options.out.display());
    if let Some(path) = &options.card {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let header = Header {
            name: &name,
            data: &task,
            task: "unconditional-image-generation",
        };
        let machine = setup.processor.as_deref().unwrap_or("an unknown processor");
        let words = format!(
            "{}: against {} test images, in {seen}. Drawn in {:.0} s and measured in {seconds:.0} s on {machine}, {} threads.",
            drawn.words,
            real.len(),
            drawn.seconds,
            setup.threads
        );
        card::measured(path, &header, &it, &words)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// In whose features samples and real images are compared.
enum Seen {
    Classifier(Classifier),
    Inception(InceptionV3, PathBuf),
}

impl Seen {
    fn load(options: &Options, task: &str) -> Result<Self> {
        let device = Choice::default().device()?;
        if let Some(path) = &options.inception {
            let network = InceptionV3::load(path, &device).context("--inception")?;
            return Ok(Self::Inception(network, path.clone()));
        }
        let usual = || PathBuf::from(format!("weights/classifier-{task}.safetensors"));
        let path = options.classifier.clone().unwrap_or_else(usual);
        ensure!(
            path.is_file(),
            "--classifier: there is no {}; `diffusion classifier --task {task} --out {}` makes it",
            path.display(),
            path.display()
        );
        let classifier = Classifier::load(&path, &device).context("--classifier")?;
        Ok(Self::Classifier(classifier))
    }
}

impl FeatureExtractor for Seen {
    fn look(&self, x: &Tensor) -> Result<Answers> {
        match self {
            Self::Classifier(it) => it.look(x),
            Self::Inception(it, _) => it.look(x),
        }
    }

    fn knows_classes(&self) -> bool {
        matches!(self, Self::Classifier(_))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Classifier(it) => write!(
                f,
                "features of a classifier that names {:.2} % of {} test images of {} rightly",
                100.0 * it.about.test_accuracy,
                it.about.test_images,
                it.about.data
            ),
            Self::Inception(_, path) => write!(f, "features of Inception v3, {}", path.display()),
        }
    }
}

fn draw(options: &Options, asked: &Asked) -> Result<Drawn> {
    let (sampler, schedule) = (options.how.sampler()?, asked.model.process.schedule()?);
    let steps = sampler.steps.visited(&schedule)?.len();
    let words = format!(
        "{} samples, {}, {:?} in {steps} steps, seed {}",
        asked.n, asked.words, sampler.solver, options.ask.seed
    );
    let began = Instant::now();
    let (images, _) = sample::draw(&options.how, asked, options.ask.seed, steps, false)?;
    Ok(Drawn {
        images: images.clamp(-1f64, 1f64)?,
        labels: asked.labels()?,
        words,
        seconds: began.elapsed().as_secs_f64(),
    })
}

fn read(path: &Path, labels: Option<&Path>) -> Result<Drawn> {
    let images = samples_from_npy(path)?;
    let n = images.dim(0)?;
    Ok(Drawn {
        labels: labels
            .map(|labels| labels_from_npy(labels, n))
            .transpose()?,
        images,
        words: format!("{n} samples of {}", path.display()),
        seconds: 0.0,
    })
}
