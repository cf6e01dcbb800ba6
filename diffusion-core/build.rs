//! Tells the crate which versions it is built with, for the notebooks' set-up cell.

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
    let printed = printed.map_or_else(
        |_| String::new(),
        |out| String::from_utf8_lossy(&out.stdout).into_owned(),
    );
    let rustc = printed.split_whitespace().nth(1).unwrap_or("unknown");
    println!("cargo::rustc-env=RUSTC_VERSION={rustc}");
}
