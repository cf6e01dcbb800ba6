//! Blocks of 16 interleaved channels, for vector instructions over channels.
//!
//! A tensor (B, C, H, W) stores the pixels of a channel contiguously. A block stores, for each pixel, 16 channels
//! contiguously.

use super::parallel::Shared;
use pulp::Simd;
use std::mem::MaybeUninit;

/// The number of channels of a block.
pub(in crate::ops) const BLOCK: usize = 16;

/// Converts pixels of up to 16 planes, which are `plane` elements apart, to a block; missing channels are 0.
///
/// `planes` starts at the first pixel of the first channel; `block` has 16 elements for each pixel.
#[inline(always)]
pub(in crate::ops) fn to_block<S: Simd>(simd: S, planes: &[f32], plane: usize, channels: usize, block: &mut [f32]) {
    let pixels = block.len() / BLOCK;
    assert!(channels >= 1 && (channels - 1) * plane + pixels <= planes.len());
    if channels == BLOCK && pixels >= BLOCK {
        for pixel in (0..pixels).step_by(BLOCK) {
            // The last ones may overlap the previous ones.
            let pixel = pixel.min(pixels - BLOCK);
            // SAFETY: 16 pixels from `pixel` on are within each of the planes and within the block.
            unsafe {
                let (from, to) = (planes.as_ptr().add(pixel), block.as_mut_ptr().add(pixel * BLOCK));
                transpose(simd, from, plane, to, BLOCK);
            }
        }
    } else {
        for (i, pixel) in block.chunks_exact_mut(BLOCK).enumerate() {
            for (c, x) in pixel.iter_mut().enumerate() {
                *x = if c < channels { planes[c * plane + i] } else { 0.0 };
            }
        }
    }
}

/// Writes the first `channels` channels of a block to planes of `to`, `plane` elements apart, from element `at` on.
///
/// # Safety
/// No other thread uses these elements.
#[inline(always)]
pub(in crate::ops) unsafe fn from_block<S: Simd>(
    simd: S,
    block: &[f32],
    channels: usize,
    to: &Shared<MaybeUninit<f32>>,
    at: usize,
    plane: usize,
) {
    let pixels = block.len() / BLOCK;
    if channels == BLOCK && pixels >= BLOCK {
        // SAFETY: by the contract of this function; `part` has checked the range.
        let to = unsafe { to.start(at..at + (BLOCK - 1) * plane + pixels) }.cast::<f32>();
        for pixel in (0..pixels).step_by(BLOCK) {
            let pixel = pixel.min(pixels - BLOCK);
            // SAFETY: 16 pixels from `pixel` on are within the block and within each of the planes.
            unsafe { transpose(simd, block.as_ptr().add(pixel * BLOCK), BLOCK, to.add(pixel), plane) };
        }
    } else {
        for c in 0..channels {
            // SAFETY: by the contract of this function.
            let to = unsafe { to.part(at + c * plane..at + c * plane + pixels) };
            for (to, pixel) in to.iter_mut().zip(block.chunks_exact(BLOCK)) {
                to.write(pixel[c]);
            }
        }
    }
}

/// Transposes 16×16 elements: element j of row i, in rows `row` apart, goes to element i of row j, in rows `to_row`
/// apart.
///
/// # Safety
/// All these elements may be accessed through the pointers.
#[inline(always)]
pub(in crate::ops) unsafe fn transpose<S: Simd>(_: S, from: *const f32, row: usize, to: *mut f32, to_row: usize) {
    #[cfg(target_arch = "x86_64")]
    match S::F32_LANES {
        // SAFETY: registers of 16 numbers are those of AVX-512, and by the contract of this function.
        BLOCK => return unsafe { transpose_avx512(from, row, to, to_row) },
        // SAFETY: registers of 8 numbers are those of AVX2; the quarters are within what the pointers may access.
        8 => unsafe {
            for (i, j) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
                transpose_avx2(from.add(i * row + j), row, to.add(j * to_row + i), to_row);
            }
            return;
        },
        _ => {}
    }
    for i in 0..BLOCK {
        for j in 0..BLOCK {
            // SAFETY: by the contract of this function.
            unsafe { *to.add(j * to_row + i) = *from.add(i * row + j) };
        }
    }
}

/// [`transpose`] with AVX-512, four columns at a time: four registers of four elements from each of four rows, which
/// are then transposed within each quarter.
///
/// # Safety
/// See [`transpose`]; the CPU must support AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_avx512(from: *const f32, row: usize, to: *mut f32, to_row: usize) {
    use std::arch::x86_64::*;
    for j in (0..BLOCK).step_by(4) {
        let mut rows = [_mm512_setzero_ps(); 4];
        for (i, rows) in rows.iter_mut().enumerate() {
            // SAFETY: by the contract of this function.
            let quarter = |k: usize| unsafe { _mm_loadu_ps(from.add((i + k) * row + j)) };
            *rows = _mm512_castps128_ps512(quarter(0));
            *rows = _mm512_insertf32x4::<1>(*rows, quarter(4));
            *rows = _mm512_insertf32x4::<2>(*rows, quarter(8));
            *rows = _mm512_insertf32x4::<3>(*rows, quarter(12));
        }
        let low = |a, b| _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
        let high = |a, b| _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
        let (low01, low23) = (low(rows[0], rows[1]), low(rows[2], rows[3]));
        let (high01, high23) = (high(rows[0], rows[1]), high(rows[2], rows[3]));
        let columns = [
            _mm512_unpacklo_pd(low01, low23),
            _mm512_unpackhi_pd(low01, low23),
            _mm512_unpacklo_pd(high01, high23),
            _mm512_unpackhi_pd(high01, high23),
        ];
        for (i, column) in columns.into_iter().enumerate() {
            // SAFETY: by the contract of this function.
            unsafe { _mm512_storeu_ps(to.add((j + i) * to_row), _mm512_castpd_ps(column)) };
        }
    }
}

/// [`transpose`] with AVX2, in blocks of 8×8: pairs of rows, pairs of pairs, then the halves.
///
/// # Safety
/// See [`transpose`]; the CPU must support AVX2.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose_avx2(from: *const f32, row: usize, to: *mut f32, to_row: usize) {
    use std::arch::x86_64::*;
    let mut rows = [_mm256_setzero_ps(); 8];
    for (i, rows) in rows.iter_mut().enumerate() {
        // SAFETY: by the contract of this function.
        *rows = unsafe { _mm256_loadu_ps(from.add(i * row)) };
    }
    let mut pairs = [_mm256_setzero_ps(); 8];
    for i in (0..8).step_by(2) {
        pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    let mut fours = [_mm256_setzero_ps(); 8];
    for i in [0, 4] {
        fours[i] = _mm256_shuffle_ps::<0b01_00_01_00>(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(pairs[i + 1], pairs[i + 3]);
    }
    for j in 0..4 {
        let low = _mm256_permute2f128_ps::<0x20>(fours[j], fours[j + 4]);
        let high = _mm256_permute2f128_ps::<0x31>(fours[j], fours[j + 4]);
        // SAFETY: by the contract of this function.
        unsafe {
            _mm256_storeu_ps(to.add(j * to_row), low);
            _mm256_storeu_ps(to.add((j + 4) * to_row), high);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::WithSimd;

    /// Converts back and forth, with all instruction sets that this machine has.
    #[test]
    fn planes_are_converted_to_blocks_and_back() {
        struct There<'a>(&'a [f32], usize, usize, &'a mut [f32]);
        impl WithSimd for There<'_> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                to_block(simd, self.0, self.1, self.2, self.3);
            }
        }
        struct Back<'a>(&'a [f32], usize, &'a Shared<'a, MaybeUninit<f32>>, usize);
        impl WithSimd for Back<'_> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                // SAFETY: no other thread uses the planes.
                unsafe { from_block(simd, self.0, self.1, self.2, 0, self.3) };
            }
        }
        for (channels, plane, pixels) in [(16, 49, 49), (16, 16, 16), (16, 40, 17), (16, 9, 7), (3, 50, 49), (1, 1, 1)]
        {
            let planes: Vec<f32> = (0..channels * plane).map(|i| i as f32).collect();
            for arch in super::super::arch::all() {
                let mut block = vec![f32::NAN; pixels * BLOCK];
                arch.dispatch(There(&planes, plane, channels, &mut block));
                for (i, x) in block.iter().enumerate() {
                    let (pixel, c) = (i / BLOCK, i % BLOCK);
                    let want = if c < channels { planes[c * plane + pixel] } else { 0.0 };
                    assert_eq!(*x, want, "{channels} channels, pixel {pixel}, channel {c}");
                }
                let mut back = vec![MaybeUninit::new(-1.0); planes.len()];
                arch.dispatch(Back(&block, channels, &Shared::new(&mut back), plane));
                for (i, x) in back.iter().enumerate() {
                    // SAFETY: all are written above.
                    let x = unsafe { x.assume_init_ref() };
                    let want = if i % plane < pixels { planes[i] } else { -1.0 };
                    assert_eq!(*x, want, "{channels} channels, number {i}");
                }
            }
        }
    }
}
