//! The threads that share the work of an operation.
//!
//! An operation takes between microseconds and milliseconds, so threads that have done their part wait briefly for the
//! next one before they sleep. The caller never waits for a thread that has not begun: on a machine with other work to
//! do, which may hold a thread back for milliseconds, the caller does that thread's part itself.
//!
//! candle's own elementwise operations use a second pool, whose threads would take the cores from these; the notebooks'
//! kernel therefore sets `CANDLE_NUM_THREADS` to 1, which leaves that pool empty.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread::Thread;

/// How often a thread looks for work before it sleeps: about a tenth of a millisecond.
const LOOKS: u32 = 5_000;
/// How often the caller looks whether the others have finished before it sleeps: longer, since it has nothing else to do.
const WAITS: u32 = 20_000;

// The state of a pool is one number: the serial number of the call, the number of threads that are inside it, whether
// its caller sleeps until they have left, and whether more may enter.
const OPEN: u64 = 1;
const SLEEPS: u64 = 2;
const ONE_INSIDE: u64 = 4;
const INSIDE: u64 = 0xffff * ONE_INSIDE;
const NEXT_CALL: u64 = 1 << 18;

pub(super) struct Pool {
    state: AtomicU64,
    work: UnsafeCell<*const (dyn Fn() + Sync)>,
    busy: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    left: (Mutex<()>, Condvar),
    threads: OnceLock<Vec<Thread>>,
}

// SAFETY: `work` is written only by the one caller that has set `busy`, while no thread is inside, and read only by
// threads inside, which have entered through `state` after that. It points to a `Sync` closure, which lives until all
// threads have left.
unsafe impl Sync for Pool {}
// SAFETY: as above.
unsafe impl Send for Pool {}

impl Pool {
    fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            work: UnsafeCell::new(&|| ()),
            busy: AtomicBool::new(false),
            panic: Mutex::new(None),
            left: (Mutex::new(()), Condvar::new()),
            threads: OnceLock::new(),
        }
    }

    /// That of this process, with as many threads as candle uses, counting the caller.
    pub(super) fn of_process() -> &'static Self {
        static POOL: OnceLock<Pool> = OnceLock::new();
        let pool = POOL.get_or_init(Self::new);
        pool.threads.get_or_init(|| pool.start(candle_core::utils::get_num_threads() - 1));
        pool
    }

    /// Starts n threads, or as many as the machine allows.
    fn start(&'static self, n: usize) -> Vec<Thread> {
        let start = |i| std::thread::Builder::new().name(format!("diffusion-{i}")).spawn(|| self.serve());
        (0..n).map_while(|i| Some(start(i).ok()?.thread().clone())).collect()
    }

    fn started(&self) -> &[Thread] {
        self.threads.get().map_or(&[], |threads| threads)
    }

    /// The number of threads, counting the caller.
    pub(super) fn count(&self) -> usize {
        self.started().len() + 1
    }

    /// Calls `work` on this thread and at the same time on others, for which up to `helpers` are woken. Returns when all
    /// calls have.
    ///
    /// One call of `work` must be able to do everything: it is the only one inside another call, while another thread's
    /// call is under way, and where no other thread is free.
    ///
    /// # Panics
    /// A call of `work` did.
    pub(super) fn run(&self, helpers: usize, work: &(dyn Fn() + Sync)) {
        if helpers == 0 || self.started().is_empty() || self.busy.swap(true, Ordering::Acquire) {
            return work();
        }
        // SAFETY: only the lifetime changes; `close` waits for the threads that use the closure.
        let lasting: &'static (dyn Fn() + Sync) = unsafe { std::mem::transmute(work) };
        // SAFETY: the last call was closed and all threads have left it, so nobody reads.
        unsafe { *self.work.get() = lasting };
        self.state.fetch_add(NEXT_CALL | OPEN, Ordering::Release);
        self.started().iter().take(helpers).for_each(Thread::unpark);
        let mine = catch_unwind(AssertUnwindSafe(work));
        self.close();
        let theirs = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.busy.store(false, Ordering::Release);
        if let Some(panic) = mine.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    /// Nobody may enter any more; waits until all have left.
    fn close(&self) {
        let mut state = self.state.fetch_and(!OPEN, Ordering::Acquire);
        for _ in 0..WAITS {
            if state & INSIDE == 0 {
                return;
            }
            spin_loop();
            state = self.state.load(Ordering::Acquire);
        }
        let mut lock = self.left.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.fetch_or(SLEEPS, Ordering::Relaxed);
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            lock = self.left.1.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
        self.state.fetch_and(!SLEEPS, Ordering::Relaxed);
    }

    /// The life of a thread: it enters every call that it finds open, once.
    fn serve(&self) {
        let (mut seen, mut looks) = (0, 0);
        loop {
            let state = self.state.load(Ordering::Relaxed);
            if state & OPEN == 0 || state / NEXT_CALL == seen {
                looks += 1;
                if looks < LOOKS {
                    spin_loop();
                } else {
                    std::thread::park();
                    looks = 0;
                }
                continue;
            }
            let entered = state + ONE_INSIDE;
            if self.state.compare_exchange(state, entered, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            (seen, looks) = (state / NEXT_CALL, 0);
            // SAFETY: written before the call was opened; the caller waits until this thread has left.
            let work = unsafe { &**self.work.get() };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            }
            let state = self.state.fetch_sub(ONE_INSIDE, Ordering::Release) - ONE_INSIDE;
            if state & (SLEEPS | INSIDE) == SLEEPS {
                // With the lock, the caller has either not yet looked or already waits.
                drop(self.left.0.lock());
                self.left.1.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Takes numbers below n until there are none.
    fn each_below(pool: &Pool, n: usize, each: impl Fn(usize) + Sync) {
        let next = AtomicUsize::new(0);
        pool.run(3, &|| {
            while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < n) {
                each(i);
            }
        });
    }

    /// A pool with 4 threads on any machine.
    fn four() -> &'static Pool {
        let pool: &'static Pool = Box::leak(Box::new(Pool::new()));
        pool.threads.get_or_init(|| pool.start(3));
        pool
    }

    #[test]
    fn all_is_done_when_a_call_returns_whoever_else_calls() {
        let pool = four();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for n in (0..500).map(|i| i % 70) {
                        let (done, within) = (AtomicUsize::new(0), AtomicUsize::new(0));
                        each_below(pool, n, |i| {
                            done.fetch_add(i + 1, Ordering::Relaxed);
                            if i % 16 == 0 {
                                each_below(pool, 3, |_| {
                                    within.fetch_add(1, Ordering::Relaxed);
                                });
                            }
                        });
                        assert_eq!(done.into_inner(), n * (n + 1) / 2);
                        assert_eq!(within.into_inner(), 3 * n.div_ceil(16));
                    }
                });
            }
        });
    }

    #[test]
    fn other_threads_take_part() {
        let pool = four();
        let all = std::sync::Barrier::new(pool.count());
        pool.run(3, &|| {
            all.wait();
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
        let pool = four();
        for which in 0..20 {
            let panics = || each_below(pool, 20, |i| assert!(i != which, "piece {i}"));
            let panic = catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
            assert_eq!(panic.downcast_ref::<String>().unwrap(), &format!("piece {which}"));
            let done = AtomicUsize::new(0);
            each_below(pool, 100, |_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 100);
        }
    }
}
