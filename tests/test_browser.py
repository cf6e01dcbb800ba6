"""01_forward as a reader sees it: `make lab`, a real browser, every cell run, every picture drawn."""
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from kernel import ROOT
from notebooks import NOTEBOOKS, code_cells, read

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FOLDER = ROOT / "target" / "browser"
SECRET = "only-for-this-test"


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab that `make lab` opened."""
    arguments = f"--no-browser --port 8931 --IdentityProvider.token={SECRET} --allow-root --LabApp.expose_app_in_browser=True"
    log = (tmp_path / "log").open("w+")
    server = subprocess.Popen(["make", "lab", f"ARGS={arguments}"], cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
                              env=dict(os.environ, JUPYTER_CONFIG_DIR=str(tmp_path)))
    try:
        for _ in range(600):
            text = (tmp_path / "log").read_text()
            if found := re.search(r"http://(?:localhost|127\.0\.0\.1):(\d+)/lab", text):
                break
            assert server.poll() is None, text
            time.sleep(0.5)
        else:
            pytest.fail(text)
        yield f"http://127.0.0.1:{found[1]}/lab/tree/01_forward.ipynb?token={SECRET}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.mark.skipif(CHROMIUM is None or shutil.which("npm") is None, reason="needs Chromium and Node.js")
def test_the_first_notebook_in_a_real_browser(lab):
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    here = ROOT / "tests" / "browser"
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=here, check=True)
    committed = (NOTEBOOKS / "01_forward.ipynb").read_bytes()
    try:
        run = subprocess.run(["node", "lab.mjs", CHROMIUM, lab, str(FOLDER)], cwd=here, stdout=subprocess.PIPE, timeout=2400)
    finally:
        (NOTEBOOKS / "01_forward.ipynb").write_bytes(committed)  # JupyterLab saves as it goes
    assert run.returncode == 0
    seen = json.loads(run.stdout)
    print(seen)
    cells = code_cells(read(NOTEBOOKS / "01_forward.ipynb"))
    assert seen["errors"] == []
    assert seen["executed"] == seen["cells"] == len(cells)
    pictures = sum(any(k.startswith("image/") for k in o.get("data", {})) for c in cells for o in c.outputs)
    assert seen["pictures"] == pictures and seen["drawn"] >= pictures - 1 and seen["broken"] == 0
