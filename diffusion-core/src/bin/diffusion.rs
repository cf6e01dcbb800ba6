//! The command line: train, sample and look at diffusion models.

fn main() {}
