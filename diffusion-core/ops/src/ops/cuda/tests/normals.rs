use super::*;
use crate::ops::cuda::plan::normals::{Generator, Normals};

/// `count` numbers, and the generator afterwards.
fn draw(from: &Rng, count: usize) -> (Vec<f32>, Generator) {
    let plan = Normals { count };
    let start = Generator::new(&from.state()).unwrap();
    let after = std::cell::Cell::new(start);
    let drawn = twice(&format!("{start:?}, {count}"), |run| {
        let (generator, out) = (Memory::of_values(&[start], 8), Numbers::empty(Real::F32, count, 1));
        let scratch = Memory::new(plan.scratch(), 8);
        run(plan.forward(generator.at(), out.at(), scratch.at()).unwrap());
        scratch.bytes();
        after.set(generator.values()[0]);
        vec![out.values()]
    });
    (drawn[0].clone(), after.get())
}

/// The numbers, and so the state, may differ by the last digit of an f64 logarithm.
fn compare(rng: &mut Rng, count: usize) {
    let (got, after) = draw(rng, count);
    for (i, got) in got.into_iter().enumerate() {
        let want = rng.normal() as f32;
        let off = (got.to_bits() as i64 - want.to_bits() as i64).abs();
        assert!(off <= 1, "{count}, {i}: {got} and not {want}");
    }
    let (got, want) = (after.state().unwrap(), rng.state());
    assert_eq!((got.key, got.stream, got.position), (want.key, want.stream, want.position));
    assert_eq!(got.spare.is_some(), want.spare.is_some(), "{count}");
    if let (Some(got), Some(want)) = (got.spare, want.spare) {
        assert!((got - want).abs() <= 4.0 * f64::EPSILON * want.abs());
    }
}

/// From any position in a block of words, with and without a spare, and in consecutive draws.
#[test]
fn numbers_equal_those_of_the_cpu() {
    for begin in 0..9 {
        for count in [1, 2, 3, 50, 1001, 5000] {
            let mut rng = Rng::new(7).fork(begin);
            // Each takes two words, and rarely more.
            (0..begin).for_each(|_| {
                rng.below(10);
            });
            if begin % 2 == 1 {
                rng.normal();
            }
            compare(&mut rng, count);
            compare(&mut rng, count + 3);
        }
    }
}

/// Where the index of the block no longer fits into 32 bits.
#[test]
fn far_along_the_stream() {
    for position in [16 << 32, (16 << 32) - 6, (16 << 32) - 48] {
        let state = crate::rng::RngState { position, ..Rng::new(3).state() };
        compare(&mut Rng::from_state(state), 300);
    }
}

#[test]
fn too_few_attempts_are_detected() {
    let plan = Normals { count: 3000 };
    let start = Generator::new(&Rng::new(1).state()).unwrap();
    twice("too few", |run| {
        let generator = Memory::of_values(&[start], 0);
        let out = Numbers::empty(Real::F32, 3000, 0);
        let scratch = Memory::new(plan.scratch(), 0);
        let launches = plan.too_few(generator.at(), out.at(), scratch.at());
        run(launches.unwrap());
        scratch.bytes();
        let after: Generator = generator.values()[0];
        assert!(after.failed != 0 && after.state().is_err());
        vec![out.values()]
    });
}

#[test]
fn wrong_states_are_errors() {
    let state = |position| crate::rng::RngState { position, ..Rng::new(3).state() };
    assert!(Generator::new(&state(3)).is_err());
    assert!(Generator::new(&state(1 << 65)).is_err());
    assert!(Normals { count: 0 }.forward(0, 0, 0).is_err());
}
