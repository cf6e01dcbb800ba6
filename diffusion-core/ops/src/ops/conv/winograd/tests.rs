use super::*;
use crate::ops::cpu::arch::each;
use crate::rng::Rng;

/// y and the gradients of x and weight.
type Results<T> = [Vec<T>; 3];

fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.normal() as f32).collect()
}

/// By the definition, in f64.
fn by_the_definition(p: Problem, [x, weight, dy]: [&[f32]; 3]) -> Results<f64> {
    let ((rows, columns), scale) = (p.out_size(), p.scale());
    let mut results = [vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; weight.len()]];
    let [y, dx, dweight] = &mut results;
    for (at, dy) in dy.iter().enumerate() {
        let (column, row) = (at % columns, at / columns % rows);
        let (output, image) = (at / (columns * rows) % p.outputs, at / (columns * rows * p.outputs));
        for (c, u, v) in (0..p.inputs * 9).map(|i| (i / 9, i / 3 % 3, i % 3)) {
            let inside = |i: usize, n: usize| i.checked_sub(p.padding).filter(|i| *i < n * scale);
            if let (Some(i), Some(j)) = (inside(row + u, p.height), inside(column + v, p.width)) {
                let pixel = ((image * p.inputs + c) * p.height + i / scale) * p.width + j / scale;
                let tap = (output * p.inputs + c) * 9 + 3 * u + v;
                y[at] += f64::from(x[pixel]) * f64::from(weight[tap]);
                dx[pixel] += f64::from(*dy) * f64::from(weight[tap]);
                dweight[tap] += f64::from(*dy) * f64::from(x[pixel]);
            }
        }
    }
    results
}

/// The root mean squared error, relative to the root mean square.
fn error(ours: &[f32], right: &[f64]) -> f64 {
    let squares: f64 = right.iter().map(|x| x * x).sum();
    let errors: f64 = ours.iter().zip(right).map(|(x, y)| (f64::from(*x) - y).powi(2)).sum();
    (errors / squares).sqrt()
}

fn errors<W: Transform<N, M>, const N: usize, const M: usize>(
    p: Problem,
    [x, weight, dy]: [&[f32]; 3],
    right: &Results<f64>,
) -> [f64; 3] {
    let wanted = Wanted { x: true, weight: true, bias: false };
    let y = forward::forward::<W, N, M>(p, x, weight, &[]);
    let gradients = backward::backward::<W, N, M>(p, x, weight, dy, wanted);
    [error(&y, &right[0]), error(&gradients.x, &right[1]), error(&gradients.weight, &right[2])]
}

/// The documentation of `ops` quotes these measurements. The error of a single f32 is 6e-8.
#[test]
fn both_tile_sizes_are_accurate() -> candle_core::Result<()> {
    for (inputs, outputs, doubled) in [(64, 20, false), (33, 17, true), (1, 1, false)] {
        let p = Problem { batch: 2, inputs, outputs, height: 7, width: 10, padding: 1, doubled };
        let (rows, columns) = p.out_size();
        let x = normal(1, 2 * inputs * 70);
        let (weight, dy) = (normal(2, outputs * inputs * 9), normal(3, 2 * outputs * rows * columns));
        let data = [&x[..], &weight, &dy];
        let right = by_the_definition(p, data);
        each(|| {
            let (two, four) = (errors::<Two, 4, 2>(p, data, &right), errors::<Four, 6, 4>(p, data, &right));
            println!("{inputs} → {outputs}: F(2×2, 3×3) {two:?}, F(4×4, 3×3) {four:?}");
            assert!(two.iter().all(|e| *e < 5e-7), "{two:?}");
            assert!(four.iter().all(|e| *e < 3e-6), "{four:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn the_tile_size_minimises_multiplications() {
    for (size, tile) in [(2, TileSize::Two), (4, TileSize::Four), (7, TileSize::Four), (28, TileSize::Four)] {
        let p = Problem { batch: 1, inputs: 1, outputs: 1, height: size, width: size, padding: 1, doubled: false };
        assert_eq!(p.tile(), tile, "{size}");
    }
}
