//! The command line of diffusion-core, for long training runs and for scripts.

/// Like the standard macro, but ignores write errors: if the reader of the output exits early (`diffusion summary | head -1`),
/// the command still completes.
macro_rules! println {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// The same for the standard error stream.
macro_rules! eprintln {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod attributes;
mod card;
mod check;
mod classifier;
mod compare;
mod edit;
mod evaluate;
mod export;
mod leaderboard;
mod recipe;
mod request;
mod sample;
mod tensorboard;
mod train;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use diffusion_core::candle::Device;
use diffusion_core::device::{Choice, Precision};
use diffusion_core::unet::{Architecture, Network};
use diffusion_core::{config, data, rng::Rng};
use std::process::ExitCode;
use std::sync::Once;

/// Trains diffusion models, samples from them and evaluates them.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trains a network in a run folder, from which training can be resumed
    Train(Box<train::Options>),
    /// Samples images from a model
    Sample(Box<sample::Options>),
    /// Samples with DDPM and with DDIM from the same noise, and shows images and times side by side
    Compare(Box<compare::Options>),
    /// Fills the unknown part of images with a model that was not trained for it
    Inpaint(Box<edit::Inpainting>),
    /// Enlarges images with a super-resolution model
    Upscale(Box<edit::Upscaling>),
    /// Samples variations of images, starting from the images with noise added
    Vary(Box<edit::Varying>),
    /// Measures the quality of a model's samples, or of the samples in a file
    Evaluate(Box<evaluate::Options>),
    /// Exports the model of a run: the weights, a model card and a picture
    Export(export::Options),
    /// Trains a classifier of a data set; `evaluate` compares images by the classifier's features
    Classifier(classifier::Options),
    /// Trains and compares schedules, prediction types, losses, samplers and numbers of steps on the built-in sprites
    Leaderboard(leaderboard::Options),
    /// Compares every operation, a network and its training on a device with the results of the CPU
    Check {
        /// The device: auto, cpu, cuda or metal
        #[arg(long, default_value = "auto")]
        device: Choice,
        /// The precision: f32, tf32 or bf16 [default: all three]
        #[arg(long)]
        precision: Option<Precision>,
    },
    /// Downloads data sets
    Data {
        #[command(subcommand)]
        action: Data,
    },
    /// Lists the layers of a network with their output shapes, parameters and multiply-adds
    Summary {
        /// A network (simple-unet, context-unet, …) or a model file
        #[arg(long, default_value = "simple-unet")]
        model: String,
        /// A TOML configuration whose network is listed instead
        #[arg(long, conflicts_with = "model")]
        config: Option<std::path::PathBuf>,
        /// Height and width of the images
        #[arg(long)]
        side: Option<usize>,
    },
}

#[derive(Subcommand)]
enum Data {
    /// Downloads a data set, or checks that its files are complete
    Fetch {
        /// mnist, fashion-mnist or cifar10
        name: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(problem) => {
            eprintln!("diffusion: {}", diffusion_core::message(&problem));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Train(options) => return train::run(*options),
        Command::Sample(options) => sample::run(&options)?,
        Command::Compare(options) => compare::run(&options)?,
        Command::Inpaint(options) => edit::inpaint(&options)?,
        Command::Upscale(options) => edit::upscale(&options)?,
        Command::Vary(options) => edit::vary(&options)?,
        Command::Export(options) => export::run(options)?,
        Command::Evaluate(options) => evaluate::run(&options)?,
        Command::Classifier(options) => classifier::run(options)?,
        Command::Leaderboard(options) => leaderboard::run(&options)?,
        Command::Data { action: Data::Fetch { name } } => {
            for path in data::fetch(&name)? {
                println!("{}", path.display());
            }
        }
        Command::Check { device, precision } => return check(device, precision),
        Command::Summary { model, config, side } => summary(&model, config, side)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the chosen device. If a better one cannot be used, a note says why, once per run.
fn device(choice: Choice) -> Result<Device> {
    static SAID: Once = Once::new();
    let (device, note) = choice.open().context("--device")?;
    if let Some(note) = note {
        SAID.call_once(|| eprintln!("note: {note}"));
    }
    Ok(device)
}

/// Prints a line for each comparison with the CPU, and fails if any error exceeds its tolerance.
fn check(choice: Choice, precision: Option<Precision>) -> Result<ExitCode> {
    let device = device(choice)?;
    println!("device {:?}", device.location());
    let all = [Precision::F32, Precision::Tf32, Precision::Bf16];
    let mut wrong = 0;
    for precision in all.iter().filter(|it| precision.is_none_or(|only| only == **it)) {
        println!("\n{precision}, against the CPU");
        check::check(&device, *precision, |it| {
            println!("{it}");
            wrong += usize::from(!it.held());
        })?;
    }
    if wrong == 0 {
        println!("\nall results agree with the CPU");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("\n{} outside the tolerance", request::counted(wrong, "result"));
    Ok(ExitCode::FAILURE)
}

fn summary(model: &str, config: Option<std::path::PathBuf>, side: Option<usize>) -> Result<()> {
    let device = Device::Cpu;
    let network = match config {
        Some(path) => {
            let architecture = config::RunConfig::load(path)?.network;
            Network::new(architecture, &mut Rng::new(0), &device)?
        }
        None if Architecture::NAMES.contains(&model) => {
            Network::new(config::parse_choice::<Architecture>(model)?, &mut Rng::new(0), &device)?
        }
        None if std::path::Path::new(model).is_file() => Network::load(model, &device)?,
        None => bail!(
            "--model {model}: there is no such file or network; the networks are {}",
            Architecture::NAMES.join(", ")
        ),
    };
    let side = side.unwrap_or_else(|| network.architecture().usual_side());
    let summary = network.summary(side, side).with_context(|| format!("--side {side}"))?;
    println!("{summary}");
    Ok(())
}
