"""`FEATURES=cuda` finds the machine's CUDA toolkit, or installs what fits the driver, and says what it does. Downloads nothing."""
import json
import os
import subprocess
import sys

import pytest
import kernel  # noqa: F401  (which knows where cuda_toolkit is)
import cuda_toolkit

HEADER = """+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI {driver}              Driver Version: {driver}      CUDA Version: {cuda}     |
|-----------------------------------------+------------------------+----------------------+
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without CUDA; calling it gives it a driver."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name in ("CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP", "LIBRARY_PATH", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    monkeypatch.setattr(cuda_toolkit, "ELSEWHERE", ())

    def driver(cuda, capability):
        (commands / "header").write_text(HEADER.format(driver="580.65.06", cuda=cuda))
        (commands / "nvidia-smi").write_text(f"""#!/bin/sh
case "$1" in
    "") cat {commands}/header ;;
    --query-gpu=compute_cap) echo {capability}; echo 7.5 ;;
    *) exit 1 ;;
esac
""")
        (commands / "nvidia-smi").chmod(0o755)

    return driver


def toolkit(folder):
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "nvcc").write_text("#!/bin/sh\n")
    (folder / "bin" / "nvcc").chmod(0o755)
    return folder


def test_the_machines_own_toolkit_is_found_in_this_order(machine, tmp_path, monkeypatch):
    assert cuda_toolkit.find() is None
    usual, on_path, path, home = (toolkit(tmp_path / name) for name in ("usual", "on path", "path", "home"))
    monkeypatch.setattr(cuda_toolkit, "ELSEWHERE", (str(tmp_path / "no-such"), str(usual)))
    assert cuda_toolkit.find() == usual
    link = tmp_path / "commands" / "nvcc"
    link.symlink_to(on_path / "bin" / "nvcc")
    assert cuda_toolkit.find() == on_path, "nvcc on PATH is where its link leads"
    monkeypatch.setenv("CUDA_PATH", str(path))
    assert cuda_toolkit.find() == path
    monkeypatch.setenv("CUDA_HOME", str(home))
    assert cuda_toolkit.find() == home
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "without-nvcc"))
    assert cuda_toolkit.find() == path


def test_a_toolkit_of_ones_own_is_taken_without_a_word(machine, tmp_path, monkeypatch, capsys):
    machine("12.4", "8.6")
    home = toolkit(tmp_path / "a toolkit")
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setattr(cuda_toolkit, "install", lambda own: pytest.fail("it was installed all the same"))
    chosen = cuda_toolkit.choose(tmp_path / "own")
    assert chosen == {"home": str(home), "compute_cap": "86"}
    assert capsys.readouterr().out == ""


def test_the_driver_is_asked(machine):
    assert cuda_toolkit.driver_version() is None and cuda_toolkit.compute_capability() is None
    machine("13.0", "9.0")
    assert cuda_toolkit.driver_version() == (13, 0) and cuda_toolkit.compute_capability() == 90
    machine("12.8", "12.0")
    assert cuda_toolkit.driver_version() == (12, 8) and cuda_toolkit.compute_capability() == 120
    machine("N/A", "[N/A]")
    assert cuda_toolkit.driver_version() is None and cuda_toolkit.compute_capability() is None


@pytest.mark.parametrize("driver, capability", [(None, None), ((13, 0), 90), ((13, 2), 75), ((14, 0), 120)])
def test_the_packages_serve_drivers_that_are_not_older(monkeypatch, driver, capability):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(cuda_toolkit.platform, "machine", lambda: "x86_64")
    cuda_toolkit.check_packages(driver, capability)


@pytest.mark.parametrize("platform, driver, capability, sentence", [
    ("linux", (12, 8), 89, "the driver knows CUDA up to 12.8, and the toolkit that would be installed is 13.0. Update the driver"),
    ("linux", (13, 0), 61, "knows GPUs from compute capability 7.5 on, and this one has 6.1"),
    ("darwin", None, None, "can be installed by itself on Linux only"),
])
def test_what_the_packages_cannot_serve_is_said_before_anything_is_downloaded(
        machine, tmp_path, monkeypatch, platform, driver, capability, sentence):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(cuda_toolkit.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cuda_toolkit, "driver_version", lambda: driver)
    monkeypatch.setattr(cuda_toolkit, "compute_capability", lambda: capability)
    monkeypatch.setattr(cuda_toolkit, "install", lambda own: pytest.fail("it was installed"))
    with pytest.raises(cuda_toolkit.Problem) as problem:
        cuda_toolkit.choose(tmp_path / "own")
    assert sentence in str(problem.value)


def wheels(site):
    """The files of NVIDIA's packages, as far as they matter here."""
    for name in ("cu13/bin/nvcc", "cu13/include/cuda.h", "cu13/nvvm/bin/cicc", "cu13/lib/libcublas.so.13", "cu13/lib/libnvrtc.so.13",
                 "cu13/lib/libnvrtc-builtins.so.13.0", "cu13/lib/libcudadevrt.a", "cudnn/lib/libcudnn.so.9", "cudnn/include/cudnn.h"):
        file = site / "nvidia" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return site / "nvidia"


def test_the_packages_are_arranged_as_a_toolkit(tmp_path):
    home = tmp_path / "own" / "toolkit"
    cuda_toolkit.arrange(wheels(tmp_path / "own" / "site"), home)
    assert (home / "bin" / "nvcc").read_text() == "cu13/bin/nvcc"
    assert (home / "include" / "cuda.h").is_file() and (home / "nvvm" / "bin" / "cicc").is_file()
    names = {file.name for file in (home / "lib64").iterdir()}
    assert names == {"stubs", "libcublas.so", "libcublas.so.13", "libnvrtc.so", "libnvrtc.so.13", "libnvrtc-builtins.so",
                     "libnvrtc-builtins.so.13.0", "libcudadevrt.a", "libcudnn.so", "libcudnn.so.9"}
    assert (home / "lib64" / "libcudnn.so").read_text() == "cudnn/lib/libcudnn.so.9"
    assert not os.path.isabs(os.readlink(home / "lib64" / "libcudnn.so")), "the project can be moved"
    # The driver's library, for the linker alone.
    assert (home / "lib64" / "stubs" / "libcuda.so").read_bytes().startswith(b"\x7fELF")


def test_it_is_installed_once_after_saying_so_and_again_after_an_interruption(machine, tmp_path, monkeypatch, capsys):
    own, calls, really_run = tmp_path / "own", [], subprocess.run

    def run(command, **options):
        if command[1:3] == ["-m", "venv"]:
            assert f"{cuda_toolkit.DOWNLOAD} to download, {cuda_toolkit.ON_DISK} on disk" in capsys.readouterr().out, "it is said first"
            return subprocess.CompletedProcess(command, 0)
        if command[1:3] == ["-m", "pip"]:
            calls.append(command)
            if len(calls) == 1:
                raise KeyboardInterrupt
            wheels(own / "packages" / "lib" / "python3.11" / "site-packages")
            return subprocess.CompletedProcess(command, 0)
        return really_run(command, **options)

    own.mkdir()
    monkeypatch.setattr(cuda_toolkit.subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        cuda_toolkit.install(own)
    home = cuda_toolkit.install(own)
    assert home == own / "toolkit" and len(calls) == 2 and set(cuda_toolkit.PACKAGES) <= set(calls[1])
    assert cuda_toolkit.install(own) == home and len(calls) == 2


def test_the_environment_is_the_same_for_the_kernel_and_for_a_shell(machine, tmp_path, monkeypatch, capsys):
    home, own = toolkit(tmp_path / "a toolkit"), tmp_path / "own"
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mine")
    cuda_toolkit.choose(own)
    assert "No driver tells what the GPU is: building for compute capability 8.0 and newer" in capsys.readouterr().out
    names = ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_COMPUTE_CAP", "PATH", "LIBRARY_PATH", "LD_LIBRARY_PATH")
    ours = cuda_toolkit.environment(own)
    show = f'. "{own}/env"; exec {sys.executable} -c "import json, os; print(json.dumps(dict(os.environ)))"'
    theirs = json.loads(subprocess.check_output(["/bin/sh", "-c", show]))
    assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}
    assert ours["CUDA_HOME"] == str(home) and ours["CUDA_COMPUTE_CAP"] == "80"
    assert ours["PATH"].split(":")[0] == f"{home}/bin" and ours["LD_LIBRARY_PATH"] == f"{home}/lib64:/mine"
    assert ours["LIBRARY_PATH"] == f"{home}/lib64", "nothing empty, which would be the current folder"


def test_what_the_user_says_of_the_gpu_goes_before_what_the_driver_says(machine, tmp_path, monkeypatch):
    machine("13.0", "9.0")
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "home")))
    monkeypatch.setenv("CUDA_COMPUTE_CAP", "7.5")
    assert cuda_toolkit.choose(tmp_path / "own")["compute_cap"] == "75"


def test_what_was_said_of_the_gpu_is_remembered_where_no_driver_tells(machine, tmp_path, monkeypatch, capsys):
    """Else the same command without it would have nvcc compile everything again."""
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "home")))
    monkeypatch.setenv("CUDA_COMPUTE_CAP", "9.0")
    cuda_toolkit.choose(tmp_path / "own")
    monkeypatch.delenv("CUDA_COMPUTE_CAP")
    assert cuda_toolkit.choose(tmp_path / "own")["compute_cap"] == "90"
    assert capsys.readouterr().out == ""
    machine("13.0", "8.6")
    assert cuda_toolkit.choose(tmp_path / "own")["compute_cap"] == "86", "but a driver goes before it"
