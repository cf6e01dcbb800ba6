//! What was built with CUDA starts where there is no driver, and says why it computes on the CPU. (`cargo test --features
//! cli,cuda`; needs no GPU, and goes by what a driver made here says.)
#![cfg(target_os = "linux")]

use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_diffusion");

/// A driver whose `cuInit` says `answer`.
fn driver(folder: &Path, answer: u32) -> Result<()> {
    let source = folder.join("driver.c");
    std::fs::write(
        &source,
        format!("int cuInit(unsigned flags) {{ return {answer}; }}"),
    )?;
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
        .args([
            "train",
            "--task",
            "sprites",
            "--images",
            "16",
            "--batch",
            "8",
            "--max-steps",
            "1",
        ])
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
    Ok(beside.join("libdiffusion_core.so"))
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
    ensure!(
        output.status.code() == Some(1),
        "{:?} {said}",
        output.status
    );
    ensure!(
        said.contains("CUDA cannot be used: the NVIDIA driver finds no GPU"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_library_that_is_no_driver_leaves_the_cpu() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("libcuda.so.1"), "not a library")?;
    let output = train("auto", folder.path())?;
    let said = said(&output);
    ensure!(output.status.success(), "{said}");
    ensure!(
        said.contains("the NVIDIA driver cannot be opened ("),
        "{said}"
    );
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
        ensure!(
            headers.contains("libcublas.so"),
            "{}: {headers}",
            file.display()
        );
        ensure!(
            !headers.contains("libcuda.so"),
            "{}: {headers}",
            file.display()
        );
        ensure!(
            !headers.contains("libcudnn"),
            "{}: {headers}",
            file.display()
        );
    }
    Ok(())
}
