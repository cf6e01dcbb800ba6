#!/usr/bin/env python3
"""Writes metrics.safetensors: what numpy, scipy and scikit-image make of the measures, which tests/metrics.rs compares ours with.

    pip install numpy scipy scikit-image safetensors && python tests/golden/metrics.py

Inputs in f32, results in f64. `real` (150, 12) and `samples` (120, 12) are features, `p` (103, 7) class probabilities, `x` and `y`
(4, 3, 16, 20) images in [-1, 1]. Each measure is written as its paper has it, with all pairs at once.
"""
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.special import softmax
from scipy.stats import entropy
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

rng = np.random.default_rng(0)
tensors = {}


def features(n, shift):
    """Correlated and not Gaussian, so that covariances do not commute."""
    x = rng.normal(size=(n, 12)) @ rng.normal(size=(12, 12)) * 0.4
    return (np.maximum(x, -0.3) + shift).astype(np.float32)


def frechet(a, b):
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(s1 @ s2).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s1 + s2 - 2 * root)


def kernel(a, b):
    k = lambda u, v: (u @ v.T / u.shape[1] + 1) ** 3
    m, n = len(a), len(b)
    aa, bb = k(a, a), k(b, b)
    within = (aa.sum() - np.trace(aa)) / (m * (m - 1)) + (bb.sum() - np.trace(bb)) / (n * (n - 1))
    return within - 2 * k(a, b).mean()


def precision(real, samples, k):
    """Which of the samples is in the ball of a real vector; recall is the same with the two exchanged."""
    among = np.sort(cdist(real, real), axis=1)[:, k]  # at 0 is the vector itself
    return np.mean((cdist(samples, real) <= among).any(axis=1))


def inception(p, splits):
    scores = []
    for i in range(splits):
        part = p[i * len(p) // splits : (i + 1) * len(p) // splits]
        scores.append(np.exp(np.mean([entropy(row, part.mean(0)) for row in part])))
    return np.mean(scores)


real, samples = features(150, 0.0), features(120, 0.1)
tensors |= {"real": real, "samples": samples}
r, s = real.astype(np.float64), samples.astype(np.float64)
tensors["frechet"] = np.array([frechet(r, s)])
tensors["kernel"] = np.array([kernel(r, s)])
for k in (1, 3, 5):
    tensors[f"precision.{k}"] = np.array([precision(r, s, k)])
    tensors[f"recall.{k}"] = np.array([precision(s, r, k)])
    order = np.argsort(cdist(s, r), axis=1)[:, :k]
    tensors[f"nearest.{k}"] = order.astype(np.int64)
    tensors[f"distances.{k}"] = np.take_along_axis(cdist(s, r), order, 1)

p = softmax(2 * rng.normal(size=(103, 7)), axis=1).astype(np.float32)
tensors["p"] = p
exact = p.astype(np.float64)
for splits in (1, 4, 10):
    tensors[f"inception.{splits}"] = np.array([inception(exact, splits)])

grid = np.stack(np.meshgrid(np.linspace(0, 6, 16), np.linspace(0, 5, 20), indexing="ij")).sum(0)
x = np.stack([[np.sin(grid * (1 + i) + c) for c in range(3)] for i in range(4)])
noise = rng.normal(size=x.shape) * np.array([0.0, 0.05, 0.3, 1.0])[:, None, None, None]
y = np.clip(x + noise, -1, 1)
y[0] *= 0.8
x, y = x.astype(np.float32), y.astype(np.float32)
tensors |= {"x": x, "y": y}
x, y = x.astype(np.float64), y.astype(np.float64)
tensors["psnr"] = np.array([peak_signal_noise_ratio(a, b, data_range=2) for a, b in zip(x, y)])
# As in the paper: Gaussian weights, σ = 1.5, a window of 11, no correction of the variance.
wang = dict(data_range=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=0)
tensors["ssim"] = np.array([structural_similarity(a, b, **wang) for a, b in zip(x, y)])

save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, Path(__file__).with_name("metrics.safetensors"))
