//! Every combination of schedule, prediction type, loss, sampler and number of steps, on the built-in sprites.

use super::referee::{Measured, Referee, Spread};
use super::{Budget, Options, keep, known, machines};
use anyhow::Result;
use diffusion_core::candle::Device;
use diffusion_core::device::described;
use diffusion_core::prediction::Prediction;
use diffusion_core::sampler::{Sampler, Solver, Steps};
use diffusion_core::schedule::Schedule;
use diffusion_core::train::{Loss, TrainingConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const BUDGET: Budget = Budget { train_steps: 600, base: 16, images: 5000, samples: 500, seeds: 3 };

/// The choices that are made before training.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Trained {
    schedule: String,
    param: String,
    loss: String,
    seed: u64,
}

/// The result of one training run.
#[derive(Serialize, Deserialize)]
struct Outcome {
    budget: Budget,
    trained: Trained,
    seconds: f64,
    machine: String,
    rows: Vec<Row>,
}

/// The measurements of one sampler with one number of steps.
#[derive(Clone, Serialize, Deserialize)]
struct Row {
    sampler: String,
    steps: usize,
    frechet: f64,
    accuracy: f64,
    seconds: f64,
}

type MakeSchedule = fn() -> diffusion_core::candle::Result<Schedule>;
const SCHEDULES: [(&str, MakeSchedule); 2] =
    [("linear", || Schedule::linear(1000)), ("cosine", || Schedule::cosine(1000))];
const PREDICTIONS: [(&str, Prediction); 3] = [("ε", Prediction::Eps), ("x₀", Prediction::X0), ("v", Prediction::V)];
const LOSSES: [(&str, Loss); 2] = [("MSE", Loss::Mse), ("L1", Loss::L1)];
const STEPS: [usize; 2] = [10, 25];

fn samplers(steps: usize) -> [(&'static str, Sampler); 3] {
    let ddpm = Sampler {
        solver: Solver::Ddpm { variance: Default::default() },
        steps: Steps::Trailing(steps),
        ..Sampler::ddpm()
    };
    [("DDPM", ddpm), ("DDIM", Sampler::ddim(steps)), ("DPM-Solver++", Sampler::dpm_solver(steps))]
}

/// Measures every combination and returns its part of the file.
pub(super) fn run(options: &Options) -> Result<String> {
    let budget = options.budget.over(BUDGET);
    let device = crate::device(options.device)?;
    let referee = Referee::new(options, budget, "sprites", &device)?;
    let mut outcomes = known(&options.results, |it: &Outcome| it.budget == budget)?;
    let wanted = wanted(budget.seeds)?;
    for (i, (trained, config)) in wanted.iter().enumerate() {
        if outcomes.iter().any(|done| done.trained == *trained) {
            continue;
        }
        let Trained { schedule, param, loss, seed } = trained;
        println!("{}/{}: {schedule}, {param}, {loss}, seed {seed}", i + 1, wanted.len());
        let outcome = play(&referee, budget, trained, config.clone(), &device)?;
        keep(&options.results, &outcome)?;
        outcomes.push(outcome);
    }
    outcomes.retain(|done| wanted.iter().any(|(trained, _)| done.trained == *trained));
    table(budget, &outcomes, &referee)
}

/// The configurations of all training runs.
fn wanted(seeds: u64) -> Result<Vec<(Trained, TrainingConfig)>> {
    let mut wanted = Vec::new();
    for seed in 1..=seeds {
        for (schedule, schedule_of) in SCHEDULES {
            for (param, prediction) in PREDICTIONS {
                for (name, loss) in LOSSES {
                    let trained =
                        Trained { schedule: schedule.to_owned(), param: param.to_owned(), loss: name.to_owned(), seed };
                    let config = TrainingConfig {
                        seed,
                        process: schedule_of()?.into(),
                        prediction,
                        loss,
                        ..TrainingConfig::default()
                    };
                    wanted.push((trained, config));
                }
            }
        }
    }
    Ok(wanted)
}

/// Trains a network and measures its samples with every sampler and number of steps.
fn play(
    referee: &Referee,
    budget: Budget,
    trained: &Trained,
    config: TrainingConfig,
    device: &Device,
) -> Result<Outcome> {
    let (model, seconds) = referee.train(budget, config, device)?;
    let mut rows = Vec::new();
    for steps in STEPS {
        for (name, sampler) in samplers(steps) {
            let Measured { frechet, accuracy, seconds } = referee.measure(&model, &sampler, trained.seed)?;
            rows.push(Row { sampler: name.to_owned(), steps, frechet, accuracy, seconds });
        }
    }
    Ok(Outcome { budget, trained: trained.clone(), seconds, machine: described(device), rows })
}

/// The measurements that a row of a table summarises.
#[derive(Default)]
struct Line {
    frechet: Spread,
    accuracy: Spread,
    training: Spread,
    sampling: Spread,
}

impl Line {
    fn add(&mut self, outcome: &Outcome, row: &Row) {
        self.frechet.0.push(row.frechet);
        self.accuracy.0.push(row.accuracy);
        self.training.0.push(outcome.seconds);
        self.sampling.0.push(row.seconds);
    }
}

/// The smallest and the largest value.
fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)))
}

fn table(budget: Budget, outcomes: &[Outcome], referee: &Referee) -> Result<String> {
    let mut lines: BTreeMap<[String; 5], Line> = BTreeMap::new();
    let mut factors: BTreeMap<(usize, String), Line> = BTreeMap::new();
    for outcome in outcomes {
        let Trained { schedule, param, loss, .. } = &outcome.trained;
        for row in &outcome.rows {
            let key = [schedule, param, loss, &row.sampler, &row.steps.to_string()].map(Clone::clone);
            for (i, choice) in key.iter().enumerate() {
                factors.entry((i, choice.clone())).or_default().add(outcome, row);
            }
            lines.entry(key).or_default().add(outcome, row);
        }
    }
    let mut lines: Vec<_> = lines.into_iter().collect();
    lines.sort_by(|a, b| a.1.frechet.mean().total_cmp(&b.1.frechet.mean()));
    let machines = machines(outcomes.iter().map(|outcome| outcome.machine.as_str()));
    let Budget { train_steps, base, images, samples, seeds } = budget;
    let about = &referee.classifier.about;
    let (best, worst) = ends(lines.iter().map(|(_, line)| line.frechet.mean()));
    let (least, most) = ends(lines.iter().map(|(_, line)| line.accuracy.mean()));
    let mut text = format!(
        "This file compares every combination of schedule, prediction type, loss, sampler and number of sampling steps on the
built-in sprites. `make leaderboard` writes it. All networks have the same training budget: {train_steps} steps with batches of 64
out of {images} sprites, a class-conditional `SimpleUNet` with base {base}, a learning rate of 1e-3 with {warmup} steps of warm-up and
cosine decay. All samples are drawn with the EMA weights. Measured on {machines}.

- *Fréchet distance* (lower is better): {samples} samples, with the same number of each class and without guidance (w = 1), against
  {real} held-out sprites. The features are those of a network that classifies {accuracy:.2} % of its {test} test sprites correctly. The
  **real-vs-real baseline** is {baseline:.3}: the distance of {samples} other real sprites, with the same number of each class, from the
  same {real}. (`diffusion evaluate` computes its baseline from random splits. In random splits the class counts vary, so that
  baseline is higher, especially for small sets.) Distances of different numbers of samples are not comparable.
- *Accuracy*: the share of samples that the classifier assigns to the class they were conditioned on.
- ± is the standard deviation over {seeds} seeds. Differences smaller than this are not meaningful.
- A sampling step is one evaluation of the network, with every sampler.
- All training runs are short: the distances range from {best:.0} to {worst:.0}, the accuracies from {least:.0} to {most:.0} %. This is therefore the
  ranking after {train_steps} steps with base {base}, and longer training can change it. The models in `weights/` are trained for longer, most of
  them with v-prediction.
- The prediction type also decides how the loss weights the noise levels. In terms of the squared error of the predicted clean
  image, the MSE of x₀ has weight 1 at every noise level, the MSE of ε has weight SNR(t), and the MSE of v has weight SNR(t) + 1.
  Of the three, x₀-prediction therefore gives the most weight to high noise levels, at which the class and the shape of a sprite are
  decided. Section 4 of notebooks/03_training.ipynb trains all three with the same weighting: the lead of x₀-prediction becomes
  smaller in Fréchet distance and disappears in accuracy.

## The effect of each choice

Each row is the mean over all combinations with this choice:

| | choice | Fréchet distance | accuracy |
|---|---|---|---|
",
        warmup = train_steps / 20,
        real = referee.real_images,
        accuracy = 100.0 * about.test_accuracy,
        test = about.test_images,
        least = 100.0 * least,
        most = 100.0 * most,
        baseline = referee.baseline,
    );
    for ((i, choice), line) in &factors {
        let name = ["schedule", "prediction", "loss", "sampler", "steps"][*i];
        writeln!(text, "| {name} | {choice} | {:.3} | {:.1} % |", line.frechet.mean(), 100.0 * line.accuracy.mean())?;
    }
    text += "
## All combinations

| | schedule | prediction | loss | sampler | steps | Fréchet distance | accuracy | training | sampling |
|---|---|---|---|---|---|---|---|---|---|
";
    for (place, (key, line)) in lines.iter().enumerate() {
        let spread = line.frechet.deviation().map_or(String::new(), |d| format!(" ± {d:.3}"));
        writeln!(
            text,
            "| {} | {} | {:.3}{spread} | {:.1} % | {:.0} s | {:.1} s |",
            place + 1,
            key.join(" | "),
            line.frechet.mean(),
            100.0 * line.accuracy.mean(),
            line.training.mean(),
            line.sampling.mean()
        )?;
    }
    Ok(text)
}
