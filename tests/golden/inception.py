#!/usr/bin/env python3
"""Writes inception.safetensors: what FID's Inception v3 answers in PyTorch, which tests/metrics.rs compares ours with.

    pip install torch safetensors && python tests/golden/inception.py

The weights are those of `numbers`, which Rust computes too, by the names and shapes in the file's metadata. For two grey images
and two in colour: `grey`, `colour`, and the 2048 features of both, `grey.features` and `colour.features`; and the logarithms of
the 1008 probabilities, without the last layer's bias: `grey.logits`, `colour.logits`.
"""
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from unets import numbers

HERE = Path(__file__).parent


class Conv(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches by name: `layers` adds convolutions, `run` goes through some of them."""

    def layers(self, inputs, **convs):
        for name, (outputs, kernel, *rest) in convs.items():
            stride = rest[0] if rest else 1
            kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
            padding = tuple(k // 2 for k in kernel) if stride == 1 else 0
            setattr(self, name, Conv(inputs, outputs, kernel, stride, padding))
            inputs = outputs

    def run(self, x, *names):
        for name in names:
            x = getattr(self, name)(x)
        return x


def mean_pool(x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class A(Block):
    def __init__(self, inputs, pooled):
        super().__init__()
        self.layers(inputs, branch1x1=(64, 1))
        self.layers(inputs, branch5x5_1=(48, 1), branch5x5_2=(64, 5))
        self.layers(inputs, branch3x3dbl_1=(64, 1), branch3x3dbl_2=(96, 3), branch3x3dbl_3=(96, 3))
        self.layers(inputs, branch_pool=(pooled, 1))

    def forward(self, x):
        double = self.run(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        parts = [self.branch1x1(x), self.run(x, "branch5x5_1", "branch5x5_2"), double, self.branch_pool(mean_pool(x))]
        return torch.cat(parts, 1)


class B(Block):
    def __init__(self, inputs):
        super().__init__()
        self.layers(inputs, branch3x3=(384, 3, 2))
        self.layers(inputs, branch3x3dbl_1=(64, 1), branch3x3dbl_2=(96, 3), branch3x3dbl_3=(96, 3, 2))

    def forward(self, x):
        double = self.run(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class C(Block):
    def __init__(self, inputs, middle):
        super().__init__()
        wide, high = (1, 7), (7, 1)
        self.layers(inputs, branch1x1=(192, 1))
        self.layers(inputs, branch7x7_1=(middle, 1), branch7x7_2=(middle, wide), branch7x7_3=(192, high))
        self.layers(
            inputs,
            branch7x7dbl_1=(middle, 1),
            branch7x7dbl_2=(middle, high),
            branch7x7dbl_3=(middle, wide),
            branch7x7dbl_4=(middle, high),
            branch7x7dbl_5=(192, wide),
        )
        self.layers(inputs, branch_pool=(192, 1))

    def forward(self, x):
        long = self.run(x, *(f"branch7x7_{i}" for i in (1, 2, 3)))
        double = self.run(x, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)))
        return torch.cat([self.branch1x1(x), long, double, self.branch_pool(mean_pool(x))], 1)


class D(Block):
    def __init__(self, inputs):
        super().__init__()
        self.layers(inputs, branch3x3_1=(192, 1), branch3x3_2=(320, 3, 2))
        self.layers(
            inputs,
            branch7x7x3_1=(192, 1),
            branch7x7x3_2=(192, (1, 7)),
            branch7x7x3_3=(192, (7, 1)),
            branch7x7x3_4=(192, 3, 2),
        )

    def forward(self, x):
        long = self.run(x, *(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)))
        return torch.cat([self.run(x, "branch3x3_1", "branch3x3_2"), long, F.max_pool2d(x, 3, 2)], 1)


class E(Block):
    def __init__(self, inputs, pool):
        super().__init__()
        self.pool = pool
        self.layers(inputs, branch1x1=(320, 1))
        self.layers(inputs, branch3x3_1=(384, 1))
        self.layers(inputs, branch3x3dbl_1=(448, 1), branch3x3dbl_2=(384, 3))
        for name in ("branch3x3_2", "branch3x3dbl_3"):
            self.layers(384, **{f"{name}a": (384, (1, 3))})
            self.layers(384, **{f"{name}b": (384, (3, 1))})
        self.layers(inputs, branch_pool=(192, 1))

    def forward(self, x):
        single, double = self.branch3x3_1(x), self.run(x, "branch3x3dbl_1", "branch3x3dbl_2")
        parts = [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(self.pool(x))]
        return torch.cat(parts, 1)


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192, 32), A(256, 64), A(288, 64)
        self.Mixed_6a = B(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (C(768, width) for width in (128, 160, 160, 192))
        self.Mixed_7a = D(768)
        self.Mixed_7b = E(1280, mean_pool)
        self.Mixed_7c = E(2048, lambda x: F.max_pool2d(x, 3, 1, 1))
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x):
        x = x.expand(-1, 3, -1, -1)
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))


def main():
    net = Inception().eval()
    state = {name: values for name, values in sorted(net.state_dict().items()) if "num_batches" not in name}
    with torch.no_grad():
        for k, (name, values) in enumerate(state.items()):
            shape = tuple(values.shape)
            if len(shape) == 1:
                values.copy_(numbers(k, shape, float(name.endswith(("weight", "running_var"))), 0.1))
            else:
                # Half of what comes out of a ReLU is 0, so that more is needed to keep the scale.
                values.copy_(numbers(k, shape, 0.0, 2 * math.prod(shape[1:]) ** -0.5))
        tensors = {"grey": numbers(1000, (2, 1, 28, 28)), "colour": numbers(1001, (2, 3, 32, 30))}
        for name in list(tensors):
            features = net(tensors[name])
            tensors |= {f"{name}.features": features, f"{name}.logits": F.log_softmax(features @ net.fc.weight.T, 1)}
            print(name, features.abs().mean(), features.std(), tensors[f"{name}.logits"].std())
    shapes = {"shapes": json.dumps({name: list(values.shape) for name, values in state.items()})}
    save_file(tensors, HERE / "inception.safetensors", metadata=shapes)


if __name__ == "__main__":
    main()
