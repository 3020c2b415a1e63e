"""Real processes that are killed at random, and the rules of the tool that does it at length."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests import one_device
from tools import chaos_attempt, chaos_faults

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"XLA_FLAGS": one_device.FLAGS, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def _save_and_die(folder, kills):
    command = [sys.executable, "-m", "tests.save_and_die", str(folder), str(kills), "0"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    latest = [int(line) for line in done.stdout.splitlines()]
    assert len(latest) == kills + 1
    assert latest == sorted(latest)
    assert latest[-1] >= kills / 2


@pytest.mark.slow
def test_row_01_killed_at_ten_random_points_of_a_save_the_latest_step_is_whole(tmp_path):
    _save_and_die(tmp_path, 10)


@pytest.mark.nightly
def test_row_01_killed_at_a_hundred_random_points_of_a_save_the_latest_step_is_whole(tmp_path):
    _save_and_die(tmp_path, 100)


@pytest.mark.slow
def test_row_03_sigterm_to_the_whole_process_group_saves_and_ends(tmp_path):
    command = [sys.executable, "-m", "unified_fm.main", f"--workdir={tmp_path}"]
    command += ["--config=tests/tiny_config.py:1000000", "--config.checkpoint.every=1000000"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, stderr=log, start_new_session=True
        )
    metrics = tmp_path / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 143, (tmp_path / "log").read_text()
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert chaos_faults.saved_steps(tmp_path) == [last]


def test_the_faults_of_a_seed_are_always_the_same_and_of_all_kinds():
    faults = [chaos_faults.Fault.drawn(f"0 {k}") for k in range(200)]
    assert faults == [chaos_faults.Fault.drawn(f"0 {k}") for k in range(200)]
    assert {fault.kind for fault in faults} == set(chaos_faults.CODES)
    assert {fault.phase for fault in faults} == set(chaos_faults.SHARES)
    assert set(chaos_faults.SHARES) == set(chaos_attempt.PHASES)


@pytest.mark.parametrize(
    ("kind", "code", "complete", "wrong"),
    [
        ("SIGKILL", 137, False, None),
        ("SIGTERM", 143, False, None),
        ("SIGTERM", 139, False, "exit 139, where 143 was to be"),
        ("SIGINT", 1, False, "exit 1, where 130 was to be"),
        ("SIGINT", 0, True, None),  # it had ended before
        ("SIGINT", 0, False, "exit 0, but the last step is not saved"),
        ("disk full a while", 0, True, None),
        ("disk full to the end", 1, False, None),
        ("disk full to the end", 0, False, "exit 0, but the last step is not saved"),
        (None, 1, True, "exit 1, where 0 was to be"),
    ],
)
def test_what_an_exit_code_may_be(kind, code, complete, wrong):
    assert chaos_faults.wrong_exit(kind, code, complete) == wrong


@pytest.mark.parametrize(
    ("kind", "again", "wrong"),
    [
        ("SIGKILL", 8, None),
        ("SIGKILL", 9, "9 steps were lost (at most 8)"),
        ("SIGTERM", 0, None),
        ("SIGTERM", 1, "1 steps were lost (at most 0)"),
        ("SIGTERM twice", 5, None),  # it saves nothing
        ("disk full to the end", 20, None),
    ],
)
def test_how_many_steps_may_be_lost(kind, again, wrong):
    fault = chaos_faults.Fault(kind, "step", 0.0, 0.0, 0.0)
    outcome = chaos_faults.Outcome(fault, 1, 1, "step", 0, 0.1, steps=20, again=again)
    assert chaos_faults.lost(outcome, every=4) == wrong
    assert chaos_faults.table([outcome]).splitlines()[1].split()[-3:] == [
        f"({again})",
        "0.10",
        "0.10",
    ]


def test_any_difference_between_two_ends_is_seen():
    end = {"params: a": "float32 (2,) 1234", "metrics.jsonl:1": "{}", "files": "config.json"}
    assert chaos_attempt.differences(dict(end), end) == []
    other = {"params: a": "float32 (2,) 1235", "metrics.jsonl:1": "{}", "train: b": "x"}
    assert chaos_attempt.differences(other, end) == [
        "params: a: float32 (2,) 1235, undisturbed float32 (2,) 1234",
        "files: None, undisturbed config.json",
        "train: b: x, undisturbed None",
    ]


@pytest.mark.parametrize(
    "strike",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.nightly),
        pytest.param(signal.SIGKILL, marks=pytest.mark.nightly),
    ],
)
def test_row_03_the_loaders_processes_end_with_the_run(tmp_path, strike):
    command = [sys.executable, "-m", "unified_fm.main", f"--workdir={tmp_path}"]
    command += ["--config=tests/tiny_config.py:1000000", "--config.checkpoint.every=1000000"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [*command, "--config.loader.processes=2"],
            cwd=ROOT,
            env=ENVIRONMENT,
            stderr=log,
            start_new_session=True,
        )
    metrics = tmp_path / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.01)
    workers = _children(process.pid)
    assert len(workers) == 2
    for pid in (process.pid, *workers):  # as a scheduler does that tells everybody
        os.kill(pid, strike if pid == process.pid or strike != signal.SIGKILL else signal.SIGTERM)
    codes = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
    assert process.wait(timeout=60) == codes[strike], (tmp_path / "log").read_text()
    deadline = time.monotonic() + 10
    while any(map(_lives, workers)):
        assert time.monotonic() < deadline, "a worker outlives the run"
        time.sleep(0.05)
    assert "WorkerFailed" not in (tmp_path / "log").read_text()
    if strike != signal.SIGKILL:
        last = json.loads(metrics.read_text().splitlines()[-1])["step"]
        assert chaos_faults.saved_steps(tmp_path) == [last]


def _children(pid):
    """The worker processes of a run."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == pid and "worker.serve" in command:
            found.append(int(folder.name))
    return found


def _lives(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
