//! `diffusion evaluate`.

use crate::ask::{Ask, Asked, counted};
use crate::card::{self, Header};
use crate::sample::{self, How, prepare};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use diffusion_core::candle::Tensor;
use diffusion_core::data::{Dataset, Source, Split, TASKS, labels_from_npy, samples_from_npy};
use diffusion_core::device::described;
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
    #[arg(
        long,
        conflicts_with_all = ["checkpoint", "n", "class", "context", "guidance", "sampler", "steps", "eta", "batch"]
    )]
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
    if let Some(asked) = &model {
        options.how.batch()?;
        options.how.sampler()?;
        options.how.steps(asked.model.info.schedule()?)?;
    }
    let task = task(options, model.as_ref())?;
    let source = Source { task: task.clone(), images: options.images, ..Source::default() };
    let seed = options.ask.seed;
    let [train, real] = [Split::Train, Split::Test].map(|split| source.load(split, options.data_seed));
    let (train, real) = (train?, real?);
    let seen = Seen::load(options, &task, &real)?;
    let drawn = match (&options.samples, &model) {
        (Some(path), _) => read(path, options.labels.as_deref(), &seen, &real)?,
        (None, Some(asked)) => draw(options, asked, &seen, &real)?,
        (None, None) => bail!("either --checkpoint or --samples is needed"),
    };
    println!("{}", drawn.words);
    let (began, labels) = (Instant::now(), drawn.labels.as_deref());
    let rng = &mut Rng::new(seed);
    let it = Evaluation::new(&seen, &real, &train, &drawn.images, labels, rng)?;
    let seconds = began.elapsed().as_secs_f64();
    println!("{it}\n{seen}; measured in {seconds:.0} s");
    if task == "sprites" {
        // The model's file does not say how many it was trained on.
        println!(
            "the training set is taken to be {} of seed {}: --images and --data-seed",
            counted(options.images, "sprite"),
            options.data_seed
        );
    }
    let machine = described(&crate::device(options.ask.device)?);
    let report = json!({
        "samples": drawn.words,
        "seconds_to_draw": drawn.seconds,
        "seconds_to_measure": seconds,
        "machine": machine,
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
            data: match &model {
                Some(asked) if asked.names_known => &asked.model.info.data,
                _ => real.name(),
            },
            task: "unconditional-image-generation",
            license: None,
        };
        let words = format!(
            "{}: against {} test images, in {seen}. Drawn in {:.0} s and measured in {seconds:.0} s on {machine}.",
            drawn.words,
            real.len(),
            drawn.seconds
        );
        card::measured(path, &header, &it, &words)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// What samples are compared with, as [`Source`] is told it.
fn task(options: &Options, model: Option<&Asked>) -> Result<String> {
    let known = TASKS.join(", ");
    let there = |task: &str| {
        let path = Path::new(task);
        let array = || path.extension().is_some_and(|it| it.eq_ignore_ascii_case("npy"));
        TASKS.contains(&task) || path.is_dir() || path.is_file() && array()
    };
    match (&options.data, model) {
        (Some(task), _) => {
            ensure!(there(task), "--data {task}: neither one of {known} nor a folder or .npy file that exists");
            Ok(task.clone())
        }
        (None, Some(asked)) => {
            let task = &asked.model.info.data;
            ensure!(
                there(task),
                "--data is needed: what the model was trained on is called {task}, which is neither one of {known} nor a folder \
                 or .npy file that exists"
            );
            Ok(task.clone())
        }
        (None, None) => bail!("--samples: --data must say what they are compared with"),
    }
}

/// In whose features samples and real images are compared.
enum Seen {
    Classifier(Box<Classifier>),
    Inception(InceptionV3, PathBuf),
}

impl Seen {
    fn load(options: &Options, task: &str, real: &Dataset) -> Result<Self> {
        let device = crate::device(options.ask.device)?;
        if let Some(path) = &options.inception {
            let network = InceptionV3::load(path, &device).context("--inception")?;
            return Ok(Self::Inception(network, path.clone()));
        }
        let usual = || PathBuf::from(format!("weights/classifier-{}.safetensors", real.name()));
        let path = options.classifier.clone().unwrap_or_else(usual);
        ensure!(
            path.is_file(),
            "--classifier: there is no {}; `cargo diffusion classifier --task {task} --out {}` makes it",
            path.display(),
            path.display()
        );
        let classifier = Classifier::load(&path, &device).context("--classifier")?;
        let about = &classifier.about;
        ensure!(
            about.classes == real.class_names() && about.shape == real.shape(),
            "--classifier {}: it knows images of {} and the classes {} of {}; those of {} are {} and {}. \
             `cargo diffusion classifier --task {task} --out NAME.safetensors` makes one that knows them",
            path.display(),
            size(about.shape),
            about.classes.join(", "),
            about.data,
            real.name(),
            size(real.shape()),
            real.class_names().join(", ")
        );
        Ok(Self::Classifier(Box::new(classifier)))
    }

    /// An error if it cannot look at images of this shape, which are `whose`.
    fn check(&self, shape: [usize; 3], whose: &str) -> Result<()> {
        match self {
            Self::Classifier(it) if it.about.shape != shape => bail!(
                "{whose} are {}, and those that they are compared with, of {}, are {}",
                size(shape),
                it.about.data,
                size(it.about.shape)
            ),
            _ => Ok(()),
        }
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

fn size([c, h, w]: [usize; 3]) -> String {
    format!("{c}×{h}×{w}")
}

fn draw(options: &Options, asked: &Asked, seen: &Seen, real: &Dataset) -> Result<Drawn> {
    let process = &asked.model.info;
    seen.check(process.shape, "--checkpoint: the images of this model")?;
    let labels = judged(asked, real)?;
    let steps = options.how.steps(process.schedule()?)?;
    let words = format!(
        "{}, {}, {} in {}, seed {}",
        counted(asked.n, "sample"),
        asked.words,
        options.how.words(),
        counted(steps, "step"),
        options.ask.seed
    );
    let began = Instant::now();
    let (images, _) = sample::draw(&options.how, asked, options.ask.seed, steps, false)?;
    Ok(Drawn { images: images.clamp(-1f64, 1f64)?, labels, words, seconds: began.elapsed().as_secs_f64() })
}

/// What each sample was to show, if the data has the same classes; a warning if the model was trained on other data.
fn judged(asked: &Asked, real: &Dataset) -> Result<Option<Vec<u32>>> {
    let (process, names) = (&asked.model.info, real.class_names());
    let same = match asked.names_known {
        true => process.classes == names,
        false => process.classes.len() == names.len(),
    };
    let labels = asked.labels()?;
    if asked.names_known && process.data != real.name() {
        eprintln!(
            "warning: the model was trained on {}, and is compared with {}: that there are no copies of these says nothing",
            process.data,
            real.name()
        );
    }
    if labels.is_some() && !same {
        eprintln!(
            "warning: accuracy is left out: the model knows the classes {}, and those of {} are {}",
            process.classes.join(", "),
            real.name(),
            names.join(", ")
        );
    }
    Ok(labels.filter(|_| same))
}

fn read(path: &Path, labels: Option<&Path>, seen: &Seen, real: &Dataset) -> Result<Drawn> {
    let (at, images) = (path.display(), samples_from_npy(path)?);
    let (n, c, h, w) = images.dims4()?;
    seen.check([c, h, w], &format!("--samples {at}: its images"))?;
    if images.min_all()?.to_scalar::<f32>()? >= 0.0 {
        eprintln!(
            "warning: --samples {at}: no value is below 0. Samples are in −1 … 1, −1 for black; if these are in 0 … 1, \
             save 2 * x - 1"
        );
    }
    let labels = labels.map(|path| {
        let (labels, classes) = (labels_from_npy(path, n)?, real.class_names().len());
        let wrong = labels.iter().position(|label| *label as usize >= classes);
        if let Some(i) = wrong {
            bail!(
                "--labels {}: labels[{i}] = {}; {} has the classes 0 … {}",
                path.display(),
                labels[i],
                real.name(),
                classes - 1
            )
        }
        Ok(labels)
    });
    Ok(Drawn { labels: labels.transpose()?, images, words: format!("{} of {at}", counted(n, "sample")), seconds: 0.0 })
}
