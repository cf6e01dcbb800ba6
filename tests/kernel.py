"""The real Rust kernel, as JupyterLab starts it, driven from Python."""
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty

from jupyter_client.manager import KernelManager
from nbformat.v4 import output_from_msg

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
sys.path.insert(0, str(ROOT / "diffusion-core" / "lab"))
import lab  # noqa: E402

# As `make lab` does: this machine may have another kernel `rust`.
os.environ.update(lab.jupyter_environment())

DEP = ':dep diffusion-core = { path = "../diffusion-core" }'

# What a cell writes to stderr may reach Jupyter a moment after the message that the cell is done.
LATE = 0.3


class CellFailed(Exception):
    """A cell ended in an error; `error` is what the kernel said."""

    def __init__(self, code, error):
        super().__init__(f"{code}\n\n{error}")
        self.error = error


@dataclass
class Result:
    """What a cell printed and showed, as a notebook keeps it, and how long it took."""

    outputs: list = field(default_factory=list)
    seconds: float = 0.0

    def add(self, message):
        if message["msg_type"] not in ("stream", "execute_result", "display_data", "error"):
            return
        output = output_from_msg(message)
        last = self.outputs[-1] if self.outputs else {}
        if output.output_type == "stream" == last.get("output_type") and output.name == last.name:
            last.text += output.text  # lines arrive one by one
        else:
            self.outputs.append(output)

    @property
    def text(self):
        return "".join(output.text for output in self.outputs if output.output_type == "stream")

    @property
    def data(self):
        return {mime: data for output in self.outputs for mime, data in output.get("data", {}).items()}

    @property
    def error(self):
        """A compiler's error is an error to Jupyter; a `?` that fails and a panic are lines of stderr."""
        lines = ["\n".join(output.traceback) for output in self.outputs if output.output_type == "error"]
        return "\n".join(lines + [output.text for output in self.outputs if output.get("name") == "stderr"])


class Kernel:
    """`with Kernel() as kernel: kernel.run("1 + 1")`. Started in the notebooks' folder, as JupyterLab does."""

    def __enter__(self):
        began = time.monotonic()
        self.manager = KernelManager(kernel_name="rust")
        self.manager.start_kernel(cwd=str(NOTEBOOKS))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=600)
        self.started_in = time.monotonic() - began
        return self

    @property
    def build_folder(self):
        """Where this kernel builds its cells: its own copy of the cache."""
        return lab.KERNELS / str(self.manager.provisioner.pid)

    def __exit__(self, *_):
        self.manager.shutdown_kernel()
        self.client.stop_channels()

    def run(self, code):
        result, began = Result(), time.monotonic()
        self.client.execute_interactive(code, output_hook=result.add, timeout=None)
        result.seconds = time.monotonic() - began
        try:
            while True:
                result.add(self.client.get_iopub_msg(timeout=LATE))
        except Empty:
            pass
        if result.error:
            raise CellFailed(code, result.error)
        return result


def built(folder):
    """The libraries of diffusion-core in a build folder, and when each was made."""
    files = folder.glob("target/*/debug/deps/libdiffusion_*")
    return {file.name: file.stat().st_mtime for file in files if not file.name.endswith(".d")}
