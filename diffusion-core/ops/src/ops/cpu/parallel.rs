//! Distribution of work among threads.
//!
//! The number of threads is candle's: `RAYON_NUM_THREADS`, by default one for each physical core.

use super::threads::Pool;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of pieces that can be processed at the same time.
pub(in crate::ops) fn threads() -> usize {
    Pool::of_process().count()
}

/// Calls `work(scratch, i)` for each i below `n`, in any order and on any thread. Each thread creates one scratch.
///
/// The result of piece i must not depend on the thread, so that results are the same on every run. `work` must not
/// distribute work itself, since all threads are busy.
pub(in crate::ops) fn for_each<S>(n: usize, scratch: impl Fn() -> S + Sync, work: impl Fn(&mut S, usize) + Sync) {
    if n <= 1 {
        return (0..n).for_each(|i| work(&mut scratch(), i));
    }
    let next = AtomicUsize::new(0);
    let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < n);
    let share = || {
        let Some(mut i) = take() else { return };
        let mut scratch = scratch();
        loop {
            work(&mut scratch, i);
            match take() {
                Some(next) => i = next,
                None => return,
            }
        }
    };
    #[cfg(test)]
    let arch = super::arch::chosen();
    #[cfg(test)]
    let share = || super::arch::within(arch, share);
    Pool::of_process().run(n - 1, &share);
}

/// [`for_each`] with piece i of `out` to write to: `size` elements, the last piece possibly fewer.
pub(in crate::ops) fn for_each_piece<T: Send, S>(
    out: &mut [T],
    size: usize,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize, &mut [T]) + Sync,
) {
    let (size, len) = (size.max(1), out.len());
    let out = Shared::new(out);
    for_each(len.div_ceil(size), scratch, |scratch, i| {
        let (from, to) = (i * size, len.min((i + 1) * size));
        // SAFETY: `for_each` uses each i once, and the pieces of different i are disjoint.
        work(scratch, i, unsafe { out.part(from..to) })
    });
}

/// A slice of which several threads write different parts.
pub(in crate::ops) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it only gives out disjoint `&mut [T]`, by the contract of `part`.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(in crate::ops) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Panics
    /// `range` exceeds the slice.
    ///
    /// # Safety
    /// No two parts in use at the same time may overlap.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(in crate::ops) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        let len = range.len();
        // SAFETY: within the slice, and disjoint from the other parts by the contract of this function.
        unsafe { std::slice::from_raw_parts_mut(self.start(range), len) }
    }

    /// A pointer to the start of `range`, for parts that are not contiguous.
    ///
    /// # Panics
    /// `range` exceeds the slice.
    ///
    /// # Safety
    /// Writes through the pointer stay within `range`, and no other thread uses it at the same time.
    #[inline(always)]
    pub(in crate::ops) unsafe fn start(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the slice.
        unsafe { self.start.add(range.start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once() {
        for (len, size) in [(0, 3), (1, 3), (3, 3), (1000, 7), (5, 100)] {
            let mut out = vec![0u32; len];
            for_each_piece(
                &mut out,
                size,
                || 0u32,
                |done, i, piece| {
                    *done += 1;
                    piece.iter_mut().enumerate().for_each(|(j, x)| *x += (i * size + j) as u32 + 1);
                },
            );
            assert!(out.iter().enumerate().all(|(i, x)| *x == i as u32 + 1), "{len} by {size}");
        }
    }
}
