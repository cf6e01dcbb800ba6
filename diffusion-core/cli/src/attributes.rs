//! Whether the samples of a text model show what their captions mention.

use crate::evaluate::size;
use crate::request::{ModelOptions, Request, quoted};
use anyhow::{Context, Result, ensure};
use diffusion_core::candle::{Device, Tensor};
use diffusion_core::data::Dataset;
use diffusion_core::data::sprites::{Combinations, Sprites, generate, generate_of};
use diffusion_core::metrics::{Attribute, AttributeAccuracy, ClassAccuracy, Classifier};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The name of the file with the classifier of attributes.
const CLASSIFIER: &str = "classifier-sprites-attributes.safetensors";
/// The seed of the captions that are sampled.
const SEED: u64 = 1_000_003;

/// Sprites to train and to test a classifier of attributes; no image is in both.
pub fn sprites(images: usize, seed: u64) -> (Sprites, Sprites) {
    let (train, test) = (generate(images, seed), generate((images / 10).max(1), !seed));
    let test = test.without(&train);
    (train, test)
}

/// Captions to sample, and the classifier that looks at the samples.
pub struct Test {
    classifier: Classifier,
    seen: Sprites,
    held_out: Sprites,
}

/// The result of a [`Test`].
#[derive(Serialize)]
pub struct Outcome {
    #[serde(skip)]
    real: Vec<Attribute>,
    seen: AttributeAccuracy,
    held_out: AttributeAccuracy,
}

impl Test {
    /// If no flag says what the images of a text model show, conditions them on captions: those of sprites of seen combinations,
    /// which are then tested with `classifier`, or those of other held-out images.
    pub fn begin(
        request: &mut Request,
        options: &ModelOptions,
        classifier: Option<&Path>,
        real: &Dataset,
    ) -> Result<Option<Self>> {
        let tested = options.leaves_open() && request.model.network.architecture().tokens() > 0;
        if !tested || real.name() != "sprites" {
            ensure!(
                classifier.is_none(),
                "--attributes: it is for text models of the sprites, without --prompt; leave it out"
            );
            if tested {
                request.caption(real.captions().unwrap_or_default(), "captions of held-out images")?;
            }
            return Ok(None);
        }
        let usual = options.folder().into_iter().chain([Path::new("weights")]).map(|folder| folder.join(CLASSIFIER));
        let places: Vec<PathBuf> = classifier.map_or_else(|| usual.collect(), |path| vec![path.to_owned()]);
        let there = places.iter().find(|path| path.is_file());
        let path = there.with_context(|| {
            format!(
                "--attributes: there is no {}; train it with `cargo diffusion classifier --task sprites --images 50000 --attributes \
                 --out {}`",
                places[0].display(),
                quoted(&places[0])
            )
        })?;
        let classifier = Classifier::load(path, request.model.network.device()).context("--attributes")?;
        let about = &classifier.about;
        ensure!(
            !about.attributes.is_empty() && about.shape == request.model.image_shape(),
            "--attributes {}: it classifies {} attributes of images of {}, but the model's images are {}; train one with `cargo \
             diffusion classifier --task sprites --attributes`",
            path.display(),
            about.attributes.len(),
            size(about.shape),
            size(request.model.image_shape())
        );
        let [seen, held_out] = [Combinations::Seen, Combinations::HeldOut].map(|it| generate_of(it, request.n, SEED));
        request.caption(&seen.captions, "captions of sprites")?;
        Ok(Some(Self { classifier, seen, held_out }))
    }

    /// Compares the samples, and those that `draw` returns for held-out combinations, with what their captions mention.
    pub fn run(
        &self,
        request: &mut Request,
        samples: &Tensor,
        draw: impl FnOnce(&Request) -> Result<Tensor>,
    ) -> Result<Outcome> {
        let seen = self.classifier.attribute_accuracy(samples, &self.seen.mentioned)?;
        request.caption(&self.held_out.captions, "captions of held-out combinations")?;
        let samples = draw(request)?.to_device(&Device::Cpu)?;
        let held_out = self.classifier.attribute_accuracy(&samples, &self.held_out.mentioned)?;
        let outcome = Outcome { real: self.classifier.about.attributes.clone(), seen, held_out };
        println!("{}", outcome.table());
        Ok(outcome)
    }
}

impl Outcome {
    /// A Markdown table with a row for each attribute, and the mean over them.
    pub fn table(&self) -> String {
        let find = |all: &AttributeAccuracy, name: &str| {
            let found = all.each.iter().find(|(other, _)| other == name);
            found.map_or_else(|| "–".to_owned(), |(_, it)| percent(it))
        };
        let mut rows = vec![
            "| attribute that a caption mentions | real sprites | samples of seen combinations | of held-out ones |"
                .to_owned(),
            "|---|---|---|---|".to_owned(),
        ];
        rows.extend(self.real.iter().map(|it| {
            let (seen, held_out) = (find(&self.seen, &it.name), find(&self.held_out, &it.name));
            format!("| {} | {:.2} % | {seen} | {held_out} |", it.name.replace('_', " "), 100.0 * it.test_accuracy)
        }));
        let mean = |each: Vec<f64>| 100.0 * each.iter().sum::<f64>() / each.len().max(1) as f64;
        let of = |all: &AttributeAccuracy| mean(all.each.iter().map(|(_, it)| it.accuracy).collect());
        rows.push(format!(
            "| mean over the attributes | {:.2} % | {:.2} % | {:.2} % |",
            mean(self.real.iter().map(|it| it.test_accuracy).collect()),
            of(&self.seen),
            of(&self.held_out)
        ));
        rows.push(format!(
            "| all that are mentioned | | {} | {} |",
            percent(&self.seen.all),
            percent(&self.held_out.all)
        ));
        rows.join("\n")
    }
}

fn percent(it: &ClassAccuracy) -> String {
    let (low, high) = it.interval;
    format!("{:.2} % ({:.2} … {:.2})", 100.0 * it.accuracy, 100.0 * low, 100.0 * high)
}

/// The accuracy for each attribute, in words.
pub fn of_classifier(all: &[Attribute]) -> String {
    let each = all.iter().map(|it| format!("{} {:.2} %", it.name.replace('_', " "), 100.0 * it.test_accuracy));
    format!("accuracy for each attribute: {}", each.collect::<Vec<_>>().join(", "))
}
