//! `diffusion compare`: DDPM and DDIM from the same noise.

use crate::request::{ModelOptions, counted};
use crate::sample::{check_steps, ddpm_steps, prepare};
use anyhow::{Result, ensure};
use clap::Args;
use diffusion_core::progress::Progress;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::{ImageNoise, Sampler, Steps};
use diffusion_core::show::Grid;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// The number of images [default: one for each of --class or of the texts, otherwise 10]
    #[arg(long)]
    n: Option<usize>,
    /// The number of DDIM steps
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// The number of DDPM steps [default: all time steps of the training, or 1000 if its process has none]
    #[arg(long)]
    ddpm_steps: Option<usize>,
    /// The picture: one row of images for each sampler
    #[arg(long, default_value = "compare.png")]
    out: PathBuf,
}

pub fn run(options: &Options) -> Result<()> {
    prepare(&options.out, "png")?;
    let request = options.model.load(options.n, 10)?;
    ensure!(
        !request.model.info.consistency,
        "--checkpoint: a consistency model has a sampler of its own, so DDPM and DDIM cannot be compared with it"
    );
    let process = &request.model.info.process;
    let ddpm_steps = options.ddpm_steps.unwrap_or(ddpm_steps(process));
    check_steps("--steps", options.steps, process)?;
    check_steps("--ddpm-steps", ddpm_steps, process)?;
    let ddim = Sampler::ddim(options.steps);
    let ddpm = Sampler { steps: Steps::Trailing(ddpm_steps), ..Sampler::ddpm() };
    println!("{}, {}", counted(request.n, "image"), request.words);
    let noise = request.model.noise(request.n, &mut Rng::new(options.model.seed))?;
    let (mut rows, mut titles, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for (name, sampler) in [("DDPM", ddpm), ("DDIM", ddim)] {
        let of_steps = ImageNoise::new(&Rng::new(options.model.seed));
        let began = Instant::now();
        let states = request.model.states_with(&noise, &request.guidance, &sampler, of_steps)?;
        let mut images = noise.clone();
        let steps = counted(states.len(), "step");
        for state in Progress::wrap(states, name) {
            images = state?.xs;
        }
        // Wait until the device has finished.
        images.flatten_all()?.get(0)?.to_scalar::<f32>()?;
        let seconds = began.elapsed().as_secs_f64();
        println!("{name}: {steps}, {seconds:.2} s");
        rows.push(request.model.decode(&images)?);
        titles.push(format!("{name}, {steps}, {seconds:.2} s"));
        times.push(seconds);
    }
    println!("DDIM is {:.1} times as fast", times[0] / times[1]);
    Grid::rows(&rows)?
        .row_titles(titles)
        .caption(format!("from the same noise, seed {}", options.model.seed))
        .save(&options.out)?;
    println!("{}", options.out.display());
    Ok(())
}
