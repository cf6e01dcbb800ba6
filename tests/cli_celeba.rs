//! CelebA on the command line, with files in its layout: a model that is conditioned on attributes by their names.

use crate::cli_photos::{files, garble};
use crate::{CONFIG, diffusion, words};
use anyhow::{Result, ensure};
use diffusion_core::candle::{Device, Tensor};
use diffusion_core::model::Model;
use image::{Rgb, RgbImage};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Thirty pictures: 24 to train on, 3 of the validation set, 3 of the test set.
fn celeba(folder: &Path) -> Result<()> {
    let pictures = folder.join("img_align_celeba");
    fs::create_dir_all(&pictures)?;
    let (mut attributes, mut partitions) = ("30\nEyeglasses No_Beard Smiling Young \n".to_owned(), String::new());
    for i in 1..=30u8 {
        let name = format!("{i:06}.jpg");
        RgbImage::from_fn(178, 218, |x, y| Rgb([8 * i, x as u8, y as u8])).save(pictures.join(&name))?;
        let sign = |by| if i % by == 0 { " 1" } else { "-1" };
        writeln!(attributes, "{name} {} {} {} {}", sign(2), sign(3), sign(4), sign(5))?;
        writeln!(partitions, "{name} {}", (i / 25) + (i / 28))?;
    }
    fs::write(folder.join("list_attr_celeba.txt"), attributes)?;
    fs::write(folder.join("list_eval_partition.txt"), partitions)?;
    Ok(())
}

#[test]
fn a_model_learns_attributes_and_samples_them_by_name() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (folder, data) = (temp.path(), temp.path().join("data"));
    let run = |arguments: &str| {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let output = diffusion(&arguments, folder).env("DIFFUSION_DATA", &data).output()?;
        ensure!(output.status.code() != Some(101), "it panicked: {}", words(&output));
        Ok((output.status.success(), words(&output)))
    };
    let succeeds = |arguments: &str| -> Result<String> {
        let (success, said) = run(arguments)?;
        ensure!(success, "{arguments}: {said}");
        Ok(said)
    };
    let fails = |arguments: &str, wants: &[&str]| -> Result<()> {
        let (success, said) = run(arguments)?;
        ensure!(!success, "{arguments} succeeded: {said}");
        wants.iter().for_each(|want| assert!(said.contains(want), "{arguments}: {said} lacks {want:?}"));
        Ok(())
    };
    let missing =
        ["img_align_celeba", "list_attr_celeba.txt", "mmlab.ie.cuhk.edu.hk/projects/CelebA.html", "data/celeba"];
    fails("train --task celeba", &missing)?;
    fails("data fetch celeba", &missing)?;
    celeba(&data.join("celeba"))?;
    assert!(succeeds("data fetch celeba")?.contains("celeba/list_attr_celeba.txt"));

    fs::write(folder.join("run.toml"), format!("condition = \"context\"\n{CONFIG}"))?;
    let train = "train --config run.toml --task celeba --side 16 --device cpu";
    let said = succeeds(&format!("{train} --out whole"))?;
    assert!(said.contains("celeba: 24 images of 3×16×16, 1 classes (face: 24); with 4 attributes"), "{said}");
    assert!(said.contains("validation loss"), "{said}");
    succeeds(&format!("{train} --out parts --epochs 1"))?;
    garble(&files(&data.join("celeba/img_align_celeba"))?)?;
    succeeds("train --resume parts --epochs 4 --device cpu")?;
    let model = |run: &str| folder.join(run).join("model.safetensors");
    assert!(fs::read(model("whole"))? == fs::read(model("parts"))?);
    let info = Model::load(model("whole"), &Device::Cpu)?.info;
    assert_eq!((info.context_names(), &info.data[..]), (&info.context[..], "celeba"));
    assert_eq!(info.context, ["Eyeglasses", "No_Beard", "Smiling", "Young"]);

    let sample = "sample --checkpoint whole/model.safetensors --n 2 --steps 2 --device cpu --npy x.npy";
    let said = succeeds(&format!("{sample} --context Smiling=1,Eyeglasses=-1 --guidance 2"))?;
    assert!(said.contains("2 images, context Smiling=1, Eyeglasses=-1, guidance 2, "), "{said}");
    let images = || -> Result<Vec<f32>> { Ok(Tensor::read_npy(folder.join("x.npy"))?.flatten_all()?.to_vec1()?) };
    let named = images()?;
    succeeds(&format!("{sample} --context -1,0,1,0 --guidance 2"))?;
    assert!(images()? == named, "the same in numbers");
    succeeds(&format!("{sample} --context Smiling=-1,Eyeglasses=1 --guidance 2"))?;
    assert!(images()? != named, "other attributes, other images");
    assert!(succeeds(sample)?.contains("2 images, without a condition, "));
    fails(
        &format!("{sample} --context Smilin=1"),
        &["--context Smilin: there is no such name; the nearest are Smiling, "],
    )?;
    fails(
        &format!("{sample} --context 1,0"),
        &["2 numbers were given, but the model takes 4, one for each of Eyeglasses, "],
    )?;
    fails(&format!("{sample} --class face"), &["conditioned on attributes", "--context Eyeglasses=1"])?;
    fails(&format!("{sample} --guidance 2"), &["name one with --context"])?;
    succeeds("export --run whole --out m.safetensors --samples 2")?;
    let card = fs::read_to_string(folder.join("m.md"))?;
    assert!(card.contains("classes face; conditioned on the attributes Eyeglasses, No_Beard, "), "{card}");
    Ok(())
}

/// Without a file or flags: 64×64, conditioned on the attributes, mirrored.
#[test]
fn the_recipe_for_faces_is_conditioned_on_their_attributes() -> Result<()> {
    let temp = tempfile::tempdir()?;
    celeba(&temp.path().join("data/celeba"))?;
    let train = ["train", "--task", "celeba", "--model", "simple-unet", "--train-steps", "1", "--batch", "1"];
    let more = ["--sample-every", "0", "--out", "x", "--device", "cpu"];
    let output = diffusion(&[&train[..], &more].concat(), temp.path()).output()?;
    ensure!(output.status.success(), words(&output));
    let config = fs::read_to_string(temp.path().join("x/config.toml"))?;
    for wants in ["condition = \"context\"", "context = 4", "classes = 0", "augment = [\"horizontal-flip\"]"] {
        assert!(config.contains(wants), "{config} lacks {wants:?}");
    }
    assert!(words(&output).contains("celeba: 24 images of 3×64×64"), "{}", words(&output));
    Ok(())
}
