//! `diffusion sample`.

use crate::ask::{Ask, Asked, counted};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use diffusion_core::candle::{DType, Device, Tensor};
use diffusion_core::progress::Progress;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::{ImageNoise, Sampler, Solver, State, Steps, key_frames};
use diffusion_core::schedule::Schedule;
use diffusion_core::show::{Gif, Grid, Range};
use diffusion_core::train::columns_of;
use std::fs;
use std::path::{Path, PathBuf};

/// Images in the picture and the animation at most.
const SHOWN: usize = 256;
/// Images in the animation at most.
const FILMED: usize = 10;
/// Frames of the animation, the last not counted.
const FRAMES: usize = 30;
/// About how many pixels high an image of the animation is at most, if it is enlarged.
const FILM_SIDE: usize = 84;
/// Steps if nothing says how many.
const USUAL_STEPS: usize = 50;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    how: How,
    /// The picture of all images
    #[arg(long, default_value = "samples.png")]
    out: PathBuf,
    /// Also writes the images as float32 (N, C, H, W) in −1 … 1 for NumPy
    #[arg(long)]
    npy: Option<PathBuf>,
    /// Also writes the way of the first ten from noise to images as an animation: x_t, and below it x̂_0, what the network sees
    /// in it
    #[arg(long)]
    gif: Option<PathBuf>,
    /// How values become shades: −1 is black and 1 white, or the smallest black and the largest white [default: clamp, and
    /// stretch where nothing could be seen otherwise]
    #[arg(long, value_enum)]
    range: Option<Shades>,
}

/// From noise to images.
#[derive(Args)]
pub struct How {
    /// How to get from noise to images
    #[arg(long, value_enum, default_value = "ddim")]
    sampler: Name,
    /// How many steps [default: 50; of ddpm all that the model was trained with]
    #[arg(long)]
    steps: Option<usize>,
    /// η of DDIM in 0 … 1: 0 draws no noise, 1 is DDPM
    #[arg(long, allow_negative_numbers = true)]
    eta: Option<f64>,
    /// Images in a batch at most
    #[arg(long, default_value_t = 256)]
    batch: usize,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Name {
    Ddpm,
    Ddim,
    Heun,
    #[value(name = "dpm++")]
    DpmSolver,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shades {
    Clamp,
    Stretch,
}

impl How {
    pub fn batch(&self) -> Result<usize> {
        ensure!(self.batch > 0, "--batch 0: at least 1 is needed");
        Ok(self.batch)
    }

    pub fn sampler(&self) -> Result<Sampler> {
        ensure!(
            self.eta.is_none() || self.sampler == Name::Ddim,
            "--eta is for --sampler ddim only; ddpm is η = 1, the others 0"
        );
        let n = self.steps.unwrap_or(USUAL_STEPS);
        Ok(match self.sampler {
            Name::Ddim => Sampler { solver: Solver::Ddim { eta: self.eta.unwrap_or(0.0) }, ..Sampler::ddim(n) },
            Name::Heun => Sampler::heun(n),
            Name::DpmSolver => Sampler::dpm_solver(n),
            Name::Ddpm => Sampler { steps: self.steps.map_or(Steps::All, Steps::Trailing), ..Sampler::ddpm() },
        })
    }

    /// How many steps it takes.
    pub fn steps(&self, schedule: &Schedule) -> Result<usize> {
        let n = match self.sampler {
            Name::Ddpm => self.steps.unwrap_or(schedule.timesteps()),
            _ => self.steps.unwrap_or(USUAL_STEPS),
        };
        check_steps("--steps", n, schedule)?;
        Ok(n)
    }

    /// The sampler as the flags name it: `ddim`, `ddim with η = 0.5`, `dpm++`.
    pub fn words(&self) -> String {
        let name = self.sampler.to_possible_value();
        let name = name.map_or_else(String::new, |it| it.get_name().to_owned());
        match self.eta {
            Some(eta) => format!("{name} with η = {eta}"),
            None => name,
        }
    }
}

/// An error that names the flag if a schedule does not have so many steps to visit.
pub fn check_steps(flag: &str, n: usize, schedule: &Schedule) -> Result<()> {
    let all = schedule.timesteps();
    ensure!(
        (1..=all).contains(&n),
        "{flag} {n}: it must be in 1 … {all}, the time steps that the model was trained with"
    );
    Ok(())
}

pub fn run(options: &Options) -> Result<()> {
    options.how.batch()?;
    options.how.sampler()?;
    let files = [(Some(&options.out), "png"), (options.npy.as_ref(), "npy"), (options.gif.as_ref(), "gif")];
    for (path, extension) in files {
        path.map_or(Ok(()), |path| prepare(path, extension))?;
    }
    let asked = options.ask.load(64)?;
    let schedule = asked.model.info.schedule()?;
    let steps = options.how.steps(schedule)?;
    println!(
        "{}, {}, {} in {}, seed {}",
        counted(asked.n, "image"),
        asked.words,
        options.how.words(),
        counted(steps, "step"),
        options.ask.seed
    );
    if let Some(warning) = schedule.warning() {
        eprintln!("warning: {warning}");
    }
    let filmed = options.gif.is_some();
    let (images, frames) = draw(&options.how, &asked, options.ask.seed, steps, filmed)?;
    let images = images.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    if let Some(path) = &options.npy {
        write_npy(&images.clamp(-1f64, 1f64)?, path)?;
        println!("{}", path.display());
    }
    let shown = asked.n.min(SHOWN);
    let first = images.narrow(0, 0, shown)?;
    let range = match options.range {
        Some(Shades::Clamp) => Range::Clamp,
        Some(Shades::Stretch) => Range::Stretch,
        None => Range::fitting(&first)?,
    };
    if range == Range::Stretch {
        println!("shades are stretched from the smallest to the largest value; --range clamp shows them as they are");
    }
    if shown < asked.n {
        println!("the picture shows the first {shown}");
    }
    let square = (shown as f64).sqrt().ceil() as usize;
    let columns = columns_of(asked.turn).filter(|columns| *columns <= shown).unwrap_or(square);
    let grid = |x: &Tensor| Ok::<_, anyhow::Error>(Grid::new(x)?.columns(columns).range(range));
    grid(&first)?.save(&options.out)?;
    println!("{}", options.out.display());
    if let Some(path) = &options.gif {
        film(&frames, range)?.save(path)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Under another name first, so that a full disk leaves no half of a file.
fn write_npy(values: &Tensor, path: &Path) -> Result<()> {
    let unfinished = path.with_extension("npy.part");
    let written = values.write_npy(&unfinished).map_err(anyhow::Error::from);
    written.and_then(|()| Ok(fs::rename(&unfinished, path)?)).with_context(|| {
        let _ = fs::remove_file(&unfinished);
        format!("cannot write {}", path.display())
    })
}

/// The states as an animation, of those between which x̂_0 moves equally far.
fn film(states: &[State], range: Range) -> Result<Gif> {
    // Large images are large enough.
    let side = states.first().map_or(Ok(1), |state| state.xt.dim(2))?;
    let scale = (FILM_SIDE / side).clamp(1, 3);
    let sheet = |above: &Tensor, below: &Tensor| {
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
        frames.push(sheet(&states[i].xt, &states[i].x0_hat)?);
    }
    if let Some(last) = states.last() {
        frames.push(sheet(&last.xs, &last.xs)?);
    }
    Ok(Gif::new(frames)?.delay_ms(80).hold_last_ms(2000))
}

/// The images, and for an animation (`filmed`) the states of the first ones.
pub fn draw(how: &How, asked: &Asked, seed: u64, steps: usize, filmed: bool) -> Result<(Tensor, Vec<State>)> {
    let (n, batch, sampler) = (asked.n, how.batch()?, how.sampler()?);
    let [_, height, width] = asked.model.info.shape;
    asked.model.network.ensure_room(batch.min(n), (height, width), false).context("--batch")?;
    let mut rng = Rng::new(seed);
    let noise_of_steps = ImageNoise::new(&rng);
    let noise = asked.model.noise(n, &mut rng)?;
    let (mut images, mut frames) = (Vec::new(), Vec::new());
    let mut progress = Progress::new((n.div_ceil(batch) * steps) as u64, "sampling");
    for start in (0..n).step_by(batch) {
        let len = batch.min(n - start);
        let (xt, part) = (noise.narrow(0, start, len)?, asked.guidance.narrow(start, len)?);
        let recorded = start == 0 && filmed;
        let mut states = asked.model.states_with(&xt, part, &sampler, noise_of_steps.skip(start))?;
        for state in &mut states {
            let state = state?;
            if recorded {
                frames.push(state.narrow(0, len.min(FILMED))?);
            }
            progress.step();
        }
        images.push(states.finish()?);
    }
    progress.finish();
    Ok((Tensor::cat(&images, 0)?, frames))
}

/// Makes the folder that a file goes to, whose name must end in `extension`.
pub fn prepare(path: &Path, extension: &str) -> Result<()> {
    ensure!(
        path.extension().is_some_and(|it| it.eq_ignore_ascii_case(extension)),
        "{}: this is saved as a .{extension} file; let the name end in .{extension}",
        path.display()
    );
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
        }
        _ => Ok(()),
    }
}
