"""Several real processes share an evaluation: each decodes its part, all know the whole."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import one_device
from tests.evaluators import apart
from tests.runtime.meeting import free_port

ROOT = pathlib.Path(__file__).parents[2]
ENV = os.environ | {"XLA_FLAGS": one_device.FLAGS, "PYTHONPATH": str(ROOT)}


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.nightly), 3])
def test_several_processes_measure_what_one_does_and_decode_each_a_part(count, tmp_path):
    together, single = str(tmp_path / "together"), tmp_path / "alone"
    port, run = free_port(), "from tests.evaluators import apart; apart.main"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"{run}({port}, {index}, {count}, {together!r})"],
            cwd=ROOT,
            env=ENV,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    alone = json.loads(json.dumps(apart.evaluate(single)))
    said = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, said
    found = [json.loads(out.splitlines()[-1]) for out, _ in said]

    assert alone["decoded"] == list(range(8))
    size = -(-8 // count)
    parts = [list(range(i * size, min((i + 1) * size, 8))) for i in range(count)]
    assert [one["decoded"] for one in found] == parts
    for one in found:
        assert one["metrics"].keys() == alone["metrics"].keys()
        for name, metric in alone["metrics"].items():
            assert one["metrics"][name] == [
                pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
                for value in metric
            ], name
    assert found[0]["shown"].keys() == alone["shown"].keys()
    assert found[0]["shown"]["retrieval"] == alone["shown"]["retrieval"]

    # A re-ranking keeps its chunks in one folder, each process its own, and goes on from them.
    for stem in ("retrieval-7", "retrieval-7-itc"):
        lines = [
            list(map(json.loads, (folder / "predictions" / f"{stem}.jsonl").open()))
            for folder in (single, tmp_path / "together")
        ]
        for one, other in zip(*lines, strict=True):
            assert one.pop("scores") == pytest.approx(other.pop("scores"), rel=1e-6)
        assert lines[0] == lines[1]
    firsts = [start for part in parts for start in part[::3]]
    names = ["features.npz", *(f"chunk_{first:05d}.npz" for first in firsts)]
    assert sorted(apart.chunks(together)) == sorted(names)
    for one in found:
        assert one["again"]["metrics"] == one["metrics"]
        assert one["again"]["kept"] == sorted({*names} - {"chunk_00000.npz"})


@pytest.mark.nightly
def test_a_run_whose_parameters_lie_on_several_processes_is_evaluated_as_on_one(tmp_path):
    flags = [f"--config={ROOT}/tests/tiny_config.py:1", "--config.optimizer.lr=0.0"]
    flags += ["--config.mesh.fsdp=2", "--config.rules.sharding=fsdp"]
    words = {"train_source": "synthetic:text:50", "num_examples": 21, "batch_size": 4}
    words |= {"source": "synthetic:text:30", "options": {"max_len": 16}, "name": "mlm"}
    held = {"name": "held_out", "like": "image", "source": "synthetic:image:30"}
    for name, entry in {"words": words, "held": held}.items():
        flags += [f"--config.evaluate.evaluators.{name}={entry}"]

    def start(name, *more, env):
        command = [sys.executable, "-m", "unified_fm.main", *flags, *more]
        with open(tmp_path / f"{name}.err", "w") as err:
            return subprocess.Popen(
                [*command, f"--workdir={tmp_path / name.rstrip('ab')}"], env=ENV | env, stderr=err
            )

    one = start("one", env={"XLA_FLAGS": "--xla_force_host_platform_device_count=2"})
    address = f"--coordinator=127.0.0.1:{free_port()}"
    two = [start(f"two{'ab'[i]}", address, f"--process={i}/2", env={}) for i in range(2)]
    ends = [process.wait(500) for process in (one, *two)]
    assert ends == [0, 0, 0], [file.read_text() for file in tmp_path.glob("*.err")]

    def measured(name):
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        return next(
            {key: value for key, value in line.items() if key.startswith(("words/", "held/"))}
            for line in lines
            if "words/accuracy" in line
        )

    alone = measured("one")
    assert {"words/cross_entropy", "held/image/mim", "held/image/mim/patches"} <= alone.keys()
    assert measured("two") == pytest.approx(alone, rel=1e-5)
