//! Memory that an operation needs while it runs, kept for the next one.
//!
//! Megabytes from the operating system come page by page, each with an interrupt, and are lost again at the end: for the
//! smaller convolutions of a U-Net that took as long as the arithmetic. So each thread keeps what it had.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// How many pieces a thread keeps.
const KEPT: usize = 16;
/// What is larger is given back: tensors can use it then, and to fill it with zeros takes little of the time of what needs so much.
const LARGEST: usize = 1 << 18;

thread_local! {
    // The one piece of global state in this crate. It holds no values, so that it does not matter how many of it there are.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Some numbers, of any value at first.
pub(in crate::ops) struct Scratch {
    numbers: Vec<f32>,
    len: usize,
}

impl Scratch {
    /// `len` numbers.
    pub(in crate::ops) fn new(len: usize) -> Self {
        let mut numbers = FREE
            .with_borrow_mut(|free| {
                // The smallest that suffices, or else the largest.
                let fits = |numbers: &Vec<f32>| (numbers.len() < len, numbers.len().abs_diff(len));
                let best = (0..free.len()).min_by_key(|i| fits(&free[*i]))?;
                Some(free.swap_remove(best))
            })
            .unwrap_or_default();
        if numbers.len() < len {
            // A new one, since growing would copy what nobody needs.
            numbers = vec![0.0; len];
        }
        Self { numbers, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.numbers);
        // At the end of a thread there is nothing left to give it back to.
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
    fn memory_is_used_again() {
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
