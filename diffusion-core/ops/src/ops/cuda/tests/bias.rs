use super::*;
use crate::ops::cuda::plan::bias::Bias;

#[test]
fn agrees_with_the_formula() {
    for (batch, channels, pixels) in
        [(1, 1, 1), (2, 3, 1), (3, 40, 49), (2, 8, 4), (5, 2, 2500), (1, 3, 20_000), (9, 33, 2)]
    {
        for real in REALS {
            for (by_image, off) in [(false, 0), (true, 0), (true, 1), (false, 3)] {
                let plan = Bias { real, batch, channels, pixels, by_image };
                let what = format!("{plan:?}, {off} off");
                let period = channels * if by_image { batch } else { 1 };
                let y = rounded(real, &random(1, batch * channels * pixels));
                let bias = random(2, period);
                let got = twice(&what, |run| {
                    let memory = Numbers::of(real, &y, off);
                    let biases = Numbers::of(Real::F32, &bias, 1);
                    run(plan.forward(memory.at(), biases.at()).unwrap());
                    let dbias = Numbers::empty(Real::F32, period, 1);
                    let scratch = Numbers::empty(Real::F32, plan.scratch(), 1);
                    let dy = Numbers::of(real, &y, off);
                    let backward = plan.backward(dy.at(), dbias.at(), scratch.at());
                    run(backward.unwrap());
                    scratch.values();
                    vec![memory.values(), dbias.values()]
                });
                let at = |i: usize| i / pixels % period;
                let sums = y.iter().zip(0..).map(|(y, i)| y + bias[at(i)]);
                let sums = rounded(real, &sums.collect::<Vec<f32>>());
                assert_eq!(got[0], sums, "{what}");
                let mut want = vec![0.0; period];
                y.iter().enumerate().for_each(|(i, y)| want[at(i)] += f64::from(*y));
                close(&what, Real::F32, &got[1], &want, 2e-6);
            }
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let plan = Bias { real: Real::F32, batch: 1, channels: 0, pixels: 1, by_image: false };
    assert!(plan.forward(0, 0).is_err() && plan.backward(0, 0, 0).is_err());
}
