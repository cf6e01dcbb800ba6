//! Models in the format of Hugging Face diffusers: a folder of JSON and safetensors files.

use super::{Model, ModelInfo};
use crate::nn::{Checkpoint, write_whole};
use crate::prediction::Prediction;
use crate::process::NoiseProcess;
use crate::schedule::{Betas, Schedule};
use crate::unet::{Architecture, Network, SampleSize, UNet2DModel};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The version of diffusers that wrote files in this format.
const VERSION: &str = "0.42.1";

/// A network's weights.
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// Keys that a configuration must contain, since diffusers' defaults differ from ours.
const REQUIRED: [&str; 7] = [
    "in_channels",
    "out_channels",
    "down_block_types",
    "up_block_types",
    "block_out_channels",
    "layers_per_block",
    "norm_num_groups",
];

/// Settings for which only one value is supported.
const FIXED: [(&str, &str); 3] =
    [("time_embedding_type", "positional"), ("downsample_type", "conv"), ("upsample_type", "conv")];

/// Names of attention layers in files from before 2023, and today.
const RENAMED: [(&str, &str); 4] =
    [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];

impl Model {
    /// Loads a folder for [`Model::load`]. Only the noise process is taken from the scheduler, not the sampler.
    pub(super) fn load_diffusers(folder: &Path, device: &Device) -> Result<Self> {
        let config = find(folder, "unet", "config.json")?;
        let weights = config.with_file_name(WEIGHTS);
        let contents = match weights.with_extension("bin") {
            bin if bin.is_file() && !weights.exists() => Checkpoint::load_pth(bin)?,
            _ if !weights.exists() => in_parts(&weights)?,
            _ => Checkpoint::load(&weights)?,
        };
        let model = if ModelInfo::is_in(&contents.metadata) {
            // A file written by `save_diffusers` contains more than the configuration.
            Self::from_checkpoint(contents, device)
        } else {
            Self::foreign(folder, &config, contents, device)
        };
        model.with_context(|| format!("cannot use {} as a model", folder.display())).map_err(crate::whole)
    }

    fn foreign(folder: &Path, config: &Path, file: Checkpoint, device: &Device) -> Result<Self> {
        let net = read(config, network)?;
        let (height, width) = match net.sample_size {
            Some(SampleSize::Side(side)) => (side, side),
            Some(SampleSize::HeightWidth([height, width])) => (height, width),
            None => bail!("{}: sample_size is null; write the height of its images there", config.display()),
        };
        let (process, prediction) = read(&find(folder, "scheduler", "scheduler_config.json")?, noise_process)?;
        let rename = |(name, tensor): (String, Tensor)| {
            let rename = |name: String, (old, new): &(&str, &str)| name.replace(old, new);
            (RENAMED.iter().fold(name, rename), tensor)
        };
        let tensors: HashMap<String, Tensor> = file.tensors.into_iter().map(rename).collect();
        let name = fs::canonicalize(folder)?;
        let info = ModelInfo {
            process,
            prediction,
            classes: (0..net.num_class_embeds.unwrap_or(0)).map(|class| class.to_string()).collect(),
            data: name.file_name().unwrap_or_default().to_string_lossy().into(),
            ..ModelInfo::new([net.in_channels, height, width])
        };
        let architecture = Architecture::from(net);
        architecture.check_size(height, width)?;
        let network = Network::from_tensors(architecture, &tensors, device)?;
        Ok(Self::new(network, info))
    }

    /// Writes a folder that diffusers and [`Model::load`] can load, with f32 weights:
    ///
    /// ```python
    /// pipeline = DDPMPipeline.from_pretrained(folder)
    /// ```
    ///
    /// # Errors
    /// The network is not a [`UNet2DModel`], diffusers has no scheduler for the noise process, or a file cannot be
    /// written: the message names it.
    pub fn save_diffusers(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let Architecture::UNet2DModel(net) = self.network.architecture() else {
            bail!(
                "diffusers does not support the network {}; train one with `--model unet-2d-model`",
                self.network.architecture().name()
            )
        };
        ensure!(self.autoencoder.is_none(), "diffusers cannot read the autoencoder of a latent model");
        let [_, height, width] = self.info.shape;
        let mut config = fields(net)?;
        config.remove("null_class");
        for (key, value) in FIXED {
            config.insert(key.to_owned(), value.into());
        }
        let more = json!({
            "_class_name": "UNet2DModel",
            "_diffusers_version": VERSION,
            "sample_size": if height == width { json!(height) } else { json!([height, width]) },
            "class_embed_type": null,
            "dropout": 0.0,
            "num_train_timesteps": null,
            "time_embedding_dim": null,
        });
        config.extend(more.as_object().cloned().unwrap_or_default());
        let index = json!({
            "_class_name": "DDPMPipeline",
            "_diffusers_version": VERSION,
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        });
        let scheduler = scheduler(&self.info)?;
        let mut metadata = self.network.metadata()?;
        self.info.write(&mut metadata)?;
        // Without this entry diffusers does not recognise PyTorch tensors.
        metadata.insert("format".to_owned(), "pt".to_owned());
        for part in ["unet", "scheduler"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let write = |name: &str, value: &Value| {
            let (path, text) = (folder.join(name), serde_json::to_string_pretty(value)? + "\n");
            write_whole(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
        };
        write("model_index.json", &index)?;
        write("scheduler/scheduler_config.json", &scheduler)?;
        write("unet/config.json", &Value::Object(config))?;
        let tensors = self.network.parameters().values()?;
        Checkpoint { tensors, metadata }.save(folder.join("unet").join(WEIGHTS))
    }
}

/// Loads weights with an unusual name: a variant such as `….fp16.safetensors`, or shards `…-00001-of-00002…`.
fn in_parts(weights: &Path) -> Result<Checkpoint> {
    let stem = weights.file_stem().unwrap_or_default().to_string_lossy();
    let folder = weights.parent().unwrap_or(Path::new("."));
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&*stem) && name.ends_with(".safetensors") {
            names.push(name);
        }
    }
    names.sort();
    let shards = names.first().and_then(|name| {
        let (_, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        count.parse::<usize>().ok()
    });
    match (&names[..], shards) {
        ([], _) => bail!("there is no {}; write it with save_pretrained of a diffusers pipeline", weights.display()),
        ([variant], None) => {
            let _ = writeln!(std::io::stderr(), "{}: using the variant {variant}", folder.display());
        }
        (all, Some(count)) if all.len() == count => {}
        (all, Some(count)) => {
            bail!("{}: only {} of {count} shards of the weights exist: {}", folder.display(), all.len(), all.join(", "))
        }
        (several, None) => bail!(
            "{}: there are several files of weights, {}; rename one to {stem}.safetensors",
            folder.display(),
            several.join(", ")
        ),
    }
    let mut whole = Checkpoint::default();
    for name in names {
        let part = Checkpoint::load(folder.join(name))?;
        whole.tensors.extend(part.tensors);
        whole.metadata.extend(part.metadata);
    }
    Ok(whole)
}

/// Finds a file in the subfolder `part`, or in the folder itself.
fn find(folder: &Path, part: &str, name: &str) -> Result<PathBuf> {
    let (inner, outer) = (folder.join(part).join(name), folder.join(name));
    let found = [&inner, &outer].into_iter().find(|path| path.is_file());
    found.cloned().with_context(|| {
        format!(
            "there is neither {} nor {}; write the first with save_pretrained of a diffusers pipeline",
            inner.display(),
            outer.display()
        )
    })
}

fn read<T>(path: &Path, take: impl FnOnce(Map<String, Value>) -> Result<T>) -> Result<T> {
    let read = || {
        let text = fs::read_to_string(path)?;
        take(serde_json::from_str(&text).context("it is not a JSON object")?)
    };
    read().with_context(|| format!("cannot use {}", path.display())).map_err(crate::whole)
}

/// The fields of the network as JSON.
fn fields(net: &UNet2DModel) -> Result<Map<String, Value>> {
    match serde_json::to_value(net)? {
        Value::Object(fields) => Ok(fields),
        other => bail!("a network's configuration must be an object, not {other}"),
    }
}

/// Builds the network from `config.json`.
fn network(config: Map<String, Value>) -> Result<UNet2DModel> {
    let name = config.get("_class_name").and_then(Value::as_str);
    ensure!(
        name == Some("UNet2DModel"),
        "it describes {}; only UNet2DModel is supported",
        name.map_or("a network without a _class_name".to_owned(), str::to_owned)
    );
    for key in REQUIRED {
        ensure!(config.contains_key(key), "{key} is missing");
    }
    for (key, value) in FIXED {
        let said = config.get(key).filter(|said| *said != value);
        if let Some(said) = said {
            bail!("{key} is {said}; only {value:?} is supported")
        }
    }
    let known = fields(&UNet2DModel::default())?;
    let takes = |key: &String| known.contains_key(key) && key != "null_class";
    let config_fields = config.iter().filter(|(key, _)| takes(key));
    let mine: Map<_, _> = config_fields.map(|(k, v)| (k.clone(), v.clone())).collect();
    let net: UNet2DModel = serde_json::from_value(Value::Object(mine))?;
    let usual = net.block_out_channels.first().map_or(0, |c| 4 * c);
    for (key, usual) in [("class_embed_type", None), ("time_embedding_dim", Some(usual))] {
        let said = config.get(key).filter(|said| !said.is_null());
        let said = said.filter(|said| usual.is_none_or(|usual| **said != json!(usual)));
        if let Some(said) = said {
            bail!("{key} is {said}; only null is supported")
        }
    }
    Ok(net)
}

/// The keys of `scheduler_config.json` that are used, with diffusers' defaults.
#[derive(Deserialize)]
#[serde(default)]
struct Scheduler {
    num_train_timesteps: usize,
    beta_schedule: String,
    beta_start: f64,
    beta_end: f64,
    prediction_type: String,
    trained_betas: Option<Vec<f64>>,
    rescale_betas_zero_snr: bool,
    shift: f64,
    use_dynamic_shifting: bool,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_schedule: "linear".to_owned(),
            beta_start: 1e-4,
            beta_end: 0.02,
            prediction_type: "epsilon".to_owned(),
            trained_betas: None,
            rescale_betas_zero_snr: false,
            shift: 1.0,
            use_dynamic_shifting: false,
        }
    }
}

/// Schedulers of the discrete process; how they sample does not matter.
const DISCRETE: [&str; 15] = [
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
    "KDPM2DiscreteScheduler",
];

/// Schedulers of flow matching.
const FLOW: [&str; 2] = ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"];

fn noise_process(config: Map<String, Value>) -> Result<(NoiseProcess, Prediction)> {
    let name = config.get("_class_name").and_then(Value::as_str).map(str::to_owned);
    let it: Scheduler = serde_json::from_value(Value::Object(config))?;
    match name.as_deref() {
        Some(name) if FLOW.contains(&name) => {
            ensure!(
                !it.use_dynamic_shifting && it.num_train_timesteps == 1000,
                "use_dynamic_shifting and a num_train_timesteps other than 1000 are not supported for flow matching"
            );
            return Ok((NoiseProcess::Flow { shift: it.shift }, Prediction::Velocity));
        }
        Some(name) if !DISCRETE.contains(&name) => {
            bail!(
                "the noise process of {name} is not supported; supported are {} and {}",
                DISCRETE.join(", "),
                FLOW.join(", ")
            )
        }
        // Older files do not name the scheduler.
        _ => {}
    }
    ensure!(
        !it.rescale_betas_zero_snr,
        "rescale_betas_zero_snr is true: the network was trained with zero terminal SNR, which is not supported. \
         Setting it to false would not help, because the weights belong to that process"
    );
    let (start, end) = (it.beta_start, it.beta_end);
    let betas = match (it.trained_betas, it.beta_schedule.as_str()) {
        (Some(values), _) => Betas::Custom { name: "trained_betas".to_owned(), values },
        (None, "linear") => Betas::Linear { start, end },
        (None, "scaled_linear") => Betas::ScaledLinear { start, end },
        (None, "squaredcos_cap_v2") => Betas::COSINE,
        (None, "sigmoid") => Betas::Sigmoid { start, end },
        (None, other) => {
            bail!("beta_schedule is {other:?}; supported are linear, scaled_linear, squaredcos_cap_v2 and sigmoid")
        }
    };
    let prediction = match it.prediction_type.as_str() {
        "epsilon" => Prediction::Eps,
        "sample" => Prediction::X0,
        "v_prediction" => Prediction::V,
        other => bail!("prediction_type is {other:?}; supported are epsilon, sample and v_prediction"),
    };
    Ok((Schedule::new(it.num_train_timesteps, betas)?.into(), prediction))
}

fn scheduler(info: &ModelInfo) -> Result<Value> {
    let NoiseProcess::Vp(schedule) = &info.process else {
        bail!("models of the {} process cannot be written for diffusers; only those of vp can", info.process.name())
    };
    let (name, start, end) = match *schedule.kind() {
        Betas::Linear { start, end } => ("linear", start, end),
        Betas::ScaledLinear { start, end } => ("scaled_linear", start, end),
        Betas::Sigmoid { start, end } => ("sigmoid", start, end),
        _ if *schedule.kind() == Betas::COSINE => ("squaredcos_cap_v2", 1e-4, 0.02),
        // diffusers accepts any other schedule as a list.
        Betas::Cosine { .. } | Betas::Custom { .. } => ("", 1e-4, 0.02),
    };
    let prediction = match info.prediction {
        Prediction::Eps => "epsilon",
        Prediction::X0 => "sample",
        Prediction::V => "v_prediction",
        other => {
            bail!("diffusers' DDPMScheduler supports the predictions eps, x0 and v, not {other:?}")
        }
    };
    let mut config = json!({
        "_class_name": "DDPMScheduler",
        "_diffusers_version": VERSION,
        "num_train_timesteps": schedule.timesteps(),
        "beta_schedule": name,
        "beta_start": start,
        "beta_end": end,
        "prediction_type": prediction,
        "clip_sample": info.images,
        "clip_sample_range": 1.0,
        "variance_type": "fixed_small",
    });
    if name.is_empty() {
        config["beta_schedule"] = "linear".into();
        config["trained_betas"] = schedule.betas().into();
    }
    Ok(config)
}
