"""Times PyTorch as tests/speed/main.rs times the crate, in the same words; run by PyTorch's own Python.

    in_torch.py about
    in_torch.py check torch NETWORK SIDE
    in_torch.py step torch NETWORK train|denoise BASE BATCH SIDE [last]
    in_torch.py profile torch NETWORK BASE BATCH SIDE [last]
    in_torch.py sample torch NETWORK BASE BATCH SIDE T [last]
    in_torch.py gpu torch NETWORK BATCH SIDE f32|tf32|bf16 [last]

`last` asks for images with their channels last. Adam is Adam(fused=True), the fastest. `OMP_NUM_THREADS` says how many threads.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "golden"))
import networks  # noqa: E402

# As in measure.rs: a measurement goes on for so many seconds; what takes longer than LONG is not run to warm up.
ENOUGH, LONG = 0.1, 5.0

NETWORKS = {
    "simple_unet": networks.SimpleUNet,
    "context_unet": networks.ContextUnet,
    "conditional_unet": networks.ConditionalUNet,
    "unet": networks.UNet,
    "attention_unet": networks.AttentionUNet,
}


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


def formatted(x, last):
    return x.contiguous(memory_format=torch.channels_last) if last else x


def step(name, purpose, base, batch, side, last):
    net = NETWORKS[name](base)
    if last:
        net = net.to(memory_format=torch.channels_last)
    xt, target = (formatted(x, last) for x in torch.randn(2, batch, net.channels, side, side))
    t = torch.randint(0, 1000, (batch,))
    if purpose == "train":
        optimiser = torch.optim.Adam(net.parameters(), fused=True)
        return lambda: train_step(net, optimiser, xt, t, target)

    net.eval()

    @torch.inference_mode()
    def denoise():
        net(xt, t)

    return denoise


# What the profiler's events belong to, by what their names contain: the first that fits.
PARTS = (
    ("optimiser", ("adam", "Optimizer")),
    ("attention", ("attention",)),
    ("norm", ("norm",)),
    ("convolution", ("conv",)),
    ("linear", ("mm",)),
    ("activation", ("silu", "gelu", "relu", "threshold")),
    ("between resolutions", ("pool", "upsample")),
)


def profile(name, base, batch, side, last):
    """The seconds of a training step, and of its parts; kernels as in profile.rs, but without shapes."""
    from torch.profiler import ProfilerActivity

    run, steps = step(name, "train", base, batch, side, last), 5
    run()
    began = time.perf_counter()
    for _ in range(steps):
        run()
    total = (time.perf_counter() - began) / steps
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            run()
    kernels, optimiser = [], 0.0
    for event in profiler.key_averages():
        seconds = event.self_cpu_time_total * 1e-6 / steps
        part = next((part for part, words in PARTS if any(word in event.key for word in words)), "rest")
        if part == "optimiser":
            optimiser += seconds
        else:
            back = "backward" in event.key.lower()
            kernels.append([part, event.key, 0.0 if back else seconds, seconds if back else 0.0])
    return {"total": total, "optimiser": optimiser, "kernels": kernels}


def sample(name, base, batch, side, total, last):
    """By diffusers' scheduler; what answers a line: `ddim N`."""
    from diffusers import DDIMScheduler

    net = NETWORKS[name](base).eval()
    if last:
        net = net.to(memory_format=torch.channels_last)
    noise = formatted(torch.randn(batch, net.channels, side, side), last)

    def seconds(line):
        kind, n = line.split()
        if kind != "ddim":
            raise SystemExit(f"{line}: it must be ddim N")
        scheduler = DDIMScheduler(
            num_train_timesteps=total, beta_schedule="linear", beta_start=1e-4, beta_end=0.02, timestep_spacing="trailing"
        )
        scheduler.set_timesteps(int(n))
        with torch.inference_mode():
            began, x = time.perf_counter(), noise
            for t in scheduler.timesteps:
                x = scheduler.step(net(x, t.repeat(batch)), t, x, use_clipped_model_output=True).prev_sample
            return time.perf_counter() - began

    seconds("ddim 2")
    return seconds


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


class OnGpu:
    """What tests/speed/gpu.rs does, step by step, on the GPU; without one on the CPU, for a trial."""

    TRAINED, DRAWN = 20, 10

    def __init__(self, name, batch, side, precision, last):
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch, self.precision = batch, precision
        self.format = torch.channels_last if last else torch.contiguous_format
        base = {"simple_unet": 64, "attention_unet": 64}[name]
        self.net = NETWORKS[name](base).to(self.device, memory_format=self.format)
        channels = self.net.channels
        self.data = torch.randint(0, 256, (2 * max(batch, 64), channels, side, side), dtype=torch.uint8, device=self.device)
        beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        self.alpha_bar = torch.cumprod(1 - beta, 0).float().to(self.device)
        self.parameters = list(self.net.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        self.adam = torch.optim.Adam(self.parameters, lr=2e-4, fused=self.device == "cuda")
        self.side = side

    def answer(self, xt, t):
        if self.precision != "bf16":
            return self.net(xt, t)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            return self.net(xt, t).float()

    def train(self):
        for _ in range(self.TRAINED):
            of = torch.randint(0, len(self.data), (self.batch,), device=self.device)
            x0 = (self.data[of].float() / 127.5 - 1).contiguous(memory_format=self.format)
            t, eps = torch.randint(0, 1000, (self.batch,), device=self.device), torch.randn_like(x0)
            a = self.alpha_bar[t].view(-1, 1, 1, 1)
            loss = F.mse_loss(self.answer(a.sqrt() * x0 + (1 - a).sqrt() * eps, t), eps)
            self.adam.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
            self.adam.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1e-4)
        return loss.item()  # waits for the device

    @torch.inference_mode()
    def sample(self):
        x = torch.randn(self.batch, self.net.channels, self.side, self.side, device=self.device).contiguous(memory_format=self.format)
        stops = torch.linspace(999, 0, self.DRAWN + 1).long().tolist()
        for at, to in zip(stops, stops[1:]):
            a, b = self.alpha_bar[at], self.alpha_bar[to]
            eps = self.answer(x, torch.full((self.batch,), at, device=self.device))
            x0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
            eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
            x = b.sqrt() * x0 + (1 - b).sqrt() * eps
        return x.mean().item()

    def seconds(self, line):
        run, steps = {"train": (self.train, self.TRAINED), "sample": (self.sample, self.DRAWN)}[line]
        began = time.perf_counter()
        run()
        return (time.perf_counter() - began) / steps

    def peak(self):
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else None


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
        case ["step", "torch", name, purpose, base, batch, side, *last]:
            # What PyTorch loads at the first use of anything is not the network's memory.
            step("simple_unet", "train", 8, 1, 8, False)()
            before = status("VmRSS")
            timed = Timed(step(name, purpose, int(base), int(batch), int(side), bool(last)))
            answer(lambda _: timed.seconds(), before)
        case ["profile", "torch", name, base, batch, side, *last]:
            print(json.dumps(profile(name, int(base), int(batch), int(side), bool(last))))
        case ["sample", "torch", name, base, batch, side, total, *last]:
            answer(sample(name, int(base), int(batch), int(side), int(total), bool(last)))
        case ["gpu", "torch", name, batch, side, precision, *last]:
            work = OnGpu(name, int(batch), int(side), precision, bool(last))
            for line in sys.stdin:
                seconds = work.seconds(line.strip())
                print(json.dumps({"seconds": seconds, "peak_bytes": work.peak()}), flush=True)
        case _:
            raise SystemExit(f"{arguments}: the first lines of {__file__} say what can be asked")


if __name__ == "__main__":
    main(sys.argv[1:])
