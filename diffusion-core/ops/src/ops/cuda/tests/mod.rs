//! Tests of every kernel against a plain formula in f64, or against the CPU where the results must be identical.
//!
//! Buffers have guards before and after them, and start as NaN, which reveals writes outside and missing writes. Every
//! plan is run twice, with opposite orders of threads, and must give identical bits.

mod bias;
mod group_norm;
mod normals;
mod parameters;
mod planes;
mod pointwise;

use super::emulate::{Order, run};
use super::{Launch, Real};
use crate::ops::Activation;
use crate::rng::Rng;
use std::cell::UnsafeCell;

const REALS: [Real; 2] = [Real::F32, Real::Bf16];
const ACTIVATIONS: [Activation; 4] = [Activation::None, Activation::Silu, Activation::Gelu, Activation::Relu];

/// The guards before and after each buffer, in bytes.
const GUARD: usize = 256;
const GUARDS: u8 = 0xa5;

/// A buffer like device memory, whose bytes start as NaN of either type.
struct Memory {
    /// Multiples of 16, written by the kernels through their addresses.
    storage: Box<[UnsafeCell<u128>]>,
    start: usize,
    bytes: usize,
}

impl Memory {
    /// `off`: the offset of the start in bytes from a multiple of 256.
    fn new(bytes: usize, off: usize) -> Self {
        let whole = (bytes + off + 2 * GUARD).div_ceil(16);
        let word = u128::from_ne_bytes([GUARDS; 16]);
        let memory = Self { storage: (0..whole).map(|_| UnsafeCell::new(word)).collect(), start: GUARD + off, bytes };
        memory.write(&vec![0xff; bytes]);
        memory
    }

    fn of(bytes: &[u8], off: usize) -> Self {
        let memory = Self::new(bytes.len(), off);
        memory.write(bytes);
        memory
    }

    fn write(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.bytes);
        // SAFETY: as many bytes are between the guards, and nothing has a reference to them.
        unsafe { std::ptr::copy(bytes.as_ptr(), self.at() as *mut u8, bytes.len()) }
    }

    /// The address.
    fn at(&self) -> u64 {
        self.storage.as_ptr() as u64 + self.start as u64
    }

    /// The present contents; the guards must be intact.
    fn bytes(&self) -> Vec<u8> {
        let all = self.storage.len() * 16;
        // SAFETY: no kernel is running; plain bytes are copied at once.
        let all = unsafe { std::slice::from_raw_parts(self.storage.as_ptr().cast::<u8>(), all) };
        let (before, rest) = all.split_at(self.start);
        let (bytes, after) = rest.split_at(self.bytes);
        for guard in [before, after] {
            assert!(guard.iter().all(|byte| *byte == GUARDS), "written beside the buffer");
        }
        bytes.to_vec()
    }

    /// A buffer of plain numbers in the layout of the kernels.
    fn of_values<T: Copy>(values: &[T], off: usize) -> Self {
        // SAFETY: T is a number or a struct of numbers without padding.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        Self::of(bytes, off)
    }

    fn values<T: Copy>(&self) -> Vec<T> {
        let bytes = self.bytes();
        let chunks = bytes.chunks_exact(size_of::<T>());
        // SAFETY: any bits are a T, as above.
        chunks.map(|bytes| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }).collect()
    }
}

/// Numbers of one activation type.
struct Numbers {
    real: Real,
    memory: Memory,
}

impl Numbers {
    fn empty(real: Real, length: usize, off: usize) -> Self {
        let memory = Memory::new(length * real.size(), off * real.size());
        Self { real, memory }
    }

    /// `off`: the offset of the start in elements from a multiple of 256 bytes.
    fn of(real: Real, values: &[f32], off: usize) -> Self {
        let bytes: Vec<u8> = match real {
            Real::F32 => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
            Real::Bf16 => values.iter().flat_map(|x| bf16(*x).to_ne_bytes()).collect(),
        };
        let memory = Memory::of(&bytes, off * real.size());
        Self { real, memory }
    }

    fn at(&self) -> u64 {
        self.memory.at()
    }

    fn values(&self) -> Vec<f32> {
        match self.real {
            Real::F32 => self.memory.values(),
            Real::Bf16 => {
                let bits = self.memory.values::<u16>();
                bits.iter().map(|bits| f32::from_bits(u32::from(*bits) << 16)).collect()
            }
        }
    }
}

/// The nearest bf16 with ties to even, computed differently from the kernels: the nearer of the two neighbours of x.
fn bf16(x: f32) -> u16 {
    let below = (x.to_bits() >> 16) as u16;
    let value = |bits: u16| f64::from(f32::from_bits(u32::from(bits) << 16));
    if x.is_nan() {
        return below | 0x40;
    }
    let (low, high) = (value(below), value(below + 1));
    let high = if high.is_infinite() { high.signum() * 2f64.powi(128) } else { high };
    let (to_low, to_high) = ((f64::from(x) - low).abs(), (high - f64::from(x)).abs());
    if to_high < to_low || (to_high == to_low && !below.is_multiple_of(2)) { below + 1 } else { below }
}

/// The numbers rounded to `real`.
fn rounded(real: Real, values: &[f32]) -> Vec<f32> {
    let round = |x: &f32| match real {
        Real::F32 => *x,
        Real::Bf16 => f32::from_bits(u32::from(bf16(*x)) << 16),
    };
    values.iter().map(round).collect()
}

fn random(seed: u64, length: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..length).map(|_| rng.normal() as f32).collect()
}

/// The result of `work`, given a way to perform launches; called twice to compare the bits.
fn twice(what: &str, work: impl Fn(&dyn Fn(Vec<Launch>)) -> Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let [a, b] = [Order::Forwards, Order::Backwards].map(|order| work(&|launches| run(&launches, order)));
    let bits = |all: &[Vec<f32>]| -> Vec<u32> { all.iter().flatten().map(|x| x.to_bits()).collect() };
    assert!(bits(&a) == bits(&b), "{what}: the order matters");
    a
}

/// Compares numbers up to `tolerance` times the largest one, and half a unit in the last place for bf16.
fn close(what: &str, real: Real, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let most = want.iter().fold(0f64, |a, b| a.max(b.abs()));
    let share = match real {
        Real::F32 => 0.0,
        Real::Bf16 => 1.0 / 256.0,
    };
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(*got) - want).abs();
        let may = tolerance * most + share * want.abs();
        assert!(off <= may, "{what}, {i}: {got} and not {want}");
    }
}

/// f(x) and f'(x)
fn curve(activation: Activation, x: f64) -> (f64, f64) {
    match activation {
        Activation::None => (x, 1.0),
        Activation::Relu => (x.max(0.0), f64::from(x > 0.0)),
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            (x * s, s + x * s * (1.0 - s))
        }
        Activation::Gelu => {
            let below = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            (x * below, below + x * density)
        }
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

#[test]
fn every_kernel_is_listed() {
    let kernels = super::kernels();
    let count = super::SOURCE.matches("\nKERNEL").count();
    assert_eq!(kernels.len(), count);
    assert!(kernels.contains(&("group_norm_bf16", 1024)) && kernels.contains(&("update", 256)));
}

#[test]
fn invalid_launches_are_errors() {
    for (blocks, threads) in
        [((0, 1), 32), ((1, 0), 32), ((1, 65536), 32), ((1 << 31, 1), 32), ((1, 1), 0), ((1, 1), 33), ((1, 1), 1056)]
    {
        assert!(Launch::new("k", blocks, threads, vec![]).is_err());
    }
    assert!(Launch::new("k", (1, 65535), 1024, vec![]).is_ok());
    assert!(Launch::over(0, "k", vec![]).is_err());
}

/// Tensors with more elements than threads in all blocks: each thread processes several. Tested with a single block.
#[test]
fn few_blocks_can_process_many_elements() {
    use super::plan::{activation::Pointwise, bias::Bias, images::Images};
    use super::plan::{pool::Pool, softmax::Softmax, upsample::Upsample};
    let (planes, height, width) = (40, 9, 8);
    let length = planes * height * width;
    let x = random(1, length);
    let indices = Memory::of_values(&[2u32, 0, 1], 0);
    let pixels = Memory::of(&(0..255).collect::<Vec<u8>>(), 0);
    for real in REALS {
        for off in [0, 1] {
            let results = [u32::MAX, 1].map(|most| {
                let out = || Numbers::empty(real, 4 * length, off);
                let (x, y) = (Numbers::of(real, &x, off), out());
                let bias = Numbers::of(Real::F32, &random(2, planes), 0);
                let images = Numbers::empty(Real::F32, 3 * 85, off);
                let activation = Activation::Silu;
                let pointwise = Pointwise { real, length, activation };
                let biased = Bias { real, batch: 5, channels: 8, pixels: height * width, by_image: true };
                let softmax = |rows: usize| Softmax { real, rows, length: length / rows, scale: 1.0 };
                let upsample = Upsample { real, planes, height, width };
                let pool = Pool { real, planes, height, width, size: 2, mean: true };
                let gather = Images { count: 3, size: 85, batch: 3 };
                let outs: Vec<_> = (0..10).map(|_| out()).collect();
                let [a, b, c, d, e, f, g, h, i, j] = &outs[..] else { unreachable!() };
                let sums = Numbers::empty(Real::F32, planes, 0);
                let launches = [
                    pointwise.forward(x.at(), a.at()),
                    pointwise.backward(x.at(), x.at(), b.at()),
                    pointwise.forward(x.at(), y.at()),
                    biased.forward(y.at(), bias.at()),
                    biased.backward(x.at(), sums.at(), 0),
                    softmax(planes).forward(x.at(), c.at()),
                    softmax(planes).backward(x.at(), x.at(), d.at()),
                    softmax(1).forward(x.at(), e.at()),
                    softmax(1).backward(x.at(), x.at(), f.at()),
                    upsample.forward(x.at(), g.at()),
                    upsample.backward(g.at(), h.at()),
                    pool.forward(x.at(), i.at()),
                    pool.backward(x.at(), x.at(), j.at()),
                    gather.forward(pixels.at(), indices.at(), images.at()),
                ];
                for launch in launches.into_iter().flat_map(Result::unwrap) {
                    let blocks = launch.blocks.0.min(most);
                    run(&[Launch { blocks: (blocks, 1), ..launch }], Order::Forwards);
                }
                let of_all = outs.iter().chain([&y, &sums, &images]);
                let bits = of_all.flat_map(|out| out.memory.bytes());
                bits.collect::<Vec<u8>>()
            });
            assert!(results[0] == results[1], "{real:?}, {off} off");
        }
    }
}
