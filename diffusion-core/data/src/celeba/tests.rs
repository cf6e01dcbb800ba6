use super::*;
use image::{Rgb, RgbImage};
use tempfile::TempDir;

/// Nine pictures in the official layout: six to train on, one of the validation set, two of the test set.
fn folder() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join(PICTURES))?;
    let (mut attributes, mut partitions) = ("9\nSmiling Eyeglasses Young \n".to_owned(), String::new());
    for i in 1..=9u8 {
        let name = format!("{i:06}.jpg");
        // The central square is grey, what is above and below it white.
        let image = RgbImage::from_fn(178, 218, |_, y| match (20..198).contains(&y) {
            true => Rgb([20 * i; 3]),
            false => Rgb([255; 3]),
        });
        image.save(folder.path().join(PICTURES).join(&name))?;
        let sign = |has: bool| if has { " 1" } else { "-1" };
        attributes += &format!("{name} {} {} {}\n", sign(i % 2 == 0), sign(i > 4), sign(true));
        partitions += &format!("{name} {}\n", [0, 0, 1, 2, 0, 0, 2, 0, 0][usize::from(i) - 1]);
    }
    fs::write(folder.path().join(ATTRIBUTES), attributes)?;
    fs::write(folder.path().join(PARTITIONS), partitions)?;
    Ok(folder)
}

#[test]
fn pictures_are_split_as_the_official_list_says_and_have_their_attributes() -> Result<()> {
    let folder = folder()?;
    let (all, held_out) = found(folder.path())?.load(Some(8), Fit::Crop, false, None)?;
    assert_eq!((all.len(), held_out, all.shape(), all.name()), (8, 2, [3, 8, 8], "celeba"));
    assert_eq!(all.class_names(), ["face"]);
    assert_eq!(all.context_names(), ["Smiling", "Eyeglasses", "Young"]);
    // 1, 2, 5, 6, 8, 9, then 4 and 7; grey to the edge of the square.
    let brightness: Vec<u8> =
        all.bytes().unwrap_or_default().chunks(3 * 64).map(|image| (image[0] + 10) / 20).collect();
    assert_eq!(brightness, [1, 2, 5, 6, 8, 9, 4, 7]);
    assert!(all.bytes().unwrap_or_default().iter().all(|pixel| *pixel < 190), "nothing of the white");
    let context = all.context([0, 1, 2, 6], &candle_core::Device::Cpu)?.to_vec2::<f32>()?;
    assert_eq!(context, [[-1.0, -1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, 1.0, 1.0], [1.0, -1.0, 1.0]]);
    let some = all.select([2, 0])?;
    assert_eq!(some.attributes(), [-1.0, 1.0, 1.0, -1.0, -1.0, 1.0]);
    assert!(all.to_string().ends_with("(face: 8); with 3 attributes"), "{all}");
    // A picture that cannot be read is left out with its attributes.
    fs::write(folder.path().join(PICTURES).join("000001.jpg"), "")?;
    let (all, held_out) = found(folder.path())?.load(Some(8), Fit::Crop, true, None)?;
    assert_eq!((all.len(), held_out, &all.attributes()[..3]), (7, 2, &[1.0, -1.0, 1.0][..]));
    Ok(())
}

#[test]
fn what_is_missing_or_damaged_is_named_with_its_line() -> Result<()> {
    let folder = folder()?;
    let at = |name: &str| folder.path().join(name);
    let fail = || found(folder.path()).map(|it| it.images.len()).unwrap_err().to_string();
    let good = [ATTRIBUTES, PARTITIONS].map(|name| fs::read_to_string(at(name)).unwrap());
    for (list, from, to, wants) in [
        (ATTRIBUTES, "9\n", "10\n", "line 1 says that there are 10 images, but the list has 9"),
        (ATTRIBUTES, "9\n", "", "line 1: it must be the number of images"),
        (ATTRIBUTES, "Smiling Eyeglasses Young \n", "", "line 2: the names of the attributes must be here"),
        (ATTRIBUTES, "Smiling Eyeglasses", "Young Eyeglasses", "line 2: the attribute Young is named twice"),
        (ATTRIBUTES, "000003.jpg -1", "000003.jpg", "line 5: 000003.jpg has 2 values, but there are 3 attributes"),
        (ATTRIBUTES, "000003.jpg -1", "000003.jpg 0", "line 5: 000003.jpg has the value \"0\"; it must be 1 or -1"),
        (ATTRIBUTES, "000003.jpg", "../000003.jpg", "line 5: it must begin with the name of a file"),
        (
            ATTRIBUTES,
            "000002.jpg",
            "000022.jpg",
            "list_eval_partition.txt has no line for 000022.jpg, which is in line 4",
        ),
        (PARTITIONS, "000003.jpg 1", "000003.jpg 3", "line 3: it is \"000003.jpg 3\", but must be a file name"),
        (PARTITIONS, "000003.jpg 1", "000003.jpg", "line 3: it is \"000003.jpg\""),
        (PARTITIONS, " 2\n", " 1\n", "no image is in partition 2, the test set"),
        (PARTITIONS, " 0\n", " 1\n", "no image is in partition 0, the training set"),
        (PARTITIONS, "000009.jpg 0\n", "", "has no line for 000009.jpg"),
    ] {
        let text = &good[usize::from(list == PARTITIONS)];
        assert!(text.contains(from), "{from}");
        fs::write(at(list), text.replace(from, to))?;
        let said = fail();
        assert!(said.contains(list) && said.contains(wants), "{said:?} lacks {wants:?}");
        fs::write(at(list), text)?;
    }
    for list in [ATTRIBUTES, PARTITIONS] {
        for bytes in [&b""[..], b"\xff\xfe"] {
            fs::write(at(list), bytes)?;
            assert!(fail().contains(list), "{}", fail());
        }
        fs::write(at(list), &good[usize::from(list == PARTITIONS)])?;
    }
    // Pictures of the validation set are not needed.
    fs::remove_file(at("img_align_celeba/000003.jpg"))?;
    assert_eq!(found(folder.path())?.images.len(), 8);
    fs::remove_file(at("img_align_celeba/000004.jpg"))?;
    assert!(fail().contains("line 6: there is no picture 000004.jpg in "), "{}", fail());
    fs::remove_file(at(PARTITIONS))?;
    assert!(fail().contains("does not contain list_eval_partition.txt. It cannot be downloaded"), "{}", fail());
    fs::rename(at(PICTURES), at("other"))?;
    let said = fail();
    for wants in
        ["does not contain img_align_celeba, list_eval_partition.txt. It", "mmlab.ie.cuhk.edu.hk/projects/CelebA.html"]
    {
        assert!(said.contains(wants), "{said}");
    }
    assert!(said.contains(&folder.path().display().to_string()), "{said}");
    Ok(())
}
