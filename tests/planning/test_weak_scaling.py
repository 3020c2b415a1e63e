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
BOUND = {"data": 0.05e9, "fsdp": 0.5e9}  # bytes of parameters, gathered by each device
SUMMED = 0.95e9  # bytes of their gradients; X-FM's on `data` are 0.94, all it has
ONE_LAYER = {
    "xfm": [f"--config.model.{stack}.layers=1" for stack in ("text", "vision", "fusion")],
    "ufm": ["--config.model.encoder.layers=1"],
}


def received(system, devices, axis, folder):
    """Bytes of a step's collectives by kind, and those that gather both teachers (12 layers).

    The configs compute in bfloat16, and so gather the kernels of layers. XLA's CPU compiler widens
    bfloat16, and sends twice what is used in both forms. So all is compiled in float32, and what is
    gathered of layers counts half: their biases and norms, which stay in float32, are a thousandth.
    """
    spec = f"xfm_base:chips={devices}" if system == "xfm" else "ufm_base"
    rows = PAIRS * devices
    batches = [f"--config.streams.{name}.batch_size={rows}" for name in ("image", "text")]
    sizes = {"data": 1, "fsdp": 1} | {axis: devices}
    command = [sys.executable, "-m", "tests.launched", "plan", f"--config={spec}"]
    command += [f"--topology=h100:8x{devices // 8}", "--compiler=cpu", "--no-search"]
    kept = folder / f"{devices}.json"
    command += [f"--json={kept}", "--config.model.dtype=float32"]
    command += [f"--config.mesh.{name}={size}" for name, size in sizes.items()]
    command += ONE_LAYER[system] + (batches if system == "ufm" else [])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plan, found = json.loads(kept.read_text())["plan"], collections.Counter()
    for each in plan["collectives"]:
        of_layers = each["origin"].split()[-1] in ("text", "vision", "fusion", "encoder")
        half = 2 if each["kind"] == "all-gather" and of_layers else 1
        found[each["kind"]] += each["bytes"] / half
    return found, plan["teachers"] * devices if axis == "fsdp" else 0


def itc(devices):
    """ITC's part: vectors of texts and images of two streams go to all devices."""
    return 2 * 2 * PAIRS * devices * PROJECTED


@pytest.mark.nightly  # each compiles a step of base width for so many devices
@pytest.mark.parametrize("axis", ["data", "fsdp"])
@pytest.mark.parametrize("system", ["xfm", "ufm"])
def test_S3_S4_at_base_width(system, axis, tmp_path):
    rest = []
    for devices in (8, 16):
        found, teachers = received(system, devices, axis, tmp_path)
        shared = itc(devices) if system == "xfm" else 0
        assert found["all-gather"] - shared - teachers <= BOUND[axis], found
        assert found["all-reduce"] - shared <= SUMMED, found
        rest.append(sum(found.values()) - 2 * shared)  # forwards, and backwards their gradients
    assert rest[1] == pytest.approx(rest[0], rel=0.02)
