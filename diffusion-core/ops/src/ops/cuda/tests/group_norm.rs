use super::*;
use crate::ops::cuda::plan::group_norm::{Backward, Forward, GroupNorm};

/// [y, dx, dweight, dbias] from the formulas, in f64.
fn formula(plan: &GroupNorm, x: &[f32], w: &[f32], b: &[f32], dy: &[f32]) -> [Vec<f64>; 4] {
    let size = plan.channels / plan.groups * plan.pixels;
    let at = |i: usize| i / plan.pixels % w.len();
    let mut out = [vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; w.len()]];
    for first in (0..x.len()).step_by(size) {
        let group = first..first + size;
        let n = size as f64;
        let mean = group.clone().map(|i| f64::from(x[i])).sum::<f64>() / n;
        let centred = |i: usize| f64::from(x[i]) - mean;
        let variance = group.clone().map(|i| centred(i).powi(2)).sum::<f64>() / n;
        let rstd = 1.0 / (variance + f64::from(plan.eps)).sqrt();
        let (mut by_mean, mut by_variance) = (0.0, 0.0);
        let slope = |i: usize| {
            let (w, b) = (f64::from(w[at(i)]), f64::from(b[at(i)]));
            let z = w * centred(i) * rstd + b;
            let (y, slope) = curve(plan.activation, z);
            (y, slope * f64::from(dy[i]), w)
        };
        for i in group.clone() {
            let (y, dz, w) = slope(i);
            out[0][i] = y;
            out[2][at(i)] += dz * centred(i) * rstd;
            out[3][at(i)] += dz;
            by_mean += w * dz / n;
            by_variance += w * dz * centred(i) * rstd / n;
        }
        for i in group {
            let (_, dz, w) = slope(i);
            out[1][i] = rstd * (w * dz - by_mean - centred(i) * rstd * by_variance);
        }
    }
    out
}

/// [y, dx, dweight, dbias] from the kernels.
fn kernels(plan: &GroupNorm, x: &[f32], w: &[f32], b: &[f32], dy: &[f32], off: usize) -> Vec<Vec<f32>> {
    twice(&format!("{plan:?}"), |run| {
        let (x, dy) = (Numbers::of(plan.real, x, off), Numbers::of(plan.real, dy, off));
        let (y, dx) =
            (Numbers::empty(plan.real, x.values().len(), off), Numbers::empty(plan.real, x.values().len(), off));
        let f32s = |values: &[f32]| Numbers::of(Real::F32, values, 1);
        let new = |length: usize| Numbers::empty(Real::F32, length, 1);
        let (weight, bias, stats) = (f32s(w), f32s(b), new(plan.stats()));
        let (dweight, dbias, scratch) = (new(w.len()), new(w.len()), new(plan.scratch()));
        run(plan
            .forward(&Forward { x: x.at(), weight: weight.at(), bias: bias.at(), y: y.at(), stats: stats.at() })
            .unwrap());
        run(plan
            .backward(&Backward {
                x: x.at(),
                weight: weight.at(),
                bias: bias.at(),
                stats: stats.at(),
                dy: dy.at(),
                dx: dx.at(),
                dweight: dweight.at(),
                dbias: dbias.at(),
                scratch: scratch.at(),
            })
            .unwrap());
        assert!(stats.values().iter().chain(&scratch.values()).all(|x| !x.is_nan()));
        vec![y.values(), dx.values(), dweight.values(), dbias.values()]
    })
}

fn compare(plan: &GroupNorm, x: &[f32], off: usize, tolerance: f64) {
    let count = plan.channels * if plan.by_image { plan.batch } else { 1 };
    let (w, b) = (random(2, count), random(3, count));
    let x = rounded(plan.real, x);
    let dy = rounded(plan.real, &random(4, x.len()));
    let got = kernels(plan, &x, &w, &b, &dy, off);
    let want = formula(plan, &x, &w, &b, &dy);
    let names = ["y", "dx", "dweight", "dbias"];
    for (i, name) in names.into_iter().enumerate() {
        let real = if i < 2 { plan.real } else { Real::F32 };
        close(&format!("{name} of {plan:?}, {off} off"), real, &got[i], &want[i], tolerance);
    }
}

/// Groups smaller than a warp and larger than a block, packs that start in one channel and end in another, and
/// unaligned addresses.
#[test]
fn agrees_with_the_formula() {
    for (batch, channels, pixels, groups) in [
        (2, 6, 1, 2),
        (1, 2, 3, 1),
        (3, 8, 49, 4),
        (2, 8, 4, 1),
        (1, 32, 2, 2),
        (2, 1, 65, 1),
        (2, 4, 196, 2),
        (1, 3, 2304, 1),
        (1, 40, 60, 1),
        (3, 70, 8, 2),
    ] {
        for real in REALS {
            for (i, activation) in ACTIVATIONS.into_iter().enumerate() {
                let plan =
                    GroupNorm { real, batch, channels, pixels, groups, by_image: i % 2 == 1, eps: 1e-5, activation };
                let x = random(1, batch * channels * pixels);
                let x: Vec<f32> = x.iter().map(|x| 2.0 * x + 3.0).collect();
                compare(&plan, &x, 0, 5e-6);
                if i < 2 {
                    compare(&GroupNorm { by_image: i == 0, ..plan }, &x, 1, 5e-6);
                }
            }
        }
    }
}

/// In one pass, or with a mean rounded to f32, all digits would be lost.
#[test]
fn a_small_spread_around_a_large_mean_is_resolved() {
    let plan = GroupNorm {
        real: Real::F32,
        batch: 2,
        channels: 4,
        pixels: 1300,
        groups: 2,
        by_image: false,
        eps: 1e-9,
        activation: Activation::Silu,
    };
    let x: Vec<f32> = random(1, 2 * 4 * 1300).iter().map(|x| 1000.0 + 0.01 * x).collect();
    compare(&plan, &x, 0, 5e-6);
}

#[test]
fn wrong_shapes_are_errors() {
    let plan = GroupNorm {
        real: Real::F32,
        batch: 2,
        channels: 4,
        pixels: 9,
        groups: 2,
        by_image: false,
        eps: 1e-5,
        activation: Activation::None,
    };
    let at = Forward { x: 0, weight: 0, bias: 0, y: 0, stats: 0 };
    assert!(plan.forward(&at).is_ok());
    for wrong in [
        GroupNorm { groups: 3, ..plan },
        GroupNorm { groups: 0, ..plan },
        GroupNorm { batch: 0, ..plan },
        GroupNorm { pixels: 0, ..plan },
        GroupNorm { pixels: 1 << 30, ..plan },
    ] {
        assert!(wrong.forward(&at).is_err(), "{wrong:?}");
    }
}
