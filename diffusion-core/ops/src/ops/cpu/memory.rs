//! Reuse of freed memory.
//!
//! Every tensor is a new allocation. The C library of Linux returns large blocks to the system as soon as they are
//! freed, and the system then provides new ones page by page, each with a page fault and filled with zeros. So the
//! library is configured to keep them for the next step. (`MALLOC_TRIM_THRESHOLD_=131072 make bench ONLY=steps`
//! measures without.)

/// Configures the C library, once, unless the user has set `MALLOC_TRIM_THRESHOLD_` or `MALLOC_MMAP_MAX_`.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn keep() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let set = |name: &str| std::env::var_os(name).is_some();
        if !set("MALLOC_TRIM_THRESHOLD_") && !set("MALLOC_MMAP_MAX_") {
            // SAFETY: only numbers are passed. If the call fails, nothing changes.
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
