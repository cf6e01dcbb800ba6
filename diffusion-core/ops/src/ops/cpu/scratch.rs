//! Temporary memory of an operation, kept for the next one.
//!
//! Megabytes from the operating system arrive page by page, each with a page fault, and are lost at the end. For the
//! smaller convolutions of a U-Net that took as long as the arithmetic, so each thread keeps its memory.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// The number of blocks that a thread keeps.
const KEPT: usize = 16;
/// Larger blocks are freed, so that tensors can use them; zeroing them takes a small part of the time of such large
/// work.
const LARGEST: usize = 1 << 18;

thread_local! {
    // The only global state here. It holds no values, so having several copies of it does no harm.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Uninitialised elements, of arbitrary value.
pub(in crate::ops) struct Scratch {
    numbers: Vec<f32>,
    len: usize,
}

impl Scratch {
    /// Provides `len` elements.
    pub(in crate::ops) fn new(len: usize) -> Self {
        let mut numbers = FREE
            .with_borrow_mut(|free| {
                // The smallest block that suffices, otherwise the largest.
                let fits = |numbers: &Vec<f32>| (numbers.len() < len, numbers.len().abs_diff(len));
                let best = (0..free.len()).min_by_key(|i| fits(&free[*i]))?;
                Some(free.swap_remove(best))
            })
            .unwrap_or_default();
        if numbers.len() < len {
            // A new one, since growing would copy data that is not needed.
            numbers = vec![0.0; len];
        }
        Self { numbers, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.numbers);
        // When a thread ends, the pool may be gone.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT && (1..=LARGEST).contains(&numbers.len()) {
                free.push(numbers);
            }
        });
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.numbers[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reused() {
        let mut first = Scratch::new(1000);
        first[999] = 7.0;
        let (at, other) = (first.as_ptr(), Scratch::new(10));
        drop(first);
        let second = Scratch::new(500);
        assert_eq!((second.len(), second.as_ptr()), (500, at));
        assert_eq!(other.len(), 10);
        drop(second);
        assert_eq!(Scratch::new(1001).len(), 1001);
    }
}
