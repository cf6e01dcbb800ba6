"""Steps of training and of denoising, their growth with the batch and the image, and the operations one by one.

Everything is measured in rounds in which the sides take turns, because the speed of a machine changes from minute to
minute; a time is the median of the rounds. Stock candle, which is slow, takes part in the first round only.
"""
import statistics
from contextlib import ExitStack

from .sides import NAMES

# The promise: at most so many times PyTorch's.
MUST = {("train", "time"): 1.0, ("denoise", "time"): 0.8, ("train", "memory"): 1.0, ("denoise", "memory"): 1.0}
STEP = {"train": "training step", "denoise": "denoising step"}


def entry(name, seconds, threads, peaks=None, **more):
    """A line of target/bench.json."""
    peaks = peaks or {}
    return {
        "name": name,
        **{f"{who}_s": seconds.get(who) for who in NAMES},
        "ratio": ratio(seconds, "ours", "torch"),
        "peak_bytes_ours": peaks.get("ours"),
        "peak_bytes_torch": peaks.get("torch"),
        "threads": threads,
        **more,
    }


def ratio(values, a, b):
    return values[a] / values[b] if values.get(a) and values.get(b) else None


def duration(seconds):
    if seconds is None:
        return "-"
    unit, digits = next((u for u in ((1, 2), (1e-3, 1), (1e-6, 0)) if seconds >= u[0]), (1e-6, 1))
    return f"{seconds / unit:.{digits}f} {({1: 's', 1e-3: 'ms', 1e-6: 'µs'})[unit]}"


def number(x, digits=2):
    return "-" if x is None else f"{x:.{digits}f}"


def megabytes(n):
    return "-" if n is None else f"{n / 1e6:.0f} MB"


def row(first, *cells, width=14):
    print(f"{first:34}" + "".join(f"{cell:>{width}}" for cell in cells), flush=True)


def in_turn(processes, line, rounds):
    """The median of each side's seconds."""
    took = {who: [] for who in processes}
    for turn in range(rounds):
        for who, process in processes.items():
            if who != "candle" or turn == 0:
                took[who].append(process.ask(line)["seconds"])
    return {who: statistics.median(seconds) for who, seconds in took.items()}


def step(sides, who, network, purpose, base, batch, width, rounds):
    """The seconds of a step on each of the sides, and the peak of memory."""
    took, peaks = {name: [] for name in who}, {}
    with ExitStack() as stack:
        processes = {}
        for name in who:
            process = sides.start(name, "step", name, network, purpose, base, batch, width, *sides.adam_of(name))
            processes[name] = stack.enter_context(process)
        for turn in range(rounds):
            for name, process in processes.items():
                if name == "candle" and turn > 0:
                    continue
                reply = process.ask()
                took[name].append(reply["seconds"])
                peaks[name] = reply["peak_bytes"]
                if name == "candle":
                    process.end()  # its memory may be large
    return {name: statistics.median(seconds) for name, seconds in took.items()}, peaks


def steps(sides, network, bases, batches, rounds):
    who, width = sides.check(network), sides.networks["sides"][network][0]
    print(f"\n{network}, {width}×{width}, {sides.threads} threads, rounds: {rounds}; "
          "memory is the peak above what the process held before there was a network, with everything loaded")
    row("", *NAMES.values(), "ours/PyTorch", "candle/ours", "images/s ours", "PyTorch", "memory ours", "PyTorch", "ours/PyTorch")
    promised = []
    for base in bases:
        for batch in batches:
            for purpose in STEP:
                seconds, peaks = step(sides, who, network, purpose, base, batch, width, rounds)
                time, memory = ratio(seconds, "ours", "torch"), ratio(peaks, "ours", "torch")
                per_second = {name: batch / s for name, s in seconds.items()}
                row(f"base {base}, batch {batch}, {STEP[purpose]}", *(duration(seconds.get(name)) for name in NAMES),
                    number(time), number(ratio(seconds, "candle", "ours"), 1), number(per_second["ours"], 0),
                    number(per_second.get("torch"), 0), megabytes(peaks["ours"]), megabytes(peaks.get("torch")), number(memory))
                if (network, base, batch) == ("simple_unet", 64, 64):
                    promised += [(purpose, "time", time), (purpose, "memory", memory)]
                name = f"{network} base {base} batch {batch} {width}x{width} {STEP[purpose]}"
                yield entry(name, seconds, sides.threads, peaks, peak_bytes_candle=peaks.get("candle"))
    for purpose, what, got in promised:
        most = MUST[purpose, what]
        held = "not compared" if got is None else "HELD" if got <= most else "NOT HELD"
        print(f"Must: {STEP[purpose]}, base 64, batch 64: {what} ≤ {most} of PyTorch's: {number(got)}, {held}")


def sampling(sides, rounds):
    """What a sampler takes, what of it the network, and few steps against many."""
    print(f"\nSampling, {sides.threads} threads, rounds: {rounds}")
    row("", "ours", "PyTorch", "ours/PyTorch", "network alone", "overhead")
    who = [name for name in sides.check("simple_unet") if name != "candle"]
    with ExitStack() as stack:
        start = lambda name: sides.start(name, "sample", name, "simple_unet", 32, 64, 28, 1000)  # noqa: E731
        processes = {name: stack.enter_context(start(name)) for name in who}
        took = {name: [] for name in (*who, "network")}
        for _ in range(rounds):
            for name, process in processes.items():
                took[name].append(process.ask("ddim 50")["seconds"])
            took["network"].append(processes["ours"].ask("network 50")["seconds"])
    seconds = {name: statistics.median(values) for name, values in took.items()}
    # The machine's speed changes: the overhead is that of the best round of each.
    overhead = min(took["ours"]) / min(took["network"]) - 1
    name = "DDIM, 50 steps, 64 images, base 32"
    row(name, duration(seconds["ours"]), duration(seconds.get("torch")), number(ratio(seconds, "ours", "torch")),
        duration(seconds["network"]), f"{100 * overhead:.1f} %")
    yield entry(name, seconds, sides.threads, overhead=overhead)

    with sides.start("ours", "sample", "ours", "context_unet", 64, 32, 16, 500) as ours:
        many, few = (statistics.median(ours.ask(line)["seconds"] for _ in range(rounds)) for line in ("ddpm", "ddim 25"))
    row("sprites: DDPM, 500 steps, 32 images", duration(many))
    row("sprites: DDIM, 25 steps, 32 images", duration(few))
    for line, took in (("DDPM, 500 steps, 32 sprites", many), ("DDIM, 25 steps, 32 sprites", few)):
        yield entry(line, {"ours": took}, sides.threads)
    against = ratio(seconds, "ours", "torch")
    for what, held in ((f"50 steps of DDIM ≤ 0.8 of PyTorch's with diffusers: {number(against)}", None if against is None else against <= 0.8),
                       (f"overhead beyond the network ≤ 5 %: {100 * overhead:.1f} %", overhead <= 0.05),
                       (f"25 steps of DDIM ≥ 19 × as fast as 500 of DDPM: {many / few:.1f}", many / few >= 19)):
        print(f"Must: {what}, {'not compared' if held is None else 'HELD' if held else 'NOT HELD'}")


# What a GPU is to do: networks with the side of their images, and images at a time.
ON_GPU, BATCHES, PRECISIONS = {"simple_unet": 28, "attention_unet": 64}, (128, 512), ("f32", "tf32", "bf16")
# The promise on a GPU: so many times PyTorch's images per second, and at most so many times its memory.
FASTER, MEMORY = {"train": 1.0, "sample": 1.2}, 1.1


def gpu(sides, rounds, batches, on_gpu):
    """Steps of training, with data, noise, clipping and averaging, and steps of DDIM. PyTorch with channels first and last."""
    where = "On the GPU" if on_gpu else "On the CPU, for a trial: FEATURES=cuda is missing"
    print(f"\n{where}, rounds: {rounds}; images per second; PyTorch eager with cudnn.benchmark, the faster of channels first and last")
    row("", "ours", "PyTorch", "ours/PyTorch", "memory ours", "PyTorch", "ours/PyTorch", "promise")
    for network, side in ON_GPU.items():
        for batch in batches or BATCHES:
            for precision in PRECISIONS:
                with ExitStack() as stack:
                    start = lambda who, *more: stack.enter_context(  # noqa: E731
                        sides.start(who, "gpu", who, network, batch, side, precision, *more))
                    processes = {"ours": start("ours")}
                    if sides.torch:
                        processes |= {"first": start("torch"), "last": start("torch", "last")}
                    took = {what: {name: [] for name in processes} for what in FASTER}
                    peaks = {}
                    for turn in range(rounds + 1):
                        for what in FASTER:
                            for name, process in processes.items():
                                reply = process.ask(what)
                                if turn > 0:  # the first is to warm up
                                    took[what][name].append(reply["seconds"])
                                if what == "train":
                                    peaks[name] = reply["peak_bytes"]
                for what, seconds in took.items():
                    medians = {name: statistics.median(values) for name, values in seconds.items()}
                    other = min((n for n in medians if n != "ours"), key=medians.get, default=None)
                    found = {"ours": medians["ours"], **({"torch": medians[other]} if other else {})}
                    memory = {"ours": peaks.get("ours"), "torch": peaks.get(other)}
                    faster = found["torch"] / found["ours"] if other else None
                    larger = ratio(memory, "ours", "torch")
                    held = faster is None or faster >= FASTER[what] and (larger is None or larger <= MEMORY)
                    row(f"{network} {side}×{side}, {batch}, {precision}, {what}", number(batch / found["ours"], 0),
                        number(batch / found["torch"], 0) if other else "-", number(faster), megabytes(memory["ours"]),
                        megabytes(memory["torch"]), number(larger), "-" if faster is None or not on_gpu else "HELD" if held else "NOT HELD")
                    yield entry(f"gpu, {network} {side}x{side} batch {batch} {precision} {what}", found, None, memory)


def evaluation(sides, rounds):
    """What all measures of 10,000 samples take once the samples are there."""
    print(f"\nEvaluation, {sides.threads} threads, rounds: {rounds}")
    row("", "ours")
    with sides.start("ours", "evaluate", "ours", 10_000) as ours:
        seconds = statistics.median(ours.ask()["seconds"] for _ in range(rounds))
    name = "10,000 samples of 28×28"
    row(name, duration(seconds))
    yield entry(f"evaluation, {name}", {"ours": seconds}, sides.threads)
    print(f"Must: 10,000 samples in at most 60 s: {duration(seconds)}, {'HELD' if seconds <= 60 else 'NOT HELD'}")


def scaling(sides, network, base, rounds):
    """The time of a step should grow in proportion to the pixels of all images together."""
    who = [name for name in sides.check(network) if name != "candle"]
    for purpose in STEP:
        print(f"\n{network}, base {base}, {STEP[purpose]}, {sides.threads} threads, rounds: {rounds}; "
              "per pixel: the time divided by batch × side²")
        row("", "ours", "per pixel", "PyTorch", "per pixel", "ours/PyTorch")
        usual, *others = sides.networks["sides"][network]
        for batch, width in [*((batch, usual) for batch in (1, 8, 64, 256)), *((64, other) for other in others)]:
            seconds, peaks = step(sides, who, network, purpose, base, batch, width, rounds)
            cells = []
            for name in ("ours", "torch"):
                took = seconds.get(name)
                cells += [duration(took), "-" if took is None else f"{took / (batch * width * width) * 1e9:.0f} ns"]
            row(f"batch {batch}, {width}×{width}", *cells, number(ratio(seconds, "ours", "torch")))
            name = f"{network} base {base} batch {batch} {width}x{width} {STEP[purpose]}, scaling"
            per_pixel = seconds["ours"] / (batch * width * width)
            yield entry(name, seconds, sides.threads, peaks, ours_s_per_pixel=per_pixel)


def operations(b):
    """The operations of SimpleUNet with base `b`: group, name, sizes, and how often each is in it."""
    conv3, halve, conv1 = "conv 3×3", "conv 3×3, stride 2", "conv 1×1"
    norm, move, add = "group norm + SiLU", "upsample, cat", "add"
    yield from ((conv3, "conv2d", (c, out, side, 3, 1), times) for c, out, side, times in [
        (1, b, 28, 1), (b, b, 28, 3), (2 * b, b, 28, 2), (b, 1, 28, 1), (b, 2 * b, 14, 1), (2 * b, 2 * b, 14, 2),
        (4 * b, 2 * b, 14, 2), (2 * b, 4 * b, 7, 1), (4 * b, 4 * b, 7, 1)])
    yield from ((halve, "conv2d", (c, c, side, 3, 2), 1) for c, side in [(b, 28), (2 * b, 14)])
    yield from ((conv1, "conv2d", (c, out, side, 1, 1), 1) for c, out, side in [
        (2 * b, b, 28), (b, 2 * b, 14), (4 * b, 2 * b, 14), (2 * b, 4 * b, 7)])
    yield from ((norm, "group_norm_silu", (c, side), times) for c, side, times in [
        (b, 28, 4), (2 * b, 28, 1), (b, 14, 1), (2 * b, 14, 2), (4 * b, 14, 1), (2 * b, 7, 1), (4 * b, 7, 1)])
    yield from ((move, kind, (c, side), 1) for kind in ("upsample", "cat") for c, side in [(4 * b, 7), (2 * b, 14)])
    yield from ((add, kind, (c, side), times) for kind in ("shift", "add") for c, side, times in [
        (b, 28, 2), (2 * b, 14, 2), (4 * b, 7, 1)])
    yield from (("linear", "linear", (i, o), times) for i, o, times in [
        (b, 4 * b, 1), (4 * b, b, 2), (4 * b, 2 * b, 2), (4 * b, 4 * b, 2)])
    yield "attention", "attention", (49, 4 * b, 4), 0
    yield "Adam", "adam", (b,), 1


def described(kind, sizes):
    match kind, sizes:
        case "conv2d", (c, out, side, k, stride):
            return f"conv2d {c}→{out} {k}×{k}{', stride 2' if stride == 2 else ''}, {side}×{side}"
        case "linear", (i, o):
            return f"linear {i}→{o}"
        case "attention", (n, c, heads):
            return f"attention {n}×{c}, {heads} heads"
        case "adam", (base,):
            return f"Adam, SimpleUNet base {base}"
        case _, (c, side):
            return f"{kind.replace('_', ' ')} {c}, {side}×{side}"


def products(kind, sizes, batch):
    """The floating-point operations of the plain algorithm, forward; None where there is no product."""
    match kind, sizes:
        case "conv2d", (c, out, side, k, stride):
            return 2 * batch * c * out * k * k * (side // stride) ** 2
        case "linear", (i, o):
            return 2 * batch * i * o
        case "attention", (n, c, _):
            return 4 * batch * n * n * c
    return None


def one_by_one(sides, base, batch, rounds):
    """The operations forward, and forward and backward; then what a training step takes, summed up from them."""
    with ExitStack() as stack:
        processes = {who: stack.enter_context(sides.start(who, "ops", who, *sides.adam_of(who))) for who in sides.commands}
        product = in_turn(processes, "forward 1 matmul 2048", rounds)
        machine = max(2 * 2048**3 / s for s in product.values())
        each = ", ".join(f"{NAMES[who]} {duration(s)}" for who, s in product.items())
        print(f"\nOperations, batch {batch}, {sides.threads} threads, rounds: {rounds}; GFLOP/s of the plain algorithm; "
              f"the machine: {machine / 1e9:.0f} GFLOP/s in a product of 2048×2048 matrices ({each})")
        yield entry("matmul 2048", product, sides.threads, gflops_machine=machine / 1e9)
        sums = {}
        for mode, passes in (("forward", 1), ("both", 3)):
            what = "forward" if mode == "forward" else "forward and backward"
            print()
            row(what, *NAMES.values(), "ours/PyTorch", "GFLOP/s ours", "of machine", "PyTorch", "of machine")
            for group, kind, sizes, times in operations(base):
                if kind == "adam" and mode == "forward":
                    continue
                line = f"{mode} {batch} {kind} {' '.join(map(str, sizes))}"
                seconds = in_turn(processes, line, rounds)
                work, cells, more = products(kind, sizes, batch), [], {}
                for who in ("ours", "torch"):
                    rate = passes * work / seconds[who] if work and who in seconds else None
                    cells += [number(rate and rate / 1e9, 0), "-" if rate is None else f"{rate / machine:.0%}"]
                    more[f"gflops_{who}"] = rate and rate / 1e9
                times_of_all = (duration(seconds.get(who)) for who in NAMES)
                row(described(kind, sizes), *times_of_all, number(ratio(seconds, "ours", "torch")), *cells)
                yield entry(f"{described(kind, sizes)}, batch {batch}, {what}", seconds, sides.threads, **more)
                for who, s in seconds.items():
                    sums.setdefault((mode, group), dict.fromkeys(seconds, 0.0))[who] += times * s
    profile(sums)


def profile(sums):
    """How often each operation is in a training step of SimpleUNet, times how long it takes alone."""
    print("\nWhere a training step of SimpleUNet goes: each operation alone, times how often it occurs")
    parts = {group: seconds for (mode, group), seconds in sums.items() if mode == "both" and any(seconds.values())}
    total = {who: sum(seconds[who] for seconds in parts.values()) for who in next(iter(parts.values()))}
    row("", *(cell for who in total for cell in (NAMES[who], "share")), "ours/PyTorch")
    for group, seconds in {**parts, "sum": total}.items():
        cells = (cell for who, s in seconds.items() for cell in (duration(s), f"{s / total[who]:.0%}"))
        row(group, *cells, number(ratio(seconds, "ours", "torch")))
