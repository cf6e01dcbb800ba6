"""The live page of a training, in a real browser and the real kernel: it moves while the cell that trains is running."""
import shutil

import nbformat
import pytest
from kernel import DEP, NOTEBOOKS, ROOT

STEPS = 4000
CELLS = [
    DEP,
    """
use diffusion_core::{candle::Device, data::Dataset, show::Live, unet::SimpleUNet};
use diffusion_core::train::{Training, TrainingConfig};
let sprites = Dataset::sprites(320, 1)?;
""",
    'Live::new("runs/live_test")?',
    """
let config = TrainingConfig { epochs: STEPS / 10, batch: 32, sample_steps: 5, samples: 16, ..Default::default() };
let net = SimpleUNet { channels: 3, base: 16, ..Default::default() };
let mut training = Training::new(config, net, &sprites, &Device::Cpu)?.in_folder("runs/live_test")?;
for step in training.by_ref() {
    step?;
}
println!("ended at step {}", training.history().len());
""".replace("STEPS", str(STEPS)),
]


@pytest.fixture
def notebook():
    """A notebook beside the others, whose kernel starts in the same folder as theirs."""
    path, run = NOTEBOOKS / "live_test.ipynb", NOTEBOOKS / "runs" / "live_test"
    shutil.rmtree(run, ignore_errors=True)
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS]
    kernel = {"name": "rust", "display_name": "Rust", "language": "rust"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    try:
        yield path
    finally:
        path.unlink()
        (NOTEBOOKS / ".ipynb_checkpoints" / "live_test-checkpoint.ipynb").unlink(missing_ok=True)
        shutil.rmtree(run, ignore_errors=True)


def test_the_page_moves_while_the_next_cell_trains_and_stops_it(browser, lab, screenshots, notebook):
    seen = browser("live.mjs", lab(notebook.name), screenshots, minutes=15)
    assert seen["errors"] == []
    assert seen["before"] == "waiting for the training cell"
    # Two looks at the page, with the kernel busy and nothing shown yet below the cell that trains.
    first, second = seen["during"]
    assert first["kernel"] == second["kernel"] == "busy" and first["output"] == second["output"] == ""
    assert 0 < first["step"] < second["step"] < STEPS
    assert first["state"] == second["state"] == "training"
    assert second["line"] > first["line"] > 0, "the curve does not grow"
    assert seen["picture"]["width"] > 100 and seen["picture"]["rendering"] == "pixelated"
    # Stop: the cell ended early, and both say so.
    ended = int(seen["output"].removeprefix("ended at step "))
    assert second["step"] < ended < STEPS
    assert seen["after"]["state"].startswith("stopped") and seen["after"]["step"] == ended
    # The same in a window that is opened later, without a cell being run.
    assert seen["reloaded"] == seen["after"]
    assert not (set(seen["paths"]) - {"runs/live_test"}), "a path of one machine"


def test_the_page_shows_the_validation_loss_of_a_run_that_measures_it(browser, screenshots):
    seen = browser("live_page.mjs", ROOT / "diffusion-core/show/src/live/page.html", screenshots, minutes=2)
    assert seen["errors"] == []
    without, measured = seen["without"], seen["with"]
    assert without == {"visible": False, "figure": "–", "dots": 0, "pieces": 0, "lowest": 0.5}
    # Its own dots and lines, with a gap where it is not a number, and within the axis.
    assert measured["visible"] and measured["figure"] == "0.0500"
    assert (measured["dots"], measured["pieces"]) == (3, 2)
    assert measured["lowest"] == 0.05
    assert seen["pointed"] == "validation loss at step 150: 0.1000"
