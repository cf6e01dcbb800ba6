//! Four noise processes with the same network, images and budget: how the quality depends on the number of evaluations.

use super::referee::{Measured, Referee, Spread};
use super::{Budget, Options, keep, known, machines, write_csv};
use anyhow::Result;
use diffusion_core::candle::{Device, Tensor};
use diffusion_core::device::described;
use diffusion_core::model::Model;
use diffusion_core::prediction::Prediction;
use diffusion_core::process::{NoiseProcess, TimeSampling};
use diffusion_core::rng::Rng;
use diffusion_core::sampler::Sampler;
use diffusion_core::schedule::Schedule;
use diffusion_core::train::TrainingConfig;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

const BUDGET: Budget = Budget { train_steps: 1000, base: 16, images: 5000, samples: 500, seeds: 3 };
pub(super) const TASKS: [&str; 2] = ["sprites", "mnist"];
const EVALUATIONS: [usize; 5] = [2, 4, 8, 16, 32];
type MakeSampler = fn(usize) -> Sampler;
const SAMPLERS: [(&str, MakeSampler); 2] = [("DDIM", Sampler::ddim), ("DPM-Solver++", Sampler::dpm_solver)];
/// Steps and images of the trajectories whose curvature is measured.
const FINE: usize = 64;
const IMAGES: usize = 50;
/// The training of each process differs in these fields only.
const NAMES: [&str; 4] = ["VP, ε", "VP, v", "flow", "EDM"];

/// The result of one training run.
#[derive(Serialize, Deserialize)]
struct Outcome {
    budget: Budget,
    task: String,
    process: String,
    seed: u64,
    seconds: f64,
    machine: String,
    curvature: f64,
    rows: Vec<Row>,
}

/// The measurements of one sampler with one number of evaluations.
#[derive(Serialize, Deserialize)]
struct Row {
    sampler: String,
    evaluations: usize,
    frechet: f64,
    accuracy: f64,
}

fn config(process: &str, seed: u64) -> Result<TrainingConfig> {
    let it = TrainingConfig { seed, ..TrainingConfig::default() };
    let normal = |mean, std| TimeSampling::LogitNormal { mean, std };
    Ok(match process {
        "VP, ε" => TrainingConfig { process: Schedule::linear(1000)?.into(), prediction: Prediction::Eps, ..it },
        "VP, v" => TrainingConfig { process: Schedule::cosine(1000)?.into(), prediction: Prediction::V, ..it },
        "flow" => TrainingConfig {
            process: NoiseProcess::flow(),
            prediction: Prediction::Velocity,
            times: normal(0.0, 1.0),
            ..it
        },
        _ => {
            TrainingConfig { process: NoiseProcess::edm(), prediction: Prediction::EDM, times: normal(-1.2, 1.2), ..it }
        }
    })
}

/// Measures every process and returns its part of the file.
pub(super) fn run(options: &Options) -> Result<String> {
    let budget = options.budget.over(BUDGET);
    let device = crate::device(options.device)?;
    let mut outcomes = known(&options.results, |it: &Outcome| it.budget == budget)?;
    let mut parts = Vec::new();
    let mut csv = String::from("data,process,seed,sampler,evaluations,frechet,accuracy,curvature\n");
    for task in &options.tasks {
        let referee = Referee::new(options, budget, task, &device)?;
        for seed in 1..=budget.seeds {
            for process in NAMES {
                if outcomes.iter().any(|it| (&it.task, &*it.process, it.seed) == (task, process, seed)) {
                    continue;
                }
                println!("{task}, {process}, seed {seed}");
                let outcome = play(&referee, budget, (task, process, seed), &device)?;
                keep(&options.results, &outcome)?;
                outcomes.push(outcome);
            }
        }
        let of_task: Vec<&Outcome> = outcomes.iter().filter(|it| it.task == *task && it.seed <= budget.seeds).collect();
        writeln!(csv, "{task},real,0,,0,{},,", referee.baseline)?;
        for it in &of_task {
            for Row { sampler, evaluations, frechet, accuracy } in &it.rows {
                let process = it.process.replace(',', "");
                let (seed, curvature) = (it.seed, it.curvature);
                writeln!(csv, "{task},{process},{seed},{sampler},{evaluations},{frechet},{accuracy},{curvature}")?;
            }
        }
        parts.push(table(task, &of_task, &referee)?);
    }
    write_csv(options, "processes.csv", &csv)?;
    Ok(text(budget, &machines(outcomes.iter().map(|it| &*it.machine)), &parts.concat()))
}

/// Trains a network and measures its samples.
fn play(
    referee: &Referee,
    budget: Budget,
    (task, process, seed): (&str, &str, u64),
    device: &Device,
) -> Result<Outcome> {
    let (model, seconds) = referee.train(budget, config(process, seed)?, device)?;
    let mut rows = Vec::new();
    for (name, sampler) in SAMPLERS {
        for evaluations in EVALUATIONS {
            let Measured { frechet, accuracy, .. } = referee.measure(&model, &sampler(evaluations), seed)?;
            rows.push(Row { sampler: name.to_owned(), evaluations, frechet, accuracy });
        }
    }
    let curvature = curvature(&model)?;
    let (task, process, machine) = (task.to_owned(), process.to_owned(), described(device));
    Ok(Outcome { budget, task, process, seed, seconds, machine, curvature, rows })
}

/// The length of the path of x̂_0 from noise to image, as a root mean square over pixels: 0 if one step is enough.
fn curvature(model: &Model) -> Result<f64> {
    let (noise, mut length) = (model.noise(IMAGES, &mut Rng::new(0))?, 0.0);
    let mut before: Option<Tensor> = None;
    for state in model.states(&noise, model.conditions(IMAGES)?, &Sampler::ddim(FINE), &mut Rng::new(0))? {
        let x0_hat = state?.x0_hat;
        if let Some(before) = before {
            let moved = (&x0_hat - before)?.sqr()?.flatten_from(1)?.mean(1)?.sqrt()?.mean_all()?;
            length += f64::from(moved.to_scalar::<f32>()?);
        }
        before = Some(x0_hat);
    }
    Ok(length)
}

fn table(task: &str, outcomes: &[&Outcome], referee: &Referee) -> Result<String> {
    let about = &referee.classifier.about;
    let mut text = format!(
        "## {task}\n\nThe real-vs-real baseline is {:.3}, with {} held-out images; the classifier recognises {:.2} % of its test \
         images.\n\n| process | sampler |",
        referee.baseline,
        referee.real_images,
        100.0 * about.test_accuracy
    );
    for n in EVALUATIONS {
        write!(text, " {n} evaluations |")?;
    }
    text += " curvature | training |\n|---|---|---|---|---|---|---|---|---|\n";
    for process in NAMES {
        let of_process: Vec<_> = outcomes.iter().filter(|it| it.process == process).collect();
        let over = |value: &dyn Fn(&Outcome) -> f64| Spread(of_process.iter().map(|it| value(it)).collect());
        for (sampler, _) in SAMPLERS {
            write!(text, "| {process} | {sampler} |")?;
            for n in EVALUATIONS {
                let row = |it: &Outcome| it.rows.iter().position(|row| row.sampler == sampler && row.evaluations == n);
                let value = |field: fn(&Row) -> f64| over(&|it| row(it).map_or(f64::NAN, |at| field(&it.rows[at])));
                let (frechet, accuracy) = (value(|row| row.frechet), value(|row| row.accuracy));
                let spread = frechet.deviation().map_or(String::new(), |d| format!(" ± {d:.1}"));
                write!(text, " {:.1}{spread}, {:.0} % |", frechet.mean(), 100.0 * accuracy.mean())?;
            }
            let (curvature, seconds) = (over(&|it| it.curvature), over(&|it| it.seconds));
            let spread = curvature.deviation().map_or(String::new(), |d| format!(" ± {d:.2}"));
            writeln!(text, " {:.2}{spread} | {:.0} s |", curvature.mean(), seconds.mean())?;
        }
    }
    Ok(text + "\n")
}

fn text(budget: Budget, machines: &str, tables: &str) -> String {
    let Budget { train_steps, base, images, samples, seeds } = budget;
    format!(
        "
Four processes with the same network (a class-conditional `SimpleUNet` with base {base}), the same images ({images} sprites; the 60,000
training images of MNIST) and the same budget: {train_steps} steps with batches of 64, the learning rate and EMA of the first part. Each
predicts what it usually does, with the mean squared error: *VP, ε* with the linear schedule (DDPM), *VP, v* with the cosine
schedule, *flow* the velocity, with logit-normal times, *EDM* with its own scaling and log-normal σ. Measured on {machines}.

- Each cell has the Fréchet distance of {samples} samples and their accuracy, without guidance; ± is the standard deviation over
  {seeds} seeds. The classifiers of the two data sets differ, so that their distances cannot be compared.
- *Curvature* is the length of the path that x̂₀ takes from noise to image in {FINE} steps of DDIM, as a root mean square over the
  pixels of {IMAGES} images. If x/signal moves straight and at a constant speed in σ, x̂₀ stays in place, and one step is enough.
- All training runs are short; longer training can change the ranking.

{tables}"
    )
}
