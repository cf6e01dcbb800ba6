//! Emulates launches without a GPU: the kernels, compiled by the host's C++ compiler, run on host memory.

use super::{Argument, Launch, SOURCE, kernels};
use libloading::{Library, Symbol};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

type Run = unsafe extern "C" fn(*mut *mut c_void, c_uint, c_uint, c_uint, c_int) -> *const c_char;
type Types = unsafe extern "C" fn() -> *const c_char;

/// The order of blocks and threads. Correct kernels give the same result either way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Order {
    Forwards,
    Backwards,
}

/// The compiled kernels. They run one at a time, because `__shared__` variables are static there.
struct Emulator {
    library: Library,
    /// The largest number of threads in a block of each kernel.
    kernels: HashMap<&'static str, u32>,
}

static EMULATOR: LazyLock<Mutex<Emulator>> = LazyLock::new(|| Mutex::new(Emulator::compile()));

/// Performs `launches` in order.
///
/// # Panics
/// There is no C++ compiler, a launch does not match its kernel, or not all threads reach a barrier.
pub(super) fn run(launches: &[Launch], order: Order) {
    // A failed test must not affect the others.
    let emulator = EMULATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    launches.iter().for_each(|launch| emulator.run(launch, order));
}

impl Emulator {
    fn compile() -> Self {
        let kernels: HashMap<_, _> = kernels().into_iter().collect();
        let entries: String = kernels.keys().map(|name| format!("EMULATE({name})\n")).collect();
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("kernels.cpp"), folder.path().join("kernels.so"));
        let whole = [include_str!("emulate.hpp"), SOURCE, &entries].concat();
        std::fs::write(&source, whole).unwrap();
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
        // A misaligned address ends the process, as on a GPU.
        let output = Command::new(&compiler)
            .args(["-std=c++17", "-O1", "-fPIC", "-shared", "-w"])
            .args(["-ffp-contract=off", "-fsanitize=alignment"])
            .args(["-fsanitize-undefined-trap-on-error", "-o"])
            .args([&library, &source])
            .output()
            .unwrap_or_else(|error| {
                panic!("these tests compile the GPU's kernels for the CPU, with a C++ compiler: {compiler}: {error}")
            });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compiler}: {said}");
        // SAFETY: it is the library just compiled, and loading it only runs the constructors of empty lists.
        let library = unsafe { Library::new(&library) }.unwrap();
        Self { library, kernels }
    }

    fn run(&self, launch: &Launch, order: Order) {
        let Launch { kernel, blocks, threads, arguments } = launch;
        let most = self.kernels[kernel];
        assert!(*threads <= most, "{kernel}: {threads} threads of {most}");
        let given: String = arguments.iter().map(code).collect();
        assert_eq!(self.types(kernel), given, "{kernel}: its arguments");
        let mut addresses: Vec<_> = arguments.iter().map(Argument::address).collect();
        // SAFETY: as in `types`, and the arguments have been compared with the parameters; the tests check that the
        // addresses have enough memory.
        let fault = unsafe {
            let run: Symbol<Run> = self.symbol("emulate", kernel);
            let backwards = (order == Order::Backwards).into();
            run(addresses.as_mut_ptr(), blocks.0, blocks.1, *threads, backwards)
        };
        if !fault.is_null() {
            // SAFETY: it is a string literal of the library.
            let fault = unsafe { CStr::from_ptr(fault) }.to_string_lossy();
            panic!("{kernel}: {fault}")
        }
    }

    /// A letter for each parameter of a kernel.
    fn types(&self, kernel: &str) -> String {
        // SAFETY: every kernel has a function of this type, which returns a constant.
        let types = unsafe {
            let types: Symbol<Types> = self.symbol("types", kernel);
            CStr::from_ptr(types())
        };
        types.to_str().unwrap().to_string()
    }

    /// # Safety
    /// `T` must be the type of the symbol `what_kernel`.
    unsafe fn symbol<T>(&self, what: &str, kernel: &str) -> Symbol<'_, T> {
        // SAFETY: by the contract of this function.
        unsafe { self.library.get(format!("{what}_{kernel}")) }.unwrap()
    }
}

fn code(argument: &Argument) -> char {
    match argument {
        Argument::Pointer(_) => 'p',
        Argument::U32(_) => 'u',
        Argument::U64(_) => 'w',
        Argument::F32(_) => 'f',
        Argument::F64(_) => 'd',
    }
}
