//! `diffusion sample`.

use crate::request::{ModelOptions, Request, counted};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use diffusion_core::candle::{DType, Device, Tensor};
use diffusion_core::model::ModelInfo;
use diffusion_core::process::NoiseProcess;
use diffusion_core::progress::Progress;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::{ImageNoise, Sampler, Solver, State, Steps, key_frames};
use diffusion_core::schedule::Schedule;
use diffusion_core::show::{Gif, Grid, Range};
use diffusion_core::train::columns_of;
use std::fs;
use std::path::{Path, PathBuf};

/// The largest number of images in the picture.
const SHOWN: usize = 256;
/// The largest number of images in the animation.
const ANIMATED: usize = 10;
/// Frames of the animation before the last one.
const FRAMES: usize = 30;
/// Small images are enlarged in the animation, up to about this height in pixels.
const ANIMATED_SIDE: usize = 84;
/// The default number of steps.
const DEFAULT_STEPS: usize = 50;
/// The default number of steps of a consistency model.
const CONSISTENCY_STEPS: usize = 2;
/// The default number of DDPM steps for a process without time steps.
const CONTINUOUS_DDPM_STEPS: usize = 1000;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// The number of images [default: one for each of --class or of the texts, otherwise 64]
    #[arg(long)]
    n: Option<usize>,
    #[command(flatten)]
    sampling: SamplerOptions,
    #[command(flatten)]
    batch: BatchOption,
    /// The picture: a grid of the images
    #[arg(long, default_value = "samples.png")]
    out: PathBuf,
    /// Also writes the images for NumPy, as float32 (N, C, H, W) in −1 … 1
    #[arg(long)]
    npy: Option<PathBuf>,
    /// Also writes the reverse process of the first ten images as an animation: x_t, and below it the predicted clean image x̂_0
    #[arg(long)]
    gif: Option<PathBuf>,
    /// How values map to brightness. clamp: −1 is black and 1 is white; stretch: the smallest value is black and the largest is
    /// white [default: clamp, or stretch where clamping would hide everything]
    #[arg(long, value_enum)]
    range: Option<Shades>,
}

/// The options of the sampler.
#[derive(Args)]
pub struct SamplerOptions {
    /// The sampler [default: ddim, or consistency for a consistency model]
    #[arg(long, value_enum)]
    sampler: Option<Name>,
    /// The number of steps [default: 50; for ddpm all time steps of the training, or 1000 if its process has none; for a
    /// consistency model 2]
    #[arg(long)]
    steps: Option<usize>,
    /// η of DDIM, in 0 … 1: 0 is deterministic, 1 is DDPM
    #[arg(long, allow_negative_numbers = true)]
    eta: Option<f64>,
}

/// The size of the batches in which many images are sampled.
#[derive(Args)]
pub struct BatchOption {
    /// The largest batch
    #[arg(long, default_value_t = 256)]
    batch: usize,
}

impl BatchOption {
    pub fn check(&self) -> Result<()> {
        ensure!(self.batch > 0, "--batch 0: it must be at least 1");
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Name {
    Ddpm,
    Ddim,
    Heun,
    #[value(name = "dpm++")]
    DpmSolver,
    Consistency,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shades {
    Clamp,
    Stretch,
}

impl SamplerOptions {
    /// Returns an error if a flag does not belong to the sampler.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.eta.is_none() || self.sampler.is_none_or(|it| it == Name::Ddim),
            "--eta is for --sampler ddim only: ddpm has η = 1, the other samplers have η = 0"
        );
        Ok(())
    }

    /// The sampler for a model, and its number of steps.
    pub fn sampler(&self, info: &ModelInfo) -> Result<(Sampler, usize)> {
        self.check()?;
        if info.consistency {
            ensure!(
                self.name(info) == Name::Consistency && self.eta.is_none(),
                "--sampler, --eta: this consistency model predicts complete images, not averages, and needs its own sampler; leave \
                 both out"
            );
        } else {
            ensure!(
                self.name(info) != Name::Consistency,
                "--sampler consistency: this is not a consistency model; `diffusion train --objective consistency --from MODEL` makes \
                 one of it"
            );
        }
        let process = &info.process;
        let n = self.steps.unwrap_or(match self.name(info) {
            Name::Ddpm => ddpm_steps(process),
            Name::Consistency => CONSISTENCY_STEPS,
            _ => DEFAULT_STEPS,
        });
        check_steps("--steps", n, process)?;
        let sampler = match self.name(info) {
            Name::Consistency => Sampler::consistency(n),
            Name::Ddim => Sampler { solver: Solver::Ddim { eta: self.eta.unwrap_or(0.0) }, ..Sampler::ddim(n) },
            Name::Heun => Sampler::heun(n),
            Name::DpmSolver => Sampler::dpm_solver(n),
            Name::Ddpm => Sampler { steps: Steps::Trailing(n), ..Sampler::ddpm() },
        };
        Ok((sampler, n))
    }

    fn name(&self, info: &ModelInfo) -> Name {
        self.sampler.unwrap_or(if info.consistency { Name::Consistency } else { Name::Ddim })
    }

    /// The sampler as the flags name it: `ddim`, `ddim with η = 0.5`, `dpm++`.
    pub fn words(&self, info: &ModelInfo) -> String {
        let name = self.name(info).to_possible_value();
        let name = name.map_or_else(String::new, |it| it.get_name().to_owned());
        match self.eta {
            Some(eta) => format!("{name} with η = {eta}"),
            None => name,
        }
    }
}

/// The default number of DDPM steps: all time steps of a discrete process.
pub fn ddpm_steps(process: &NoiseProcess) -> usize {
    process.schedule().map_or(CONTINUOUS_DDPM_STEPS, Schedule::timesteps)
}

/// Returns an error that names the flag if the process does not have `n` steps.
pub fn check_steps(flag: &str, n: usize, process: &NoiseProcess) -> Result<()> {
    if let Ok(schedule) = process.schedule() {
        let all = schedule.timesteps();
        ensure!(
            (1..=all).contains(&n),
            "{flag} {n}: it must be in 1 … {all}; the model was trained with {all} time steps"
        );
    }
    process.steps(n).with_context(|| format!("{flag} {n}"))?;
    Ok(())
}

pub fn run(options: &Options) -> Result<()> {
    options.sampling.check()?;
    options.batch.check()?;
    let files = [(Some(&options.out), "png"), (options.npy.as_ref(), "npy"), (options.gif.as_ref(), "gif")];
    for (path, extension) in files {
        path.map_or(Ok(()), |path| prepare(path, extension))?;
    }
    let request = options.model.load(options.n, 64)?;
    let info = &request.model.info;
    let (_, steps) = options.sampling.sampler(info)?;
    println!(
        "{}, {}, {}, {}, seed {}",
        counted(request.n, "image"),
        request.words,
        options.sampling.words(info),
        counted(steps, "step"),
        options.model.seed
    );
    if let Some(warning) = info.schedule().ok().and_then(Schedule::warning) {
        eprintln!("warning: {warning}");
    }
    let animated = options.gif.is_some();
    let (images, frames) = draw(&options.sampling, &options.batch, &request, options.model.seed, animated)?;
    let images = images.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    if let Some(path) = &options.npy {
        write_npy(&images.clamp(-1f64, 1f64)?, path)?;
        println!("{}", path.display());
    }
    let shown = request.n.min(SHOWN);
    let first = images.narrow(0, 0, shown)?;
    let range = match options.range {
        Some(Shades::Clamp) => Range::Clamp,
        Some(Shades::Stretch) => Range::Stretch,
        None => Range::fitting(&first)?,
    };
    if range == Range::Stretch {
        println!("the picture is stretched from the smallest to the largest value; --range clamp turns this off");
    }
    if shown < request.n {
        println!("the picture shows the first {shown}");
    }
    let square = (shown as f64).sqrt().ceil() as usize;
    let columns = columns_of(request.turn).filter(|columns| *columns <= shown).unwrap_or(square);
    let grid = |x: &Tensor| Ok::<_, anyhow::Error>(Grid::new(x)?.columns(columns).range(range));
    grid(&first)?.save(&options.out)?;
    println!("{}", options.out.display());
    if let Some(path) = &options.gif {
        animation(&frames, range)?.save(path)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Writes to a temporary name first, so that a full disk does not leave half a file.
pub fn write_npy(values: &Tensor, path: &Path) -> Result<()> {
    let unfinished = path.with_extension("npy.part");
    let written = values.write_npy(&unfinished).map_err(anyhow::Error::from);
    written.and_then(|()| Ok(fs::rename(&unfinished, path)?)).with_context(|| {
        let _ = fs::remove_file(&unfinished);
        format!("cannot write {}", path.display())
    })
}

/// The states as an animation. The frames are chosen so that x̂_0 changes equally much from one to the next.
fn animation(states: &[State], range: Range) -> Result<Gif> {
    let side = states.first().map_or(Ok(1), |state| state.xt.dim(2))?;
    let scale = (ANIMATED_SIDE / side).clamp(1, 3);
    let frame = |above: &Tensor, below: &Tensor| {
        let rows = Grid::rows(&[above.clone(), below.clone()])?;
        Ok::<_, anyhow::Error>(rows.row_titles(["x_t", "x̂_0"]).scale(scale).range(range))
    };
    let moved = states.windows(2).map(|pair| {
        let by = (&pair[1].x0_hat - &pair[0].x0_hat)?.sqr()?.mean_all()?.sqrt()?;
        Ok(f64::from(by.to_scalar::<f32>()?))
    });
    let moved: Vec<f64> = moved.collect::<Result<_>>()?;
    let mut frames = Vec::new();
    for i in key_frames(&moved, FRAMES) {
        frames.push(frame(&states[i].xt, &states[i].x0_hat)?);
    }
    if let Some(last) = states.last() {
        frames.push(frame(&last.xs, &last.xs)?);
    }
    Ok(Gif::new(frames)?.delay_ms(80).hold_last_ms(2000))
}

/// Samples the images; if `animated`, also returns the states of the first ones.
pub fn draw(
    sampling: &SamplerOptions,
    batch: &BatchOption,
    request: &Request,
    seed: u64,
    animated: bool,
) -> Result<(Tensor, Vec<State>)> {
    let (n, batch) = (request.n, batch.batch);
    let (sampler, steps) = sampling.sampler(&request.model.info)?;
    let [_, height, width] = request.model.info.shape;
    request.model.network.ensure_room(batch.min(n), (height, width), false).context("--batch")?;
    let mut rng = Rng::new(seed);
    let noise_of_steps = ImageNoise::new(&rng);
    let noise = request.model.noise(n, &mut rng)?;
    let (mut images, mut frames) = (Vec::new(), Vec::new());
    let mut progress = Progress::new((n.div_ceil(batch) * steps) as u64, "sampling");
    for start in (0..n).step_by(batch) {
        let len = batch.min(n - start);
        let (xt, part) = (noise.narrow(0, start, len)?, request.guidance.narrow(start, len)?);
        let recorded = start == 0 && animated;
        let mut states = request.model.states_with(&xt, part, &sampler, noise_of_steps.skip(start))?;
        for state in &mut states {
            let state = state?;
            if recorded {
                frames.push(state.narrow(0, len.min(ANIMATED))?);
            }
            progress.step();
        }
        images.push(request.model.decode(&states.finish()?)?);
    }
    for frame in &mut frames {
        for x in [&mut frame.xt, &mut frame.x0_hat, &mut frame.xs] {
            *x = request.model.decode(x)?;
        }
    }
    progress.finish();
    Ok((Tensor::cat(&images, 0)?, frames))
}

/// Creates the folder of an output file, whose name must end in `extension`.
pub fn prepare(path: &Path, extension: &str) -> Result<()> {
    ensure!(
        path.extension().is_some_and(|it| it.eq_ignore_ascii_case(extension)),
        "{}: the file name must end in .{extension}",
        path.display()
    );
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => {
            fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))
        }
        _ => Ok(()),
    }
}
