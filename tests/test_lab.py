"""`make lab` says what is wrong and what to do before it builds anything, and goes on where it was stopped."""
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib

import psutil
import pytest
from kernel import DEP, NOTEBOOKS, ROOT, built, lab
import metadata  # in the folder of lab
from notebooks import code_cells, read


def tools(folder, **versions):
    """A PATH of `folder` alone, with commands that print these versions."""
    for name, version in versions.items():
        command = folder / name
        command.write_text(f"#!/bin/sh\necho {name} {version}\n")
        command.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("versions, sentence", [
    ({}, "rustc was not found: install Rust from https://rustup.rs"),
    ({"rustc": "1.94.1"}, "rustc 1.94 is too old: 1.95 or newer is needed; run `rustup update stable`"),
    ({"rustc": "1.95.0"}, "cargo was not found"),
    ({"rustc": "2.0.0", "cargo": "1.80.0"}, "cargo 1.80 is too old"),
])
def test_a_missing_or_old_rust_is_named_with_the_cure(tmp_path, monkeypatch, versions, sentence):
    monkeypatch.setenv("PATH", tools(tmp_path, **versions))
    with pytest.raises(lab.Problem, match=".*") as problem:
        lab.check_tools([])
    assert sentence in str(problem.value)


def test_an_old_python_is_named_with_the_cure(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 8, 10))
    with pytest.raises(lab.Problem, match="Python 3.8 is too old: install Python 3.10 or newer"):
        lab.check_tools([])


def test_a_missing_venv_module_is_named_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(lab.Problem, match="apt install python3-venv"):
        lab.check_tools([])


@pytest.mark.parametrize("features, sentence", [
    (["gpu"], "FEATURES=gpu: there is no feature 'gpu'; choose from cuda, metal"),
    pytest.param(["metal"], "Metal exists on Apple machines only",
                 marks=pytest.mark.skipif(sys.platform == "darwin", reason="this is one")),
])
def test_a_device_that_cannot_be_built_for_is_an_error(tmp_path, monkeypatch, features, sentence):
    monkeypatch.setenv("PATH", tools(tmp_path, rustc="1.95.0", cargo="1.95.0"))
    with pytest.raises(lab.Problem) as problem:
        lab.check_tools(features)
    assert sentence in str(problem.value)


@pytest.mark.parametrize("user, arguments, added, said", [
    (0, ["--no-browser"], ["--allow-root"], "with --allow-root. It listens on localhost only and asks for the token in the address below."),
    (0, ["--ip=0.0.0.0"], ["--allow-root"], "with --allow-root."),
    (0, ["--ServerApp.ip", "0.0.0.0"], ["--allow-root"], "with --allow-root."),
    (0, ["--allow-root"], [], ""),
    (1000, [], [], ""),
])
def test_jupyterlab_is_started_for_root_too(monkeypatch, capsys, user, arguments, added, said):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    command = lab.lab_command(arguments)
    assert command[1:] == ["lab", "--LabApp.default_url=/lab/tree/01_forward.ipynb", *added, *arguments, str(NOTEBOOKS / "01_forward.ipynb")]
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == bool(said) and printed.strip().endswith(said)


def test_jupyter_takes_the_projects_kernel_and_not_another_of_its_name(tmp_path):
    """JUPYTER_PATH goes before everything else, the user's own kernels before those of an environment."""
    for folder in ("path", "home"):
        spec = tmp_path / folder / "kernels" / "rust" / "kernel.json"
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps({"argv": ["no-kernel"], "display_name": "Rust", "language": "rust"}))
    base = dict(os.environ, JUPYTER_PATH=str(tmp_path / "path"), JUPYTER_DATA_DIR=str(tmp_path / "home"))
    ask = "from jupyter_client.kernelspec import get_kernel_spec as get; print(get('rust').resource_dir)"
    found = subprocess.check_output([lab.VENV / "bin" / "python", "-c", ask], env=lab.jupyter_environment(base), text=True)
    assert found.strip() == str(lab.JUPYTER / "kernels" / "rust")


def test_the_makefile_says_which_python_it_lacks():
    run = subprocess.run(["make", "lab", "PYTHON=no-such-python"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    assert "no-such-python was not found: install Python 3.10 or newer" in run.stdout


def test_a_problem_is_one_line_and_an_exit_status(tmp_path):
    command = [sys.executable, lab.__file__, "setup"]
    run = subprocess.run(command, env=dict(os.environ, PATH=str(tmp_path)), capture_output=True, text=True)
    assert run.returncode == 1 and len(run.stderr.splitlines()) == 1 and run.stderr.startswith("make: rustc")


def test_a_feature_is_built_as_the_notebooks_build_is(tmp_path, monkeypatch):
    """With other settings the kernel would build the crate twice at each start."""
    monkeypatch.setattr(lab, "LAB", tmp_path)
    *build, dependency = lab.first_lines(["cuda"]).splitlines()
    prelude = (NOTEBOOKS / "evcxr.toml").read_text().splitlines()
    assert build == [line for line in prelude if line.startswith(":build_env")] and len(build) == 2
    assert dependency.startswith(":dep diffusion-features = ")


def test_features_reach_the_crate_that_the_notebooks_depend_on(tmp_path, monkeypatch):
    """The kernel's manifest names diffusion-core without features; the package beside it turns them on for both."""
    monkeypatch.setattr(lab, "LAB", tmp_path)
    dependency = lab.feature_package(["cuda"]).removeprefix(":dep ")
    core = json.dumps(str(ROOT / "diffusion-core"))
    kernel = tmp_path / "kernels" / "1"
    (kernel / "src").mkdir(parents=True)
    (kernel / "src" / "lib.rs").touch()
    (kernel / "Cargo.toml").write_text(
        '[package]\nname = "ctx"\nversion = "1.0.0"\nedition = "2024"\n\n[dependencies]\n'
        f"diffusion-core = {{ path = {core} }}\n{dependency}")
    (kernel / "Cargo.lock").write_bytes((ROOT / "Cargo.lock").read_bytes())
    tree = subprocess.run(["cargo", "tree", "--edges", "features", "--depth", "9", "--prefix", "none"],
                          cwd=kernel, capture_output=True, text=True)
    assert 'candle-core feature "cuda"' in tree.stdout, tree.stderr


def test_cargo_would_build_nothing_in_the_cache():
    """It is asked just as the kernel would ask it: with other settings it would want to build everything."""
    assert lab.is_fresh(lab.cache([])[0], [])


def test_cargo_is_asked_whether_the_cache_is_up_to_date(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "LAB", tmp_path)
    core, folder = tmp_path / "core", tmp_path / "build"
    for package, name, more in ((core, "diffusion-core", ""), (folder, "ctx", '[dependencies]\ndiffusion-core = { path = "../core" }\n')):
        (package / "src").mkdir(parents=True)
        (package / "src" / "lib.rs").touch()
        (package / "Cargo.toml").write_text(f'[package]\nname = "{name}"\nversion = "1.0.0"\nedition = "2024"\n\n{more}')
    assert not lab.is_fresh(folder, []), "nothing is built yet"
    command, environment = lab.kernels_cargo(folder, [])
    subprocess.run(command, cwd=folder, env=environment, check=True)
    assert lab.is_fresh(folder, [])
    later = time.time() + 5
    os.utime(core / "src" / "lib.rs", (later, later))
    assert not lab.is_fresh(folder, []), "the same content with a newer time stamp, as after `git checkout`"
    assert not list(folder.glob("target/*/debug/deps/*.tmp*"))


def test_the_kernels_cargo_puts_the_projects_lock_in_place(tmp_path, monkeypatch):
    commands, build = tmp_path / "commands", tmp_path / "build"
    commands.mkdir()
    build.mkdir()
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    (tmp_path / "Cargo.lock").write_text('name = "diffusion-core"\n')
    base = {"PATH": "/usr/bin:/bin", "CARGO_FOLDER": tools(commands, cargo="is real"), "EVCXR_TMPDIR": str(build)}
    environment = lab.with_locked_cargo(base)
    assert lab.with_locked_cargo(environment) == environment, "not itself in place of cargo"

    def run(*command, folder=build):
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    ours = lab.HERE / "bin"
    assert run("cargo").stdout == "cargo is real\n"
    assert (build / "Cargo.lock").read_text() == 'name = "diffusion-core"\n'
    (build / "Cargo.lock").write_text('name = "diffusion-core"\nname = "added by the reader"\n')
    run("cargo")
    assert "added by the reader" in (build / "Cargo.lock").read_text()
    run("cargo", folder=commands)
    assert not (commands / "Cargo.lock").exists(), "only in the kernel's folder"
    assert run("rustup", "which", "cargo").stdout == f"{ours}/cargo\n"
    assert run("rustup", "which", "rustc").returncode == 1, "there is no rustup"
    tools(commands, rustup="is real")
    environment = lab.with_locked_cargo(base)
    assert run("rustup", "+nightly", "which", "cargo").stdout == "rustup is real\n"


def test_code_analysis_sees_what_cells_can_name(tmp_path, capfd):
    """diffusion-core and the packages that it hands out, and what the reader's own `:dep` needs, with all that is below."""
    for name, needs in {"ctx": f'diffusion-core = {{ path = "{lab.ROOT}/diffusion-core" }}\nmine = {{ path = "../mine" }}',
                        "mine": 'plotters = { version = "0.3", default-features = false }'}.items():
        (tmp_path / name / "src").mkdir(parents=True)
        (tmp_path / name / "src" / "lib.rs").touch()
        (tmp_path / name / "Cargo.toml").write_text(
            f'[package]\nname = "{name}"\nversion = "1.0.0"\nedition = "2024"\n[workspace]\n[dependencies]\n{needs}\n')
    shutil.copy(lab.ROOT / "Cargo.lock", tmp_path / "ctx")
    arguments = ["metadata", "--offline", "--format-version", "1", "--manifest-path", str(tmp_path / "ctx" / "Cargo.toml")]
    assert metadata.main("cargo", arguments) == 0
    seen = json.loads(capfd.readouterr().out)
    names = {package["name"] for package in seen["packages"]}
    assert {"ctx", "mine", "plotters", "plotters-backend", "diffusion-core", "diffusion-data", "candle-core", "candle-nn", "anyhow"} <= names
    assert not {"gemm", "image", "nalgebra", "rustls"} & names
    nodes = seen["resolve"]["nodes"]
    assert {node["id"] for node in nodes} == {package["id"] for package in seen["packages"]}
    assert {need["pkg"] for node in nodes for need in node["deps"]} < {node["id"] for node in nodes}


def test_metadata_of_other_packages_and_errors_pass_unchanged(tmp_path, capfd):
    assert metadata.main("cargo", ["metadata", "--manifest-path", str(tmp_path / "Cargo.toml")]) == 101
    assert "does not exist" in capfd.readouterr().err
    arguments = ["metadata", "--offline", "--format-version", "1", "--no-deps", "--manifest-path", str(lab.ROOT / "Cargo.toml")]
    assert metadata.main("cargo", arguments) == 0
    assert capfd.readouterr().out.encode() == subprocess.check_output(["cargo", *arguments])
    assert metadata.main("cargo", ["metadata", "--help"]) == 0
    assert "Usage" in capfd.readouterr().out
    theirs = {"packages": [{"id": "theirs", "name": "diffusion-core", "metadata": None}], "workspace_members": [], "resolve": {"nodes": []}}
    assert metadata.visible(theirs) is None, "another package of that name"


def test_the_build_ahead_of_the_kernel_has_the_kernels_settings():
    ours = tomllib.loads(lab.KERNELS_MANIFEST)
    kernels = tomllib.loads((lab.cache([])[0] / "Cargo.toml").read_text())
    assert all(ours[part] == kernels[part] for part in ("package", "lib", "profile")), "the kernel would build everything again"


def test_an_interrupted_build_of_the_cache_is_taken_up_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lab, "LAB", tmp_path)
    folder, stamp = lab.cache([])
    kernel = tmp_path / "evcxr_jupyter"
    kernel.write_text("a kernel")
    calls, really_run = [], subprocess.run

    def build(command, **options):
        if "EVCXR_TMPDIR" not in options.get("env", {}):
            return really_run(command, **options)
        calls.append(options["env"]["EVCXR_TMPDIR"])
        if len(calls) == 1:
            return subprocess.CompletedProcess(command, lab.INTERRUPTED)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(lab.subprocess, "run", build)
    monkeypatch.setattr(lab, "is_fresh", lambda folder, features: fresh)
    fresh = True
    with pytest.raises(KeyboardInterrupt):
        lab.fill_cache(kernel, [])
    assert not stamp.exists(), "a half-built cache must not pass for a whole one"
    lab.fill_cache(kernel, [])
    assert stamp.exists() and calls == [str(folder)] * 2
    lab.fill_cache(kernel, [])
    assert len(calls) == 2, "nothing has changed, so nothing is built"
    fresh = False
    lab.fill_cache(kernel, [])
    assert len(calls) == 3, "cargo would build it again at every start of a kernel"
    assert "newer than the kernel's build" in capsys.readouterr().out


def test_a_kernel_that_dies_while_it_builds_is_an_error(tmp_path):
    environment = dict(os.environ, PYTHONPATH=str(lab.HERE), EVCXR_TMPDIR=str(tmp_path))
    command = [sys.executable, "-c", "from lab import warm_up; warm_up()"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as build:
        until = time.monotonic() + 60
        while not (kernels := psutil.Process(build.pid).children()) and time.monotonic() < until:
            time.sleep(0.2)
        for kernel in kernels:
            kernel.kill()
        said, _ = build.communicate(timeout=60)
    assert build.returncode == 1 and "has ended in the middle of the build" in said


def test_kernels_clean_up_behind_themselves_and_behind_killed_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "KERNELS", tmp_path / "kernels")
    monkeypatch.delenv("EVCXR_TMPDIR", raising=False)
    ready = tmp_path / "build-cpu"
    (ready / "target").mkdir(parents=True)
    (ready / "target" / "libready.rlib").write_text("built")
    ready.with_suffix(".stamp").touch()
    dead = tmp_path / "kernels" / "999999999"
    dead.mkdir(parents=True)
    look = 'test "$(cat "$EVCXR_TMPDIR/target/libready.rlib")" = built && touch "$EVCXR_TMPDIR/seen"'
    assert lab.run_kernel(ready, ["/bin/sh", "-c", look]) == 0
    assert list((tmp_path / "kernels").iterdir()) == []
    assert (ready / "target" / "libready.rlib").read_text() == "built"


IN_ANOTHER_JUPYTER = """
import json, sys, time
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import start_new_kernel

kernel, folder, *cells = json.loads(sys.argv[1])
began, told = time.time(), {"kernels": sorted(KernelSpecManager().find_kernel_specs()), "images": 0, "errors": []}
def show(message):
    told["images"] += "image/png" in message["content"].get("data", {})
    if message["msg_type"] == "error":
        told["errors"].append(message["content"]["evalue"])
manager, client = start_new_kernel(kernel_name=kernel, startup_timeout=120, cwd=folder)
told["pid"] = manager.provisioner.pid
try:
    for cell in cells:
        client.execute_interactive(cell, output_hook=show, timeout=None)
        if told["images"]:
            break
    told["seconds"] = time.time() - began
    print(json.dumps(told), flush=True)
    sys.stdin.read()
finally:
    client.stop_channels()
    manager.shutdown_kernel()
"""


@pytest.fixture
def another_jupyter(tmp_path):
    """A Jupyter that knows nothing of the project: an environment and a data folder of its own, and no cargo on PATH."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next((lab.VENV / "lib").glob("python*/site-packages"))  # its jupyter_client, so that nothing is downloaded
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(site), "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    # A home without them would also be one without Rust.
    for name, folder in (("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")):
        environment[name] = os.environ.get(name, os.path.expanduser(f"~/{folder}"))

    def run(kernel, folder, *cells, look=lambda pid: None):
        command = [venv / "bin" / "python", "-c", IN_ANOTHER_JUPYTER, json.dumps([kernel, str(folder), *cells])]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:
            # The kernel prints there, too.
            told = json.loads(next(line for line in process.stdout if line.startswith('{"kernels"')))
            look(told["pid"])
            process.communicate("")
        return told

    return run


def test_a_jupyter_of_ones_own_gets_the_kernel_with_its_cache(tmp_path, another_jupyter):
    def make(target):
        done = subprocess.run(["make", target], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def compiled_nothing(pid):
        assert built(lab.KERNELS / str(pid)) == built(lab.cache([])[0])

    environment = dict(os.environ, JUPYTER_DATA_DIR=str(tmp_path / "data"))
    folder = tmp_path / "data" / "kernels" / "rust-diffusion"
    assert f'"Rust (diffusion)" is registered in {folder}.' in make("kernel")
    cells = [cell.source for cell in code_cells(read(NOTEBOOKS / "01_forward.ipynb"))]
    seen = another_jupyter("rust-diffusion", NOTEBOOKS, *cells, look=compiled_nothing)
    print(f"first picture after {seen['seconds']:.0f} s")
    assert "rust-diffusion" in seen["kernels"] and "rust" not in seen["kernels"]
    assert seen["images"] == 1 and not seen["errors"]
    # A notebook that lies elsewhere says where the crate is.
    elsewhere = DEP.replace("../diffusion-core", str(ROOT / "diffusion-core"))
    seen = another_jupyter("rust-diffusion", tmp_path, elsewhere, "diffusion_core::device::Setup::new(1)", look=compiled_nothing)
    assert not seen["errors"]
    assert f"was removed from {folder}" in make("kernel-remove")
    assert not folder.exists()
    assert f"there is no {folder}" in make("kernel-remove")


@pytest.mark.parametrize("environment", [{}, {"XDG_DATA_HOME": "/data"}, {"JUPYTER_DATA_DIR": "/jupyter"}])
def test_kernels_are_registered_where_jupyter_looks_for_them(environment):
    ask = "from jupyter_core.paths import jupyter_data_dir as get; print(get())"
    base = {"HOME": os.environ["HOME"], **environment}
    folder = subprocess.check_output([lab.VENV / "bin" / "python", "-c", ask], env=base, text=True).strip()
    assert str(lab.user_kernels(environment)) == f"{folder}/kernels"


def test_clean_leaves_the_registration_of_another_folder_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    spec = tmp_path / "kernels" / "rust-diffusion" / "kernel.json"
    spec.parent.mkdir(parents=True)
    lab.unregister_for_user(clean=True)
    for script, stays in (("/elsewhere/lab.py", True), (lab.__file__, False)):
        spec.write_text(json.dumps({"argv": ["python3", script, "kernel"]}))
        lab.unregister_for_user(clean=True)
        assert spec.exists() == stays
    assert "Rust (diffusion)" in capsys.readouterr().out
