//! Tests of model files and of sampling from a model.

use super::*;
use crate::prediction::Prediction;
use crate::process::NoiseProcess;
use crate::schedule::{Betas, Schedule};
use crate::unet::SimpleUNet;

fn model(change: impl FnOnce(&mut ModelInfo)) -> Result<Model> {
    let small = SimpleUNet { base: 4, groups: 2, classes: 2, ..Default::default() };
    let mut info = ModelInfo {
        process: Schedule::cosine(100)?.into(),
        prediction: Prediction::V,
        classes: vec!["a".to_owned(), "b".to_owned()],
        data: "tiny".to_owned(),
        images_seen: 7,
        ..ModelInfo::new([1, 8, 8])
    };
    change(&mut info);
    let network = Network::new(small, &mut Rng::new(1), &Device::Cpu)?;
    let last = network.parameters().get("conv_out.weight").context("the last layer")?;
    last.set(&last.ones_like()?)?;
    Ok(Model::new(network, info))
}

fn numbers(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

#[test]
fn a_model_is_restored_from_its_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("m.safetensors");
    let sampler = Sampler::ddim(5);
    let sample = |m: &Model| m.sample(2, Condition::labels([0, 1]), &sampler, &mut Rng::new(2));
    let own = Schedule::from_betas("own", vec![0.1, 1.0 / 3.0, 0.5, 0.7, 0.9])?;
    for (process, prediction) in [
        (Schedule::cosine(100)?.into(), Prediction::V),
        (own.into(), Prediction::Eps),
        (NoiseProcess::Flow { shift: 3.0 }, Prediction::Velocity),
        (NoiseProcess::edm(), Prediction::EDM),
    ] {
        let model = model(|info| (info.process, info.prediction) = (process, prediction))?;
        model.save(&path)?;
        let again = Model::load(&path, &Device::Cpu)?;
        assert_eq!(again.info, model.info);
        assert_eq!(again.network.architecture(), model.network.architecture());
        assert_eq!(numbers(&sample(&model)?)?, numbers(&sample(&again)?)?);
    }
    let (half, model) = (folder.path().join("half.safetensors"), model(|_| ())?);
    model.save_as(&half, DType::F16)?;
    assert!(half.metadata()?.len() * 10 < path.metadata()?.len() * 7);
    let (a, b) = (sample(&model)?, sample(&Model::load(&half, &Device::Cpu)?)?);
    let off = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(off > 0.0 && off < 0.05, "{off}");
    Ok(())
}

/// Image i depends only on the seed and i, for every sampler, number of images and batch.
#[test]
fn an_image_does_not_depend_on_those_beside_it() -> Result<()> {
    let model = model(|_| ())?;
    let samplers = [
        Sampler::ddpm(),
        Sampler { solver: crate::sampler::Solver::Ddim { eta: 0.7 }, ..Sampler::ddim(10) },
        Sampler::ddim(5),
        Sampler::heun(4),
        Sampler::dpm_solver(4),
    ];
    for sampler in &samplers {
        let conditions = |n: usize| Condition::labels((0..n).map(|i| i % 2));
        let all = model.sample(5, conditions(5), sampler, &mut Rng::new(3))?;
        let batches = model.sample_in_batches(5, 2, conditions(5), sampler, &mut Rng::new(3))?;
        let fewer = model.sample(3, conditions(3), sampler, &mut Rng::new(3))?;
        let off = |a: &Tensor, b: &Tensor| -> Result<f32> { Ok((a - b)?.abs()?.max_all()?.to_scalar()?) };
        assert!(off(&all, &batches)? < 1e-5, "{sampler:?}");
        assert!(off(&all.narrow(0, 0, 3)?, &fewer)? < 1e-5, "{sampler:?}");
        assert!(off(&all.narrow(0, 0, 1)?, &all.narrow(0, 2, 1)?)? > 0.01, "{sampler:?}");
    }
    // Two calls with one generator differ.
    let rng = &mut Rng::new(3);
    let twice = [(); 2].map(|()| model.sample(2, conditions_of_two(), &samplers[0], rng));
    let [first, second] = twice;
    assert!(numbers(&first?)? != numbers(&second?)?);
    Ok(())
}

fn conditions_of_two() -> Condition {
    Condition::labels([0, 1])
}

#[test]
fn sampler_names_the_first_step_that_is_not_finite() -> Result<()> {
    let model = model(|_| ())?;
    let noise = model.noise(2, &mut Rng::new(1))?;
    let mut calls = 0;
    let predict = |x: &Tensor, _: &[f64]| {
        calls += 1;
        if calls == 3 { x / 0.0 } else { x.zeros_like() }
    };
    let sampler = Sampler { threshold: crate::sampler::Threshold::None, ..Sampler::ddim(5) };
    let found = sampler.sample(predict, model.info.process.clone(), Prediction::Eps, &noise, &mut Rng::new(1));
    let message = found.unwrap_err().to_string();
    assert!(message.contains("after step 3 of 5 (t = 59) the images contain NaN"), "{message}");
    Ok(())
}

/// Images are clipped to their range, other data is not.
#[test]
fn the_threshold_follows_the_data() -> Result<()> {
    let largest = |images: bool| -> Result<f32> {
        let model = model(|info| (info.images, info.process) = (images, NoiseProcess::edm()))?;
        let x = model.sample(2, Condition::none(), &Sampler::ddim(3), &mut Rng::new(2))?;
        Ok(x.abs()?.max_all()?.to_scalar()?)
    };
    assert!(largest(true)? <= 1.0 && largest(false)? > 1.0);
    let noise = model(|info| info.process = NoiseProcess::edm())?.noise(50, &mut Rng::new(1))?;
    let std = noise.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt();
    assert!((std / 80.0 - 1.0).abs() < 0.05, "{std}");
    Ok(())
}

/// `golden/model_before_processes.safetensors` is in the old format, from when the discrete process was the only one.
#[test]
fn old_files_load() -> Result<()> {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/model_before_processes.safetensors");
    assert_eq!(Model::load(golden, &Device::Cpu)?.info, model(|_| ())?.info);
    Ok(())
}

#[test]
fn errors_explain_why_a_file_is_not_a_model() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("m.safetensors");
    let fail = || Model::load(&path, &Device::Cpu).unwrap_err().to_string();
    assert!(fail().contains("m.safetensors"));
    let good = model(|_| ())?;
    good.network.save(&path)?;
    assert!(fail().contains("a network without a noise process"), "{}", fail());
    good.network.parameters().save(&path)?;
    assert!(fail().contains("does not name the architecture"), "{}", fail());
    for (model, wants) in [
        (model(|info| info.shape = [3, 8, 8])?, "images with 3 channels, but its network for 1"),
        (model(|info| info.shape = [1, 8, 9])?, "the image is 8×9"),
        (model(|info| info.context = vec!["x".to_owned()])?, "names 1 context values, but its network takes 0"),
        (model(|info| info.process = NoiseProcess::Flow { shift: 0.0 })?, "shift = 0"),
        (model(|info| info.prediction = Prediction::Edm { sigma_data: -1.0 })?, "sigma-data = -1"),
        (model(|info| (info.process, info.prediction) = (NoiseProcess::flow(), Prediction::Eps))?, "use velocity"),
    ] {
        model.save(&path)?;
        assert!(fail().contains(wants), "{:?} lacks {wants:?}", fail());
    }
    let before = |steps: &str, betas: &str| -> Result<String> {
        let mut metadata = good.network.metadata()?;
        let text = format!(
            r#"{{"steps":{steps},"betas":{betas},"param":"v","shape":[1,8,8],"classes":[],"data":"","images_seen":0}}"#
        );
        metadata.insert("process".to_owned(), text);
        Checkpoint { tensors: good.network.parameters().values()?, metadata }.save(&path)?;
        Ok(fail())
    };
    let linear = serde_json::to_string(&Betas::LINEAR)?;
    for (message, wants) in [
        (before("1", &linear)?, "timesteps = 1"),
        (before("-1", &linear)?, "-1"),
        (before("9", r#"{"linear":{"start":2}}"#)?, "start = 2"),
        (before("9", r#""cubic""#)?, "cubic"),
    ] {
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    // The size that a file claims must not be trusted.
    let mut file = Checkpoint::default();
    let absurd = r#"{"simple-unet":{"base":1024,"groups":8}}"#;
    file.metadata.insert("architecture".to_owned(), absurd.to_owned());
    file.save(&path)?;
    assert!(fail().contains("missing: time_embedding.linear1.weight"), "{}", fail());
    Ok(())
}
