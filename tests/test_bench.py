"""That the benchmark measures what it says; no timing is asserted."""

import pathlib

import pytest

from tools import bench
from unified_fm import main

CONFIG = f"--config={pathlib.Path(__file__).parent / 'tiny_config.py'}"


def test_it_reports_step_loader_and_comparison():
    table = bench.bench(["bench", CONFIG, "--steps=2", "--compare=optimizer.lr=0.5"])
    lines = dict(line.split(maxsplit=1) for line in table.splitlines())
    assert list(lines) == ["device", "step", "flops", "utilisation", "loader", "compare"]
    assert lines["compare"].startswith("optimizer.lr=0.5: ")
    milliseconds = float(lines["step"].split()[0])
    samples = float(lines["step"].split()[2])
    _, config = main.parse(["main", CONFIG, "--workdir=w"])
    batch = config.samples_per_step
    assert samples == pytest.approx(1e3 * batch / milliseconds, rel=0.05)


def test_a_wrong_comparison_is_refused_before_anything_is_measured():
    with pytest.raises(main.Refused, match="optimizer has no key 'lrr'"):
        bench.bench(["bench", CONFIG, "--compare=optimizer.lrr=1"])
