"""Every notebook keeps the rules of the series and runs from top to bottom, with small values, in the real kernel."""
import re
import tomllib

import pytest
from kernel import DEP, ROOT
from notebooks import all_notebooks, code_cells, execute, forget, parameters_at, read

SMALL = tomllib.loads((ROOT / "tests" / "small.toml").read_text())
PATHS = pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)


def source(cells, kind):
    return "\n".join(cell.source for cell in cells if cell.cell_type == kind)


@PATHS
def test_keeps_the_rules(path):
    notebook = read(path)
    code, prose = code_cells(notebook), source(notebook.cells, "markdown")
    assert notebook.metadata.kernelspec.name == "rust"
    assert [cell.source for cell in code if ":dep" in cell.source] == [DEP]
    assert code[0].source == DEP
    assert parameters_at(notebook)
    assert 12 <= len(code) <= 30
    assert not [cell.source for cell in code if len(cell.source.splitlines()) > 30]
    assert not [line for cell in code for line in cell.source.splitlines() if len(line) > 100], "lines too wide to be seen"
    for section in ("What you need", "Summary", "Exercises", "References"):
        assert re.search(rf"^## .*{section}", prose, re.M), f"no section {section}"
    titles = [cell.source for cell in notebook.cells if cell.cell_type == "markdown" and cell.source.startswith("# ")]
    assert len(titles) == 1 and notebook.cells[0].source == titles[0]


@PATHS
def test_is_committed_executed(path):
    notebook, text = read(path), path.read_text()
    code = code_cells(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "not run from top to bottom"
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "a warning or an error line in an output"
    assert "unless that expression moves a variable" not in text, "a picture that took a variable with it and was not shown"
    types = [mime for output in outputs for mime in output.get("data", {})]
    assert sum(mime in ("image/png", "image/jpeg") for mime in types) >= 3
    assert len(text) < 1_000_000
    assert not re.search(r"/(home|root|Users|tmp)/", text), "a path of one machine"


@PATHS
def test_runs_top_to_bottom(path):
    run = f"test-{path.stem}"
    forget(run)
    notebook = execute(read(path), SMALL[path.stem].replace("runs/test", f"runs/{run}"))
    forget(run)
    assert not [cell for cell in code_cells(notebook) if cell.execution_count is None]
