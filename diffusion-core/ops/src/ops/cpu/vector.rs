//! Vector registers with operators for arithmetic.

use pulp::Simd;
use std::ops::{Add, Sub};

/// The operand type of a convolution's transforms: a number, or a register of numbers.
pub(in crate::ops) trait Number: Copy + Add<Output = Self> + Sub<Output = Self> {
    /// self + `factor` · `x`
    fn plus(self, factor: f32, x: Self) -> Self;
    /// `factor` · self
    fn times(self, factor: f32) -> Self;
}

/// A vector register.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Vector<S: Simd> {
    simd: S,
    lanes: S::f32s,
}

impl<S: Simd> Vector<S> {
    /// A register with `x` in every lane.
    #[inline(always)]
    pub(in crate::ops) fn splat(simd: S, x: f32) -> Self {
        let lanes = simd.splat_f32s(x);
        Self { simd, lanes }
    }

    /// Loads the first elements of `from`.
    ///
    /// # Panics
    /// `from` has fewer elements than a register.
    #[inline(always)]
    pub(in crate::ops) fn load(simd: S, from: &[f32]) -> Self {
        let lanes = S::as_simd_f32s(&from[..S::F32_LANES]).0[0];
        Self { simd, lanes }
    }

    /// Stores the lanes in the first elements of `to`.
    ///
    /// # Panics
    /// `to` has fewer elements than a register.
    #[inline(always)]
    pub(in crate::ops) fn store(self, to: &mut [f32]) {
        S::as_mut_simd_f32s(&mut to[..S::F32_LANES]).0[0] = self.lanes;
    }

    /// Reads the elements from `from` on.
    ///
    /// # Safety
    /// As many elements as a register has may be read there.
    #[inline(always)]
    pub(in crate::ops) unsafe fn read(simd: S, from: *const f32) -> Self {
        // SAFETY: by the contract of this function.
        let lanes = unsafe { from.cast::<S::f32s>().read_unaligned() };
        Self { simd, lanes }
    }

    /// Writes the lanes from `to` on.
    ///
    /// # Safety
    /// As many elements as a register has may be written there.
    #[inline(always)]
    pub(in crate::ops) unsafe fn write(self, to: *mut f32) {
        // SAFETY: by the contract of this function.
        unsafe { to.cast::<S::f32s>().write_unaligned(self.lanes) };
    }
}

impl<S: Simd> Add for Vector<S> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let lanes = self.simd.add_f32s(self.lanes, other.lanes);
        Self { lanes, ..self }
    }
}

impl<S: Simd> Sub for Vector<S> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        let lanes = self.simd.sub_f32s(self.lanes, other.lanes);
        Self { lanes, ..self }
    }
}

impl<S: Simd> Number for Vector<S> {
    #[inline(always)]
    fn plus(self, factor: f32, x: Self) -> Self {
        let factor = self.simd.splat_f32s(factor);
        let lanes = self.simd.mul_add_e_f32s(factor, x.lanes, self.lanes);
        Self { lanes, ..self }
    }
    #[inline(always)]
    fn times(self, factor: f32) -> Self {
        let lanes = self.simd.mul_f32s(self.lanes, self.simd.splat_f32s(factor));
        Self { lanes, ..self }
    }
}
