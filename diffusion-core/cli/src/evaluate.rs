//! `diffusion evaluate`.

use crate::ask::{Ask, Asked, counted, quoted};
use crate::card::{self, Header};
use crate::classifier;
use crate::sample::{self, How, prepare};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use diffusion_core::candle::Tensor;
use diffusion_core::config::RunConfig;
use diffusion_core::data::{Dataset, Source, TASKS, labels_from_npy, samples_from_npy};
use diffusion_core::device::described;
use diffusion_core::metrics::{Answers, Classifier, Evaluation, FeatureExtractor, InceptionV3};
use diffusion_core::rng::Rng;
use serde_json::json;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The usual number of sprites to learn from, and the seed they are drawn with.
const SPRITES: usize = 50_000;
const DATA_SEED: u64 = 42;

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
    /// model was trained on, as config.toml beside it says]
    #[arg(long)]
    data: Option<String>,
    /// How many sprites there are to learn from; a tenth as many to compare with [default: as many as the run had, else 50000]
    #[arg(long)]
    images: Option<usize>,
    /// The seed that the sprites of the training were drawn with, or that chose what was held out [default: that of the run, else
    /// 42]
    #[arg(long)]
    data_seed: Option<u64>,
    /// Whose features are compared [default: classifier-DATA.safetensors beside the checkpoint or in weights/]
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
    let (source, data_seed) = source(options, model.as_ref())?;
    let seed = options.ask.seed;
    let (train, real) = source.load_both(data_seed)?;
    if let Some(asked) = &model {
        let ([shape, other], at) = ([asked.model.info.shape, real.shape()], &source.task);
        ensure!(
            shape == other,
            "--checkpoint: the images of this model are {}, and those of {at} are {}: name what it was trained on with --data",
            size(shape),
            size(other)
        );
    }
    let seen = Seen::load(options, &source, &real)?;
    if let Some(warning) = seen.warning() {
        eprintln!("warning: {warning}");
    }
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
    if source.task == "sprites" {
        // The model's file does not say how many it was trained on.
        println!(
            "the training set is taken to be {} of seed {}: --images and --data-seed",
            counted(source.images, "sprite"),
            data_seed
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
            task: model.as_ref().map_or("unconditional-image-generation", Asked::task),
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

/// What samples are compared with, of the size of the model's images, and the seed that splits it.
fn source(options: &Options, model: Option<&Asked>) -> Result<(Source, u64)> {
    let known = TASKS.join(", ");
    let there = |task: &str| {
        let path = Path::new(task);
        let array = || path.extension().is_some_and(|it| it.eq_ignore_ascii_case("npy"));
        TASKS.contains(&task) || path.is_dir() || path.is_file() && array()
    };
    // The run that the model is from, which knows more than the model's file.
    let run = options.ask.folder().map(|folder| folder.join("config.toml")).filter(|path| path.is_file());
    let run = run.map(RunConfig::load).transpose()?;
    let seed = options.data_seed.or(run.as_ref().map(|run| run.training.seed)).unwrap_or(DATA_SEED);
    let side = match model.map(|asked| asked.model.info.shape) {
        Some([_, height, width]) if height == width => Some(height),
        _ => None,
    };
    let source = match (&options.data, run, model) {
        (Some(task), _, _) => {
            ensure!(there(task), "--data {task}: neither one of {known} nor a folder or .npy file that exists");
            Source { task: task.clone(), images: options.images.unwrap_or(SPRITES), ..Source::default() }
        }
        (None, Some(run), Some(_)) if there(&run.data.task) => {
            Source { images: options.images.unwrap_or(run.data.images), ..run.data }
        }
        (None, _, Some(asked)) => {
            let task = &asked.model.info.data;
            ensure!(
                there(task),
                "--data is needed: what the model was trained on is called {task}, which is neither one of {known} nor a folder \
                 or .npy file that exists"
            );
            Source { task: task.clone(), images: options.images.unwrap_or(SPRITES), ..Source::default() }
        }
        (None, _, None) => bail!("--samples: --data must say what they are compared with"),
    };
    Ok((Source { side: side.or(source.side), ..source }, seed))
}

/// In whose features samples and real images are compared.
enum Seen {
    Classifier(Box<Classifier>),
    Inception(InceptionV3, PathBuf),
}

impl Seen {
    fn load(options: &Options, source: &Source, real: &Dataset) -> Result<Self> {
        let device = crate::device(options.ask.device)?;
        if let Some(path) = &options.inception {
            let network = InceptionV3::load(path, &device).context("--inception")?;
            return Ok(Self::Inception(network, path.clone()));
        }
        let name = format!("classifier-{}.safetensors", real.name());
        let beside = options.ask.folder().map(|folder| folder.join(&name));
        let usual = || {
            let places = beside.iter().cloned().chain([Path::new("weights").join(&name)]);
            let there = places.clone().find(|path| path.is_file());
            there.or(places.into_iter().next()).unwrap_or_default()
        };
        let path = options.classifier.clone().unwrap_or_else(usual);
        let side = source.side.map_or_else(String::new, |side| format!(" --side {side}"));
        let command = |out: &Path| {
            format!(
                "`cargo diffusion classifier --task {}{side} --out {}`",
                quoted(Path::new(&source.task)),
                quoted(out)
            )
        };
        ensure!(path.is_file(), "--classifier: there is no {}; {} makes it", path.display(), command(&path));
        let classifier = Classifier::load(&path, &device).context("--classifier")?;
        let about = &classifier.about;
        ensure!(
            about.classes == real.class_names() && about.shape == real.shape(),
            "--classifier {}: it knows images of {} and the classes {} of {}; those of {} are {} and {}. \
             {} makes one that knows them",
            path.display(),
            size(about.shape),
            about.classes.join(", "),
            about.data,
            real.name(),
            size(real.shape()),
            real.class_names().join(", "),
            command(&beside.unwrap_or(name.into()))
        );
        Ok(Self::Classifier(Box::new(classifier)))
    }

    /// What is to be said of measures in features that know little.
    fn warning(&self) -> Option<String> {
        match self {
            Self::Classifier(it) => classifier::warning(it),
            Self::Inception(..) => None,
        }
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
            Self::Classifier(it) => {
                write!(
                    f,
                    "features of a classifier that names {:.2} % of {} test images of {} rightly",
                    100.0 * it.about.test_accuracy,
                    it.about.test_images,
                    it.about.data
                )?;
                self.warning().map_or(Ok(()), |warning| write!(f, " ({warning})"))
            }
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
