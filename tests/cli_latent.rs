//! Autoencoders and models of their latents on the command line.

use crate::{CONFIG, fails, succeeds, weights};
use anyhow::Result;
use std::fs;

#[test]
fn an_autoencoder_and_a_model_of_its_latents_are_trained_sampled_measured_and_exported() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let folder = temp.path();
    let run = |arguments: &str| succeeds(arguments, folder);
    fs::write(folder.join("c.toml"), CONFIG)?;
    let network = "[objective.vae.network]\nbase = 8\ngroups = 2\nfactor = 2\n";
    fs::write(folder.join("v.toml"), format!("{CONFIG}\n{network}"))?;
    let said = run("train --config v.toml --objective vae --kl-weight 0.01 --train-steps 6 --device cpu --out vae")?;
    assert!(said.contains("latents of 4 channels at 1/2 of the height and width; KL weight 1e-2"), "{said}");
    assert!(said.contains("vae: ") && said.contains("validation loss"), "{said}");
    run("train --resume vae --epochs 5 --train-steps 8 --device cpu")?;
    run("export --run vae --out ae.safetensors --license mit")?;
    let card = fs::read_to_string(folder.join("ae.md"))?;
    assert!(card.contains("images of 3×16×16 become latents of 4×8×8") && card.contains("kl_weight = 0.01"), "{card}");
    assert!(folder.join("ae.png").is_file());
    let classifier = weights("classifier-sprites");
    let evaluate = format!("evaluate --checkpoint ae.safetensors --classifier {classifier} --images 300 --device cpu");
    let said = run(&format!("{evaluate} --n 20 --card ae.md"))?;
    assert!(said.contains("reconstructions of 20 held-out images") && said.contains("PSNR "), "{said}");
    assert!(fs::read_to_string(folder.join("ae.md"))?.contains("dB, SSIM "));

    let train = "train --config c.toml --autoencoder ae.safetensors --device cpu";
    let said = run(&format!("{train} --train-steps 3 --out latent"))?;
    assert!(said.contains("64 latents of 4×8×8"), "{said}");
    run("train --resume latent --train-steps 5 --device cpu")?;
    let model = "--checkpoint latent/model.safetensors --steps 2 --device cpu";
    run(&format!("sample {model} --class 1 --n 4 --npy x.npy --gif x.gif"))?;
    assert!(fs::read(folder.join("x.npy"))?.len() > 4 * 3 * 16 * 16 * 4);
    let said = run(&format!("evaluate {model} --n 20 --classifier {classifier} --images 300"))?;
    assert!(said.contains("20 samples, all classes in turn"), "{said}");
    run(&format!("compare {model} --n 2 --ddpm-steps 2 --out compare.png"))?;
    assert!(folder.join("compare.png").is_file());
    run("export --run latent --samples 4 --out both.safetensors")?;
    let card = fs::read_to_string(folder.join("both.md"))?;
    assert!(card.contains("for latents of 4×8×8") && card.contains("autoencoder = \"ae.safetensors\""), "{card}");
    image::RgbImage::new(16, 16).save(folder.join("i.png"))?;
    run("vary --checkpoint both.safetensors --image i.png --steps 4 --device cpu")?;
    let student = "train --task sprites --images 64 --objective consistency --from both.safetensors --train-steps 2";
    run(&format!("{student} --device cpu --out fast"))?;
    run("sample --checkpoint fast/model.safetensors --n 2 --device cpu")?;

    for (arguments, wants) in [
        (format!("{train} --objective vae"), "--autoencoder: --objective vae trains a new one"),
        (format!("{student} --autoencoder ae.safetensors"), "--autoencoder: the model of --from determines it"),
        ("train --config c.toml --autoencoder c.toml".to_owned(), "cannot use"),
        (format!("train --config c.toml --autoencoder {}", weights("mnist")), "no description of one"),
        ("train --config c.toml --kl-weight 1".to_owned(), "--kl-weight belongs to --objective vae"),
        ("train --config v.toml --process flow".to_owned(), "--process: it is for diffusion models"),
        ("train --config v.toml --kl-weight -1".to_owned(), "kl_weight = -1"),
        ("train --config v.toml --side 9".to_owned(), "side = 9"),
        (format!("{train} --side 12"), "side = 12: the latents"),
        ("sample --checkpoint ae.safetensors".to_owned(), "it is an autoencoder"),
        (format!("{evaluate} --bits 10"), "--bits, --attributes: they measure models"),
        (format!("{evaluate} --n 9999"), "--n 9999: an autoencoder reconstructs held-out images"),
        ("export --run vae --out e.safetensors --epochs 1".to_owned(), "only the final autoencoder"),
        ("inpaint --checkpoint both.safetensors --image i.png --mask half".to_owned(), "use a model of pixels"),
    ] {
        let said = fails(&arguments.split_whitespace().collect::<Vec<_>>(), folder)?;
        assert!(said.contains(wants), "{arguments}: {said:?} lacks {wants:?}");
    }
    Ok(())
}
