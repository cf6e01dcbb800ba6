//! Model cards: Markdown with the YAML header that the Hugging Face Hub reads.

use anyhow::{Context, Result};
use diffusion_core::metrics::{Estimate, Evaluation};
use diffusion_core::model::Model;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The heading of the results of `diffusion evaluate`.
const MEASURED: &str = "## Evaluation\n";
/// The line before and after the header.
const FENCE: &str = "---\n";

/// The machine-readable part of a card.
pub struct Header<'a> {
    /// The name of the file without its extension.
    pub name: &'a str,
    /// The name of the data set in this project.
    pub data: &'a str,
    /// The task of the model as the Hub calls it.
    pub task: &'a str,
    /// The licence, if the user has named one.
    pub license: Option<&'a str>,
}

/// The task of a model that is conditioned on classes or a context vector.
const CLASS_CONDITIONAL: &str = "class-conditional-image-generation";

/// The task of an autoencoder.
pub const AUTOENCODER: &str = "image-feature-extraction";

/// The task of a model as the Hub calls it.
pub fn task(model: &Model) -> &'static str {
    let conditioning = model.network.architecture().conditioning();
    match (conditioning.low_res, conditioning.tokens, conditioning.is_guidable()) {
        (1.., _, _) => "image-to-image",
        (_, 1.., _) => "text-to-image",
        (_, _, false) => "unconditional-image-generation",
        _ => CLASS_CONDITIONAL,
    }
}

/// The name of a data set on the Hub.
fn on_the_hub(data: &str) -> Option<&'static str> {
    match data {
        "mnist" => Some("ylecun/mnist"),
        "fashion-mnist" => Some("zalando-datasets/fashion_mnist"),
        "cifar10" => Some("uoft-cs/cifar10"),
        _ => None,
    }
}

impl Header<'_> {
    /// The header in YAML, with `scores` as the results of its model index.
    pub fn yaml(&self, scores: Option<&Evaluation>) -> Result<String> {
        let Self { name, task, .. } = self;
        let mut text = FENCE.to_owned();
        if let Some(license) = self.license {
            writeln!(text, "license: {license}")?;
        }
        // The Hub has no pipeline of this name, so it is given as a tag.
        let (pipeline, tag) = match *task {
            CLASS_CONDITIONAL => (String::new(), "- class-conditional\n"),
            task => (format!("pipeline_tag: {task}\n"), ""),
        };
        write!(text, "library_name: candle\n{pipeline}tags:\n- diffusion\n- candle\n- rust\n{tag}")?;
        if let Some(dataset) = on_the_hub(self.data) {
            write!(text, "datasets:\n- {dataset}\n")?;
        }
        if let Some(scores) = scores {
            // Not always the training data.
            let data = &scores.data;
            write!(
                text,
                "model-index:\n- name: {name}\n  results:\n  - task:\n      type: {task}\n    dataset:\n      name: {data}\n      type: \
                 {}\n    metrics:\n",
                on_the_hub(data).unwrap_or(data)
            )?;
            let estimates = estimates(scores).map(|it| (it.name, it.value));
            let accuracy = scores.accuracy.map(|it| ("accuracy", it.accuracy));
            for (metric, value) in estimates.into_iter().chain(accuracy) {
                let kind = metric.replace(' ', "-").replace('é', "e").to_lowercase();
                write!(text, "    - name: {metric}\n      type: {kind}\n      value: {value:.5}\n")?;
            }
        }
        Ok(text + FENCE)
    }
}

fn estimates(it: &Evaluation) -> [&Estimate; 5] {
    [&it.frechet_distance, &it.kernel_distance, &it.precision, &it.recall, &it.inception_score]
}

/// The licence in a card's header.
fn license(card: &str) -> Option<&str> {
    let (header, _) = card.strip_prefix(FENCE)?.split_once(&format!("\n{FENCE}"))?;
    let mut lines = header.lines();
    lines.find_map(|line| line.strip_prefix("license: "))
}

/// The path of a file for the code in its card, and where a notebook with that code must be: in `notebooks/` if the file is in
/// this project's `weights/`, otherwise in the folder of the file.
pub fn in_a_notebook(path: &Path) -> (String, &'static str) {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let project = fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/../../weights"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match (fs::canonicalize(folder), project) {
        (Ok(folder), Ok(project)) if folder == project => (format!("../weights/{name}"), "in a notebook"),
        _ => (name.into_owned(), "in a notebook in the same folder"),
    }
}

/// Writes results into an existing card, in place of earlier results. The licence stays.
pub fn measured(card: &Path, header: &Header, scores: &Evaluation, words: &str) -> Result<()> {
    let text = fs::read_to_string(card)
        .with_context(|| format!("cannot read {}; `cargo diffusion export` writes a card", card.display()))?;
    let header = Header { license: license(&text), ..*header };
    let text = header.yaml(Some(scores))? + &without(&text) + &section(scores, words)?;
    fs::write(card, text).with_context(|| format!("cannot write {}", card.display()))
}

/// The text of a card without its header and its results, with an empty line at the end.
fn without(card: &str) -> String {
    let body = card.strip_prefix(FENCE).and_then(|rest| rest.split_once(&format!("\n{FENCE}")));
    let body = body.map_or(card, |(_, body)| body);
    let body = match body.split_once(MEASURED) {
        Some((before, after)) => {
            let next = after.find("\n## ").map_or("", |at| &after[at + 1..]);
            format!("{before}{next}")
        }
        None => body.to_owned(),
    };
    body.trim_end().to_owned() + "\n\n"
}

fn section(scores: &Evaluation, words: &str) -> Result<String> {
    let mut text =
        format!("{MEASURED}\n{words}\n\n| | value | 95 % interval | real-vs-real baseline |\n|---|---|---|---|\n");
    for it in estimates(scores) {
        let (low, high) = it.interval;
        writeln!(text, "| {} | {:.4} | {low:.4} … {high:.4} | {:.4} |", it.name, it.value, it.real.value)?;
    }
    if let Some(it) = scores.accuracy {
        let (low, high) = it.interval;
        writeln!(text, "| accuracy | {:.2} % | {:.2} … {:.2} % | |", 100.0 * it.accuracy, 100.0 * low, 100.0 * high)?;
    }
    let it = scores.copies;
    writeln!(
        text,
        "| closer to a training image than 99 % of real images (searched: {}) | {:.1} % | | 1 % |",
        it.searched(),
        100.0 * it.share
    )?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_replaced_and_the_rest_stays() {
        let body = "# m\n\ntext --- more\n\n";
        let header = "---\nlicense: mit\n---\n";
        let scores = "## Evaluation\n\nold\n| 1 |\n";
        for card in [body.to_owned(), format!("{header}{body}"), format!("{header}{body}{scores}")] {
            assert_eq!(without(&card), body, "{card}");
        }
        let more = format!("{header}{body}{scores}\n## Licence\n\nfree\n");
        assert_eq!(without(&more), format!("{body}## Licence\n\nfree\n\n"));
    }

    #[test]
    fn a_header_names_the_data_as_the_hub_does() -> Result<()> {
        let header = |data, license| {
            let (name, task) = ("m", "unconditional-image-generation");
            let header = Header { name, data, task, license };
            header.yaml(None)
        };
        assert!(header("mnist", None)?.contains("datasets:\n- ylecun/mnist\n---\n"));
        assert!(!header("sprites", None)?.contains("datasets"));
        let text = header("mnist", None)?;
        assert!(text.starts_with("---\nlibrary_name: candle\n"), "{text}");
        assert_eq!(license(&text), None);
        let text = header("mnist", Some("mit"))? + "# m\n\nlicense: none of its header\n";
        assert_eq!(license(&text), Some("mit"));
        Ok(())
    }

    #[test]
    fn a_card_names_a_file_as_it_is_reached() {
        let project = concat!(env!("CARGO_MANIFEST_DIR"), "/../../weights/m.safetensors");
        assert_eq!(in_a_notebook(Path::new(project)).0, "../weights/m.safetensors");
        for other in ["m.safetensors", "nowhere/m.safetensors"] {
            let (path, place) = in_a_notebook(Path::new(other));
            assert_eq!(path, "m.safetensors");
            assert!(place.contains("same folder"));
        }
    }
}
