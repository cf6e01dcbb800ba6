//! Model cards: Markdown with a YAML header, as the Hugging Face Hub reads it.

use anyhow::{Context, Result};
use diffusion_core::metrics::{Estimate, Evaluation};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The heading of what was measured.
const MEASURED: &str = "## Evaluation\n";
/// The line that begins and ends a header.
const FENCE: &str = "---\n";

/// What a card says of itself to machines.
pub struct Header<'a> {
    /// The file's name without its ending.
    pub name: &'a str,
    /// What the data set is called here.
    pub data: &'a str,
    /// What the Hub calls what the model does.
    pub task: &'a str,
}

impl Header<'_> {
    /// The header in YAML, with `scores` as the results of the model's index.
    pub fn yaml(&self, scores: Option<&Evaluation>) -> Result<String> {
        let Self { name, data, task } = self;
        let mut text = format!(
            "{FENCE}license: mit\nlibrary_name: candle\npipeline_tag: {task}\ntags:\n- diffusion\n- candle\n- rust\n"
        );
        let dataset = match *data {
            "mnist" => Some("ylecun/mnist"),
            "fashion-mnist" => Some("zalando-datasets/fashion_mnist"),
            "cifar10" => Some("uoft-cs/cifar10"),
            _ => None,
        };
        if let Some(dataset) = dataset {
            write!(text, "datasets:\n- {dataset}\n")?;
        }
        if let Some(scores) = scores {
            write!(
                text,
                "model-index:\n- name: {name}\n  results:\n  - task:\n      type: {task}\n    dataset:\n      name: {data}\n      type: \
                 {}\n    metrics:\n",
                dataset.unwrap_or(data)
            )?;
            let estimates = estimates(scores).map(|it| (it.name, it.value));
            let accuracy = scores.accuracy.map(|it| ("accuracy", it.accuracy));
            for (metric, value) in estimates.into_iter().chain(accuracy) {
                let kind = metric.replace(' ', "-").replace('é', "e").to_lowercase();
                write!(
                    text,
                    "    - name: {metric}\n      type: {kind}\n      value: {value:.5}\n"
                )?;
            }
        }
        Ok(text + FENCE)
    }
}

fn estimates(it: &Evaluation) -> [&Estimate; 5] {
    [
        &it.frechet_distance,
        &it.kernel_distance,
        &it.precision,
        &it.recall,
        &it.inception_score,
    ]
}

/// Writes what was measured into a card that is there, in the place of what was measured before.
pub fn measured(card: &Path, header: &Header, scores: &Evaluation, words: &str) -> Result<()> {
    let text = fs::read_to_string(card).with_context(|| {
        format!(
            "cannot read {}; `diffusion export` writes a card",
            card.display()
        )
    })?;
    let text = header.yaml(Some(scores))? + &without(&text) + &section(scores, words)?;
    fs::write(card, text).with_context(|| format!("cannot write {}", card.display()))
}

/// A card's text without its header and without what was measured, with an empty line at its end.
fn without(card: &str) -> String {
    let body = card
        .strip_prefix(FENCE)
        .and_then(|rest| rest.split_once(&format!("\n{FENCE}")));
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
    let mut text = format!(
        "{MEASURED}\n{words}\n\n| | value | 95 % interval | real images among themselves |\n|---|---|---|---|\n"
    );
    for it in estimates(scores) {
        let (low, high) = it.interval;
        writeln!(
            text,
            "| {} | {:.4} | {low:.4} … {high:.4} | {:.4} |",
            it.name, it.value, it.real.value
        )?;
    }
    if let Some(it) = scores.accuracy {
        let (low, high) = it.interval;
        writeln!(
            text,
            "| accuracy | {:.2} % | {:.2} … {:.2} % | |",
            100.0 * it.accuracy,
            100.0 * low,
            100.0 * high
        )?;
    }
    let it = scores.copies;
    writeln!(
        text,
        "| nearer to a training image than 99 % of real ones | {:.1} % | | 1 % |",
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
        for card in [
            body.to_owned(),
            format!("{header}{body}"),
            format!("{header}{body}{scores}"),
        ] {
            assert_eq!(without(&card), body, "{card}");
        }
        let more = format!("{header}{body}{scores}\n## Licence\n\nfree\n");
        assert_eq!(without(&more), format!("{body}## Licence\n\nfree\n\n"));
    }

    #[test]
    fn a_header_names_the_data_as_the_hub_does() -> Result<()> {
        let header = |data| {
            let (name, task) = ("m", "unconditional-image-generation");
            Header { name, data, task }.yaml(None)
        };
        assert!(header("mnist")?.contains("datasets:\n- ylecun/mnist\n---\n"));
        assert!(!header("sprites")?.contains("datasets"));
        Ok(())
    }
}
