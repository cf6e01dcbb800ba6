//! The operations that are timed alone: the crate's own and the same in stock candle.

use crate::Side;
use crate::measure::Timed;
use crate::networks::{Adam, Network, Purpose};
use anyhow::{Context, Result, bail};
use candle_nn::ops::softmax;
use candle_nn::{GroupNorm, Linear};
use diffusion_core::candle::{self, D, Device, Module, Tensor, Var, backprop::GradStore};
use diffusion_core::candle_nn;
use diffusion_core::ops::{self, Activation, Geometry};
use diffusion_core::rng::Rng;

/// An operation and the numbers that say how large it is.
struct Operation<'a> {
    kind: &'a str,
    sizes: Vec<usize>,
    batch: usize,
}

/// The seconds of what `line` says: "forward" or "both", the batch, the operation, its sizes.
pub fn seconds(line: &str, side: Side) -> Result<f64> {
    let mut words = line.split_whitespace();
    let (Some(mode @ ("forward" | "both")), Some(batch), Some(kind)) = (words.next(), words.next(), words.next())
    else {
        bail!("{line}: it must be `forward|both BATCH OPERATION SIZES …`")
    };
    let number = |word: &str| word.parse().with_context(|| format!("{line}: {word} is no number"));
    let operation = Operation { kind, sizes: words.map(number).collect::<Result<_>>()?, batch: number(batch)? };
    if let ("adam", [base]) = (kind, &operation.sizes[..]) {
        return adam(side, *base);
    }
    let mut rng = Rng::new(1);
    let inputs: Vec<Tensor> = operation
        .inputs()
        .with_context(|| format!("{line}: there is no such operation"))?
        .into_iter()
        .map(|shape| rng.randn(shape, &Device::Cpu))
        .collect::<candle::Result<_>>()?;
    if mode == "forward" {
        let forward = || Ok(operation.forward(side, &inputs)?);
        return Timed::new(forward).seconds();
    }
    let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<candle::Result<_>>()?;
    let inputs: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    Timed::new(|| Ok(operation.forward(side, &inputs)?.backward()?)).seconds()
}

impl Operation<'_> {
    /// The shapes of what goes in.
    fn inputs(&self) -> Option<Vec<Vec<usize>>> {
        let b = self.batch;
        Some(match (self.kind, &self.sizes[..]) {
            ("matmul", &[n]) => vec![vec![n, n]; 2],
            ("conv2d", &[c, out, side, k, _]) => {
                vec![vec![b, c, side, side], vec![out, c, k, k], vec![out]]
            }
            ("group_norm_silu", &[c, side]) => vec![vec![b, c, side, side], vec![c], vec![c]],
            ("upsample", &[c, side]) => vec![vec![b, c, side, side]],
            ("cat" | "add", &[c, side]) => vec![vec![b, c, side, side]; 2],
            ("shift", &[c, side]) => vec![vec![b, c, side, side], vec![b, c, 1, 1]],
            ("linear", &[i, o]) => vec![vec![b, i], vec![o, i], vec![o]],
            ("attention", &[n, c, _]) => vec![vec![b, n, c]; 3],
            _ => return None,
        })
    }

    fn forward(&self, side: Side, x: &[Tensor]) -> candle::Result<Tensor> {
        match (side, self.kind, &self.sizes[..], x) {
            (_, "matmul", _, [a, b]) => a.matmul(b),
            (_, "cat", _, [a, b]) => Tensor::cat(&[a, b], 1),
            (_, "add", _, [a, b]) => a + b,
            (_, "shift", _, [x, time]) => x.broadcast_add(time),
            (Side::Ours, "conv2d", &[.., k, stride], [x, w, b]) => {
                ops::conv2d(x, w, Some(b), Geometry::same(k).stride(stride))
            }
            (Side::Candle, "conv2d", &[.., k, stride], [x, w, b]) => {
                x.conv2d(w, k / 2, stride, 1, 1)?.broadcast_add(&b.reshape((1, (), 1, 1))?)
            }
            (Side::Ours, "group_norm_silu", _, [x, w, b]) => ops::group_norm(x, 8, w, b, 1e-5, Activation::Silu),
            (Side::Candle, "group_norm_silu", &[c, _], [x, w, b]) => {
                let norm = GroupNorm::new(w.clone(), b.clone(), c, 8, 1e-5)?;
                norm.forward(x)?.silu()
            }
            (Side::Ours, "upsample", _, [x]) => ops::upsample_nearest2x(x),
            (Side::Candle, "upsample", &[_, side], [x]) => x.upsample_nearest2d(2 * side, 2 * side),
            (Side::Ours, "linear", _, [x, w, b]) => ops::linear(x, w, Some(b)),
            (Side::Candle, "linear", _, [x, w, b]) => Linear::new(w.clone(), Some(b.clone())).forward(x),
            (Side::Ours, "attention", &[.., heads], [q, k, v]) => ops::attention(q, k, v, heads),
            (Side::Candle, "attention", &[n, c, heads], [q, k, v]) => {
                let per_head = |x: &Tensor| x.reshape((self.batch, n, heads, c / heads))?.transpose(1, 2)?.contiguous();
                let scale = (heads as f64 / c as f64).sqrt();
                let scores = (per_head(q)?.matmul(&per_head(k)?.t()?)? * scale)?;
                softmax(&scores, D::Minus1)?.matmul(&per_head(v)?)?.transpose(1, 2)?.reshape((self.batch, n, c))
            }
            _ => candle::bail!("{} {:?}: there is no such operation", self.kind, self.sizes),
        }
    }
}

/// A step of Adam over the parameters of SimpleUNet.
fn adam(side: Side, base: usize) -> Result<f64> {
    let parameters = Network::new(side, "simple_unet", base, Purpose::Train)?.parameters;
    let (mut grads, mut rng) = (GradStore::default(), Rng::new(1));
    for var in parameters.values() {
        grads.insert(var, rng.randn_like(var)?);
    }
    let mut adam = Adam::new(side, &parameters)?;
    Timed::new(|| Ok(adam.step(&grads)?)).seconds()
}
