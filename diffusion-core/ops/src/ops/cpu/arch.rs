//! The vector instructions that the kernels use.

use pulp::Arch;
use std::sync::LazyLock;

/// The environment variable that restricts the kernels to fewer instructions than the machine has.
const VARIABLE: &str = "DIFFUSION_INSTRUCTIONS";

/// The best instructions of this machine (AVX-512, AVX2 with FMA, NEON, or none), unless `DIFFUSION_INSTRUCTIONS`
/// restricts them. In tests, [`each`] chooses.
#[inline(always)]
pub(in crate::ops) fn arch() -> Arch {
    static ARCH: LazyLock<Arch> = LazyLock::new(|| match std::env::var(VARIABLE) {
        Ok(wanted) => held_to(&wanted).unwrap_or_else(|| {
            eprintln!("{VARIABLE} = {wanted:?} does not apply here; use `avx2` on a machine with AVX-512, or `none`");
            Arch::new()
        }),
        Err(_) => Arch::new(),
    });
    #[cfg(test)]
    if let Some(arch) = chosen() {
        return arch;
    }
    *ARCH
}

/// The instructions with this name, if the machine has them.
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

    /// The choice of this thread, which [`parallel`](super::super::parallel) passes on to its worker threads.
    pub(in crate::ops) fn chosen() -> Option<Arch> {
        CHOSEN.get()
    }

    /// Calls `f` while the kernels of this thread use `arch`.
    pub(in crate::ops) fn within<R>(arch: Option<Arch>, f: impl FnOnce() -> R) -> R {
        /// Restores the previous choice, also after a panic.
        struct Before(Option<Arch>);
        impl Drop for Before {
            fn drop(&mut self) {
                CHOSEN.set(self.0);
            }
        }
        let _before = Before(CHOSEN.replace(arch));
        f()
    }

    /// All instruction sets that this machine has, the best first, and no vectors at all.
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
            // Visible if the test fails.
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
