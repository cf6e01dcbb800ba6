//! Text models: words, the encoder, training, prompts and guidance.

use crate::training::{bits, config};
use anyhow::{Context, Result};
use diffusion_core::candle::{self, DType, Device, Tensor};
use diffusion_core::config::RunConfig;
use diffusion_core::data::Dataset;
use diffusion_core::data::sprites::Combinations;
use diffusion_core::guidance::Guidance;
use diffusion_core::model::Model;
use diffusion_core::nn::gradients::{check, check_params, random};
use diffusion_core::nn::{Checkpoint, Parameters};
use diffusion_core::rng::Rng;
use diffusion_core::sampler::Sampler;
use diffusion_core::text::Vocabulary;
use diffusion_core::train::{ConditionOn, Consistency, ConsistencyConfig, Existing, Training, TrainingConfig};
use diffusion_core::unet::{Condition, Conditioning, EncodedText, Network, SimpleUNet, TextBlock, TextEncoder, Tokens};
use std::path::Path;

#[test]
fn texts_are_words_in_lower_case_without_punctuation() -> Result<()> {
    let known = Vocabulary::of(&["Red-caped knight, holding an axe!", "the KNIGHT’s 2 dogs … 'quoted'", ""])?;
    let words = ["2", "an", "axe", "caped", "dogs", "holding", "knight", "knight's", "quoted", "red", "the"];
    assert_eq!(known.words(), words);
    assert_eq!((known.length(), known.examples().len()), (6, 2));
    assert_eq!(known.encode("\n(an) AXE;")?, [1, 2]);
    assert_eq!(known.encode(" -- ")?, [0; 0]);
    assert_eq!(known.tokens(["axe", ""])?.rows(), [vec![2], vec![]]);
    assert_eq!(known.known(["an old axe", &"red ".repeat(9)]).rows(), [vec![1, 2], vec![9; 6]]);
    let long = Vocabulary::of(&["word ".repeat(1000)])?;
    assert_eq!(long.length(), 64);
    assert_eq!(Vocabulary::of(&["…", ""]).unwrap_err().to_string(), "there is no word in the captions");
    Ok(())
}

#[test]
fn errors_name_the_unknown_word_and_the_nearest_ones() -> Result<()> {
    let known = Vocabulary::of(&["a red dragon with wings", "a wagon", "the kitten"])?;
    for (word, nearest) in
        [("Dragn", "dragon, wagon, "), ("sitten", "kitten, "), ("thé", "the, "), ("agons", "wagon, ")]
    {
        let message = known.encode(&format!("a red {word}")).unwrap_err().to_string();
        let wants = format!("{:?}; the nearest words that it knows are {nearest}", word.to_lowercase());
        assert!(message.contains(&wants), "{message} lacks {wants}");
    }
    let message = known.encode(&"red ".repeat(6)).unwrap_err().to_string();
    assert!(message.contains("the text has 6 words, but the model reads at most 5"), "{message}");
    Ok(())
}

#[test]
fn gradients_of_a_block_of_the_encoder_are_correct() -> Result<()> {
    let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F64, &Device::Cpu));
    let block = TextBlock::new(params.builder(&mut rng), 4, 2)?;
    let x = random(1, (2, 3, 4))?;
    let mask = Tensor::new(&[[1f64, 1.0, 0.0], [1.0; 3]], &Device::Cpu)?;
    check("block", std::slice::from_ref(&x), |x| block.forward(&x[0], &mask))?;
    check_params("block", &params, || block.forward(&x, &mask))?;
    Ok(())
}

fn off(a: &Tensor, b: &Tensor) -> candle::Result<f32> {
    (a - b)?.abs()?.max_all()?.to_scalar::<f32>()
}

/// Order matters, padding and the other texts do not, and no tokens are the null prompt.
#[test]
fn texts_are_encoded_in_their_order_and_alone() -> Result<()> {
    let (mut rng, mut params) = (Rng::new(1), Parameters::new(DType::F32, &Device::Cpu));
    let conditioning = Conditioning { tokens: 4, vocabulary: 5, ..Default::default() };
    let encoder = TextEncoder::new(params.builder(&mut rng), conditioning, 8, 2)?;
    let encode = |rows: &[&[u32]]| encoder.forward(Some(&Tokens::new(rows.iter().map(|r| r.to_vec()))), rows.len());
    let all = encode(&[&[1, 2], &[2, 1], &[4, 3, 2, 1], &[]])?;
    assert_eq!((all.features.dims(), all.mask.dims()), (&[4, 5, 8][..], &[4, 5][..]));
    assert_eq!(all.mask.sum(1)?.to_vec1::<f32>()?, [3.0, 3.0, 5.0, 1.0]);
    let first = |it: &EncodedText, i: usize| it.features.narrow(0, i, 1)?.narrow(1, 0, 1);
    assert!(off(&first(&all, 0)?, &first(&all, 1)?)? > 1e-2);
    assert!(off(&first(&all, 0)?, &first(&encode(&[&[1, 2]])?, 0)?)? < 1e-6);
    assert!(off(&first(&all, 3)?, &first(&encoder.forward(None, 1)?, 0)?)? < 1e-6);
    let message = encoder.forward(Some(&Tokens::new([vec![]])), 2).unwrap_err().to_string();
    assert!(message.contains("1 texts for 2 images"), "{message}");
    assert!(encode(&[&[6]]).is_err());
    Ok(())
}

/// A text has an effect and a map for each block and token, the null prompt is the text without words, and files of
/// networks without text do not mention it.
#[test]
fn pixels_attend_to_texts() -> Result<()> {
    let small = SimpleUNet { base: 4, groups: 2, tokens: 3, vocabulary: 5, ..Default::default() };
    let net = Network::new(small, &mut Rng::new(1), &Device::Cpu)?;
    let last = net.parameters().get("conv_out.weight").context("the last layer")?;
    last.set(&last.ones_like()?)?;
    let x = Rng::new(2).randn((2, 1, 8, 8), &Device::Cpu)?;
    let text = |rows: [Vec<u32>; 2]| Condition::tokens(Tokens::new(rows));
    let output = |condition: &Condition| -> Result<Vec<f32>> {
        Ok(net.predict(&x, &[5.0, 900.0], condition)?.flatten_all()?.to_vec1()?)
    };
    let one = output(&text([vec![4, 1], vec![2]]))?;
    let other = output(&text([vec![1, 4], vec![2]]))?;
    let null = output(&text([vec![], vec![]]))?;
    assert!(one[..64] != other[..64] && one[..64] != null[..64]);
    assert_eq!(null, output(&Condition::none())?);
    let maps = net.attention_maps(&x, &[5.0, 900.0], &text([vec![4, 1], vec![2]]))?;
    let shapes: Vec<&[usize]> = maps.iter().map(Tensor::dims).collect();
    assert_eq!(shapes, [&[2, 3, 4, 4][..], &[2, 3, 2, 2], &[2, 3, 4, 4]]);
    for map in &maps {
        let sum = map.sum(1)?;
        assert!(off(&sum, &sum.ones_like()?)? < 1e-5);
    }
    let file = toml::to_string(&SimpleUNet::default())?;
    assert!(!file.contains("tokens") && !file.contains("vocabulary"), "{file}");
    Ok(())
}

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
    let info = damaged.metadata.get_mut("model").context("the description")?;
    *info = info.replacen("\"words\":[\"a\",", "\"words\":[\"z\",", 1);
    damaged.save(temp.path().join("damaged.safetensors"))?;
    let message = Model::load(temp.path().join("damaged.safetensors"), &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("in alphabetical order"), "{message}");
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
