"""That the parts of a step are measured at its shapes; no timing is asserted."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from unified_fm.bench import layer, machine, measured
from unified_fm.commands import bench
from unified_fm.config import file
from unified_fm.models.config import CHOICES

HERE = pathlib.Path(__file__).parent
TINY, SMALL = HERE.parent / "tiny_config.py", HERE / "text_and_images.py"


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr(machine, "SIZES", (256,))


def printed(capsys, *flags):
    """The lines before those that end every measurement."""
    assert bench.main(flags, "bench") == 0
    *lines, product, memory = capsys.readouterr().out.splitlines()
    assert product.startswith("product  ") and product.endswith("matrix product in float32")
    assert memory.startswith("memory  ") and float(memory.split()[1]) > 0.05
    return lines


@pytest.mark.parametrize("what", bench._KINDS)
def test_every_measurement_ends_with_the_product_and_the_memory(capsys, monkeypatch, what):
    alone = bench._KINDS[what]._replace(measure=lambda *given: ["found"])
    monkeypatch.setitem(bench._KINDS, what, alone)
    assert printed(capsys, what, f"--config={TINY}") == ["found"]


def test_bytes_of_a_loop_count_as_often_as_it_runs():
    w = jnp.ones((64, 64))

    def moved(length):
        loop = jax.jit(lambda x: jax.lax.scan(lambda c, _: (c @ w, None), x, length=length)[0])
        return measured.moved(loop.lower(w).compile())

    each = (moved(40) - moved(20)) / 20
    assert 3 * w.nbytes <= each <= 8 * w.nbytes  # two factors and their product, and copies


def test_a_function_is_measured_with_its_products_and_bytes():
    a = jnp.ones((64, 32))
    found = measured.measure(lambda a: jnp.tanh(a @ a.T).sum(), [a], 2)
    assert found.flops == 2 * 64 * 64 * 32
    assert found.bytes >= a.nbytes
    line = found.line("here", found.flops / found.seconds)
    assert line.split()[:1] == ["here"] and line.split()[3] == "100.0%"
    assert found.line("here", 0.0).split()[3] == "-"


def test_layers_have_the_shapes_of_the_step():
    found = layer.shapes(file.load("xfm_base:chips=1"))
    sizes = {name: (s.rows, s.tokens, s.seen, s.grid) for name, s in found.items()}
    assert sizes == {
        "text": (256, 128, 0, 0),
        "vision": (96, 197, 0, 14),
        "fusion": (96, 30, 197, 0),
    }
    assert found["fusion"].config.dropout == 0.1


def test_a_model_without_layers_is_refused(capsys):
    for what in ("layer", "attention", "compile"):
        with pytest.raises(SystemExit) as end:
            bench.main([what, f"--config={TINY}"], "bench")
        assert end.value.code == 1
    assert "tests.tiny names no encoders" in capsys.readouterr().err


@pytest.mark.slow
def test_merges_of_two_groups_of_gradients(capsys, monkeypatch):
    monkeypatch.setattr("unified_fm.plugins.names", lambda kind: ["sum", "static"])
    lines = printed(capsys, "merge", f"--config={TINY}", "--steps=2")
    assert lines[2].startswith("2 groups of 0.0 M")
    assert [line.split()[0] for line in lines[3:]] == ["sum", "static"]
    assert not any("refused" in line for line in lines)


@pytest.mark.slow
@pytest.mark.nightly
def test_layers_and_attention_of_a_small_model(capsys):
    lines = printed(capsys, "layer", f"--config={SMALL}", "--steps=1")
    assert [line.split()[0] for line in lines[2:]] == [
        *("text:", *(f"remat={name}" for name in CHOICES["remat"])),
        *("vision:", *(f"remat={name}" for name in CHOICES["remat"])),
    ]
    none, full = (float(lines[place].split()[2]) for place in (3, 4))
    assert full > none  # the forward pass once more
    lines = printed(capsys, "attention", f"--config={SMALL}", "--steps=1")
    assert sum("einsum" in line for line in lines) == 3  # texts; images with a bias and without


@pytest.mark.nightly  # eight compilations
def test_compilation_of_loops_and_rematerialisation(capsys):
    lines = printed(capsys, "compile", f"--config={SMALL}")
    names = [line[:28].strip() for line in lines[1:]]
    assert names == [f"{a}, remat={b}" for a in ("unrolled", "scan") for b in CHOICES["remat"]]
    products = {
        name: float(line[28:].split()[3]) for name, line in zip(names, lines[1:], strict=True)
    }
    assert products["scan, remat=none"] == pytest.approx(products["unrolled, remat=none"])
