"""A training run on the bad directory: it survives, and its log counts what the check counts."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests import one_device
from tests.doctor import bad_records
from unified_fm.config import file as config_file
from unified_fm.doctor import check, choosing

ROOT = pathlib.Path(__file__).parents[2]
ONE_DEVICE = os.environ | {"XLA_FLAGS": one_device.FLAGS, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
STREAMS = ("text", "image", "pairs", "regions")


@pytest.mark.nightly
def test_row_15_a_training_run_survives_with_the_counts_of_the_check(tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    written = bad_records.write(folder)
    changes = [f"streams.{name}.source={written.source}" for name in STREAMS]
    changes += [f"streams.{name}.max_skip=0.9" for name in STREAMS]
    changes += ["total_steps=10", "evaluate.at_end=False", "report=False", "log.tensorboard=False"]
    command = [sys.executable, "-m", "unified_fm.main", f"--workdir={tmp_path / 'run'}"]
    command += ["--config=xfm_base:smoke", *(f"--config.{change}" for change in changes)]
    run = subprocess.run(command, cwd=ROOT, env=ONE_DEVICE, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    settings = config_file.load("xfm_base:smoke", changes)
    streams = {name: entry.plain() for name, entry in settings.streams.items()}
    for name in STREAMS:
        job = choosing.job_of(written.source, streams, seed=settings.seed, stream=name)
        out = tmp_path / name
        check.check(job, out, processes=0, lengths=True, configured=True, quiet=True)
        made = json.loads((out / "check.json").read_text())
        dropped = sum(each["count"] for each in made["parts"]["dropped"].values())
        (line,) = re.findall(rf"stream '{name}', end of epoch 1: (.*)", run.stderr)
        found = re.match(r"(\d+) used, (\d+) skipped", line)
        assert found, line
        records = made["records"]
        assert [*map(int, found.groups())] == [records["used"], records["skipped"]], line
        counts = {reason: entry["count"] for reason, entry in made["skipped"].items()}
        for reason, count in counts.items():
            assert re.search(rf"[(,] ?{count} {re.escape(reason)}[,)]", line), (reason, line)
        parts = re.search(r"; (\d+) of \d+ parts dropped", line)
        assert (int(parts[1]) if parts else 0) == dropped, line
