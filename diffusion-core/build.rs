//! Records the versions a package is built with, for the notebooks' set-up cell, and with CUDA the location of its
//! libraries. Shared by diffusion-ops, diffusion-core and diffusion-cli, since with CUDA each of them links something
//! that must find the libraries.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=Cargo.toml");
    let manifest = std::fs::read_to_string("Cargo.toml").unwrap_or_default();
    let candle = manifest
        .lines()
        .find_map(|line| line.strip_prefix("candle-core = \"="))
        .map_or("unknown", |version| version.trim_end_matches('"'));
    println!("cargo::rustc-env=CANDLE_VERSION={candle}");

    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let printed = Command::new(rustc).arg("--version").output();
    let printed = printed.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).into_owned());
    let rustc = printed.split_whitespace().nth(1).unwrap_or("unknown");
    println!("cargo::rustc-env=RUSTC_VERSION={rustc}");

    println!("cargo::rustc-check-cfg=cfg(lazy_driver)");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        cuda();
    }
}

fn cuda() {
    let target = |part| env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    if let Ok(capability) = env::var("CUDA_COMPUTE_CAP") {
        println!("cargo::rustc-env=DIFFUSION_COMPUTE_CAP={capability}");
    }
    if target("OS") != "linux" {
        return;
    }
    // ops/src/device/driver.rs supports these.
    if ["x86_64", "aarch64"].contains(&target("ARCH").as_str()) {
        println!("cargo::rustc-cfg=lazy_driver");
    }
    // Lets the program find the libraries that it was linked with, whatever LD_LIBRARY_PATH is at run time.
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let home = ["CUDA_HOME", "CUDA_PATH"].into_iter().find_map(env::var_os);
    let home = home.map_or_else(|| PathBuf::from("/usr/local/cuda"), PathBuf::from);
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", home.join("lib64").display());
}
