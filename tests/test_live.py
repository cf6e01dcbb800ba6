"""The live page of a training, in a real browser and the real kernel: it moves while the cell that trains is running."""
import shutil

import nbformat
import pytest
from kernel import DEP, NOTEBOOKS

STEPS = 100
CELLS = [
    DEP,
    """
use diffusion_core::{candle::Device, rng::Rng, show::{Grid, Live, LiveState, Phase}};
let x = Rng::new(1).randn((8, 3, 16, 16), &Device::Cpu)?;
""",
    'Live::new("runs/live_test")?',
    # A training as the page sees it.
    """
{
    let (folder, steps) = ("runs/live_test", STEPS);
    Live::clear_stop(folder)?;
    let token = LiveState::token_of(folder).expect("a page was shown");
    let mut state = LiveState { token, state: Phase::Running, steps, epochs: 10, lr: 2e-4, ..LiveState::default() };
    for step in 1..=steps {
        std::thread::sleep(std::time::Duration::from_millis(100));
        (state.step, state.epoch, state.loss) = (step, 1 + (step - 1) / 10, Some(1.0 / step as f64));
        state.curve.push((step, 1.0 / step as f64));
        state.rate.push((step, 2e-4));
        if step == 5 {
            Grid::new(&x)?.save("runs/live_test/samples/epoch-0001.png")?;
            state.samples = Some("samples/epoch-0001.png".into());
        }
        if Live::stop_requested(folder) {
            state.state = Phase::Stopped;
        } else if step == steps {
            state.state = Phase::Done;
        }
        state.write(folder)?;
        if state.state == Phase::Stopped {
            break;
        }
    }
    println!("ended at step {}", state.step);
}
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
