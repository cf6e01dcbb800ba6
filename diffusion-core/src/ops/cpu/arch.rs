//! Which vector instructions the kernels are run with.

use pulp::Arch;

/// The best that this machine has: AVX-512, AVX2 with FMA, NEON, or none.
///
/// In the tests, `TEST_INSTRUCTIONS` chooses less: `avx2` or `plain`.
#[inline(always)]
pub(in crate::ops) fn arch() -> Arch {
    #[cfg(test)]
    if let Some(arch) = chosen() {
        return arch;
    }
    Arch::new()
}

#[cfg(test)]
fn chosen() -> Option<Arch> {
    match std::env::var("TEST_INSTRUCTIONS").as_deref() {
        Ok("plain") => Some(Arch::Scalar),
        #[cfg(target_arch = "x86_64")]
        Ok("avx2") => pulp::x86::V3::try_new().map(Arch::V3),
        _ => None,
    }
}
