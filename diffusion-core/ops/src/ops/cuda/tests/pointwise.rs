//! Tests of activations, softmax and images.

use super::*;
use crate::ops::cuda::plan::{activation::Pointwise, images::Images, softmax::Softmax};

#[test]
fn activations_agree_with_the_formula() {
    for length in [1, 7, 8, 255, 2051] {
        for real in REALS {
            for activation in ACTIVATIONS {
                for off in [0, 1] {
                    let plan = Pointwise { real, length, activation };
                    let what = format!("{plan:?}, {off} off");
                    let x: Vec<f32> = random(1, length).iter().map(|x| 3.0 * x).collect();
                    let (x, dy) = (rounded(real, &x), rounded(real, &random(2, length)));
                    let got = twice(&what, |run| {
                        let y = Numbers::empty(real, length, off);
                        let dx = Numbers::empty(real, length, off);
                        let (x, dy) = (Numbers::of(real, &x, off), Numbers::of(real, &dy, off));
                        run(plan.forward(x.at(), y.at()).unwrap());
                        run(plan.backward(x.at(), dy.at(), dx.at()).unwrap());
                        vec![y.values(), dx.values()]
                    });
                    let both = x.iter().zip(&dy).map(|(x, dy)| {
                        let (y, slope) = curve(activation, f64::from(*x));
                        (y, slope * f64::from(*dy))
                    });
                    let (y, dx): (Vec<_>, Vec<_>) = both.unzip();
                    close(&what, real, &got[0], &y, 1e-6);
                    close(&what, real, &got[1], &dx, 1e-6);
                }
            }
        }
    }
}

#[test]
fn activations_of_large_numbers_and_nan() {
    let x = [-1e4, -200.0, -90.0, 90.0, 200.0, 1e4, f32::NAN, 0.0];
    for real in REALS {
        for activation in ACTIVATIONS {
            let plan = Pointwise { real, length: 8, activation };
            let what = format!("{plan:?}");
            let got = twice(&what, |run| {
                let (y, dx) = (Numbers::empty(real, 8, 0), Numbers::empty(real, 8, 0));
                let (x, dy) = (Numbers::of(real, &x, 0), Numbers::of(real, &[1.0; 8], 0));
                run(plan.forward(x.at(), y.at()).unwrap());
                run(plan.backward(x.at(), dy.at(), dx.at()).unwrap());
                vec![y.values(), dx.values()]
            });
            for (i, x) in rounded(real, &x).into_iter().enumerate() {
                let (y, slope) = curve(activation, x.into());
                if x.is_nan() {
                    assert!(got[0][i].is_nan(), "{what}");
                } else {
                    let off = (f64::from(got[0][i]) - y).abs();
                    assert!(off <= 1e-6 * y.abs() + 1e-30, "{what}, {x}: {}", got[0][i]);
                    assert!((f64::from(got[1][i]) - slope).abs() < 1e-6, "{what}, {x}");
                }
            }
        }
    }
}

/// By warps and by blocks, with remaining rows and all kinds of lengths.
#[test]
fn softmax_agrees_with_the_formula() {
    for (rows, length) in [(1, 1), (3, 7), (17, 49), (9, 64), (2, 1000), (3, 2049), (2, 2304), (2, 16_500)] {
        for real in REALS {
            for off in [0, 1] {
                let plan = Softmax { real, rows, length, scale: 0.4 };
                let what = format!("{plan:?}, {off} off");
                let x: Vec<f32> = random(1, rows * length).iter().map(|x| 5.0 * x + 300.0).collect();
                let (x, dy) = (rounded(real, &x), rounded(real, &random(2, rows * length)));
                let mut want = Vec::new();
                for x in x.chunks(length) {
                    let scaled = |x: &f32| f64::from(plan.scale) * f64::from(*x);
                    let most = x.iter().map(scaled).fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = x.iter().map(|x| (scaled(x) - most).exp()).sum();
                    want.extend(x.iter().map(|x| (scaled(x) - most).exp() / sum));
                }
                // The inputs of the backward pass.
                let y: Vec<f32> = want.iter().map(|y| *y as f32).collect();
                let y = rounded(real, &y);
                let got = twice(&what, |run| {
                    let (x, dy) = (Numbers::of(real, &x, off), Numbers::of(real, &dy, off));
                    let out = Numbers::empty(real, rows * length, off);
                    run(plan.forward(x.at(), out.at()).unwrap());
                    let (y, dx) = (Numbers::of(real, &y, off), Numbers::empty(real, rows * length, off));
                    run(plan.backward(y.at(), dy.at(), dx.at()).unwrap());
                    vec![out.values(), dx.values()]
                });
                // The exponent itself, about 120, has seven digits.
                close(&what, real, &got[0], &want, 2e-5);
                let mut want = Vec::new();
                for (y, dy) in y.chunks(length).zip(dy.chunks(length)) {
                    let (y, dy) = (wide(y), wide(dy));
                    let sum: f64 = y.iter().zip(&dy).map(|(y, dy)| y * dy).sum();
                    let scale = f64::from(plan.scale);
                    want.extend(y.iter().zip(&dy).map(|(y, dy)| scale * y * (dy - sum)));
                }
                close(&what, real, &got[1], &want, 2e-6);
            }
        }
    }
}

/// Elements masked with −∞ get 0, and NaN is propagated.
#[test]
fn softmax_of_infinite_numbers() {
    let plan = Softmax { real: Real::F32, rows: 3, length: 2, scale: 1.0 };
    let x = [f32::NEG_INFINITY, 5.0, f32::NAN, 0.0, 1e38, -1e38];
    let got = twice("softmax", |run| {
        let (x, y) = (Numbers::of(Real::F32, &x, 0), Numbers::empty(Real::F32, 6, 0));
        run(plan.forward(x.at(), y.at()).unwrap());
        vec![y.values()]
    });
    let y = &got[0];
    assert!(y[..2] == [0.0, 1.0] && y[4..] == [1.0, 0.0], "{y:?}");
    assert!(y[2].is_nan() && y[3].is_nan(), "{y:?}");
}

#[test]
fn images_equal_those_of_the_data_set() {
    for (height, width) in [(16, 16), (3, 5)] {
        let size = 3 * height * width;
        let pixels: Vec<u8> = (0..9 * size).map(|i| (i * 31 % 256) as u8).collect();
        let indices = [8usize, 0, 3, 3, 7];
        // The formula of diffusion-core's data sets.
        let image = |i: usize| pixels[i * size..(i + 1) * size].iter();
        let pixel = |p: &u8| f32::from(*p) / 127.5 - 1.0;
        let want: Vec<f32> = indices.into_iter().flat_map(image).map(pixel).collect();
        for (off, count) in [(0, 9), (1, 9), (0, 8)] {
            let plan = Images { count, size, batch: 5 };
            let got = twice(&format!("{plan:?}"), |run| {
                let (pixels, y) = (Memory::of(&pixels, off), Numbers::empty(Real::F32, 5 * size, off));
                let indices = Memory::of_values(&indices.map(|i| i as u32), 4);
                let launches = plan.forward(pixels.at(), indices.at(), y.at());
                run(launches.unwrap());
                vec![y.values()]
            });
            // Of 8 images, index 8 does not exist.
            let from = if count == 9 { 0 } else { size };
            assert!(got[0][from..] == want[from..]);
            assert!(got[0][..from].iter().all(|x| x.is_nan()));
        }
    }
}
