#!/usr/bin/env python3
"""Sets up the Rust notebooks and opens them. Called by the Makefile: `make lab`.

    lab.py setup [--features cuda]      install .venv, the Rust kernel and its build cache
    lab.py open [--features cuda] ...   the same, then JupyterLab on the first notebook; further options go to JupyterLab
    lab.py register [--features cuda]   the same as setup, then register the kernel for every Jupyter of this user
    lab.py unregister                   remove that registration
    lab.py toolkit                      install the CUDA toolkit alone, for the command line
    lab.py cargo COMMAND ...            cargo as the kernel calls it, so that the tests share the kernel's build of the dependencies
    lab.py kernel CACHE KERNEL ...      what Jupyter runs: start the kernel on a copy of the build cache

Everything stays inside the project: .venv (JupyterLab and its kernelspec), .evcxr (the kernel, unless evcxr_jupyter of the
right version is on PATH), .lab (the kernel's build cache) and .cuda (see cuda_toolkit.py). The exceptions are cargo's own cache
and what `register` writes. An interrupted step is resumed by the next call. Standard library only.
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NOTEBOOKS, VENV, EVCXR, LAB = ROOT / "notebooks", ROOT / ".venv", ROOT / ".evcxr", ROOT / ".lab"
FIRST = "01_forward.ipynb"
KERNELS = LAB / "kernels"
JUPYTER = VENV / "share" / "jupyter"
# The kernel that `make kernel` registers for the user's own Jupyter.
USER_KERNEL, USER_KERNEL_TITLE = "rust-diffusion", "Rust (diffusion)"
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
    requirements = ROOT / "requirements.txt"
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


def find_kernel(features):
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
    ahead = build_ahead(features)
    try:
        subprocess.run(install + ["--version", "^" + dotted(KERNEL), "evcxr_jupyter"], check=True)
    except BaseException:
        if ahead:
            ahead.terminate()
        raise
    shutil.rmtree(build, ignore_errors=True)
    return own


def jupyter_environment(base=os.environ):
    """The environment in which Jupyter takes our kernel `rust`, whatever other kernels of that name this machine has."""
    paths = filter(None, (str(JUPYTER), base.get("JUPYTER_PATH")))
    return {**base, "JUPYTER_PATH": os.pathsep.join(paths), "JUPYTER_PREFER_ENV_PATH": "1"}


def register_kernel(kernel, features):
    """Writes the kernelspec `rust` into .venv, where only this JupyterLab sees it."""
    spec = JUPYTER / "kernels" / "rust" / "kernel.json"
    if not spec.is_file():
        environment = dict(os.environ, JUPYTER_PATH=str(JUPYTER))
        subprocess.run([str(kernel), "--install"], check=True, env=environment, stdout=subprocess.DEVNULL)
    write_kernelspec(spec, "Rust", kernel, features)


def write_kernelspec(spec, title, kernel, features):
    # evcxr reads this folder in place of the user's own, and its evcxr.toml where the notebook's folder has none.
    config = LAB / "-".join(["evcxr", *(features or ["cpu"])])
    config.mkdir(parents=True, exist_ok=True)
    shutil.copy(NOTEBOOKS / "evcxr.toml", config / "evcxr.toml")
    (config / "init.evcxr").write_text(first_lines(features) if features else "")
    spec.write_text(json.dumps({
        "argv": [sys.executable, str(HERE / "lab.py"), "kernel", str(cache(features)[0]), str(kernel),
                 "--control_file", "{connection_file}"],
        "display_name": title,
        "language": "rust",
        "interrupt_mode": "message",
        # CARGO_FOLDER: an editor that was started from a menu may have a PATH without cargo.
        # CANDLE_NUM_THREADS: the threads of candle's elementwise operations would take the cores from those of diffusion-core.
        "env": {"EVCXR_CONFIG_DIR": str(config), "JUPYTER_PATH": str(JUPYTER), "CANDLE_NUM_THREADS": "1",
                "CARGO_FOLDER": str(Path(shutil.which("cargo")).parent)},
    }, indent=2))


def user_kernels(environment=os.environ):
    """Where every Jupyter of this user looks for kernels: `kernels` in Jupyter's data folder."""
    if folder := environment.get("JUPYTER_DATA_DIR"):
        return Path(folder) / "kernels"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Jupyter" / "kernels"
    return Path(environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "jupyter" / "kernels"


def register_for_user(features):
    """Makes the kernel known to the user's own JupyterLab, VS Code and nbconvert."""
    setup(features)
    folder = user_kernels() / USER_KERNEL
    folder.mkdir(parents=True, exist_ok=True)
    for logo in (JUPYTER / "kernels" / "rust").glob("logo-*.png"):
        shutil.copy(logo, folder)
    write_kernelspec(folder / "kernel.json", USER_KERNEL_TITLE, find_kernel(features), features)
    print(f"The kernel \"{USER_KERNEL_TITLE}\" is registered in {folder}.\n"
          "Choose it in JupyterLab (the kernel's name, top right) or in VS Code (Select Kernel > Jupyter Kernel).\n"
          "It uses the build in this folder: after a change to the crate, or if the folder is moved, run `make kernel` again.\n"
          "`make kernel-remove` removes it.", flush=True)


def unregister_for_user(clean=False):
    """Removes what `register_for_user` wrote. `make clean` leaves another folder's registration alone, and says less."""
    folder = user_kernels() / USER_KERNEL
    spec = folder / "kernel.json"
    ours = spec.is_file() and json.dumps(str(HERE / "lab.py")) in spec.read_text()
    if folder.is_dir() and (ours or not clean):
        shutil.rmtree(folder)
        print(f"The kernel \"{USER_KERNEL_TITLE}\" was removed from {folder}.")
    elif not clean:
        print(f"The kernel \"{USER_KERNEL_TITLE}\" is not registered: there is no {folder}.")


def first_lines(features):
    """What every kernel does first. A second dependency that enables a feature of diffusion-core enables it for the notebooks'
    `:dep` too: this is the one place where the device is chosen. evcxr builds it before it reads the prelude of evcxr.toml, so
    the build settings of the prelude are repeated here: otherwise every start of a kernel would build the crate in two ways."""
    build = re.findall(r"^:build_env .*\n", (NOTEBOOKS / "evcxr.toml").read_text(), re.M)
    return "".join(build) + feature_package(features)


def feature_package(features):
    package = LAB / "-".join(["features", *features])
    (package / "src").mkdir(parents=True, exist_ok=True)
    write_if_changed(package / "src" / "lib.rs", "")
    core = json.dumps(str(ROOT / "diffusion-core"))
    write_if_changed(
        package / "Cargo.toml",
        '[package]\nname = "diffusion-features"\nversion = "0.0.0"\nedition = "2024"\n\n[workspace]\n\n'
        f"[dependencies]\ndiffusion-core = {{ path = {core}, features = {json.dumps(list(features))} }}\n")
    return f":dep diffusion-features = {{ path = {json.dumps(str(package))} }}\n"


def write_if_changed(file, text):
    """cargo builds again what is newer than its build, even if nothing in it has changed."""
    if not file.is_file() or file.read_text() != text:
        file.write_text(text)


def building_environment(features, **more):
    """What cargo and the kernel see."""
    base = dict(os.environ, **more)
    return cuda_toolkit.environment(base=base) if "cuda" in features else base


def is_fresh(folder, features):
    """Whether cargo would compile nothing if the kernel built diffusion-core in this folder.

    Only cargo knows: it goes by time stamps, so that a `git checkout` or a copy of the sources makes it build again what has not
    changed. It is asked with the kernel's settings (evcxr's Config::cargo_command) and a rustc that refuses to compile."""
    refuse = LAB / "refuse"
    write_if_changed(refuse, '#!/bin/sh\n# rustc that answers questions, but compiles nothing.\n'
                             'case "$*" in *"--crate-name ___"* | *-vV*) exec "$@" ;; esac\nexit 1\n')
    refuse.chmod(0o755)
    command, environment = kernels_cargo(folder, features)
    environment |= {"RUSTC_WRAPPER": str(refuse), "CARGO_CACHE_RUSTC_INFO": "0"}  # what cargo keeps of rustc is without the wrapper
    return subprocess.run([*command, "--offline"], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode == 0


def kernels_cargo(folder, features):
    """The command by which the kernel builds diffusion-core in `folder`, without a cell's code, and its environment."""
    host, flags = target_and_flags()
    settings = dict(re.findall(r"^:build_env (\w+)=(.*)$", (NOTEBOOKS / "evcxr.toml").read_text(), re.M))
    packages = ["diffusion-core", *(["diffusion-features"] if features else [])]
    command = ["cargo", "build", "--target", host, *(part for name in packages for part in ("--package", name))]
    return command, building_environment(features, CARGO_TARGET_DIR="target", CARGO_BUILD_BUILD_DIR="target", RUSTFLAGS=flags, **settings)


def target_and_flags():
    """The target and the RUSTFLAGS with which the kernel builds."""
    host = re.search(r"^host: (.+)$", rustc_version(), re.M)[1]
    mold, lld = (sys.platform != "darwin" and shutil.which(linker) for linker in ("mold", "lld"))
    return host, "-Cprefer-dynamic" + (" -Clink-arg=-fuse-ld=lld" if lld and not mold else "")


def run_cargo(features, arguments):
    """Runs a cargo command on the workspace for the kernel's target and with its flags. If nothing has been built so yet, the
    kernel's build is copied first: cargo finds the dependencies in it, as their settings in Cargo.toml are the kernel's."""
    host, flags = target_and_flags()
    ready, target = cache(features)[0] / "target", ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
    if ready.is_dir() and not (target / host).exists():
        copy_cache(ready, target)
    command = ["cargo", arguments[0], "--target", host, *arguments[1:]]
    return subprocess.run(command, cwd=ROOT, env=building_environment(features, RUSTFLAGS=flags)).returncode


def build_ahead(features):
    """Starts cargo on what the kernel will build first, while the kernel itself is built, which keeps two cores busy only part of
    the time. Later the kernel waits for it and finds everything up to date. Says nothing: what fails here fails there again, visibly."""
    folder, _ = cache(features)
    if folder.exists():
        return None
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "lib.rs").write_text("")
    paths = {"diffusion-core": ROOT / "diffusion-core"}
    if features:
        first_lines(features)  # writes the package
        paths["diffusion-features"] = LAB / "-".join(["features", *features])
    (folder / "Cargo.toml").write_text(KERNELS_MANIFEST + "".join(
        f"{name} = {{ path = {json.dumps(str(path))} }}\n" for name, path in paths.items()))
    shutil.copy(ROOT / "Cargo.lock", folder)
    command, environment = kernels_cargo(folder, features)
    return subprocess.Popen([*command, "--quiet"], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


# The manifest that evcxr writes, up to its dependencies; the lines of the profile are the same.
KERNELS_MANIFEST = """[package]
name = "ctx"
version = "1.0.0"
edition = "2024"

[lib]
crate-type = ["cdylib"]
path = "src/lib.rs"

[profile.dev]
opt-level = 3
debug = false
strip = "debuginfo"
rpath = true
lto = false
debug-assertions = true
codegen-units = 16
panic = 'unwind'
incremental = true
overflow-checks = true

[dependencies]
"""


def rustc_version():
    return subprocess.check_output(["rustc", "-vV"]).decode()


def fill_cache(kernel, features):
    """Lets the kernel itself build what the notebooks depend on, in the folder that later kernels start from."""
    folder, stamp = cache(features)
    toolkit = (cuda_toolkit.OWN / "toolkit.json").read_text() if "cuda" in features else ""
    want = digest(kernel, features, toolkit, rustc_version(), NOTEBOOKS / "evcxr.toml", ROOT / "Cargo.lock", HERE / "bin" / "cargo")
    same_settings = stamped(stamp, want)
    if same_settings and is_fresh(folder, features):
        return
    length = "half an hour, as nvcc compiles candle's kernels" if "cuda" in features else "3 to 10 minutes"
    print("The sources of diffusion-core are newer than the kernel's build of it. Building it again …" if same_settings else
          f"Building diffusion-core for the kernel. The first time this takes {length} …", flush=True)
    began = time.time()
    stamp.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Cargo.lock").unlink(missing_ok=True)  # bin/cargo puts the project's in its place
    script = "from lab import warm_up; warm_up()"
    environment = building_environment(features, **jupyter_environment({}), PYTHONPATH=str(HERE), EVCXR_TMPDIR=str(folder))
    code = subprocess.run([str(VENV / "bin" / "python"), "-c", script], env=environment).returncode
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise Problem("the kernel could not build diffusion-core: see the messages above. Fix what they name, then run the same command.")
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
    manager.start_kernel(cwd=str(NOTEBOOKS), stdout=subprocess.DEVNULL)  # what it compiles goes to stderr
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
        manager.shutdown_kernel()
        client.stop_channels()
    sys.exit(1 if failed else 0)


def setup(features):
    check_tools(features)
    LAB.mkdir(exist_ok=True)
    if "cuda" in features:
        cuda_toolkit.choose()
    make_venv()
    kernel = find_kernel(features)
    register_kernel(kernel, features)
    fill_cache(kernel, features)


def open_lab(features, arguments):
    setup(features)
    os.chdir(ROOT)
    command = lab_command(arguments)
    os.execve(command[0], command, jupyter_environment())


def lab_command(arguments):
    """JupyterLab on the first notebook. The address that it prints leads there, too."""
    command = [str(VENV / "bin" / "jupyter"), "lab", f"--LabApp.default_url=/lab/tree/{FIRST}"]
    if os.geteuid() == 0 and "--allow-root" not in arguments:
        command.append("--allow-root")
        usual = not any(re.match(r"--(\w+\.)?(ip|token|password)\b", argument) for argument in arguments)
        print("You are root, so JupyterLab is started with --allow-root"
              + (". It listens on localhost only and asks for the token in the address below." if usual else "."), flush=True)
    return [*command, *arguments, str(NOTEBOOKS / FIRST)]


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
    shutil.copytree(folder, target, copy_function=place, ignore=leave_out, symlinks=True, dirs_exist_ok=True)


def with_locked_cargo(base):
    """The environment in which the kernel finds bin/cargo in place of cargo: see there."""
    ours = str(HERE / "bin")
    # CARGO_FOLDER is where cargo was when the kernel was registered.
    folders = dict.fromkeys((*base.get("PATH", "").split(os.pathsep), base.get("CARGO_FOLDER")))
    path = [folder for folder in folders if folder and folder != ours]
    cargo, rustup = (shutil.which(tool, path=os.pathsep.join(path)) for tool in ("cargo", "rustup"))
    if cargo is None:
        sys.exit(f"The Rust kernel needs cargo, which was not found. Install Rust from https://rustup.rs, then run `make kernel` in {ROOT}.")
    if rustup:  # behind its stand-in, which takes longer
        asked = subprocess.run([rustup, "which", "cargo"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        cargo = asked.stdout.strip() if asked.returncode == 0 else cargo
    home = base.get("CARGO_HOME") or str(Path.home() / ".cargo")
    # rust-analyzer looks for cargo in $CARGO_HOME/bin before it looks in PATH. bin/cargo puts the true CARGO_HOME back.
    return {**base, "PATH": os.pathsep.join([ours, *path]), "LAB_CARGO": cargo, "LAB_RUSTUP": rustup or "",
            "CARGO_HOME": str(HERE), "LAB_CARGO_HOME": base["LAB_CARGO_HOME"] if home == str(HERE) else home,
            "LAB_PYTHON": sys.executable, "LAB_LOCK": str(ROOT / "Cargo.lock")}


def run_kernel(ready, command):
    """Starts the kernel in a build folder of its own, a copy of `ready`, and removes that when the kernel ends."""
    if not Path(command[0]).is_file():
        sys.exit(f"The Rust kernel {command[0]} does not exist. Run `make kernel` in {ROOT} to set it up again.")
    environment = with_locked_cargo(os.environ)
    if "EVCXR_TMPDIR" in environment:  # this kernel is to fill the cache
        os.execve(command[0], command, environment)
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
    child = subprocess.Popen(command, env=building_environment(features, **dict(environment, EVCXR_TMPDIR=str(own))))
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


ACTIONS = ("setup", "open", "register", "unregister", "toolkit", "cargo", "kernel")


def main(arguments):
    if not arguments or arguments[0] not in ACTIONS:
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
        elif action == "cargo":
            return run_cargo(features, rest)
        elif action == "register":
            register_for_user(features)
        elif action == "unregister":
            unregister_for_user(clean="--clean" in rest)
        else:
            open_lab(features, rest)
    except Problem as problem:
        sys.exit(f"make: {problem}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"make: `{' '.join(map(str, error.cmd))}` failed (exit status {error.returncode}): see its messages above. "
                 "Fix what they name, then run the same command: it resumes here.")
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run the same command to resume.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
