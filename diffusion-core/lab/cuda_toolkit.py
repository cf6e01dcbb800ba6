"""The CUDA toolkit that candle is built with and runs on: the machine's own, or NVIDIA's packages from PyPI in .cuda.

A toolkit is a folder with `bin/nvcc`, `include`, `nvvm` and `lib64`. What was chosen is kept in .cuda/toolkit.json, for the
kernel, and in .cuda/env, for a shell (`. .cuda/env`). Standard library only.
"""
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
OWN = ROOT / ".cuda"

# All of one version: parts of different versions do not work together (ptxas refuses what nvcc wrote). Kernels come as PTX, which
# a driver takes if it is of this version of CUDA or newer. The packages of CUDA 12 lack nvcc, so no older one can be had there.
VERSION = (13, 0)
PACKAGES = (
    "nvidia-cuda-nvcc==13.0.88", "nvidia-nvvm==13.0.88", "nvidia-cuda-crt==13.0.88", "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-nvrtc==13.0.88", "nvidia-cublas==13.0.2.14", "nvidia-curand==10.4.0.35",
    "nvidia-cudnn-cu13==9.28.0.42",
)
DOWNLOAD, ON_DISK = "1.2 GB", "2.2 GB"
# The oldest GPUs (compute capability) that this version of nvcc compiles for.
OLDEST = 75
USUAL = 80
ELSEWHERE = ("/usr/local/cuda", "/opt/cuda")


class Problem(Exception):
    """Something that the user can mend; the message says how."""


def find(environment=os.environ):
    """The folder of the machine's own toolkit, or None. $CUDA_HOME, $CUDA_PATH, nvcc on PATH, the usual places, in this order."""
    named = [environment.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    nvcc = shutil.which("nvcc", path=environment.get("PATH"))
    named.append(Path(nvcc).resolve().parent.parent if nvcc else None)
    for folder in filter(None, (*named, *ELSEWHERE)):
        if (Path(folder) / "bin" / "nvcc").is_file():
            return Path(folder)
    return None


def ask_driver(*arguments):
    """What nvidia-smi prints; nothing where there is no driver."""
    try:
        out = subprocess.run(["nvidia-smi", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return out.stdout.decode(errors="replace") if out.returncode == 0 else ""


def driver_version():
    """The newest CUDA that the driver knows, (13, 0) say; None where it does not tell."""
    found = re.search(r"CUDA\D* Version\s*:\s*(\d+)\.(\d+)", ask_driver())
    return tuple(map(int, found.groups())) if found else None


def compute_capability():
    """Of the first GPU, 90 for 9.0; None where no driver tells."""
    found = re.match(r"\s*(\d+)\.(\d)\s*$", (ask_driver("--query-gpu=compute_cap", "--format=csv,noheader").splitlines() or [""])[0])
    return int("".join(found.groups())) if found else None


def check_packages(driver, capability):
    """Whether the packages on PyPI serve this machine."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"):
        raise Problem("FEATURES=cuda: no CUDA toolkit was found (nvcc on PATH, CUDA_HOME, CUDA_PATH), and it can be installed "
                      "by itself on Linux only (x86_64, aarch64).")
    wanted = ".".join(map(str, VERSION))
    if driver and driver < VERSION:
        has = ".".join(map(str, driver))
        raise Problem(f"FEATURES=cuda: the driver knows CUDA up to {has}, and the toolkit that would be installed is {wanted}. Update the "
                      f"driver (580 or newer), or install the CUDA toolkit {has} and set CUDA_HOME to its folder.")
    if capability and capability < OLDEST:
        raise Problem(f"FEATURES=cuda: CUDA {wanted}, which would be installed, knows GPUs from compute capability {OLDEST / 10} on, and this "
                      f"one has {capability / 10}. Install a CUDA toolkit 12 and set CUDA_HOME to its folder.")


def install(own=OWN):
    """Downloads the packages and arranges them as a toolkit, unless that was done."""
    home, stamp, wanted = own / "toolkit", own / "packages.stamp", "\n".join((*PACKAGES, sys.version))
    if stamp.is_file() and stamp.read_text() == wanted:
        return home
    print(f"There is no CUDA toolkit (nvcc on PATH, CUDA_HOME, CUDA_PATH). Installing NVIDIA's packages of CUDA "
          f"{'.'.join(map(str, VERSION))} from PyPI into {own.name}:\n{DOWNLOAD} to download, {ON_DISK} on disk (and {DOWNLOAD} more meanwhile), once. "
          "NVIDIA's licence applies to them: https://docs.nvidia.com/cuda/eula", flush=True)
    began = time.time()
    stamp.unlink(missing_ok=True)
    shutil.rmtree(home, ignore_errors=True)
    venv, downloads = own / "packages", own / "downloads"
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    # What was downloaded before an interruption is kept until all is there.
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--cache-dir", str(downloads)]
    subprocess.run([*pip, "--no-deps", "--only-binary", ":all:", *PACKAGES], check=True)
    arrange(next(venv.glob("lib/python*/site-packages/nvidia")), home)
    shutil.rmtree(downloads, ignore_errors=True)
    stamp.write_text(wanted)
    print(f"… done in {time.time() - began:.0f} s.", flush=True)
    return home


def arrange(packages, home):
    """One folder of links as compilers expect it, from the several folders of NVIDIA's packages."""
    main = packages / f"cu{VERSION[0]}"
    stubs = home / "lib64" / "stubs"
    stubs.mkdir(parents=True)

    def link(name, target):
        name.symlink_to(os.path.relpath(target, name.parent))

    for part in ("bin", "include", "nvvm"):
        link(home / part, main / part)
    for library in sorted(p for p in packages.glob("*/lib/lib*") if p.is_file()):
        link(home / "lib64" / library.name, library)
        # The linker wants a name without a version.
        short = home / "lib64" / re.sub(r"\.so(\.[0-9.]+)?$", ".so", library.name)
        if not short.is_symlink():
            link(short, library)
    # The driver's library is where the GPU is. The crate calls it without linking to it; only the linker asks for the name.
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-nostdlib", "-Wl,-soname,libcuda.so.1", "-x", "c", os.devnull,
                    "-o", str(stubs / "libcuda.so")], check=True)


def choose(own=OWN, environment=os.environ):
    """Finds or installs a toolkit, and keeps what was chosen for the kernel and for shells."""
    home, capability = find(environment), compute_capability()
    if home is None or (own / "toolkit") == home:
        check_packages(driver_version(), capability)
        own.mkdir(exist_ok=True)
        home = install(own)
    said = environment.get("CUDA_COMPUTE_CAP", "").replace(".", "")
    if not said and capability is None and (own / "toolkit.json").is_file():
        said = json.loads((own / "toolkit.json").read_text())["compute_cap"]  # as it was said, or assumed, before
    if not said and capability is None:
        print(f"No driver tells what the GPU is: building for compute capability {USUAL / 10} and newer; CUDA_COMPUTE_CAP=90, say, "
              "chooses another.", flush=True)
    own.mkdir(exist_ok=True)
    chosen = {"home": str(home), "compute_cap": said or str(capability or USUAL)}
    (own / "toolkit.json").write_text(json.dumps(chosen))
    values = fixed(chosen)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    lines += [f'export {name}={shlex.quote(folder)}"${{{name}:+:${name}}}"' for name, folder in searched(chosen).items()]
    (own / "env").write_text("# For a shell: `. .cuda/env`. Written by `make … FEATURES=cuda`.\n" + "\n".join(lines) + "\n")
    return chosen


def fixed(chosen):
    home = chosen["home"]
    return {"CUDA_HOME": home, "CUDA_PATH": home, "CUDA_ROOT": home, "CUDA_COMPUTE_CAP": chosen["compute_cap"]}


def searched(chosen):
    """The variables that list folders, and what comes first in each."""
    home = Path(chosen["home"])
    libraries = str(home / "lib64")
    return {"PATH": str(home / "bin"), "LIBRARY_PATH": libraries, "LD_LIBRARY_PATH": libraries}


def environment(own=OWN, base=os.environ):
    """The environment in which cargo builds with CUDA, and in which what it builds runs."""
    chosen = json.loads((own / "toolkit.json").read_text())
    lists = {name: os.pathsep.join(filter(None, (first, base.get(name)))) for name, first in searched(chosen).items()}
    return {**base, **fixed(chosen), **lists}
