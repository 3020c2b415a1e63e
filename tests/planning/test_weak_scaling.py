"""At base width, with the published rows on each device: what a device receives is constant."""

import collections
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAIRS = 96  # on each device, of `pairs` as of `regions`
PROJECTED = 256 * 4  # bytes of a projected vector
ONE_LAYER = {
    "xfm": [f"--config.model.{stack}.layers=1" for stack in ("text", "vision", "fusion")],
    "ufm": ["--config.model.encoder.layers=1"],
}


def received(system, devices, axis, folder):
    """Bytes of the results of a step's collectives by kind, with those that carry ITC's apart."""
    spec = f"xfm_base:chips={devices}" if system == "xfm" else "ufm_base"
    rows = 4 * PAIRS * devices
    batches = [f"--config.streams.{name}.batch_size={rows}" for name in ("image", "text")]
    sizes = {"data": 1, "fsdp": 1} | {axis: devices}
    command = [sys.executable, "-m", "tests.launched", "plan", f"--config={spec}"]
    command += [f"--topology=h100:8x{devices // 8}", "--compiler=cpu", "--no-search"]
    command += [f"--json={folder / 'plan.json'}"]
    command += [f"--config.mesh.{name}={size}" for name, size in sizes.items()]
    command += ONE_LAYER[system] + (batches if system == "ufm" else [])
    subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    found = collections.Counter()
    for each in json.loads((folder / "plan.json").read_text())["plan"]["collectives"]:
        found[each["kind"]] += each["bytes"]
    return found


def itc(devices):
    """ITC's part: vectors of texts and images of two streams go to all devices."""
    return 2 * 2 * PAIRS * devices * PROJECTED


@pytest.mark.nightly  # each compiles a step of base width for so many devices
@pytest.mark.parametrize("axis", ["data", "fsdp"])
@pytest.mark.parametrize("system", ["xfm", "ufm"])
def test_S3_S4_at_base_width(system, axis, tmp_path):
    eight, sixteen = (received(system, n, axis, tmp_path) for n in (8, 16))
    global_part = [2 * itc(n) if system == "xfm" else 0 for n in (8, 16)]
    rest = [
        sum(found.values()) - part
        for found, part in zip((eight, sixteen), global_part, strict=True)
    ]
    assert rest[1] == pytest.approx(rest[0], rel=0.02)
    bound = 0.05e9 if axis == "data" else 0.5e9
    for devices, found in ((8, eight), (16, sixteen)):
        own = found["all-gather"] - (itc(devices) if system == "xfm" else 0)
        assert own <= bound, found
