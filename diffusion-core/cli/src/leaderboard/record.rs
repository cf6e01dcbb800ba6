//! The record: what a single change to a recipe does in a fixed time of training.

use super::referee::{Measured, Referee, Spread};
use super::{Budget, Options, keep, known, machines};
use anyhow::{Context, Result, bail};
use diffusion_core::candle::Device;
use diffusion_core::config::RunConfig;
use diffusion_core::device::described;
use diffusion_core::sampler::Sampler;
use diffusion_core::train::Training;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::time::Duration;

/// The recipe and its changes.
const RECIPES: &str = include_str!("record.toml");
/// `train_steps` and `base` do not apply: the time is limited, and the recipe has a network.
const BUDGET: Budget = Budget { train_steps: 0, base: 0, images: 20_000, samples: 2000, seeds: 3 };
const MINUTES: f64 = 10.0;
/// The steps of the sampler.
const STEPS: usize = 20;
/// The guidance scale.
const SCALE: f64 = 1.5;
/// The name of the recipe without a change.
const UNCHANGED: &str = "the recipe";

#[derive(Deserialize)]
struct Recipes {
    base: toml::Table,
    change: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    name: String,
    #[serde(flatten)]
    keys: toml::Table,
}

/// The result of one training run.
#[derive(Serialize, Deserialize)]
struct Outcome {
    budget: Budget,
    minutes: f64,
    task: String,
    /// The complete configuration, and the name of its change.
    recipe: String,
    name: String,
    seed: u64,
    steps: usize,
    machine: String,
    /// Fréchet distance and accuracy.
    unguided: (f64, f64),
    guided: (f64, f64),
}

/// Measures the recipe and every change, and returns its part of the file.
pub(super) fn run(options: &Options) -> Result<String> {
    let (budget, minutes) = (options.budget.over(BUDGET), options.minutes.unwrap_or(MINUTES));
    let device = crate::device(options.device)?;
    let all = known(&options.results, |it: &Outcome| it.budget == budget && it.minutes == minutes)?;
    let (mut all, mut recipes) = (all, recipes()?);
    if let Some(unknown) = options.change.iter().find(|name| !recipes.iter().any(|(known, _)| known == *name)) {
        let names: Vec<&str> = recipes[1..].iter().map(|(name, _)| name.as_str()).collect();
        bail!("--change {unknown:?}: choose from\n  {}", names.join("\n  "))
    }
    recipes.retain(|(name, _)| name == UNCHANGED || options.change.is_empty() || options.change.contains(name));
    let (mut tables, mut used) = (String::new(), Vec::new());
    for task in &options.tasks {
        let referee = Referee::new(options, budget, task, &device)?;
        let mut outcomes = Vec::new();
        for seed in 1..=budget.seeds {
            for (name, run) in &recipes {
                let recipe = run.to_toml()?;
                let done = all.iter().position(|it| (&it.task, it.seed, &it.recipe) == (task, seed, &recipe));
                let mut outcome = match done {
                    Some(at) => all.swap_remove(at),
                    None => {
                        println!("{task}, seed {seed}: {name}");
                        let outcome = play(&referee, (budget, minutes), (task, name, seed), run, &device)?;
                        keep(&options.results, &outcome)?;
                        outcome
                    }
                };
                outcome.name.clone_from(name);
                outcomes.push(outcome);
            }
        }
        tables += &table(task, &outcomes, &recipes, &referee)?;
        used.extend(outcomes.into_iter().map(|it| it.machine));
    }
    Ok(text(budget, minutes, &machines(used.iter().map(String::as_str)), &tables))
}

/// The recipe and every change of it, by name.
fn recipes() -> Result<Vec<(String, RunConfig)>> {
    let Recipes { base, change } = toml::from_str(RECIPES).context("record.toml")?;
    let unchanged = Change { name: UNCHANGED.to_owned(), keys: toml::Table::new() };
    let changed = |change: Change| {
        let mut table = base.clone();
        apply(&mut table, change.keys);
        let run = RunConfig::from_toml(&toml::to_string(&table)?).with_context(|| change.name.clone())?;
        Ok((change.name, run))
    };
    std::iter::once(unchanged).chain(change).map(changed).collect()
}

/// Replaces keys of a table. A network and a choice with fields are replaced as a whole.
fn apply(table: &mut toml::Table, changes: toml::Table) {
    for (key, value) in changes {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(changes)) if key == "training" => {
                apply(inner, changes);
            }
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// Trains with a configuration for some minutes, and measures samples.
fn play(
    referee: &Referee,
    (budget, minutes): (Budget, f64),
    (task, name, seed): (&str, &str, u64),
    run: &RunConfig,
    device: &Device,
) -> Result<Outcome> {
    let recipe = run.to_toml()?;
    let data = referee.data.clone().with_augmentation(run.data.augment.iter().copied());
    let (architecture, mut config) = (run.architecture(&data), run.training.clone());
    config.seed = seed;
    let mut training = Training::new(config, architecture, &data, device)?;
    training.end_within(Duration::from_secs_f64(60.0 * minutes));
    let steps = training.run()?.steps;
    let (model, sampler) = (training.into_model()?, Sampler::dpm_solver(STEPS));
    let measured = |w: f64| {
        let Measured { frechet, accuracy, .. } = referee.measure_guided(&model, w, &sampler, seed)?;
        anyhow::Ok((frechet, accuracy))
    };
    let (unguided, guided) = (measured(1.0)?, measured(SCALE)?);
    let (task, name, machine) = (task.to_owned(), name.to_owned(), described(device));
    Ok(Outcome { budget, minutes, task, recipe, name, seed, steps, machine, unguided, guided })
}

fn table(task: &str, outcomes: &[Outcome], recipes: &[(String, RunConfig)], referee: &Referee) -> Result<String> {
    let mut text = format!(
        "## {task}\n\nThe real-vs-real baseline is {:.2}, with {} held-out images; the classifier recognises {:.2} % of its test \
         images.\n\n| change | steps | Fréchet distance | accuracy | with guidance | accuracy |\n|---|---|---|---|---|---|\n",
        referee.baseline,
        referee.real_images,
        100.0 * referee.classifier.about.test_accuracy
    );
    for (name, _) in recipes {
        let of_recipe: Vec<_> = outcomes.iter().filter(|it| it.name == *name).collect();
        let over = |value: fn(&Outcome) -> f64| Spread(of_recipe.iter().map(|it| value(it)).collect());
        let pm = |it: &Spread, digits: usize| it.deviation().map_or(String::new(), |d| format!(" ± {d:.digits$}"));
        let steps = over(|it| it.steps as f64).mean();
        write!(text, "| {name} | {steps:.0} |")?;
        for (frechet, accuracy) in [
            (over(|it| it.unguided.0), over(|it| 100.0 * it.unguided.1)),
            (over(|it| it.guided.0), over(|it| 100.0 * it.guided.1)),
        ] {
            let (d, a) = (pm(&frechet, 2), pm(&accuracy, 1));
            write!(text, " {:.2}{d} | {:.1}{a} % |", frechet.mean(), accuracy.mean())?;
        }
        text += "\n";
    }
    Ok(text + "\n")
}

fn text(budget: Budget, minutes: f64, machines: &str, tables: &str) -> String {
    let Budget { images, samples, seeds, .. } = budget;
    format!(
        "
What does a single change of the recipe do, if the time is fixed? Each training is class-conditional and has {minutes} minutes on
{images} sprites or the 60,000 training images of MNIST. The recipe is in `diffusion-core/cli/src/leaderboard/record.toml`, with every
change. Measured on {machines}.

- *Fréchet distance* and *accuracy* are those of {samples} samples of the EMA weights, DPM-Solver++ with {STEPS} steps, without guidance and
  with w = {SCALE}. They are means over {seeds} seeds, ± their standard deviation.
- *Steps*: how many optimiser steps the time was enough for.
- A difference smaller than the spread means nothing, and what helps for {minutes} minutes need not help for hours.

{tables}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion_core::prediction::Prediction;

    #[test]
    fn every_change_is_a_configuration_of_its_own() -> Result<()> {
        let recipes = recipes()?;
        for (i, (name, run)) in recipes.iter().enumerate() {
            assert!(!recipes[..i].iter().any(|(_, other)| other == run), "{name} changes nothing");
            assert_eq!(recipes.iter().filter(|(other, _)| other == name).count(), 1, "{name}");
        }
        let v = &recipes.iter().find(|(name, _)| name.starts_with("EDM")).context("EDM")?.1.training;
        assert_eq!((v.ema, v.prediction), (0.999, Prediction::EDM));
        Ok(())
    }
}
