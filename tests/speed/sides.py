"""Who is timed: the crate, PyTorch and stock candle, each in processes of its own, which measure when they are asked."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BINARY = ROOT / "target" / "release" / "examples" / "speed"
TORCH_ENV = ROOT / "target" / "torch-env"
REQUIREMENTS = ROOT / "tests" / "bench-requirements.txt"
NAMES = {"ours": "ours", "torch": "PyTorch", "candle": "stock candle"}
# What holds each side to these instructions: ours, PyTorch, and the libraries that PyTorch calls.
INSTRUCTIONS = {
    None: {},
    "avx2": {
        "DIFFUSION_INSTRUCTIONS": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}


class Problem(Exception):
    """Something that the user can mend; the message says how."""


def build(features=""):
    command = ["cargo", "build", "--quiet", "--locked", "--release", "--example", "speed"]
    if features:
        command += ["--features", features]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise Problem("the crate could not be built: cargo says above why")


def install_torch():
    """PyTorch in an environment of its own, which `make clean` removes."""
    stamp, wanted = TORCH_ENV / "requirements.stamp", REQUIREMENTS.read_text()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print(f"Installing PyTorch into {TORCH_ENV.relative_to(ROOT)} …", flush=True)
    pip = [TORCH_ENV / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "-r", REQUIREMENTS]
    for command in ([sys.executable, "-m", "venv", "--clear", TORCH_ENV], pip):
        if subprocess.run(command).returncode:
            raise Problem(f"PyTorch could not be installed: pip says above why. With TORCH_PYTHON=/path/to/python the bench "
                          f"uses one that you have; {REQUIREMENTS.relative_to(ROOT)} names the version.")
    stamp.write_text(wanted)


class Process:
    """A process that measures what it is asked for."""

    def __init__(self, who, command, environment):
        self.who = who
        self.process = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.process.kill()
        self.process.wait()

    def ask(self, line=""):
        """{"seconds": …, "peak_bytes": …}"""
        # Between its answers it stands still, so that it can take no time from the others.
        self.process.send_signal(signal.SIGCONT)
        answer = self.answer(line)
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def answer(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            ended = self.process.wait()
            why = "it was killed, perhaps for want of memory" if ended < 0 else "it says above why"
            asked = " ".join([*map(str, self.process.args[1:]), *line.split()])
            raise Problem(f"{NAMES[self.who]} ended at `{asked}`: {why}") from None


class Sides:
    """Those that can be timed here, in the order in which they take turns: ours, PyTorch if there is one, stock candle."""

    def __init__(self, threads, torch_python=None, install=False, features="", instructions=None):
        build(features)
        if install and not torch_python:
            install_torch()
        if not torch_python and (TORCH_ENV / "requirements.stamp").is_file():
            torch_python = TORCH_ENV / "bin" / "python"
        self.threads = threads
        variables = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        self.environment = dict(os.environ, RUST_BACKTRACE="0", **{name: str(threads) for name in variables})
        self.environment |= INSTRUCTIONS[instructions]
        self.commands = {"ours": [BINARY], "candle": [BINARY]}
        self.torch = None
        if torch_python:
            in_torch = [torch_python, "-W", "ignore", Path(__file__).with_name("in_torch.py")]
            self.commands = {"ours": [BINARY], "torch": in_torch, "candle": [BINARY]}
            self.torch = self.look_at_torch(torch_python)
        self.networks = {**self.tell("ours", "about"), **(self.torch or {})}

    def look_at_torch(self, torch_python):
        try:
            about = self.tell("torch", "about")
        except (OSError, Problem):
            wanted = [line for line in REQUIREMENTS.read_text().split() if "==" in line]
            raise Problem(f"{torch_python} has no PyTorch that can be used. TORCH_PYTHON must be a Python with "
                          f"{' and '.join(wanted)}; without it, `make bench TORCH=1` installs one.") from None
        return about

    def tell(self, who, *arguments):
        done = subprocess.run([*self.commands[who], *arguments], env=self.environment, text=True, stdout=subprocess.PIPE)
        if done.returncode:
            raise Problem(f"{NAMES[who]} failed at {' '.join(arguments)}: it says above why")
        return json.loads(done.stdout)

    def start(self, who, command, *arguments):
        return Process(who, [*self.commands[who], command, *map(str, arguments)], self.environment)

    def check(self, network):
        """Those that have the network. They must answer the same with the same weights, and train alike."""
        if network not in self.networks["ours"]:
            raise Problem(f"there is no network {network}; choose from {', '.join(self.networks['ours'])}")
        have = [who for who in self.commands if network in self.networks[who]]
        side = self.networks["sides"][network][0]
        results = {who: self.tell(who, "check", who, network, str(side)) for who in have}
        for what in ("answer", "losses"):
            ours = results["ours"][what]
            for who in have[1:]:
                off = max(map(lambda a, b: abs(a - b), ours, results[who][what])) / max(map(abs, ours))
                if not off < 1e-3 or len(ours) != len(results[who][what]):
                    raise Problem(f"{network}: {NAMES[who]} has other {what} than ours (off by {off:.1e}); "
                                  "to compare their speed would mean nothing")
        return have
