#!/usr/bin/env python3
"""Sets up the Rust notebooks and opens them. Called by the Makefile: `make lab`.

    lab.py setup [--features cuda]      .venv, the Rust kernel, its build cache
    lab.py open [--features cuda] ...   the same, then JupyterLab on the first notebook; further options go to JupyterLab
    lab.py toolkit                      the CUDA toolkit alone, for the command line
    lab.py kernel CACHE KERNEL ...      what Jupyter runs: starts the kernel on a copy of the build cache

Everything stays inside the project: .venv (JupyterLab and the kernel's registration), .evcxr (the kernel, unless a
fitting one is on PATH), .lab (the kernel's build cache) and .cuda (see cuda_toolkit.py). Only cargo's own cache lies elsewhere.
Any step that was interrupted is taken up again by the next call. Standard library only.
"""
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cuda_toolkit
from cuda_toolkit import Problem

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS, VENV, EVCXR, LAB = ROOT / "notebooks", ROOT / ".venv", ROOT / ".evcxr", ROOT / ".lab"
FIRST = "01_forward.ipynb"
KERNELS = LAB / "kernels"
PYTHON, RUST, KERNEL = (3, 10), (1, 95), (0, 22)
FEATURES = ("cuda", "metal")
INTERRUPTED = 130


def dotted(version):
    return ".".join(map(str, version))


def version_of(command):
    """The first x.y in what `command` prints, or None if it cannot be run."""
    try:
        out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60).stdout.decode()
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(\d+)\.(\d+)", out)
    return tuple(map(int, found.groups())) if found else None


def check_tools(features):
    """Rust, Python and its venv module, before anything is built."""
    if sys.version_info[:2] < PYTHON:
        raise Problem(f"Python {dotted(sys.version_info[:2])} is too old: install Python {dotted(PYTHON)} or newer "
                      "(https://www.python.org/downloads/), or name one with `make PYTHON=/path/to/python3`.")
    try:
        import ensurepip  # noqa: F401  (what `python -m venv` lacks on Debian and Ubuntu)
        import venv  # noqa: F401
    except ImportError:
        raise Problem("Python's venv module is missing: install it (Debian, Ubuntu: `sudo apt install python3-venv`).") from None
    for tool in ("rustc", "cargo"):
        version = version_of([tool, "--version"])
        if version is None:
            raise Problem(f"{tool} was not found: install Rust from https://rustup.rs, open a new terminal, and try again.")
        if version < RUST:
            raise Problem(f"{tool} {dotted(version)} is too old: {dotted(RUST)} or newer is needed; run `rustup update stable`.")
    unknown = [f for f in features if f not in FEATURES]
    if unknown:
        raise Problem(f"FEATURES={','.join(features)}: there is no feature '{unknown[0]}'; choose from {', '.join(FEATURES)}.")
    if "metal" in features and sys.platform != "darwin":
        raise Problem("FEATURES=metal: Metal exists on Apple machines only, where it is on without a flag.")


def digest(*parts):
    """A hash of strings and of files' contents."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part.read_bytes() if isinstance(part, Path) and part.is_absolute() else str(part).encode())
        h.update(b"\0")
    return h.hexdigest()


def cache(features):
    """The folder of a kernel's build, ready made, and the file that says of what it was made; one for each device."""
    folder = LAB / "-".join(["build", *(features or ["cpu"])])
    return folder, folder.with_suffix(".stamp")


def stamped(stamp, value):
    return stamp.is_file() and stamp.read_text() == value


def make_venv():
    requirements = NOTEBOOKS.parent / "requirements.txt"
    stamp, want = VENV / "requirements.stamp", digest(requirements, sys.version)
    if stamped(stamp, want):
        return
    print(f"Installing JupyterLab into {VENV.relative_to(ROOT)} …", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(pip + ["-r", str(requirements)], check=True)
    stamp.write_text(want)


def kernel_version(binary):
    """From the list that `cargo install` keeps beside its bin folder: the kernel itself has no option that tells."""
    listed = binary.parent.parent / ".crates.toml"
    found = re.search(r'"evcxr_jupyter (\d+)\.(\d+)', listed.read_text()) if binary.is_file() and listed.is_file() else None
    return tuple(map(int, found.groups())) if found else None


def find_kernel():
    """The path of an evcxr_jupyter of the right version: the user's, else the project's own, built if need be."""
    own = EVCXR / "bin" / "evcxr_jupyter"
    for candidate in filter(None, (shutil.which("evcxr_jupyter"), str(own))):
        if kernel_version(Path(candidate)) == KERNEL:
            return Path(candidate)
    print(f"Building the Rust kernel, evcxr_jupyter {dotted(KERNEL)}, into {EVCXR.relative_to(ROOT)}.\n"
          "This happens once and takes some 3 to 15 minutes; cargo shows how far it is.", flush=True)
    # The build folder is kept until the end, so that an interrupted build goes on where it was.
    build = EVCXR / "build"
    install = ["cargo", "install", "--locked", "--root", str(EVCXR), "--target-dir", str(build)]
    subprocess.run(install + ["--version", "^" + dotted(KERNEL), "evcxr_jupyter"], check=True)
    shutil.rmtree(build, ignore_errors=True)
    return own


def register_kernel(kernel, features):
    """Writes the kernelspec `rust` into .venv, where only this JupyterLab sees it."""
    jupyter = VENV / "share" / "jupyter"
    spec, config = jupyter / "kernels" / "rust" / "kernel.json", LAB / "evcxr"
    environment = dict(os.environ, JUPYTER_PATH=str(jupyter))
    if not spec.is_file():
        subprocess.run([str(kernel), "--install"], check=True, env=environment, stdout=subprocess.DEVNULL)
    # evcxr reads this folder in place of the user's own.
    config.mkdir(parents=True, exist_ok=True)
    (config / "init.evcxr").write_text(first_lines(features) if features else "")
    spec.write_text(json.dumps({
        "argv": [sys.executable, str(Path(__file__).resolve()), "kernel", str(cache(features)[0]), str(kernel),
                 "--control_file", "{connection_file}"],
        "display_name": "Rust",
        "language": "rust",
        "interrupt_mode": "message",
        "env": {"EVCXR_CONFIG_DIR": str(config), "JUPYTER_PATH": str(jupyter)},
    }, indent=2))


def first_lines(features):
    """What every kernel does first. A second dependency that asks diffusion-core for a feature turns it on for the notebooks'
    `:dep` too: this is the one place where the device is chosen. It is built before evcxr reads the prelude of evcxr.toml, so
    what that says of the build is said here, too: else every start of a kernel would build the crate in two ways."""
    build = re.findall(r"^:build_env .*\n", (NOTEBOOKS / "evcxr.toml").read_text(), re.M)
    return "".join(build) + feature_package(features)


def feature_package(features):
    package = LAB / "features"
    (package / "src").mkdir(parents=True, exist_ok=True)
    (package / "src" / "lib.rs").write_text("")
    core = json.dumps(str(ROOT / "diffusion-core"))
    (package / "Cargo.toml").write_text(
        '[package]\nname = "diffusion-features"\nversion = "0.0.0"\nedition = "2024"\n\n[workspace]\n\n'
        f"[dependencies]\ndiffusion-core = {{ path = {core}, features = {json.dumps(list(features))} }}\n")
    return f":dep diffusion-features = {{ path = {json.dumps(str(package))} }}\n"


def building_environment(features, **more):
    """What cargo and the kernel see."""
    base = dict(os.environ, **more)
    return cuda_toolkit.environment(base=base) if "cuda" in features else base


def fill_cache(kernel, features):
    """Lets the kernel itself build what the notebooks depend on, in the folder that later kernels start from."""
    folder, stamp = cache(features)
    sources = sorted(p for p in (ROOT / "diffusion-core").rglob("*") if p.is_file() and "target" not in p.parts)
    toolkit = (cuda_toolkit.OWN / "toolkit.json").read_text() if "cuda" in features else ""
    want = digest(kernel, features, toolkit, subprocess.check_output(["rustc", "-vV"]).decode(),
                  NOTEBOOKS / "evcxr.toml", ROOT / "Cargo.lock", *(part for path in sources for part in (path.relative_to(ROOT), path)))
    if stamped(stamp, want):
        return
    first_time = not stamp.is_file()
    length = "half an hour, as nvcc compiles candle's kernels" if "cuda" in features else "3 to 10 minutes"
    print("Building diffusion-core as the kernel does" + (f": once, some {length} …" if first_time else " …"), flush=True)
    began = time.time()
    stamp.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    # The versions that the project was tested with.
    shutil.copy(ROOT / "Cargo.lock", folder / "Cargo.lock")
    script = "from lab import warm_up; warm_up()"
    environment = building_environment(features, PYTHONPATH=str(NOTEBOOKS), EVCXR_TMPDIR=str(folder))
    code = subprocess.run([str(VENV / "bin" / "python"), "-c", script], env=environment).returncode
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise Problem("The kernel could not build diffusion-core: see the messages above. Run the command again once that is mended.")
    stamp.write_text(want)
    print(f"… done in {time.time() - began:.0f} s.", flush=True)


def warm_up():
    """Runs the first notebook's `:dep` cell in the real kernel, which says what it compiles. (Inside .venv.)"""
    from jupyter_client.manager import KernelManager  # only .venv has it

    cells = json.loads((NOTEBOOKS / FIRST).read_text())["cells"]
    dep = next("".join(c["source"]) for c in cells if c["cell_type"] == "code" and ":dep" in "".join(c["source"]))
    failed, began = [], time.time()
    ended = "The kernel has ended in the middle of the build; if memory is short, close other programs."

    def watch():
        told = began
        while manager.is_alive():
            time.sleep(1)
            if time.time() - told >= 20:
                told = time.time()
                print(f"  … {told - began:.0f} s; candle and diffusion-core come last and take longest", flush=True)
        if not over.is_set():
            print(ended, flush=True)
            os._exit(1)  # the main thread waits for an answer that will not come

    def show(message):
        if message["msg_type"] == "error":
            failed.append(message)
            print("\n".join(message["content"]["traceback"]), flush=True)

    manager, over = KernelManager(kernel_name="rust"), threading.Event()
    manager.start_kernel(cwd=str(NOTEBOOKS))
    threading.Thread(target=watch, daemon=True).start()
    client = manager.client()
    try:
        client.start_channels()
        try:
            client.wait_for_ready(timeout=3600)
        except RuntimeError:
            sys.exit(ended)
        # The second runs something, so that it shows here whether the library can be loaded.
        for code in (dep, "let _ = diffusion_core::device::best();"):
            if not failed:
                client.execute_interactive(code, output_hook=show, timeout=None)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        over.set()
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    sys.exit(1 if failed else 0)


def setup(features):
    check_tools(features)
    LAB.mkdir(exist_ok=True)
    if "cuda" in features:
        cuda_toolkit.choose()
    make_venv()
    kernel = find_kernel()
    register_kernel(kernel, features)
    fill_cache(kernel, features)


def open_lab(features, arguments):
    if os.geteuid() == 0 and "--allow-root" not in arguments:
        raise Problem("JupyterLab does not start for root unless it is told to: make lab ARGS=\"--allow-root\".")
    setup(features)
    if "--no-browser" in arguments:
        print(f"In the address below, put /lab/tree/{FIRST} in the place of /lab to open the first notebook.", flush=True)
    environment = dict(os.environ, JUPYTER_PREFER_ENV_PATH="1")
    command = [str(VENV / "bin" / "jupyter"), "lab", *arguments, str(NOTEBOOKS / FIRST)]
    os.chdir(ROOT)
    os.execve(command[0], command, environment)


def copy_cache(folder, target):
    """A kernel's own build folder. Crates from the registry never change and are linked, everything else is copied."""
    def place(source, destination):
        name = os.path.basename(source)
        if name.endswith((".rlib", ".rmeta", ".so", ".dylib")) and not name.startswith(("libdiffusion", "libctx", "libcode")):
            try:
                os.link(source, destination)
                return destination
            except OSError:
                pass
        return shutil.copy2(source, destination)

    leave_out = shutil.ignore_patterns("incremental", "ctx-*", "libctx*", "libcode*", ".cargo-lock", "src")
    shutil.copytree(folder, target, copy_function=place, ignore=leave_out, symlinks=True)


def run_kernel(ready, command):
    """Starts the kernel in a build folder of its own, a copy of `ready`, and removes that when the kernel ends."""
    if "EVCXR_TMPDIR" in os.environ:  # this kernel is to fill the cache
        os.execv(command[0], command)
    KERNELS.mkdir(parents=True, exist_ok=True)
    for left in KERNELS.iterdir():  # by kernels that were killed
        if not alive(left.name):
            shutil.rmtree(left, ignore_errors=True)
    own = KERNELS / str(os.getpid())
    if ready.with_suffix(".stamp").is_file():
        copy_cache(ready, own)
    else:
        own.mkdir()
    features = ready.name.split("-")[1:]
    child = subprocess.Popen(command, env=building_environment(features, EVCXR_TMPDIR=str(own)))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: child.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Jupyter interrupts this kernel by message
    code = child.wait()
    shutil.rmtree(own, ignore_errors=True)
    return code


def alive(pid):
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def main(arguments):
    if not arguments or arguments[0] not in ("setup", "open", "toolkit", "kernel"):
        sys.exit(__doc__)
    action, rest = arguments[0], arguments[1:]
    if action == "kernel":
        return run_kernel(Path(rest[0]), rest[1:])
    features = []
    if rest[:1] == ["--features"]:
        features, rest = [f for f in re.split(r"[ ,]+", rest[1]) if f], rest[2:]
    try:
        if action == "toolkit":
            check_tools([])
            cuda_toolkit.choose()
        elif action == "setup":
            setup(features)
        else:
            open_lab(features, rest)
    except Problem as problem:
        sys.exit(f"make: {problem}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"make: `{' '.join(map(str, error.cmd))}` failed ({error.returncode}): see its messages above; "
                 "once mended, the same command goes on from here.")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from here.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
