//! Folders of Hugging Face's diffusers: `golden/unet2d` is one as diffusers wrote it, and `golden/unet2d.py` records its outputs.

use anyhow::{Context, Result};
use diffusion_core::candle::{DType, Device, Tensor, safetensors};
use diffusion_core::model::Model;
use diffusion_core::nn::Checkpoint;
use diffusion_core::prediction::Prediction;
use diffusion_core::process::NoiseProcess;
use diffusion_core::rng::Rng;
use diffusion_core::sampler::{Sampler, Solver, Steps, Threshold};
use diffusion_core::schedule::{Betas, Schedule};
use diffusion_core::unet::{Condition, Network, SimpleUNet, UNet2DModel};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

const CONFIG: &str = "unet/config.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";
const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn off(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a - b)?.abs()?.max_all()?.to_scalar()?)
}

fn json_of(path: &Path) -> Result<Map<String, Value>> {
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

/// A copy of the golden folder that may be changed.
fn copied(to: &Path) -> Result<()> {
    for name in [CONFIG, SCHEDULER, WEIGHTS, "model_index.json"] {
        let path = to.join(name);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::copy(golden("unet2d").join(name), path)?;
    }
    Ok(())
}

#[test]
fn a_pipeline_predicts_and_samples_as_there() -> Result<()> {
    let model = Model::load(golden("unet2d"), &Device::Cpu)?;
    let info = &model.info;
    assert_eq!(info.process, NoiseProcess::from(Schedule::cosine(100)?));
    assert_eq!((info.prediction, info.shape), (Prediction::V, [1, 8, 8]));
    assert_eq!(info.data, "unet2d");
    let all: HashMap<String, Tensor> = safetensors::load(golden("unet2d.safetensors"), &Device::Cpu)?;
    let get = |name: &str| all.get(name).with_context(|| name.to_owned());
    let (x, t) = (get("pipeline.x")?, get("pipeline.t")?.to_dtype(DType::F64)?);
    let t = t.to_vec1::<f64>()?;
    let output = model.network.predict(x, &t, &Condition::none())?;
    assert!(off(&output, get("pipeline.output")?)? < 1e-5);
    let sampler = Sampler { solver: Solver::Ddim { eta: 0.0 }, steps: Steps::Leading(5), threshold: Threshold::None };
    let rng = &mut Rng::new(1);
    let images = model.states(x, Condition::none(), &sampler, rng)?.finish()?;
    let off = off(&images, get("pipeline.images")?)?;
    assert!(off < 1e-4, "{off:e}");
    Ok(())
}

/// Names, shapes, numbers and every field of the network are those that diffusers itself writes.
#[test]
fn what_is_saved_is_what_diffusers_saves() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let model = Model::load(golden("unet2d"), &Device::Cpu)?;
    model.save_diffusers(folder.path())?;
    for name in [CONFIG, "model_index.json"] {
        let [ours, theirs] = [folder.path(), &golden("unet2d")].map(|f| json_of(&f.join(name)));
        let (ours, theirs) = (ours?, theirs?);
        assert!(ours.keys().eq(theirs.keys()), "{ours:?}\n{theirs:?}");
        for (key, value) in ours {
            let same = value == theirs[&key] || value.as_f64() == theirs[&key].as_f64();
            assert!(same, "{key}: {value} {}", theirs[&key]);
        }
    }
    for (key, value) in json_of(&folder.path().join(SCHEDULER))? {
        assert_eq!(value, json_of(&golden("unet2d").join(SCHEDULER))?[&key], "{key}");
    }
    let [ours, theirs] = [folder.path(), &golden("unet2d")].map(|f| Checkpoint::load(f.join(WEIGHTS)));
    let (ours, theirs) = (ours?, theirs?);
    assert_eq!(ours.metadata["format"], theirs.metadata["format"]);
    assert_eq!(ours.tensors.len(), theirs.tensors.len());
    for (name, theirs) in &theirs.tensors {
        assert_eq!(off(&ours.tensors[name], theirs)?, 0.0, "{name}");
    }
    Ok(())
}

/// Classes, the null class and the data's name are ours to remember.
#[test]
fn a_conditional_model_comes_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut model = Model::load(golden("unet2d"), &Device::Cpu)?;
    let net = UNet2DModel {
        in_channels: 1,
        out_channels: 1,
        block_out_channels: vec![4, 4, 8],
        norm_num_groups: 2,
        attention_head_dim: Some(4),
        num_class_embeds: Some(3),
        null_class: true,
        ..Default::default()
    };
    model.network = Network::new(net, &mut Rng::new(3), &Device::Cpu)?;
    model.info.classes = vec!["a".to_owned(), "b".to_owned()];
    model.save_diffusers(folder.path())?;
    let again = Model::load(folder.path(), &Device::Cpu)?;
    assert_eq!(again.info, model.info);
    assert_eq!(again.network.architecture(), model.network.architecture());
    assert_eq!(again.network.architecture().classes(), 2);
    assert!(!json_of(&folder.path().join(CONFIG))?.contains_key("null_class"));

    // As diffusers writes it again: then all three are classes.
    let path = folder.path().join(WEIGHTS);
    let mut file = Checkpoint::load(&path)?;
    file.metadata.retain(|key, _| key == "format");
    file.save(&path)?;
    let again = Model::load(folder.path(), &Device::Cpu)?;
    assert_eq!(again.network.architecture().classes(), 3);
    assert_eq!(again.info.classes, ["0", "1", "2"]);
    Ok(())
}

/// What diffusers has no name for it takes as a list of variances.
#[test]
fn other_schedules_are_lists() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut model = Model::load(golden("unet2d"), &Device::Cpu)?;
    let cosine = Betas::Cosine { offset: 0.1, max_beta: 0.999 };
    for schedule in [Schedule::new(20, cosine)?, Schedule::from_betas("own", vec![0.1, 1.0 / 3.0])?] {
        model.info.process = (&schedule).into();
        model.save_diffusers(folder.path())?;
        let path = folder.path().join(WEIGHTS);
        let mut file = Checkpoint::load(&path)?;
        file.metadata.retain(|key, _| key == "format");
        file.save(&path)?;
        let again = Model::load(folder.path(), &Device::Cpu)?;
        assert_eq!(again.info.schedule()?.betas(), schedule.betas());
    }
    Ok(())
}

/// All files in one folder, the attention's layers under their first names, and what training left in the configuration.
#[test]
fn older_folders_load() -> Result<()> {
    let (folder, nested) = (tempfile::tempdir()?, golden("unet2d"));
    let mut config = json_of(&nested.join(CONFIG))?;
    config.insert("inv_gamma".to_owned(), json!(1.0));
    config.remove("add_attention");
    fs::write(folder.path().join("config.json"), serde_json::to_string(&config)?)?;
    fs::copy(nested.join(SCHEDULER), folder.path().join("scheduler_config.json"))?;
    let mut file = Checkpoint::load(nested.join(WEIGHTS))?;
    let old = |name: String| {
        let names = [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];
        names.iter().fold(name, |name, (new, old)| name.replace(new, old))
    };
    file.tensors = file.tensors.into_iter().map(|(name, x)| (old(name), x)).collect();
    assert!(file.tensors.keys().any(|name| name.contains(".proj_attn.")));
    file.save(folder.path().join("diffusion_pytorch_model.safetensors"))?;
    let (a, b) = (Model::load(folder.path(), &Device::Cpu)?, Model::load(nested, &Device::Cpu)?);
    let (a, b) = (a.network.parameters().values()?, b.network.parameters().values()?);
    for (name, a) in &a {
        assert_eq!(off(a, &b[name])?, 0.0, "{name}");
    }
    Ok(())
}

#[test]
fn what_is_not_known_is_named() -> Result<()> {
    let changed = |name: &str, key: &str, value: Value| -> Result<String> {
        let folder = tempfile::tempdir()?;
        copied(folder.path())?;
        let path = folder.path().join(name);
        let mut config = json_of(&path)?;
        match value {
            Value::String(text) if text == "-" => config.remove(key),
            value => config.insert(key.to_owned(), value),
        };
        fs::write(&path, serde_json::to_string(&config)?)?;
        let failed = Model::load(folder.path(), &Device::Cpu).unwrap_err();
        Ok(failed.to_string())
    };
    let types = json!(["SkipDownBlock2D", "DownBlock2D"]);
    for (message, wants) in [
        (changed(CONFIG, "_class_name", json!("VQModel"))?, "config.json: it describes VQModel; only UNet2DModel"),
        (changed(CONFIG, "_class_name", json!("-"))?, "it describes a network without a _class_name"),
        (changed(CONFIG, "norm_num_groups", json!("-"))?, "norm_num_groups is missing"),
        (changed(CONFIG, "upsample_type", json!("resnet"))?, "upsample_type is \"resnet\"; only \"conv\""),
        (changed(CONFIG, "time_embedding_type", json!("fourier"))?, "time_embedding_type is \"fourier\""),
        (changed(CONFIG, "time_embedding_dim", json!(7))?, "time_embedding_dim is 7; only null"),
        (changed(CONFIG, "down_block_types", types)?, "unknown variant `SkipDownBlock2D`"),
        (changed(CONFIG, "sample_size", json!(null))?, "sample_size is null"),
        (changed(CONFIG, "sample_size", json!(7))?, "the image is 7×7"),
        (changed(CONFIG, "norm_num_groups", json!(3))?, "norm_num_groups = 3 does not divide block_out_channels = 4"),
        (changed(CONFIG, "norm_num_groups", json!(0))?, "norm_num_groups = 0 does not divide"),
        (changed(CONFIG, "attention_head_dim", json!(3))?, "attention_head_dim = 3 does not divide"),
        (changed(CONFIG, "block_out_channels", json!(vec![4; 100]))?, "100 block_out_channels, 2 down_block_types"),
        (changed(CONFIG, "block_out_channels", json!([]))?, "0 block_out_channels, 2 down_block_types"),
        (changed(CONFIG, "block_out_channels", json!([8, 8]))?, "norm1.weight has shape [4] but must have [8]"),
        (changed(CONFIG, "out_channels", json!(2))?, "out_channels must be equal to in_channels"),
        (changed(CONFIG, "num_class_embeds", json!(0))?, "num_class_embeds must be at least one class"),
        (changed(CONFIG, "num_class_embeds", json!(4))?, "class_embedding.weight"),
        (changed(SCHEDULER, "beta_schedule", json!("laplace"))?, "scheduler_config.json: beta_schedule is \"laplace\""),
        (changed(SCHEDULER, "prediction_type", json!("flow"))?, "prediction_type is \"flow\""),
        (changed(SCHEDULER, "trained_betas", json!([0.1]))?, "trained_betas schedule: 1 betas"),
        (changed(SCHEDULER, "trained_betas", json!([0.1, 0.2]))?, "timesteps = 100, but betas lists 2"),
        (changed(SCHEDULER, "rescale_betas_zero_snr", json!(true))?, "the weights belong to that process"),
        (
            changed(SCHEDULER, "_class_name", json!("EDMEulerScheduler"))?,
            "the noise process of EDMEulerScheduler is not supported",
        ),
        (changed(SCHEDULER, "num_train_timesteps", json!(1))?, "steps = 1"),
    ] {
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    let folder = tempfile::tempdir()?;
    let fail = || Model::load(folder.path(), &Device::Cpu).unwrap_err().to_string();
    assert!(fail().contains("there is neither"), "{}", fail());
    copied(folder.path())?;
    fs::remove_file(folder.path().join(SCHEDULER))?;
    assert!(fail().contains("scheduler_config.json"), "{}", fail());
    copied(folder.path())?;
    fs::write(folder.path().join(CONFIG), "{")?;
    assert!(fail().contains("config.json: it is not a JSON object"), "{}", fail());
    copied(folder.path())?;
    let path = folder.path().join(WEIGHTS);
    let bytes = fs::read(&path)?;
    // Another process; the weights as a variant; in shards, of which one is missing first.
    let scheduler = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#;
    fs::write(folder.path().join(SCHEDULER), scheduler)?;
    let flow = Model::load(folder.path(), &Device::Cpu)?.info;
    assert_eq!((flow.process, flow.prediction), (NoiseProcess::Flow { shift: 3.0 }, Prediction::Velocity));
    copied(folder.path())?;
    let beside = |name: &str| path.with_file_name(name);
    fs::rename(&path, beside("diffusion_pytorch_model.fp16.safetensors"))?;
    Model::load(folder.path(), &Device::Cpu)?;
    let whole = Checkpoint::load(beside("diffusion_pytorch_model.fp16.safetensors"))?;
    fs::remove_file(beside("diffusion_pytorch_model.fp16.safetensors"))?;
    assert!(fail().contains("there is no"), "{}", fail());
    let (mut first, mut second) = (Checkpoint::default(), Checkpoint::default());
    for (i, (name, tensor)) in whole.tensors.into_iter().enumerate() {
        let part = if i % 2 == 0 { &mut first } else { &mut second };
        part.tensors.insert(name, tensor);
    }
    first.save(beside("diffusion_pytorch_model-00001-of-00002.safetensors"))?;
    assert!(fail().contains("only 1 of 2 shards of the weights exist"), "{}", fail());
    second.save(beside("diffusion_pytorch_model-00002-of-00002.safetensors"))?;
    Model::load(folder.path(), &Device::Cpu)?;
    fs::write(&path, &bytes)?;
    fs::write(&path, &bytes[..bytes.len() / 2])?;
    assert!(fail().contains("not a complete safetensors file"), "{}", fail());

    let mut model = Model::load(golden("unet2d"), &Device::Cpu)?;
    model.info.process = NoiseProcess::flow();
    let message = model.save_diffusers(folder.path()).unwrap_err().to_string();
    assert!(message.contains("of the flow process cannot be written"), "{message}");
    model.info.process = NoiseProcess::default();
    model.info.prediction = Prediction::Velocity;
    let message = model.save_diffusers(folder.path()).unwrap_err().to_string();
    assert!(message.contains("eps, x0 and v, not Velocity"), "{message}");
    let small = SimpleUNet { base: 4, groups: 2, ..Default::default() };
    model.network = Network::new(small, &mut Rng::new(1), &Device::Cpu)?;
    let message = model.save_diffusers(folder.path()).unwrap_err().to_string();
    assert!(message.contains("--model unet-2d-model"), "{message}");
    Ok(())
}
