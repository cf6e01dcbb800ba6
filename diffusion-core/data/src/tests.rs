use super::*;

/// Three images of 1×2×2 with labels.
fn tiny() -> Dataset {
    let pixels = vec![0, 255, 51, 204, 1, 2, 3, 4, 9, 9, 9, 9];
    Dataset::from_u8("tiny", pixels, [1, 2, 2], vec![1, 0, 1], &["a", "b"]).unwrap()
}

fn values(d: &Dataset, indices: &[usize]) -> Vec<f32> {
    let images = d.images(indices.iter().copied(), &Device::Cpu).unwrap();
    images.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn pixels_become_numbers_from_minus_one_to_one() -> Result<()> {
    let images = values(&tiny(), &[0]);
    let close = |(a, b): (&f32, f32)| (a - b).abs() < 1e-6;
    assert!(images.iter().zip([-1.0, 1.0, -0.6, 0.6]).all(close), "{images:?}");
    assert_eq!(tiny().context([0, 1], &Device::Cpu)?.to_vec2::<f32>()?, [[0.0, 1.0], [1.0, 0.0]]);
    Ok(())
}

#[test]
fn f32_values_stay_as_they_are() -> Result<()> {
    let latents: Vec<f32> = (0..24).map(|i| i as f32 - 7.5).collect();
    let d = Dataset::from_f32("latents", latents.clone(), [4, 1, 2], vec![0, 1, 0], &["a", "b"])?;
    assert_eq!(d.bytes(), None);
    assert_eq!(values(&d, &[2, 0]), [&latents[16..], &latents[..8]].concat());
    assert_eq!(values(&d.select([1])?, &[0]), latents[8..16]);
    let message = d.resize(8, Resize::Nearest).unwrap_err().to_string();
    assert!(message.contains("8-bit images only"), "{message}");
    Ok(())
}

#[test]
fn captions_stay_with_their_images() -> Result<()> {
    let captions = ["zero", "one", "two"].map(str::to_owned);
    let d = tiny().with_captions(captions.to_vec())?;
    assert_eq!(d.select([2, 0])?.captions(), Some(&["two".to_owned(), "zero".to_owned()][..]));
    assert_eq!(d.resize(4, Resize::Nearest)?.captions(), Some(&captions[..]));
    assert!(d.to_string().ends_with("(a: 1, b: 2); with captions"), "{d}");
    assert_eq!(tiny().captions(), None);
    Ok(())
}

#[test]
fn classes_are_counted_and_found() -> Result<()> {
    let d = tiny();
    assert_eq!((d.class_counts(), d.of_class(1)?), (vec![1, 2], vec![0, 2]));
    assert_eq!(format!("{d:?}"), "tiny: 3 images of 1×2×2, 2 classes (a: 1, b: 2)");
    let b = d.select(d.of_class(1)?)?;
    assert_eq!((b.len(), b.labels()), (2, &[1, 1][..]));
    assert_eq!(values(&b, &[1]), values(&d, &[2]));
    Ok(())
}

#[test]
fn sprites_keep_their_colours_and_their_prefix() -> Result<()> {
    let (few, many) = (Dataset::sprites(20, 7)?, Dataset::sprites(50, 7)?);
    let (few, many) = (few.bytes().unwrap(), many.bytes().unwrap());
    assert_eq!(few, &many[..few.len()]);
    let rows = sprites::generate(1, 7).pixels;
    for (i, rgb) in rows.chunks_exact(3).enumerate() {
        assert_eq!(rgb, [few[i], few[256 + i], few[512 + i]]);
    }
    assert_eq!(Dataset::sprites(500, 1)?.class_counts().iter().min(), Some(&100));
    Ok(())
}

#[test]
fn a_split_shares_out_every_image_once() -> Result<()> {
    let all = Dataset::sprites(50, 3)?;
    let (train, test) = all.split(0.2, &mut Rng::new(1))?;
    assert_eq!((train.len(), test.len()), (40, 10));
    let images = |d: &Dataset| -> Vec<Vec<u8>> {
        let images = d.bytes().unwrap().chunks(3 * 16 * 16);
        images.map(<[u8]>::to_vec).collect()
    };
    let (mut both, mut want) = ([images(&train), images(&test)].concat(), images(&all));
    both.sort();
    want.sort();
    assert_eq!(both, want);
    Ok(())
}

#[test]
fn values_out_of_range_are_errors_that_name_them() {
    let new = |n: usize, shape, labels| Dataset::from_u8("x", vec![0; n], shape, labels, &["a", "b"]);
    let not_finite = |x| Dataset::from_f32("x", vec![0.0, x], [1, 1, 2], vec![0], &["a"]);
    let fit = "7 pixel values do not fit 2 labels and images of 1×2×2";
    let label = "labels[0] = 2, but there are 2 classes";
    let range = "index 3 is out of range: tiny has the images 0 … 2";
    let attributes = |values: &[f32], names: &[&str]| tiny().with_attributes(values.to_vec(), names).map(drop);
    let d = tiny();
    for (result, wants) in [
        (attributes(&[1.0; 3], &[]), "the attributes have no names"),
        (attributes(&[1.0; 5], &["x", "y"]), "5 attribute values for 3 images and 2 names"),
        (attributes(&[1.0; 6], &["x", "x"]), "two attributes are called \"x\""),
        (attributes(&[1.0, 0.0, 1.0, f32::NAN, 0.0, 0.0], &["x", "y"]), "the attribute \"y\" of image 1 is NaN"),
        (new(0, [0, 2, 2], vec![0]).map(drop), "channels = 0"),
        (new(65, [65, 1, 1], vec![0]).map(drop), "channels = 65"),
        (new(7, [1, 2, 2], vec![0, 1]).map(drop), fit),
        (new(0, [1, 2, 2], vec![]).map(drop), "0 labels"),
        (new(4, [1, usize::MAX, 3], vec![0]).map(drop), "do not fit"),
        (new(4, [1, 2, 2], vec![2]).map(drop), label),
        (not_finite(f32::NAN).map(drop), "value 1 is NaN"),
        (not_finite(f32::INFINITY).map(drop), "value 1 is inf"),
        (d.images([3], &Device::Cpu).map(drop), range),
        (d.images([], &Device::Cpu).map(drop), "empty"),
        (d.context([3], &Device::Cpu).map(drop), range),
        (d.select([]).map(drop), "empty"),
        (d.of_class(2).map(drop), "class 2 does not exist"),
        (d.split(0.0, &mut Rng::new(0)).map(drop), "test = 0"),
        (d.split(f64::NAN, &mut Rng::new(0)).map(drop), "test = NaN"),
        (d.resize(0, Resize::Nearest).map(drop), "side = 0"),
        (d.with_captions(vec![]).map(drop), "0 captions for 3 images"),
        (Dataset::sprites(0, 0).map(drop), "n = 0"),
        (Dataset::sprites(usize::MAX, 0).map(drop), "must be in 1 … 1000000"),
    ] {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
}
