"""The real Rust kernel, as JupyterLab starts it, driven from Python."""
import time
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
DEP = ':dep diffusion-core = { path = "../diffusion-core" }'


class CellFailed(Exception):
    """A cell ended in an error; the message is the kernel's."""


@dataclass
class Output:
    """What a cell printed and showed, and how long it took; `first` is when its first picture came."""

    text: str = ""
    data: dict = field(default_factory=dict)
    seconds: float = 0.0


class Kernel:
    """`with Kernel() as kernel: kernel.run("1 + 1")`. Started in the notebooks' folder, as JupyterLab does."""

    def __init__(self, cwd=NOTEBOOKS):
        self.cwd = cwd

    def __enter__(self):
        began = time.monotonic()
        self.manager = KernelManager(kernel_name="rust")
        self.manager.start_kernel(cwd=str(self.cwd))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=600)
        self.started_in = time.monotonic() - began
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, code, timeout=1800):
        output, errors, began = Output(), [], time.monotonic()

        def collect(message):
            content = message["content"]
            # A `?` that fails and a panic reach Jupyter as lines of stderr, not as an error.
            if message["msg_type"] == "stream" and content["name"] == "stderr":
                errors.append(content["text"])
            elif message["msg_type"] == "stream":
                output.text += content["text"]
            elif message["msg_type"] in ("execute_result", "display_data"):
                output.data.update(content["data"])
            elif message["msg_type"] == "error":
                errors.append("\n".join(content["traceback"]))

        self.client.execute_interactive(code, output_hook=collect, timeout=timeout)
        output.seconds = time.monotonic() - began
        if errors:
            raise CellFailed("".join(errors))
        return output
