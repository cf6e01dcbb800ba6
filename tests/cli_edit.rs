//! Images from given ones on the command line: inpainting, super-resolution and variations.

use crate::{fails, succeeds, weights};
use anyhow::Result;
use diffusion_core::candle::{IndexOp, Tensor};
use image::{GrayImage, Luma, Rgb, RgbImage};
use std::fs;

#[test]
fn images_are_filled_enlarged_and_varied() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let folder = temp.path();
    let run = |arguments: &str| succeeds(&format!("{arguments} --device cpu"), folder);
    // A cross, and a wide photograph of which the model's commands take the centre.
    GrayImage::from_fn(28, 28, |x, y| Luma([if x / 4 == 3 || y / 4 == 3 { 255 } else { 0 }]))
        .save(folder.join("cross.png"))?;
    RgbImage::from_fn(90, 30, |x, _| Rgb([if x / 30 == 1 { 255 } else { 0 }; 3])).save(folder.join("wide.jpg"))?;
    fs::create_dir(folder.join("other"))?;
    fs::copy(folder.join("cross.png"), folder.join("other/cross.png"))?;
    let model = format!("--checkpoint {}", weights("mnist"));

    let said = run(&format!(
        "inpaint {model} --image cross.png --image other/cross.png --n 2 --mask half --steps 4 --resamplings 2 --jump 2 \
         --folder results --npy filled.npy"
    ))?;
    for wants in
        ["4 images, without a condition", "50 % of the pixels unknown", "4 steps in groups of 2", "inpainted.png"]
    {
        assert!(said.contains(wants), "{said:?} lacks {wants:?}");
    }
    for i in ["", "-2", "-3", "-4"] {
        let path = folder.join(format!("results/cross{i}.png"));
        assert_eq!(image::open(&path)?.to_luma8().dimensions(), (28, 28));
        // What was known is there to the bit.
        assert_eq!(image::open(&path)?.to_luma8().rows().next().map(|row| row.map(|p| p.0[0]).collect::<Vec<_>>()), {
            let row = (0..28).map(|x| if x / 4 == 3 { 255 } else { 0 });
            Some(row.collect())
        });
    }
    let filled = Tensor::read_npy(folder.join("filled.npy"))?;
    assert_eq!(filled.dims(), [4, 1, 28, 28]);
    let lower = |i: usize| filled.i((i, 0, 14..))?.flatten_all()?.to_vec1::<f32>();
    assert!(lower(0)? != lower(1)? && lower(0)? != lower(2)?);
    // A picture as a mask: dark is unknown, and --invert turns it round.
    GrayImage::from_fn(8, 8, |x, _| Luma([if x < 2 { 0 } else { 255 }])).save(folder.join("mask.png"))?;
    for (more, wants) in [("", "25 % of"), ("--invert", "75 % of")] {
        let said = run(&format!("inpaint {model} --image wide.jpg --mask mask.png --steps 1 --resamplings 1 {more}"))?;
        assert!(said.contains(wants), "{said}");
    }
    for mask in ["box", "stripes", "random --unknown 0.3", "strokes"] {
        run(&format!(
            "inpaint {model} --image wide.jpg --mask {mask} --steps 1 --resamplings 1 --out {}.png",
            mask.len()
        ))?;
    }

    let said =
        run(&format!("vary {model} --image wide.jpg --class 8 --guidance 2 --strength 0.5 --steps 4 --npy v.npy"))?;
    assert!(said.contains("1 image, classes 8, guidance 2, ddim, 2 of 4 steps"), "{said}");
    // The centre of the photograph is white, and little noise leaves it so.
    run(&format!("vary {model} --image wide.jpg --strength 0.01 --steps 50 --npy v.npy"))?;
    assert!(Tensor::read_npy(folder.join("v.npy"))?.mean_all()?.to_scalar::<f32>()? > 0.5);
    run(&format!("vary {model} --image wide.jpg --strength 0.01 --steps 50 --npy v.npy --fit stretch"))?;
    assert!(Tensor::read_npy(folder.join("v.npy"))?.mean_all()?.to_scalar::<f32>()? < 0.0);

    let large = weights("mnist-x4");
    let said = run(&format!("upscale --checkpoint {large} --image cross.png --n 2 --steps 2 --npy up.npy"))?;
    assert!(said.contains("2 images from 7×7 to 28×28 pixels, ddim, 2 steps"), "{said}");
    assert_eq!(Tensor::read_npy(folder.join("up.npy"))?.dims(), [2, 1, 28, 28]);

    let mnist = weights("mnist");
    for (arguments, wants) in [
        ("inpaint --checkpoint MNIST --image cross.png --mask hlaf", "--mask hlaf: it is neither box"),
        ("inpaint --checkpoint MNIST --image nothing.png --mask half", "nothing.png"),
        ("inpaint --checkpoint MNIST --image filled.npy --mask half", "filled.npy"),
        ("inpaint --checkpoint MNIST --image cross.png --mask half --unknown 0.2", "--unknown is for"),
        ("inpaint --checkpoint MNIST --image cross.png --mask random --unknown 1.2", "--unknown 1.2"),
        ("inpaint --checkpoint MNIST --image cross.png --mask half --steps 0", "--steps 0"),
        ("inpaint --checkpoint MNIST --image cross.png --mask half --resamplings 0", "--resamplings 0"),
        ("inpaint --checkpoint MNIST --image cross.png --mask half --guidance 2", "name one with --class"),
        ("inpaint --checkpoint MNIST --image cross.png --mask half --n 1000", "at most 256"),
        ("inpaint --checkpoint MNIST --mask half", "--image"),
        ("vary --checkpoint MNIST --image cross.png --strength 1.5", "--strength 1.5"),
        ("vary --checkpoint MNIST-x4 --image cross.png", "`diffusion upscale` uses it"),
        ("vary --checkpoint MNIST-fast --image cross.png", "the model it was trained from"),
        ("upscale --checkpoint MNIST --image cross.png", "enlarges nothing"),
        ("upscale --checkpoint MNIST-x4 --image cross.png --class 3", "unconditional model"),
    ] {
        let arguments: Vec<String> = arguments
            .split_whitespace()
            .map(|word| match word.strip_prefix("MNIST") {
                Some(rest) => mnist.replace("mnist.s", &format!("mnist{rest}.s")),
                None => word.to_owned(),
            })
            .collect();
        let said = fails(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), folder)?;
        assert!(said.contains(wants), "{arguments:?}: {said}");
    }
    Ok(())
}
