//! Which vector instructions the kernels are run with.

use pulp::Arch;
use std::sync::LazyLock;

/// The environment variable that holds the kernels to fewer instructions than the machine has.
const VARIABLE: &str = "DIFFUSION_INSTRUCTIONS";

/// The best that this machine has: AVX-512, AVX2 with FMA, NEON, or none; or what `DIFFUSION_INSTRUCTIONS` says. In the tests,
/// [`each`] chooses.
#[inline(always)]
pub(in crate::ops) fn arch() -> Arch {
    static ARCH: LazyLock<Arch> = LazyLock::new(|| {
        match std::env::var(VARIABLE) {
        Ok(wanted) => held_to(&wanted).unwrap_or_else(|| {
            eprintln!("{VARIABLE} = {wanted:?} is not for this machine: `avx2` holds one with AVX-512 to AVX2, `none` any to no vectors");
            Arch::new()
        }),
        Err(_) => Arch::new(),
    }
    });
    #[cfg(test)]
    if let Some(arch) = chosen() {
        return arch;
    }
    *ARCH
}

/// The instructions that a word stands for, if the machine has them.
fn held_to(wanted: &str) -> Option<Arch> {
    match wanted {
        "none" => Some(Arch::Scalar),
        #[cfg(target_arch = "x86_64")]
        "avx2" => pulp::x86::V3::try_new().map(Arch::V3),
        _ => None,
    }
}

#[cfg(test)]
pub(in crate::ops) use choice::{all, chosen, each, within};

#[cfg(test)]
mod choice {
    use candle_core::Result;
    use pulp::Arch;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Arch>> = const { Cell::new(None) };
    }

    /// The choice of this thread, which [`parallel`](super::super::parallel) hands on to those that it shares work out to.
    pub(in crate::ops) fn chosen() -> Option<Arch> {
        CHOSEN.get()
    }

    /// Calls `f` while kernels of this thread use `arch`.
    pub(in crate::ops) fn within<R>(arch: Option<Arch>, f: impl FnOnce() -> R) -> R {
        /// Puts back what was, also after a panic.
        struct Before(Option<Arch>);
        impl Drop for Before {
            fn drop(&mut self) {
                CHOSEN.set(self.0);
            }
        }
        let _before = Before(CHOSEN.replace(arch));
        f()
    }

    /// Every set of instructions that this machine has, the best first: with AVX-512 also AVX2, and no vectors at all.
    pub(in crate::ops) fn all() -> Vec<Arch> {
        let mut all = vec![Arch::new()];
        #[cfg(target_arch = "x86_64")]
        if let (Arch::V4(_), Some(avx2)) = (Arch::new(), super::held_to("avx2")) {
            all.push(avx2);
        }
        if !matches!(Arch::new(), Arch::Scalar) {
            all.push(Arch::Scalar);
        }
        all
    }

    /// Calls `test` once with each of [`all`].
    pub(in crate::ops) fn each(mut test: impl FnMut() -> Result<()>) -> Result<()> {
        for arch in all() {
            // To be seen if it fails.
            println!("with {arch:?}");
            within(Some(arch), &mut test)?;
        }
        Ok(())
    }

    #[test]
    fn words_stand_for_instructions() {
        assert!(matches!(super::held_to("none"), Some(Arch::Scalar)));
        assert!(super::held_to("AVX-1024").is_none());
    }

    #[test]
    fn the_choice_reaches_every_thread_and_ends() -> Result<()> {
        use super::super::parallel;
        let name = |arch: Arch| format!("{arch:?}");
        each(|| {
            let want = name(super::arch());
            let mut seen = vec![String::new(); 64];
            parallel::for_each_piece(
                &mut seen,
                1,
                || (),
                |(), _, piece| {
                    piece[0] = name(super::arch());
                },
            );
            assert!(seen.iter().all(|it| *it == want), "{want}: {seen:?}");
            Ok(())
        })?;
        assert_eq!(name(super::arch()), name(Arch::new()));
        Ok(())
    }
}
