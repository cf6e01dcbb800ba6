//! The command line: the same code as the notebooks, for long runs and for scripts.

/// As in the standard library, but what reads the output may end before this program does (`diffusion summary | head -1`):
/// what is to be done is done all the same.
macro_rules! println {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// The same for errors and notes.
macro_rules! eprintln {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod ask;
mod card;
mod check;
mod classifier;
mod compare;
mod evaluate;
mod export;
mod leaderboard;
mod recipe;
mod sample;
mod train;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use diffusion_core::candle::Device;
use diffusion_core::device::{Choice, Precision};
use diffusion_core::unet::{Architecture, Network};
use diffusion_core::{config, data, rng::Rng};
use std::process::ExitCode;
use std::sync::Once;

/// Trains and looks at diffusion models.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trains a network, in a folder from which it can be taken up again
    Train(Box<train::Options>),
    /// Draws images with a model
    Sample(Box<sample::Options>),
    /// DDPM's many steps against DDIM's few, from the same noise: pictures and times in one image
    Compare(Box<compare::Options>),
    /// How good the samples of a model are, or those of a file, in numbers
    Evaluate(Box<evaluate::Options>),
    /// Writes the model of a run as weights, a card and a picture
    Export(export::Options),
    /// Trains a classifier of a data set, in whose features the metrics compare images
    Classifier(classifier::Options),
    /// Trains and measures schedule × parameterisation × loss × sampler × steps on the built-in sprites
    Leaderboard(leaderboard::Options),
    /// Computes every operation, a network and its training on a device and compares them with the CPU's
    Check {
        /// auto, cpu, cuda or metal
        #[arg(long, default_value = "auto")]
        device: Choice,
        /// f32, tf32 or bf16 [default: each of them]
        #[arg(long)]
        precision: Option<Precision>,
    },
    /// What the data sets need
    Data {
        #[command(subcommand)]
        action: Data,
    },
    /// The layers of a network: shapes, parameters, multiply-adds
    Summary {
        /// simple-unet, context-unet, …; or the file of a model
        #[arg(long, default_value = "simple-unet")]
        model: String,
        /// A TOML file whose network is taken in its place
        #[arg(long, conflicts_with = "model")]
        config: Option<std::path::PathBuf>,
        /// Height and width of the image
        #[arg(long)]
        side: Option<usize>,
    },
}

#[derive(Subcommand)]
enum Data {
    /// Downloads a data set, or checks that it is there: mnist, fashion-mnist, cifar10
    Fetch {
        /// Its name
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

/// The device that was chosen; says once if it is not the best that there might be.
fn device(choice: Choice) -> Result<Device> {
    static SAID: Once = Once::new();
    let (device, note) = choice.open().context("--device")?;
    if let Some(note) = note {
        SAID.call_once(|| eprintln!("note: {note}"));
    }
    Ok(device)
}

/// Says what a device has computed, and fails if any of it is wrong.
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
        println!("\nall of it is right");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("\n{}", ask::counted(wrong, "wrong result"));
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
        None => bail!("--model {model}: neither a file nor one of {}", Architecture::NAMES.join(", ")),
    };
    let side = side.unwrap_or_else(|| network.architecture().usual_side());
    let summary = network.summary(side, side).with_context(|| format!("--side {side}"))?;
    println!("{summary}");
    Ok(())
}
