#!/usr/bin/env python3
"""Runs the notebooks with the real kernel.

    notebooks.py            all of them, with the values they are committed with, trainings anew, results written back:
                            `make notebooks`
    notebooks.py NAME …     only these
"""
import base64
import shutil
import sys
import time

import nbformat
from kernel import NOTEBOOKS, Kernel

IMAGES = NOTEBOOKS / "images"


def all_notebooks():
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_at(notebook):
    """The position of the cell tagged `parameters`."""
    return next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))


def forget(run):
    """Removes a training that a notebook keeps in runs/, so that it begins anew."""
    shutil.rmtree(NOTEBOOKS / "runs" / run, ignore_errors=True)


def execute(notebook, parameters=None):
    """Runs all cells top to bottom in a new kernel; `parameters` is code put in after the cell tagged so."""
    if parameters:
        notebook.cells.insert(parameters_at(notebook) + 1, nbformat.v4.new_code_cell(parameters))
    with Kernel() as kernel:
        for count, cell in enumerate(code_cells(notebook), 1):
            done = kernel.run(cell.source)
            cell.outputs = done.outputs
            if done.seconds > 10:
                print(f"  code cell {count}: {done.seconds:.0f} s", flush=True)
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    return notebook


def keep_pictures(path, notebook):
    """What a cell tagged `picture` or `picture:NAME` shows also stands in images/, for first lines and the README."""
    for cell in code_cells(notebook):
        for tag in cell.metadata.get("tags", []):
            kind, _, name = tag.partition(":")
            shown = [output.get("data", {}) for output in cell.outputs if kind == "picture"]
            for mime, data in (item for data in shown for item in data.items()):
                if mime.startswith("image/"):
                    file = f"{name or path.stem}.{mime.removeprefix('image/')}"
                    (IMAGES / file).write_bytes(base64.b64decode(data))


def main(names):
    known = [path.stem for path in all_notebooks()]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"there is no notebook {unknown[0]!r}; there is: {', '.join(known)}")
    IMAGES.mkdir(exist_ok=True)
    for path in all_notebooks():
        if names and path.stem not in names:
            continue
        began = time.monotonic()
        forget(path.stem)
        notebook = execute(read(path))
        nbformat.write(notebook, path)
        keep_pictures(path, notebook)
        print(f"{path.name}: {len(code_cells(notebook))} cells in {time.monotonic() - began:.0f} s, "
              f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
