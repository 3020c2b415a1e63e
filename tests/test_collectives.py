"""What a device receives in a step does not grow with the number of devices."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests import collectives

ROOT = pathlib.Path(__file__).parents[1]
UNPAD = ("model.text.unpad=0.5", "model.fusion.unpad=0.5")
PROJECTED = 16 * 4  # bytes of a projected vector of the smoke config


def compiled(devices, mesh, *changes):
    command = [sys.executable, "-m", "tests.collectives", str(devices), mesh, *changes]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def itc(devices):
    """Of two streams: texts' and images' vectors, all of them to every device."""
    return 2 * 2 * collectives.ROWS * devices * PROJECTED


@pytest.mark.nightly  # each compiles X-FM for so many devices
@pytest.mark.parametrize(("axis", "changes"), [("data", ()), ("fsdp", ()), ("data", UNPAD)])
def test_S3_S4_what_a_device_receives_is_constant(axis, changes):
    sizes = {n: {"data": 1, "fsdp": 1} | {axis: n} for n in (8, 16)}
    eight, sixteen = (
        compiled(n, f"data={each['data']},fsdp={each['fsdp']}", *changes)
        for n, each in sizes.items()
    )
    assert eight.keys() == sixteen.keys()
    # ITC's vectors go to all devices, forwards; backwards come their gradients, all-reduced.
    rest = [sum(found.values()) - 2 * itc(n) for n, found in ((8, eight), (16, sixteen))]
    assert rest[1] == pytest.approx(rest[0], rel=0.02)
    if axis == "data":  # gradients, and ITC's vectors alone
        assert set(eight) == {"all-gather", "all-reduce"}
        assert eight["all-gather"] <= itc(8)
