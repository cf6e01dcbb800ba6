#!/usr/bin/env python3
"""Writes schedules.safetensors: the variances of Hugging Face diffusers, which tests/schedules.rs compares ours with.

    pip install diffusers torch safetensors && python tests/golden/schedules.py

For each schedule and number of steps T: `NAME.T.betas` and `NAME.T.alphas_cumprod`, f32 as diffusers has them, at up to
50 time steps, and `T.at`, those time steps.
"""
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file

SCHEDULES = {
    "linear": dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
    "scaled_linear": dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    "cosine": dict(beta_schedule="squaredcos_cap_v2"),
    "sigmoid": dict(beta_schedule="sigmoid", beta_start=1e-4, beta_end=0.02),
}

tensors = {}
for steps in (2, 10, 500, 1000, 2000):
    at = torch.linspace(0, steps - 1, min(50, steps)).round().long()
    tensors[f"{steps}.at"] = at
    for name, options in SCHEDULES.items():
        scheduler = DDPMScheduler(num_train_timesteps=steps, **options)
        tensors[f"{name}.{steps}.betas"] = scheduler.betas[at].contiguous()
        tensors[f"{name}.{steps}.alphas_cumprod"] = scheduler.alphas_cumprod[at].contiguous()
save_file(tensors, Path(__file__).with_suffix(".safetensors"))
