"""Steps of training and of denoising, their growth with the batch and the image, and the operations one by one.

Everything is measured in rounds in which the sides take turns, because the speed of a machine changes from minute to
minute; a time is the median of the rounds. Stock candle, which is slow, takes part in the first round only.
"""
import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from .sides import NAMES

# The promise: at most so many times PyTorch's. With one image, as many.
TIME, MEMORY, ALONE = 0.9, 1.0, 1.0
BATCHES = {"train": (16, 64), "denoise": (1, 16, 64)}
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


def layouts(sides, who):
    """PyTorch takes part with channels first and with channels last."""
    names = {name: [] for name in who}
    return names | {"last": ["last"]} if "torch" in names else names


def best_of(seconds, peaks):
    """With the faster of PyTorch's layouts as PyTorch."""
    layout = "last" if seconds.get("last", float("inf")) < seconds.get("torch", float("inf")) else "first"
    if layout == "last":
        seconds["torch"], peaks["torch"] = seconds["last"], peaks.get("last")
    seconds.pop("last", None)
    peaks.pop("last", None)
    return layout if "torch" in seconds else None


def step(sides, who, network, purpose, base, batch, width, rounds):
    """The seconds of a step on each of the sides, the peak of memory, and PyTorch's layout.

    After the first round only the faster layout of PyTorch goes on; stock candle, which is slow, takes part in that one only.
    """
    took, peaks = {}, {}
    with ExitStack() as stack:
        processes = {}
        for name, more in layouts(sides, who).items():
            real = "torch" if name == "last" else name
            process = sides.start(real, "step", real, network, purpose, base, batch, width, *more)
            processes[name] = stack.enter_context(process)
            process.ask()  # to warm up, while no other does
        for turn in range(rounds):
            for name, process in list(processes.items()):
                reply = process.ask()
                took.setdefault(name, []).append(reply["seconds"])
                peaks[name] = reply["peak_bytes"]
            if turn == 0:
                slower = max(("torch", "last"), key=lambda name: took.get(name, [0])[0])
                for name in ("candle", *([slower] if "last" in took else [])):
                    if name in processes:
                        processes.pop(name).end()  # its memory may be large
    for name in ("torch", "last"):
        if len(took.get(name, [])) < rounds and rounds > 1:
            took.pop(name, None)
    seconds = {name: statistics.median(values) for name, values in took.items()}
    return seconds, peaks, best_of(seconds, peaks)


def steps(sides, network, bases, batches, rounds):
    who, width = sides.check(network), sides.networks["sides"][network][0]
    print(f"\n{network}, {width}×{width}, {sides.threads} threads, rounds: {rounds}; PyTorch with the faster of channels first "
          "and last; memory is the peak above what the process held before there was a network, with everything loaded")
    row("", *NAMES.values(), "channels", "ours/PyTorch", "memory ours", "PyTorch", "ours/PyTorch", "must", width=13)
    for base in bases:
        for purpose in STEP:
            for batch in batches or BATCHES[purpose]:
                seconds, peaks, layout = step(sides, who, network, purpose, base, batch, width, rounds)
                time, memory = ratio(seconds, "ours", "torch"), ratio(peaks, "ours", "torch")
                held = time is None or time <= (ALONE if batch == 1 else TIME) and (memory is None or memory <= MEMORY)
                row(f"base {base}, batch {batch}, {STEP[purpose]}", *(duration(seconds.get(name)) for name in NAMES),
                    layout or "-", number(time), megabytes(peaks["ours"]), megabytes(peaks.get("torch")), number(memory),
                    "-" if time is None else "HELD" if held else "NOT HELD", width=13)
                name = f"{network} base {base} batch {batch} {width}x{width} {STEP[purpose]}"
                yield entry(name, seconds, sides.threads, peaks, peak_bytes_candle=peaks.get("candle"), layout=layout)


# What is sampled in 50 steps of DDIM: network, base, images, their side, T.
SAMPLED = (("simple_unet", 32, 64, 28, 1000), ("context_unet", 64, 64, 16, 500), ("attention_unet", 64, 16, 64, 1000))


def sampling(sides, rounds):
    """What a sampler takes, what of it the network, and few steps against many."""
    print(f"\nSampling, {sides.threads} threads, rounds: {rounds}; PyTorch with diffusers' scheduler")
    row("", "ours", "PyTorch", "ours/PyTorch", "network alone", "overhead")
    promises = []
    for network, base, images, side, total in SAMPLED:
        who = [name for name in sides.check(network) if name != "candle"]
        with ExitStack() as stack:
            processes = {}
            for name, more in layouts(sides, who).items():
                real = "torch" if name == "last" else name
                process = sides.start(real, "sample", real, network, base, images, side, total, *more)
                processes[name] = stack.enter_context(process)
                process.ask("ddim 2")  # to warm up, while no other does
            took = {name: [] for name in (*processes, "network")}
            for _ in range(rounds):
                for name, process in processes.items():
                    took[name].append(process.ask("ddim 50")["seconds"])
                took["network"].append(processes["ours"].ask("network 50")["seconds"])
        seconds = {name: statistics.median(values) for name, values in took.items()}
        # The machine's speed changes: the overhead is that of the best round of each.
        overhead = min(took["ours"]) / min(took["network"]) - 1
        alone = seconds.pop("network")
        best_of(seconds, {})
        against, name = ratio(seconds, "ours", "torch"), f"{network} {base}, {images} images of {side}×{side}, 50 steps"
        row(name, duration(seconds["ours"]), duration(seconds.get("torch")), number(against), duration(alone), f"{100 * overhead:.1f} %")
        yield entry(f"DDIM, {name}", seconds, sides.threads, overhead=overhead)
        promises.append((f"{name}: ≤ 0.8 of PyTorch's: {number(against)}", None if against is None else against <= 0.8))
        promises.append((f"{name}: overhead beyond the network ≤ 5 %: {100 * overhead:.1f} %", overhead <= 0.05))

    with sides.start("ours", "sample", "ours", "context_unet", 64, 32, 16, 500) as ours:
        many, few = (statistics.median(ours.ask(line)["seconds"] for _ in range(rounds)) for line in ("ddpm", "ddim 25"))
    row("sprites: DDPM, 500 steps, 32 images", duration(many))
    row("sprites: DDIM, 25 steps, 32 images", duration(few))
    for line, took in (("DDPM, 500 steps, 32 sprites", many), ("DDIM, 25 steps, 32 sprites", few)):
        yield entry(line, {"ours": took}, sides.threads)
    promises.append((f"25 steps of DDIM ≥ 19 × as fast as 500 of DDPM: {many / few:.1f}", many / few >= 19))
    for what, held in promises:
        print(f"Must: {what}, {'not compared' if held is None else 'HELD' if held else 'NOT HELD'}")


# What a GPU is to do: networks with the side of their images, and images at a time.
ON_GPU, ON_GPU_BATCHES, PRECISIONS = {"simple_unet": 28, "attention_unet": 64}, (128, 512), ("f32", "tf32", "bf16")
# The promise on a GPU: so many times PyTorch's images per second, and at most so many times its memory.
FASTER, ON_GPU_MEMORY = {"train": 1.0, "sample": 1.2}, 1.1


def gpu(sides, rounds, batches, on_gpu):
    """Steps of training, with data, noise, clipping and averaging, and steps of DDIM. PyTorch with channels first and last."""
    where = "On the GPU" if on_gpu else "On the CPU, for a trial: FEATURES=cuda is missing"
    print(f"\n{where}, rounds: {rounds}; images per second; PyTorch eager with cudnn.benchmark, the faster of channels first and last")
    row("", "ours", "PyTorch", "ours/PyTorch", "memory ours", "PyTorch", "ours/PyTorch", "promise")
    for network, side in ON_GPU.items():
        for batch in batches or ON_GPU_BATCHES:
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
                    held = faster is None or faster >= FASTER[what] and (larger is None or larger <= ON_GPU_MEMORY)
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
            seconds, peaks, _ = step(sides, who, network, purpose, base, batch, width, rounds)
            cells = []
            for name in ("ours", "torch"):
                took = seconds.get(name)
                cells += [duration(took), "-" if took is None else f"{took / (batch * width * width) * 1e9:.0f} ns"]
            row(f"batch {batch}, {width}×{width}", *cells, number(ratio(seconds, "ours", "torch")))
            name = f"{network} base {base} batch {batch} {width}x{width} {STEP[purpose]}, scaling"
            per_pixel = seconds["ours"] / (batch * width * width)
            yield entry(name, seconds, sides.threads, peaks, ours_s_per_pixel=per_pixel)


# What two processes sample at once: network, base, images, their side, steps of DDIM.
SHARED = (("context_unet", 64, 2, 16, 200), ("simple_unet", 32, 64, 28, 20))


def shared(sides, rounds):
    """What a process loses if a second one, just like it and with as many threads, works on the same cores."""
    print(f"\nTwo processes at once, {sides.threads} threads each, rounds: {rounds}; divided by the time of one alone, 2 is ideal; "
          "PyTorch with channels first")
    row("", "ours alone", "two at once", "divided", "PyTorch alone", "two at once", "divided")
    for network, base, images, side, count in SHARED:
        took = {}
        for who in (name for name in sides.check(network) if name != "candle"):
            with sides.start(who, "sample", who, network, base, images, side, 1000) as one, \
                    sides.start(who, "sample", who, network, base, images, side, 1000) as two, ThreadPoolExecutor(2) as at_once:
                ask = lambda process: process.ask(f"ddim {count}")["seconds"]  # noqa: E731
                list(map(ask, (one, two)))  # to warm up
                times = [(ask(one), max(at_once.map(ask, (one, two)))) for _ in range(rounds)]
            took[who] = [statistics.median(column) for column in zip(*times, strict=True)]
        name = f"{network} {base}, {images} images of {side}×{side}, {count} steps"
        cells = [(duration(alone), duration(both), number(both / alone)) for alone, both in took.values()]
        row(name, *(cell for cells_of_one in cells for cell in cells_of_one))
        for i, what in enumerate(("alone", "two processes at once")):
            yield entry(f"{name}, {what}", {who: times[i] for who, times in took.items()}, sides.threads)


# The kernels by what they do.
PARTS = {
    "convolution": "convolution", "convolution without bias": "convolution", "group_norm": "norm", "batch_norm": "norm",
    "silu": "activation", "gelu": "activation", "relu": "activation", "max_pool2d": "between resolutions",
    "avg_pool2d": "between resolutions", "upsample_nearest2x": "between resolutions", "upsample_bilinear2x": "between resolutions",
    "linear": "linear", "attention": "attention", "self_attention2d": "attention",
}


def profile(sides, network, base, batch, details):
    """Where a training step goes, by what the operations do: each kernel of ours is timed, PyTorch's by its profiler."""
    width, parts, totals, layout = sides.networks["sides"][network][0], {}, {}, []
    if sides.torch:
        _, _, best = step(sides, ["torch"], network, "train", base, batch, width, 1)
        layout = ["last"] if best == "last" else []
    for who in ("ours", *(["torch"] if sides.torch else [])):
        found = sides.tell(who, "profile", who, network, str(base), str(batch), str(width), *(layout if who == "torch" else []))
        totals[who] = found["total"]
        add = lambda part, i, seconds: parts.setdefault(part, {}).setdefault(who, [0.0, 0.0]).__setitem__(  # noqa: E731
            i, parts[part][who][i] + seconds)
        for kind, what, *seconds in found["kernels"]:
            for i in (0, 1):
                add(PARTS.get(kind, "rest") if who == "ours" else kind, i, seconds[i])
        add("optimiser", 0, found["optimiser"])
        add("rest", 0, totals[who] - sum(sum(sides[who]) for sides in parts.values() if who in sides))
        if who == "ours" and details:
            for kind, shapes, *seconds in sorted(found["kernels"], key=lambda k: -sum(k[2:]))[:25]:
                row(f"  {kind} {' '.join(map(str, shapes))}"[:90].ljust(90), *map(duration, seconds))
    print(f"\n{network}, base {base}, batch {batch}, {width}×{width}: a training step by operation, forward and backward")
    row("", "ours", "", "PyTorch", "", "ours/PyTorch")
    for part, seconds in sorted(parts.items(), key=lambda p: -sum(p[1].get("ours", [0]))):
        sums = {who: sum(s) for who, s in seconds.items()}
        row(part, *(cell for who in totals for cell in map(duration, seconds.get(who, [0, 0]))), number(ratio(sums, "ours", "torch")))
    row("step", duration(totals["ours"]), "", duration(totals.get("torch")), "", number(ratio(totals, "ours", "torch")))
    yield entry(f"profile of {network} base {base} batch {batch}", totals, sides.threads, parts=parts)
