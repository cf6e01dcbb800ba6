//! Our measures equal those of numpy, scipy and scikit-image: `golden/metrics.py` wrote them down.

use anyhow::{Context, Result};
use diffusion_core::candle::{Device, Tensor, safetensors};
use diffusion_core::data::Dataset;
use diffusion_core::data::sprites::{Attributes, CLASSES, generate};
use diffusion_core::metrics::{
    Classifier, Extracted, FeatureExtractor, Fit, Gaussian, InceptionV3, frechet_distance, inception_score,
    kernel_distance, nearest, precision_recall, psnr, ssim,
};
use diffusion_core::nn::Checkpoint;
use diffusion_core::rng::Rng;
use std::collections::{BTreeMap, HashMap};

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load() -> Result<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/metrics.safetensors");
        Ok(Self(safetensors::load(path, &Device::Cpu)?))
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.0.get(name).with_context(|| format!("no {name}"))
    }

    fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        Ok(self.tensor(name)?.flatten_all()?.to_vec1()?)
    }

    /// Equal to `tolerance` of the largest of the values.
    fn equals(&self, name: &str, got: &[f64], tolerance: f64) -> Result<()> {
        let want = self.numbers(name)?;
        assert_eq!(got.len(), want.len(), "{name}");
        let largest = want.iter().fold(0f64, |m, x| m.max(x.abs()));
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= tolerance * largest, "{name}: {got}, should be {want}");
        }
        Ok(())
    }
}

#[test]
fn distances_of_sets_equal_scipys() -> Result<()> {
    let golden = Golden::load()?;
    let (real, samples, mut rng) = (golden.tensor("real")?, golden.tensor("samples")?, Rng::new(1));
    let frechet = frechet_distance(real, samples, &mut rng)?;
    golden.equals("frechet", &[frechet.value], 1e-9)?;
    let alone = Gaussian::fit(samples)?.frechet(&Gaussian::fit(real)?)?;
    golden.equals("frechet", &[alone], 1e-9)?;
    let kernel = kernel_distance(real, samples, &mut rng)?;
    golden.equals("kernel", &[kernel.value], 1e-9)?;
    for it in [frechet, kernel] {
        assert!(it.interval.0 < it.value && it.value < it.interval.1, "{it}");
        assert!(it.real.value < it.interval.0, "{it}");
        assert_eq!((it.real_images, it.samples, it.real.real_images, it.real.samples), (150, 120, 75, 75));
    }
    Ok(())
}

#[test]
fn precision_recall_and_neighbours_equal_scipys() -> Result<()> {
    let golden = Golden::load()?;
    let (real, samples) = (golden.tensor("real")?, golden.tensor("samples")?);
    for k in [1, 3, 5] {
        let it = precision_recall(real, samples, k, &mut Rng::new(1))?;
        golden.equals(&format!("precision.{k}"), &[it.precision.value], 1e-12)?;
        golden.equals(&format!("recall.{k}"), &[it.recall.value], 1e-12)?;
        let near = nearest(samples, real, k)?.concat();
        let indices: Vec<i64> = near.iter().map(|near| near.index as i64).collect();
        let want: Vec<i64> = golden.tensor(&format!("nearest.{k}"))?.flatten_all()?.to_vec1()?;
        assert_eq!(indices, want);
        let distances: Vec<f64> = near.iter().map(|near| near.distance).collect();
        golden.equals(&format!("distances.{k}"), &distances, 1e-12)?;
    }
    Ok(())
}

#[test]
fn inception_scores_equal_scipys() -> Result<()> {
    let golden = Golden::load()?;
    let p = golden.tensor("p")?;
    for splits in [1, 4, 10] {
        let it = inception_score(p, p, splits, &mut Rng::new(1))?;
        golden.equals(&format!("inception.{splits}"), &[it.value], 1e-7)?;
        assert!(it.interval.0 < it.value && it.value < it.interval.1, "{it}");
    }
    Ok(())
}

#[test]
fn psnr_and_ssim_equal_those_of_scikit_image() -> Result<()> {
    let golden = Golden::load()?;
    let (x, y) = (golden.tensor("x")?, golden.tensor("y")?);
    golden.equals("psnr", &psnr(x, y, 2.0)?, 1e-12)?;
    golden.equals("ssim", &ssim(x, y, 2.0)?, 1e-9)
}

/// The 24 million weights of `golden/inception.py`.
fn inception_weights(shapes: &str) -> Result<HashMap<String, Tensor>> {
    let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_str(shapes)?;
    let tensor = |(k, (name, shape)): (usize, (String, Vec<usize>))| {
        let (mean, size) = match shape[..] {
            [_] => {
                let ones = name.ends_with("weight") || name.ends_with("running_var");
                (f64::from(u8::from(ones)), 0.1)
            }
            _ => {
                let inputs: usize = shape[1..].iter().product();
                (0.0, 2.0 / (inputs as f64).sqrt())
            }
        };
        let number = |i: usize| mean + size * (0.37 * (i * i) as f64 + k as f64).sin();
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| number(i) as f32).collect();
        Ok((name, Tensor::from_vec(values, shape, &Device::Cpu)?))
    };
    shapes.into_iter().enumerate().map(tensor).collect()
}

#[test]
fn inception_is_that_of_the_frechet_inception_distance() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/inception.safetensors");
    let golden = Checkpoint::load(path)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("inception.safetensors");
    let missing = InceptionV3::load(&path, &Device::Cpu).unwrap_err();
    let wants = "get pt_inception-2015-12-05-6726825d.pth (95 MB) from https://github.com/mseitzer";
    assert!(missing.to_string().contains(wants), "{missing}");

    let mut file = Checkpoint { tensors: inception_weights(&golden.metadata["shapes"])?, ..Default::default() };
    file.save(&path)?;
    let network = InceptionV3::load(&path, &Device::Cpu)?;
    for name in ["grey", "colour"] {
        let Extracted { features, probabilities } = network.extract(&golden.tensors[name])?;
        for (what, ours) in [("features", features), ("logits", probabilities.log()?)] {
            let theirs = &golden.tensors[&format!("{name}.{what}")];
            let off = (ours - theirs)?.abs()?.max_all()?.to_scalar::<f32>()?;
            let size = theirs.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(off < 1e-4 * size, "{name}.{what}: {off} of {size}");
        }
    }
    assert!(!network.has_classes());
    let flat = network.extract(&golden.tensors["grey"].squeeze(1)?);
    assert!(flat.unwrap_err().to_string().contains("x has shape [2, 28, 28]"));

    let name = "Mixed_6c.branch7x7_2.conv.weight";
    let wrong = file.tensors[name].narrow(0, 0, 7)?.contiguous()?;
    file.tensors.insert(name.to_owned(), wrong);
    file.save(&path)?;
    let message = InceptionV3::load(&path, &Device::Cpu).unwrap_err().to_string();
    let wants = format!("{name} has shape [7, 160, 1, 7] but must have [160, 160, 1, 7]");
    assert!(message.contains(&wants), "{message}");
    file.tensors.remove(name);
    file.save(&path)?;
    let message = InceptionV3::load(&path, &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains(&format!("missing: {name}")), "{message}");
    Ok(())
}

/// Images with other attributes than wanted lower the accuracy of these; unmentioned ones do not count.
#[test]
fn attributes_are_learned_and_compared() -> Result<()> {
    let (train, test) = (generate(320, 1), generate(60, 2));
    let fit = Fit { epochs: 2, batch: 32, ..Default::default() };
    let it = fit.run_attributes(&train, &test, &Device::Cpu)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("c.safetensors");
    it.save(&path)?;
    let it = Classifier::load(&path, &Device::Cpu)?;
    let names: Vec<&str> = it.about.attributes.iter().map(|it| &it.name[..]).collect();
    assert_eq!(names, Attributes::NAMES);
    let x = Dataset::from_sprites(&test)?.images(0..60, &Device::Cpu)?;
    assert_eq!(it.probabilities(&x)?.dims(), [60, CLASSES.len()]);
    let found = it.attribute_accuracy(&x, &test.attributes)?;
    for (name, accuracy) in &found.each {
        let known = it.about.attributes.iter().find(|it| it.name == *name).context("an attribute")?;
        assert_eq!(known.test_accuracy, accuracy.accuracy, "{name}");
    }
    // Two of five classes are people, and they look ahead, to the left or to the right.
    let facing = found.each.iter().find(|(name, _)| name == "facing").context("facing")?;
    assert!(facing.1.samples == 24 && facing.1.accuracy > 0.3, "{facing:?}");
    let up = |it: &Attributes| Attributes { facing: it.facing.and(Some("up")), ..*it };
    let compared = it.attribute_accuracy(&x, &test.attributes.iter().map(up).collect::<Vec<_>>())?;
    assert_eq!((compared.each[1].1.accuracy, &compared.each[0]), (0.0, &found.each[0]));
    assert!(compared.all.accuracy <= 0.6);
    let thing = vec![Attributes { thing: "knight", ..Default::default() }; 60];
    assert_eq!(it.attribute_accuracy(&x, &thing)?.each.len(), 1);

    let message = it.attribute_accuracy(&x, &thing[..2]).unwrap_err().to_string();
    assert!(message.contains("60 images and 2 lists of attributes"), "{message}");
    let plain =
        Classifier::new("sprites", [3, 16, 16], &CLASSES.map(str::to_owned), 32, &mut Rng::new(1), &Device::Cpu)?;
    let message = plain.attribute_accuracy(&x, &thing).unwrap_err().to_string();
    assert!(message.contains("was not trained on attributes"), "{message}");
    Ok(())
}
