//! Convolution and transposed convolution.

mod cpu;
mod lowered;
mod winograd;

#[cfg(feature = "cuda")]
use super::cuda;
use super::half::{half, rounded, wide};
use super::{cpu::takes, four, linear, upsample_nearest2x};
use candle_core::{Result, Tensor, bail};
use cpu::Convolution;

/// The largest number of elements of a result: 64 GB of f32.
const LARGEST: usize = 1 << 34;

/// The stride and padding of a convolution.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::ops::Geometry;
/// assert_eq!(Geometry::same(3).stride(2), Geometry { stride: 2, padding: 1 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The distance between neighbouring windows in pixels, at least 1.
    pub stride: usize,
    /// The number of rows and columns of zeros added on each side.
    pub padding: usize,
}

impl Default for Geometry {
    /// Stride 1 and no padding.
    fn default() -> Self {
        Self { stride: 1, padding: 0 }
    }
}

impl Geometry {
    /// Stride 1 and the padding `kernel` / 2, with which a kernel of odd size preserves the image size.
    pub fn same(kernel: usize) -> Self {
        Self { stride: 1, padding: kernel / 2 }
    }

    /// Sets the stride.
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }
}

/// Convolution as in deep learning, that is, cross-correlation: y\[b, o, i, j\] = bias\[o\] + Σ_{c, u, v} weight\[o, c,
/// u, v\] · x\[b, c, i·stride + u − padding, j·stride + v − padding\], with x = 0 outside the image.
///
/// # Shapes
/// `x` (B, C, H, W); `weight` (O, C, K, L); `bias` (O,), or (B, O) for a bias per image, such as a time embedding; the
/// result is (B, O, H', W') with H' = ⌊(H + 2·padding − K) / stride⌋ + 1 and W' accordingly.
///
/// # Errors
/// The shapes do not match, the kernel is larger than the padded image, or the stride is 0.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::Device, ops::{Geometry, conv2d}, rng::Rng};
/// let mut rng = Rng::new(0);
/// let (x, weight) = (rng.randn((2, 3, 28, 28), &Device::Cpu)?, rng.randn((8, 3, 3, 3), &Device::Cpu)?);
/// assert_eq!(conv2d(&x, &weight, None, Geometry::same(3))?.dims(), &[2, 8, 28, 28]);
/// assert_eq!(conv2d(&x, &weight, None, Geometry::same(3).stride(2))?.dims(), &[2, 8, 14, 14]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, geometry: Geometry) -> Result<Tensor> {
    const OP: &str = "conv2d";
    let (b, c, h, w) = four(OP, "x", x)?;
    let (out, c_weight, k_h, k_w) = four(OP, "weight", weight)?;
    let Geometry { stride, padding } = geometry;
    if c != c_weight {
        bail!(
            "{OP}: x has shape {:?} and weight {:?}; their second dimensions (channels) must be equal",
            x.dims(),
            weight.dims()
        )
    }
    check_bias(OP, bias, (b, out), weight)?;
    let (Some(rest_h), Some(rest_w)) = (rest(h, k_h, stride, padding), rest(w, k_w, stride, padding)) else {
        bail!(
            "{OP}: x has shape {:?} and weight {:?}; with stride {stride} and padding {padding} there is no window \
             (the kernel must fit into the padded image, and the stride be at least 1)",
            x.dims(),
            weight.dims()
        )
    };
    let size = |size, kernel| (size + 2 * padding - kernel) / stride + 1;
    let (out_h, out_w) = (size(h, k_h), size(w, k_w));
    check_size(OP, [b, out, out_h, out_w], geometry)?;
    #[cfg(feature = "cuda")]
    if cuda::device::takes(x, &[weight]) {
        return cuda::device::conv2d(x, weight, bias, geometry, (out_h, out_w));
    }
    if let Some(half) = half(x) {
        return conv2d(&wide(x)?, &rounded(weight, half)?, bias, geometry)?.to_dtype(half);
    }
    if takes(&[x, weight]) {
        let problem = lowered::Problem {
            batch: b,
            inputs: c,
            outputs: out,
            image: (h, w),
            kernel: (k_h, k_w),
            out: (out_h, out_w),
            stride,
            padding,
        };
        return Convolution::new(problem).apply(x, weight, bias);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let y = if rest_h == rest_w && rest_h <= h.min(w) {
        x.conv2d(&weight, padding, stride, 1, 1)?
    } else {
        // candle's gradient mixes up unused rows and columns, so both are cut off first.
        x.pad_with_zeros(2, padding, padding)?
            .pad_with_zeros(3, padding, padding)?
            .narrow(2, 0, h + 2 * padding - rest_h)?
            .narrow(3, 0, w + 2 * padding - rest_w)?
            .contiguous()?
            .conv2d(&weight, 0, stride, 1, 1)?
    };
    add_bias(y, bias)
}

/// A 1×1 convolution: [`linear`] for the channels of every pixel.
///
/// # Shapes
/// `x` (B, I, H, W); `weight` (O, I); `bias` (O,) or (B, O); the result is (B, O, H, W).
///
/// # Errors
/// The shapes do not match.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::Device, ops::conv1x1, rng::Rng};
/// let mut rng = Rng::new(0);
/// let (x, weight) = (rng.randn((2, 3, 5, 5), &Device::Cpu)?, rng.randn((8, 3), &Device::Cpu)?);
/// assert_eq!(conv1x1(&x, &weight, None)?.dims(), &[2, 8, 5, 5]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn conv1x1(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "conv1x1";
    let (batch, inputs, h, w) = four(OP, "x", x)?;
    let &[outputs, c] = weight.dims() else {
        bail!("{OP}: weight has shape {:?}; it must have two dimensions", weight.dims())
    };
    if c != inputs || outputs == 0 {
        bail!(
            "{OP}: x has shape {:?} and weight {:?}; their second dimensions (channels) must be equal, and none 0",
            x.dims(),
            weight.dims()
        )
    }
    check_bias(OP, bias, (batch, outputs), weight)?;
    if takes(&[x, weight]) {
        let problem = lowered::Problem {
            batch,
            inputs,
            outputs,
            image: (h, w),
            kernel: (1, 1),
            out: (h, w),
            stride: 1,
            padding: 0,
        };
        return Convolution::Lowered(problem).apply(x, weight, bias);
    }
    conv2d(x, &weight.reshape((outputs, inputs, 1, 1))?, bias, Geometry::default())
}

/// The number of rows that no window reaches; `None` if there is no window.
fn rest(size: usize, kernel: usize, stride: usize, padding: usize) -> Option<usize> {
    size.checked_add(padding.checked_mul(2)?)?.checked_sub(kernel)?.checked_rem(stride)
}

/// Transposed convolution: the transpose of [`conv2d`], which spreads each pixel over a window.
///
/// y\[b, o, i·stride + u − padding, j·stride + v − padding\] sums weight\[c, o, u, v\] · x\[b, c, i, j\], plus
/// bias\[o\].
///
/// # Shapes
/// `x` (B, C, H, W); `weight` (C, O, K, L), inputs first as in PyTorch; `bias` (O,) or (B, O); the result is (B, O, H',
/// W') with H' = (H − 1)·stride + K − 2·padding and W' accordingly.
///
/// # Errors
/// The shapes do not match, the padding leaves nothing, or the stride is 0.
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::Device, ops::{Geometry, conv_transpose2d}, rng::Rng};
/// let mut rng = Rng::new(0);
/// let (x, weight) = (rng.randn((2, 8, 7, 7), &Device::Cpu)?, rng.randn((8, 4, 2, 2), &Device::Cpu)?);
/// let twice_as_large = conv_transpose2d(&x, &weight, None, Geometry { stride: 2, padding: 0 })?;
/// assert_eq!(twice_as_large.dims(), &[2, 4, 14, 14]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn conv_transpose2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, geometry: Geometry) -> Result<Tensor> {
    const OP: &str = "conv_transpose2d";
    let (b, c, h, w) = four(OP, "x", x)?;
    let (c_weight, out, k_h, k_w) = four(OP, "weight", weight)?;
    let Geometry { stride, padding } = geometry;
    if c != c_weight {
        bail!(
            "{OP}: x has shape {:?} and weight {:?}; the first dimension of weight must equal the second of x \
             (channels)",
            x.dims(),
            weight.dims()
        )
    }
    check_bias(OP, bias, (b, out), weight)?;
    let grown = |size: usize, kernel: usize| {
        (size - 1)
            .checked_mul(stride)?
            .checked_add(kernel)?
            .checked_sub(padding.checked_mul(2)?)
            .filter(|size| stride > 0 && *size > 0)
    };
    let (Some(grown_h), Some(grown_w)) = (grown(h, k_h), grown(w, k_w)) else {
        bail!(
            "{OP}: x has shape {:?} and weight {:?}; with stride {stride} and padding {padding} the result has no \
             pixel (the padding is cut off, and the stride must be at least 1)",
            x.dims(),
            weight.dims()
        )
    };
    check_size(OP, [b, out, grown_h, grown_w], geometry)?;
    #[cfg(feature = "cuda")]
    if cuda::device::takes(x, &[weight]) {
        return cuda::device::conv_transpose2d(x, weight, bias, geometry, (grown_h, grown_w));
    }
    if let Some(half) = half(x) {
        let y = conv_transpose2d(&wide(x)?, &rounded(weight, half)?, bias, geometry)?;
        return y.to_dtype(half);
    }
    if takes(&[x, weight]) {
        if (h, w, padding) == (1, 1, 0) {
            // One product for all images instead of one with a single column for each.
            let rows = weight.flatten_from(1)?.t()?;
            let y = linear(&x.flatten_from(1)?, &rows, None)?;
            return add_bias(y.reshape((b, out, k_h, k_w))?, bias);
        }
        let problem = lowered::Problem {
            batch: b,
            inputs: out,
            outputs: c,
            image: (grown_h, grown_w),
            kernel: (k_h, k_w),
            out: (h, w),
            stride,
            padding,
        };
        return Convolution::Transposed(problem).apply(x, weight, bias);
    }
    let y = x.contiguous()?.conv_transpose2d(&weight.contiguous()?, padding, 0, stride, 1)?;
    add_bias(y, bias)
}

/// [`conv2d`] of [`upsample_nearest2x`] without the intermediate image, for the way up of a U-Net.
///
/// # Shapes
/// `x` (B, C, H, W); `weight` (O, C, K, L); `bias` (O,) or (B, O); the result is (B, O, 2H, 2W) for [`Geometry::same`].
///
/// # Errors
/// See [`conv2d`].
///
/// ```
/// # use diffusion_ops as diffusion_core;
/// use diffusion_core::{candle::Device, ops::{Geometry, upsample_nearest2x_conv2d}, rng::Rng};
/// let mut rng = Rng::new(0);
/// let (x, weight) = (rng.randn((2, 8, 7, 7), &Device::Cpu)?, rng.randn((4, 8, 3, 3), &Device::Cpu)?);
/// let y = upsample_nearest2x_conv2d(&x, &weight, None, Geometry::same(3))?;
/// assert_eq!(y.dims(), &[2, 4, 14, 14]);
/// # Ok::<(), diffusion_core::candle::Error>(())
/// ```
pub fn upsample_nearest2x_conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Geometry,
) -> Result<Tensor> {
    const OP: &str = "upsample_nearest2x_conv2d";
    let (batch, inputs, height, width) = four(OP, "x", x)?;
    let (outputs, c_weight, k_h, k_w) = four(OP, "weight", weight)?;
    if inputs != c_weight {
        bail!(
            "{OP}: x has shape {:?} and weight {:?}; their second dimensions (channels) must be equal",
            x.dims(),
            weight.dims()
        )
    }
    check_bias(OP, bias, (batch, outputs), weight)?;
    #[cfg(feature = "cuda")]
    if cuda::device::takes(x, &[weight]) {
        return conv2d(&upsample_nearest2x(x)?, weight, bias, geometry);
    }
    if let Some(half) = half(x) {
        let weight = rounded(weight, half)?;
        return upsample_nearest2x_conv2d(&wide(x)?, &weight, bias, geometry)?.to_dtype(half);
    }
    if takes(&[x, weight]) && (k_h, k_w) == (3, 3) && geometry == Geometry::same(3) {
        let problem = winograd::Problem { batch, inputs, outputs, height, width, padding: 1, doubled: true };
        return Convolution::Winograd(problem).apply(x, weight, bias);
    }
    conv2d(&upsample_nearest2x(x)?, weight, bias, geometry)
}

/// Checks that `bias` has shape (outputs,) or (batch, outputs).
fn check_bias(op: &str, bias: Option<&Tensor>, (batch, outputs): (usize, usize), weight: &Tensor) -> Result<()> {
    match bias {
        Some(bias) if bias.dims() != [outputs] && bias.dims() != [batch, outputs] => bail!(
            "{op}: bias has shape {:?} and weight {:?}; bias must have shape [{outputs}], one number per channel, \
             or [{batch}, {outputs}], one per image and channel",
            bias.dims(),
            weight.dims()
        ),
        _ => Ok(()),
    }
}

/// Rejects strides and paddings for which no memory could hold the result.
fn check_size(op: &str, shape: [usize; 4], geometry: Geometry) -> Result<()> {
    let count = shape.iter().try_fold(1, |n: usize, d| n.checked_mul(*d));
    match count.filter(|n| *n <= LARGEST) {
        Some(_) => Ok(()),
        None => bail!("{op}: with {geometry:?} the result would have shape {shape:?}, more than {LARGEST} numbers"),
    }
}

fn add_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => {
            let images = if bias.rank() == 2 { bias.dims()[0] } else { 1 };
            y.broadcast_add(&bias.reshape((images, bias.dims()[bias.rank() - 1], 1, 1))?)
        }
        None => Ok(y),
    }
}

#[cfg(test)]
mod tests;
