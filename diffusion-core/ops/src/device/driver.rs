//! The NVIDIA driver, loaded when it is first needed.
//!
//! candle's CUDA code is linked against `libcuda.so.1`, which exists only where a driver is installed; without it the
//! loader would reject the program, notebooks included, before it starts. The driver's functions are therefore defined
//! here, and each jumps to an address in a table. `cuInit`, which must be called before all others, opens the driver
//! and fills the table. Without a driver it returns `CUDA_ERROR_NO_DEVICE`, which candle reports as an ordinary error.
//! Since the linker finds all functions here, programs do not require `libcuda.so.1`.

mod functions;

use functions::{NAMES, TABLE};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Of the enumeration `CUresult`.
const NOT_INITIALIZED: c_int = 3;
const NO_DEVICE: c_int = 100;
const NOT_FOUND: c_int = 500;

type Init = unsafe extern "C" fn(c_uint) -> c_int;

/// The target of all functions before `cuInit`.
extern "C" fn not_initialized() -> c_int {
    NOT_INITIALIZED
}

/// The target of functions that an older driver does not have.
extern "C" fn not_found() -> c_int {
    NOT_FOUND
}

macro_rules! trampolines {
    ($($name:ident)*) => {
        use super::{AtomicPtr, CStr, c_void, not_initialized};
        use std::arch::naked_asm;

        #[expect(non_camel_case_types, reason = "the driver's own names")]
        enum At { $($name),* }

        pub(super) const NAMES: &[&CStr] = &[$(
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => panic!("a name with a zero in it"),
            }
        ),*];

        /// The address of each function.
        pub(super) static TABLE: [AtomicPtr<c_void>; NAMES.len()] =
            [const { AtomicPtr::new(not_initialized as *mut c_void) }; NAMES.len()];

        $(
            /// Preserves all registers and the stack, so it is correct for every signature.
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name() {
                #[cfg(target_arch = "x86_64")]
                naked_asm!(
                    "jmp qword ptr [rip + {table} + {at}]",
                    table = sym TABLE,
                    at = const At::$name as usize * 8,
                );
                // The calling convention reserves x16 for such code.
                #[cfg(target_arch = "aarch64")]
                naked_asm!(
                    "adrp x16, {table} + {at}",
                    "ldr x16, [x16, :lo12:{table} + {at}]",
                    "br x16",
                    table = sym TABLE,
                    at = const At::$name as usize * 8,
                );
            }
        )*
    };
}
use trampolines;

/// The driver's own `cuInit`, or why there is none. The driver is searched for only once.
fn driver() -> &'static Result<Init, String> {
    static DRIVER: OnceLock<Result<Init, String>> = OnceLock::new();
    DRIVER.get_or_init(|| {
        // SAFETY: the name is a C string. The library's own initialisers run, as they would had the loader opened it.
        let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return Err(why());
        }
        // SAFETY: the library is open and never closed, and the names are C strings.
        let find = |name: &CStr| unsafe { libc::dlsym(library, name.as_ptr()) };
        let init = find(c"cuInit");
        if init.is_null() {
            return Err("libcuda.so.1 is not NVIDIA's driver: it has no cuInit".to_owned());
        }
        for (name, entry) in NAMES.iter().zip(&TABLE) {
            let found = match find(name) {
                it if it.is_null() => not_found as *mut c_void,
                it => it,
            };
            entry.store(found, Ordering::Release);
        }
        // SAFETY: this is the signature that the driver's header gives.
        Ok(unsafe { std::mem::transmute::<*mut c_void, Init>(init) })
    })
}

/// Why the library could not be opened.
fn why() -> String {
    // SAFETY: what dlerror gives is null or a C string that is valid until the next call in this thread.
    let text = unsafe {
        let text: *const c_char = libc::dlerror();
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    if text.is_empty() || text.contains("No such file") && text.starts_with("libcuda.so.1") {
        return "no NVIDIA driver was found (libcuda.so.1)".to_owned();
    }
    format!("the NVIDIA driver cannot be opened ({text})")
}

/// Checks whether there is a driver.
///
/// # Errors
/// There is no usable driver: the message says why.
pub(super) fn find() -> Result<(), String> {
    driver().as_ref().map(|_| ()).map_err(Clone::clone)
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: c_uint) -> c_int {
    match driver() {
        // SAFETY: any flags are allowed; the driver answers those that it does not know with an error.
        Ok(init) => unsafe { init(flags) },
        Err(_) => NO_DEVICE,
    }
}
