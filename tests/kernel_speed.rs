//! Processor-heavy functions of the crate, timed: `make bench` runs them in a release build and in the notebook kernel.

use diffusion_core::candle::Device;
use diffusion_core::data::sprites;
use diffusion_core::rng::Rng;
use std::time::Instant;

/// Four million normal numbers.
fn normals() -> f64 {
    let began = Instant::now();
    std::hint::black_box(Rng::new(1).randn((64, 62_500), &Device::Cpu).unwrap());
    began.elapsed().as_secs_f64()
}

/// 20,000 sprites.
fn drawing() -> f64 {
    let began = Instant::now();
    std::hint::black_box(sprites::generate(20_000, 1));
    began.elapsed().as_secs_f64()
}

/// A product of 1024 × 1024 matrices, four times.
fn products() -> f64 {
    let a = Rng::new(1).randn((1024, 1024), &Device::Cpu).unwrap();
    let began = Instant::now();
    for _ in 0..4 {
        std::hint::black_box(a.matmul(&a).unwrap());
    }
    began.elapsed().as_secs_f64()
}

fn main() {
    let function = match std::env::args().nth(1).as_deref() {
        Some("normals") => normals,
        Some("drawing") => drawing,
        Some("products") => products,
        other => panic!("normals, drawing or products, not {other:?}"),
    };
    println!("{}", function());
}
