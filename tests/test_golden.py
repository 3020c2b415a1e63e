"""Our X-FM against recorded values of the published system (tests/golden/xfm_tiny.npz)."""

import dataclasses
import pathlib

import numpy as np
import pytest

from unified_fm.commands import golden

ROOT = pathlib.Path(__file__).parents[1]
FILE = ROOT / "tests" / "golden" / "xfm_tiny.npz"


@pytest.fixture(scope="module")
def lines():
    return golden.check(FILE)


@pytest.mark.parametrize("kind", ["output", "loss", "gradient"])
def test_equals_the_published_system(lines, kind):
    found = [line for line in lines if line.kind == kind]
    assert all(line.passed for line in found), "\n" + golden.table(found)


@pytest.mark.slow  # each compiles the step of the golden file
@pytest.mark.parametrize(
    "way",
    [
        {"layer_loop": "scan", "devices": 8, "unpad": 0.9},
        pytest.param({"layer_loop": "scan"}, marks=pytest.mark.nightly),
        pytest.param({"joint": False}, marks=pytest.mark.nightly),
        pytest.param({"layer_loop": "unrolled", "devices": 8}, marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_equals_it_in_every_way_a_step_is_made(lines, way):
    found = golden.check(FILE, **way)
    assert [line.name for line in found] == [line.name for line in lines]
    wrong = [line for line in found if not line.passed]
    assert not wrong, golden.table(wrong)


def test_compares_every_quantity_of_the_file(lines):
    with np.load(FILE) as file:
        recorded = {name.split("/", 1)[1] for name in file.files if name.startswith("grads/")}
        losses = [name for name in file.files if name.startswith("outputs/loss/")]
    assert recorded <= {line.name for line in lines if line.kind == "gradient"}
    assert len([line for line in lines if line.kind == "loss"]) == len(losses) == 12
    assert len([line for line in lines if line.kind == "output"]) == 9


def test_a_difference_beyond_the_tolerance_is_seen(lines):
    """The verdict: a gradient that is off by 2e-4 of its largest entry, or NaN, fails."""
    [line] = [line for line in lines if line.name == "itm_head.3.weight"]
    assert line.passed
    assert not dataclasses.replace(line, difference=2 * line.allowed).passed
    assert not dataclasses.replace(line, difference=float("nan")).passed
    assert "BEYOND" in golden.table([dataclasses.replace(line, difference=1.0)])
