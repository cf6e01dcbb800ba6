"""The crate inside the notebook kernel against a release build, and what a reader waits for."""
import re
import statistics
import subprocess

from kernel import DEP, ROOT, Kernel
from notebooks import NOTEBOOKS, code_cells, read

ROUNDS = 9


def kernel_against_release():
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--release", "--example", "kernel_speed"], cwd=ROOT, check=True)
    binary = ROOT / "target" / "release" / "examples" / "kernel_speed"
    code = (ROOT / "tests" / "kernel_speed.rs").read_text()
    functions = code[code.index("fn normals"):code.index("fn main")]
    seconds = {}
    with Kernel() as kernel:
        kernel.run(DEP)
        kernel.run("use diffusion_core::{candle::Device, data::sprites, rng::Rng};\nuse std::time::Instant;")
        kernel.run(functions)
        for name in re.findall(r"fn (\w+)\(", functions):
            sides = {"kernel": [], "release": []}
            for _ in range(ROUNDS):
                sides["kernel"].append(float(kernel.run(f'println!("{{}}", {name}());').text))
                sides["release"].append(float(subprocess.check_output([binary, name])))
            seconds[name] = {side: statistics.median(times) for side, times in sides.items()}
    for name, sides in seconds.items():
        ratio = sides["kernel"] / sides["release"]
        print(f"{name:10} kernel {sides['kernel'] * 1e3:7.1f} ms   release build {sides['release'] * 1e3:7.1f} ms   ratio {ratio:.2f}")
        yield {"name": f"in the kernel: {name}", "ours_s": sides["kernel"], "release_s": sides["release"], "ratio": ratio}


def a_readers_waits():
    with Kernel() as kernel:
        # The sum of what the reader waits for, without what the measurement adds.
        first, everything, cells = None, kernel.started_in, code_cells(read(NOTEBOOKS / "01_forward.ipynb"))
        print(f"kernel starts in {kernel.started_in:.1f} s")
        for cell in cells:
            output = kernel.run(cell.source)
            everything += output.seconds
            if first is None and any(mime.startswith("image/") for mime in output.data):
                first = everything
        small = statistics.median(kernel.run(f"let small_{i} = {i} + 1;").seconds for i in range(9))
    print(f"01_forward: first picture after {first:.1f} s (wanted: 30), all {len(cells)} cells in {everything:.1f} s")
    print(f"a small cell takes {small:.2f} s, the median of nine (wanted: 1.5)")
    yield {"name": "first picture of 01_forward", "ours_s": first}
    yield {"name": "all of 01_forward", "ours_s": everything}
    yield {"name": "a small cell", "ours_s": small}
