#!/usr/bin/env python3
"""Writes simple_unet.safetensors: `SimpleUNet` in PyTorch, which tests/simple_unet.rs compares ours with.

    pip install torch safetensors && python tests/golden/simple_unet.py

A network with random weights and base 8, two noisy images and what it should answer: `weights.NAME` under the names of the
state dict, `x`, `t`, `target`, `output`, the mean squared error `loss`, its gradients `grads.NAME`, and `losses`, the
losses of ten steps of Adam on this batch from these weights.
"""
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

BASE, BATCH, LEARNING_RATE, STEPS = 8, 2, 2e-4, 10


def sinusoidal(t, dim):
    """(B,) integer steps -> (B, dim): [sin(t f_0..), cos(t f_0..)], f_i = 10000^(-i / (dim/2 - 1))."""
    half = dim // 2
    f = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32) / (half - 1))
    a = t.float()[:, None] * f[None, :]
    return torch.cat([a.sin(), a.cos()], dim=1)


class TimeEmbedding(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.dim = dim
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, hidden)

    def forward(self, t):  # (B,) -> (B, hidden)
        return self.linear2(F.silu(self.linear1(sinusoidal(t, self.dim))))


class ResBlock(nn.Module):
    """GroupNorm -> SiLU -> conv, plus the time embedding, twice, with a residual connection."""

    def __init__(self, c_in, c_out, emb, groups=8):
        super().__init__()
        self.norm1 = nn.GroupNorm(min(groups, c_in), c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(emb, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, e):  # (B, c_in, H, W), (B, emb) -> (B, c_out, H, W)
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(e))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class SimpleUNet(nn.Module):
    """28x28 -> 14x14 -> 7x7 and back; channels base, 2 base, 4 base."""

    def __init__(self, channels=1, base=64):
        super().__init__()
        emb = 4 * base
        self.time_embedding = TimeEmbedding(base, emb)
        self.conv_in = nn.Conv2d(channels, base, 3, padding=1)
        self.down1 = ResBlock(base, base, emb)
        self.downsample1 = nn.Conv2d(base, base, 3, stride=2, padding=1)
        self.down2 = ResBlock(base, 2 * base, emb)
        self.downsample2 = nn.Conv2d(2 * base, 2 * base, 3, stride=2, padding=1)
        self.mid = ResBlock(2 * base, 4 * base, emb)
        self.upsample2 = nn.Conv2d(4 * base, 2 * base, 3, padding=1)
        self.up2 = ResBlock(4 * base, 2 * base, emb)
        self.upsample1 = nn.Conv2d(2 * base, base, 3, padding=1)
        self.up1 = ResBlock(2 * base, base, emb)
        self.norm_out = nn.GroupNorm(8, base)
        self.conv_out = nn.Conv2d(base, channels, 3, padding=1)

    def forward(self, x, t):  # (B, C, H, W), (B,) -> (B, C, H, W)
        e = self.time_embedding(t)
        s1 = self.down1(self.conv_in(x), e)  # base,   28
        s2 = self.down2(self.downsample1(s1), e)  # 2 base, 14
        h = self.mid(self.downsample2(s2), e)  # 4 base, 7
        h = self.upsample2(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.up2(torch.cat([h, s2], dim=1), e)
        h = self.upsample1(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.up1(torch.cat([h, s1], dim=1), e)
        return self.conv_out(F.silu(self.norm_out(h)))


torch.manual_seed(0)
net = SimpleUNet(1, BASE)
# PyTorch starts group norms at 1 and 0; elsewhere a mistake in them shows.
for name, p in net.named_parameters():
    if "norm" in name:
        p.data += 0.2 * torch.randn_like(p)
x, t = torch.randn(BATCH, 1, 28, 28), torch.randint(0, 1000, (BATCH,))
target = torch.randn_like(x)
tensors = {f"weights.{name}": w.clone() for name, w in net.state_dict().items()}

out = net(x, t)
loss = F.mse_loss(out, target)
loss.backward()
tensors |= {f"grads.{name}": p.grad.clone() for name, p in net.named_parameters()}

adam = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
losses = []
for _ in range(STEPS):
    step_loss = F.mse_loss(net(x, t), target)
    adam.zero_grad()
    step_loss.backward()
    adam.step()
    losses.append(step_loss.item())

tensors |= {"x": x, "t": t, "target": target, "output": out, "loss": loss.reshape(1), "losses": torch.tensor(losses)}
tensors = {name: x.detach().contiguous() for name, x in tensors.items()}
save_file(tensors, Path(__file__).with_suffix(".safetensors"))
