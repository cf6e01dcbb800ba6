//! A variational autoencoder, a GAN and diffusion with the same images, parameters and minutes.

use super::referee::{Referee, Spread};
use super::{Budget, Options, keep, known, machines, write_csv};
use anyhow::{Result, ensure};
use diffusion_core::candle::{Device, Tensor};
use diffusion_core::data::Dataset;
use diffusion_core::device::described;
use diffusion_core::metrics::Evaluation;
use diffusion_core::prediction::Prediction;
use diffusion_core::process::{NoiseProcess, TimeSampling};
use diffusion_core::rng::Rng;
use diffusion_core::sampler::Sampler;
use diffusion_core::train::{Decay, Gan, GanConfig, Objective, Training, TrainingConfig, VectorVae, VectorVaeConfig};
use diffusion_core::unet::{Architecture, Network, SimpleUNet};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// `train_steps` does not apply: the time is limited.
const BUDGET: Budget = Budget { train_steps: 0, base: 32, images: 20_000, samples: 2000, seeds: 3 };
const MINUTES: f64 = 4.0;
/// The numbers of a latent, or of the noise of the GAN.
const VECTOR: usize = 64;
/// The steps of the sampler of diffusion.
const STEPS: usize = 20;
/// Samples that are drawn at once.
const AT_ONCE: usize = 250;
/// The largest ratio of the numbers of parameters.
const WITHIN: f64 = 1.1;
/// A class counts as covered if samples show it at least this share of how often real images do.
const COVERED: f64 = 0.1;

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Family {
    #[serde(rename = "VAE")]
    Vae,
    #[serde(rename = "GAN")]
    Gan,
    #[serde(rename = "diffusion")]
    Diffusion,
}

impl Family {
    const ALL: [Self; 3] = [Self::Vae, Self::Gan, Self::Diffusion];

    fn name(self) -> &'static str {
        match self {
            Self::Vae => "VAE",
            Self::Gan => "GAN",
            Self::Diffusion => "diffusion",
        }
    }
}

/// The result of one training run.
#[derive(Serialize, Deserialize)]
struct Outcome {
    budget: Budget,
    minutes: f64,
    task: String,
    family: Family,
    seed: u64,
    machine: String,
    parameters: usize,
    steps: usize,
    /// Seconds for 1000 samples.
    sampling: f64,
    frechet: f64,
    interval: (f64, f64),
    baseline: f64,
    precision: f64,
    recall: f64,
    copies: f64,
    /// The classes of which there are samples, of all.
    covered: (usize, usize),
}

/// Measures every family and returns its part of the file.
pub(super) fn run(options: &Options) -> Result<String> {
    let (budget, minutes) = (options.budget.over(BUDGET), options.minutes.unwrap_or(MINUTES));
    let device = crate::device(options.device)?;
    let mut outcomes = known(&options.results, |it: &Outcome| it.budget == budget && it.minutes == minutes)?;
    let mut tables = String::new();
    let mut csv = String::from(
        "data,family,seed,parameters,steps,frechet,low,high,baseline,precision,recall,copies,covered,classes,sampling\n",
    );
    for task in &options.tasks {
        let referee = Referee::new(options, budget, task, &device)?;
        for seed in 1..=budget.seeds {
            for family in Family::ALL {
                if outcomes.iter().any(|it| (&it.task, it.family, it.seed) == (task, family, seed)) {
                    continue;
                }
                println!("{task}, {}, seed {seed}", family.name());
                let outcome = play(&referee, budget, minutes, (task, family, seed), &device)?;
                keep(&options.results, &outcome)?;
                outcomes.push(outcome);
            }
        }
        let of_task: Vec<&Outcome> = outcomes.iter().filter(|it| it.task == *task && it.seed <= budget.seeds).collect();
        for it in &of_task {
            let Outcome { seed, parameters, steps, frechet, interval: (low, high), baseline, .. } = it;
            let Outcome { precision, recall, copies, covered: (covered, classes), sampling, .. } = it;
            writeln!(
                csv,
                "{task},{},{seed},{parameters},{steps},{frechet},{low},{high},{baseline},{precision},{recall},{copies},\
                 {covered},{classes},{sampling}",
                it.family.name()
            )?;
        }
        tables += &table(task, &of_task, &referee)?;
    }
    write_csv(options, "families.csv", &csv)?;
    Ok(text(budget, minutes, &machines(outcomes.iter().map(|it| &*it.machine)), &tables))
}

/// Trains a family and measures its samples.
fn play(
    referee: &Referee,
    budget: Budget,
    minutes: f64,
    (task, family, seed): (&str, Family, u64),
    device: &Device,
) -> Result<Outcome> {
    let Trained { parameters, steps, samples, sampling } =
        train(family, &referee.data, seed, (budget, minutes), device)?;
    let samples = samples.clamp(-1f32, 1f32)?;
    let evaluation =
        Evaluation::new(&referee.classifier, &referee.held_out, &referee.data, &samples, None, &mut Rng::new(1))?;
    let classes = referee.data.class_names().len();
    let counts = |classes_of: &[u32]| {
        let mut counts = vec![0.0; classes];
        classes_of.iter().for_each(|class| counts[*class as usize] += 1.0 / classes_of.len() as f64);
        counts
    };
    let shown = counts(&referee.classifier.probabilities(&samples)?.argmax(1)?.to_vec1::<u32>()?);
    let real = counts(referee.data.labels());
    let covered = real.iter().zip(&shown).filter(|(real, shown)| **shown >= COVERED * **real).count();
    Ok(Outcome {
        budget,
        minutes,
        task: task.to_owned(),
        family,
        seed,
        machine: described(device),
        parameters,
        steps,
        sampling,
        frechet: evaluation.frechet_distance.value,
        interval: evaluation.frechet_distance.interval,
        baseline: evaluation.frechet_distance.real.value,
        precision: evaluation.precision.value,
        recall: evaluation.recall.value,
        copies: evaluation.copies.share,
        covered: (covered, classes),
    })
}

/// What a training run gives.
struct Trained {
    parameters: usize,
    steps: usize,
    samples: Tensor,
    /// Seconds for 1000 samples.
    sampling: f64,
}

fn train(
    family: Family,
    data: &Dataset,
    seed: u64,
    (budget, minutes): (Budget, f64),
    device: &Device,
) -> Result<Trained> {
    let unet = SimpleUNet { channels: data.shape()[0], base: budget.base, ..SimpleUNet::default() };
    let wanted = Network::new(unet, &mut Rng::new(seed), device)?.parameters().count();
    let config = TrainingConfig {
        seed,
        epochs: 1_000_000,
        process: NoiseProcess::flow(),
        prediction: Prediction::Velocity,
        times: TimeSampling::LogitNormal { mean: 0.0, std: 1.0 },
        lr: 1e-3,
        warmup: 50,
        decay: Decay::Cosine { floor: 0.0 },
        beta2: 0.99,
        ema: 0.998,
        sample_every: 0,
        ..TrainingConfig::default()
    };
    let vae = |base| VectorVae::new(VectorVaeConfig { base, latent: VECTOR }, seed, data, device);
    let gan = |base| Gan::new(GanConfig { base, noise: VECTOR, ..Default::default() }, seed, data, device);
    let vector = |n: usize, rng: &mut Rng| rng.randn((n, VECTOR), device);
    match family {
        Family::Vae => {
            let base = nearest(wanted, |base| Ok(vae(base)?.parameters().count()))?;
            let (vae, parameters, steps) = fit(config, vae(base)?, data, minutes)?;
            drawn(budget, seed, parameters, steps, |n, rng| vae.decode(&vector(n, rng)?))
        }
        Family::Gan => {
            let count = |it: &Gan| it.parameters().count() + it.discriminator_parameters();
            let base = nearest(wanted, |base| Ok(count(&gan(base)?)))?;
            let config = TrainingConfig { lr: 2e-4, decay: Decay::Constant, ..config };
            let (gan, _, steps) = fit(config, gan(base)?, data, minutes)?;
            drawn(budget, seed, count(&gan), steps, |n, rng| gan.generate(&vector(n, rng)?))
        }
        Family::Diffusion => {
            let mut training = Training::new(config, Architecture::from(unet), data, device)?;
            training.end_within(Duration::from_secs_f64(60.0 * minutes));
            let steps = training.run()?.steps;
            let model = training.into_model()?;
            let sampler = Sampler::dpm_solver(STEPS);
            drawn(budget, seed, wanted, steps, |n, rng| model.sample(n, model.conditions(n)?, &sampler, rng))
        }
    }
}

/// Trains an objective for some minutes, and returns it with the number of its parameters and of steps.
fn fit<O: Objective>(config: TrainingConfig, objective: O, data: &Dataset, minutes: f64) -> Result<(O, usize, usize)> {
    let mut training = Training::with_objective(config, objective, data)?;
    training.end_within(Duration::from_secs_f64(60.0 * minutes));
    let steps = training.run()?.steps;
    let objective = training.into_objective()?;
    let parameters = objective.parameters().count();
    Ok((objective, parameters, steps))
}

/// The base whose number of parameters, which grows with it, is nearest to `wanted`.
fn nearest(wanted: usize, count: impl Fn(usize) -> Result<usize>) -> Result<usize> {
    let mut best = (0, f64::INFINITY);
    for base in (4..).step_by(4) {
        let ratio = count(base)? as f64 / wanted as f64;
        let off = ratio.max(1.0 / ratio);
        if off < best.1 {
            best = (base, off);
        }
        if ratio >= 1.0 {
            break;
        }
    }
    ensure!(best.1 <= WITHIN, "--base: no size of VAE or GAN has about {wanted} parameters; choose another base");
    Ok(best.0)
}

fn drawn(
    budget: Budget,
    seed: u64,
    parameters: usize,
    steps: usize,
    draw: impl Fn(usize, &mut Rng) -> Result<Tensor>,
) -> Result<Trained> {
    let (mut parts, mut rng, began) = (Vec::new(), Rng::new(seed), Instant::now());
    for start in (0..budget.samples).step_by(AT_ONCE) {
        parts.push(draw(AT_ONCE.min(budget.samples - start), &mut rng)?);
    }
    let samples = Tensor::cat(&parts, 0)?;
    let sampling = began.elapsed().as_secs_f64() * 1000.0 / budget.samples as f64;
    Ok(Trained { parameters, steps, samples, sampling })
}

fn table(task: &str, outcomes: &[&Outcome], referee: &Referee) -> Result<String> {
    let baseline = outcomes.first().map_or(f64::NAN, |it| it.baseline);
    let mut text = format!(
        "## {task}\n\nThe real-vs-real baseline of the Fréchet distance is {baseline:.2}, with {} held-out images.\n\n\
         | family | parameters | steps | Fréchet distance | precision | recall | copies | classes | 1000 samples |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        referee.real_images
    );
    for family in Family::ALL {
        let of_family: Vec<_> = outcomes.iter().filter(|it| it.family == family).collect();
        let over = |value: fn(&Outcome) -> f64| Spread(of_family.iter().map(|it| value(it)).collect());
        let frechet = over(|it| it.frechet);
        let spread = frechet.deviation().map_or(String::new(), |d| format!(" ± {d:.2}"));
        let classes: Vec<String> = of_family.iter().map(|it| format!("{}/{}", it.covered.0, it.covered.1)).collect();
        writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.2}{spread} | {:.0} % | {:.0} % | {:.1} % | {} | {:.2} s |",
            family.name(),
            over(|it| it.parameters as f64).mean(),
            over(|it| it.steps as f64).mean(),
            frechet.mean(),
            100.0 * over(|it| it.precision).mean(),
            100.0 * over(|it| it.recall).mean(),
            100.0 * over(|it| it.copies).mean(),
            classes.join(", "),
            over(|it| it.sampling).mean()
        )?;
    }
    Ok(text + "\n")
}

fn text(budget: Budget, minutes: f64, machines: &str, tables: &str) -> String {
    let Budget { base, images, samples, seeds, .. } = budget;
    format!(
        "
A variational autoencoder, a GAN and diffusion (flow matching, DPM-Solver++ with {STEPS} steps) generate images without a
condition. All have the same images ({images} sprites; the 60,000 training images of MNIST), {minutes} minutes of training and,
within 10 %, the number of parameters of a `SimpleUNet` with base {base}: encoder and decoder, or generator and discriminator,
together. Measured on {machines}.

- The VAE is a σ-VAE, the GAN has the non-saturating loss with R1; both have layers like DCGAN and a vector of {VECTOR} numbers.
- Each value is the mean over {seeds} seeds of {samples} samples, ± their standard deviation. `weights/families.csv` has every
  seed, with intervals. Precision, recall and copies are those of `diffusion evaluate`; real images have 1 % copies.
- *Classes*: how many classes the samples show, for each seed. A class counts if the classifier finds at least a tenth of its share
  in the real images.

{tables}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_size_is_found() -> Result<()> {
        assert_eq!(nearest(10_000, |base| Ok(base * base))?, 100);
        assert_eq!(nearest(9_700, |base| Ok(base * base))?, 100);
        assert!(nearest(36, |base| Ok(base * base)).is_err());
        Ok(())
    }

    /// With the default base, for sprites and for digits.
    #[test]
    fn the_families_have_about_as_many_parameters() -> Result<()> {
        let digits = Dataset::from_f32("digits", vec![0.0; 64 * 28 * 28], [1, 28, 28], vec![0; 64], &["0"])?;
        for data in [Dataset::sprites(64, 1)?, digits] {
            let budget = Budget { samples: 8, ..BUDGET };
            let count = |family| Ok(train(family, &data, 1, (budget, 1e-4), &Device::Cpu)?.parameters);
            let counts = Family::ALL.iter().map(|family| count(*family)).collect::<Result<Vec<_>>>()?;
            for n in &counts {
                let ratio = *n as f64 / counts[2] as f64;
                assert!((1.0 / WITHIN..WITHIN).contains(&ratio), "{counts:?}");
            }
        }
        Ok(())
    }
}
