#!/usr/bin/env python3
"""`make bench`: speeds, each side by side in the same run with what it is compared with. Writes target/bench.json.

    kernel      the crate inside the notebook kernel against a release build, and what a reader waits for
    steps       each network's training step and denoising step: seconds and peak memory
    sampling    50 steps of DDIM with three networks, a sampler's overhead beyond its network, few steps against many
    evaluation  all measures of 10,000 samples
    ops         where each network's training step goes, by operation
    scaling     the steps for growing batches and images
    shared      two processes at once on the same cores
    gpu         training and sampling on the GPU (FEATURES=cuda), only if it is asked for

All but `kernel` and `evaluation` compare the crate with stock candle's operations (in the same build, whose matrix product
is faster than candle's own) and with PyTorch, if there is one.
"""
import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from speed import compare
from speed.sides import REQUIREMENTS, ROOT, Problem, Sides

PARTS = ("kernel", "steps", "sampling", "evaluation", "ops", "scaling", "shared")
ON_REQUEST = ("gpu",)
# So many cores that are busy with something else spoil a measurement.
BUSY = 0.1


def parse():
    p = argparse.ArgumentParser(prog="bench.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all of them if none is named; and {ON_REQUEST[0]}")
    p.add_argument("--features", default="", help="of the crate: cuda")
    p.add_argument("--network", nargs="+", help="which networks (default: all; scaling: simple_unet)")
    p.add_argument("--base", type=int, nargs="+", help="their widths (steps: 32 64, ops: 64, scaling: 32)")
    p.add_argument("--batch", type=int, nargs="+", help="images at a time (steps: training 16 64, denoising 1 16 64; ops: 16)")
    p.add_argument("--instructions", choices=["avx2"], help="hold every side to these, as on most laptops")
    p.add_argument("--details", action="store_true", help="ops: also each kernel of ours by its shapes")
    p.add_argument("--threads", type=int, default=2, help="for every side (default: %(default)s)")
    p.add_argument("--rounds", type=int, help="how often the sides take turns (steps, sampling and shared: 5, scaling: 3, evaluation: 1)")
    p.add_argument("--torch", action="store_true",
                   help=f"install PyTorch into target/torch-env if it is not there ({REQUIREMENTS.name} names the version)")
    p.add_argument("--torch-python", default=os.environ.get("TORCH_PYTHON"), metavar="PATH",
                   help="a Python that has PyTorch (default: $TORCH_PYTHON, else target/torch-env)")
    options = p.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS + ON_REQUEST]:
        p.error(f"there is no part {unknown[0]}; choose from {', '.join(PARTS + ON_REQUEST)}")
    for name in ("base", "batch", "threads", "rounds"):
        values = getattr(options, name)
        if values is not None and min(values if isinstance(values, list) else [values]) < 1:
            p.error(f"--{name} {values}: it must be at least 1")
    return options


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def graphics():
    """The NVIDIA GPU and its driver, if there is one."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.splitlines()
    except OSError:
        return ""
    return f"; {found[0]}; {time.strftime('%Y-%m-%d')}" if found else ""


def used_by_others():
    """The seconds of processor time that everybody else has used so far; None where that is not known."""
    try:
        user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    except OSError:
        return None
    own = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - sum(used.ru_utime + used.ru_stime for used in own)


def measure(options):
    parts = options.parts or PARTS
    if "kernel" in parts:
        from speed import in_kernel  # needs Jupyter, which the other parts do not

        for result in (*in_kernel.kernel_against_release(), *in_kernel.a_readers_waits()):
            yield {**compare.entry(result["name"], {}, None), **result}
    if set(parts) == {"kernel"}:
        return
    sides = Sides(options.threads, options.torch_python, options.torch, options.features, options.instructions)
    held = f", held to {options.instructions}" if options.instructions else ""
    print(f"\n{processor()}, {os.cpu_count()} cores{graphics()}{held}")
    if sides.torch:
        print(f"PyTorch {sides.torch['version']}, Adam(fused=True)")
    else:
        print("PyTorch is not compared with: `make bench TORCH=1` installs it into target/torch-env, TORCH_PYTHON=PATH names one")
    networks = options.network or list(sides.networks["sides"])
    began, others = time.monotonic(), used_by_others()
    if "steps" in parts:
        for network in networks:
            yield from compare.steps(sides, network, options.base or [32, 64], options.batch, options.rounds or 5)
    if "sampling" in parts:
        yield from compare.sampling(sides, options.rounds or 5)
    if "evaluation" in parts:
        yield from compare.evaluation(sides, options.rounds or 1)
    if "ops" in parts:
        for network in networks:
            for base in options.base or [64]:
                for batch in options.batch or [16]:
                    yield from compare.profile(sides, network, base, batch, options.details)
    if "scaling" in parts:
        for base in options.base or [32]:
            for network in options.network or ["simple_unet"]:
                yield from compare.scaling(sides, network, base, options.rounds or 3)
    if "shared" in parts:
        yield from compare.shared(sides, options.rounds or 5)
    if "gpu" in parts:
        yield from compare.gpu(sides, options.rounds or 5, options.batch, "cuda" in options.features)
    if others is not None and (busy := (used_by_others() - others) / (time.monotonic() - began)) > BUSY:
        print(f"\nOther programs kept {busy:.1f} cores busy meanwhile: the figures are not to be trusted, PyTorch's least of all. "
              "Measure again on an idle machine.")


def main():
    options = parse()
    results, failure = [], None
    try:
        for result in measure(options):
            results.append(result)
    except Problem as problem:
        failure = f"bench: {problem}"
    if results:
        out = ROOT / "target" / "bench.json"
        out.write_text(json.dumps(results, indent=1))
        print(f"\nwritten to {out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out.name}")
    sys.exit(failure)


if __name__ == "__main__":
    main()
