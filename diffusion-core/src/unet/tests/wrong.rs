//! Tests of error messages, and of files of the first version.

use super::*;

#[test]
fn errors_name_the_field_out_of_range() {
    let simple = &["simple-unet"][..];
    let context = &["context-unet"][..];
    let heads = &["conditional-unet", "unet", "attention-unet"][..];
    let attention = &["attention-unet"][..];
    let all = &["simple-unet", "conditional-unet", "unet", "attention-unet"][..];
    for (names, fields, wants) in [
        (all, "\"channels\": 0", "channels = 0"),
        (all, "\"channels\": 18446744073709551615", "channels = "),
        (all, "\"base\": 2", "base = 2 must be even and in 4 … 1024"),
        (all, "\"base\": 9", "base = 9"),
        (all, "\"base\": 18446744073709551614", "base = "),
        (all, "\"base\": 12", "groups = 8 does not divide base = 12"),
        (all, "\"groups\": 0", "groups = 0"),
        (all, "\"classes\": 100001", "classes = 100001"),
        (heads, "\"heads\": 3", "heads = 3 does not divide base = 64"),
        (
            simple,
            "\"base\": 10, \"groups\": 2, \"tokens\": 3, \"vocabulary\": 4",
            "heads = 4 does not divide base = 10",
        ),
        (simple, "\"tokens\": 3", "tokens = 3 and vocabulary = 0"),
        (simple, "\"low_res\": 3", "low_res = 3 must be 2, 4 or 8"),
        (attention, "\"patch\": 3", "patch = 3 must be 1, 2 or 4"),
        (context, "\"channels\": 0", "channels = 0"),
        (context, "\"n_feat\": 0", "n_feat = 0 must be a multiple of 8"),
        (context, "\"n_feat\": 20", "n_feat = 20"),
        (context, "\"n_feat\": 1032", "n_feat = 1032"),
        (context, "\"n_cfeat\": 18446744073709551615", "context = "),
        (context, "\"classes\": 6", "n_cfeat = 5 must be at least classes = 6"),
        (context, "\"height\": 32", "height = 32 must be 16, 20, 24 or 28"),
        (context, "\"timesteps\": 0", "timesteps = 0"),
    ] {
        for name in names {
            let failed = Network::new(architecture(name, fields), &mut Rng::new(1), &Device::Cpu);
            let message = failed.unwrap_err().to_string();
            let named = message.starts_with(&format!("{name}: "));
            assert!(named && message.contains(wants), "{message:?} lacks {wants:?}");
        }
    }
}

/// Files from before fields were renamed and conditions could be combined.
#[test]
fn old_names_are_read() -> anyhow::Result<()> {
    for (old, new) in [
        (
            r#"{"simple-unet":{"channels":3,"base":32,"groups":8,"classes":0,"context":0,"reduced":4}}"#,
            Architecture::from(SimpleUNet { channels: 3, base: 32, low_res: 4, ..Default::default() }),
        ),
        (
            r#"{"context-unet":{"channels":3,"n_feat":64,"n_cfeat":5,"classes":5,"height":16,"steps":700}}"#,
            ContextUnet { classes: 5, timesteps: 700, ..Default::default() }.into(),
        ),
    ] {
        assert_eq!(serde_json::from_str::<Architecture>(old)?, new);
    }
    let run = crate::config::RunConfig::from_toml("[network.simple-unet]\nbase = 16\nreduced = 2")?;
    assert_eq!((run.network.low_res(), run.network.channels()), (2, 1));
    Ok(())
}

#[test]
fn errors_name_unsupported_image_sizes() -> Result<()> {
    for (kind, by) in kinds().iter().zip([4, 4, 0, 16, 8, 8, 16]) {
        let net = kind.network(1, DType::F32)?;
        let shape = (1, kind.architecture.channels(), kind.side + 2, kind.side);
        let x = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
        let message = net.predict(&x, &[0.0], &Condition::none()).unwrap_err();
        let wants = match by {
            0 => "the network is for 16×16".to_owned(),
            by => format!("must be divisible by {by}"),
        };
        assert!(message.to_string().contains(&wants), "{message}");
    }
    Ok(())
}

#[test]
fn errors_name_wrong_shapes() -> Result<()> {
    let net = Network::new(architecture("simple-unet", "\"base\":4,\"groups\":2"), &mut Rng::new(1), &Device::Cpu)?;
    for (shape, t, wants) in [
        (
            &[2, 1, 28, 30][..],
            &[1.0, 2.0][..],
            "simple-unet: the image is 28×30, but its sides are halved 2 times, so they must be divisible by 4",
        ),
        (
            &[2, 3, 8, 8],
            &[1.0, 2.0],
            "simple-unet: xt has shape [2, 3, 8, 8]; the network is for images with 1 channels",
        ),
        (&[2, 1, 8, 8], &[1.0], "xt has shape [2, 1, 8, 8] and t [1]"),
        (&[2, 1, 8, 8], &[1.0, f64::NAN], "t = NaN must be a finite number"),
        (&[1, 8, 8], &[1.0], "xt has shape [1, 8, 8]"),
    ] {
        let xt = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
        let message = net.forward(&xt, t, &Condition::none()).unwrap_err().to_string();
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    Ok(())
}
