"""What the tests in a real browser share: the browser, a JupyterLab, and a folder for screenshots."""
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from kernel import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECRET = "only-for-this-test"


def pytest_collection_modifyitems(items):
    """With `-n 2`, notebooks run on one worker while the lab, its kernels and the browser keep to the other; then on both."""
    for item in items:
        if item.path.name != "test_notebooks.py":
            item.add_marker(pytest.mark.xdist_group("lab"))


@pytest.fixture(scope="session")
def screenshots():
    folder = ROOT / "target" / "browser"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="session")
def browser():
    """Runs a script of tests/browser, and gives back the JSON that it printed."""
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("needs Chromium and Node.js")
    here = ROOT / "tests" / "browser"
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=here, check=True)

    def run(script, *arguments, minutes):
        command = ["node", script, CHROMIUM, *map(str, arguments)]
        done = subprocess.run(command, cwd=here, stdout=subprocess.PIPE, timeout=60 * minutes)
        assert done.returncode == 0
        seen = json.loads(done.stdout)
        print(seen)
        return seen

    return run


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A JupyterLab that `make lab` opened: gives the address of a notebook."""
    folder = tmp_path_factory.mktemp("lab")
    arguments = f"--no-browser --port 8931 --IdentityProvider.token={SECRET} --LabApp.expose_app_in_browser=True"
    # The machine has another kernel `rust`, which does not even start.
    other = folder / "other" / "kernels" / "rust"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(json.dumps({"argv": ["/bin/false", "{connection_file}"], "display_name": "Rust", "language": "rust"}))
    log = (folder / "log").open("w+")
    server = subprocess.Popen(["make", "lab", f"ARGS={arguments}"], cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
                              env=dict(os.environ, JUPYTER_CONFIG_DIR=str(folder), JUPYTER_PATH=str(folder / "other")))
    try:
        for _ in range(600):
            text = (folder / "log").read_text()
            if found := re.search(r"http://(?:localhost|127\.0\.0\.1):(\d+)/lab/tree/01_forward.ipynb\?token=", text):
                break
            assert server.poll() is None, text
            time.sleep(0.5)
        else:
            pytest.fail(text)
        yield lambda notebook: f"http://127.0.0.1:{found[1]}/lab/tree/{notebook}?token={SECRET}&reset"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
