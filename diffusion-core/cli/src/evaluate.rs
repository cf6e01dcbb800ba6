//! `diffusion evaluate`.

use crate::attributes::Test;
use crate::card::{self, Header};
use crate::classifier;
use crate::request::{ModelOptions, Request, counted, quoted};
use crate::sample::{self, BatchOption, SamplerOptions, prepare};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use diffusion_core::candle::Tensor;
use diffusion_core::config::RunConfig;
use diffusion_core::data::{Cache, Dataset, Source, TASKS, labels_from_npy, samples_from_npy};
use diffusion_core::device::described;
use diffusion_core::likelihood::{Likelihood, bits_per_dimension, dequantize};
use diffusion_core::metrics::{Classifier, Evaluation, Extracted, FeatureExtractor, InceptionV3};
use diffusion_core::progress::Progress;
use diffusion_core::rng::Rng;
use diffusion_core::unet::Condition;
use serde::Serialize;
use serde_json::json;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The default number of training sprites and their seed.
const SPRITES: usize = 50_000;
const DATA_SEED: u64 = 42;
/// The largest batch in which likelihoods are computed: the backward pass keeps all activations.
const BITS_BATCH: usize = 32;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// The number of images [default: one for each of --class or of the texts, otherwise 10000]
    #[arg(long)]
    n: Option<usize>,
    #[command(flatten)]
    sampling: SamplerOptions,
    #[command(flatten)]
    batch: BatchOption,
    /// An .npy file of samples to measure instead of a model's: float32 (N, C, H, W) in −1 … 1, or uint8
    #[arg(
        long,
        conflicts_with_all = [
            "checkpoint", "n", "class", "context", "prompt", "prompts", "negative", "guidance", "sampler", "steps", "eta", "batch"
        ]
    )]
    samples: Option<PathBuf>,
    /// An .npy file with the class number of each of --samples
    #[arg(long, requires = "samples")]
    labels: Option<PathBuf>,
    /// The data set to compare with: sprites, mnist, fashion-mnist, cifar10, celeba, a folder of images, or an .npy file
    /// [default: the training data of the model, from the config.toml beside it]
    #[arg(long)]
    data: Option<String>,
    /// The number of training sprites; a tenth as many are held out for comparison [default: as in the run, otherwise 50000]
    #[arg(long)]
    images: Option<usize>,
    /// The seed of the training sprites, or of the split into training and held-out images [default: as in the run, otherwise
    /// 42]
    #[arg(long)]
    data_seed: Option<u64>,
    /// The classifier whose features are compared [default: classifier-DATA.safetensors beside the checkpoint or in weights/]
    #[arg(long)]
    classifier: Option<PathBuf>,
    /// The classifier of attributes for a text model of sprites [default: classifier-sprites-attributes.safetensors beside the
    /// checkpoint or in weights/]
    #[arg(long, conflicts_with = "samples")]
    attributes: Option<PathBuf>,
    /// Compares the features of Inception v3, as the FID does. The file of its weights is not part of this project
    #[arg(
        long,
        conflicts_with = "classifier",
        num_args = 0..=1,
        default_missing_value = "weights/inception.pth"
    )]
    inception: Option<PathBuf>,
    /// Also measures the bits per dimension of this many held-out images, by solving the probability-flow ODE
    #[arg(long, conflicts_with = "samples")]
    bits: Option<usize>,
    /// A model card to update with the results
    #[arg(long)]
    card: Option<PathBuf>,
    /// The JSON file of the results
    #[arg(long, default_value = "evaluation.json")]
    out: PathBuf,
}

/// The samples to measure, and where they come from.
struct Samples {
    images: Tensor,
    labels: Option<Vec<u32>>,
    words: String,
    seconds: f64,
}

pub fn run(options: &Options) -> Result<()> {
    prepare(&options.out, "json")?;
    options.batch.check()?;
    if let Some(path) = &options.card {
        ensure!(
            path.is_file(),
            "--card {}: there is no such file; `cargo diffusion export` writes a card",
            path.display()
        );
    }
    let mut model = match &options.samples {
        Some(_) => None,
        None => Some(options.model.load(options.n, 10_000)?),
    };
    if let Some(request) = &model {
        options.sampling.sampler(&request.model.info)?;
    }
    let (source, data_seed, cache) = source(options, model.as_ref())?;
    let seed = options.model.seed;
    let (train, real) = match cache {
        Some(cache) => source.load_both_cached(data_seed, &cache)?,
        None => source.load_both(data_seed)?,
    };
    if let Some(request) = &model {
        let ([shape, other], at) = ([request.model.info.shape, real.shape()], &source.task);
        ensure!(
            shape == other,
            "--checkpoint: the model's images are {}, but those of {at} are {}; name its training data with --data",
            size(shape),
            size(other)
        );
    }
    if let (Some(request), Some(n)) = (&model, options.bits) {
        check_bits(n, request, &real)?;
    }
    let features = Features::load(options, &source, &real)?;
    if let Some(warning) = features.warning() {
        eprintln!("warning: {warning}");
    }
    let begin = |request| Test::begin(request, &options.model, options.attributes.as_deref(), &real);
    let test = model.as_mut().map_or(Ok(None), begin)?;
    let samples = match (&options.samples, &model) {
        (Some(path), _) => read(path, options.labels.as_deref(), &features, &real)?,
        (None, Some(request)) => draw(options, request, &features, &real)?,
        (None, None) => bail!("name a model with --checkpoint, or a file of samples with --samples"),
    };
    println!("{}", samples.words);
    let (began, labels) = (Instant::now(), samples.labels.as_deref());
    let rng = &mut Rng::new(seed);
    let it = Evaluation::new(&features, &real, &train, &samples.images, labels, rng)?;
    let seconds = began.elapsed().as_secs_f64();
    println!("{it}\n{features}; measured in {seconds:.0} s");
    let attributes = match (&test, &mut model) {
        (Some(test), Some(it)) => Some(test.run(it, &samples.images, |it| draw_images(options, it))?),
        _ => None,
    };
    let bits = model.as_ref().map_or(Ok(None), |request| bits(options, request, &real))?;
    if let Some(bits) = &bits {
        println!("{bits}");
    }
    if source.task == "sprites" {
        // A model file does not store the number of training sprites.
        println!(
            "assuming a training set of {} with seed {}; --images and --data-seed change this",
            counted(source.images, "sprite"),
            data_seed
        );
    }
    let machine = described(&crate::device(options.model.device)?);
    let report = json!({
        "samples": samples.words,
        "seconds_to_draw": samples.seconds,
        "seconds_to_measure": seconds,
        "machine": machine,
        "features": features.to_string(),
        "measures": it,
        "bits_per_dimension": bits,
        "attributes": attributes,
    });
    fs::write(&options.out, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("cannot write {}", options.out.display()))?;
    println!("{}", options.out.display());
    if let Some(path) = &options.card {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let header = Header {
            name: &name,
            data: match &model {
                Some(request) if request.names_known => &request.model.info.data,
                _ => real.name(),
            },
            task: model.as_ref().map_or("unconditional-image-generation", Request::task),
            license: None,
        };
        let words = format!(
            "{}, compared with {} test images by the {features}. Sampling took {:.0} s and measuring {seconds:.0} s on {machine}.{}",
            samples.words,
            real.len(),
            samples.seconds,
            bits.map_or_else(String::new, |bits| format!(" Likelihood: {bits}."))
                + &attributes.map_or_else(String::new, |it| format!("\n\n{}", it.table()))
        );
        card::measured(path, &header, &it, &words)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// The data set to compare with, at the size of the model's images, the seed of its split, and the decoded pictures of the run.
fn source(options: &Options, model: Option<&Request>) -> Result<(Source, u64, Option<Cache>)> {
    let known = TASKS.join(", ");
    let there = |task: &str| {
        let path = Path::new(task);
        let array = || path.extension().is_some_and(|it| it.eq_ignore_ascii_case("npy"));
        TASKS.contains(&task) || path.is_dir() || path.is_file() && array()
    };
    // The configuration of the run says more than the model file.
    let run = options.model.folder().map(|folder| folder.join("config.toml")).filter(|path| path.is_file());
    let run = run.map(RunConfig::load).transpose()?;
    let seed = options.data_seed.or(run.as_ref().map(|run| run.training.seed)).unwrap_or(DATA_SEED);
    let side = match model.map(|request| request.model.info.shape) {
        Some([_, height, width]) if height == width => Some(height),
        _ => None,
    };
    let source = |task: &str| Source {
        task: task.to_owned(),
        images: options.images.unwrap_or(SPRITES),
        side,
        ..Source::default()
    };
    let source = match (&options.data, run, model) {
        (Some(task), _, _) => {
            ensure!(
                there(task),
                "--data {task}: there is no such folder, .npy file or data set; the data sets are {known}"
            );
            source(task)
        }
        (None, Some(run), Some(_)) if there(&run.data.task) => {
            // Its images have the size of the model's.
            let source = Source { images: options.images.unwrap_or(run.data.images), ..run.data };
            return Ok((source, seed, options.model.folder().map(Cache::in_folder)));
        }
        (None, _, Some(request)) => {
            let task = &request.model.info.data;
            ensure!(
                there(task),
                "the model was trained on {task}, which is not here: name a folder or .npy file with --data, or one of {known}"
            );
            source(task)
        }
        (None, _, None) => bail!("--samples: name the data set to compare with, using --data"),
    };
    let captions = model.is_some_and(|request| request.model.network.architecture().tokens() > 0);
    Ok((Source { captions, ..source }, seed, None))
}

/// The network whose features are compared.
enum Features {
    Classifier(Box<Classifier>),
    Inception(InceptionV3, PathBuf),
}

impl Features {
    fn load(options: &Options, source: &Source, real: &Dataset) -> Result<Self> {
        let device = crate::device(options.model.device)?;
        if let Some(path) = &options.inception {
            let network = InceptionV3::load(path, &device).context("--inception")?;
            return Ok(Self::Inception(network, path.clone()));
        }
        let name = format!("classifier-{}.safetensors", real.name());
        let beside = options.model.folder().map(|folder| folder.join(&name));
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
        ensure!(path.is_file(), "--classifier: there is no {}; train it with {}", path.display(), command(&path));
        let classifier = Classifier::load(&path, &device).context("--classifier")?;
        let about = &classifier.about;
        ensure!(
            about.classes == real.class_names() && about.shape == real.shape(),
            "--classifier {}: it was trained on images of {} with the classes {} ({}), but those of {} are {} with the classes {}; \
             train a classifier for them with {}",
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

    /// A warning if the classifier is too weak for its features to mean much.
    fn warning(&self) -> Option<String> {
        match self {
            Self::Classifier(it) => classifier::warning(it),
            Self::Inception(..) => None,
        }
    }

    /// Returns an error if the network cannot take images of this shape; `whose` says whose they are.
    fn check(&self, shape: [usize; 3], whose: &str) -> Result<()> {
        match self {
            Self::Classifier(it) if it.about.shape != shape => bail!(
                "{whose} are {}, but the classifier for {} takes {}",
                size(shape),
                it.about.data,
                size(it.about.shape)
            ),
            _ => Ok(()),
        }
    }
}

impl FeatureExtractor for Features {
    fn extract(&self, x: &Tensor) -> Result<Extracted> {
        match self {
            Self::Classifier(it) => it.extract(x),
            Self::Inception(it, _) => it.extract(x),
        }
    }

    fn has_classes(&self) -> bool {
        matches!(self, Self::Classifier(_))
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Classifier(it) => {
                write!(
                    f,
                    "features of a classifier with an accuracy of {:.2} % on {} test images of {}",
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

pub fn size([c, h, w]: [usize; 3]) -> String {
    format!("{c}×{h}×{w}")
}

fn draw(options: &Options, request: &Request, features: &Features, real: &Dataset) -> Result<Samples> {
    let info = &request.model.info;
    features.check(info.shape, "--checkpoint: the images of this model")?;
    let labels = labels(request, real)?;
    let (_, steps) = options.sampling.sampler(info)?;
    let words = format!(
        "{}, {}, {}, {}, seed {}",
        counted(request.n, "sample"),
        request.words,
        options.sampling.words(info),
        counted(steps, "step"),
        options.model.seed
    );
    let began = Instant::now();
    Ok(Samples { images: draw_images(options, request)?, labels, words, seconds: began.elapsed().as_secs_f64() })
}

fn draw_images(options: &Options, request: &Request) -> Result<Tensor> {
    let (images, _) = sample::draw(&options.sampling, &options.batch, request, options.model.seed, false)?;
    Ok(images.clamp(-1f64, 1f64)?)
}

/// Bits per dimension of held-out images.
#[derive(Serialize)]
struct Bits {
    mean: f64,
    /// Of the mean, over images.
    standard_error: f64,
    images: usize,
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mean, standard_error, images } = self;
        write!(f, "bits per dimension {mean:.3} ± {standard_error:.3} (standard error) on {images} held-out images")
    }
}

/// Checks --bits before anything is sampled.
fn check_bits(n: usize, request: &Request, real: &Dataset) -> Result<()> {
    let model = &request.model;
    ensure!(
        (2..=real.len()).contains(&n),
        "--bits {n}: it must be in 2 … {}, the number of held-out images",
        real.len()
    );
    ensure!(
        model.info.images && real.is_8_bit(),
        "--bits: bits per dimension are defined for 8-bit images, which this model's data are not; leave --bits out"
    );
    let architecture = model.network.architecture();
    ensure!(
        architecture.classes() + architecture.context() == 0 || same_classes(request, real),
        "--bits: the model is conditioned on {}, but {} has {}; name its own data with --data",
        model.info.context_names().join(", "),
        real.name(),
        real.context_names().join(", ")
    );
    Ok(())
}

fn bits(options: &Options, request: &Request, real: &Dataset) -> Result<Option<Bits>> {
    let Some(n) = options.bits else { return Ok(None) };
    let model = &request.model;
    let architecture = model.network.architecture();
    let (classes, context) = (architecture.classes() > 0, architecture.context() > 0);
    let (device, rng) = (model.network.device(), &mut Rng::new(options.model.seed));
    let (mut bits, dims) = (Vec::new(), real.shape().iter().product());
    let mut progress = Progress::new(n as u64, "likelihoods");
    for start in (0..n).step_by(BITS_BATCH) {
        let indices = start..n.min(start + BITS_BATCH);
        let x = dequantize(&real.images(indices.clone(), device)?, rng)?;
        let condition = match (classes, context) {
            (true, _) => Condition::labels(real.labels()[indices.clone()].iter().map(|label| *label as usize)),
            (_, true) => Condition::context(real.context(indices.clone(), device)?),
            _ => Condition::none(),
        };
        let log = model.log_density(&x, &condition, &Likelihood::default(), rng).context("--bits")?;
        bits.extend(log.into_iter().map(|log| bits_per_dimension(log, dims)));
        indices.for_each(|_| progress.step());
    }
    progress.finish();
    let mean = bits.iter().sum::<f64>() / n as f64;
    let variance = bits.iter().map(|bits| (bits - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    Ok(Some(Bits { mean, standard_error: (variance / n as f64).sqrt(), images: n }))
}

/// Whether the classes of the model are those of the data, and the attributes if it is conditioned on them.
fn same_classes(request: &Request, real: &Dataset) -> bool {
    let (info, names) = (&request.model.info, real.class_names());
    let of_model = &info.classes;
    match request.names_known {
        true => of_model == names && (info.context.is_empty() || info.context == real.attribute_names()),
        false => of_model.len() == names.len(),
    }
}

/// The class of each sample, if the data has the same classes. Warns if the model was trained on other data.
fn labels(request: &Request, real: &Dataset) -> Result<Option<Vec<u32>>> {
    let (info, names) = (&request.model.info, real.class_names());
    let same = same_classes(request, real);
    let labels = request.labels()?;
    if request.names_known && info.data != real.name() {
        eprintln!(
            "warning: the model was trained on {} but is compared with {}, so the search for copies means nothing",
            info.data,
            real.name()
        );
    }
    if labels.is_some() && !same {
        eprintln!(
            "warning: no accuracy is measured: the classes of the model are {}, but those of {} are {}",
            info.classes.join(", "),
            real.name(),
            names.join(", ")
        );
    }
    Ok(labels.filter(|_| same))
}

fn read(path: &Path, labels: Option<&Path>, features: &Features, real: &Dataset) -> Result<Samples> {
    let (at, images) = (path.display(), samples_from_npy(path)?);
    let (n, c, h, w) = images.dims4()?;
    features.check([c, h, w], &format!("--samples {at}: its images"))?;
    if images.min_all()?.to_scalar::<f32>()? >= 0.0 {
        eprintln!(
            "warning: --samples {at}: no value is below 0, but samples must be in −1 … 1, with −1 for black; if these are in \
             0 … 1, save 2 * x - 1 instead"
        );
    }
    let labels = labels.map(|path| {
        let (labels, classes) = (labels_from_npy(path, n)?, real.class_names().len());
        let wrong = labels.iter().position(|label| *label as usize >= classes);
        if let Some(i) = wrong {
            bail!(
                "--labels {}: labels[{i}] = {}, but {} has the classes 0 … {}",
                path.display(),
                labels[i],
                real.name(),
                classes - 1
            )
        }
        Ok(labels)
    });
    Ok(Samples {
        labels: labels.transpose()?,
        images,
        words: format!("{} from {at}", counted(n, "sample")),
        seconds: 0.0,
    })
}
