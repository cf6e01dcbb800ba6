//! What was built with CUDA starts where there is no driver, and says why it computes on the CPU; and it computes rightly on a
//! GPU that is made of the processor (`tests/gpu`). (`cargo test -p diffusion-cli --features cuda`; needs no GPU.)
#![cfg(target_os = "linux")]

use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_diffusion");

/// A driver whose `cuInit` says `answer`.
fn driver(folder: &Path, answer: u32) -> Result<()> {
    let source = folder.join("driver.c");
    std::fs::write(&source, format!("int cuInit(unsigned flags) {{ return {answer}; }}"))?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(compiler)
        .args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"])
        .arg(folder.join("libcuda.so.1"))
        .arg(&source)
        .status()?;
    ensure!(status.success(), "the C compiler failed");
    Ok(())
}

/// A short training on `device`, with the driver that lies in `folder`.
fn train(device: &str, folder: &Path) -> Result<Output> {
    let mut path = OsString::from(folder);
    if let Some(more) = std::env::var_os("LD_LIBRARY_PATH") {
        path.push(":");
        path.push(more);
    }
    let output = Command::new(PROGRAM)
        .args(["train", "--task", "sprites", "--images", "16", "--batch", "8", "--max-steps", "1"])
        .args(["--device", device, "--out"])
        .arg(folder.join(device))
        .env("LD_LIBRARY_PATH", path)
        .output()?;
    Ok(output)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn shared_library() -> Result<PathBuf> {
    let beside = Path::new(PROGRAM).parent().context("a folder")?;
    Ok(beside.join("deps/libdiffusion_core.so"))
}

#[test]
fn a_driver_that_finds_no_gpu_leaves_the_cpu() -> Result<()> {
    let folder = tempfile::tempdir()?;
    driver(folder.path(), 100)?;
    let output = train("auto", folder.path())?;
    let said_then = said(&output);
    ensure!(output.status.success(), "{said_then}");
    let note = "note: CUDA is built in but cannot be used: the NVIDIA driver finds no GPU";
    ensure!(said_then.matches(note).count() == 1, "{said_then}");
    ensure!(said_then.contains("; computing on the CPU"), "{said_then}");
    let output = train("cuda", folder.path())?;
    let said = said(&output);
    ensure!(output.status.code() == Some(1), "{:?} {said}", output.status);
    ensure!(said.contains("CUDA cannot be used: the NVIDIA driver finds no GPU"), "{said}");
    Ok(())
}

#[test]
fn a_library_that_is_no_driver_leaves_the_cpu() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("libcuda.so.1"), "not a library")?;
    let output = train("auto", folder.path())?;
    let said = said(&output);
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("the NVIDIA driver cannot be opened ("), "{said}");
    Ok(())
}

/// As a notebook loads it: every function that it asks for must be there at once.
#[test]
fn the_shared_library_lacks_no_function() -> Result<()> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // SAFETY: its initialisers are those of this program, which were run already, and it stays open.
    let opened = unsafe { Library::open(Some(shared_library()?), RTLD_NOW | RTLD_LOCAL) };
    std::mem::forget(opened?);
    Ok(())
}

#[test]
fn nothing_that_was_built_asks_the_loader_for_the_driver() -> Result<()> {
    for file in [Path::new(PROGRAM), &shared_library()?] {
        let headers = Command::new("readelf").arg("-d").arg(file).output()?;
        let headers = String::from_utf8_lossy(&headers.stdout).into_owned();
        ensure!(headers.contains("libcublas.so"), "{}: {headers}", file.display());
        ensure!(!headers.contains("libcuda.so"), "{}: {headers}", file.display());
        ensure!(!headers.contains("libcudnn"), "{}: {headers}", file.display());
    }
    Ok(())
}

/// The program with a GPU that is made of the processor: one library that stands for NVIDIA's driver, cuBLAS, cuRAND and cuDNN.
struct Gpu {
    folder: tempfile::TempDir,
}

impl Gpu {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let library = folder.path().join("libcuda.so.1");
        let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
        // The crate opens cuDNN by this name.
        let status = Command::new(compiler)
            .args(["-std=c++17", "-O2", "-fPIC", "-shared"])
            .args(["-Wl,-soname,libcudnn.so.9", "-o"])
            .arg(&library)
            .arg(Self::source("gpu.cpp"))
            .arg("-ldl")
            .status()?;
        ensure!(status.success(), "the C++ compiler failed");
        Ok(Self { folder })
    }

    fn source(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/gpu").join(name)
    }

    fn run(&self, memory: u64, arguments: &[&str]) -> Result<Output> {
        let folder = self.folder.path();
        let mut path = OsString::from(folder);
        if let Some(more) = std::env::var_os("LD_LIBRARY_PATH") {
            path.push(":");
            path.push(more);
        }
        let translate = format!("env -u LD_PRELOAD -u LD_LIBRARY_PATH python3 {}", Self::source("ptx.py").display());
        let output = Command::new(PROGRAM)
            .args(arguments)
            .env("LD_LIBRARY_PATH", path)
            .env("LD_PRELOAD", folder.join("libcuda.so.1"))
            .env("TEST_GPU_FOLDER", folder)
            .env("TEST_GPU_MEMORY", memory.to_string())
            .env("TEST_GPU_TRANSLATE", translate)
            .output()?;
        Ok(output)
    }
}

/// Every operation, a network, its training in each precision and its samples, against the CPU. Kernels are the very PTX that a
/// GPU would be given; which blocks, arguments and memory they get is looked after.
#[test]
fn a_gpu_made_of_the_processor_computes_what_the_cpu_computes() -> Result<()> {
    let output = Gpu::new()?.run(8 << 30, &["check", "--device", "cuda"])?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{printed}{}", said(&output));
    ensure!(printed.contains("all results agree with the CPU"), "{printed}");
    ensure!(printed.contains("the same training twice"), "{printed}");
    Ok(())
}

#[test]
fn a_full_gpu_names_the_batch_and_what_to_try() -> Result<()> {
    let gpu = Gpu::new()?;
    let run = gpu.folder.path().join("run");
    let train = ["train", "--task", "sprites", "--images", "64", "--batch"];
    let rest = ["64", "--max-steps", "1", "--device", "cuda", "--out"];
    let arguments = [&train[..], &rest, &[run.to_str().context("a name")?]].concat();
    let output = gpu.run(60_000_000, &arguments)?;
    let said = said(&output);
    ensure!(output.status.code() == Some(1), "{said}");
    ensure!(said.contains("batch = 32 with accumulate = 2 makes the same steps"), "{said}");
    let machine = std::fs::read_to_string(run.join("machine.txt"))?;
    ensure!(machine.trim_end().ends_with(", GPU of the tests (CUDA)"), "{machine}");
    Ok(())
}
