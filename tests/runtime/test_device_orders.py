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


# Natural, reversed, as on a v5e (neighbours on the mesh are on other hosts), and another one.
ORDERS = [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [2, 0, 3, 1]]
LOCAL = {1: 4, 2: 2, 4: 1}  # devices of each of so many processes
EVERY = [(count, local, [4, 1, 1], order) for count, local in LOCAL.items() for order in ORDERS]


def ways(*always):
    """All of `EVERY`, nightly but for some."""
    return [
        pytest.param(*way, marks=() if (way[0], way[3]) in always else pytest.mark.nightly)
        for way in EVERY
    ]


@pytest.fixture(scope="module")
def alone():
    return rows(1, 1, [1, 1, 1], [0])


@pytest.mark.parametrize(
    ("count", "local", "sizes", "order"),
    [
        *ways((1, [3, 2, 1, 0]), (2, [0, 2, 1, 3])),
        pytest.param(4, 1, [2, 2, 1], [2, 0, 3, 1], marks=pytest.mark.nightly),
    ],
)
def test_S1_regions_find_their_images_in_every_order_of_the_devices(
    alone, count, local, sizes, order
):
    assert rows(count, local, sizes, order) == alone
    (_, means), _ = alone
    assert len(set(means)) > 6  # images differ


@pytest.fixture(scope="module")
def losses_of_one():
    return rows(1, 1, [1, 1, 1], [0], program="losses_of_steps")


@pytest.mark.nightly  # X-FM is compiled by every process
@pytest.mark.parametrize(
    ("count", "local", "sizes", "order"),
    [
        *EVERY,
        (2, 2, [1, 4, 1], [0, 2, 1, 3]),
        (4, 1, [2, 2, 1], [2, 0, 3, 1]),
        (4, 1, [2, 1, 2], [2, 0, 3, 1]),
    ],
)
def test_S1_a_step_has_the_same_losses_in_every_order_of_the_devices(
    losses_of_one, count, local, sizes, order
):
    found = rows(count, local, sizes, order, program="losses_of_steps")
    tolerance = 1e-6 if sizes[2] == 1 else 1e-5
    for step, wanted in zip(found, losses_of_one, strict=True):
        assert step == pytest.approx(wanted, rel=tolerance, abs=1e-7)


def test_S2_a_tensor_axis_across_processes_has_the_same_rows_on_both(alone):
    assert rows(2, 2, [2, 1, 2], [0, 2, 1, 3]) == alone
