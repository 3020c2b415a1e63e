"""Rows find what they refer to whatever process holds it, as on a pod, a torus of chips."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.runtime.meeting import free_port

pytestmark = pytest.mark.slow  # real processes
ROOT = pathlib.Path(__file__).parents[2]


def rows(count, local, sizes, order, program="rows_of_regions"):
    port = str(free_port())
    command = [sys.executable, "-m", f"tests.runtime.{program}"]
    ends = [
        [str(i), str(count), port, str(local), json.dumps(sizes), json.dumps(order)]
        for i in range(count)
    ]
    running = [
        subprocess.Popen([*command, *end], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for end in ends
    ]
    said = [process.communicate(timeout=600)[0] for process in running]
    assert [process.returncode for process in running] == [0] * count
    return json.loads(said[0].splitlines()[-1])  # after what Gloo says


@pytest.fixture(scope="module")
def alone():
    return rows(1, 1, [1, 1, 1], [0])


@pytest.mark.parametrize(
    ("count", "local", "sizes", "order"),
    [
        (2, 2, [4, 1, 1], [0, 2, 1, 3]),  # as on a v5e: neighbours on the mesh on other hosts
        pytest.param(2, 2, [4, 1, 1], [3, 2, 1, 0], marks=pytest.mark.nightly),
        pytest.param(4, 1, [2, 2, 1], [2, 0, 3, 1], marks=pytest.mark.nightly),
    ],
)
def test_S1_regions_find_their_images_in_every_order_of_the_devices(
    alone, count, local, sizes, order
):
    assert rows(count, local, sizes, order) == alone
    (_, means), _ = alone
    assert len(set(means)) > 6  # images differ


@pytest.mark.nightly  # X-FM is compiled by every process
def test_S1_a_step_has_the_same_losses_in_every_order_of_the_devices():
    def losses(*where):
        return rows(*where, program="losses_of_steps")

    expected = losses(1, 1, [1, 1, 1], [0])
    for where, tolerance in (
        ((2, 2, [4, 1, 1], [0, 1, 2, 3]), 1e-6),
        ((2, 2, [4, 1, 1], [3, 2, 1, 0]), 1e-6),
        ((2, 2, [1, 4, 1], [0, 2, 1, 3]), 1e-6),
        ((4, 1, [2, 2, 1], [2, 0, 3, 1]), 1e-6),
        ((4, 1, [2, 1, 2], [2, 0, 3, 1]), 1e-5),
    ):
        for found, wanted in zip(losses(*where), expected, strict=True):
            assert found == pytest.approx(wanted, rel=tolerance, abs=1e-7), where


def test_S2_a_tensor_axis_across_processes_has_the_same_rows_on_both(alone):
    assert rows(2, 2, [2, 1, 2], [0, 2, 1, 3]) == alone
