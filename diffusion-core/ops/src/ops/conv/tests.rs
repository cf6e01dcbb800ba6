use super::*;
use crate::ops::cpu::compare::compare;
use crate::ops::gradients::{check, random};
use candle_core::Device;

/// The tolerance of f32 after some hundred additions and Winograd's transforms.
const TOLERANCE: f64 = 1e-5;

/// x, weight, stride, padding.
type Case = ([usize; 4], [usize; 4], usize, usize);

/// Computed directly from the formula.
fn by_the_formula(x: &Tensor, weight: &Tensor, bias: &Tensor, g: Geometry) -> Result<Tensor> {
    let ((b, _, h, w), (o, c, k, l)) = (x.dims4()?, weight.dims4()?);
    let at = |t: &Tensor, i: [usize; 4]| t.get(i[0])?.get(i[1])?.get(i[2])?.get(i[3])?.to_scalar::<f64>();
    let size = |n: usize, k: usize| (n + 2 * g.padding - k) / g.stride + 1;
    let (h_out, w_out) = (size(h, k), size(w, l));
    let mut y = Vec::new();
    for i in 0..b * o * h_out * w_out {
        let (col, row) = (i % w_out, i / w_out % h_out);
        let (channel, image) = (i / (w_out * h_out) % o, i / (w_out * h_out * o));
        let mut sum = bias.get(channel)?.to_scalar::<f64>()?;
        for (c, u, v) in (0..c * k * l).map(|i| (i / (k * l), i / l % k, i % l)) {
            let (p, q) = (row * g.stride + u, col * g.stride + v);
            let inside = |p: usize, n: usize| p >= g.padding && p < n + g.padding;
            if inside(p, h) && inside(q, w) {
                sum += at(weight, [channel, c, u, v])? * at(x, [image, c, p - g.padding, q - g.padding])?;
            }
        }
        y.push(sum);
    }
    Tensor::from_vec(y, (b, o, h_out, w_out), &Device::Cpu)
}

const CASES: [Case; 9] = [
    ([1, 1, 1, 1], [1, 1, 1, 1], 1, 0),
    ([3, 1, 5, 4], [2, 1, 3, 3], 1, 1),
    ([1, 3, 4, 4], [1, 3, 1, 1], 1, 0),
    ([2, 2, 5, 5], [3, 2, 3, 3], 2, 1),
    // A row is unused but no column, and the other way round.
    ([1, 2, 4, 5], [2, 2, 3, 3], 2, 1),
    ([1, 2, 7, 4], [1, 2, 3, 3], 2, 1),
    ([2, 1, 6, 7], [2, 1, 2, 3], 3, 2),
    // More columns are unused than the image is wide.
    ([1, 1, 1, 1], [1, 1, 1, 1], 3, 1),
    ([1, 2, 3, 3], [1, 2, 3, 3], 1, 4),
];

#[test]
fn values_and_gradients_are_right_for_every_geometry() -> Result<()> {
    for (x, weight, stride, padding) in CASES {
        let geometry = Geometry { stride, padding };
        let bias = random(3, weight[0])?;
        let inputs = [random(1, x.as_slice())?, random(2, weight.as_slice())?, bias];
        let (what, [x, weight, bias]) = (format!("{x:?} {weight:?} {geometry:?}"), &inputs);
        let y = conv2d(x, weight, Some(bias), geometry)?;
        let off = (y - by_the_formula(x, weight, bias, geometry)?)?.abs()?.max_all()?;
        assert!(off.to_scalar::<f64>()? < 1e-12, "{what}: off by {off}");
        check(&what, &inputs, |x| conv2d(&x[0], &x[1], Some(&x[2]), geometry))?;
        let one_per_image = [inputs[0].clone(), inputs[1].clone(), random(4, (x.dims()[0], weight.dims()[0]))?];
        check(&what, &one_per_image, |x| conv2d(&x[0], &x[1], Some(&x[2]), geometry))?;
        check(&what, &inputs[..2], |x| conv2d(&x[0], &x[1], None, geometry))?;
    }
    Ok(())
}

#[test]
fn operands_need_not_be_contiguous() -> Result<()> {
    let inputs = [random(1, (2, 4, 5, 3))?, random(2, (3, 3, 2, 4))?];
    for stride in [1, 2] {
        check("transposed and narrowed", &inputs, |x| {
            let image = x[0].transpose(1, 3)?.narrow(2, 1, 4)?;
            let weight = x[1].permute((3, 0, 1, 2))?;
            conv2d(&image, &weight, None, Geometry::same(3).stride(stride))
        })?;
        check("one tensor as image and as weight", &inputs[..1], |x| {
            let weight = x[0].narrow(2, 0, 3)?;
            conv2d(&x[0], &weight, None, Geometry::same(3).stride(stride))
        })?;
    }
    Ok(())
}

#[test]
fn gradients_of_the_transpose_are_correct() -> Result<()> {
    for (x, weight, stride, padding) in [
        ([1, 1, 1, 1], [1, 1, 1, 1], 1, 0),
        ([3, 2, 3, 4], [2, 1, 2, 2], 2, 0),
        ([1, 2, 4, 3], [2, 3, 3, 3], 1, 1),
        ([2, 1, 3, 5], [1, 2, 4, 3], 2, 1),
        ([1, 2, 2, 3], [2, 2, 2, 3], 3, 0),
    ] {
        let geometry = Geometry { stride, padding };
        let inputs = [random(1, x.as_slice())?, random(2, weight.as_slice())?, random(3, weight[1])?];
        check(&format!("{x:?} {weight:?} {geometry:?}"), &inputs, |x| {
            conv_transpose2d(&x[0], &x[1], Some(&x[2]), geometry)
        })?;
    }
    let inputs = [random(4, (2, 4, 3, 3))?, random(5, (2, 2, 3, 3))?];
    check("not contiguous", &inputs, |x| {
        let (x, weight) = (x[0].transpose(1, 3)?.narrow(2, 0, 2)?, x[1].transpose(0, 3)?);
        conv_transpose2d(&x, &weight, None, Geometry::default().stride(2))
    })
}

/// The CPU's f32 algorithms, compared with candle's operations in f64.
#[test]
fn the_kernels_agree_with_the_composition() -> Result<()> {
    let large: [Case; 10] = [
        // Winograd: odd sizes, one channel, more channels than a block and than a panel, one image and three.
        ([1, 4, 17, 17], [1, 4, 3, 3], 1, 1),
        ([3, 16, 9, 11], [70, 16, 3, 3], 1, 1),
        ([3, 33, 14, 7], [5, 33, 3, 3], 1, 1),
        ([1, 130, 16, 19], [20, 130, 3, 3], 1, 1),
        ([3, 5, 12, 11], [3, 5, 3, 3], 1, 0),
        ([4, 4, 8, 8], [2, 4, 3, 3], 1, 3),
        ([70, 5, 2, 2], [6, 5, 3, 3], 1, 1),
        // Products: more rows than a tile, and all widths of a tile.
        ([2, 7, 13, 9], [13, 7, 1, 1], 1, 0),
        ([3, 20, 14, 14], [18, 20, 3, 3], 2, 1),
        ([1, 3, 21, 10], [9, 3, 5, 4], 1, 2),
    ];
    for (x, weight, stride, padding) in CASES.into_iter().chain(large) {
        let geometry = Geometry { stride, padding };
        let what = format!("{x:?} {weight:?} {geometry:?}");
        let [image, kernel] = [random(1, x.as_slice())?, random(2, weight.as_slice())?];
        let one_for_all = [image.clone(), kernel.clone(), random(3, weight[0])?];
        compare(&what, &one_for_all, TOLERANCE, |x| conv2d(&x[0], &x[1], Some(&x[2]), geometry))?;
        compare(&what, &one_for_all[..2], TOLERANCE, |x| conv2d(&x[0], &x[1], None, geometry))?;
        let one_per_image = [image, kernel, random(3, (x[0], weight[0]))?];
        compare(&what, &one_per_image, TOLERANCE, |x| conv2d(&x[0], &x[1], Some(&x[2]), geometry))?;
    }
    let inputs = [random(1, (2, 20, 19, 5))?, random(2, (3, 3, 6, 5))?];
    compare("transposed and narrowed", &inputs, TOLERANCE, |x| {
        let image = x[0].transpose(1, 3)?.narrow(2, 1, 17)?;
        conv2d(&image, &x[1].permute((2, 3, 0, 1))?, None, Geometry::same(3))
    })
}

#[test]
fn the_affine_map_of_each_pixel_is_a_convolution() -> Result<()> {
    let inputs = [random(1, (2, 5, 4, 3))?, random(2, (7, 5))?, random(3, 7)?];
    let f = |x: &[Tensor]| conv1x1(&x[0], &x[1], Some(&x[2]));
    check("conv1x1", &inputs, f)?;
    compare("conv1x1", &inputs, TOLERANCE, f)?;
    let by_conv2d = conv2d(&inputs[0], &inputs[1].reshape((7, 5, 1, 1))?, Some(&inputs[2]), Geometry::default())?;
    assert!((f(&inputs)? - by_conv2d)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12);
    let message = conv1x1(&inputs[0], &inputs[1].t()?, None).unwrap_err().to_string();
    assert!(message.contains("conv1x1: x has shape [2, 5, 4, 3] and weight [5, 7]"), "{message}");
    Ok(())
}

#[test]
fn upsampling_before_a_convolution_is_upsampling_and_a_convolution() -> Result<()> {
    for (x, outputs) in [([1, 1, 1, 1], 1), ([3, 5, 4, 7], 6), ([1, 70, 5, 3], 40), ([2, 16, 7, 7], 66)] {
        let inputs = [random(1, x.as_slice())?, random(2, (outputs, x[1], 3, 3))?, random(3, (x[0], outputs))?];
        compare(&format!("{x:?} to {outputs}"), &inputs, TOLERANCE, |x| {
            upsample_nearest2x_conv2d(&x[0], &x[1], Some(&x[2]), Geometry::same(3))
        })?;
    }
    let inputs = [random(1, (2, 3, 4, 5))?, random(2, (4, 3, 1, 1))?];
    compare("1×1", &inputs, TOLERANCE, |x| upsample_nearest2x_conv2d(&x[0], &x[1], None, Geometry::same(1)))
}

#[test]
fn the_kernels_of_the_transpose_agree_with_the_composition() -> Result<()> {
    for (x, weight, stride, padding) in [
        ([1, 1, 1, 1], [1, 1, 1, 1], 1, 0),
        ([3, 2, 3, 4], [2, 1, 2, 2], 2, 0),
        ([1, 20, 4, 3], [20, 7, 3, 3], 1, 1),
        ([2, 1, 3, 5], [1, 18, 4, 3], 2, 1),
        ([3, 9, 5, 5], [9, 4, 1, 1], 1, 0),
        ([5, 6, 1, 1], [6, 3, 4, 4], 4, 0),
    ] {
        let geometry = Geometry { stride, padding };
        let inputs = [random(1, x.as_slice())?, random(2, weight.as_slice())?, random(3, weight[1])?];
        compare(&format!("{x:?} {weight:?} {geometry:?}"), &inputs, TOLERANCE, |x| {
            conv_transpose2d(&x[0], &x[1], Some(&x[2]), geometry)
        })?;
    }
    Ok(())
}

/// ⟨conv(x), y⟩ = ⟨x, transpose(y)⟩ defines the transpose.
#[test]
fn the_transpose_is_the_transpose() -> Result<()> {
    for (h, stride, padding) in [(5, 1, 1), (5, 2, 1), (6, 3, 0)] {
        let g = Geometry { stride, padding };
        let (x, weight) = (random(1, (2, 3, h, h))?, random(2, (4, 3, 3, 3))?);
        let forth = conv2d(&x, &weight, None, g)?;
        let y = random(3, forth.shape())?;
        let back = conv_transpose2d(&y, &weight, None, g)?;
        let left = (forth * y)?.sum_all()?.to_scalar::<f64>()?;
        let right = (x * back)?.sum_all()?.to_scalar::<f64>()?;
        assert!((left - right).abs() < 1e-10, "{g:?}: {left} {right}");
    }
    Ok(())
}

#[test]
fn errors_name_wrong_shapes() -> Result<()> {
    let (x, weight) = (random(1, (2, 3, 4, 4))?, random(2, (5, 2, 3, 3))?);
    let (good, bias) = (random(3, (5, 3, 3, 3))?, random(4, 3)?);
    let large = random(5, (5, 3, 7, 7))?;
    let plain = Geometry::default();
    let fail = |r: Result<Tensor>| r.unwrap_err().to_string();
    for (message, wants) in [
        (fail(conv2d(&x, &weight, None, plain)), "conv2d: x has shape [2, 3, 4, 4] and weight [5, 2, 3, 3]"),
        (
            fail(conv2d(&x, &good, Some(&bias), plain)),
            "conv2d: bias has shape [3] and weight [5, 3, 3, 3]; bias must have shape [5]",
        ),
        (fail(conv2d(&bias, &good, None, plain)), "conv2d: x has shape [3]; it must have four dimensions"),
        (
            fail(conv2d(&x, &large, None, Geometry::same(3))),
            "conv2d: x has shape [2, 3, 4, 4] and weight [5, 3, 7, 7]; with stride 1 and padding 1 there is no window",
        ),
        (fail(conv2d(&x, &good, None, plain.stride(0))), "stride 0"),
        (fail(conv2d(&x, &good, None, Geometry { stride: 1, padding: usize::MAX })), "there is no window"),
        (
            fail(conv2d(&x, &good, None, Geometry { stride: 1, padding: 1 << 40 })),
            "conv2d: with Geometry { stride: 1, padding: 1099511627776 } the result would have shape [2, 5, 2199023255554, 2199023255554]",
        ),
        (
            fail(conv_transpose2d(&x, &good, None, plain)),
            "conv_transpose2d: x has shape [2, 3, 4, 4] and weight [5, 3, 3, 3]",
        ),
        (
            fail(conv_transpose2d(&x, &x.transpose(0, 1)?, Some(&bias), plain)),
            "conv_transpose2d: bias has shape [3] and weight [3, 2, 4, 4]; bias must have shape [2]",
        ),
        (
            fail(conv_transpose2d(&x, &x.transpose(0, 1)?, None, Geometry { stride: 1, padding: 4 })),
            "conv_transpose2d: x has shape [2, 3, 4, 4] and weight [3, 2, 4, 4]; with stride 1 and padding 4 the result has no pixel",
        ),
    ] {
        assert!(message.contains(wants), "{message:?} lacks {wants:?}");
    }
    Ok(())
}
