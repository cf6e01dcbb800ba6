//! Text: the words that a model knows, and sentences as the numbers of their words.
//!
//! A sentence is read word by word, in lower case and without punctuation: `Red-caped knight!` is `red`, `caped` and
//! `knight`. Large models read parts of words instead, which are never unknown; for a few hundred words that only adds
//! length.

use crate::unet::Tokens;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The largest number of words of a caption that are read in training.
const LONGEST: usize = 64;

/// The largest number of examples that a vocabulary keeps.
const EXAMPLES: usize = 40;

/// The words that a model knows. The token of a word is its index in alphabetical order.
///
/// ```
/// use diffusion_core::text::Vocabulary;
/// let known = Vocabulary::of(&["a red apple", "a green pear"])?;
/// assert_eq!(known.words(), ["a", "apple", "green", "pear", "red"]);
/// assert_eq!(known.encode("A green apple.")?, [0, 2, 1]);
/// let unknown = known.encode("a great apple").unwrap_err().to_string();
/// assert!(unknown.contains("does not know the word \"great\"; the nearest words that it knows are green"), "{unknown}");
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vocabulary {
    words: Vec<String>,
    length: usize,
    #[serde(default)]
    examples: Vec<String>,
}

impl Vocabulary {
    /// Collects the words of captions. The longest text is the longest caption, but at most 64 words.
    ///
    /// # Errors
    /// There is no word in any caption.
    pub fn of<S: AsRef<str>>(captions: &[S]) -> Result<Self> {
        let (mut words, mut length, mut examples) = (BTreeSet::new(), 0, Vec::new());
        for caption in captions.iter().map(AsRef::as_ref) {
            let before = words.len();
            let mut count = 0;
            for word in split(caption).take(LONGEST) {
                words.insert(word);
                count += 1;
            }
            length = length.max(count);
            // Examples that have new words show more of the data than any others.
            if words.len() > before && examples.len() < EXAMPLES {
                examples.push(caption.to_owned());
            }
        }
        ensure!(length > 0, "there is no word in the captions");
        Ok(Self { words: words.into_iter().collect(), length, examples })
    }

    /// The same words for texts of at most `length` words.
    pub fn with_length(self, length: usize) -> Self {
        Self { length, ..self }
    }

    /// The words in alphabetical order.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The largest number of words of a text.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Some captions of the training data, at most 40.
    pub fn examples(&self) -> &[String] {
        &self.examples
    }

    /// The tokens of a text. A text without words is the null condition.
    ///
    /// # Errors
    /// A word is unknown: the message names it and the nearest known words. Or the text is too long.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let token = |word: String| {
            self.find(&word).with_context(|| {
                format!(
                    "the model does not know the word {word:?}; the nearest words that it knows are {}",
                    self.nearest(&word).join(", ")
                )
            })
        };
        let tokens: Vec<u32> = split(text).map(token).collect::<Result<_>>()?;
        ensure!(
            tokens.len() <= self.length,
            "the text has {} words, but the model reads at most {}; shorten it: {text:?}",
            tokens.len(),
            self.length
        );
        Ok(tokens)
    }

    /// The tokens of texts, for a [`Condition`](crate::unet::Condition).
    ///
    /// # Errors
    /// See [`Vocabulary::encode`].
    pub fn tokens<S: AsRef<str>>(&self, texts: impl IntoIterator<Item = S>) -> Result<Tokens> {
        let rows: Vec<Vec<u32>> = texts.into_iter().map(|text| self.encode(text.as_ref())).collect::<Result<_>>()?;
        Ok(Tokens::new(rows))
    }

    /// The tokens of captions as in training: unknown words are left out, and what is too long is cut off.
    pub fn known<S: AsRef<str>>(&self, captions: impl IntoIterator<Item = S>) -> Tokens {
        let row = |caption: S| split(caption.as_ref()).filter_map(|word| self.find(&word)).take(self.length).collect();
        Tokens::new(captions.into_iter().map(row))
    }

    fn find(&self, word: &str) -> Option<u32> {
        self.words.binary_search_by(|known| known.as_str().cmp(word)).ok().map(|at| at as u32)
    }

    /// The three known words with the smallest edit distance to `word`.
    fn nearest(&self, word: &str) -> Vec<&str> {
        let mut all: Vec<&str> = self.words.iter().map(String::as_str).collect();
        all.sort_by_cached_key(|known| strsim::levenshtein(known, word));
        all.truncate(3);
        all
    }

    /// Checks what a file contains.
    pub(crate) fn check(&self) -> candle_core::Result<()> {
        let sorted = self.words.windows(2).all(|pair| pair[0] < pair[1]);
        if !sorted || self.words.is_empty() || self.length == 0 {
            candle_core::bail!("vocabulary: the words must be different, in alphabetical order, and at least one")
        }
        Ok(())
    }
}

/// The words of a text in lower case.
fn split(text: &str) -> impl Iterator<Item = String> {
    let text = text.to_lowercase().replace('’', "'");
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'').map(|word| word.trim_matches('\'').to_owned());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().into_iter()
}
