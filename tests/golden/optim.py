#!/usr/bin/env python3
"""Writes optim.safetensors: ten steps of PyTorch's optimisers on fixed gradients, which tests/optim.rs compares ours with.

    pip install torch safetensors && python tests/golden/optim.py

For each parameter NAME: `start.NAME`, and `grads.NAME`, its gradients, one row a step, NaN where it had none.
For each RUN (adam, adamw, and clipped, an AdamW after clip_grad_norm_) and TYPE (f32, f64): `RUN.TYPE.NAME`, the parameter
after each step; `RUN.TYPE.NAME.exp_avg`, `.exp_avg_sq` and `.step`, the state at the end; `clipped.TYPE.norms`.
"""
from pathlib import Path

import torch
from safetensors.torch import save_file

STEPS, MAX_NORM = 10, 1.0
SHAPES = {"linear.weight": (3, 4), "linear.bias": (5,), "conv.weight": (2, 2, 3, 3), "late": (2, 2)}
WITHOUT_GRADIENT = {"late": (0, 1, 2, 6)}
RUNS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.01),
    "clipped": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, betas=(0.4, 0.99)),
}

torch.manual_seed(0)
size = 10.0 ** torch.linspace(-4, 1, STEPS)[torch.randperm(STEPS)]
start = {name: torch.randn(shape) / 2 for name, shape in SHAPES.items()}
grads = {name: torch.stack([torch.randn(shape) * s for s in size]) for name, shape in SHAPES.items()}
grads["linear.bias"][:, 0] = 0
for name, steps in WITHOUT_GRADIENT.items():
    grads[name][list(steps)] = torch.nan

tensors = {f"start.{name}": x for name, x in start.items()} | {f"grads.{name}": x for name, x in grads.items()}
for run, optimiser in RUNS.items():
    for type_name, dtype in (("f32", torch.float32), ("f64", torch.float64)):
        params = {name: torch.nn.Parameter(x.to(dtype, copy=True)) for name, x in start.items()}
        optim, after, norms = optimiser(params.values()), {name: [] for name in params}, []
        for step in range(STEPS):
            for name, p in params.items():
                has = step not in WITHOUT_GRADIENT.get(name, ())
                p.grad = grads[name][step].to(dtype, copy=True) if has else None
            if run == "clipped":
                norms.append(torch.nn.utils.clip_grad_norm_(params.values(), MAX_NORM))
            optim.step()
            for name, p in params.items():
                after[name].append(p.detach().clone())
        for name, p in params.items():
            tensors[f"{run}.{type_name}.{name}"] = torch.stack(after[name])
            for part, x in optim.state[p].items():
                tensors[f"{run}.{type_name}.{name}.{part}"] = x
        if norms:
            tensors[f"{run}.{type_name}.norms"] = torch.stack(norms)
save_file(tensors, Path(__file__).with_suffix(".safetensors"))
