#!/usr/bin/env python3
"""Writes ops.safetensors: PyTorch's values and gradients of each operation, which tests/ops.rs compares ours with.

    pip install torch safetensors && python tests/golden/ops.py

For each CASE: the inputs `CASE.in.NAME`, the output `CASE.out`, the weights `CASE.weights` of a loss
sum(weights * output), and its gradients `CASE.grad.NAME`. Integers (`ids`) have no gradient.
"""
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file


def attention(q, k, v):
    """Two heads."""
    heads = lambda x: x.unflatten(2, (2, -1)).transpose(1, 2)
    return F.scaled_dot_product_attention(heads(q), heads(k), heads(v)).transpose(1, 2).flatten(2)


def weight_standardize(weight):
    mean = weight.mean((1, 2, 3), keepdim=True)
    variance = weight.var((1, 2, 3), keepdim=True, unbiased=False)
    return (weight - mean) / (variance + 1e-5).sqrt()


torch.manual_seed(0)
r = torch.randn
images = lambda *shape: dict(x=r(*shape))
conv = lambda x, weight, outputs: dict(x=r(*x), weight=r(*weight), bias=r(outputs))
norm = lambda *shape: dict(x=2 * r(*shape) + 1, weight=r(shape[1]), bias=r(shape[1]))
# Whole numbers, so that the largest of a square is often there more than once.
ties = lambda *shape: dict(x=torch.randint(0, 3, shape).float())

CASES = {
    "conv2d": (conv((2, 3, 5, 4), (4, 3, 3, 3), 4), lambda x, weight, bias: F.conv2d(x, weight, bias, padding=1)),
    "conv2d_strided": (
        conv((3, 2, 7, 4), (3, 2, 3, 3), 3),
        lambda x, weight, bias: F.conv2d(x, weight, bias, stride=2, padding=1),
    ),
    "conv2d_1x1": (conv((1, 5, 3, 3), (2, 5, 1, 1), 2), lambda x, weight, bias: F.conv2d(x, weight, bias)),
    "conv_transpose2d": (
        conv((2, 3, 4, 5), (3, 2, 2, 2), 2),
        lambda x, weight, bias: F.conv_transpose2d(x, weight, bias, stride=2),
    ),
    "conv_transpose2d_padded": (
        conv((1, 2, 4, 3), (2, 3, 4, 4), 3),
        lambda x, weight, bias: F.conv_transpose2d(x, weight, bias, stride=2, padding=1),
    ),
    "group_norm": (norm(2, 6, 4, 3), lambda x, weight, bias: F.group_norm(x, 3, weight, bias)),
    "group_norm_silu": (norm(3, 4, 5, 5), lambda x, weight, bias: F.silu(F.group_norm(x, 2, weight, bias))),
    "upsample_nearest2x": (images(2, 3, 3, 4), lambda x: F.interpolate(x, scale_factor=2, mode="nearest")),
    "upsample_bilinear2x": (images(2, 3, 3, 4), lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "max_pool2d": (images(2, 3, 4, 6), lambda x: F.max_pool2d(x, 2)),
    "max_pool2d_ties": (ties(2, 3, 7, 9), lambda x: F.max_pool2d(x, 3)),
    "avg_pool2d": (images(2, 3, 5, 7), lambda x: F.avg_pool2d(x, 2)),
    "attention": (dict(q=r(2, 5, 6), k=r(2, 4, 6), v=r(2, 4, 6)), attention),
    "weight_standardize": (dict(weight=r(3, 2, 3, 3)), weight_standardize),
    "silu": (dict(x=3 * r(4, 5)), lambda x: F.silu(x)),
    "gelu": (dict(x=3 * r(4, 5)), lambda x: F.gelu(x)),
    "linear": (dict(x=r(2, 3, 4), weight=r(5, 4), bias=r(5)), lambda x, weight, bias: F.linear(x, weight, bias)),
    "embedding": (dict(table=r(5, 3), ids=torch.tensor([4, 0, 4, 2])), lambda table, ids: F.embedding(ids, table)),
}

tensors = {}
for case, (inputs, f) in CASES.items():
    for x in inputs.values():
        x.requires_grad_(x.is_floating_point())
    out = f(**inputs)
    weights = torch.randn_like(out)
    (weights * out).sum().backward()
    tensors[f"{case}.out"], tensors[f"{case}.weights"] = out, weights
    tensors |= {f"{case}.in.{name}": x for name, x in inputs.items()}
    tensors |= {f"{case}.grad.{name}": x.grad for name, x in inputs.items() if x.requires_grad}
tensors = {name: x.detach().clone().contiguous() for name, x in tensors.items()}
save_file(tensors, Path(__file__).with_suffix(".safetensors"))
