#!/usr/bin/env python3
"""Writes samplers.safetensors: trajectories of Hugging Face diffusers' schedulers, which tests/samplers.rs compares ours with.

    pip install diffusers torch safetensors && python tests/golden/samplers.py

The "network" is a formula, so that both sides have the same: answer = 0.8 x + 0.3 tanh(2 x − t/1000). For each case `NAME.times`,
the time steps visited (i64), and `NAME.states`, x_T and x after each step, f32 (steps + 1, 2, 1, 3, 3). `noise` holds z for each
step, the same for all. `spacing.NAME.N` are time steps alone.

Where diffusers departs from its own time steps, values come from one of its schedulers that does not: DDIM's step goes from t to
t − T // steps whatever the list says, which is not the next of the list for linspace; there it is taken from DPM-Solver++ of
first order, which is DDIM. DDPM draws noise in the last step unless it is t = 0, which ours never does: all cases end there.
"""
from pathlib import Path

import diffusers.schedulers.scheduling_ddpm as ddpm
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from safetensors.torch import save_file

SHAPE = (2, 1, 3, 3)
torch.manual_seed(0)
noise = torch.randn(60, *SHAPE)
start = torch.randn(SHAPE)
BETAS = {"linear": dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02), "cosine": dict(beta_schedule="squaredcos_cap_v2")}
KINDS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
tensors = {"noise": noise}


def answer(x, t):
    return 0.8 * x + 0.3 * torch.tanh(2 * x - t / 1000)


def record(name, scheduler, steps, **options):
    if steps is not None:
        scheduler.set_timesteps(steps)
    x, states = start.clone(), [start.clone()]
    for i, t in enumerate(scheduler.timesteps):
        ddpm.randn_tensor = lambda *_, z=noise[i], **__: z
        more = {"variance_noise": noise[i]} if options.get("eta") else {}
        x = scheduler.step(answer(x, t), t, x, **options, **more).prev_sample
        states.append(x.clone())
    tensors[f"{name}.times"] = scheduler.timesteps.clone().long()
    tensors[f"{name}.states"] = torch.stack(states)


def settings(betas, kind, spacing="leading", steps=1000):
    return dict(num_train_timesteps=steps, prediction_type=KINDS[kind], timestep_spacing=spacing, **BETAS[betas])


for spacing in ("leading", "trailing"):
    for betas, kind in (("linear", "eps"), ("cosine", "v"), ("cosine", "x0")):
        for eta in (0, 0.5, 1):
            for clip in (True, False):
                scheduler = DDIMScheduler(clip_sample=clip, **settings(betas, kind, spacing))
                name = f"ddim.{betas}.{kind}.{spacing}.{eta}.{'clip' if clip else 'none'}"
                record(name, scheduler, 10, eta=eta, use_clipped_model_output=clip)
        for clip in (True, False):
            if spacing == "leading":
                scheduler = DDPMScheduler(clip_sample=clip, **settings(betas, kind))
                record(f"ddpm.{betas}.{kind}.leading.posterior.{'clip' if clip else 'none'}", scheduler, 10)
        scheduler = DDIMScheduler(clip_sample=False, thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=1e9,
                                  **settings(betas, kind, spacing))
        record(f"ddim.{betas}.{kind}.{spacing}.0.dynamic", scheduler, 10, eta=0, use_clipped_model_output=True)
for spacing in ("leading", "trailing", "linspace"):
    for betas, kind in (("linear", "eps"), ("cosine", "v"), ("cosine", "x0")):
        for order, solver in ((1, "ddim"), (2, "dpm")):
            if order == 1 and spacing != "linspace":
                continue
            scheduler = DPMSolverMultistepScheduler(solver_order=order, final_sigmas_type="zero", **settings(betas, kind, spacing))
            record(f"{solver}.{betas}.{kind}.{spacing}.0.none", scheduler, 20)
# All steps of a short process, with both variances.
for variance, name in (("fixed_small", "posterior"), ("fixed_large", "beta")):
    scheduler = DDPMScheduler(clip_sample=True, variance_type=variance, **settings("linear", "eps", steps=50))
    record(f"ddpm50.linear.eps.all.{name}.clip", scheduler, None)
for spacing in ("leading", "trailing", "linspace"):
    for n in (2, 7, 10, 25, 50, 300, 999, 1000):
        scheduler = DDPMScheduler(timestep_spacing=spacing)
        scheduler.set_timesteps(n)
        tensors[f"spacing.{spacing}.{n}"] = scheduler.timesteps.clone().long()
save_file({name: t.contiguous() for name, t in tensors.items()}, Path(__file__).with_suffix(".safetensors"))
