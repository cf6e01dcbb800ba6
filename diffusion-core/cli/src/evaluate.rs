//! `diffusion evaluate`.

mod bits;
mod features;
mod reconstruct;

use bits::bits;
use features::Features;

use crate::attributes::Test;
use crate::card::{self, Header};
use crate::request::{ModelOptions, Request, counted};
use crate::sample::{self, BatchOption, SamplerOptions, prepare};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use diffusion_core::candle::Tensor;
use diffusion_core::config::RunConfig;
use diffusion_core::data::{Cache, Dataset, Source, TASKS, labels_from_npy, samples_from_npy};
use diffusion_core::device::described;
use diffusion_core::metrics::Evaluation;
use diffusion_core::rng::Rng;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The default number of training sprites and their seed.
const SPRITES: usize = 50_000;
const DATA_SEED: u64 = 42;

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
    let vae = options.model.autoencoder()?;
    let mut model = match (&options.samples, &vae) {
        (None, None) => Some(options.model.load(options.n, 10_000)?),
        _ => None,
    };
    if let Some(request) = &model {
        options.sampling.sampler(&request.model.info)?;
    }
    let trained_on = match (&model, &vae) {
        (Some(it), _) => Some((&it.model.info.data[..], it.model.image_shape())),
        (_, Some(vae)) => Some((vae.data(), vae.shape())),
        _ => None,
    };
    let captions = model.as_ref().is_some_and(|it| it.model.network.architecture().tokens() > 0);
    let (source, data_seed, cache) = source(options, trained_on, captions)?;
    let seed = options.model.seed;
    let (train, real) = match cache {
        Some(cache) => source.load_both_cached(data_seed, &cache)?,
        None => source.load_both(data_seed)?,
    };
    if let Some((_, shape)) = trained_on {
        let (other, at) = (real.shape(), &source.task);
        ensure!(
            shape == other,
            "--checkpoint: the model's images are {}, but those of {at} are {}; name its training data with --data",
            size(shape),
            size(other)
        );
    }
    if let (Some(request), Some(n)) = (&model, options.bits) {
        bits::check(n, request, &real)?;
    }
    let features = Features::load(options, &source, &real)?;
    if let Some(warning) = features.warning() {
        eprintln!("warning: {warning}");
    }
    let begin = |request| Test::begin(request, &options.model, options.attributes.as_deref(), &real);
    let test = model.as_mut().map_or(Ok(None), begin)?;
    let mut reconstruction = None;
    let samples = match (&options.samples, &model, &vae) {
        (Some(path), ..) => read(path, options.labels.as_deref(), &features, &real)?,
        (_, Some(request), _) => draw(options, request, &features, &real)?,
        (.., Some(vae)) => {
            let (samples, measured) = reconstruct::run(options, vae, &real)?;
            reconstruction = Some(measured);
            samples
        }
        _ => bail!("name a model with --checkpoint, or a file of samples with --samples"),
    };
    println!("{}", samples.words);
    if let Some(it) = &reconstruction {
        println!("{it}");
    }
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
        "reconstruction": reconstruction,
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
            task: match (&model, &vae) {
                (Some(request), _) => request.task(),
                (_, Some(_)) => card::AUTOENCODER,
                _ => "unconditional-image-generation",
            },
            license: None,
        };
        let words = format!(
            "{}, compared with {} test images by the {features}. Sampling took {:.0} s and measuring {seconds:.0} s on {machine}.{}",
            samples.words,
            real.len(),
            samples.seconds,
            bits.map_or_else(String::new, |bits| format!(" Likelihood: {bits}."))
                + &reconstruction.map_or_else(String::new, |it| format!(" {it}."))
                + &attributes.map_or_else(String::new, |it| format!("\n\n{}", it.table()))
        );
        card::measured(path, &header, &it, &words)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// The data set to compare with, at the size of the model's images, the seed of its split, and the decoded pictures of the run.
fn source(
    options: &Options,
    trained_on: Option<(&str, [usize; 3])>,
    captions: bool,
) -> Result<(Source, u64, Option<Cache>)> {
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
    let side = match trained_on {
        Some((_, [_, height, width])) if height == width => Some(height),
        _ => None,
    };
    let source = |task: &str| Source {
        task: task.to_owned(),
        images: options.images.unwrap_or(SPRITES),
        side,
        ..Source::default()
    };
    let source = match (&options.data, run, trained_on) {
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
        (None, _, Some((task, _))) => {
            ensure!(
                there(task),
                "the model was trained on {task}, which is not here: name a folder or .npy file with --data, or one of {known}"
            );
            source(task)
        }
        (None, _, None) => bail!("--samples: name the data set to compare with, using --data"),
    };
    Ok((Source { captions, ..source }, seed, None))
}

pub fn size([c, h, w]: [usize; 3]) -> String {
    format!("{c}×{h}×{w}")
}

fn draw(options: &Options, request: &Request, features: &Features, real: &Dataset) -> Result<Samples> {
    let info = &request.model.info;
    features.check(request.model.image_shape(), "--checkpoint: the images of this model")?;
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
