//! The text encoder.

use crate::nn::{Builder, Embedding, GroupNorm, Linear, Probe};
use crate::ops::{Activation, gelu, masked_attention};
use crate::unet::{Conditioning, Tokens};
use candle_core::{Result, Tensor, bail};

/// The number of [`TextBlock`]s.
const DEPTH: usize = 2;

/// A small transformer that reads a text in both directions: the sum of a learned vector for each token and one for its
/// position, two [`TextBlock`]s, and a layer norm.
///
/// Every text begins with a start token. A text without any other token is the null condition, so condition dropout
/// trains the start token as the learned *null prompt*.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    /// A vector for each token, then that of the start token.
    pub tokens: Embedding,
    /// A vector for each position, the start token's first.
    pub positions: Embedding,
    /// The blocks.
    pub blocks: Vec<TextBlock>,
    /// Layer norm: a group norm with one group for each token.
    pub norm: GroupNorm,
}

/// Texts as a [`TextEncoder`] returns them.
#[derive(Clone, Debug)]
pub struct EncodedText {
    /// (B, L, D): the features of the start token and of the other tokens.
    pub features: Tensor,
    /// (B, L): 1 for tokens, 0 for padding.
    pub mask: Tensor,
}

impl TextEncoder {
    /// Creates an encoder with features of `width` elements for the texts of `conditioning`; parts `tokens`,
    /// `positions`, `block1`, … and `norm`.
    ///
    /// # Errors
    /// `heads` does not divide `width`, or a size is 0.
    pub fn new(mut build: Builder, conditioning: Conditioning, width: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            tokens: Embedding::new(build.at("tokens"), conditioning.vocabulary + 1, width)?,
            positions: Embedding::new(build.at("positions"), conditioning.tokens + 1, width)?,
            blocks: (1..=DEPTH)
                .map(|i| TextBlock::new(build.at(format!("block{i}")), width, heads))
                .collect::<Result<_>>()?,
            norm: GroupNorm::new(build.at("norm"), 1, width, Activation::None)?,
        })
    }

    /// Encodes texts; `None` is the null condition for all of them. L is the length of the longest text with its start
    /// token.
    ///
    /// # Errors
    /// There are not `batch` texts, or a token does not exist.
    pub fn forward(&self, tokens: Option<&Tokens>, batch: usize) -> Result<EncodedText> {
        let null = Tokens::new(vec![Vec::new(); batch]);
        let tokens = tokens.unwrap_or(&null);
        if tokens.rows().len() != batch {
            bail!("TextEncoder: there are {} texts for {batch} images", tokens.rows().len())
        }
        let (start, width) = self.tokens.weight.dims2()?;
        let (start, device) = (start as u32 - 1, self.tokens.weight.device());
        let texts = Tokens::new(tokens.rows().iter().map(|row| [&[start], &row[..]].concat()));
        let length = texts.rows().iter().map(Vec::len).max().unwrap_or(1);
        let padded = |row: &Vec<u32>| (0..length).map(|i| row.get(i).map_or(0, |id| *id as usize)).collect::<Vec<_>>();
        let ids: Vec<usize> = texts.rows().iter().flat_map(padded).collect();
        let positions = self.positions.forward(&(0..length).collect::<Vec<_>>())?;
        let mut x = self.tokens.forward(&ids)?.reshape((batch, length, width))?.broadcast_add(&positions)?;
        let mask = texts.mask(length, device)?.to_dtype(x.dtype())?;
        for block in &self.blocks {
            x = block.forward(&x, &mask)?;
        }
        let features = by_token(&x, |x| self.norm.forward(x))?;
        Ok(EncodedText { features, mask })
    }
}

/// A transformer block with pre-normalisation ([Xiong et al. 2020](https://arxiv.org/abs/2002.04745)): x + attention(norm1(x)),
/// then x + mlp(norm2(x)) with an MLP of linear → GELU → linear.
#[derive(Clone, Debug)]
pub struct TextBlock {
    /// The layer norm before the attention.
    pub norm1: GroupNorm,
    /// Queries, keys and values: from D features to 3D.
    pub qkv: Linear,
    /// The output projection of the attention, from D features to D.
    pub out: Linear,
    /// The layer norm before the MLP.
    pub norm2: GroupNorm,
    /// The MLP: from D features to 4D, then to D.
    pub mlp: [Linear; 2],
    /// The number of heads.
    pub heads: usize,
    probe: Probe,
}

impl TextBlock {
    /// Creates a block for tokens of `width` features; parts `norm1`, `qkv`, `out`, `norm2`, `mlp1` and `mlp2`.
    ///
    /// # Errors
    /// `heads` does not divide `width`, or `width` is 0.
    pub fn new(mut build: Builder, width: usize, heads: usize) -> Result<Self> {
        if !width.is_multiple_of(heads) {
            bail!("TextBlock: heads = {heads} does not divide width = {width}")
        }
        Ok(Self {
            norm1: GroupNorm::new(build.at("norm1"), 1, width, Activation::None)?,
            qkv: Linear::new(build.at("qkv"), width, 3 * width)?,
            probe: build.probe(),
            out: Linear::new(build.at("out"), width, width)?,
            norm2: GroupNorm::new(build.at("norm2"), 1, width, Activation::None)?,
            mlp: [Linear::new(build.at("mlp1"), width, 4 * width)?, Linear::new(build.at("mlp2"), 4 * width, width)?],
            heads,
        })
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// `x` (B, L, D); `mask` (B, L), 1 for tokens and 0 for padding; the result has the shape of `x`.
    ///
    /// # Errors
    /// The shapes do not match.
    pub fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (_, length, width) = x.dims3()?;
        let qkv = self.qkv.forward(&by_token(x, |x| self.norm1.forward(x))?)?;
        let part = |i: usize| qkv.narrow(2, i * width, width);
        let y = masked_attention(&part(0)?, &part(1)?, &part(2)?, mask, self.heads)?;
        self.probe.saw(|| format!("attention {}", self.heads), &[], &y, 2 * length);
        let x = (x + self.out.forward(&y)?)?;
        let y = self.mlp[0].forward(&by_token(&x, |x| self.norm2.forward(x))?)?;
        x + self.mlp[1].forward(&gelu(&y)?)?
    }
}

/// Applies a function of (B·L, D) to each token of `x` (B, L, D).
fn by_token(x: &Tensor, function: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    function(&x.flatten(0, 1)?)?.reshape(x.shape())
}
