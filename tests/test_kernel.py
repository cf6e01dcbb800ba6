"""What only the real kernel can show: that cells share one copy of candle, so that gradients are right across cells."""
import re
import tomllib

import psutil
import pytest
from kernel import DEP, ROOT, CellFailed, Kernel, built


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as kernel:
        kernel.run(DEP)
        kernel.run("""
            use diffusion_core::candle::{DType, Device, Tensor, Var};
            use diffusion_core::{device::Setup, rng::Rng, schedule::Schedule, show::{Grid, Plot}};
        """)
        yield kernel


def numbers(text):
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


def test_tensor_ids_increase_from_cell_to_cell(kernel):
    """candle finds gradients by these numbers; a cell with a counter of its own would start again from 1."""
    ids = []
    for cell in range(5):
        kernel.run(f"let counted_{cell} = Tensor::new(1f32, &Device::Cpu)?;")
        ids += numbers(kernel.run(f'println!("{{:?}}", counted_{cell}.id());').text)
        ids += numbers(kernel.run('println!("{:?}", Tensor::new(2f32, &Device::Cpu)?.id());').text)
    assert len(ids) == 10
    assert ids == sorted(set(ids)), ids


def test_gradients_are_right_when_model_loss_and_backward_are_in_cells_of_their_own(kernel):
    kernel.run("let mut rng = Rng::new(1);")
    kernel.run("let x = rng.randn((5, 4), &Device::Cpu)?.to_dtype(DType::F64)?;")
    # Two parameters that are made in the same way, each in a cell of its own: with a counter per cell they get the same id.
    for name in ("w", "v"):
        kernel.run(f"let {name} = Var::from_tensor(&rng.randn((4, 4), &Device::Cpu)?.to_dtype(DType::F64)?)?;")
    kernel.run("fn net(x: &Tensor, w: &Tensor, v: &Tensor) -> diffusion_core::candle::Result<Tensor> {"
               " x.matmul(w)?.tanh()?.matmul(v)?.sqr()?.mean_all() }")
    kernel.run("let hidden = x.matmul(w.as_tensor())?.tanh()?;")
    kernel.run("let loss = hidden.matmul(v.as_tensor())?.sqr()?.mean_all()?;")
    kernel.run("let grads = loss.backward()?;")
    for name in ("w", "v"):
        # Central differences, in one cell, of the same function.
        other = "net(&x, &p, v.as_tensor())" if name == "w" else "net(&x, w.as_tensor(), &p)"
        kernel.run(f"""
            let by_hand = {{
                let (shape, at) = ({name}.shape().clone(), {name}.flatten_all()?.to_vec1::<f64>()?);
                let mut by_hand = Vec::new();
                for i in 0..at.len() {{
                    let mut side = |h: f64| -> diffusion_core::candle::Result<f64> {{
                        let mut moved = at.clone();
                        moved[i] += h;
                        let p = Tensor::from_vec(moved, shape.clone(), &Device::Cpu)?;
                        {other}?.to_scalar::<f64>()
                    }};
                    by_hand.push((side(1e-5)? - side(-1e-5)?) / 2e-5);
                }}
                by_hand
            }};
        """)
        kernel.run(f'let taken = grads.get(&{name}).map(|g| g.flatten_all().and_then(|g| g.to_vec1::<f64>()));')
        taken = numbers(kernel.run('println!("{}", taken.map_or("none".into(), |g| format!("{:?}", g.unwrap())));').text)
        by_hand = numbers(kernel.run('println!("{:?}", by_hand);').text)
        assert len(taken) == len(by_hand) > 0, f"{name}: the gradient was lost between cells"
        assert max(abs(a - b) for a, b in zip(taken, by_hand)) < 1e-6
        assert max(map(abs, by_hand)) > 1e-3


def test_nothing_is_compiled_again(kernel):
    """A kernel starts with diffusion-core as `make setup` built it, and no cell builds it again."""
    ready = built(ROOT / ".lab" / "build-cpu")
    assert ready
    kernel.run("let fresh = 1;")
    assert built(kernel.build_folder) == ready


def test_the_versions_are_those_that_the_project_was_tested_with(kernel):
    """Not the newest, which would also be compiled at each start of a kernel once they are newer than the cache."""
    def versions(folder):
        packages = tomllib.loads((folder / "Cargo.lock").read_text())["package"]
        return {(package["name"], package["version"]) for package in packages}

    assert versions(kernel.build_folder) - versions(ROOT) == {("ctx", "1.0.0")}


def test_code_analysis_reads_only_what_cells_can_name(kernel):
    """Of all 240 packages it would take a minute of processor time and 3 GB; see lab/metadata.py."""
    kernel.run("""
        use diffusion_core::{anyhow, candle_nn::VarMap, data::Dataset};
        let pairs = vec![(Some(Tensor::zeros(2, DType::F32, &Device::Cpu)?), VarMap::new())];
        let problem = Dataset::from_idx("x", "no.gz".as_ref(), "no.gz".as_ref(), &["a"]).map_err(|e| anyhow::anyhow!(e)).err();
    """)
    evcxr, = psutil.Process(kernel.manager.provisioner.pid).children()
    assert 100e6 < evcxr.memory_info().rss < 1.5e9


def test_values_show_themselves(kernel):
    kernel.run("let x = Rng::new(3).randn((4, 1, 8, 8), &Device::Cpu)?;")
    assert kernel.run("Grid::new(&x)?.columns(2)").data["image/png"].startswith("iVBOR")
    assert kernel.run('Plot::new("line").line("y", &[0.0, 1.0], &[0.0, 1.0])').data["image/png"].startswith("iVBOR")
    assert "T = 1000" in kernel.run("Schedule::linear(1000)?").data["text/plain"]
    assert "warning: x_T is not yet noise" in kernel.run("Schedule::linear(100)?").data["text/plain"]
    assert "seed       9" in kernel.run("Setup::new(9)").data["text/plain"]


def test_the_kernel_is_optimised_and_unchecked(kernel):
    """evcxr's own defaults check every addition; notebooks/evcxr.toml turns that off, else all is slower."""
    assert "false" in kernel.run('println!("{}", cfg!(debug_assertions));').text
    assert "0" in kernel.run("let mut big = u8::MAX; big = std::hint::black_box(big) + 1; println!(\"{big}\");").text


def test_mistakes_are_errors_that_leave_the_variables(kernel):
    kernel.run("let kept = 41;")
    with pytest.raises(CellFailed, match="steps = 0"):
        kernel.run("let broken = Schedule::linear(0)?;")
    with pytest.raises(CellFailed, match="start = 0.5 is above end = 0.1"):
        kernel.run("use diffusion_core::schedule::Betas; let broken = Schedule::new(10, Betas::Linear { start: 0.5, end: 0.1 })?;")
    assert "42" in kernel.run('println!("{}", kept + 1);').text


def test_an_error_is_one_line_with_its_reason(kernel):
    """Not the outermost context alone, and not a stack trace."""
    kernel.run("use diffusion_core::data::Dataset; use std::path::Path;")
    for code, reason in [
        ('let read = Dataset::from_idx("x", Path::new("no.gz"), Path::new("no.gz"), &["a"])?;', "cannot read no.gz as IDX: No such file"),
        ('Grid::new(&Tensor::zeros((1, 1, 2, 2), DType::F32, &Device::Cpu)?)?.save("x.jpg")?;', "x.jpg: it is saved as a .png file"),
        ("let sum = (Tensor::zeros(2, DType::F32, &Device::Cpu)? + Tensor::zeros(3, DType::F32, &Device::Cpu)?)?;", "shape mismatch in add"),
        ('Plot::new("short").line("y", &[0.0, 1.0], &[0.0])', 'line "y": 2 x values, but 1 y values'),
    ]:
        with pytest.raises(CellFailed) as failed:
            kernel.run(code)
        assert reason in failed.value.error
        assert len(failed.value.error.strip().splitlines()) == 1, failed.value
