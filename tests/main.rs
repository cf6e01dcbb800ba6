//! The tests of `diffusion-core` from outside, as one program.

mod candle_defects;
mod diffusers;
mod download;
mod metrics;
mod ops;
mod optim;
mod own;
mod samplers;
mod schedules;
mod simple_unet;
mod training;
mod unets;
