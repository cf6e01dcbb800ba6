//! Text models: trained, resumed, saved, prompted and guided.

use crate::training::{bits, config};
use anyhow::{Context, Result};
use diffusion_core::candle::{DType, Device, Tensor};
use diffusion_core::config::RunConfig;
use diffusion_core::data::Dataset;
use diffusion_core::data::sprites::Combinations;
use diffusion_core::guidance::Guidance;
use diffusion_core::model::Model;
use diffusion_core::nn::Checkpoint;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::Sampler;
use diffusion_core::text::Vocabulary;
use diffusion_core::train::{ConditionOn, Consistency, ConsistencyConfig, Existing, Training, TrainingConfig};
use diffusion_core::unet::{Condition, SimpleUNet};
use std::path::Path;

fn sprites() -> Result<Dataset> {
    Dataset::captioned_sprites(60, 1, Combinations::Seen)
}

/// As `train --condition text` makes it.
fn run(data: &Dataset) -> Result<(RunConfig, SimpleUNet)> {
    let known = Vocabulary::of(data.captions().context("captions")?)?;
    let plain = SimpleUNet { channels: 3, base: 4, groups: 2, ..Default::default() };
    let run = RunConfig { condition: ConditionOn::Text, network: plain.into(), ..Default::default() };
    Ok((run, SimpleUNet { tokens: known.length(), vocabulary: known.words().len(), ..plain }))
}

fn begin(folder: &Path, data: &Dataset, existing: Existing) -> Result<Training> {
    let (run, _) = run(data)?;
    Training::new(config(), run.architecture(data), data, &Device::Cpu)?.in_folder_with(folder, existing)
}

#[test]
fn a_text_model_trains_resumes_to_the_bit_and_loads() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (whole, broken) = (temp.path().join("whole"), temp.path().join("broken"));
    let data = sprites()?;
    let (run, net) = run(&data)?;
    assert_eq!(run.architecture(&data), net.into());
    begin(&whole, &data, Existing::Resume)?.validate_on(sprites()?)?.try_for_each(|step| step.map(drop))?;
    begin(&broken, &data, Existing::Resume)?.take(8).try_for_each(|step| step.map(drop))?;
    let mut resumed = begin(&broken, &data, Existing::Resume)?;
    assert_eq!(resumed.resumed().context("a checkpoint")?.steps, 6);
    resumed.by_ref().try_for_each(|step| step.map(drop))?;
    let file = |folder: &Path| folder.join("model.safetensors");
    assert!(bits(&file(&whole))? == bits(&file(&broken))?);

    let config = RunConfig::load(whole.join("config.toml"))?;
    assert!(config.condition == ConditionOn::Text && config.data.captions);
    let model = Model::load(file(&whole), &Device::Cpu)?;
    assert_eq!(model.info.vocabulary, resumed.into_model()?.info.vocabulary);
    let prompt = model.prompt(["a red drumstick", ""])?;
    assert_eq!(prompt.tokens.context("tokens")?.rows().iter().map(Vec::len).collect::<Vec<_>>(), [3, 0]);
    let message = model.prompt(["a red drumstik"]).unwrap_err().to_string();
    assert!(message.contains("\"drumstik\"") && message.contains("are drumstick,"), "{message}");
    assert_eq!(model.conditions(50)?.len(), Some(50));

    // Damaged metadata is an error.
    let mut damaged = Checkpoint::load(file(&whole))?;
    let info = damaged.metadata.get_mut("model").context("the description")?;
    *info = info.replacen("\"drumstick\",", "", 1);
    damaged.save(temp.path().join("damaged.safetensors"))?;
    let message = Model::load(temp.path().join("damaged.safetensors"), &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("words, but its network reads"), "{message}");
    Ok(())
}

/// The embeddings belong to the words, so a run cannot go on with others, even if they are as many.
#[test]
fn a_run_keeps_its_words() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let data = sprites()?;
    begin(temp.path(), &data, Existing::Resume)?.take(7).try_for_each(|step| step.map(drop))?;
    let captions = data.captions().context("captions")?;
    let fewer: Vec<String> = captions.iter().map(|text| text.replace("drumstick", "")).collect();
    let message = begin(temp.path(), &sprites()?.with_captions(fewer)?, Existing::NewData).unwrap_err().to_string();
    assert!(message.contains("vocabulary = "), "{message}");
    let others: Vec<String> = captions.iter().map(|text| text.replace("drumstick", "plum")).collect();
    let message = begin(temp.path(), &sprites()?.with_captions(others)?, Existing::NewData).unwrap_err().to_string();
    assert!(message.contains("no longer have the words"), "{message}");
    let turned: Vec<String> = captions.iter().rev().cloned().collect();
    begin(temp.path(), &sprites()?.with_captions(turned)?, Existing::NewData)?;
    Ok(())
}

#[test]
fn data_without_captions_is_refused() -> Result<()> {
    let (run, net) = run(&sprites()?)?;
    let plain = Dataset::sprites(60, 1)?;
    let fail =
        |net: SimpleUNet, data: &Dataset| Training::new(config(), net, data, &Device::Cpu).unwrap_err().to_string();
    assert!(fail(net, &plain).contains("sprites has no captions"));
    let failed = Training::new(config(), run.architecture(&plain), &plain, &Device::Cpu).unwrap_err().to_string();
    assert!(failed.contains("sprites has no captions"), "{failed}");
    let other = SimpleUNet { vocabulary: 3, ..net };
    assert!(fail(other, &sprites()?).contains(&format!("set vocabulary = {}", net.vocabulary)));
    // Without captions there is no loss on held-out images, and no error after the first epoch.
    let mut training = Training::new(TrainingConfig { epochs: 1, ..config() }, net, &sprites()?, &Device::Cpu)?;
    training = training.validate_on(plain)?;
    training.by_ref().try_for_each(|step| step.map(drop))?;
    assert_eq!(training.validation_loss(), None);
    Ok(())
}

/// Guidance, a negative prompt and the interpolation between two sentences, after a few steps of training.
#[test]
fn texts_guide_like_any_condition() -> Result<()> {
    let data = sprites()?;
    let (run, _) = run(&data)?;
    let config = TrainingConfig { epochs: 2, lr: 1e-2, ..config() };
    let mut training = Training::new(config.clone(), run.architecture(&data), &data, &Device::Cpu)?;
    training.by_ref().try_for_each(|step| step.map(drop))?;
    let model = training.into_model()?;
    let draw = |guidance: Guidance| -> Result<Vec<f32>> {
        let samples = model.sample(2, guidance, &Sampler::ddim(4), &mut Rng::new(1))?;
        Ok(samples.flatten_all()?.to_vec1()?)
    };
    let prompt = |text: &str| model.prompt([text; 2]);
    let (knight, other) = (prompt("a knight with a sword")?, prompt("a red drumstick")?);
    let plain = draw(knight.clone().into())?;
    let null = draw(Condition::none().into())?;
    let differs = |a: &[f32], b: &[f32]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-4);
    assert!(differs(&plain, &null) && null == draw(prompt("")?.into())?);
    let strong = draw(Guidance::new(knight.clone(), 3.0))?;
    let negative = draw(Guidance::new(knight.clone(), 3.0).away_from(other.clone()))?;
    assert!(differs(&plain, &strong) && differs(&strong, &negative));
    let between = |fraction| draw(Guidance::between(knight.clone(), other.clone(), fraction));
    assert_eq!(between(0.0)?, plain);
    assert!(differs(&between(0.5)?, &plain) && differs(&between(0.5)?, &draw(other.clone().into())?));

    let x = Tensor::zeros((2, 3, 16, 16), DType::F32, &Device::Cpu)?;
    let maps = model.network.attention_maps(&x, &[50.0, 50.0], &knight)?;
    assert_eq!(maps.iter().map(Tensor::dims).collect::<Vec<_>>(), [[2, 6, 8, 8], [2, 6, 4, 4], [2, 6, 8, 8]]);

    // A student reads the same words, with the teacher's guidance built in.
    let settings = ConsistencyConfig { guidance: 2.0, ..Default::default() };
    let student = Consistency::with_teacher(&config, settings, model.copy()?, &data)?;
    let mut training = Training::with_objective(TrainingConfig { epochs: 1, ..config }, student, &data)?;
    training.by_ref().try_for_each(|step| step.map(drop))?;
    let fast = training.into_model()?;
    assert_eq!(fast.info.vocabulary, model.info.vocabulary);
    fast.sample(2, fast.prompt(["a knight", "a spider"])?, &fast.info.sampler(), &mut Rng::new(1))?;
    Ok(())
}
