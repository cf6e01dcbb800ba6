//! What becomes of memory that is free again.
//!
//! Every tensor is new memory. The C library of Linux gives large pieces back to the system as soon as they are free, and the
//! system then hands out the next ones page by page, each by an interrupt and filled with zeros. So the library is told to keep
//! what it has for the next step. (`MALLOC_TRIM_THRESHOLD_=131072 make bench ONLY=steps` measures without.)

/// Tells it so, once, unless `MALLOC_TRIM_THRESHOLD_` or `MALLOC_MMAP_MAX_` are set in the environment: then the user decides.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn keep() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let set = |name: &str| std::env::var_os(name).is_some();
        if !set("MALLOC_TRIM_THRESHOLD_") && !set("MALLOC_MMAP_MAX_") {
            // SAFETY: numbers only are passed. A refusal, by its result, leaves all as it is.
            unsafe {
                libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
                libc::mallopt(libc::M_MMAP_MAX, 0);
            }
        }
    });
}

/// Other C libraries have no such setting.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn keep() {}
