"""01_forward as a reader sees it: `make lab`, a real browser, every cell run, every picture drawn."""
from notebooks import NOTEBOOKS, code_cells, read


def test_the_first_notebook_in_a_real_browser(browser, lab, screenshots):
    committed = (NOTEBOOKS / "01_forward.ipynb").read_bytes()
    try:
        seen = browser("lab.mjs", lab("01_forward.ipynb"), screenshots, minutes=40)
    finally:
        (NOTEBOOKS / "01_forward.ipynb").write_bytes(committed)  # JupyterLab saves as it goes
    cells = code_cells(read(NOTEBOOKS / "01_forward.ipynb"))
    assert seen["errors"] == []
    assert seen["executed"] == seen["cells"] == len(cells)
    pictures = sum(any(k.startswith("image/") for k in o.get("data", {})) for c in cells for o in c.outputs)
    assert seen["pictures"] == pictures and seen["drawn"] >= pictures - 1 and seen["broken"] == 0
    before, after = seen["slider"]["before"], seen["slider"]["after"]
    assert before["name"] == after["name"] == "noise level t"
    assert before["value"] != after["value"] and after["said"] == after["value"], "the arrow keys do not move the slider"
    assert before["picture"] != after["picture"]
