"""Times PyTorch as tests/speed/main.rs times the crate, in the same words; run by PyTorch's own Python.

    in_torch.py about
    in_torch.py check torch NETWORK SIDE
    in_torch.py step torch NETWORK train|denoise BASE BATCH SIDE [fused]
    in_torch.py ops torch [fused]

`fused` asks for Adam(fused=True), else it is PyTorch's default. `OMP_NUM_THREADS` says how many threads.
"""
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "golden"))
import networks  # noqa: E402

# As in measure.rs: a measurement goes on for so many seconds; what takes longer than LONG is not run to warm up.
ENOUGH, LONG = 0.1, 5.0
FIRST = ("both 1 conv2d 8 8 8 3 1", "both 1 adam 8")


def sinusoidal(t, width):
    """(B,) time steps -> (B, width): all sines, then all cosines."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.width = width
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, hidden)

    def forward(self, t):
        return self.linear2(F.silu(self.linear1(sinusoidal(t, self.width))))


class ResBlock(nn.Module):
    def __init__(self, inputs, outputs, time):
        super().__init__()
        self.norm1 = nn.GroupNorm(min(8, inputs), inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x, e):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(e))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class SimpleUNet(nn.Module):
    channels = 1

    def __init__(self, base):
        super().__init__()
        time = 4 * base
        self.time_embedding = TimeEmbedding(base, time)
        self.conv_in = nn.Conv2d(1, base, 3, padding=1)
        self.down1 = ResBlock(base, base, time)
        self.downsample1 = nn.Conv2d(base, base, 3, stride=2, padding=1)
        self.down2 = ResBlock(base, 2 * base, time)
        self.downsample2 = nn.Conv2d(2 * base, 2 * base, 3, stride=2, padding=1)
        self.mid = ResBlock(2 * base, 4 * base, time)
        self.upsample2 = nn.Conv2d(4 * base, 2 * base, 3, padding=1)
        self.up2 = ResBlock(4 * base, 2 * base, time)
        self.upsample1 = nn.Conv2d(2 * base, base, 3, padding=1)
        self.up1 = ResBlock(2 * base, base, time)
        self.norm_out = nn.GroupNorm(8, base)
        self.conv_out = nn.Conv2d(base, 1, 3, padding=1)

    def forward(self, xt, t):
        e = self.time_embedding(t)
        s1 = self.down1(self.conv_in(xt), e)
        s2 = self.down2(self.downsample1(s1), e)
        x = self.mid(self.downsample2(s2), e)
        x = self.upsample2(F.interpolate(x, scale_factor=2, mode="nearest"))
        x = self.up2(torch.cat([x, s2], dim=1), e)
        x = self.upsample1(F.interpolate(x, scale_factor=2, mode="nearest"))
        x = self.up1(torch.cat([x, s1], dim=1), e)
        return self.conv_out(F.silu(self.norm_out(x)))


NETWORKS = {"simple_unet": SimpleUNet, "context_unet": networks.ContextUnet}


class Timed:
    """Something to be timed, again and again."""

    def __init__(self, run):
        self.run, self.warm = run, False

    def seconds(self):
        took = []
        while sum(took) < ENOUGH:
            began = time.perf_counter()
            self.run()
            seconds = time.perf_counter() - began
            if self.warm or seconds > LONG:
                took.append(seconds)
            self.warm = True
        return statistics.median(took)


def status(field):
    """A line of /proc/self/status, in bytes; None where there is none."""
    try:
        with open("/proc/self/status") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)
    except OSError:
        return None


def train_step(net, adam, xt, t, target):
    loss = F.mse_loss(net(xt, t), target)
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()
    return loss


def step(name, purpose, base, batch, side, adam):
    net = NETWORKS[name](base)
    xt, target = torch.randn(2, batch, net.channels, side, side)
    t = torch.randint(0, 1000, (batch,))
    if purpose == "train":
        optimiser = torch.optim.Adam(net.parameters(), **adam)
        return lambda: train_step(net, optimiser, xt, t, target)

    net.eval()

    @torch.inference_mode()
    def denoise():
        net(xt, t)

    return denoise


def numbers(k, shape, mean, size):
    """As in networks.rs."""
    values = [mean + size * math.sin(0.37 * (i * i) + k) for i in range(math.prod(shape))]
    return torch.tensor(values).reshape(shape)


def check(name, side):
    net = NETWORKS[name](16)
    with torch.no_grad():
        for k, (parameter, values) in enumerate(sorted(net.named_parameters())):
            shape = tuple(values.shape)
            mean, size = 0.0, math.prod(shape[1:]) ** -0.5
            if len(shape) == 1:
                mean, size = float(parameter.endswith("weight")), 0.1
            values.copy_(numbers(k, shape, mean, size))
    xt, target = (numbers(k, (2, net.channels, side, side), 0.0, 1.0) for k in (1000, 1001))
    t, adam = torch.tensor([3, 700]), torch.optim.Adam(net.parameters())
    answer = net(xt, t).flatten().tolist()
    return {"answer": answer, "losses": [train_step(net, adam, xt, t, target).item() for _ in range(5)]}


def attention(q, k, v, heads):
    b, n, c = q.shape
    q, k, v = (x.view(b, n, heads, c // heads).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)


def operation(kind, b, sizes):
    """The shapes of what goes in, and the operation."""
    match kind, sizes:
        case "matmul", [n]:
            return [(n, n)] * 2, torch.mm
        case "conv2d", [c, out, side, k, stride]:
            return ([(b, c, side, side), (out, c, k, k), (out,)],
                    lambda x, w, bias: F.conv2d(x, w, bias, stride=stride, padding=k // 2))
        case "group_norm_silu", [c, side]:
            return [(b, c, side, side), (c,), (c,)], lambda x, w, bias: F.silu(F.group_norm(x, 8, w, bias))
        case "upsample", [c, side]:
            return [(b, c, side, side)], lambda x: F.interpolate(x, scale_factor=2, mode="nearest")
        case "cat", [c, side]:
            return [(b, c, side, side)] * 2, lambda x, y: torch.cat([x, y], dim=1)
        case "add", [c, side]:
            return [(b, c, side, side)] * 2, torch.add
        case "shift", [c, side]:
            return [(b, c, side, side), (b, c, 1, 1)], torch.add
        case "linear", [i, o]:
            return [(b, i), (o, i), (o,)], F.linear
        case "attention", [n, c, heads]:
            return [(b, n, c)] * 3, lambda q, k, v: attention(q, k, v, heads)
    raise SystemExit(f"{kind} {sizes}: there is no such operation")


def operation_seconds(line, adam):
    mode, batch, kind, *sizes = line.split()
    if kind == "adam":
        net = SimpleUNet(int(sizes[0]))
        for values in net.parameters():
            values.grad = torch.randn_like(values)
        return Timed(torch.optim.Adam(net.parameters(), **adam).step).seconds()
    shapes, forward = operation(kind, int(batch), list(map(int, sizes)))
    inputs = [torch.randn(shape, requires_grad=mode == "both") for shape in shapes]

    def both():
        for x in inputs:
            x.grad = None
        y = forward(*inputs)
        y.backward(torch.ones_like(y))

    if mode == "both":
        return Timed(both).seconds()
    with torch.inference_mode():
        return Timed(lambda: forward(*inputs)).seconds()


def adam(fused):
    return {"fused": True} if fused else {}


def answer(seconds, before=None):
    for line in sys.stdin:
        took, most = seconds(line), status("VmHWM")
        peak = None if before is None or most is None else most - before
        print(json.dumps({"seconds": took, "peak_bytes": peak}), flush=True)


def main(arguments):
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    match arguments:
        case ["about"]:
            print(json.dumps({"version": torch.__version__, "torch": list(NETWORKS)}))
        case ["check", "torch", name, side]:
            print(json.dumps(check(name, int(side))))
        case ["step", "torch", name, purpose, base, batch, side, *fused]:
            # What PyTorch loads at the first use of anything is not the network's memory.
            for line in FIRST:
                operation_seconds(line, adam(fused))
            before = status("VmRSS")
            timed = Timed(step(name, purpose, int(base), int(batch), int(side), adam(fused)))
            answer(lambda _: timed.seconds(), before)
        case ["ops", "torch", *fused]:
            answer(lambda line: operation_seconds(line, adam(fused)))
        case _:
            raise SystemExit(f"{arguments}: the first lines of {__file__} say what can be asked")


if __name__ == "__main__":
    main(sys.argv[1:])
