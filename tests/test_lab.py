"""`make lab` says what is wrong and what to do before it builds anything, and goes on where it was stopped."""
import json
import os
import subprocess
import sys
import time

import psutil
import pytest
from kernel import NOTEBOOKS, ROOT

sys.path.insert(0, str(NOTEBOOKS))
import lab  # noqa: E402


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


def test_root_is_told_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(lab, "setup", lambda features: pytest.fail("it was built first"))
    with pytest.raises(lab.Problem, match='make lab ARGS="--allow-root"'):
        lab.open_lab([], [])


def test_the_makefile_says_which_python_it_lacks():
    run = subprocess.run(["make", "lab", "PYTHON=no-such-python"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    assert "no-such-python was not found: install Python 3.10 or newer" in run.stdout


def test_a_problem_is_one_line_and_an_exit_status(tmp_path):
    command = [sys.executable, str(NOTEBOOKS / "lab.py"), "setup"]
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


def test_an_interrupted_build_of_the_cache_is_taken_up_again(tmp_path, monkeypatch):
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
    with pytest.raises(KeyboardInterrupt):
        lab.fill_cache(kernel, [])
    assert not stamp.exists(), "a half-built cache must not pass for a whole one"
    lab.fill_cache(kernel, [])
    assert stamp.exists() and calls == [str(folder)] * 2
    lab.fill_cache(kernel, [])
    assert len(calls) == 2, "nothing has changed, so nothing is built"


def test_a_kernel_that_dies_while_it_builds_is_an_error(tmp_path):
    environment = dict(os.environ, PYTHONPATH=str(lab.NOTEBOOKS), EVCXR_TMPDIR=str(tmp_path))
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
