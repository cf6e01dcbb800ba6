//! The Inception v3 network, whose features define the FID.

use super::{Extracted, FeatureExtractor};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{D, DType, Device, Tensor};
use diffusion_nn::Checkpoint;
use diffusion_ops::ops::{Geometry, conv2d, relu};
use std::collections::HashMap;
use std::path::Path;

/// The height and width that images are resized to.
const SIDE: usize = 299;

/// The number of images in a batch.
const AT_ONCE: usize = 16;

/// The ε of the batch norms.
const EPS: f64 = 0.001;

/// The number of classes.
const CLASSES: usize = 1008;

/// Inception v3 ([Szegedy et al. 2015](https://arxiv.org/abs/1512.00567)) with the weights of 2015 that define the
/// Fréchet inception distance ([Heusel et al. 2017](https://arxiv.org/abs/1706.08500)): 2048 features, and
/// probabilities of 1008 classes of photographs.
///
/// The weights are not part of this project: 95 MB, `pt_inception-2015-12-05-6726825d.pth` of
/// <https://github.com/mseitzer/pytorch-fid/releases>. That file is older than PyTorch 1.6, so it must be converted
/// once:
///
/// ```python
/// import torch
/// torch.save(torch.load("pt_inception-2015-12-05-6726825d.pth"), "weights/inception.pth")
/// ```
///
/// As in the original, images are resized to 299×299 by bilinear interpolation, greyscale images are converted to RGB,
/// and average pooling at an edge ignores the padding. Probabilities are computed without the last layer's bias, as in
/// the original inception score.
#[derive(Debug)]
pub struct InceptionV3 {
    device: Device,
    /// Each part is followed by max pooling.
    stem: [Vec<Conv>; 2],
    blocks: Vec<Block>,
    /// (1008, 2048).
    last: Tensor,
}

impl InceptionV3 {
    /// The number of features of an image.
    pub const FEATURES: usize = 2048;

    /// Loads the network from a file of weights: safetensors, or `.pth` of PyTorch 1.6 or later.
    ///
    /// # Errors
    /// The file does not exist, and the message says where to get it; or it is damaged, or holds a different network:
    /// the message names the tensor.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        ensure!(
            path.is_file(),
            "there is no {}; get pt_inception-2015-12-05-6726825d.pth (95 MB) from \
             https://github.com/mseitzer/pytorch-fid/releases and convert it with a recent PyTorch: \
             torch.save(torch.load(\"pt_inception-2015-12-05-6726825d.pth\"), {:?})",
            path.display(),
            path.display().to_string()
        );
        let file = match path.extension() {
            Some(end) if end == "safetensors" => Checkpoint::load(path)?,
            _ => Checkpoint::load_pth(path)?,
        };
        Self::new(&file.tensors, device)
            .with_context(|| format!("{} does not hold the Inception network of the FID", path.display()))
            .map_err(diffusion_ops::error::whole)
    }

    fn new(tensors: &HashMap<String, Tensor>, device: &Device) -> Result<Self> {
        use Fit::{Halve, Same, Valid};
        let make = Maker { tensors, device, prefix: String::new() };
        let stem = [
            make.chain(
                3,
                &[
                    ("Conv2d_1a_3x3", 32, [3, 3], Halve),
                    ("Conv2d_2a_3x3", 32, [3, 3], Valid),
                    ("Conv2d_2b_3x3", 64, [3, 3], Same),
                ],
            )?,
            make.chain(64, &[("Conv2d_3b_1x1", 80, [1, 1], Valid), ("Conv2d_4a_3x3", 192, [3, 3], Valid)])?,
        ];
        let mut blocks = Vec::new();
        for (name, inputs, pooled) in [("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)] {
            blocks.push(make.at(name).fine(inputs, pooled)?);
        }
        blocks.push(make.at("6a").halve_fine(288)?);
        for (name, middle) in [("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)] {
            blocks.push(make.at(name).long(768, middle)?);
        }
        blocks.push(make.at("7a").halve_long(768)?);
        blocks.push(make.at("7b").wide(1280, Pool::Average)?);
        blocks.push(make.at("7c").wide(2048, Pool::Max)?);
        Ok(Self { stem, blocks, last: make.get("fc.weight", &[CLASSES, Self::FEATURES])?, device: device.clone() })
    }

    /// (B, C, H, W) → (B, 2048).
    fn features(&self, x: &Tensor) -> Result<Tensor> {
        let x = match x.dim(1)? {
            1 => x.repeat((1, 3, 1, 1))?,
            _ => x.clone(),
        };
        let mut x = enlarged(&x)?;
        for chain in &self.stem {
            x = through(chain, &x)?.max_pool2d_with_stride(3, 2)?;
        }
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        Ok(x.flatten_from(2)?.mean(2)?)
    }
}

impl FeatureExtractor for InceptionV3 {
    fn extract(&self, x: &Tensor) -> Result<Extracted> {
        ensure!(
            matches!(*x.dims(), [n, 1 | 3, h, w] if n > 0 && h > 0 && w > 0),
            "Inception: x has shape {:?}; it must be (N, 1, H, W) or (N, 3, H, W) with N at least 1",
            x.dims()
        );
        let n = x.dim(0)?;
        let (mut features, mut probabilities) = (Vec::new(), Vec::new());
        for start in (0..n).step_by(AT_ONCE) {
            let part = x.narrow(0, start, AT_ONCE.min(n - start))?;
            let part = part.to_dtype(DType::F32)?.to_device(&self.device)?;
            let seen = self.features(&part)?;
            let logits = seen.matmul(&self.last.t()?)?;
            let batch_probabilities = candle_nn::ops::softmax(&logits, D::Minus1)?;
            features.push(seen.to_device(&Device::Cpu)?);
            probabilities.push(batch_probabilities.to_device(&Device::Cpu)?);
        }
        Extracted::new(features, probabilities)
    }

    fn has_classes(&self) -> bool {
        false
    }
}

/// Bilinear interpolation to 299×299, as PyTorch's `interpolate` with `align_corners=False`.
fn enlarged(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let weights = |size: usize| {
        let mut rows = vec![0f32; SIDE * size];
        for (i, row) in rows.chunks_mut(size).enumerate() {
            let at = (i as f64 + 0.5) * size as f64 / SIDE as f64 - 0.5;
            let at = at.clamp(0.0, (size - 1) as f64);
            let below = at.floor() as usize;
            let above = (below + 1).min(size - 1);
            row[below] += (1.0 - at.fract()) as f32;
            row[above] += at.fract() as f32;
        }
        Tensor::from_vec(rows, (SIDE, size), x.device())
    };
    let wide = x.broadcast_matmul(&weights(w)?.t()?)?;
    Ok(weights(h)?.broadcast_matmul(&wide)?)
}

/// A convolution with its batch norm folded into the weights, and ReLU.
#[derive(Debug)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    padding: [usize; 2],
}

impl Conv {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [above, beside] = self.padding;
        let padding = above.min(beside);
        let x = x.pad_with_zeros(2, above - padding, above - padding)?.pad_with_zeros(
            3,
            beside - padding,
            beside - padding,
        )?;
        let geometry = Geometry { stride: self.stride, padding };
        Ok(relu(&conv2d(&x, &self.weight, Some(&self.bias), geometry)?)?)
    }
}

fn through(chain: &[Conv], x: &Tensor) -> Result<Tensor> {
    chain.iter().try_fold(x.clone(), |x, conv| conv.forward(&x))
}

/// The padding and stride of a convolution.
#[derive(Clone, Copy)]
enum Fit {
    /// Zero padding: the result is as large as the image.
    Same,
    /// No padding.
    Valid,
    /// No padding, stride 2.
    Halve,
}

/// A convolution: name, output channels, kernel, edge.
type Spec<'a> = (&'a str, usize, [usize; 2], Fit);

/// The pooling before the convolutions of a branch.
#[derive(Clone, Copy, Debug)]
enum Pool {
    Nothing,
    /// The mean of 3×3 pixels, without the padding.
    Average,
    /// The maximum of 3×3 pixels.
    Max,
    /// The maximum of 3×3 pixels, stride 2.
    Halve,
}

impl Pool {
    fn forward(self, x: &Tensor) -> Result<Tensor> {
        let surrounded = || x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1);
        Ok(match self {
            Self::Nothing => x.clone(),
            Self::Halve => x.max_pool2d_with_stride(3, 2)?,
            // The input has gone through ReLU, so the zero padding never exceeds it.
            Self::Max => surrounded()?.max_pool2d_with_stride(3, 1)?,
            Self::Average => {
                let (_, _, h, w) = x.dims4()?;
                let ones = Tensor::ones((1, 1, h, w), x.dtype(), x.device())?;
                let ones = ones.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
                let share = ones.avg_pool2d_with_stride(3, 1)?;
                surrounded()?.avg_pool2d_with_stride(3, 1)?.broadcast_div(&share)?
            }
        })
    }
}

/// A sequence of convolutions; the output of the last goes through each of `ends`, if there are any, in parallel.
#[derive(Debug)]
struct Branch {
    pool: Pool,
    chain: Vec<Conv>,
    ends: Vec<Conv>,
}

/// Parallel branches.
#[derive(Debug)]
struct Block(Vec<Branch>);

impl Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut parts = Vec::new();
        for Branch { pool, chain, ends } in &self.0 {
            let y = through(chain, &pool.forward(x)?)?;
            match ends[..] {
                [] => parts.push(y),
                _ => {
                    for end in ends {
                        parts.push(end.forward(&y)?);
                    }
                }
            }
        }
        Ok(Tensor::cat(&parts, 1)?)
    }
}

/// Builds layers from the tensors of a file.
struct Maker<'a> {
    tensors: &'a HashMap<String, Tensor>,
    device: &'a Device,
    prefix: String,
}

impl Maker<'_> {
    fn at(&self, block: &str) -> Self {
        Self { prefix: format!("Mixed_{block}."), ..*self }
    }

    fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        match self.tensors.get(&name) {
            Some(found) if found.dims() == shape => Ok(found.to_dtype(DType::F32)?.to_device(self.device)?),
            Some(found) => bail!("{name} has shape {:?} but must have {shape:?}", found.dims()),
            None => bail!("missing: {name}, of shape {shape:?}"),
        }
    }

    fn conv(&self, inputs: usize, (name, outputs, kernel, fit): Spec) -> Result<Conv> {
        let [k, l] = kernel;
        let weight = self.get(&format!("{name}.conv.weight"), &[outputs, inputs, k, l])?;
        let norm = |part: &str| self.get(&format!("{name}.bn.{part}"), &[outputs]);
        let scale = (norm("weight")? / (norm("running_var")? + EPS)?.sqrt()?)?;
        Ok(Conv {
            bias: (norm("bias")? - (norm("running_mean")? * &scale)?)?,
            weight: weight.broadcast_mul(&scale.reshape((outputs, 1, 1, 1))?)?,
            stride: match fit {
                Fit::Halve => 2,
                Fit::Same | Fit::Valid => 1,
            },
            padding: match fit {
                Fit::Same => [k / 2, l / 2],
                Fit::Valid | Fit::Halve => [0, 0],
            },
        })
    }

    fn chain(&self, mut inputs: usize, specs: &[Spec]) -> Result<Vec<Conv>> {
        let mut chain = Vec::new();
        for spec in specs {
            chain.push(self.conv(inputs, *spec)?);
            inputs = spec.1;
        }
        Ok(chain)
    }

    fn branch(&self, pool: Pool, inputs: usize, specs: &[Spec]) -> Result<Branch> {
        Ok(Branch { pool, chain: self.chain(inputs, specs)?, ends: Vec::new() })
    }

    /// 1×1, 5×5 and two 3×3 windows, at 35×35.
    fn fine(&self, inputs: usize, pooled: usize) -> Result<Block> {
        use Fit::Same;
        let branch = |pool, specs: &[Spec]| self.branch(pool, inputs, specs);
        Ok(Block(vec![
            branch(Pool::Nothing, &[("branch1x1", 64, [1, 1], Same)])?,
            branch(Pool::Nothing, &[("branch5x5_1", 48, [1, 1], Same), ("branch5x5_2", 64, [5, 5], Same)])?,
            branch(
                Pool::Nothing,
                &[
                    ("branch3x3dbl_1", 64, [1, 1], Same),
                    ("branch3x3dbl_2", 96, [3, 3], Same),
                    ("branch3x3dbl_3", 96, [3, 3], Same),
                ],
            )?,
            branch(Pool::Average, &[("branch_pool", pooled, [1, 1], Same)])?,
        ]))
    }

    /// Downsampling from 35×35 to 17×17.
    fn halve_fine(&self, inputs: usize) -> Result<Block> {
        use Fit::{Halve, Same};
        let branch = |pool, specs: &[Spec]| self.branch(pool, inputs, specs);
        Ok(Block(vec![
            branch(Pool::Nothing, &[("branch3x3", 384, [3, 3], Halve)])?,
            branch(
                Pool::Nothing,
                &[
                    ("branch3x3dbl_1", 64, [1, 1], Same),
                    ("branch3x3dbl_2", 96, [3, 3], Same),
                    ("branch3x3dbl_3", 96, [3, 3], Halve),
                ],
            )?,
            branch(Pool::Halve, &[])?,
        ]))
    }

    /// 7×7 windows as 1×7 and 7×1, at 17×17.
    fn long(&self, inputs: usize, middle: usize) -> Result<Block> {
        use Fit::Same;
        let branch = |pool, specs: &[Spec]| self.branch(pool, inputs, specs);
        Ok(Block(vec![
            branch(Pool::Nothing, &[("branch1x1", 192, [1, 1], Same)])?,
            branch(
                Pool::Nothing,
                &[
                    ("branch7x7_1", middle, [1, 1], Same),
                    ("branch7x7_2", middle, [1, 7], Same),
                    ("branch7x7_3", 192, [7, 1], Same),
                ],
            )?,
            branch(
                Pool::Nothing,
                &[
                    ("branch7x7dbl_1", middle, [1, 1], Same),
                    ("branch7x7dbl_2", middle, [7, 1], Same),
                    ("branch7x7dbl_3", middle, [1, 7], Same),
                    ("branch7x7dbl_4", middle, [7, 1], Same),
                    ("branch7x7dbl_5", 192, [1, 7], Same),
                ],
            )?,
            branch(Pool::Average, &[("branch_pool", 192, [1, 1], Same)])?,
        ]))
    }

    /// Downsampling from 17×17 to 8×8.
    fn halve_long(&self, inputs: usize) -> Result<Block> {
        use Fit::{Halve, Same};
        let branch = |pool, specs: &[Spec]| self.branch(pool, inputs, specs);
        Ok(Block(vec![
            branch(Pool::Nothing, &[("branch3x3_1", 192, [1, 1], Same), ("branch3x3_2", 320, [3, 3], Halve)])?,
            branch(
                Pool::Nothing,
                &[
                    ("branch7x7x3_1", 192, [1, 1], Same),
                    ("branch7x7x3_2", 192, [1, 7], Same),
                    ("branch7x7x3_3", 192, [7, 1], Same),
                    ("branch7x7x3_4", 192, [3, 3], Halve),
                ],
            )?,
            branch(Pool::Halve, &[])?,
        ]))
    }

    /// 3×3 windows as 1×3 beside 3×1, at 8×8.
    fn wide(&self, inputs: usize, pool: Pool) -> Result<Block> {
        use Fit::Same;
        let branch = |pool, specs: &[Spec]| self.branch(pool, inputs, specs);
        let forked = |specs: &[Spec], ends: [&str; 2]| {
            let [a, b] = ends;
            anyhow::Ok(Branch {
                ends: vec![self.conv(384, (a, 384, [1, 3], Same))?, self.conv(384, (b, 384, [3, 1], Same))?],
                ..branch(Pool::Nothing, specs)?
            })
        };
        Ok(Block(vec![
            branch(Pool::Nothing, &[("branch1x1", 320, [1, 1], Same)])?,
            forked(&[("branch3x3_1", 384, [1, 1], Same)], ["branch3x3_2a", "branch3x3_2b"])?,
            forked(
                &[("branch3x3dbl_1", 448, [1, 1], Same), ("branch3x3dbl_2", 384, [3, 3], Same)],
                ["branch3x3dbl_3a", "branch3x3dbl_3b"],
            )?,
            branch(pool, &[("branch_pool", 192, [1, 1], Same)])?,
        ]))
    }
}
