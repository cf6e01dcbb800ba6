//! Tests of upsampling and pooling, also against the operations on the CPU.

use super::*;
use crate::ops::cuda::plan::{pool::Pool, upsample::Upsample};
use crate::ops::{avg_pool2d, max_pool2d, upsample_nearest2x};
use candle_core::{Device, Result, Tensor, Var};

/// y and dx of an operation on the CPU.
fn on_cpu(
    x: &[f32],
    shape: (usize, usize, usize),
    dy: impl Fn(usize) -> Vec<f32>,
    op: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<[Vec<f32>; 2]> {
    let (planes, h, w) = shape;
    let x = Var::from_tensor(&Tensor::from_vec(x.to_vec(), (1, planes, h, w), &Device::Cpu)?)?;
    let y = op(&x)?;
    let dy = Tensor::from_vec(dy(y.elem_count()), y.shape(), &Device::Cpu)?;
    let grads = (&y * dy)?.sum_all()?.backward()?;
    let dx = grads.get(&x).unwrap();
    Ok([y.flatten_all()?.to_vec1()?, dx.flatten_all()?.to_vec1()?])
}

#[test]
fn upsampling_equals_the_cpu() -> Result<()> {
    for shape in [(1, 1, 1), (3, 2, 3), (2, 7, 7), (5, 3, 4), (40, 14, 14), (2, 5, 6)] {
        let (planes, height, width) = shape;
        let length = planes * height * width;
        for real in REALS {
            for off in [0, 1] {
                let plan = Upsample { real, planes, height, width };
                let what = format!("{plan:?}, {off} off");
                let x = rounded(real, &random(1, length));
                let slopes = |n: usize| rounded(real, &random(2, n));
                let got = twice(&what, |run| {
                    let (x, y) = (Numbers::of(real, &x, off), Numbers::empty(real, 4 * length, off));
                    run(plan.forward(x.at(), y.at()).unwrap());
                    let (dy, dx) = (Numbers::of(real, &slopes(4 * length), off), Numbers::empty(real, length, off));
                    run(plan.backward(dy.at(), dx.at()).unwrap());
                    vec![y.values(), dx.values()]
                });
                let want = on_cpu(&x, shape, slopes, upsample_nearest2x)?;
                assert_eq!(got[0], want[0], "{what}");
                assert_eq!(got[1], rounded(real, &want[1]), "{what}");
            }
        }
    }
    Ok(())
}

#[test]
fn pooling_equals_the_cpu() -> Result<()> {
    for (shape, size) in [
        ((1, 2, 2), 2),
        ((3, 5, 7), 2),
        ((2, 7, 7), 4),
        ((2, 3, 6), 3),
        ((2, 3, 2), 1),
        ((40, 28, 29), 2),
        ((3, 7, 7), 7),
    ] {
        let (planes, height, width) = shape;
        let length = planes * height * width;
        for real in REALS {
            for mean in [false, true] {
                let plan = Pool { real, planes, height, width, size, mean };
                let what = format!("{plan:?}");
                // Many equal numbers.
                let x = random(1, length).iter().map(|x| x.max(0.0)).collect::<Vec<_>>();
                let x = rounded(real, &x);
                let slopes = |n: usize| rounded(real, &random(2, n));
                let after = planes * (height / size) * (width / size);
                let got = twice(&what, |run| {
                    let (x, y) = (Numbers::of(real, &x, 1), Numbers::empty(real, after, 1));
                    run(plan.forward(x.at(), y.at()).unwrap());
                    let (dy, dx) = (Numbers::of(real, &slopes(after), 1), Numbers::empty(real, length, 1));
                    run(plan.backward(x.at(), dy.at(), dx.at()).unwrap());
                    vec![y.values(), dx.values()]
                });
                let pool = if mean { avg_pool2d } else { max_pool2d };
                let want = on_cpu(&x, shape, slopes, |x| pool(x, size))?;
                assert_eq!(got[0], rounded(real, &want[0]), "{what}");
                assert_eq!(got[1], rounded(real, &want[1]), "{what}");
            }
        }
    }
    Ok(())
}

#[test]
fn nan_counts_as_the_maximum() {
    let plan = Pool { real: Real::F32, planes: 1, height: 2, width: 4, size: 2, mean: false };
    let x = [1f32, f32::NAN, 1.0, 2.0, 9.0, 0.0, -1.0, 3.0];
    let got = twice("max", |run| {
        let f32s = |values: &[f32]| Numbers::of(Real::F32, values, 0);
        let (x, dy) = (f32s(&x), f32s(&[1.0, 1.0]));
        let (y, dx) = (f32s(&[7.0; 2]), f32s(&[7.0; 8]));
        run(plan.forward(x.at(), y.at()).unwrap());
        run(plan.backward(x.at(), dy.at(), dx.at()).unwrap());
        vec![y.values(), dx.values()]
    });
    assert!(got[0][0].is_nan() && got[0][1] == 3.0, "{:?}", got[0]);
    assert_eq!(got[1], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn wrong_shapes_are_errors() {
    let pool = Pool { real: Real::F32, planes: 1, height: 2, width: 4, size: 3, mean: false };
    assert!(pool.forward(0, 0).is_err() && pool.backward(0, 0, 0).is_err());
    assert!(Pool { size: 0, ..pool }.forward(0, 0).is_err());
    let upsample = Upsample { real: Real::F32, planes: 0, height: 1, width: 1 };
    assert!(upsample.forward(0, 0).is_err());
}
