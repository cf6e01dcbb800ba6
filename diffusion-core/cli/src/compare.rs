//! `diffusion compare`: DDPM's many steps against DDIM's few, from the same noise.

use crate::ask::{Ask, counted};
use crate::sample::{check_steps, prepare};
use anyhow::Result;
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
    ask: Ask,
    /// Steps of DDIM
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// Steps of DDPM [default: all that the model was trained with]
    #[arg(long)]
    ddpm_steps: Option<usize>,
    /// The picture of both
    #[arg(long, default_value = "compare.png")]
    out: PathBuf,
}

pub fn run(options: &Options) -> Result<()> {
    prepare(&options.out, "png")?;
    let asked = options.ask.load(10)?;
    let (few, schedule) = (Sampler::ddim(options.steps), asked.model.info.schedule()?);
    let many = Sampler { steps: options.ddpm_steps.map_or(Steps::All, Steps::Trailing), ..Sampler::ddpm() };
    check_steps("--steps", options.steps, schedule)?;
    if let Some(steps) = options.ddpm_steps {
        check_steps("--ddpm-steps", steps, schedule)?;
    }
    println!("{}, {}", counted(asked.n, "image"), asked.words);
    let noise = asked.model.noise(asked.n, &mut Rng::new(options.ask.seed))?;
    let (mut rows, mut titles, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for (name, sampler) in [("DDPM", many), ("DDIM", few)] {
        let of_steps = ImageNoise::new(&Rng::new(options.ask.seed));
        let began = Instant::now();
        let states = asked.model.states_with(&noise, &asked.guidance, &sampler, of_steps)?;
        let mut images = noise.clone();
        let steps = counted(states.len(), "step");
        for state in Progress::wrap(states, name) {
            images = state?.xs;
        }
        // Waits for the device, too.
        images.flatten_all()?.get(0)?.to_scalar::<f32>()?;
        let seconds = began.elapsed().as_secs_f64();
        println!("{name}: {steps}, {seconds:.2} s");
        rows.push(images);
        titles.push(format!("{name}, {steps}, {seconds:.2} s"));
        times.push(seconds);
    }
    println!("DDIM is {:.1} × as fast", times[0] / times[1]);
    Grid::rows(&rows)?
        .row_titles(titles)
        .caption(format!("from the same noise, seed {}", options.ask.seed))
        .save(&options.out)?;
    println!("{}", options.out.display());
    Ok(())
}
