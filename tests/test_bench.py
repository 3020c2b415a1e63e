"""That the benchmark measures what it says; no timing is asserted."""

import pathlib

import pytest

from unified_fm.commands import bench
from unified_fm.config import file

CONFIG = str(pathlib.Path(__file__).parent / "tiny_config.py")


def test_it_reports_step_loader_and_comparison(capsys):
    flags = [f"--config={CONFIG}", "--steps=2", "--compare=optimizer.lr=0.5"]
    assert bench.main(flags, "bench") == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["device", "step", "flops", "utilisation", "loader", "compare"]
    assert lines["compare"].startswith("optimizer.lr=0.5: ")
    milliseconds = float(lines["step"].split()[0])
    samples = float(lines["step"].split()[2])
    batch = file.load(CONFIG).samples_per_step
    assert samples == pytest.approx(1e3 * batch / milliseconds, rel=0.05)


def test_a_wrong_comparison_is_refused_before_anything_is_measured(capsys):
    with pytest.raises(SystemExit) as end:
        bench.main([f"--config={CONFIG}", "--compare=optimizer.lrr=1"], "bench")
    assert end.value.code == 2
    assert "optimizer has no key 'lrr'" in capsys.readouterr().err
